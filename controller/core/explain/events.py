"""The account of an event: what each policy concluded of it, what came of that, and what else it touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.core.explain.chains import chain_lines
from controller.core.explain.lines import (
    DID,
    Instant,
    Line,
    Tone,
    as_written,
    faint,
    heading,
    keyed,
    note,
    some,
    state_tone,
    title,
    until_text,
    values,
    waiting,
)
from controller.core.model import Json
from controller.core.shapes import DecisionShape, EpisodeShape, EventShape, RunSummary


def explain_event(
    shape: EventShape,
    *,
    asked: Sequence[Mapping[str, Json]] = (),
    left_out: int = 0,
    ahead: Sequence[Mapping[str, Json]] = (),
    touched: Mapping[str, Json] | None = None,
    at: str | None = None,
    unknown: Sequence[str] = (),
) -> dict[str, Json]:
    """Return the account of an event: which policies saw it, what each concluded, and what came of it.

    `asked` are those without a decision on it, asked again, the nearest miss first, and `left_out` how many others there are.
    `ahead` says of what holds it when that could fire, `touched` what else it did; `at` and `unknown` as in `why`.
    """
    touched = touched or {"windows": [], "joined": {}, "watches": [], "duplicates": 0}
    counts = {(each["model"], each["policy"], each["key"]) for each in touched["windows"] if each["stage"] is None}
    held = [entry for entry in shape["held"] if (entry["model"], entry["policy"], entry["key"]) not in counts]
    shape = {**shape, "held": held}
    runs = {run["id"]: run for run in shape["runs"]}
    decided = [_decided(decision, shape, runs) for decision in shape["decisions"]]
    return {
        "kind": "event",
        "id": shape["id"],
        "at": at,
        "unknown": list(unknown),
        "summary": _summary(shape, decided, asked),
        "event": {name: value for name, value in shape.items() if name not in ("decisions", "later", "held", "runs")},
        "policies": [*decided, *asked],
        "left_out": left_out,
        "held": held,
        "next": list(ahead),
        "later": shape["later"],
        "runs": shape["runs"],
        "touched": touched,
    }


def _decided(decision: DecisionShape, event: EventShape, runs: Mapping[str, RunSummary]) -> dict[str, Json]:
    run = runs.get(decision["run_id"] or "")
    return {**decision, "recomputed": False, "run": run, "became": _became(decision, event, run)}


def _became(decision: DecisionShape, event: EventShape, run: RunSummary | None) -> str:
    """Say in a sentence what came of a decision."""
    if run is not None:
        return _run_end(run)
    group = (decision["model"], decision["policy"], decision["key"])
    for held in event["held"]:
        if (held["model"], held["policy"], held["key"]) == group:
            return f"is held at {held['stage']} {until_text(held['until'], held['waits_for'], as_written)}"
    for other in event["later"]:
        if (other["model"], other["policy"], other["key"]) == group and other["id"] > decision["id"]:
            started = next((r for r in event["runs"] if r["id"] == other["run_id"]), None)
            return _run_end(started) if started is not None else f"{DID[other['kind']]} later: {other['reason']}"
    return ""


def _run_end(run: RunSummary) -> str:
    why = f": {run['reason']}" if run["reason"] else ""
    return f"{run['id']} {'ended' if run['final'] else 'is'} {run['state']}{why}"


def _summary(shape: EventShape, decided: Sequence[Mapping[str, Json]], asked: Sequence[Mapping[str, Json]]) -> str:
    if shape["state"] == "PENDING":
        return "it is stored, and waits to be decided on"
    if shape["state"] == "DEAD":
        return f"it is a dead letter: {shape['error']}"
    if shape["error"] and shape["state"] == "PROCESSED":
        ended = shape["history"][-1]["reason"] if shape["history"] else "dropped"
        return f"it could not be decided ({shape['error']}), and was given up: {ended}"
    if shape["runs"]:
        return "; ".join(f"it led to {_run_end(run)}" for run in shape["runs"])
    if shape["held"]:
        held = shape["held"][0]
        return f"it is held by {held['model']}/{held['policy']} at {held['stage']}: {held['reason']}"
    if decided:
        last = decided[-1]
        ended = f"; {last['became']}" if last["became"] else ""
        return (
            f"it started nothing: {last['model']}/{last['policy']} {DID[last['kind']]} "
            f"at {last['stage']}: {last['reason']}{ended}"
        )
    if shape["pruned_at"] is not None:
        return "it started nothing; which policy came nearest cannot be said any more, because its data were let go of"
    if not asked:
        return "it started nothing: no policy listens to events"
    near = asked[0]
    if near["kind"] in ("UNDECIDED", "OFF"):
        return f"it started nothing; {near['model']}/{near['policy']} {near['reason']}"
    return (
        f"it started nothing: no policy let it pass; the nearest was {near['model']}/{near['policy']}: {near['reason']}"
    )


# ---------------------------------------------------------------------------------------------------- for people


def event_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    """Yield the account of an event for people."""
    event = account["event"]
    subject = f" about {event['subject']}" if event["subject"] else ""
    yield title(f"{event['id']}  {event['type']}{subject}")
    yield Line(text=account["summary"], tone=_tone(account))
    if event["source_id"]:
        yield faint(f"from {event['origin']}: {event['source']} {event['source_id']}")
    decided = f", decided {instant(event['decided_at'])}" if event["decided_at"] else ""
    yield faint(f"happened {instant(event['time'])}, received {instant(event['received_at'])}{decided}")
    if data := values(event["data"]):
        yield faint(f"data: {data}")
    if event["pruned_at"]:
        what = "its data were" if event["source_id"] else "it was"
        yield note(f"{what} let go of {instant(event['pruned_at'])}; what was decided on it is kept for ever")
    if event["state"] == "DEAD":
        yield note("it is kept whole: `retrainctl dead replay` has it decided again, `dead drop` gives it up")
    for policy in account["policies"]:
        yield from _policy_lines(policy, instant)
    if account["left_out"]:
        yield Line(text="")
        yield faint(f"and {some(account['left_out'], 'other policy').replace('policys', 'policies')}, further from it")
    if not account["policies"] and not event["pruned_at"]:
        yield faint("no policy of the configuration listens to events")
    yield from _touched_lines(account, instant)


def episode_line(episode: EpisodeShape, instant: Instant) -> str:
    """Say in a line how the episode of an event stands."""
    if episode["event_id"] is None:
        return f"episode {episode['key']}: resolved {instant(str(episode['finished_at']))}, never seen firing"
    began = f"episode {episode['key']}: firing since {instant(episode['opened_at'])}, opened by {episode['event_id']}"
    seen = f"last seen {instant(episode['seen_at'])}"
    if episode["state"] == "OPEN":
        return f"{began}, {seen}"
    ended = "resolved" if episode["state"] == "RESOLVED" else f"{seen}, given up"
    return f"{began}, {ended} {instant(str(episode['finished_at']))}"


def _tone(account: Mapping[str, Json]) -> Tone:
    if account["event"]["state"] == "DEAD":
        return "bad"
    return "good" if account["runs"] else "wait" if account["held"] else "plain"


def _policy_lines(policy: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    name = keyed(f"{policy['model']}/{policy['policy']}", policy["key"])
    yield from heading(f"{name} {DID[policy['kind']]}")
    if policy["recomputed"]:
        of_what = "under the version of then" if policy["of_then"] else "as configured now"
        yield faint(f"only counted then; asked again {of_what}")
        if policy["leaf"]:
            yield faint(f"the nearest of its leaves is {policy['leaf']}:")
    yield from chain_lines(policy["trace"])
    if policy["recomputed"]:
        if policy["kind"] in ("UNDECIDED", "OFF"):
            yield note(policy["reason"])
        return
    if policy["kind"] == "HOLD":
        yield waiting(f"held {until_text(policy['until'], policy['waits_for'], instant)}")
    if policy["became"]:
        run = policy["run"]
        yield note(policy["became"], mark="→", tone="plain" if run is None else state_tone(run["state"]))


def _touched_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    if account["next"]:
        yield from heading("what could come of it at the earliest, if nothing else happens")
        for entry in account["next"]:
            yield from ahead_lines(entry, instant)
    found = list(_touched(account, instant))
    if found:
        yield from heading("what else it touched")
        yield from found


def ahead_lines(entry: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    """Yield what comes of what a policy holds, if nothing else happens."""
    forecast = entry["forecast"]
    name = keyed(entry["policy"], entry["key"])
    if forecast["outcome"] in ("fires", "observes"):
        steps = forecast["steps"]
        when = "at once" if entry["asked"] == "event" and len(steps) == 1 else instant(forecast["at"])
        yield note(f"{name}  {when}: {forecast['text']}", mark="→", tone="good")
    else:
        tone: Tone = "wait" if forecast["outcome"] in ("waits", "needs_event") else "plain"
        last_at = forecast["steps"][-1]["at"] if forecast["steps"] else entry["now"]
        later = f"from {instant(last_at)} it " if forecast["outcome"] == "waits" and last_at > entry["now"] else ""
        yield note(f"{name}  {later}{forecast['text']}", mark="…" if tone == "wait" else "•", tone=tone)
    holds = [step for step in forecast["steps"] if step["kind"] == "HOLD" and step["until"]]
    for step in holds:
        yield faint(f"{step['stage']} holds until {instant(step['until'])}: {step['reason']}", indent=3)


def _touched(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    event, touched = account["event"], account["touched"]
    if event["episode"] is not None:
        yield note(episode_line(event["episode"], instant))
    for window in touched["windows"]:
        name = keyed(f"{window['model']}/{window['policy']}", window["key"])
        where = f"is held at {window['stage']}" if window["stage"] else "counts, and nothing is held"
        yield note(f"{name}: it {where}; {some(window['count'], 'event')} in all")
    for run_id, decided_by in touched["joined"].items():
        yield note(f"{run_id}: it joined this run, which an earlier decision had queued ({decided_by})")
    for watch in touched["watches"]:
        yield note(_watch_text(watch))
    if touched["duplicates"]:
        origin = event["origin"]
        yield faint(
            f"whatever else has its source and id is this event, and is not stored again; "
            f"{origin} had {some(touched['duplicates'], 'duplicate')} so far"
        )


def _watch_text(watch: Mapping[str, Json]) -> str:
    did = "ended" if watch["state"] != "OPEN" else "counts in"
    why = f": {watch['reason']}" if watch["reason"] else f", {watch['samples']} of {watch['needed']} that say worse"
    return f"it {did} the watch of {watch['run_id']} ({watch['state']}){why}"
