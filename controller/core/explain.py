"""Why did, or did not, a retraining happen: decisions, verdicts and history as an account that `retrainctl why` shows.

`explain_event`, `explain_run` and `explain_model` return the account as JSON, for programs; `render` turns it into lines for people.
Nothing is guessed: the chain's trace was written when it was decided. Only what was merely counted (an event that did not get past match or
`when`) is worked out anew, with the same `select` that the daemon uses, and the account says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from controller.core.conditions import event_scope
from controller.core.decide import Selection, select
from controller.core.episode import Episode
from controller.core.model import PERSON_ORIGIN, Champion, Event, Json
from controller.core.on import Leaf
from controller.core.policy import ModelSpec, Policy
from controller.core.shapes import (
    DecisionShape,
    EpisodeShape,
    EventShape,
    HeldShape,
    HistoryShape,
    JobShape,
    ModelShape,
    PromotionShape,
    RunShape,
    RunSummary,
    VerdictShape,
    VersionShape,
)

Tone = Literal["title", "heading", "good", "bad", "wait", "dim", "plain"]
#: Writes an instant (RFC 3339 text) for people.
Instant = Callable[[str], str]

MARKS: Mapping[str, str] = {
    "pass": "✓",
    "skip": "✗",
    "fail": "✗",
    "error": "!",
    "hold": "…",
    "over": "»",
    "note": "•",
    "inconclusive": "?",
}
_TONES: Mapping[str, Tone] = {
    "pass": "good",
    "skip": "bad",
    "fail": "bad",
    "error": "bad",
    "hold": "wait",
    "over": "dim",
    "note": "plain",
    "inconclusive": "wait",
}
_WORDS = {
    "FIRE": "fired",
    "HOLD": "held it",
    "SKIP": "let it go",
    "ERROR": "could not decide",
    "UNDECIDED": "has not decided yet",
}
_GOOD_ENDS = ("PROMOTED", "SUCCEEDED", "CHAMPION", "APPLIED", "SENT")
_BAD_ENDS = ("FAILED", "TIMED_OUT", "REJECTED", "LOST", "UNKNOWN", "DEAD", "CANCELLED", "SUPERSEDED", "UNDONE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of an account, for people."""

    text: str
    #: How deep it stands.
    indent: int = 0
    #: ✓ ✗ … and the like; empty for none.
    mark: str = ""
    tone: Tone = "plain"

    def __str__(self) -> str:
        mark = f"{self.mark} " if self.mark else ""
        return f"{'  ' * self.indent}{mark}{self.text}".rstrip()


# ----------------------------------------------------------------------------------------------------- accounts


def explain_event(
    shape: EventShape,
    event: Event,
    *,
    models: Iterable[ModelSpec],
    champions: Mapping[str, Champion],
    episode: Episode | None = None,
) -> dict[str, Json]:
    """Return the account of an event: which policies saw it, what each concluded, and what came of it.

    Policies without a decision on it are asked again, as they are configured now, the nearest miss first; `episode` is the one that
    the event belongs to.
    """
    runs = {run["id"]: run for run in shape["runs"]}
    decided = [_decided(decision, shape, runs) for decision in shape["decisions"]]
    known = {(decision["model"], decision["policy"]) for decision in shape["decisions"]}
    asked = [] if event.origin == PERSON_ORIGIN else _ask_again(event, models, champions, known, episode)
    return {
        "kind": "event",
        "id": shape["id"],
        "summary": _event_summary(shape, decided, asked),
        "event": {name: value for name, value in shape.items() if name not in ("decisions", "later", "held", "runs")},
        "policies": [*decided, *asked],
        "held": shape["held"],
        "later": shape["later"],
        "runs": shape["runs"],
    }


def explain_run(run: RunShape) -> dict[str, Json]:
    """Return the account of a run: its causes, the chain that fired, its jobs, the verdict, the promotion and its history."""
    return {"kind": "run", "id": run["id"], "summary": _run_summary(run), **run}


def explain_model(model: ModelShape, *, spec: ModelSpec | None) -> dict[str, Json]:
    """Return the account of a model: its champion and how it became that, what is held now, and the last decisions."""
    champion = model["champion"]
    crowned = None
    if champion is not None:
        crowned = next(
            (p for p in model["promotions"] if p["version_id"] == champion["id"] and p["state"] == "APPLIED"), None
        )
    return {
        "kind": "model",
        "id": model["name"],
        "summary": _model_summary(model, crowned),
        "promotion": crowned,
        "configured": spec is not None,
        "policies": sorted(spec.policies) if spec is not None else [],
        **model,
    }


