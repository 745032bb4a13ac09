"""The edges of windows: which is inclusive, when one begins, what is late, and what a clock that jumps changes."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.on import Absent, AllOf, InSequence, Node
from tests.factories import NOON, at, make_champion, make_leaf, make_max_age, make_metric, make_policy, minutes
from tests.unit.core.story import Story

HOUR = minutes(60)
A, B = make_leaf(type="a"), make_leaf(type="b")
TWO_A = make_leaf(type="a", count=2, within=minutes(10))
#: A count that is true only together with an event b.
COUNT = AllOf(parts=(TWO_A, B))
ORDER = InSequence(steps=(A, B), within=minutes(10))

#: (received, happened) in minutes after noon, and the type; and whether it fired at last.
EDGES: dict[str, tuple[Node, list[tuple[float, float, str]], bool]] = {
    "count: both inside": (COUNT, [(0, 0, "a"), (1, 1, "a"), (9.9, 9.9, "b")], True),
    "count: the first on the older edge, which is exclusive": (COUNT, [(0, 0, "a"), (1, 1, "a"), (10, 10, "b")], False),
    "count: by event time, nothing later has closed the window": (COUNT, [(0, 0, "a"), (1, 1, "a"), (12, 2, "b")], True),
    "count: a late event does not open a window again": (COUNT, [(0, 0, "a"), (1, 1, "a"), (20, 20, "b"), (21, 2, "b")], False),
    "count: late, inside the window": (COUNT, [(5, 5, "a"), (6, 1, "a"), (7, 7, "b")], True),
    "count: late, behind the window": (COUNT, [(12, 12, "a"), (12, 2, "a"), (12, 12, "b")], False),
    "count: from the future, clamped to when it came": (COUNT, [(0, 99, "a"), (1, 1, "a"), (2, 2, "b")], True),
    "count: from long ago, clamped to an hour before it came": (COUNT, [(0, -500, "a"), (0, -60, "a"), (0, -60, "b")], True),
    "sequence: just in time": (ORDER, [(0, 0, "a"), (9.9, 9.9, "b")], True),
    "sequence: exactly too late": (ORDER, [(0, 0, "a"), (10, 10, "b")], False),
    "sequence: at the same instant, as it came": (ORDER, [(0, 0, "a"), (0, 0, "b")], True),
    "sequence: by event time, not as it came": (ORDER, [(5, 5, "a"), (6, 4, "b")], False),
    "sequence: a step that comes late is not put before the next": (ORDER, [(5, 5, "b"), (6, 4, "a")], False),
    "sequence: late, but in order": (ORDER, [(0, -30, "a"), (1, -25, "b")], True),
}  # fmt: skip


@pytest.mark.parametrize("on, events, fires", EDGES.values(), ids=EDGES)
def test_edges_of_windows(on: Node, events: list[tuple[float, float, str]], fires: bool) -> None:
    """A window is (t - within, t] in event time; it begins with its first event."""
    told = Story(make_policy(on)).begin()
    for received, happened, kind in events:
        told.now = at(minutes=received)
        told.send(kind, ago=received - happened)

    assert (told.said == "FIRE") is fires


LEVELS: dict[str, tuple[Any, list[tuple[float, float]], list[float]]] = {
    # the metric, its values at minutes after noon, when it fires
    "for: exactly so long is enough": (make_metric(lasting=minutes(10)), [(0, 11)], [10]),
    "for: ended just before": (make_metric(lasting=minutes(10)), [(0, 11), (9.99, 10)], []),
    "for: ended on the instant, by what came before the timer": (
        make_metric(lasting=minutes(10)),
        [(0, 11), (10, 12)],
        [10],
    ),
    "stale: just before": (make_metric(lasting=minutes(10), stale_after=minutes(10.1)), [(0, 11)], [10]),
    "stale: exactly so long is stale": (make_metric(lasting=minutes(10), stale_after=minutes(10)), [(0, 11)], []),
    "last in a window: it leaves exactly at its end": (
        make_metric("last", over=minutes(5), lasting=minutes(5)),
        [(0, 11)],
        [],
    ),
    "last in a window: just before": (make_metric("last", over=minutes(5.1), lasting=minutes(5)), [(0, 11)], [5]),
}


@pytest.mark.parametrize("metric, values, fires", LEVELS.values(), ids=LEVELS)
def test_edges_of_levels(metric: Any, values: list[tuple[float, float]], fires: list[float]) -> None:
    """`for` is inclusive, and so is being stale."""
    told = Story(make_policy(make_leaf(type="m", metric=metric)), run_length=None).begin()
    for minute, value in values:
        told.wait(minutes=minute - (told.now - NOON).total_seconds() / 60)
        told.send("m", data={"x": value})
    told.wait(hours=2)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=minute) for minute in fires]


@pytest.mark.parametrize("came, fires", [(59.99, False), (60, False), (60.01, True)])
def test_what_is_expected_is_in_time_up_to_the_edge(came: float, fires: bool) -> None:
    """An event on the instant, decided before the timer, is in time."""
    told = Story(make_policy(Absent(expect=A, within=HOUR))).begin()
    if came > 60:
        told.wait(minutes=came)
    told.now = at(minutes=came)
    told.send("a")
    told.look()

    assert bool(told.fires) is fires


SET_BACK: dict[str, tuple[Node, list[str]]] = {
    "count": (COUNT, ["a", "a", "b"]),
    "sequence": (ORDER, ["a", "b"]),
}


@pytest.mark.parametrize("on, script", SET_BACK.values(), ids=SET_BACK)
def test_a_clock_that_was_set_back(on: Node, script: list[str]) -> None:
    """What was seen on a clock that was years ahead counts as seen now, and nothing is late for years."""
    told = Story(make_policy(on)).begin()
    told.now = at(days=3000)
    told.send(script[0])
    told.now = NOON
    for kind in script[1:]:
        told.send(kind)

    assert told.said == "FIRE"


def test_absence_on_a_clock_that_was_set_back() -> None:
    """It counts anew from now, and not for years."""
    told = Story(make_policy(Absent(expect=A, within=HOUR)))
    told.now = at(days=3000)
    told.begin()
    told.now = NOON
    told.send("b")
    told.send("a")
    told.wait(hours=2)

    assert [fired for fired, _, _ in told.fires][:1] == [at(hours=1)]


LATE: dict[str, Node] = {
    "absent": Absent(expect=A, within=HOUR),
    "max_age": make_max_age(days=1),
    "max_age in a tree": AllOf(parts=(make_max_age(days=1), make_max_age(days=1))),
}


@pytest.mark.parametrize("on", LATE.values(), ids=LATE)
def test_a_timer_that_is_hours_late_says_so(on: Node) -> None:
    """After a night in which no daemon ran, the first look of it says when it was due and how late it is."""
    told = Story(make_policy(on), champion=make_champion(promoted_at=at(days=-1, hours=1))).begin()
    told.sleep(hours=9)
    line = next(line for line in told.decisions[1].trace if line.stage == "timer")

    assert line.reason == "due at 2024-03-05 13:00:00Z, 8h late"
    assert line.facts == {"due_at": "2024-03-05 13:00:00Z", "late_seconds": 28_800.0}
