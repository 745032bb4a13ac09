"""The cron source: its instants against a brute-force oracle, catching up, and clocks that jump."""

# ruff: noqa: DTZ001 - wall times have no zone

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.clock import SystemClock
from controller.core.schedule import parse_crontab
from controller.sources.cron import CATCH_UP_LIMIT, CronOptions, CronSource, Schedule
from controller.testing import ManualClock, MemoryInbox

MINUTE = timedelta(minutes=1)
START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
#: Zone and a day around which its clock is set, or not.
PLACES = [
    ("UTC", datetime(2026, 3, 1)),
    ("America/New_York", datetime(2026, 3, 8)),
    ("America/New_York", datetime(2026, 11, 1)),
    ("Europe/Berlin", datetime(2026, 3, 29)),
    ("Europe/Berlin", datetime(2026, 10, 25)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5)),
    ("Australia/Lord_Howe", datetime(2026, 10, 4)),
    ("Asia/Kathmandu", datetime(2026, 2, 28)),
    ("Pacific/Apia", datetime(2011, 12, 30)),
    ("America/Sao_Paulo", datetime(2018, 2, 18)),
    ("America/Sao_Paulo", datetime(2018, 11, 4)),
    ("Africa/Casablanca", datetime(2026, 2, 15)),
    ("Africa/Casablanca", datetime(2026, 3, 22)),
]


# ------------------------------------------------------------------------------------------------- the oracle


@dataclass(frozen=True)
class Line:
    """A line of crontab as sets of numbers; written down, not parsed."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    #: Sunday is 0.
    weekdays: frozenset[int]

    def fits(self, wall: datetime) -> bool:
        _, _, day_field, _, weekday_field = self.text.split()
        day = wall.day in self.days
        weekday = (wall.weekday() + 1) % 7 in self.weekdays
        either = day_field[0] != "*" and weekday_field[0] != "*"
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.month in self.months
            and (day or weekday if either else day and weekday)
        )


def oracle(line: Line, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Go through every minute of (start, end] and look at the clock on the wall.

    Due when the wall shows a fitting time that it has not shown before, or has just jumped over one.
    """
    due = []
    now = start - timedelta(days=2)
    newest = now.astimezone(zone).replace(tzinfo=None)
    while now + MINUTE <= end:
        now += MINUTE
        wall = now.astimezone(zone).replace(tzinfo=None)
        fresh = False
        while newest < wall:
            newest += MINUTE
            fresh = fresh or line.fits(newest)
        if fresh and now > start:
            due.append(now)
    return due


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, *, star: bool = True) -> tuple[str, frozenset[int]]:
    """A field and what it means."""
    everything = frozenset(range(low, high + 1))
    kind = draw(st.sampled_from(["star", "step", "one", "list", "range", "range step"] if star else ["one", "list"]))
    one = draw(st.integers(low, high))
    other = draw(st.integers(one, high))
    step = draw(st.integers(1, high))
    if kind == "star":
        return "*", everything
    if kind == "step":
        return f"*/{step}", frozenset(range(low, high + 1, step))
    if kind == "one":
        return str(one), frozenset([one])
    if kind == "list":
        return f"{other},{one}", frozenset([one, other])
    if kind == "range":
        return f"{one}-{other}", frozenset(range(one, other + 1))
    return f"{one}-{other}/{step}", frozenset(range(one, other + 1, step))


@st.composite
def lines(draw: st.DrawFn) -> Line:
    minute, minutes = draw(fields(0, 59))
    hour, hours = draw(fields(0, 23))
    day, days = draw(fields(1, 31))
    month, months = draw(st.one_of(st.just(("*", frozenset(range(1, 13)))), fields(1, 12)))
    weekday, weekdays = draw(fields(0, 7))
    return Line(
        f"{minute} {hour} {day} {month} {weekday}",
        minutes,
        hours,
        days,
        months,
        frozenset(number % 7 for number in weekdays),
    )


def line(text: str) -> Line:
    """A line of numbers, lists and stars only."""
    highs = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    sets = [
        frozenset(range(low, high + 1)) if word == "*" else frozenset(int(number) for number in word.split(","))
        for word, (low, high) in zip(text.split(), highs, strict=True)
    ]
    return Line(text, *sets[:4], frozenset(number % 7 for number in sets[4]))


