"""Is the champion too old?

A level, not an edge: it stays true until the champion changes. Once it fired it is disarmed, until another version is champion
or `again_after` has passed since the run that it started ended.
A policy that only observes starts none: it is disarmed for `again_after`, and armed as soon as it is live.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from controller.core.chain import (
    Aftermath,
    Answer,
    Question,
    Rest,
    Stage,
    clock,
    from_micros,
    hold_for,
    hold_until,
    passed,
    span,
    to_micros,
)
from controller.core.nodes.finding import tamed
from controller.core.on import MaxAge
from controller.core.policy import Policy


def ask(question: Question) -> Answer | None:
    """Pass when the champion is at least `age` old, and this was not acted on yet."""
    on, champion = question.policy.on, question.facts.champion
    if not isinstance(on, MaxAge) or question.key:
        return None
    if champion is None:
        return hold_for("champion", "no champion yet, so it has no age")
    old_at = champion.promoted_at + on.age
    facts = {
        "champion": champion.number,
        "promoted_at": clock(champion.promoted_at),
        "max_age": span(on.age),
    }
    if question.now < old_at:
        return hold_until(
            old_at,
            f"champion v{champion.number} is {span(question.now - champion.promoted_at)} old, {span(on.age)} allowed",
            **facts,
        )
    observes = question.policy.mode == "observe"
    slot = question.slot or {}
    if slot.get("fired_for") == champion.version_id and (observes or "observed_at" not in slot):
        done_at = _done_at(question)
        if done_at is None:
            return hold_for("run", "it fired for this champion, and that run goes on", slot=slot, **facts)
        if question.now < done_at + on.again_after:
            said, since = ("would have fired", "that") if "observed_at" in slot else ("fired", "that run ended")
            return hold_until(
                done_at + on.again_after,
                f"it {said} for this champion; again {span(on.again_after)} after {since}",
                slot=slot,
                **facts,
            )
    answer = passed(
        f"champion v{champion.number} is {span(question.now - champion.promoted_at)} old, {span(on.age)} allowed",
        slot=question.slot,
        **facts,
    )
    mark = {"fired_for": champion.version_id}
    fired = Rest(slot=mark, waits_for="run")
    if observes:
        fired = Rest(slot=mark | {"observed_at": to_micros(question.now)}, due_at=question.now + on.again_after)
    rest = Rest(slot=question.slot, waits_for="run")
    return replace(answer, after=Aftermath(rest=rest, fired=fired))


def _done_at(question: Question) -> datetime | None:
    """Return when the run ended that the level started, or when it would have started one; None while that run goes on."""
    observed_at = (question.slot or {}).get("observed_at")
    if observed_at is None:
        return question.facts.last_ended_at
    return from_micros(tamed(observed_at, to_micros(question.now)))


def concerns(policy: Policy) -> bool:
    """Say whether a policy has it."""
    return isinstance(policy.on, MaxAge)


STAGE = Stage(name="max_age", ask=ask, remembers=True, concerns=concerns)
