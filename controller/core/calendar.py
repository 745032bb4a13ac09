"""Named calendars: holidays and freezes on which nothing is decided, or promoted.

A day is closed while the wall clock of the calendar's time zone shows its date, so a day lasts 23 or 25 hours when the clocks change.
A day that the zone skipped altogether (Samoa, 30 December 2011) never comes.
Nothing here tells the time: the stage `calendars` and the gatekeeper ask with their `now`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from controller.core.schedule import WEEKDAYS, first_instant, last_instant, parse_days, parse_timezone

#: The closed days of one calendar are followed no further than this; whoever asks then asks again.
FURTHEST = timedelta(days=400)
_DAY = timedelta(days=1)
_DATE = re.compile(r"(?:(?P<year>\d{4})-)?(?P<month>\d{2})-(?P<day>\d{2})", re.ASCII)
#: A leap year, so that every date that comes each year is in it.
_LEAP_YEAR = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Calendar:
    """Days that are closed, from midnight to midnight of a time zone."""

    name: str
    timezone: str = "UTC"
    #: Closed days as written: `2026-12-25`, `2026-12-20..2027-01-03` (both days inside), `12-25` (every year), `12-24..01-02`.
    dates: tuple[str, ...] = ()
    #: Closed weekdays: mon … sun.
    days: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Dates:
    """The dates of a calendar, understood."""

    #: First and last day of each closed stretch.
    spans: tuple[tuple[date, date], ...]
    #: (month, day) of what is closed every year.
    yearly: frozenset[tuple[int, int]]


def check_date(text: str) -> str:
    """Return the text of a closed day or stretch of days; raises ValueError with a sentence for the person who wrote it."""
    _read(text)
    return text


def closed_by(calendar: Calendar, day: date) -> bool:
    """Say whether a calendar closes a day of its time zone."""
    dates = _understood(calendar.dates)
    if calendar.days and day.weekday() in parse_days(calendar.days):
        return True
    return (day.month, day.day) in dates.yearly or any(first <= day <= last for first, last in dates.spans)


def closed_until(now: datetime, calendars: Sequence[Calendar]) -> tuple[datetime, Calendar] | None:
    """Return when all calendars are open again (UTC), with the one that closes `now`; None when none does.

    The instant is always later than `now`, but by less than twice `FURTHEST` and a day: a longer freeze is asked again then.
    Raises ValueError for dates, days and time zones that cannot be read.
    """
    closing = next((calendar for calendar in calendars if _is_closed(calendar, now)), None)
    if closing is None:
        return None
    until, limit = now, now + FURTHEST
    while until < limit:
        after = [_reopens(calendar, until) for calendar in calendars if _is_closed(calendar, until)]
        if not after:
            break
        until = max(after)
    return until, closing


def never_open(calendars: Iterable[Calendar]) -> bool:
    """Say whether what comes every week and every year leaves no day at all, whatever the time zones."""
    return _covers_all(
        tuple(sorted({day for calendar in calendars for day in calendar.days})),
        tuple(sorted({text for calendar in calendars for text in calendar.dates})),
    )


@lru_cache(maxsize=256)
def _covers_all(days: tuple[str, ...], dates: tuple[str, ...]) -> bool:
    yearly = _understood(dates).yearly
    every_day = [date(_LEAP_YEAR, 1, 1) + offset * _DAY for offset in range(366)]
    return len(set(days)) == len(WEEKDAYS) or all((day.month, day.day) in yearly for day in every_day)


def _is_closed(calendar: Calendar, at: datetime) -> bool:
    return closed_by(calendar, at.astimezone(parse_timezone(calendar.timezone)).date())


def _reopens(calendar: Calendar, now: datetime) -> datetime:
    """Return the next instant whose date is open, for a calendar that closes `now`."""
    zone = parse_timezone(calendar.timezone)
    day = now.astimezone(zone).date()
    last = day + FURTHEST
    while day < last:
        day += _DAY
        if not closed_by(calendar, day) and (begin := _begin_of(day, zone, now)) is not None:
            return begin
    return max(first_instant(datetime.combine(last, time()), zone), now + _DAY)


def _begin_of(day: date, zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return the first instant after `now` that has this date; None for a day that its zone skipped."""
    midnight = datetime.combine(day, time())
    # Where the clock is set back over midnight, the day begins twice.
    for begin in (first_instant(midnight, zone), last_instant(midnight, zone)):
        if begin > now and begin.astimezone(zone).date() == day:
            return begin.astimezone(UTC)
    return None


@lru_cache(maxsize=256)
def _understood(dates: tuple[str, ...]) -> _Dates:
    spans: list[tuple[date, date]] = []
    yearly: set[tuple[int, int]] = set()
    for text in dates:
        read = _read(text)
        if isinstance(read, tuple):
            spans.append(read)
        else:
            yearly |= read
    return _Dates(tuple(sorted(spans)), frozenset(yearly))


def _read(text: str) -> tuple[date, date] | frozenset[tuple[int, int]]:
    """Return the first and the last day of a stretch, or the days (month, day) of every year."""
    first_text, dots, last_text = text.strip().partition("..")
    first = _DATE.fullmatch(first_text.strip())
    last = _DATE.fullmatch(last_text.strip()) if dots else first
    if first is None or last is None or (first["year"] is None) is not (last["year"] is None):
        message = f"{text!r} is not a day; write 2026-12-25, 2026-12-20..2027-01-03, or 12-25 for every year"
        raise ValueError(message)
    begin, end = _day_of(first, text), _day_of(last, text)
    if first["year"] is None:
        return frozenset(_days_of_every_year(begin, end))
    if end < begin:
        message = f"{text!r} ends before it begins"
        raise ValueError(message)
    return begin, end


def _day_of(match: re.Match[str], text: str) -> date:
    try:
        return date(int(match["year"] or _LEAP_YEAR), int(match["month"]), int(match["day"]))
    except ValueError:
        message = f"{text!r} names a day that no calendar has"
        raise ValueError(message) from None


def _days_of_every_year(begin: date, end: date) -> Iterable[tuple[int, int]]:
    """Yield (month, day) of a stretch that comes every year; one that ends before it begins goes over the new year."""
    day = begin
    while True:
        yield day.month, day.day
        if (day.month, day.day) == (end.month, end.day):
            return
        day += _DAY
