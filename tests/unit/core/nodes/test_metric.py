"""A value of many events against a threshold: aggregates, windows, edges, `for`, staleness, and how a level re-arms."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from controller.core.on import Metric
from tests.factories import NOON, at, make_leaf, make_metric, make_policy, minutes
from tests.unit.core.story import Story

HOUR = minutes(60)


def story(metric: Metric, *, by: str | None = None, **fields: Any) -> Story:
    return Story(make_policy(make_leaf(type="drift", by=by, metric=metric), **fields)).begin()


def send(told: Story, *values: float, ago: float = 0) -> list[str]:
    return [told.send(data={"x": value}, ago=ago) for value in values]


AGGREGATES: dict[str, tuple[dict[str, Any], list[Any], bool]] = {
    # the metric, the values of one window, whether it fires on the last one
    "last": ({"agg": "last", "above": 10.0}, [1, 11], True),
    "last, exactly the threshold, which is not above it": ({"agg": "last", "above": 10.0}, [10], False),
    "last, below": ({"agg": "last", "below": 10.0}, [9.99], True),
    "last, exactly the threshold, which is not below it": ({"agg": "last", "below": 10.0}, [10], False),
    "avg": ({"agg": "avg", "above": 10.0, "over": HOUR, "min_samples": 3}, [1, 2, 30], True),
    "avg, exactly": ({"agg": "avg", "above": 10.0, "over": HOUR, "min_samples": 3}, [5, 10, 15], False),
    "avg, of thirds": ({"agg": "avg", "below": 0.1, "over": HOUR, "min_samples": 3}, [0.1, 0.1, 0.1], False),
    "avg, too few": ({"agg": "avg", "above": 10.0, "over": HOUR, "min_samples": 4}, [30, 30, 30], False),
    "sum": ({"agg": "sum", "above": 10.0, "over": HOUR, "min_samples": 0}, [5, 4, 2], True),
    "sum, of tenths": ({"agg": "sum", "above": 0.3, "over": HOUR, "min_samples": 0}, [0.1, 0.2], False),
    "min": ({"agg": "min", "above": 10.0, "over": HOUR, "min_samples": 2}, [12, 11], True),
    "min, one is less": ({"agg": "min", "above": 10.0, "over": HOUR, "min_samples": 2}, [9, 12], False),
    "max": ({"agg": "max", "below": 10.0, "over": HOUR, "min_samples": 2}, [8, 9], True),
    "distinct": ({"agg": "distinct", "above": 2.0, "over": HOUR}, ["a", "b", "a", "c"], True),
    "distinct, the same again": ({"agg": "distinct", "above": 2.0, "over": HOUR}, ["a", "b", "a", "b"], False),
    "rate, an hour's sum": ({"agg": "rate", "above": 10.0, "over": minutes(30), "min_samples": 0}, [2, 3.5], True),
    "rate, exactly": ({"agg": "rate", "above": 10.0, "over": minutes(30), "min_samples": 0}, [2, 3], False),
}


@pytest.mark.parametrize("metric, values, fires", AGGREGATES.values(), ids=AGGREGATES)
def test_aggregates(metric: dict[str, Any], values: list[Any], fires: bool) -> None:
    """Beyond is strict, sums are rounded to 12 digits, and too few values say nothing."""
    told = story(make_metric(**metric))

    assert send(told, *values)[-1] == ("FIRE" if fires else "SKIP")


def test_rate_without_a_value_counts_events() -> None:
    """Without `value` each event is 1."""
    told = story(make_metric("rate", value=None, above=2.0, over=HOUR, min_samples=0))

    assert [told.send() for _ in range(3)] == ["SKIP", "SKIP", "FIRE"]


def test_the_window_slides_in_event_time() -> None:
    """A value counts until `over` has passed since it happened, less a sixtieth; a value that came late is put where it belongs."""
    metric = make_metric("sum", above=10.0, over=HOUR, min_samples=0)
    told = story(metric)
    send(told, 6)
    told.wait(minutes=58)
    inside = send(told, 5)
    later = story(metric)
    send(later, 6)
    later.wait(minutes=60)
    outside = send(later, 5)
    late = story(metric)
    late.wait(minutes=30)
    send(late, 6)
    belated = send(late, 5, ago=30)

    assert (inside, outside, belated) == (["FIRE"], ["SKIP"], ["FIRE"])


def test_a_value_behind_the_window_is_late() -> None:
    """It changes nothing."""
    told = story(make_metric("sum", above=10.0, over=minutes(10), min_samples=0))
    send(told, 6)

    assert send(told, 50, ago=20) == ["SKIP"]
    assert "6 now" in told.reason


def test_what_leaves_the_window_can_make_it_true() -> None:
    """An average rises when what was low leaves; a timer sees it at that instant, without an event."""
    told = story(make_metric("avg", above=10.0, over=HOUR))
    send(told, 0)
    told.wait(minutes=30)
    send(told, 15)
    told.wait(minutes=29)
    assert told.fires == []
    told.wait(minutes=1)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=60)]


def test_for_asks_that_it_lasts() -> None:
    """It fires `for` after it went beyond, by our clock, inclusive; whatever is not beyond in between begins anew."""
    told = story(make_metric(lasting=minutes(10)))
    send(told, 11)
    told.wait(minutes=9)
    send(told, 9)
    send(told, 11)
    began = told.now
    told.wait(minutes=9.9)
    assert told.fires == []
    told.wait(minutes=0.1)

    (fired, _, causes) = told.fires[0]
    assert fired == began + minutes(10)
    assert causes == ["evt-0000000000000003"]


def test_for_survives_a_downtime() -> None:
    """A timer that is hours late fires all the same, and says how late it is."""
    told = story(make_metric(lasting=minutes(10)))
    send(told, 11)
    told.sleep(hours=5)

    assert told.said == "FIRE"
    line = next(line for line in told.decisions[-1].trace if line.stage == "timer")
    assert line.facts == {"due_at": "2024-03-05 12:10:00Z", "late_seconds": 17_400.0}


def test_stale_values_say_nothing() -> None:
    """Without a value for `stale_after` it is unknown: `for` begins anew, and nothing clears."""
    told = story(make_metric(lasting=minutes(10), stale_after=minutes(5)))
    send(told, 11)
    told.wait(minutes=20)
    assert told.fires == []
    send(told, 11)
    for _ in range(5):
        told.wait(minutes=2)
        send(told, 11)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=30)]


REARMING: dict[str, tuple[dict[str, Any], list[float], list[int]]] = {
    # the metric, its values a minute apart, at which of them it fires
    "once while it is true": ({}, [11, 12, 13], [0]),
    "again after it cleared": ({}, [11, 10, 11], [0, 2]),
    "not beyond is not cleared": ({"rearm": 5.0}, [11, 6, 11], [0]),
    "cleared exactly": ({"rearm": 5.0}, [11, 5, 11], [0, 2]),
    "below": ({"below": 10.0, "rearm": 15.0}, [9, 14.9, 9, 15, 9], [0, 4]),
}


@pytest.mark.parametrize("metric, values, fires", REARMING.values(), ids=REARMING)
def test_a_level_fires_once_and_re_arms(metric: dict[str, Any], values: list[float], fires: list[int]) -> None:
    """It fires again when it has cleared, at `rearm_…` inclusive; that it is disarmed is said."""
    told = story(make_metric(**metric))
    said = []
    for value in values:
        said += send(told, value)
        if said[-1] == "SKIP" and said.count("FIRE") and value in (12, 13):
            assert "disarmed since it fired" in told.reason
        told.wait(minutes=1)

    assert [position for position, kind in enumerate(said) if kind == "FIRE"] == fires


def test_a_level_that_stays_true_fires_again_after_its_run() -> None:
    """`again_after` counts from the end of the run, and needs no event."""
    told = story(make_metric(again_after=minutes(60)))
    told.run_length = None
    send(told, 11)
    assert told.wait(hours=5) == []
    told.end_run()
    told.wait(minutes=59)
    assert len(told.fires) == 1
    told.wait(minutes=1)

    assert [fired for fired, _, _ in told.fires] == [NOON, at(hours=6)]


def test_a_level_re_arms_while_nobody_looks() -> None:
    """A window that ran empty between two bursts has cleared, so that the second one is news."""
    told = story(make_metric("sum", above=10.0, over=minutes(10), min_samples=0))
    first = send(told, 11)
    told.now += minutes(30)

    assert (first, send(told, 11)) == (["FIRE"], ["FIRE"])


def test_nothing_is_a_number_once_it_was_listened_for() -> None:
    """A rate of nothing is 0, and known when the whole window was listened to; then time alone fires it."""
    told = story(make_metric("rate", value=None, below=1.0, over=HOUR, min_samples=0))
    told.wait(minutes=59.9)
    assert told.fires == []
    told.wait(minutes=0.1)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=60)]


NO_NUMBERS = {
    "a text": {"x": "high"},
    "true": {"x": True},
    "missing": {},
    "a list": {"x": [1]},
    "nothing": {"x": None},
}


@pytest.mark.parametrize("data", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_an_error(data: dict[str, Any]) -> None:
    """It is said, and what is known stays."""
    told = story(make_metric("avg", over=HOUR))
    send(told, 1)
    before = told.states[""]
    told.send(data=data)

    assert told.said == "ERROR"
    assert told.decisions[-1].stage == "metric"
    assert told.states[""] == before


@pytest.mark.parametrize(
    "side, polarity, kind",
    [
        ("above", "below", "ERROR"),
        ("below", "above", "ERROR"),
        ("above", "above", "FIRE"),
        ("below", "below", "FIRE"),
        ("above", None, "FIRE"),
    ],
)
def test_a_p_value_is_not_compared_as_a_distance(side: str, polarity: str | None, kind: str) -> None:
    """Where the data tell which it is, the other way round is an error."""
    metric = make_metric("last", value="event.data.columns.age.score", **{side: 0.5})
    told = story(metric)
    score = 0.9 if side == "above" else 0.1
    told.send(data={"columns": {"age": {"score": score, "polarity": polarity}}})

    assert told.said == kind


def test_a_clock_that_was_set_back_does_not_stop_it() -> None:
    """What was heard in a wrong future counts as heard now, and later values are not late."""
    told = story(make_metric("sum", above=10.0, over=HOUR, min_samples=0))
    told.now = at(days=3000)
    send(told, 6)
    told.now = NOON

    assert send(told, 5) == ["FIRE"]


def test_a_key_is_forgotten_when_nothing_of_it_matters() -> None:
    """An hour (for late events) after its window is over its state is gone, without a decision."""
    told = story(make_metric("avg", over=HOUR), by="event.subject")
    told.send(data={"x": 1}, subject="eu")
    told.wait(minutes=118)
    assert "eu" in told.states
    told.wait(minutes=3)

    assert told.states == {}


@pytest.mark.parametrize("agg", ["avg", "sum", "min", "max", "rate"])
def test_its_state_stays_small(agg: str) -> None:
    """A window full of values of three digits is a state of at most a kilobyte."""
    told = story(make_metric(agg, above=1e9, over=timedelta(hours=24), min_samples=1))
    for number in range(2000):
        told.now += timedelta(minutes=3)
        send(told, (number * 37 % 1000) / 1000)

    assert told.largest <= 1024
    assert len(json.dumps(told.states[""].slots)) > 400


def test_while_it_is_held_more_values_are_taken_in_and_a_cleared_level_lets_go() -> None:
    """More of the same is no news to what is held; when the level has cleared there is nothing left to act upon."""
    told = story(make_metric())
    told.paused = True
    assert send(told, 11, 12) == ["HOLD", "SKIP"]
    assert "still so, held at pause" in told.reason
    assert send(told, 3) == ["SKIP"]
    assert "no longer so" in told.reason
    told.paused = False
    told.wake("resume")

    assert told.fires == []
    assert send(told, 11) == ["FIRE"]


def test_what_is_held_goes_on_while_it_is_true() -> None:
    """A level that is still true when the hold ends fires, with the event that took it beyond."""
    told = story(make_metric())
    told.paused = True
    send(told, 11, 12)
    told.paused = False
    told.wake("resume")

    assert [causes for _, _, causes in told.fires] == [["evt-0000000000000001"]]
    assert send(told, 13) == ["SKIP"]
