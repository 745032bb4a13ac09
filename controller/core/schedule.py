"""The wall clock as judgements need it: time zones, quiet hours, and lines of crontab.

A schedule is written in the wall time of a zone, and the controller lives by instants in UTC. Two
rules join them. A wall time that the clock skips (spring) stands for the first valid instant after
it. A wall time that comes twice (autumn) stands for the first of the two, except where a window of
quiet hours ends: it ends at the second, so that it is quiet whenever the wall clock reads a time
inside the window.

Nothing here tells the time; `sources/cron.py` walks along a crontab, the stage `quiet_hours` asks
about windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: Names of the weekdays, Monday first as in `date.weekday()`.
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: Windows that follow each other without a gap are followed no further than this.
_MERGE_LIMIT = timedelta(days=8)
_MINUTES_A_DAY = 24 * 60
_BETWEEN = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", re.ASCII)


# -------------------------------------------------------------------------- wall clock and instants


def parse_timezone(name: str) -> ZoneInfo:
    """Return the IANA zone of that name; raise ValueError when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = f"{name!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC"
        raise ValueError(message) from None


def first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant (UTC) of a naive wall time: the first that shows it, or the first valid
    one after it.

    It never goes down when `wall` goes up.
    """
    instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
        return instant
    return _end_of_gap(wall, zone)


def last_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant (UTC) of a naive wall time: the last that shows it, or the first valid one
    after it.
    """
    instant = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
        return instant
    return _end_of_gap(wall, zone)


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant of the transition that skips `wall`.

    By PEP 495 the two readings of a skipped time lie on the two sides of the transition; search
    between them.
    """
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)


# -------------------------------------------------------------------------------------- quiet hours


@lru_cache(maxsize=256)
def parse_between(text: str) -> tuple[int, int]:
    """Return start and end of `22:00-06:00` as minutes after midnight; raise ValueError.

    The end is above 1,440 when the window wraps midnight. `00:00-24:00` is the whole day; equal
    times are refused.
    """
    match = _BETWEEN.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a window of hours; write 22:00-06:00"
        raise ValueError(message)
    start_hour, start_minute, end_hour, end_minute = (int(part) for part in match.groups())
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY:
        message = f"{text!r} names a time that no clock shows; write 22:00-06:00"
        raise ValueError(message)
    if start == end:
        message = f"{text!r} starts when it ends; write 00:00-24:00 for the whole day"
        raise ValueError(message)
    return start, end if end > start else end + _MINUTES_A_DAY


@lru_cache(maxsize=256)
def parse_days(days: tuple[str, ...]) -> frozenset[int]:
    """Return the weekdays (Monday is 0) of `("mon", "tue")`; none named means all. Raise
    ValueError.
    """
    for day in days:
        if day.lower() not in WEEKDAYS:
            message = f"{day!r} is not a day of the week; write one of {', '.join(WEEKDAYS)}"
            raise ValueError(message)
    return frozenset(WEEKDAYS.index(day.lower()) for day in days) or frozenset(range(7))


def always_quiet(*, between: str, days: Sequence[str] = ()) -> bool:
    """Return whether the windows leave no time at all, which is an error in a configuration."""
    start, end = parse_between(between)
    return end - start == _MINUTES_A_DAY and len(parse_days(tuple(days))) == len(WEEKDAYS)


def quiet_until(now: datetime, *, between: str, timezone: str, days: Sequence[str] = ()) -> datetime | None:
    """Return the instant (UTC) at which the quiet that holds at `now` ends; None when it is not
    quiet.

    The start of a window is inside, its end is not. `days` are the days on which a window begins,
    in the wall time of `timezone`; none means every day. Windows that follow each other without a
    gap count as one, up to eight days. Raises ValueError for what `parse_between`, `parse_timezone`
    and `parse_days` refuse.
    """
    zone, span, weekdays = parse_timezone(timezone), parse_between(between), parse_days(tuple(days))
    end: datetime | None = None
    for window in _windows(now.astimezone(zone).date(), span, weekdays, zone):
        if window[0] <= (end or now) < window[1]:
            end = window[1]
    return end


@lru_cache(maxsize=1024)
def _windows(
    today: date, span: tuple[int, int], weekdays: frozenset[int], zone: ZoneInfo
) -> tuple[tuple[datetime, datetime], ...]:
    """Return the windows that may hold on a day or follow what holds then, in order; the same all day, for every policy."""
    windows = (_window(today, offset, span, weekdays, zone) for offset in range(-2, _MERGE_LIMIT.days + 1))
    return tuple(window for window in windows if window is not None)


def _window(
    today: date, offset: int, span: tuple[int, int], weekdays: frozenset[int], zone: ZoneInfo
) -> tuple[datetime, datetime] | None:
    """Return the window that begins `offset` days after `today`, or None when none does."""
    try:
        midnight = datetime.combine(today + timedelta(days=offset), time())
        start, end = (midnight + timedelta(minutes=minutes) for minutes in span)
    except OverflowError:
        return None
    if midnight.weekday() not in weekdays:
        return None
    return first_instant(start, zone), last_instant(end, zone)


# ------------------------------------------------------------------------------------------ crontab


@dataclass(frozen=True, kw_only=True, slots=True)
class Crontab:
    """A line of crontab, understood: when the wall clock makes it due."""

    #: The five fields, lower case, macros replaced; equal text, equal schedule.
    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    #: Days of the month.
    days: tuple[int, ...]
    months: tuple[int, ...]
    #: Monday is 0.
    weekdays: tuple[int, ...]
    #: True when a day is due if it fits day of month OR weekday: both are restricted (neither
    #: begins with `*`).
    either_day: bool

    def due_on(self, day: date) -> bool:
        """Return whether the line is due at some time of that day."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.weekday() in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week

    def times_on(self, day: date) -> list[datetime]:
        """Return the naive wall times of that day at which the line is due, in order."""
        if not self.due_on(day):
            return []
        return [datetime.combine(day, time(hour, minute)) for hour in self.hours for minute in self.minutes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    #: Names of the values, from `low` on.
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field(name="minute", low=0, high=59),
    _Field(name="hour", low=0, high=23),
    _Field(name="day of month", low=1, high=31),
    _Field(name="month", low=1, high=12, names=_MONTHS),
    # Both 0 and 7 are Sunday.
    _Field(name="day of week", low=0, high=7, names=("sun", *WEEKDAYS[:-1])),
)
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: A line that is not due within so many years of any day is refused: 29 February is due every eight
#: at worst.
_HORIZON_YEARS = 9


