"""Every time zone of the database over ten years: crontabs, quiet hours and calendars against an oracle of its own.

    python tests/campaign/zones.py [--zones NAME…] [--step MINUTES] [--seed N] [--log FILE]

The oracle knows nothing of naive times, folds and gaps: it asks the zone for its offset at instants only, every three hours, finds the
instants at which that changes, and from there on adds and subtracts whole seconds.
Zones with the same changes in these years are one zone under several names, and are tried under the first of them.
`tests/unit/core/test_zones.py` tries a sample of this in seconds.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from controller.core.calendar import Calendar, closed_until
from controller.core.schedule import WEEKDAYS, parse_crontab, quiet_until
from controller.sources.cron import Schedule

FIRST, LAST = 2018, 2027
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGIN = int((datetime(FIRST, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_END = int((datetime(LAST + 1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_PROBE = 3 * _HOUR
#: Around the whole, so that windows that reach over its edges are known.
_MARGIN = 20 * _DAY

#: Line, and what a person reads in it: whether a wall time (weekday with Monday 0, month, day, hour, minute) is due.
Due = Callable[[int, int, int, int, int], bool]
CRONS: dict[str, Due] = {
    "*/15 * * * *": lambda weekday, month, day, hour, minute: minute % 15 == 0,
    "0 * * * *": lambda weekday, month, day, hour, minute: minute == 0,
    "30 2 * * *": lambda weekday, month, day, hour, minute: (hour, minute) == (2, 30),
    "0 0 * * *": lambda weekday, month, day, hour, minute: (hour, minute) == (0, 0),
    "15,45 0-3 * * sun": lambda weekday, month, day, hour, minute: weekday == 6 and hour <= 3 and minute in (15, 45),
    "59 23 1 * fri": lambda weekday, month, day, hour, minute: (hour, minute) == (23, 59) and (day == 1 or weekday == 4),
}  # fmt: skip
#: `between`, days: as minutes after midnight and weekdays, as a person reads them.
QUIETS: dict[tuple[str, tuple[str, ...]], tuple[int, int, frozenset[int]]] = {
    ("22:00-06:00", ()): (1320, 1800, frozenset(range(7))),
    ("01:30-02:15", ()): (90, 135, frozenset(range(7))),
    ("02:00-03:00", ("sat", "sun")): (120, 180, frozenset((5, 6))),
    ("23:30-00:30", ()): (1410, 1470, frozenset(range(7))),
    ("00:00-24:00", ("sat", "sun")): (0, 1440, frozenset((5, 6))),
    ("00:00-01:00", ("mon", "wed", "fri")): (0, 60, frozenset((0, 2, 4))),
}


@dataclass(frozen=True)
class Stretch:
    """A time in which a zone's offset stays the same; in seconds since 1970."""

    begin: int
    end: int
    offset: int