def explain_policy(model: ModelShape, policy: str, decisions: Sequence[DecisionShape]) -> dict[str, Json]:
    """Return the account of a policy: what it holds now, what it counted only, and its last decisions, the newest first."""
    held = [entry for entry in model["held"] if entry["policy"] == policy]
    last = decisions[-1] if decisions else None
    said = f"last {_WORDS[last['kind']]}: {last['reason']}" if last else "has decided nothing yet"
    return {
        "kind": "policy",
        "id": f"{model['name']}/{policy}",
        "summary": f"policy {model['name']}/{policy} {said}",
        "held": held,
        "pauses": [p for p in model["pauses"] if p["scope"] != "policy" or p["target"] == f"{model['name']}/{policy}"],
        "tallies": [tally for tally in model["tallies"] if tally["policy"] == policy],
        "decisions": list(reversed(decisions)),
    }


def _decided(decision: DecisionShape, event: EventShape, runs: Mapping[str, RunSummary]) -> dict[str, Json]:
    run = runs.get(decision["run_id"] or "")
    return {
        **decision,
        "recomputed": False,
        "run": run,
        "became": _became(decision, event, run),
    }


def _became(decision: DecisionShape, event: EventShape, run: RunSummary | None) -> str:
    """Say in a sentence what came of a decision."""
    if run is not None:
        return _run_end(run)
    group = (decision["model"], decision["policy"], decision["key"])
    for held in event["held"]:
        if (held["model"], held["policy"], held["key"]) == group:
            return f"is held at {held['stage']} {_until(held['until'], held['waits_for'], _as_written)}"
    for other in event["later"]:
        if (other["model"], other["policy"], other["key"]) == group and other["id"] > decision["id"]:
            started = next((r for r in event["runs"] if r["id"] == other["run_id"]), None)
            return _run_end(started) if started is not None else f"{_WORDS[other['kind']]} later: {other['reason']}"
    return ""


def _run_end(run: RunSummary) -> str:
    why = f": {run['reason']}" if run["reason"] else ""
    return f"{run['id']} {'ended' if run['final'] else 'is'} {run['state']}{why}"


def _ask_again(
    event: Event,
    models: Iterable[ModelSpec],
    champions: Mapping[str, Champion],
    known: set[tuple[str, str]],
    episode: Episode | None,
) -> list[dict[str, Json]]:
    """Ask the first stages of every policy that wrote no decision, and put the nearest miss first."""
    asked: list[tuple[tuple[int, int], dict[str, Json]]] = []
    for spec in models:
        champion = champions.get(spec.name)
        scope = event_scope(event, model=spec.name, labels=spec.labels, champion=champion)
        for policy in spec.policies.values():
            if (spec.name, policy.name) in known or not isinstance(policy.on, Leaf):
                continue
            selection = select(policy, event, scope, episode=episode)
            asked.append((_nearness(policy, event, selection), _recomputed(policy, selection, event)))
    asked.sort(key=lambda entry: entry[0], reverse=True)
    return [account for _, account in asked]


def _nearness(policy: Policy, event: Event, selection: Selection) -> tuple[int, int]:
    """Order misses: the further down the chain the nearer, then by how many of the patterns fit."""
    passed = sum(line.outcome == "pass" for line in selection.trace)
    on = policy.on
    if not isinstance(on, Leaf):
        return passed, 0
    fits = [
        on.source is not None and on.source == event.origin,
        on.type is not None and on.type.matches(event.type),
        on.subject is not None and on.subject.matches(event.subject),
    ]
    return passed, sum(fits)


def _recomputed(policy: Policy, selection: Selection, event: Event) -> dict[str, Json]:
    last = selection.trace[-1] if selection.trace else None
    kind = {"pass": "UNDECIDED", "skip": "SKIP", "error": "ERROR"}[selection.outcome]
    reason = last.reason if last is not None else ""
    if kind == "UNDECIDED" and event.state != "PENDING":
        reason = "would let it pass as it is configured now; it was another one, or none, when the event was decided"
    return {
        "recomputed": True,
        "kind": kind,
        "model": policy.model,
        "policy": policy.name,
        "policy_version": policy.version,
        "key": selection.key,
        "stage": last.stage if last is not None else "match",
        "reason": reason,
        "trace": [
            {"stage": t.stage, "outcome": t.outcome, "reason": t.reason, "facts": dict(t.facts)}
            for t in selection.trace
        ],
        "run": None,
        "became": "",
    }


