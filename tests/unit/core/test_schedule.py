"""The wall clock: quiet hours against a minute-by-minute oracle, and what a line of crontab is refused for."""

# ruff: noqa: DTZ001 - wall times have no zone

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.schedule import (
    WEEKDAYS,
    always_quiet,
    first_instant,
    last_instant,
    parse_between,
    parse_crontab,
    parse_days,
    parse_timezone,
    quiet_until,
)

MINUTE = timedelta(minutes=1)
#: Zone and a day on which its clock is set.
SET_CLOCKS = [
    ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 4, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 6, 1, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 18, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, tzinfo=UTC)),
]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


# -------------------------------------------------------------------------------------- wall clock and instants


@pytest.mark.parametrize(
    "zone, wall, first, last",
    [
        ("UTC", datetime(2026, 1, 1, 3), utc(2026, 1, 1, 3), utc(2026, 1, 1, 3)),
        ("Europe/Berlin", datetime(2026, 3, 29, 2, 30), utc(2026, 3, 29, 1), utc(2026, 3, 29, 1)),
        ("Europe/Berlin", datetime(2026, 10, 25, 2, 30), utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1, 30)),
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 2, 15), utc(2026, 10, 3, 15, 30), utc(2026, 10, 3, 15, 30)),
        ("Pacific/Apia", datetime(2011, 12, 30, 12), utc(2011, 12, 30, 10), utc(2011, 12, 30, 10)),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 0, 0), utc(2018, 11, 4, 3), utc(2018, 11, 4, 3)),
    ],
)
def test_instants_of_a_wall_time(zone: str, wall: datetime, first: datetime, last: datetime) -> None:
    """A skipped time stands for the first valid instant after it; one that comes twice has a first and a last."""
    assert first_instant(wall, ZoneInfo(zone)) == first
    assert last_instant(wall, ZoneInfo(zone)) == last


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "europe", "Europe/"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write an IANA name"):
        parse_timezone(name)


# ------------------------------------------------------------------------------------------------- quiet hours


@pytest.mark.parametrize(
    "now, expected",
    [
        (utc(2026, 1, 5, 21, 59, 59), None),
        (utc(2026, 1, 5, 22), utc(2026, 1, 6, 6)),
        (utc(2026, 1, 6, 5, 59, 59), utc(2026, 1, 6, 6)),
        (utc(2026, 1, 6, 6), None),
    ],
    ids=["before", "start is inside", "over midnight", "end is outside"],
)
def test_the_edges_of_a_window(now: datetime, expected: datetime | None) -> None:
    assert quiet_until(now, between="22:00-06:00", timezone="UTC") == expected


def test_days_are_those_on_which_a_window_begins() -> None:
    """A night that begins on Friday is quiet on Saturday morning; the next night is not."""
    fridays = {"between": "22:00-06:00", "timezone": "UTC", "days": ("fri",)}

    assert quiet_until(utc(2026, 1, 10, 5), **fridays) == utc(2026, 1, 10, 6)  # type: ignore[arg-type]
    assert quiet_until(utc(2026, 1, 10, 23), **fridays) is None  # type: ignore[arg-type]


def test_windows_without_a_gap_are_one() -> None:
    """A quiet weekend ends on Monday, not at midnight."""
    until = quiet_until(utc(2026, 1, 10, 5), between="00:00-24:00", timezone="UTC", days=("sat", "sun"))

    assert until == utc(2026, 1, 12)


def test_windows_are_followed_for_eight_days_at_most() -> None:
    now = utc(2026, 1, 10, 5)

    until = quiet_until(now, between="00:00-24:00", timezone="UTC")

    assert until is not None
    assert timedelta(days=7) < until - now <= timedelta(days=9)
    assert always_quiet(between="00:00-24:00")
    assert not always_quiet(between="00:00-24:00", days=WEEKDAYS[:6])
    assert not always_quiet(between="00:00-23:59")


def test_the_last_days_of_the_calendar() -> None:
    """Windows that no calendar holds are left out."""
    assert quiet_until(utc(9999, 12, 31, 22), between="21:00-23:00", timezone="UTC") == utc(9999, 12, 31, 23)


@pytest.mark.parametrize(
    "now, until",
    [
        (utc(2026, 3, 29, 0, 45), utc(2026, 3, 29, 1)),
        (utc(2026, 10, 25, 0, 15), utc(2026, 10, 25, 1, 30)),
        (utc(2026, 10, 25, 0, 45), utc(2026, 10, 25, 1, 30)),
    ],
    ids=["end is skipped", "end comes twice, before the first", "between the two"],
)
def test_a_window_that_ends_while_the_clock_is_set(now: datetime, until: datetime) -> None:
    """In Berlin, quiet until half past two."""
    assert quiet_until(now, between="22:00-02:30", timezone="Europe/Berlin") == until


@pytest.mark.parametrize(
    "text, words",
    [
        ("22-6", "write 22:00-06:00"),
        ("22:00", "write 22:00-06:00"),
        ("24:00-06:00", "no clock shows"),
        ("22:60-06:00", "no clock shows"),
        ("22:00-24:01", "no clock shows"),
        ("06:00-06:00", "write 00:00-24:00"),
    ],
)
def test_a_window_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_between(text)


def test_an_unknown_day_is_refused() -> None:
    with pytest.raises(ValueError, match="'friday' is not a day of the week; write one of mon, "):
        parse_days(("friday",))


