"""Do source, type and subject fit?"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, passed, skipped
from controller.core.conditions import Scope
from controller.core.model import TEST_EVENT, Event
from controller.core.on import Leaf
from controller.core.policy import Policy


def ask(question: Question) -> Answer | None:
    """Pass when every pattern that is given fits the event."""
    on, event = question.policy.on, question.event
    if not isinstance(on, Leaf) or event is None:
        return None
    if event.type == TEST_EVENT:
        return skipped("it is a test of its source, which never starts anything")
    if on.source is not None and on.source != event.origin:
        return skipped(f"source is {event.origin!r}, not {on.source!r}")
    if on.type is not None and not on.type.matches(event.type):
        return skipped(f"type {event.type!r} does not fit {on.type.text!r}")
    if on.subject is not None and not on.subject.matches(event.subject):
        return skipped(f"subject {event.subject!r} does not fit {on.subject.text!r}")
    return passed(
        f"{event.type!r} from {event.origin!r}",
        origin=event.origin,
        type=event.type,
        subject=event.subject,
    )


def admits(policy: Policy, event: Event, scope: Scope) -> bool:
    """Say whether `ask` would let the event pass."""
    del scope
    on = policy.on
    return not isinstance(on, Leaf) or (
        event.type != TEST_EVENT
        and (on.source is None or on.source == event.origin)
        and (on.type is None or on.type.matches(event.type))
        and (on.subject is None or on.subject.matches(event.subject))
    )


STAGE = Stage(name="match", ask=ask, admits=admits)