def walk(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    while (start := schedule.after(start)) <= end:
        yield start


def check(line: Line, name: str, start: datetime, end: datetime) -> None:
    zone = ZoneInfo(name)
    schedule = Schedule(parse_crontab(line.text), zone)
    expected = oracle(line, zone, start, end)

    assert list(walk(schedule, start, end)) == expected
    assert schedule.count(start, end) == len(expected)
    assert schedule.newest(start, end, 1) == expected[-1:]
    assert schedule.newest(start, end, 7) == expected[-7:]


@pytest.mark.parametrize("name, day", PLACES)
@pytest.mark.parametrize(
    "text",
    [
        "30 2 * * *",
        "0 0 * * *",
        "30 1 * * *",
        "0 * * * *",
        "0,15,30,45 * * * *",
        "* 1,2,3 * * *",
        "30 0,1,2 * * 0",
        "15 2 30 * 5",
        "0 0 31 12 *",
    ],
)
def test_instants_around_a_day_on_which_the_clock_is_set(name: str, day: datetime, text: str) -> None:
    """Skipped: once, at the first valid instant after. Twice: once, the first time. Nothing else changes."""
    middle = day.replace(tzinfo=UTC)
    check(line(text), name, middle - timedelta(hours=40, minutes=7), middle + timedelta(hours=60, seconds=3))


@settings(max_examples=60)
@given(line=lines(), place=st.sampled_from(PLACES), offset=st.integers(-3000, 0), length=st.integers(0, 6000))
def test_G08_instants_of_any_line(line: Line, place: tuple[str, datetime], offset: int, length: int) -> None:
    """A line means what a person with a clock on the wall takes it to mean, or is refused."""
    try:
        parse_crontab(line.text)
    except ValueError as error:
        assert "never due" in str(error)  # noqa: PT017 - the rest of the test is for the others
        return
    name, day = place
    start = day.replace(tzinfo=UTC) + offset * MINUTE
    check(line, name, start, start + length * MINUTE)


@pytest.mark.parametrize(
    "text, name, after, expected",
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00Z",
            ["2011-12-29T22:00Z", "2011-12-30T10:00Z", "2011-12-30T22:00Z"],
        ),
        ("0 0 13 * 5", "UTC", "2026-02-01T00:00Z", ["2026-02-06T00:00Z", "2026-02-13T00:00Z", "2026-02-20T00:00Z"]),
        ("0 0 * * 7", "UTC", "2026-02-02T00:00Z", ["2026-02-08T00:00Z"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00Z", ["2104-02-29T00:00Z"]),
        ("@yearly", "Asia/Kathmandu", "2026-02-02T00:00Z", ["2026-12-31T18:15Z"]),
    ],
)
def test_instants_by_hand(text: str, name: str, after: str, expected: list[str]) -> None:
    """Known answers, so that the oracle is not the only witness."""
    schedule = Schedule(parse_crontab(text), ZoneInfo(name))
    at = datetime.fromisoformat(after)

    for instant in expected:
        at = schedule.after(at)
        assert at == datetime.fromisoformat(instant)


# ------------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
    "options, field, words",
    [
        ({"schedule": "0 0 30 2 *"}, "schedule", "never due"),
        ({"schedule": "* * * * * *"}, "schedule", "seconds and years are not part"),
        ({"schedule": "0 3 * * *", "timezone": "Mars/Olympus"}, "timezone", "not a time zone"),
        ({"schedule": "0 3 * * *", "catch_up": "some"}, "catch_up", "'none', 'last' or 'all'"),
        ({"schedule": "0 3 * * *", "deadline": "5 minuts"}, "deadline", "write 5m or PT5M"),
        ({"schedule": "0 3 * * *", "data": {"caught_up": 1}}, "data", "set by the schedule itself"),
        ({"schedule": "0 3 * * *", "when": "x"}, "when", "Extra inputs"),
    ],
)
def test_bad_options_are_refused_at_load(options: dict[str, Any], field: str, words: str) -> None:
    """The error names the field and says what to write."""
    with pytest.raises(ValidationError) as refusal:
        CronOptions.model_validate(options)

    (error,) = refusal.value.errors()
    assert error["loc"] == (field,)
    assert words in error["msg"]


