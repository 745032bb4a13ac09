"""The account of a model: its champion and how it became that, what is held and could come next, limits, and what goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from controller.core.explain.events import ahead_lines
from controller.core.explain.lines import (
    DID,
    MARKS,
    TONES,
    Instant,
    Line,
    Tone,
    faint,
    heading,
    keyed,
    note,
    some,
    state_mark,
    state_tone,
    title,
    until_text,
    values,
    waiting,
)
from controller.core.model import Json
from controller.core.policy import ModelSpec
from controller.core.shapes import DecisionShape, HeldShape, ModelShape, PromotionShape, RunSummary
from controller.core.watch_shapes import WatchShape, outcome_lines

_BY_KIND = {"FIRE": "pass", "HOLD": "hold", "SKIP": "skip", "ERROR": "error"}
_CROWNED = {
    "promoted": "promoted",
    "override": "promoted over the gate's head",
    "rollback": "rolled back to",
    "adopted": "adopted",
}


def explain_model(
    model: ModelShape,
    *,
    spec: ModelSpec | None,
    ahead: Sequence[Mapping[str, Json]] = (),
    limits: Sequence[Mapping[str, Json]] = (),
    left_out: int = 0,
    watched: Mapping[str, Json] | None = None,
    active: Sequence[RunSummary] = (),
    at: str | None = None,
    unknown: Sequence[str] = (),
) -> dict[str, Json]:
    """Return the account of a model: its champion and how it became that, what is held now, and the last decisions.

    `ahead` says of each policy and key what comes of it if nothing else happens, or if an event came; `limits` how budgets and breakers
    stand; `left_out` of how many neither is said; `watched` is the run behind the champion with its watch, `active` what goes on.
    """
    champion = model["champion"]
    crowned = None
    if champion is not None:
        crowned = next(
            (p for p in model["promotions"] if p["version_id"] == champion["id"] and p["state"] == "APPLIED"), None
        )
    return {
        "kind": "model",
        "id": model["name"],
        "at": at,
        "unknown": list(unknown),
        "summary": _summary(model, crowned, then=at is not None),
        "promotion": crowned,
        "configured": spec is not None,
        "policies": sorted(spec.policies) if spec is not None else [],
        "modes": {} if spec is None else {name: policy.mode for name, policy in sorted(spec.policies.items())},
        "next": list(ahead),
        "left_out": left_out,
        "limits": list(limits),
        "watched": watched,
        "active": list(active),
        **model,
    }


def _summary(model: ModelShape, crowned: PromotionShape | None, *, then: bool) -> str:
    champion = model["champion"]
    if champion is None:
        return "it had no champion" if then else "it has no champion yet"
    how = "" if crowned is None else f", {_crowned(crowned)}"
    held = (
        f"; automatic promotion is held: {model['held_reason'] or 'no reason given'}" if model["promotion_held"] else ""
    )
    return f"v{champion['number']} {'was' if then else 'is'} champion{how}{held}"


def _crowned(promotion: PromotionShape) -> str:
    by = "" if promotion["actor"] == "controller" else f" by {promotion['actor']}"
    why = f" ({promotion['reason']})" if promotion["reason"] else ""
    source = f" from {promotion['run_id']}" if promotion["run_id"] else ""
    return f"{_CROWNED[promotion['kind']]}{by}{source}{why}"


# ---------------------------------------------------------------------------------------------------- for people


def model_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    """Yield the account of a model for people."""
    model = cast("ModelShape", account)
    gone = ", not configured then" if account["at"] else ", no longer configured"
    yield title(f"model {model['name']}" + ("" if account["configured"] else gone))
    yield Line(text=account["summary"], tone="good" if model["champion"] else "wait")
    yield from _champion_lines(account, instant)
    if model["promotion_held"]:
        until = f"until {instant(model['held_until'])}" if model["held_until"] else "until a person resumes"
        yield waiting(f"automatic promotion is held {until}")
    yield from pause_lines(account, instant)
    for name, mode in account["modes"].items():
        if mode != "live":
            words = "it decides and records, but starts nothing" if mode == "observe" else "it is not asked"
            yield note(f"policy {name} is {mode}: {words}")
    yield from _run_lines("goes on now", account["active"], instant)
    yield from held_lines(model["held"], instant, then=account["at"] is not None)
    yield from _next_lines(account, instant)
    yield from limit_lines(account["limits"], instant)
    yield from _decision_lines(model["decisions"], instant)
    yield from _run_lines("last runs", [run for run in model["runs"] if run["final"] or account["at"]], instant)


def _champion_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    champion = account["champion"]
    if champion is None:
        return
    if metrics := values(champion["metrics"]):
        yield faint(metrics)
    since = f", champion since {instant(champion['promoted_at'])}" if champion["promoted_at"] else ""
    yield faint(f"{champion['artifact']}{since}")
    if (watched := account["watched"]) is not None:
        for text, mark, tone in outcome_lines(watched, instant):
            yield note(text, mark=mark, tone=cast("Tone", tone))


def pause_lines(account: Mapping[str, Any], instant: Instant) -> Iterator[Line]:
    """Yield who paused what."""
    for pause in account["pauses"]:
        why = pause["reason"] or "no reason given"
        yield waiting(f"{pause['target'] or 'everything'} paused by {pause['actor']} {instant(pause['at'])}: {why}")


def held_lines(held: Sequence[HeldShape], instant: Instant, *, then: bool = False) -> Iterator[Line]:
    """Yield what policies hold."""
    if not held:
        return
    yield from heading("waited then" if then else "waits now")
    for entry in held:
        count = f", {some(entry['count'], 'event')} held" if entry["count"] else ""
        until = until_text(entry["until"], entry["waits_for"], instant)
        name = keyed(entry["policy"], entry["key"])
        yield Line(
            text=f"{name} at {entry['stage']} {until}{count}: {entry['reason']}",
            indent=1,
            mark=MARKS["hold"],
            tone="wait",
            hang=2,
        )


def _next_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    held = [entry for entry in account["next"] if entry["asked"] == "held"]
    tried = [entry for entry in account["next"] if entry["asked"] == "event"]
    if held:
        yield from heading("what could come next, if nothing else happens")
        for entry in held:
            yield from ahead_lines(entry, instant)
    if tried:
        yield from heading("if an event that matches came now (decided on a copy)")
        for entry in tried:
            yield from ahead_lines(entry, instant)
    if account["left_out"]:
        yield faint(f"and {account['left_out']} more; see `retrainctl why {account['id']}/POLICY`")


def limit_lines(limits: Sequence[Mapping[str, Json]], instant: Instant) -> Iterator[Line]:
    """Yield how budgets and breakers stand."""
    shown = [limit for limit in limits if limit["budget"] is not None or limit["breaker"] is not None]
    if not shown:
        return
    yield from heading("limits")
    for limit in shown:
        name = keyed(limit["policy"], limit["key"])
        if (budget := limit["budget"]) is not None:
            yield _budget_line(name, budget, instant)
        if (breaker := limit["breaker"]) is not None:
            yield _breaker_line(name, breaker)


def _budget_line(name: str, budget: Mapping[str, Json], instant: Instant) -> Line:
    back = f"; the next comes back {instant(budget['next_back_at'])}" if budget["next_back_at"] else ""
    enough = f", enough for a run {instant(budget['enough_at'])}" if budget["enough_at"] else ""
    text = (
        f"{name}  budget: {budget['left']:g} of {budget['limit']:g} {budget['unit']} left "
        f"within {budget['per']} ({budget['scope']}){back}{enough}"
    )
    is_spent = budget["enough_at"] is not None
    return note(text, mark=MARKS["hold" if is_spent else "pass"], tone="wait" if is_spent else "plain", hang=2)


def _breaker_line(name: str, breaker: Mapping[str, Json]) -> Line:
    is_open = breaker["state"] == "open"
    latest = f", latest {breaker['runs'][0]}" if breaker["runs"] else ""
    text = f"{name}  breaker {breaker['state']}: {breaker['unhelpful']} in a row did not help, {breaker['after']} open it{latest}"
    return note(text, mark=MARKS["hold" if is_open else "pass"], tone="wait" if is_open else "plain", hang=2)


def _decision_lines(decisions: Sequence[DecisionShape], instant: Instant) -> Iterator[Line]:
    if not decisions:
        return
    yield from heading("last decision of each policy")
    for decision in decisions:
        run = f" → {decision['run_id']}" if decision["run_id"] else ""
        outcome = _BY_KIND[decision["kind"]]
        where = "" if decision["kind"] == "FIRE" else f" at {decision['stage']}"
        name = keyed(decision["policy"], decision["key"])
        yield Line(
            text=f"{name} {DID[decision['kind']]}{where}, {instant(decision['at'])}: {decision['reason']}{run}",
            indent=1,
            mark=MARKS[outcome],
            tone=TONES[outcome],
            hang=2,
        )


def _run_lines(name: str, runs: Sequence[RunSummary], instant: Instant) -> Iterator[Line]:
    if not runs:
        return
    yield from heading(name)
    for run in runs:
        why = f": {run['reason']}" if run["reason"] else ""
        yield Line(
            text=f"{run['id']}  {run['policy']}, {instant(run['decided_at'])}  {run['state']} ({run['cause']}){why}",
            indent=1,
            mark=state_mark(run["state"]),
            tone=state_tone(run["state"]),
            hang=2,
        )


def watched_run(run: Mapping[str, Json]) -> dict[str, Json]:
    """Return what of a run says whether its promotion helped."""
    watch: WatchShape | None = run["watch"]
    return {"id": run["id"], "watch": watch, "outcome": run["outcome"], "outcome_reason": run["outcome_reason"]}