# ---------------------------------------------------------------------------------------------------- summaries


def _event_summary(
    shape: EventShape, decided: Sequence[Mapping[str, Json]], asked: Sequence[Mapping[str, Json]]
) -> str:
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
        return f"it started nothing: {last['model']}/{last['policy']} {_WORDS[last['kind']]} at {last['stage']}: {last['reason']}{ended}"
    if not asked:
        return "it started nothing: no policy listens to events"
    near = asked[0]
    if near["kind"] == "UNDECIDED":
        return f"it started nothing; {near['model']}/{near['policy']} {near['reason']}"
    return (
        f"it started nothing: no policy let it pass; the nearest was {near['model']}/{near['policy']}: {near['reason']}"
    )


def _run_summary(run: RunShape) -> str:
    if run["verdict"] is not None and run["state"] in ("REJECTED", "PROMOTED", "AWAITING_APPROVAL", "PROMOTING"):
        return f"{run['state']} ({run['cause']}): {run['verdict']['reason']}"
    why = f": {run['reason']}" if run["reason"] else ""
    return f"{run['state']} ({run['cause']}){why}"


def _model_summary(model: ModelShape, crowned: PromotionShape | None) -> str:
    champion = model["champion"]
    if champion is None:
        return "it has no champion yet"
    how = "" if crowned is None else f", {_crowned(crowned)}"
    held = (
        f"; automatic promotion is held: {model['held_reason'] or 'no reason given'}" if model["promotion_held"] else ""
    )
    return f"v{champion['number']} is champion{how}{held}"


def _crowned(promotion: PromotionShape) -> str:
    by = "" if promotion["actor"] == "controller" else f" by {promotion['actor']}"
    why = f" ({promotion['reason']})" if promotion["reason"] else ""
    words = {
        "promoted": "promoted",
        "override": "promoted over the gate's head",
        "rollback": "rolled back to",
        "adopted": "adopted",
    }
    source = f" from {promotion['run_id']}" if promotion["run_id"] else ""
    return f"{words[promotion['kind']]}{by}{source}{why}"


def _until(until: str | None, waits_for: str | None, instant: Instant) -> str:
    if until is not None:
        return f"until {instant(until)}"
    return f"until: {waits_for}" if waits_for else "until more come"


def _as_written(at: str) -> str:
    return f"{at[:10]} {at[11:19]}Z"


# ---------------------------------------------------------------------------------------------------- rendering


def render(account: Mapping[str, Json], *, instant: Instant = _as_written) -> list[Line]:
    """Return an account as lines for people; `instant` writes the times."""
    kinds: dict[str, Callable[[Any, Instant], Iterator[Line]]] = {
        "event": _render_event,
        "run": _render_run,
        "model": _render_model,
        "policy": _render_policy,
    }
    return list(kinds[account["kind"]](account, instant))


def _title(text: str) -> Line:
    return Line(text=text, tone="title")


def _heading(text: str) -> Line:
    return Line(text=text, tone="heading")


