"""Does the wall clock allow it now?"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, clock, hold_until, passed
from controller.core.schedule import quiet_until


def ask(question: Question) -> Answer | None:
    """Pass outside the quiet hours; hold until they end."""
    quiet = question.policy.quiet_hours
    if quiet is None:
        return None
    window = f"{quiet.between} {quiet.timezone}"
    until = quiet_until(question.now, between=quiet.between, timezone=quiet.timezone, days=quiet.days)
    if until is None:
        return passed(f"outside {window}")
    return hold_until(
        until,
        f"inside {window}, until {clock(until)}",
        between=quiet.between,
        timezone=quiet.timezone,
    )


STAGE = Stage(name="quiet_hours", ask=ask, concerns=lambda policy: policy.quiet_hours is not None)
