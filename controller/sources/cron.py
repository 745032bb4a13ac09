"""A crontab as a source: one event at each nominal instant, whatever restarts, stops or sets the
clock.

What a line means is crontab(5) (`core/schedule.py` reads it); APScheduler's triggers walk along it.
Its own reading of a crontab differs (0 is Monday, 7 is refused, the two days are joined by AND, an
hour that comes twice counts twice), so a line is translated to triggers by name, and these run over
the *wall clock*: they are told that they live in UTC, and what they answer is then placed in the
real zone. A wall time that the clock skips becomes the first valid instant after it, several such
become one event, and a wall time that comes twice counts the first time.

The ledger holds the last nominal instant that was handled; everything after it, up to now, is due.
An instant is handled when it was emitted, or left out as `catch_up` says; `data.caught_up` of the
next event counts what was left out, so nothing is lost in silence. A schedule that is new, or whose
line or zone was changed, starts from now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, Protocol, cast
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from pydantic import Field, field_validator

from controller.core.model import Json, LedgerEntry, NewEvent
from controller.core.schedule import WEEKDAYS, Crontab, first_instant, parse_crontab, parse_timezone
from controller.errors import StoreBusy
from controller.ports import Batch, Duration, PluginOptions, SourceContext, refusal

#: `catch_up: all` emits at most so many instants, the newest; the oldest of them says how many were
#: dropped.
CATCH_UP_LIMIT = 1_000
#: With `catch_up: none`, an instant is still on time this long after it.
_ON_TIME = timedelta(minutes=1)
#: A ledger that is further ahead of the clock than this was written while the clock was wrong.
_CLOCK_WAS_WRONG = timedelta(days=1)
_OUR_DATA = frozenset({"scheduled_at", "late_seconds", "caught_up", "missed_since"})
_LEDGER_KEY = "last"
_MINUTE = timedelta(minutes=1)


class CronOptions(PluginOptions):
    """What a schedule is told."""

    schedule: str = Field(description="Five fields of crontab, or @hourly, @daily, @weekly, @monthly, @yearly")
    timezone: str = Field("UTC", description="IANA name of the zone whose wall clock the schedule means")
    catch_up: Literal["none", "last", "all"] = Field(
        "last",
        description="What to emit of the instants that passed while nobody listened: nothing, the newest, "
        f"or all (at most the newest {CATCH_UP_LIMIT})",
    )
    deadline: Duration | None = Field(
        None,
        description="An instant that is later than this is left out, and counted; "
        "by default 1m with catch_up none, and no limit otherwise",
    )
    event_type: str = Field("schedule.tick", min_length=1, description="CloudEvents type of the events")
    data: dict[str, Any] = Field(default_factory=dict, description="Fields to add to the events' data")

    @field_validator("schedule")
    @classmethod
    def _schedule_is_crontab(cls, value: str) -> str:
        try:
            parse_crontab(value)
        except ValueError as error:
            raise refusal(str(error)) from None
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, value: str) -> str:
        try:
            parse_timezone(value)
        except ValueError as error:
            raise refusal(str(error)) from None
        return value

    @field_validator("data")
    @classmethod
    def _data_is_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OUR_DATA & value.keys()):
            message = f"the field {taken[0]!r} is set by the schedule itself; use another name"
            raise refusal(message)
        return value


class _Trigger(Protocol):
    """The part of an APScheduler trigger that is used here."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None: ...


