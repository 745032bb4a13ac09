"""Did enough matching events come within the window?

The window slides in event time: an event at `t` sees those in (t - within, t], so the older edge is exclusive.
Event time is clamped to [received - LATENESS, received]; an event that is older than the window is counted late and opens nothing.
Only the newest `count` instants are kept, whatever arrives.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from controller.core.chain import (
    Answer,
    Question,
    Stage,
    from_micros,
    passed,
    skipped,
    span,
    to_micros,
)
from controller.core.model import Event
from controller.core.on import Leaf

#: How far an event's own time may lie behind our receiving it.
LATENESS = timedelta(hours=1)


def ask(question: Question) -> Answer | None:
    """Pass when the window holds `count` events, or when what is held already passed here."""
    on, event = question.policy.on, question.event
    if not isinstance(on, Leaf) or on.within is None or event is None:
        return None
    if question.held_at is not None:
        return passed(f"joins what is held at {question.held_at}", slot=question.slot)
    at = to_micros(event_time(event))
    within = on.within // timedelta(microseconds=1)
    known: list[int] = question.slot or []
    newest = max([at, *known])
    window = sorted(instant for instant in [*known, at] if instant > newest - within)[-on.count :]
    seen: dict[str, Any] = {
        "count": len(window),
        "needed": on.count,
        "within": span(on.within),
        "key": question.key,
    }
    if at <= newest - within:
        return skipped(
            f"late: {span(from_micros(newest) - from_micros(at))} behind the newest, window is {span(on.within)}",
            slot=window,
            **seen,
        )
    if len(window) < on.count:
        return skipped(
            f"{len(window)} of {on.count} within {span(on.within)}",
            slot=window,
            collects=True,
            **seen,
        )
    return passed(f"{on.count} within {span(on.within)}", slot=window, **seen)


def event_time(event: Event) -> datetime:
    """Return when the event counts as having happened."""
    return min(max(event.time, event.received_at - LATENESS), event.received_at)


STAGE = Stage(name="count", ask=ask)
