"""How a level stands when the watch after a promotion is over: back, still beyond, or not known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from controller.core.chain import PolicyState
from controller.core.levels import has_levels, read_levels
from controller.core.on import AllOf, Leaf, Metric, On
from controller.core.policy import Policy
from controller.core.stages import metric, tree
from tests.factories import NOON, at, expression, make_event, make_leaf, make_max_age, make_policy, make_question

PROMOTED = at(hours=1)
DRIFT = Metric(agg="last", value=expression("event.data.share"), above=0.3, rearm=0.2)
AVERAGE = Metric(agg="avg", value=expression("event.data.share"), over=timedelta(hours=6), above=0.3)


def heard(policy: Policy, *values: tuple[float, float]) -> PolicyState:
    """Return what a policy remembers after values at so many hours after noon."""
    stage = metric if isinstance(policy.on, Leaf) else tree
    slot: Any = None
    for number, (hours, share) in enumerate(values, start=1):
        event = make_event(number, received_at=at(hours=hours), data={"share": share})
        answer = stage.ask(make_question(policy, event=event, slot=slot, now=at(hours=hours)))
        assert answer is not None
        slot = (answer.after.fired or answer.after.rest).slot if answer.outcome == "pass" else answer.slot
    return PolicyState(on_hash=policy.on_hash, slots={stage.STAGE.name: slot} if slot else {})


def stands(on: On, *values: tuple[float, float], hours: float = 25) -> list[str]:
    policy = make_policy(on, on_hash="h")
    readings = read_levels(policy, "", heard(policy, *values), since=PROMOTED, now=at(hours=hours))
    assert all(each.text for each in readings)
    return [each.stands for each in readings]


CASES: dict[str, tuple[Metric, list[tuple[float, float]], str]] = {
    "back": (DRIFT, [(0, 0.5), (2, 0.1)], "cleared"),
    "back at the very point": (DRIFT, [(0, 0.5), (2, 0.2)], "cleared"),
    "below its threshold, but not back": (DRIFT, [(0, 0.5), (2, 0.25)], "beyond"),
    "still beyond": (DRIFT, [(0, 0.5), (2, 0.4)], "beyond"),
    "back, and beyond again": (DRIFT, [(0, 0.5), (2, 0.1), (3, 0.4)], "beyond"),
    "measured before the promotion only": (DRIFT, [(0, 0.5), (0.5, 0.1)], "unknown"),
    "measured at the promotion": (DRIFT, [(0, 0.5), (1, 0.1)], "cleared"),
    "never measured": (DRIFT, [], "unknown"),
    "an average that is back": (AVERAGE, [(0, 0.5), (20, 0.1), (24, 0.2)], "cleared"),
    "an average whose window is empty": (AVERAGE, [(0, 0.5), (2, 0.1)], "unknown"),
    "below, and back": (Metric(agg="last", value=DRIFT.value, below=0.6), [(0, 0.5), (2, 0.6)], "cleared"),
    "below, and not back": (Metric(agg="last", value=DRIFT.value, below=0.6), [(0, 0.5), (2, 0.5)], "beyond"),
}


@pytest.mark.parametrize("asked, values, expected", CASES.values(), ids=CASES)
def test_how_a_level_stands(asked: Metric, values: list[tuple[float, float]], expected: str) -> None:
    """By its value at the end, where it re-arms is back, and only values since the promotion say anything."""
    assert stands(Leaf(type=None, metric=asked), *values) == [expected]


def test_the_levels_of_a_tree() -> None:
    """Each level of a tree is read for itself; what is no level is left out."""
    on = AllOf(parts=(Leaf(metric=DRIFT), make_leaf(type="alert"), make_max_age(), Leaf(metric=AVERAGE)))

    assert stands(on, (0, 0.5), (24, 0.25)) == ["beyond", "cleared"]


def test_a_policy_that_changed_is_not_known() -> None:
    """What another `on` remembered says nothing, and neither does nothing at all."""
    policy = make_policy(Leaf(metric=DRIFT), on_hash="h")
    state = heard(make_policy(Leaf(metric=DRIFT), on_hash="other"), (2, 0.1))

    assert [each.stands for each in read_levels(policy, "", state, since=NOON, now=at(hours=3))] == ["unknown"]
    assert [each.stands for each in read_levels(policy, "", None, since=NOON, now=at(hours=3))] == ["unknown"]


def test_what_has_levels() -> None:
    """Only metrics can be seen to clear: an age is cleared by any promotion."""
    assert has_levels(Leaf(metric=DRIFT))
    assert has_levels(AllOf(parts=(make_leaf(type="a"), Leaf(metric=DRIFT))))
    assert not has_levels(make_leaf(type="a"))
    assert not has_levels(make_max_age())
