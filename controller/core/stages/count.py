"""Did enough matching events come within the window?

The window slides in event time: an event at `t` sees those in (t - within, t], so the older edge is exclusive.
Event time is clamped to [received - LATENESS, received]; an event that is older than the window is late, and opens nothing.
Only the newest `count` instants are kept, whatever arrives.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from controller.core.chain import (
    Aftermath,
    Answer,
    Question,
    Rest,
    Stage,
    from_micros,
    passed,
    span,
    to_micros,
)
from controller.core.model import Json
from controller.core.nodes.edges import slide
from controller.core.nodes.finding import LATENESS, event_time, micros, tamed
from controller.core.on import Leaf
from controller.core.policy import Policy

__all__ = ["LATENESS", "STAGE", "ask", "concerns", "event_time", "over_at"]


def ask(question: Question) -> Answer | None:
    """Pass when the window holds `count` events, or when what is held already passed here."""
    on, event = question.policy.on, question.event
    if not concerns(question.policy) or event is None or not isinstance(on, Leaf) or on.within is None:
        return None
    if question.held_at is not None:
        return passed(f"joins what is held at {question.held_at}", slot=question.slot)
    at, now = to_micros(event_time(event)), to_micros(question.now)
    known = sorted(tamed(instant, now) for instant in question.slot or ())
    window, is_late = slide(known, at, count=on.count, within=micros(on.within))
    seen: dict[str, Any] = {
        "count": len(window),
        "needed": on.count,
        "within": span(on.within),
        "key": question.key,
    }
    if len(window) >= on.count and not is_late:
        return passed(f"{on.count} within {span(on.within)}", slot=window, **seen)
    reason = f"{len(window)} of {on.count} within {span(on.within)}"
    if is_late:
        behind = timedelta(microseconds=known[-1] - at)
        reason = f"late: {span(behind)} behind the newest, window is {span(on.within)}"
    return Answer(
        outcome="skip",
        reason=reason,
        facts=seen,
        slot=window,
        after=Aftermath(
            keeps="causes",
            collects=not is_late,
            count=len(window),
            keeps_since=from_micros(window[0]),
            rest=Rest(slot=window, due_at=over_at(question.policy, window)),
        ),
    )


def concerns(policy: Policy) -> bool:
    """Say whether a policy has it."""
    on = policy.on
    return isinstance(on, Leaf) and on.within is not None and on.metric is None


def over_at(policy: Policy, slot: Json) -> datetime | None:
    """Return from when no event that may still come can see what is in the window; None when nothing is in it."""
    on = policy.on
    if not slot or not isinstance(on, Leaf) or on.within is None:
        return None
    return from_micros(max(slot)) + on.within + LATENESS


STAGE = Stage(name="count", ask=ask, concerns=concerns)
