"""Do source, type and subject fit?"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, passed, skipped
from controller.core.conditions import Scope
from controller.core.model import TEST_EVENT, Event
from controller.core.nodes.judge import fits
from controller.core.on import Leaf, On, traits
from controller.core.policy import Policy


def ask(question: Question) -> Answer | None:
    """Pass when every pattern that is given fits the event."""
    on, event = question.policy.on, question.event
    if event is None:
        return None
    if not isinstance(on, Leaf):
        return _any_leaf(on, event)
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


def _any_leaf(on: On, event: Event) -> Answer | None:
    """Pass when one leaf of a tree fits the event; without a leaf there is nothing to fit."""
    known = traits(on).leaves
    if not known:
        return None
    if event.type == TEST_EVENT:
        return skipped("it is a test of its source, which never starts anything")
    found = [path for path, leaf in known if fits(leaf, event)]
    if not found:
        return skipped(f"{event.type!r} from {event.origin!r} fits none of {len(known)} leaves")
    return passed(
        f"{event.type!r} from {event.origin!r} fits {', '.join(found)}",
        origin=event.origin,
        type=event.type,
        subject=event.subject,
        leaves=list(found),
    )


def admits(policy: Policy, event: Event, scope: Scope) -> bool:
    """Say whether `ask` would let the event pass."""
    del scope
    on = policy.on
    if not isinstance(on, Leaf):
        known = traits(on).leaves
        return not known or any(fits(leaf, event) for _, leaf in known)
    return (
        event.type != TEST_EVENT
        and (on.source is None or on.source == event.origin)
        and (on.type is None or on.type.matches(event.type))
        and (on.subject is None or on.subject.matches(event.subject))
    )


STAGE = Stage(name="match", ask=ask, admits=admits)