class Schedule:
    """The instants of a crontab in a time zone."""

    def __init__(self, crontab: Crontab, zone: ZoneInfo) -> None:
        self._crontab = crontab
        self._zone = zone
        self._triggers = _triggers(crontab)

    def after(self, instant: datetime) -> datetime:
        """Return the first instant (UTC) of the schedule after `instant`."""
        return next(self._from(instant))

    def newest(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the last instants in (after, until], at most `limit`, in order.

        Looks back from the end in steps that grow, so that its cost depends on `limit` and not on
        the length of the span.
        """
        step = _MINUTE * limit
        while True:
            start = after if until - after <= step else until - step
            found = list(self._between(start, until))
            if start == after or len(found) >= limit:
                return found[-limit:]
            step *= 8

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many instants lie in (after, until].

        A day on which the clock is not set is a multiplication; only the others, and the two at the
        ends, are walked through.
        """
        first = self._wall(after).date()
        last = self._wall(until).date()
        per_day = len(self._crontab.hours) * len(self._crontab.minutes)
        total, walked = 0, set[datetime]()
        for ordinal in range(first.toordinal() - 1, last.toordinal() + 2):
            day = first.fromordinal(ordinal)
            if not self._crontab.due_on(day):
                continue
            if first < day < last and self._is_plain(ordinal):
                total += per_day
            else:
                instants = (first_instant(wall, self._zone) for wall in self._crontab.times_on(day))
                walked.update(instant for instant in instants if after < instant <= until)
        return total + len(walked)

    def _between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        for instant in self._from(after):
            if instant > until:
                return
            yield instant

    def _from(self, after: datetime) -> Iterator[datetime]:
        """Walk along the instants after `after`.

        The wall clock decides what comes next; within an hour that comes a second time it offers
        what has been, and within a skipped one it offers the same instant several times.
        """
        wall = self._wall(after)
        newest = after
        while True:
            wall = self._next_wall(wall)
            instant = first_instant(wall, self._zone)
            if instant > newest:
                newest = instant
                yield instant

    def _next_wall(self, wall: datetime) -> datetime:
        """Return the first wall time after `wall` at which the line is due."""
        pretended = wall.replace(tzinfo=UTC) + timedelta(microseconds=1)
        found = (trigger.get_next_fire_time(None, pretended) for trigger in self._triggers)
        return min(at for at in found if at is not None).replace(tzinfo=None)

    def _wall(self, instant: datetime) -> datetime:
        return instant.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _is_plain(self, ordinal: int) -> bool:
        """Return whether the clock runs evenly from the day before to the day after."""
        midnights = (datetime.fromordinal(ordinal + offset) for offset in (-1, 0, 1, 2))
        offsets = [midnight.replace(tzinfo=self._zone).utcoffset() for midnight in midnights]
        return all(one == other for one, other in pairwise(offsets))


def _triggers(crontab: Crontab) -> Sequence[_Trigger]:
    """Return the triggers that together make up a line: two of them when either day will do."""
    shared: dict[str, Any] = {
        "month": _listed(crontab.months, 12),
        "hour": _listed(crontab.hours, 24),
        "minute": _listed(crontab.minutes, 60),
        "second": "0",
        "timezone": UTC,
    }
    days = _listed(crontab.days, 31)
    weekdays = _listed(tuple(WEEKDAYS[number] for number in crontab.weekdays), 7)
    if crontab.either_day:
        return [
            cast("_Trigger", CronTrigger(day=days, **shared)),
            cast("_Trigger", CronTrigger(day_of_week=weekdays, **shared)),
        ]
    return [cast("_Trigger", CronTrigger(day=days, day_of_week=weekdays, **shared))]


def _listed(values: Sequence[int | str], size: int) -> str:
    return "*" if len(values) == size else ",".join(str(value) for value in values)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    """What the ledger holds of a schedule."""

    #: The last nominal instant that was handled, or when the schedule was first seen.
    last: datetime
    #: The line and the zone it was handled under.
    schedule: str
    timezone: str
    #: Instants that were left out since the last event …
    missed: int = 0
    #: … and the first of them.
    missed_since: datetime | None = None

    def to_json(self) -> Json:
        return {
            "last": _iso(self.last),
            "schedule": self.schedule,
            "timezone": self.timezone,
            "missed": self.missed,
            "missed_since": _iso(self.missed_since) if self.missed_since else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> _Memory:
        since = value["missed_since"]
        return cls(
            last=datetime.fromisoformat(value["last"]),
            schedule=value["schedule"],
            timezone=value["timezone"],
            missed=value["missed"],
            missed_since=datetime.fromisoformat(since) if since else None,
        )


class CronSource:
    """Emits an event at each instant of a crontab; a `TimedSource`."""

    Options = CronOptions

    def __init__(self, options: CronOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._crontab = parse_crontab(options.schedule)
        self._schedule = Schedule(self._crontab, parse_timezone(options.timezone))

    def poll(self, now: datetime) -> datetime | None:
        """Emit what is due and return the next instant of the schedule.

        When the store is busy nothing is marked, and the answer is the time to try again.
        """
        try:
            memory = self._remember(now)
            if now > memory.last:
                memory = self._catch_up(memory, now)
        except StoreBusy as busy:
            self._context.log.warning("schedule.store_busy", source=self._context.name, error=busy.message)
            return now + timedelta(seconds=busy.after_seconds)
        return self._schedule.after(max(memory.last, now))

    def _remember(self, now: datetime) -> _Memory:
        """Return what the ledger holds; a schedule that it does not hold, or holds otherwise,
        starts from now.
        """
        stored = self._context.recall(_LEDGER_KEY).get(_LEDGER_KEY)
        memory = None if stored is None else _Memory.from_json(stored)
        fresh = _Memory(last=now, schedule=self._crontab.text, timezone=self._options.timezone)
        if memory is None or (memory.schedule, memory.timezone) != (fresh.schedule, fresh.timezone):
            self._store(fresh)
            return fresh
        if memory.last - now > _CLOCK_WAS_WRONG:
            self._context.log.warning(
                "schedule.clock_set_back",
                source=self._context.name,
                last=_iso(memory.last),
                now=_iso(now),
            )
            self._store(fresh)
            return fresh
        return memory

    def _catch_up(self, memory: _Memory, now: datetime) -> _Memory:
        """Emit what became due after `memory.last`, and return what is remembered then."""
        limit = CATCH_UP_LIMIT if self._options.catch_up == "all" else 1
        due = self._schedule.newest(memory.last, now, limit)
        if not due:
            return memory
        chosen = [instant for instant in due if not self._is_too_late(instant, now)]
        left_out = self._schedule.count(memory.last, now) - len(chosen)
        if left_out:
            memory = replace(
                memory,
                missed=memory.missed + left_out,
                missed_since=memory.missed_since or self._schedule.after(memory.last),
            )
            self._context.log.warning(
                "schedule.missed",
                source=self._context.name,
                count=left_out,
                catch_up=self._options.catch_up,
            )
        events = [
            self._event(instant, now, memory if position == 0 else None) for position, instant in enumerate(chosen)
        ]
        kept = replace(memory, last=due[-1])
        if events:
            kept = replace(kept, missed=0, missed_since=None)
        self._store(kept, events)
        self._say_what_was_dropped(left_out)
        return kept

    def _is_too_late(self, instant: datetime, now: datetime) -> bool:
        deadline = self._options.deadline
        if deadline is None and self._options.catch_up == "none":
            deadline = _ON_TIME
        return deadline is not None and now - instant > deadline

    def _say_what_was_dropped(self, left_out: int) -> None:
        """Complain when `all` could not be kept; it is well again at the next instant that comes in
        time.
        """
        reason = None
        if left_out and self._options.catch_up == "all":
            reason = f"{left_out} instants of {self._options.schedule!r} were dropped: too late, or more than {CATCH_UP_LIMIT}"
        self._context.complain("catch_up", reason)

    def _event(self, instant: datetime, now: datetime, memory: _Memory | None) -> NewEvent:
        """Make the event of a nominal instant; the first of several stands for what was left out
        before it.
        """
        since = memory.missed_since if memory else None
        return NewEvent(
            source=f"/sources/{self._context.name}",
            source_id=f"{self._context.name}@{_iso(instant)}",
            type=self._options.event_type,
            time=instant,
            data={
                **self._options.data,
                "scheduled_at": _iso(instant),
                "late_seconds": (now - instant).total_seconds(),
                "caught_up": memory.missed if memory else 0,
                "missed_since": _iso(since) if since else None,
            },
        )

    def _store(self, memory: _Memory, events: Sequence[NewEvent] = ()) -> None:
        self._context.emit(Batch(events=events, ledger=[LedgerEntry(key=_LEDGER_KEY, value=memory.to_json())]))


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