def parse_crontab(text: str) -> Crontab:
    """Return what a line of crontab means; raise ValueError with a sentence that names the field.

    Five fields (minute, hour, day of month, month, day of week) of lists, ranges, steps and names,
    or a macro such as `@daily`. As in crontab(5), a day is due when it fits the day of month OR the
    day of week if both are restricted; a field that begins with `*` counts as unrestricted, also
    with a step.
    """
    words = text.lower().split()
    if len(words) == 1 and words[0].startswith("@"):
        if words[0] not in _MACROS:
            message = f"{text!r} is not a schedule; known names are {', '.join(_MACROS)}"
            raise ValueError(message)
        words = _MACROS[words[0]].split()
    if len(words) != len(_FIELDS):
        extra = "; seconds and years are not part of a crontab" if len(words) > len(_FIELDS) else ""
        names = ", ".join(field.name for field in _FIELDS)
        message = f"{text!r} has {len(words)} fields instead of five: {names}{extra}"
        raise ValueError(message)
    minutes, hours, days, months, weekdays = (_values(word, field) for word, field in zip(words, _FIELDS, strict=True))
    crontab = Crontab(
        text=" ".join(words),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=tuple(sorted(days)),
        months=tuple(sorted(months)),
        weekdays=tuple(sorted({(number - 1) % 7 for number in weekdays})),
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
    )
    _refuse_never_due(text, crontab)
    return crontab


def _values(word: str, field: _Field) -> set[int]:
    values: set[int] = set()
    for item in word.split(","):
        values.update(_item(item, field))
    return values


def _item(item: str, field: _Field) -> Iterable[int]:
    """Return the values of one item of a list: `*`, `*/5`, `7`, `mon`, `1-5`, `8-18/2`."""
    span, slash, step_text = item.partition("/")
    low_text, dash, high_text = span.partition("-")
    if span == "*":
        low, high = field.low, field.high
    elif dash:
        low, high = _value(low_text, field, item), _value(high_text, field, item)
        # `fri-sun`: Sunday is the last day of a range that ends with it.
        high = 7 if high_text == "sun" and low > 0 else high
    elif slash:
        message = f"{field.name} {item!r}: a step needs a range; write {span}-{field.high}/{step_text}"
        raise ValueError(message)
    else:
        low = high = _value(span, field, item)
    if low > high:
        message = f"{field.name} {item!r}: the range ends before it begins"
        raise ValueError(message)
    step = 1 if not slash else _step(step_text, field, item)
    return range(low, high + 1, step)


def _value(text: str, field: _Field, item: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        kind = "a number or a name" if field.names else "a number"
        message = f"{field.name} {item!r}: {text!r} is not {kind}"
        raise ValueError(message)
    value = int(text)
    if not field.low <= value <= field.high:
        message = f"{field.name} {item!r}: {value} is not between {field.low} and {field.high}"
        raise ValueError(message)
    return value


def _step(text: str, field: _Field, item: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or int(text) == 0:
        message = f"{field.name} {item!r}: the step {text!r} is not a number from 1 on"
        raise ValueError(message)
    if int(text) > field.high:
        message = f"{field.name} {item!r}: the step {text} goes beyond {field.high}"
        raise ValueError(message)
    return int(text)


def _refuse_never_due(text: str, crontab: Crontab) -> None:
    """Refuse what no calendar, or hardly any year, fulfils: 30 February, a 29th on `*/7`."""
    day = date(1896, 3, 1)  # the longest wait there is: 1900 was no leap year
    for _ in range(_HORIZON_YEARS * 366):
        if crontab.due_on(day):
            return
        day += timedelta(days=1)
    message = f"{text!r} is never due: no day of {_HORIZON_YEARS} years fits day and month"
    raise ValueError(message)