# -------------------------------------------------------------------------------------------------- the source


class Nightly:
    """A schedule over an inbox, and a clock that the test moves."""

    def __init__(self, start: datetime = START, **options: Any) -> None:
        self.clock = ManualClock(start)
        self.inbox = MemoryInbox(name="nightly", clock=self.clock)
        self.options = {"schedule": "0 3 * * *", **options}
        self.restart()

    def restart(self, **options: Any) -> datetime | None:
        self.options |= options
        self.source = CronSource(CronOptions(**self.options), self.inbox.context(Path()))
        return self.poll()

    def poll(self) -> datetime | None:
        return self.source.poll(self.clock.now())

    def after(self, by: timedelta) -> datetime | None:
        self.clock.advance(by)
        return self.poll()

    @property
    def ids(self) -> list[str]:
        return [event.source_id for event in self.inbox.events]


def test_a_new_schedule_starts_from_now() -> None:
    """Nothing is back-filled, and the first answer is the next instant."""
    nightly = Nightly()

    assert nightly.poll() == datetime(2026, 3, 2, 3, tzinfo=UTC)
    assert not nightly.inbox.events


def test_an_event_says_what_it_is() -> None:
    """Its id and its time are the nominal instant, whenever it is emitted."""
    nightly = Nightly(timezone="Europe/Berlin", data={"share": 0.5})

    due = nightly.after(timedelta(hours=13, minutes=30, seconds=2.5))

    (event,) = nightly.inbox.events
    assert event.source == "/sources/nightly"
    assert event.source_id == "nightly@2026-03-02T02:00:00Z"
    assert event.type == "schedule.tick"
    assert event.time == datetime(2026, 3, 2, 2, tzinfo=UTC)
    assert event.data == {
        "share": 0.5,
        "scheduled_at": "2026-03-02T02:00:00Z",
        "late_seconds": 2.5,
        "caught_up": 0,
        "missed_since": None,
    }
    assert due == datetime(2026, 3, 3, 2, tzinfo=UTC)


def test_G08_an_instant_is_emitted_once_whatever_restarts() -> None:
    nightly = Nightly()
    nightly.after(timedelta(days=1))

    nightly.restart()
    nightly.poll()

    assert nightly.ids == ["nightly@2026-03-02T03:00:00Z"]
    assert not nightly.inbox.duplicates


@pytest.mark.parametrize(
    "catch_up, expected",
    [("none", []), ("last", [(4, 3)]), ("all", [(1, 0), (2, 0), (3, 0), (4, 0)])],
)
def test_catching_up(catch_up: str, expected: list[tuple[int, int]]) -> None:
    """Four nights were missed: none, the last (which counts the others), or all of them."""
    nightly = Nightly(catch_up=catch_up)

    nightly.after(timedelta(days=4))

    nights = [(event.time.day - 1, event.data["caught_up"]) for event in nightly.inbox.events if event.time]
    assert nights == expected


def test_G08_what_none_leaves_out_is_counted_by_the_next_event() -> None:
    """Nothing is lost in silence: the next event says how many instants were left out, and since when."""
    nightly = Nightly(catch_up="none")
    nightly.after(timedelta(days=4))

    nightly.clock.advance(datetime(2026, 3, 6, 3, tzinfo=UTC) - nightly.clock.now())
    nightly.restart()

    (event,) = nightly.inbox.events
    assert event.source_id == "nightly@2026-03-06T03:00:00Z"
    assert event.data["caught_up"] == 4
    assert event.data["missed_since"] == "2026-03-02T03:00:00Z"
    assert [line[1] for line in nightly.inbox.log.lines] == ["schedule.missed"]


@pytest.mark.parametrize("late, count", [(timedelta(minutes=59), 1), (timedelta(minutes=61), 0)])
def test_an_instant_past_its_deadline_is_left_out(late: timedelta, count: int) -> None:
    nightly = Nightly(deadline="1h")

    nightly.after(datetime(2026, 3, 2, 3, tzinfo=UTC) + late - START)

    assert len(nightly.inbox.events) == count


