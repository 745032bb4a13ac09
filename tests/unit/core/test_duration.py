"""Durations: what is read, what is refused with which words, and that writing and reading agree."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    "text, expected",
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("6h", timedelta(hours=6)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("500ms", timedelta(milliseconds=500)),
        ("0s", timedelta(0)),
        ("1h30m", timedelta(minutes=90)),
        ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("1.5h", timedelta(minutes=90)),
        (" 5m ", timedelta(minutes=5)),
        ("PT5M", timedelta(minutes=5)),
        ("P1DT2H", timedelta(days=1, hours=2)),
        ("P2W", timedelta(weeks=2)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("PT36H", timedelta(hours=36)),
    ],
)
def test_reads(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("5 minuts", "'5 minuts' is not a duration; write 5m or PT5M"),
        ("30", "write 30s for seconds or 30m for minutes"),
        ("P1M", "months and years have no fixed length"),
        ("P1Y2M", "months and years have no fixed length"),
        ("-5m", "must not be negative"),
        ("", "is not a duration"),
        ("P", "is not a duration"),
        ("PT", "is not a duration"),
        ("P1DT", "is not a duration"),
        ("5M", "is not a duration"),
        ("5m1h", "is not a duration"),
        ("1m1m", "is not a duration"),
        ("٣m", "is not a duration"),
        ("inf", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("999999999999w", "too long"),
    ],
)
def test_refuses(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="duration") as refusal:
        parse_duration(text)

    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "length, expected",
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(days=14), "14d"),
        (timedelta(hours=36), "1d12h"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=2.5), "2.5s"),
        (timedelta(microseconds=1), "0.000001s"),
        (timedelta(minutes=-5), "-5m"),
    ],
)
def test_writes(length: timedelta, expected: str) -> None:
    assert format_duration(length) == expected


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=40_000)))
def test_what_is_written_is_read_back(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length