def is_quiet(now: datetime, start: time, end: time, days: frozenset[int], zone: ZoneInfo) -> bool:
    """The oracle: what a person with a clock on the wall would say, where the clock is not being set."""
    wall = now.astimezone(zone)
    yesterday = (wall.weekday() - 1) % 7
    if start < end:
        return wall.weekday() in days and start <= wall.time() < end
    return (wall.weekday() in days and wall.time() >= start) or (yesterday in days and wall.time() < end)


@given(
    case=st.sampled_from(SET_CLOCKS),
    minutes=st.lists(st.integers(0, 95), min_size=2, max_size=2, unique=True),
    days=st.frozensets(st.integers(0, 6), min_size=1),
    offset=st.integers(-36 * 60, 60 * 60),
)
def test_it_is_quiet_when_the_wall_clock_says_so(
    case: tuple[str, datetime], minutes: list[int], days: frozenset[int], offset: int
) -> None:
    """Whenever the wall clock reads a time inside, it is quiet; and quiet ends where it says, and not before."""
    name, day = case
    zone = ZoneInfo(name)
    start, end = (time(quarter // 4, quarter % 4 * 15) for quarter in minutes)
    window = {
        "between": f"{start:%H:%M}-{end:%H:%M}",
        "timezone": name,
        "days": tuple(WEEKDAYS[number] for number in sorted(days)),
    }
    now = day + offset * MINUTE

    until = quiet_until(now, **window)  # type: ignore[arg-type]

    if is_quiet(now, start, end, days, zone):
        assert until is not None
    elif until is not None:
        # Only within an hour that the clock shows again, or jumped over, quiet is wider than the wall clock says.
        around = [(now + step * timedelta(hours=1)).astimezone(zone).utcoffset() for step in (-2, 2)]
        assert around[0] != around[1]
    if until is not None:
        assert now < until <= now + timedelta(days=9)
        assert quiet_until(until - timedelta(microseconds=1), **window) == until  # type: ignore[arg-type]
        assert quiet_until(until, **window) is None  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- crontab


@pytest.mark.parametrize(
    "text, words",
    [
        ("* * * * * *", "6 fields instead of five"),
        ("* * * *", "4 fields instead of five"),
        ("", "0 fields instead of five"),
        ("0 0 30 2 *", "never due"),
        ("0 0 31 4,6,9,11 *", "never due"),
        ("0 0 29 2 */7", "never due"),
        ("60 * * * *", "minute '60': 60 is not between 0 and 59"),
        ("0 24 * * *", "hour '24'"),
        ("0 0 0 * *", "day of month '0'"),
        ("0 0 * 13 *", "month '13'"),
        ("0 0 * * 8", "day of week '8'"),
        ("0 0 * * mittwoch", "'mittwoch' is not a number or a name"),
        ("0 0 * * mon#1", "day of week 'mon#1'"),
        ("0 0 L * *", "day of month 'l'"),
        ("0 0 ? * *", "day of month '\\?'"),
        ("*/0 * * * *", "the step '0'"),
        ("*/90 * * * *", "the step 90 goes beyond 59"),
        ("5/15 * * * *", "a step needs a range; write 5-59/15"),
        ("30-10 * * * *", "ends before it begins"),
        ("0 0 * * fri-mon", "ends before it begins"),
        ("1,,2 * * * *", "'' is not a number"),
        ("-1 * * * *", "'' is not a number"),
        ("@reboot", "known names are @yearly"),
        ("@every 5m", "2 fields"),
    ],
)
def test_a_line_is_refused(text: str, words: str) -> None:
    """What cannot be, or is not a crontab, is refused with the field and a way out."""
    with pytest.raises(ValueError, match=words):
        parse_crontab(text)


@pytest.mark.parametrize(
    "text, weekdays",
    [
        ("0 0 * * 0", {6}),
        ("0 0 * * 7", {6}),
        ("0 0 * * sun", {6}),
        ("0 0 * * 1", {0}),
        ("0 0 * * mon-fri", {0, 1, 2, 3, 4}),
        ("0 0 * * fri-sun", {4, 5, 6}),
        ("0 0 * * 5-7", {4, 5, 6}),
        ("0 0 * * sun-tue", {6, 0, 1}),
        ("0 0 * * MON,Wed", {0, 2}),
        ("0 0 * * */2", {6, 1, 3, 5}),
        ("@weekly", {6}),
    ],
)
def test_weekdays(text: str, weekdays: set[int]) -> None:
    """0 and 7 are Sunday."""
    assert set(parse_crontab(text).weekdays) == weekdays


@pytest.mark.parametrize(
    "text, either",
    [
        ("0 0 13 * fri", True),
        ("0 0 13 * *", False),
        ("0 0 * * fri", False),
        ("0 0 */2 * fri", False),
        ("0 0 13 * */2", False),
        ("0 0 1-31 * 0-7", True),
    ],
)
def test_when_either_day_will_do(text: str, *, either: bool) -> None:
    """Both days restricted: either of them; a field that begins with a star restricts nothing."""
    assert parse_crontab(text).either_day is either


def test_the_times_of_a_day() -> None:
    """In order; none on a day that is not due."""
    crontab = parse_crontab("0,30 2-3 * * mon")

    monday = [datetime(2026, 3, 2, hour, minute) for hour in (2, 3) for minute in (0, 30)]
    assert crontab.times_on(date(2026, 3, 2)) == monday
    assert crontab.times_on(date(2026, 3, 3)) == []


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 30 2 1", "0 0 31 * *", "59 23 31 dec *", "0 0 29 2 sun"])
def test_rare_lines_are_taken(text: str) -> None:
    assert parse_crontab(text)
