"""How often a source is heard, and when it counts as silent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.rhythm import (
    GRACE,
    MAX_ARRIVALS,
    Arrival,
    SourceNews,
    SourceStat,
    added,
    clock_skew_seconds,
    judge_silence,
    quiet_before_seconds,
    rate_per_minute,
    rhythm,
)
from tests.factories import NOON

HOUR = timedelta(hours=1)


def arrivals(*seconds: float, delay: float | None = None) -> list[Arrival]:
    return [Arrival(at=NOON + timedelta(seconds=at), count=1, delay_seconds=delay) for at in seconds]


def test_rhythm_is_the_median_gap_and_the_longest() -> None:
    """One gap far from the others does not change what is usual."""
    found = rhythm(arrivals(0, 60, 120, 180, 780))

    assert found is not None
    assert (found.median_seconds, found.longest_seconds, found.gap_count) == (60, 600, 4)


@pytest.mark.parametrize("seconds", [(), (0,), (0, 60)], ids=["none", "one", "two"])
def test_too_few_have_no_rhythm(seconds: tuple[float, ...]) -> None:
    """Two arrivals are one gap, which says nothing."""
    assert rhythm(arrivals(*seconds)) is None


def test_a_clock_that_was_set_back_makes_no_negative_gap() -> None:
    """Gaps are at least nothing."""
    found = rhythm(arrivals(0, 100, 50, 60))

    assert found is not None
    assert found.median_seconds >= 0


@pytest.mark.parametrize(
    "seconds, after, rate",
    [
        ((), 0, 0.0),
        ((0,), 600, 0.0),
        ((0, 1, 2), 3, 3.0),
        ((0, 30, 60, 90, 120), 120, 2.5),
        ((-400, 0, 60, 120, 180, 240), 270, 1.0),
    ],
    ids=["never", "long ago", "just begun", "two minutes", "five minutes of more"],
)
def test_rate(seconds: tuple[float, ...], after: float, rate: float) -> None:
    """Events a minute, over the last five minutes or as far back as is known, but over a minute at least."""
    assert rate_per_minute(arrivals(*seconds), NOON + timedelta(seconds=after)) == pytest.approx(rate)


def test_the_rate_counts_events_and_not_arrivals() -> None:
    """Many events within one second are one arrival."""
    found = [Arrival(at=NOON, count=600)]

    assert rate_per_minute(found, NOON) == 600


def test_clock_skew_is_the_median_of_those_that_told_a_time() -> None:
    """Late ones and those without a time do not matter."""
    found = [*arrivals(0, 1, 2, delay=-30.0), *arrivals(3, delay=4000.0), *arrivals(4, 5, 6, 7)]

    assert clock_skew_seconds(found) == -30.0
    assert clock_skew_seconds(arrivals(0, 1)) is None


@pytest.mark.parametrize(
    "quiet, listening, was_silent, silent, missing",
    [
        (0, 7200, False, False, 3600),
        (3599, 7200, False, False, 1),
        (3600, 7200, False, True, None),
        (9000, 10, False, False, 50),
        (9000, 60, False, True, None),
        (9000, 0, True, True, None),
        (10, 20, True, False, 3590),
    ],
    ids=[
        "just heard",
        "nearly",
        "silent",
        "just started",
        "had its grace",
        "was silent before the start",
        "heard again",
    ],
)
def test_silence(quiet: float, listening: float, was_silent: bool, silent: bool, missing: float | None) -> None:
    """Silent is what was not heard for as long as is expected; after a start it has a minute to catch up."""
    found = judge_silence(HOUR, quiet_seconds=quiet, listening_seconds=listening, was_silent=was_silent)

    assert found.silent is silent
    assert found.silent_in_seconds == missing
    assert found.reason == f"nothing came for {quiet} s, something is expected every 3600 s"


def test_grace_is_never_longer_than_what_is_expected() -> None:
    """A source that is expected every ten seconds is silent after ten seconds."""
    assert timedelta(seconds=10) < GRACE
    assert judge_silence(timedelta(seconds=10), quiet_seconds=10, listening_seconds=10).silent


@given(
    quiet=st.floats(0, 1e6),
    listening=st.floats(0, 1e6),
    expected=st.integers(1, 100_000),
    was_silent=st.booleans(),
)
def test_silent_when_the_wait_is_over(quiet: float, listening: float, expected: int, was_silent: bool) -> None:
    """What is not silent says when it will be, and then it is."""
    length = timedelta(seconds=expected)
    found = judge_silence(length, quiet_seconds=quiet, listening_seconds=listening, was_silent=was_silent)

    assert found.silent == (found.silent_in_seconds is None)
    if found.silent_in_seconds is not None:
        wait = found.silent_in_seconds + 1e-3
        assert judge_silence(
            length, quiet_seconds=quiet + wait, listening_seconds=listening + wait, was_silent=was_silent
        ).silent


def test_quiet_before_counts_only_what_was_listened_to() -> None:
    """From the last arrival, or the first configuration, to the last time that it was written."""
    since = SourceStat(source="bus", since=NOON, updated_at=NOON + HOUR)
    heard = SourceStat(
        source="bus", since=NOON, arrivals=tuple(arrivals(3000)), updated_at=NOON + timedelta(seconds=3600)
    )

    assert quiet_before_seconds(since) == 3600
    assert quiet_before_seconds(heard) == 600
    assert quiet_before_seconds(SourceStat(source="bus", since=NOON)) == 0


def test_what_was_measured_counts_before_clocks() -> None:
    """Instants in a row come from the clocks of several hosts; for how long nothing was heard is measured by one that does not jump."""
    stat = SourceStat(source="bus", since=NOON, quiet_seconds=42.0, updated_at=NOON + HOUR)

    assert quiet_before_seconds(stat) == 42


# ------------------------------------------------------------------------------------------------- several processes


def news(*seconds: float, **fields: Any) -> SourceNews:
    return SourceNews(source="bus", arrivals=tuple(arrivals(*seconds)), **fields)


def test_news_add_up() -> None:
    """Counts are sums, in whatever order two processes write."""
    stat = SourceStat(source="bus", since=NOON, stored=1, duplicates=2, dead=3, refused=4)
    one, other = news(1, stored=10, dead=1), news(2, duplicates=20, refused=5)
    found = added(added(stat, one, NOON + HOUR), other, NOON + HOUR)

    assert found == added(added(stat, other, NOON + HOUR), one, NOON + HOUR)
    assert (found.stored, found.duplicates, found.dead, found.refused) == (11, 22, 4, 9)
    assert found.signs == 37


def test_arrivals_of_several_processes_are_one_rhythm() -> None:
    """They stand in order, those within a second as one, and only the latest are kept."""
    stat = added(SourceStat(source="bus", since=NOON), news(0, 10, 20), NOON + HOUR)
    found = added(stat, news(5, 10.5, 15), NOON + HOUR)
    many = added(found, news(*range(100, 200, 1)), NOON + HOUR)

    assert [(each.at - NOON).total_seconds() for each in found.arrivals] == [0, 5, 10, 15, 20]
    assert [each.count for each in found.arrivals] == [1, 1, 2, 1, 1]
    assert len(many.arrivals) == MAX_ARRIVALS


@pytest.mark.parametrize(
    "before, after, newest",
    [(10, 20, "theirs"), (20, 10, "ours"), (9000, 20, "theirs")],
    ids=["later", "earlier", "later than a clock that was ahead"],
)
def test_the_last_event_is_the_newest_of_any_process(before: float, after: float, newest: str) -> None:
    """What one process writes late does not hide what another heard since; what lies in the future hides nothing."""
    stat = SourceStat(source="bus", since=NOON, last_event_id="ours", last_at=NOON + timedelta(seconds=before))
    found = added(
        stat, news(last_event_id="theirs", last_at=NOON + timedelta(seconds=after)), NOON + timedelta(seconds=20)
    )

    assert found.last_event_id == newest


def test_an_arrival_from_the_future_counts_as_now() -> None:
    """A clock that was ahead and set back does not stay the latest sign of life."""
    stat = SourceStat(source="bus", since=NOON, arrivals=tuple(arrivals(9000)))
    found = added(stat, news(10), NOON + timedelta(seconds=12))

    assert [(each.at - NOON).total_seconds() for each in found.arrivals] == [10, 12]
