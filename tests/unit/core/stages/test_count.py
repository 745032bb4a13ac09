"""`count` through the chain: what is late changes nothing, and what left the window is no cause of a later run."""

from __future__ import annotations

from tests.factories import NOON, at, make_event, make_leaf, make_policy, minutes
from tests.unit.core.driver import hear, said


def test_a_late_event_changes_nothing() -> None:
    """An event behind the window is recorded as late, and what was collected stays."""
    policy = make_policy(make_leaf(count=2, within=minutes(10)))
    first = hear(policy, make_event(1, received_at=at(minutes=30)))
    late = hear(policy, make_event(2, time=NOON, received_at=at(minutes=30)), first.state)

    assert said(late.decision) == ("SKIP", "count")
    assert late.causes == "none"
    assert late.state == first.state


def test_what_left_the_window_is_let_go() -> None:
    """Collected causes from before the window are no cause of a later run."""
    policy = make_policy(make_leaf(count=3, within=minutes(10)))
    state = None
    for number, minute in enumerate((0, 8, 15)):
        conclusion = hear(policy, make_event(number, received_at=at(minutes=minute)), state)
        state = conclusion.state

    assert conclusion.keep_since == at(minutes=8)
    assert conclusion.state.held_count == 2
