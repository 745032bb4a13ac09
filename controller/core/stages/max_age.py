"""Is the champion too old?

A level, not an edge: it stays true until the champion changes. Once it fired it is disarmed, until another version is champion
or `again_after` has passed since the run that it started ended.
"""

from __future__ import annotations

from dataclasses import replace

from controller.core.chain import (
    Aftermath,
    Answer,
    Question,
    Rest,
    Stage,
    clock,
    hold_for,
    hold_until,
    passed,
    span,
)
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
    if (question.slot or {}).get("fired_for") == champion.version_id:
        ended_at = question.facts.last_ended_at
        if ended_at is None:
            return hold_for(
                "run",
                "it fired for this champion, and that run goes on",
                slot=question.slot,
                **facts,
            )
        if question.now < ended_at + on.again_after:
            return hold_until(
                ended_at + on.again_after,
                f"it fired for this champion; again {span(on.again_after)} after that run ended",
                slot=question.slot,
                **facts,
            )
    answer = passed(
        f"champion v{champion.number} is {span(question.now - champion.promoted_at)} old, {span(on.age)} allowed",
        slot=question.slot,
        **facts,
    )
    fired = Rest(slot={"fired_for": champion.version_id}, waits_for="run")
    rest = Rest(slot=question.slot, waits_for="run")
    return replace(answer, after=Aftermath(rest=rest, fired=fired))


def concerns(policy: Policy) -> bool:
    """Say whether a policy has it."""
    return isinstance(policy.on, MaxAge)


STAGE = Stage(name="max_age", ask=ask, remembers=True, concerns=concerns)