def _render_event(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    event = account["event"]
    subject = f" about {event['subject']}" if event["subject"] else ""
    yield _title(f"{event['id']}  {event['type']}{subject}")
    yield Line(text=account["summary"], tone=_event_tone(account))
    yield Line(text=f"from {event['origin']}: {event['source']} {event['source_id']}", indent=1, tone="dim")
    decided = f", decided {instant(event['decided_at'])}" if event["decided_at"] else ""
    yield Line(
        text=f"happened {instant(event['time'])}, received {instant(event['received_at'])}{decided}",
        indent=1,
        tone="dim",
    )
    if data := _values(event["data"]):
        yield Line(text=f"data: {data}", indent=1, tone="dim")
    if event["episode"] is not None:
        yield Line(text=episode_line(event["episode"], instant), indent=1, tone="dim")
    for policy in account["policies"]:
        yield from _render_policy_on_event(policy, instant)
    if not account["policies"]:
        yield Line(text="no policy of the configuration listens to events", indent=1)


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


def _event_tone(account: Mapping[str, Json]) -> Tone:
    if account["event"]["state"] == "DEAD":
        return "bad"
    return "good" if account["runs"] else "wait" if account["held"] else "plain"


def _render_policy_on_event(policy: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    key = f" [{policy['key']}]" if policy["key"] else ""
    again = "" if not policy["recomputed"] else "  (only counted then; asked again as configured now)"
    yield Line(text="")
    yield _heading(f"{policy['model']}/{policy['policy']}{key} {_WORDS[policy['kind']]}{again}")
    yield from _render_chain(policy["trace"])
    if policy["recomputed"] and policy["kind"] == "UNDECIDED":
        yield Line(text=policy["reason"], indent=1, mark="•")
    if policy["kind"] == "HOLD":
        yield Line(
            text=f"held {_until(policy['until'], policy['waits_for'], instant)}", indent=1, mark="…", tone="wait"
        )
    if policy["became"]:
        run = policy["run"]
        tone: Tone = "plain" if run is None else _state_tone(run["state"])
        yield Line(text=policy["became"], indent=1, mark="→", tone=tone)


def _render_chain(trace: Sequence[Mapping[str, Json]]) -> Iterator[Line]:
    width = max((len(line["stage"]) for line in trace), default=0)
    for line in trace:
        yield Line(
            text=f"{line['stage']:<{width}}  {line['reason']}",
            indent=1,
            mark=MARKS.get(line["outcome"], "•"),
            tone=_TONES.get(line["outcome"], "plain"),
        )


def _state_tone(state: str) -> Tone:
    return "good" if state in _GOOD_ENDS else "bad" if state in _BAD_ENDS else "wait"


def _values(data: Json, limit: int = 200) -> str:
    """Write a payload in one line, as far as it fits."""
    if data is None or data == {}:
        return ""
    pairs = data.items() if isinstance(data, Mapping) else ()
    text = ", ".join(f"{key}={_scalar(value)}" for key, value in pairs) or _scalar(data)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _scalar(value: Json) -> str:
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _render_run(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    run = cast("RunShape", account)
    key = f" [{run['key']}]" if run["key"] else ""
    yield _title(f"{run['id']}  {run['model']}, decided by {run['policy']}{key} {instant(run['decided_at'])}")
    yield Line(text=account["summary"], tone=_state_tone(run["state"]))
    yield from _render_causes(run, instant)
    yield from _render_decisions(run, instant)
    yield from _render_jobs(run["jobs"], instant)
    yield from _render_verdict(run["verdict"], run["champion"])
    yield from _render_promotions(run["promotions"], run["versions"], instant)
    if run["acts"]:
        yield Line(text="")
        yield _heading("what people did")
        for act in run["acts"]:
            reason = f": {act['reason']}" if act["reason"] else ""
            yield Line(text=f"{instant(act['at'])}  {act['actor']} {act['verb']}{reason}", indent=1, mark="•")
    yield from _render_history(run["history"], run, instant)


def _render_causes(run: RunShape, instant: Instant) -> Iterator[Line]:
    yield Line(text="")
    yield _heading(f"because of {_some(run['cause_count'], 'event')}")
    shown = run["causes"][:10]
    for cause in shown:
        subject = f" about {cause['subject']}" if cause["subject"] else ""
        own = f" ({cause['source']} {cause['source_id']})" if cause["source_id"] else ""
        name = f"{cause['event_id']}  " if cause["event_id"] else ""
        text = f"{name}{cause['type']} from {cause['origin']}{subject}, {instant(cause['time'])}{own}"
        yield Line(text=text, indent=1, mark="•")
    if run["cause_count"] > len(shown):
        yield Line(text=f"and {run['cause_count'] - len(shown)} more", indent=1, tone="dim")
    if (press := run["press"]) is not None:
        params = f", with {_values(press['params'])}" if press["params"] else ""
        yield Line(text=f"{press['actor']} pressed: {press['reason'] or 'no reason given'}{params}", indent=1, mark="•")


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _render_decisions(run: RunShape, instant: Instant) -> Iterator[Line]:
    earlier = [d for d in run["decisions"] if d["kind"] != "FIRE" and d["policy"] == run["policy"]]
    for decision in earlier[:2]:
        yield Line(text="")
        yield _heading(
            f"{decision['model']}/{decision['policy']} {_WORDS[decision['kind']]} {instant(decision['at'])}, on {decision['event_id']}"
        )
        yield from _render_chain(decision["trace"])
    if len(earlier) > 2:
        yield Line(text=f"and {_some(len(earlier) - 2, 'more event')} like it", indent=1, tone="dim")
    fired = [decision for decision in run["decisions"] if decision["kind"] == "FIRE"]
    for decision in fired[:5]:
        joined = "" if decision["id"] == run["decision_id"] else " joined it"
        yield Line(text="")
        yield _heading(f"{decision['model']}/{decision['policy']} fired{joined} {instant(decision['at'])}")
        yield from _render_chain(decision["trace"])
    if len(fired) > 5:
        yield Line(text=f"and {_some(len(fired) - 5, 'more decision')} joined it", indent=1, tone="dim")


def _render_jobs(jobs: Sequence[JobShape], instant: Instant) -> Iterator[Line]:
    if not jobs:
        return
    yield Line(text="")
    yield _heading("trained")
    for job in jobs:
        metrics = f"  {_values(job['metrics'])}" if job["metrics"] else ""
        reason = f": {job['reason']}" if job["reason"] else ""
        tone = _state_tone("PROMOTED" if job["state"] == "SUCCEEDED" else job["state"])
        mark = {"good": "✓", "bad": "✗"}.get(tone, "…")
        params = f" ({_values(job['params'], 80)})" if job["params"] else ""
        yield Line(text=f"{job['candidate']}{params} {job['state']}{reason}{metrics}", indent=1, mark=mark, tone=tone)
        for attempt in job["attempts"] if len(job["attempts"]) > 1 else ():
            end = attempt["reason"] or ("goes on" if attempt["finished_at"] is None else "ended")
            yield Line(
                text=f"attempt {attempt['number']}, {instant(attempt['launched_at'])}: {end}",
                indent=2,
                mark="•",
                tone="dim",
            )


def _render_verdict(verdict: VerdictShape | None, champion: VersionShape | None) -> Iterator[Line]:
    if verdict is None:
        return
    against = "no champion" if champion is None else f"champion v{champion['number']}"
    yield Line(text="")
    yield _heading(f"judged {verdict['outcome']}, challenger {verdict['challenger'] or 'none'} against {against}")
    width = max((len(line["rule"]) for line in verdict["lines"]), default=0)
    names = max((len(line["candidate"]) for line in verdict["lines"]), default=0)
    for line in verdict["lines"]:
        yield Line(
            text=f"{line['candidate']:<{names}}  {line['rule']:<{width}}  {line['text']}",
            indent=1,
            mark=MARKS.get(line["outcome"], "•"),
            tone=_TONES.get(line["outcome"], "plain"),
        )


def _render_promotions(
    promotions: Sequence[PromotionShape], versions: Sequence[VersionShape], instant: Instant
) -> Iterator[Line]:
    if not promotions and not versions:
        return
    yield Line(text="")
    yield _heading("versions and promotions")
    for version in versions:
        yield Line(
            text=f"v{version['number']} of {version['candidate'] or 'outside'} is {version['state']}: {version['artifact']}",
            indent=1,
            mark="•",
        )
    for promotion in reversed(promotions):
        by = "" if promotion["actor"] == "controller" else f" by {promotion['actor']}"
        why = f": {promotion['reason']}" if promotion["reason"] else ""
        text = f"{promotion['kind']}{by} {promotion['state']} {instant(promotion['finished_at'] or promotion['created_at'])}{why}"
        tone = _state_tone(promotion["state"])
        yield Line(text=text, indent=1, mark={"good": "✓", "bad": "✗"}.get(tone, "…"), tone=tone)
        for step in promotion["steps"]:
            why = f": {step['reason']}" if step["reason"] else ""
            yield Line(text=f"{step['promoter']} {step['state']}{why}", indent=2, mark="•", tone="dim")


def _render_history(history: Sequence[HistoryShape], run: RunShape, instant: Instant) -> Iterator[Line]:
    if not history:
        return
    names = {run["id"]: "run"}
    names |= {job["id"]: f"job {job['candidate']}" for job in run["jobs"]}
    names |= {version["id"]: f"v{version['number']}" for version in run["versions"]}
    shown = [row for row in history if row["machine"] != "step"]
    width = max((len(names.get(row["entity"], row["machine"])) for row in shown), default=0)
    yield Line(text="")
    yield _heading("history")
    for row in shown:
        actor = "" if row["actor"] == "controller" else f" by {row['actor']}"
        change = f"{row['origin']} → {row['target']}" if row["origin"] else row["target"]
        name = names.get(row["entity"], row["machine"])
        yield Line(
            text=f"{instant(row['at'])}  {name:<{width}}  {change} ({row['cause']}){actor}", indent=1, tone="dim"
        )


def _render_model(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    model = cast("ModelShape", account)
    yield _title(f"model {model['name']}" + ("" if account["configured"] else ", no longer configured"))
    yield Line(text=account["summary"], tone="good" if model["champion"] else "wait")
    if (champion := model["champion"]) is not None:
        if metrics := _values(champion["metrics"]):
            yield Line(text=metrics, indent=1, tone="dim")
        since = f", champion since {instant(champion['promoted_at'])}" if champion["promoted_at"] else ""
        yield Line(text=f"{champion['artifact']}{since}", indent=1, tone="dim")
    if model["promotion_held"]:
        until = _until(model["held_until"], "a person resumes", instant)
        yield Line(text=f"automatic promotion is held {until}", indent=1, mark="…", tone="wait")
    for pause in model["pauses"]:
        why = pause["reason"] or "no reason given"
        text = f"{pause['target'] or 'everything'} paused by {pause['actor']} {instant(pause['at'])}: {why}"
        yield Line(text=text, indent=1, mark="…", tone="wait")
    yield from _render_held(model["held"], instant)
    yield from _render_last_decisions(model["decisions"], instant)
    if model["runs"]:
        yield Line(text="")
        yield _heading("last runs")
    for run in model["runs"]:
        why = f": {run['reason']}" if run["reason"] else ""
        tone = _state_tone(run["state"])
        mark = {"good": "✓", "bad": "✗"}.get(tone, "…")
        yield Line(
            text=f"{run['id']}  {run['policy']}, {instant(run['decided_at'])}  {run['state']} ({run['cause']}){why}",
            indent=1,
            mark=mark,
            tone=tone,
        )


def _render_policy(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    yield _title(f"policy {account['id']}")
    yield Line(text=account["summary"])
    for pause in account["pauses"]:
        why = pause["reason"] or "no reason given"
        text = f"{pause['target'] or 'everything'} paused by {pause['actor']} {instant(pause['at'])}: {why}"
        yield Line(text=text, indent=1, mark="…", tone="wait")
    yield from _render_held(account["held"], instant)
    for tally in account["tallies"]:
        yield Line(
            text=f"{_some(tally['count'], 'event')} ended at {tally['outcome']}, only counted", indent=1, mark="•"
        )
    for decision in account["decisions"][:5]:
        yield Line(text="")
        yield _heading(f"{instant(decision['at'])} {_WORDS[decision['kind']]}")
        yield from _render_chain(decision["trace"])
        if decision["run_id"]:
            yield Line(text=decision["run_id"], indent=1, mark="→")


def _render_held(held: Sequence[HeldShape], instant: Instant) -> Iterator[Line]:
    if not held:
        return
    yield Line(text="")
    yield _heading("waits now")
    for entry in held:
        key = f" [{entry['key']}]" if entry["key"] else ""
        count = f", {_some(entry['count'], 'event')} held" if entry["count"] else ""
        until = _until(entry["until"], entry["waits_for"], instant)
        text = f"{entry['policy']}{key} at {entry['stage']} {until}{count}: {entry['reason']}"
        yield Line(text=text, indent=1, mark="…", tone="wait")


def _render_last_decisions(decisions: Sequence[DecisionShape], instant: Instant) -> Iterator[Line]:
    if not decisions:
        return
    yield Line(text="")
    yield _heading("last decision of each policy")
    tones = {"FIRE": "pass", "HOLD": "hold", "SKIP": "skip", "ERROR": "error"}
    for decision in decisions:
        key = f" [{decision['key']}]" if decision["key"] else ""
        run = f" → {decision['run_id']}" if decision["run_id"] else ""
        outcome = tones[decision["kind"]]
        where = "" if decision["kind"] == "FIRE" else f" at {decision['stage']}"
        said = f"{decision['policy']}{key} {_WORDS[decision['kind']]}{where}, {instant(decision['at'])}"
        yield Line(
            text=f"{said}: {decision['reason']}{run}",
            indent=1,
            mark=MARKS[outcome],
            tone=_TONES[outcome],
        )
