"""When something that waits is due, also after a clock that was far ahead was set back.

A wait is written as the instant of its end. If the clock was an hour ahead when it was written, and is right again, that instant is an hour
too far away, and nobody would look before. But nothing waits for longer than its own longest wait: what seems to is due.
"""

from __future__ import annotations

from datetime import datetime, timedelta


def is_due(at: datetime, now: datetime, *, longest: timedelta) -> bool:
    """Say whether a wait that ends at `at`, and was at most `longest` when it began, is over."""
    return at <= now or at - now > longest
