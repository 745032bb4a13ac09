"""Where a partition begins, as a table; and that a gap is always the same event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.sources.kafka.client import Bounds, Partition
from controller.sources.kafka.positions import Position, choose, entry, instant, resolve, sought

P = Partition("t", 0)
A, B = "topic-id-a", "topic-id-b"
OnGap = Literal["fail", "earliest", "latest"]


def ours(offset: int, topic_id: str | None = A) -> Position:
    return Position(offset=offset, topic_id=topic_id)


@pytest.mark.parametrize(
    "mine, groups, topic_id, on_gap, offset, gap, halted",
    [
        pytest.param(None, None, A, "fail", 5, None, False, id="neither: start"),
        pytest.param(ours(7), 9, A, "fail", 7, None, False, id="ours wins"),
        pytest.param(None, 9, A, "fail", 9, None, False, id="the group's when we have none"),
        pytest.param(ours(5), None, A, "fail", 5, None, False, id="at the beginning"),
        pytest.param(ours(10), None, A, "fail", 10, None, False, id="at the end"),
        pytest.param(ours(2), None, A, "fail", 5, (2, 5), True, id="passed by, fail"),
        pytest.param(ours(2), None, A, "earliest", 5, (2, 5), False, id="passed by, earliest"),
        pytest.param(ours(2), None, A, "latest", 10, (2, 10), False, id="passed by, latest"),
        pytest.param(None, 2, A, "fail", 5, (2, 5), True, id="the group's was passed by"),
        pytest.param(ours(12), None, A, "fail", 10, (12, 10), True, id="cut, fail"),
        pytest.param(ours(12), None, A, "earliest", 5, (12, 5), False, id="cut, earliest"),
        pytest.param(ours(12), None, A, "latest", 10, (12, 10), False, id="cut, latest"),
        pytest.param(ours(7), None, B, "fail", 5, (7, 5), False, id="another topic of that name"),
        pytest.param(ours(12, None), None, None, "fail", 5, (12, 5), False, id="shorter, and no ids"),
        pytest.param(ours(7, None), None, B, "fail", 7, None, False, id="no id known of ours"),
    ],
)
def test_where_to_begin(
    mine: Position | None,
    groups: int | None,
    topic_id: str | None,
    on_gap: OnGap,
    offset: int,
    gap: tuple[int, int] | None,
    halted: bool,
) -> None:
    """A log that holds the offsets 5 to 10."""
    start = choose(
        P, ours=mine, groups=groups, bounds=Bounds(5, 10), topic_id=topic_id, start="earliest", on_gap=on_gap
    )

    assert start.offset == offset
    assert (None if start.gap is None else (start.gap.from_offset, start.gap.to_offset)) == gap
    assert (start.halted is not None) == halted


@given(
    mine=st.none() | st.builds(ours, st.integers(0, 40), st.sampled_from([None, A, B])),
    groups=st.none() | st.integers(0, 40),
    begin=st.integers(0, 20),
    length=st.integers(0, 20),
    topic_id=st.sampled_from([None, A, B]),
    start=st.sampled_from(["earliest", "latest"]),
    on_gap=st.sampled_from(["fail", "earliest", "latest"]),
)
def test_nothing_is_passed_over_in_silence(
    mine: Position | None,
    groups: int | None,
    begin: int,
    length: int,
    topic_id: str | None,
    start: Literal["earliest", "latest"],
    on_gap: OnGap,
) -> None:
    """It begins within the log; whoever had a position begins there, or a gap tells why not."""
    bounds = Bounds(begin, begin + length)
    found = choose(P, ours=mine, groups=groups, bounds=bounds, topic_id=topic_id, start=start, on_gap=on_gap)

    assert bounds.begin <= found.offset <= bounds.end
    had = mine.offset if mine is not None else groups
    if had is not None and found.offset != had:
        assert found.gap is not None
        assert found.gap.from_offset == had
    if found.halted is not None:
        assert on_gap == "fail"


def test_a_gap_is_always_the_same_event() -> None:
    """Its identity is made of topic, partition and offsets alone, not of when it was seen."""
    start = choose(P, ours=ours(2), groups=None, bounds=Bounds(5, 10), topic_id=A, start="earliest", on_gap="fail")
    assert start.gap is not None

    first = start.gap.event("stream", datetime(2026, 1, 1, tzinfo=UTC), "fail")
    again = start.gap.event("stream", datetime(2026, 1, 2, tzinfo=UTC), "fail")

    assert (first.source, first.source_id) == (again.source, again.source_id) == ("/sources/stream", f"gap/t/0/{A}/2-5")
    assert (first.type, first.subject) == ("source.gap", "stream")


def test_a_position_survives_the_ledger() -> None:
    assert Position.from_json(entry(P, ours(7)).value) == ours(7)
    assert entry(P, ours(7)).key == "t/0"


def test_what_was_asked_of_one_partition_counts_before_what_was_asked_of_all() -> None:
    ledger = {"@seek/t/*": {"to": "latest"}, "@seek/t/1": {"to": "3"}}

    assert sought(ledger, Partition("t", 0)) == "latest"
    assert sought(ledger, Partition("t", 1)) == "3"
    assert sought(ledger, Partition("u", 1)) is None


@pytest.mark.parametrize(
    "to, at, offset",
    [
        ("earliest", None, 5),
        ("latest", None, 10),
        ("7", None, 7),
        ("1", None, 5),
        ("99", None, 10),
        ("2026-01-01T00:00:00Z", 8, 8),
        ("2026-01-01T00:00:00Z", None, 10),
        ("2026-01-01T00:00:00Z", 2, 5),
    ],
)
def test_a_place_is_found_within_the_log(to: str, at: int | None, offset: int) -> None:
    assert resolve(to, Bounds(5, 10), at) == offset


def test_an_instant_is_told_from_an_offset() -> None:
    assert instant("2026-01-01T00:00:00+01:00") == 1_767_222_000_000
    assert instant("42") is None
