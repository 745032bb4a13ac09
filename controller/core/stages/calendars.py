"""Is every named calendar open now?

A closed day holds, it never drops: what comes on a holiday is decided when the next open day begins, in the calendar's time zone.
"""

from __future__ import annotations

from controller.core.calendar import closed_until
from controller.core.chain import Answer, Question, Stage, clock, hold_until, passed


def ask(question: Question) -> Answer | None:
    """Pass on a day that no calendar closes; hold until the next such day begins."""
    calendars = question.policy.calendars
    if not calendars:
        return None
    names = ", ".join(calendar.name for calendar in calendars)
    closed = closed_until(question.now, calendars)
    if closed is None:
        return passed(f"open by {names}")
    until, closing = closed
    return hold_until(
        until,
        f"closed by {closing.name!r} ({closing.timezone}), until {clock(until)}",
        calendar=closing.name,
        timezone=closing.timezone,
    )


STAGE = Stage(name="calendars", ask=ask, concerns=lambda policy: bool(policy.calendars))
