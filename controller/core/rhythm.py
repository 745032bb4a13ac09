"""How often a source is heard, and whether it fell silent.

A source is *heard* whenever something of it became durable: a new event, one that was known before (an alert's repeat is a sign of life),
or a dead letter. What is kept of it is bounded: the latest arrivals, those within a second as one, from which rhythm, rate and the clock's
difference are read.
Silence is judged by the time during which we listened, which the caller measures with a clock that does not jump; what a daemon that was
down could not hear is nobody's silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

#: So many arrivals are kept of each source.
MAX_ARRIVALS = 64
#: Arrivals within this many seconds count as one.
TOGETHER_SECONDS = 1.0
#: After a start, a source is not called silent before it had this long to catch up (or what is expected of it, if that is shorter).
GRACE = timedelta(minutes=1)
#: The rate is taken over this span.
_RATE_SPAN = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """What came in within one second."""

    #: By our clock.
    at: datetime
    #: How many events.
    count: int
    #: Seconds from the event's own time to `at`, of one of them; negative when its clock is ahead of ours, None when it told no time.
    delay_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStat:
    """How a source has been. Counted since it was first configured; a crash loses the last few seconds of it."""

    source: str
    #: When it was first configured, or first heard.
    since: datetime
    #: New events.
    stored: int = 0
    #: Events that were known before.
    duplicates: int = 0
    #: Dead letters that came, also those that were known before, and whatever became of them.
    dead: int = 0
    #: Events that the store did not take; their producers were told to come again.
    refused: int = 0
    #: Our id of the newest event that was new.
    last_event_id: str | None = None
    #: When that event came.
    last_at: datetime | None = None
    #: The latest, oldest first; at most `MAX_ARRIVALS`.
    arrivals: tuple[Arrival, ...] = ()
    #: Set while it is silent: the instant from which on nothing was heard.
    silent_since: datetime | None = None
    #: For how long nothing had been heard when this was written last, by clocks that do not jump; None: nobody measured it.
    quiet_seconds: float | None = None
    #: When this was written last: until then, at least, we listened.
    updated_at: datetime | None = None

    @property
    def signs(self) -> int:
        """How many signs of life there ever were: it rises when any process hears the source."""
        return self.stored + self.duplicates + self.dead

    @property
    def heard_at(self) -> datetime | None:
        """The latest arrival of anything; None when nothing ever came."""
        return self.arrivals[-1].at if self.arrivals else None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceNews:
    """What one process heard of a source and has not written yet; fields as in `SourceStat`."""

    source: str
    stored: int = 0
    duplicates: int = 0
    dead: int = 0
    refused: int = 0
    last_event_id: str | None = None
    last_at: datetime | None = None
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rhythm:
    """How often something comes."""

    #: Half of the gaps between arrivals are shorter.
    median_seconds: float
    longest_seconds: float
    #: How many gaps that was read from.
    gap_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hearing:
    """Whether a source is silent, and when to ask again."""

    silent: bool
    #: A sentence with the values seen.
    reason: str
    #: Seconds until it becomes silent if nothing comes; None when it is.
    silent_in_seconds: float | None


def added(stat: SourceStat, news: SourceNews, now: datetime) -> SourceStat:
    """Return how a source has been with what was heard of it since, by this process or another.

    `now`: arrivals that lie behind it come from a clock that was set back, and count as coming now.
    """
    is_newer = news.last_at is not None and (stat.last_at is None or news.last_at >= min(stat.last_at, now))
    return replace(
        stat,
        stored=stat.stored + news.stored,
        duplicates=stat.duplicates + news.duplicates,
        dead=stat.dead + news.dead,
        refused=stat.refused + news.refused,
        last_event_id=news.last_event_id if is_newer else stat.last_event_id,
        last_at=news.last_at if is_newer else stat.last_at,
        arrivals=_merged(stat.arrivals, news.arrivals, now) if news.arrivals else stat.arrivals,
    )


def _merged(before: Sequence[Arrival], after: Sequence[Arrival], now: datetime) -> tuple[Arrival, ...]:
    """Return the latest arrivals of several processes in order, those within a second as one."""
    found: list[Arrival] = []
    for each in sorted((replace(each, at=min(each.at, now)) for each in (*before, *after)), key=lambda each: each.at):
        if found and (each.at - found[-1].at).total_seconds() < TOGETHER_SECONDS:
            found[-1] = replace(found[-1], count=found[-1].count + each.count)
        else:
            found.append(each)
    return tuple(found[-MAX_ARRIVALS:])


def rhythm(arrivals: Sequence[Arrival]) -> Rhythm | None:
    """Return the rhythm of the latest arrivals; None for fewer than three, which have none."""
    gaps = [max((later.at - earlier.at).total_seconds(), 0.0) for earlier, later in pairwise(arrivals)]
    if len(gaps) < 2:
        return None
    return Rhythm(median_seconds=median(gaps), longest_seconds=max(gaps), gap_count=len(gaps))


def rate_per_minute(arrivals: Sequence[Arrival], now: datetime) -> float:
    """Return how many events a minute came within the last five minutes, or since the oldest arrival that is kept if that is less."""
    recent = [arrival for arrival in arrivals if now - arrival.at <= _RATE_SPAN]
    if not recent:
        return 0.0
    span = _RATE_SPAN if len(recent) < len(arrivals) else now - recent[0].at
    minutes = max(span.total_seconds(), 60.0) / 60.0
    return sum(arrival.count for arrival in recent) / minutes


def clock_skew_seconds(arrivals: Sequence[Arrival]) -> float | None:
    """Return the median of (received − event time) over the latest arrivals that told a time; negative: its clock is ahead of ours."""
    delays = [arrival.delay_seconds for arrival in arrivals if arrival.delay_seconds is not None]
    return median(delays) if delays else None


def quiet_before_seconds(stat: SourceStat) -> float:
    """Return for how long nothing had been heard when this was written last; time in which nobody listened does not count."""
    if stat.quiet_seconds is not None:
        return stat.quiet_seconds
    if stat.updated_at is None:
        return 0.0
    return max((stat.updated_at - (stat.heard_at or stat.since)).total_seconds(), 0.0)


def judge_silence(
    expected: timedelta, *, quiet_seconds: float, listening_seconds: float, was_silent: bool = False
) -> Hearing:
    """Say whether a source from which an event is expected every `expected` is silent.

    `quiet_seconds`: for how long we listened without hearing anything of it.
    `listening_seconds`: how long we have listened without a break, so since our start; a source that did not count as silent before then
    is given `GRACE` to catch up.
    """
    wanted = expected.total_seconds()
    grace = 0.0 if was_silent else min(wanted, GRACE.total_seconds())
    missing = max(wanted - quiet_seconds, grace - listening_seconds)
    reason = f"nothing came for {quiet_seconds:.0f} s, something is expected every {wanted:.0f} s"
    if missing > 0:
        return Hearing(silent=False, reason=reason, silent_in_seconds=missing)
    return Hearing(silent=True, reason=reason, silent_in_seconds=None)
