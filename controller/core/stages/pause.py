"""Has a person paused this policy, its model, or everything?"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, clock, hold_for


def ask(question: Question) -> Answer | None:
    """Hold until a person resumes; nothing that arrives meanwhile is lost."""
    if not question.facts.pauses:
        return None
    pause = question.facts.pauses[0]
    what = pause.target or "everything"
    return hold_for(
        "resume",
        f"{pause.actor} paused {what} at {clock(pause.at)}: {pause.reason or 'no reason given'}",
        scope=pause.scope,
        target=pause.target,
        actor=pause.actor,
    )


STAGE = Stage(name="pause", ask=ask)