class Zone:
    """A time zone by what its clock shows at instants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._info = ZoneInfo(name)
        self.stretches = tuple(self._find())
        self._begins = [stretch.begin for stretch in self.stretches]

    def _offset(self, at: int) -> int:
        moment = (_EPOCH + timedelta(seconds=at)).astimezone(self._info)
        offset = moment.utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    def _find(self) -> Iterator[Stretch]:
        begin, known = _BEGIN - _MARGIN, self._offset(_BEGIN - _MARGIN)
        for at in range(begin, _END + _MARGIN, _PROBE):
            if (found := self._offset(at + _PROBE)) != known:
                low, high = at, at + _PROBE
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if self._offset(middle) == found else (middle, high)
                yield Stretch(begin, high, known)
                begin, known = high, found
        yield Stretch(begin, _END + _MARGIN, known)

    @cached_property
    def changes(self) -> list[int]:
        """The instants at which the clock is set, within the ten years."""
        return [stretch.begin for stretch in self.stretches[1:] if _BEGIN <= stretch.begin < _END]

    def instants(self, wall: int) -> list[int]:
        """Return the instants at which the clock shows a wall time, in order; for a skipped one that of the change."""
        near = self.stretches[
            max(bisect_right(self._begins, wall - _DAY) - 1, 0) : bisect_right(self._begins, wall + _DAY)
        ]
        shown = [wall - each.offset for each in near if each.begin <= wall - each.offset < each.end]
        if shown:
            return sorted(shown)
        return [
            after.begin
            for before, after in pairwise(near)
            if after.begin + before.offset <= wall < after.begin + after.offset
        ][:1]

    def day_of(self, at: int) -> int:
        """Return the day (since 1970) that the clock shows at an instant."""
        return (at + self.stretches[bisect_right(self._begins, at) - 1].offset) // _DAY


def weekday_of(day: int) -> int:
    """Return the weekday of a day since 1970; Monday is 0."""
    return (day + 3) % 7


def moment(at: int) -> datetime:
    """Return an instant as the code under test takes it."""
    return _EPOCH + timedelta(seconds=at)


# ---------------------------------------------------------------------------------------------------------- crontab


def check_cron(zone: Zone, *, around: Sequence[int]) -> list[str]:
    """Compare what a line of crontab emits around the changes of the clock, and its number over the ten years."""
    problems = []
    for line, is_due in CRONS.items():
        schedule = Schedule(parse_crontab(line), ZoneInfo(zone.name))
        for change in around:
            since, until = change - 2 * _DAY, change + 2 * _DAY
            expected = due_instants(zone, is_due, since, until)
            found, at = [], moment(since)
            while (at := schedule.after(at)) <= moment(until):
                found.append(int((at - _EPOCH).total_seconds()))
            if found != expected:
                odd = sorted({*found} ^ {*expected})[:3]
                problems.append(f"{zone.name} {line!r} around {moment(change)}: {[str(moment(each)) for each in odd]}")
        if line.startswith(("30 2", "59 23")):
            counted = schedule.count(moment(_BEGIN), moment(_END))
            expected_count = len(
                due_instants(zone, is_due, _BEGIN, _END, step=_HOUR // 2 if line.startswith("30") else 59 * _MINUTE)
            )
            if counted != expected_count:
                problems.append(f"{zone.name} {line!r}: {counted} in ten years, expected {expected_count}")
    return problems


def due_instants(zone: Zone, is_due: Due, since: int, until: int, *, step: int = _MINUTE) -> list[int]:
    """Return the instants in (since, until] at which a line is due: step along the wall, minute by minute."""
    found: set[int] = set()
    first, last = (since - 2 * _DAY) // _DAY, (until + 2 * _DAY) // _DAY
    for day in range(first, last + 1):
        shown = date(1970, 1, 1) + timedelta(days=day)
        weekday = weekday_of(day)
        for minute in range(1440) if step == _MINUTE else ((150,) if step == _HOUR // 2 else (1439,)):
            if is_due(weekday, shown.month, shown.day, minute // 60, minute % 60):
                found.update(zone.instants(day * _DAY + minute * _MINUTE)[:1])
    return sorted(each for each in found if since < each <= until)


# ------------------------------------------------------------------------------------------- quiet hours, calendars

Interval = tuple[int, int]


def joined(intervals: Iterator[Interval]) -> list[Interval]:
    """Return intervals in order, with those that touch made one."""
    found: list[Interval] = []
    for begin, end in sorted(each for each in intervals if each[0] < each[1]):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def end_of(intervals: Sequence[Interval], at: int) -> int | None:
    """Return the end of the interval that holds an instant; its end is outside."""
    place = bisect_right(intervals, (at, _END * 2)) - 1
    return intervals[place][1] if place >= 0 and intervals[place][0] <= at < intervals[place][1] else None


def check_quiet(zone: Zone, *, at: Sequence[int]) -> list[str]:
    """Compare until when it is quiet, at these instants and at the edges of the windows around them."""
    problems = []
    for (between, days), (start, end, weekdays) in QUIETS.items():
        windows = joined(
            (zone.instants(day * _DAY + start * _MINUTE)[0], zone.instants(day * _DAY + end * _MINUTE)[-1])
            for day in range((_BEGIN - _MARGIN // 2) // _DAY, (_END + _MARGIN // 2) // _DAY)
            if weekday_of(day) in weekdays
        )
        for now in [*at, *_edges(windows, at)]:
            found = quiet_until(moment(now), between=between, timezone=zone.name, days=days)
            expected = end_of(windows, now)
            if found != (None if expected is None else moment(expected)):
                problems.append(
                    f"{zone.name} {between} {days} at {moment(now)}: {found}, expected {expected and moment(expected)}"
                )
    return problems


def check_calendars(zone: Zone, *, at: Sequence[int]) -> list[str]:
    """Compare until when calendars are closed: on the days of a change, those before and after, weekdays, and what comes every year."""
    changed = [zone.day_of(change) for change in zone.changes] or [zone.day_of(_BEGIN + 40 * _DAY)]
    closed: dict[str, tuple[Calendar, Callable[[int], bool]]] = {}
    for name, shift in (("the day", 0), ("before", -1), ("after", 1)):
        days = {day + shift for day in changed}
        closed[name] = (_calendar(zone, name, dates=sorted(days)), days.__contains__)
    closed["sundays"] = (
        Calendar(name="sundays", timezone=zone.name, days=("sun",)),
        lambda day: weekday_of(day) == 6,
    )
    closed["every year"] = (
        Calendar(name="every year", timezone=zone.name, dates=("12-25", "02-29", "12-30..01-02")),
        lambda day: _month_day(day) in {(12, 25), (2, 29), (12, 30), (12, 31), (1, 1), (1, 2)},
    )
    problems = []
    for names in (
        ("the day",),
        ("before",),
        ("after",),
        ("sundays",),
        ("every year",),
        ("sundays", "before", "every year"),
    ):
        calendars = [closed[name][0] for name in names]
        intervals = joined(
            (max(stretch.begin, day * _DAY - stretch.offset), min(stretch.end, (day + 1) * _DAY - stretch.offset))
            for day in range((_BEGIN - _MARGIN) // _DAY, (_END + _MARGIN) // _DAY)
            if any(closed[name][1](day) for name in names)
            for stretch in zone.stretches
            if stretch.begin - 2 * _DAY <= day * _DAY <= stretch.end + 2 * _DAY
        )
        for now in [*at, *_edges(intervals, at)]:
            found = closed_until(moment(now), calendars)
            expected = end_of(intervals, now)
            if (None if found is None else found[0]) != (None if expected is None else moment(expected)):
                problems.append(
                    f"{zone.name} {names} at {moment(now)}: {found}, expected {expected and moment(expected)}"
                )
    return problems


def _calendar(zone: Zone, name: str, *, dates: Sequence[int]) -> Calendar:
    texts = tuple((date(1970, 1, 1) + timedelta(days=day)).isoformat() for day in dates)
    return Calendar(name=name, timezone=zone.name, dates=texts)


def _month_day(day: int) -> tuple[int, int]:
    shown = date(1970, 1, 1) + timedelta(days=day)
    return shown.month, shown.day


def _edges(intervals: Sequence[Interval], at: Sequence[int]) -> list[int]:
    """Return the edges nearest to these instants, and the seconds before them."""
    found: set[int] = set()
    for each in at[:: max(len(at) // 60, 1)]:
        place = bisect_right(intervals, (each, _END * 2)) - 1
        for begin, end in intervals[max(place, 0) : place + 2]:
            found.update((begin - 1, begin, end - 1, end))
    return sorted(each for each in found if _BEGIN <= each < _END)


# ------------------------------------------------------------------------------------------------------------- whole


def check_zone(zone: Zone, *, step: int, seed: int, changes: int | None = None) -> list[str]:
    """Compare everything in one zone: every `step` minutes for a day and a half around (so many) changes, and at random."""
    chance = random.Random(f"{seed} {zone.name}")
    around = zone.changes if changes is None else zone.changes[:changes] + zone.changes[-changes:]
    at = {now for change in around for now in range(change - 36 * _HOUR, change + 36 * _HOUR, step * _MINUTE)}
    at |= {chance.randrange(_BEGIN, _END) for _ in range(100)}
    instants = sorted(now for now in at if _BEGIN <= now < _END)
    return [
        *check_cron(zone, around=around or [_BEGIN + 50 * _DAY]),
        *check_quiet(zone, at=instants),
        *check_calendars(zone, at=instants),
    ]


def distinct(names: Sequence[str]) -> list[Zone]:
    """Return the zones of these names, once for those that are the same in these years."""
    found: dict[tuple[Stretch, ...], Zone] = {}
    for name in names:
        zone = Zone(name)
        found.setdefault(zone.stretches, zone)
    return list(found.values())


def main() -> int:
    """Try every zone, or those that are named; returns 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zones", nargs="*", default=sorted(available_timezones()))
    parser.add_argument("--step", type=int, default=15, help="minutes between two instants around a change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log")
    options = parser.parse_args()
    began = time.monotonic()
    zones = distinct(options.zones)
    print(f"{len(options.zones)} names, {len(zones)} zones, {FIRST} to {LAST}, {len(WEEKDAYS)} days a week", flush=True)
    problems: list[str] = []
    for number, zone in enumerate(zones, start=1):
        found = check_zone(zone, step=options.step, seed=options.seed)
        problems += found
        print(f"{number}/{len(zones)} {zone.name}: {len(zone.changes)} changes, {len(found)} problems", flush=True)
    for problem in problems[:100]:
        print(problem)
    seconds = time.monotonic() - began
    line = (
        f"zones {FIRST}-{LAST}, seed {options.seed}: {len(options.zones)} names, {len(zones)} zones, "
        f"{len(problems)} problems in {seconds:.0f} s"
    )
    print(line)
    if options.log:
        with Path(options.log).open("a") as log:
            log.write(line + "\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
