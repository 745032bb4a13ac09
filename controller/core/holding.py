"""When a promotion waits: in quiet hours, and on days that a calendar closes.

The gatekeeper asks; a person who approves passes over it.
"""

from __future__ import annotations

from datetime import datetime

from controller.core.calendar import FURTHEST, closed_until
from controller.core.chain import clock
from controller.core.policy import PromotionHold
from controller.core.schedule import quiet_until


def promotion_held(hold: PromotionHold | None, now: datetime) -> tuple[datetime, str] | None:
    """Return until when promotions wait, and why; None when they do not wait now."""
    found = None if hold is None else _next(hold, now)
    if hold is None or found is None:
        return None
    until, why = found
    while until < now + FURTHEST and (more := _next(hold, until)) is not None:
        until = more[0]
    return until, f"{why}, until {clock(until)}"


def _next(hold: PromotionHold, at: datetime) -> tuple[datetime, str] | None:
    quiet = hold.quiet_hours
    if quiet is not None:
        until = quiet_until(at, between=quiet.between, timezone=quiet.timezone, days=quiet.days)
        if until is not None:
            return until, f"quiet hours {quiet.between} {quiet.timezone}"
    closed = closed_until(at, hold.calendars)
    return None if closed is None else (closed[0], f"closed by calendar {closed[1].name!r} ({closed[1].timezone})")
