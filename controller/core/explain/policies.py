"""The account of a policy: its chain as configured, what it holds and remembers, its last decisions, and what would come next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.core.explain.chains import chain_lines, node_lines
from controller.core.explain.configured import beside, configured, configured_lines
from controller.core.explain.events import ahead_lines
from controller.core.explain.forecast import Forecast
from controller.core.explain.lines import (
    DID,
    Instant,
    Line,
    faint,
    heading,
    keyed,
    note,
    some,
    title,
    until_text,
    waiting,
)
from controller.core.explain.models import held_lines, limit_lines, pause_lines
from controller.core.explain.remembered import limits, remembered
from controller.core.explain.standing import Standing, written
from controller.core.model import Json
from controller.core.policy import Policy
from controller.core.shapes import DecisionShape, HeldShape, PauseShape, TallyShape

#: Decisions that are shown with their chains, of a policy and of one key.
_MOST_CHAINS = 3


def explain_policy(
    name: str,
    decisions: Sequence[DecisionShape],
    *,
    policy: Policy | None,
    in_force: Mapping[str, Json] | None = None,
    held: Sequence[HeldShape] = (),
    pauses: Sequence[PauseShape] = (),
    tallies: Sequence[TallyShape] = (),
    keys: Sequence[Mapping[str, Json]] = (),
    key_count: int = 0,
    key: Mapping[str, Json] | None = None,
    ahead: Sequence[Mapping[str, Json]] = (),
    at: str | None = None,
    unknown: Sequence[str] = (),
) -> dict[str, Json]:
    """Return the account of a policy: its chain, what it holds now, what it counted only, and its last decisions, the newest first.

    `in_force` says which version it is and since when, `keys` what it remembers for each of the newest keys, `key` one of them in full.
    """
    last = decisions[-1] if decisions else None
    said = f"it last {DID[last['kind']]}: {last['reason']}" if last else "it has decided nothing yet"
    return {
        "kind": "policy",
        "id": name,
        "at": at,
        "unknown": list(unknown),
        "summary": said,
        "configured": policy is not None,
        "mode": None if policy is None else policy.mode,
        "in_force": in_force,
        "chain": [] if policy is None else configured(policy),
        "beside": [] if policy is None else beside(policy),
        "held": list(held),
        "pauses": list(pauses),
        "keys": list(keys),
        "key_count": key_count,
        "key": key,
        "next": list(ahead),
        "tallies": list(tallies),
        "decisions": list(reversed(decisions)),
    }


def key_account(standing: Standing) -> dict[str, Json]:
    """Return what a policy remembers for one key, in full, and how its limits stand."""
    state = standing.state
    return {
        "key": standing.key,
        "stage": None if state is None else state.stage,
        "held_since": None if state is None or state.held_since is None else written(state.held_since),
        "until": None if state is None or state.due_at is None else written(state.due_at),
        "waits_for": None if state is None else state.waits_for,
        "updated_at": None if standing.updated_at is None else written(standing.updated_at),
        "cause_count": standing.cause_count,
        "causes": [
            {
                "event_id": cause.event_id,
                "type": cause.type,
                "origin": cause.origin,
                "subject": cause.subject,
                "time": written(cause.time),
            }
            for cause in standing.causes
        ],
        **remembered(standing),
        "limits": {"policy": standing.policy.name, "key": standing.key, **limits(standing)},
    }


def ahead_of(standing: Standing, forecast: Forecast, *, asked: str) -> dict[str, Json]:
    """Return what comes of what a policy holds for a key (`held`), or of an event that came now (`event`)."""
    tried = standing.last_event.id if asked == "event" and standing.last_event is not None else None
    return {
        "model": standing.policy.model,
        "policy": standing.policy.name,
        "key": standing.key,
        "asked": asked,
        "now": written(standing.now),
        #: The event that stands for the one that came now; null for one made of what a leaf asks for.
        "like": tried,
        "forecast": forecast.shown(),
    }


# ---------------------------------------------------------------------------------------------------- for people


def policy_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    """Yield the account of a policy for people."""
    mode = account["mode"]
    shown = "" if mode in (None, "live") else f", {mode}"
    gone = ", not configured then" if account["at"] else ", no longer configured"
    yield title(f"policy {account['id']}{shown}{'' if account['configured'] else gone}")
    yield Line(text=account["summary"])
    if (in_force := account["in_force"]) is not None:
        of = f", of configuration {in_force['config_version']}" if in_force["config_version"] else ""
        since = f", in force since {instant(in_force['since'])}" if in_force["since"] else ""
        yield faint(f"version {in_force['version']}{since}{of}")
    if mode == "off":
        yield waiting("it is off: no event and no timer is asked of it")
    if mode == "observe":
        yield waiting("it only observes: it decides and records, but starts nothing")
    yield from pause_lines(account, instant)
    if account["chain"]:
        yield from heading("its chain: the first that does not pass gives the reason")
        yield from configured_lines(account["chain"])
        for text in account["beside"]:
            yield faint(text)
    yield from _state_lines(account, instant)
    yield from _next_lines(account, instant)
    yield from _tally_lines(account)
    yield from _decision_lines(account, instant)


def _state_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    if (key := account["key"]) is not None:
        yield from _key_lines(key, instant)
        yield from limit_lines([key["limits"]], instant)
        return
    if account["at"] is not None:
        yield from held_lines(account["held"], instant, then=True)
        return
    if not account["keys"]:
        return
    count, shown = account["key_count"], account["keys"]
    newest = f", the newest {len(shown)} of {count:,}" if count > len(shown) else ""
    yield from heading(f"what it remembers, by key{newest}")
    for entry in shown:
        yield _key_line(entry, instant)
    if any(entry["key"] for entry in shown):
        yield faint("one of them in full: --key KEY")


def _key_line(entry: Mapping[str, Json], instant: Instant) -> Line:
    name = entry["key"] or "(no key)"
    if entry["stage"] is not None:
        until = until_text(entry["until"], entry["waits_for"], instant)
        return Line(
            text=f"{name}  holds {some(entry['count'], 'event')} at {entry['stage']} {until}: {entry['reason']}",
            indent=1,
            mark="…",
            tone="wait",
            hang=2,
        )
    collected = f"has collected {some(entry['count'], 'event')}, holds nothing" if entry["count"] else "holds nothing"
    looks = f", looks again {instant(entry['until'])}" if entry["until"] else ""
    return note(f"{name}  {collected}{looks}; last changed {instant(entry['updated_at'])}", hang=2)


def _key_lines(key: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    name = f" for {key['key']!r}" if key["key"] else ""
    changed = f", last changed {instant(key['updated_at'])}" if key["updated_at"] else ""
    yield from heading(f"what it remembers{name}{changed}")
    for text in key["words"]:
        yield note(text, hang=2)
    if key["stage"] is not None:
        yield waiting(until_text(key["until"], key["waits_for"], instant))
    yield from node_lines(key["nodes"], indent=2)
    for cause in key["causes"]:
        subject = f" about {cause['subject']}" if cause["subject"] else ""
        yield faint(
            f"{cause['event_id']}  {cause['type']} from {cause['origin']}{subject}, {instant(cause['time'])}", indent=2
        )
    if key["cause_count"] > len(key["causes"]):
        yield faint(f"and {key['cause_count'] - len(key['causes']):,} older ones", indent=2)


def _next_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    held = [entry for entry in account["next"] if entry["asked"] == "held"]
    tried = [entry for entry in account["next"] if entry["asked"] == "event"]
    if held:
        yield from heading("what comes of it, if nothing else happens")
        for entry in held:
            yield from ahead_lines(entry, instant)
    for entry in tried:
        like = f"like {entry['like']}" if entry["like"] else "that matches"
        yield from heading(f"if an event {like} came now (decided on a copy, nothing is written)")
        yield from ahead_lines(entry, instant)
        if entry["forecast"]["steps"]:
            yield from chain_lines(entry["forecast"]["steps"][0]["trace"], indent=2)


def _tally_lines(account: Mapping[str, Json]) -> Iterator[Line]:
    if not account["tallies"]:
        return
    yield from heading("events that only count: they ended at its first stages")
    for tally in account["tallies"]:
        yield note(f"{some(tally['count'], 'event')} ended at {tally['outcome']}, only counted")


def _decision_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    decisions = account["decisions"]
    for decision in decisions[:_MOST_CHAINS]:
        on = f", on {decision['event_id']}" if decision["event_id"] else ", by a timer"
        yield from heading(f"{instant(decision['at'])} {keyed(DID[decision['kind']], decision['key'])}{on}")
        yield from chain_lines(decision["trace"])
        if decision["run_id"]:
            yield note(decision["run_id"], mark="→")
    rest = decisions[_MOST_CHAINS:]
    if rest:
        yield from heading("before that")
    for decision in rest:
        where = "" if decision["kind"] == "FIRE" else f" at {decision['stage']}"
        run = f" → {decision['run_id']}" if decision["run_id"] else ""
        said = keyed(f"{DID[decision['kind']]}{where}", decision["key"])
        yield Line(text=f"{instant(decision['at'])}  {said}: {decision['reason']}{run}", indent=1, tone="dim", hang=2)
