"""Is the policy live, or does it only observe?

A policy that observes goes through the whole chain before this, so that its record says what it would have done.
One that is `off` never gets here: it is not asked at all.
"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, skipped


def ask(question: Question) -> Answer | None:
    """Skip when the policy only observes."""
    mode = question.policy.mode
    if mode == "live":
        return None
    if mode == "off":
        return skipped("the policy is off", mode=mode)
    return skipped("would have fired: every stage before this passed, and the policy only observes", mode=mode)


STAGE = Stage(name="mode", ask=ask, concerns=lambda policy: policy.mode != "live")