def test_G12_all_is_capped_and_says_so() -> None:
    """The newest are emitted, the oldest of them counts what was dropped, and it shows until the next instant."""
    nightly = Nightly(schedule="* * * * *", catch_up="all")

    nightly.after(timedelta(minutes=CATCH_UP_LIMIT + 250))

    events = nightly.inbox.events
    assert len(events) == CATCH_UP_LIMIT
    assert events[-1].time == nightly.clock.now()
    assert events[0].data["caught_up"] == 250
    assert "250 instants" in nightly.inbox.complaints["catch_up"]
    nightly.after(MINUTE)
    assert not nightly.inbox.complaints


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_ten_years_of_minutes_are_cheap(catch_up: str) -> None:
    """Its cost does not grow with what was missed, also where the clock is set twice a year."""
    nightly = Nightly(schedule="* * * * *", catch_up=catch_up, timezone="America/New_York")
    nightly.clock.advance(timedelta(days=3653))
    clock = SystemClock()
    started = clock.monotonic()

    nightly.restart()

    assert clock.monotonic() - started < 2.0
    counted = sum(event.data["caught_up"] + 1 for event in nightly.inbox.events)
    assert counted == 3653 * 1440 - 10 * 60  # the hour that each autumn shows twice counts once


@pytest.mark.parametrize("change", [{"schedule": "30 3 * * *"}, {"timezone": "Europe/Berlin"}])
def test_an_edited_schedule_starts_from_now(change: dict[str, str]) -> None:
    """What would have been due before the edit is not made up for."""
    nightly = Nightly()
    nightly.clock.advance(timedelta(days=3))

    nightly.restart(**change)

    assert not nightly.inbox.events


def test_another_way_to_write_it_is_no_edit() -> None:
    nightly = Nightly(schedule="0 0 * * 0")
    nightly.clock.advance(timedelta(days=7))

    nightly.restart(schedule="@weekly")

    assert nightly.ids == ["nightly@2026-03-08T00:00:00Z"]


@pytest.mark.parametrize("jump", [timedelta(seconds=1), timedelta(hours=1), timedelta(days=30), timedelta(days=3650)])
def test_G08_a_clock_that_is_set_back_repeats_nothing(jump: timedelta) -> None:
    """What was emitted stays emitted, and when the clock is right the schedule goes on."""
    nightly = Nightly(schedule="*/10 * * * *")
    nightly.after(timedelta(minutes=30))
    before = nightly.ids

    nightly.clock.set_now(nightly.clock.now() - jump)
    nightly.poll()
    assert nightly.ids == before
    nightly.clock.set_now(START + timedelta(minutes=40))
    nightly.poll()

    assert len(set(nightly.ids)) == len(nightly.ids)
    assert nightly.ids[-1] == "nightly@2026-03-01T13:10:00Z"


def test_a_clock_that_was_far_ahead_does_not_silence_the_schedule() -> None:
    """After an excursion of ten years it goes on from the right time, instead of waiting for ten years."""
    nightly = Nightly()
    nightly.clock.set_now(START + timedelta(days=3650))
    nightly.poll()

    nightly.clock.set_now(START)
    assert nightly.poll() == datetime(2026, 3, 2, 3, tzinfo=UTC)
    nightly.after(timedelta(days=1))

    assert nightly.ids[-1] == "nightly@2026-03-02T03:00:00Z"


def test_a_schedule_asked_twice_in_a_minute_has_nothing_to_do() -> None:
    nightly = Nightly()
    batches = len(nightly.inbox.batches)

    nightly.after(timedelta(seconds=1))

    assert len(nightly.inbox.batches) == batches


def test_G08_a_busy_store_is_tried_again() -> None:
    """Nothing is marked, and the answer is when to come back."""
    nightly = Nightly()
    nightly.inbox.refusals, nightly.inbox.refused_for_seconds = 1, 7.0

    due = nightly.after(timedelta(days=1))

    assert due == nightly.clock.now() + timedelta(seconds=7)
    assert not nightly.inbox.events
    nightly.poll()
    assert nightly.ids == ["nightly@2026-03-02T03:00:00Z"]
