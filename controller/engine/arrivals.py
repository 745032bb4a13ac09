"""Counts what comes in, by source, in memory: the hot path pays for a look-up and a few additions a batch.

The inbox counts, the doctor (`doctor.py`) takes what was counted and adds it to the source's row, the API reads.
Nothing here touches the store.
Several processes may hear one source, so what is kept here is only what is not written yet, never a total.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

from controller.core.model import TEST_EVENT, NewEvent, Receipt
from controller.core.rhythm import MAX_ARRIVALS, TOGETHER_SECONDS, Arrival, SourceNews


class _Tally:
    """What was heard of one source and is not written yet, and when it was heard last."""

    __slots__ = ("arrivals", "dead", "duplicates", "heard", "last_at", "last_event_id", "refused", "stored")

    def __init__(self) -> None:
        #: Monotonic seconds of the last sign of life in this process.
        self.heard: float | None = None
        self.clear()

    def clear(self) -> None:
        self.stored = self.duplicates = self.dead = self.refused = 0
        self.last_event_id: str | None = None
        #: Seconds since 1970.
        self.last_at = 0.0
        #: The latest, as [seconds since 1970, count, delay].
        self.arrivals: deque[tuple[float, list[int], float | None]] = deque(maxlen=MAX_ARRIVALS)

    @property
    def is_empty(self) -> bool:
        return not (self.arrivals or self.refused)

    def news(self, source: str) -> SourceNews:
        return SourceNews(
            source=source,
            stored=self.stored,
            duplicates=self.duplicates,
            dead=self.dead,
            refused=self.refused,
            last_event_id=self.last_event_id,
            last_at=datetime.fromtimestamp(self.last_at, UTC) if self.last_event_id is not None else None,
            arrivals=tuple(
                Arrival(at=datetime.fromtimestamp(at, UTC), count=count[0], delay_seconds=delay)
                for at, count, delay in self.arrivals
            ),
        )

    def add_before(self, news: SourceNews) -> None:
        """Take back what could not be written: it came before what came meanwhile."""
        self.stored += news.stored
        self.duplicates += news.duplicates
        self.dead += news.dead
        self.refused += news.refused
        if self.last_event_id is None and news.last_at is not None:
            self.last_event_id, self.last_at = news.last_event_id, news.last_at.timestamp()
        before = [(each.at.timestamp(), [each.count], each.delay_seconds) for each in news.arrivals]
        self.arrivals = deque([*before, *self.arrivals], maxlen=MAX_ARRIVALS)


class Arrivals:
    """What came in and was not written yet, by source. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def count(
        self,
        origin: str,
        events: Sequence[NewEvent],
        receipts: Sequence[Receipt],
        *,
        duplicates: int,
        dead: int,
        at: float,
        monotonic: float,
    ) -> None:
        """Count a batch that is durable now: `at` in seconds since 1970, and by the clock that does not jump.

        A test event is no sign of life.
        """
        if len(events) == 1 and events[0].type == TEST_EVENT and not dead:
            return
        if not events and not dead:
            return
        with self._lock:
            tally = self._tally(origin)
            tally.heard = monotonic
            new = len(receipts) - duplicates
            tally.stored += new
            tally.duplicates += duplicates
            tally.dead += dead
            if new:
                tally.last_at = at
                tally.last_event_id = _newest(receipts, any_known=bool(duplicates))
            if tally.arrivals and 0 <= at - tally.arrivals[-1][0] < TOGETHER_SECONDS:
                tally.arrivals[-1][1][0] += len(events) + dead
            else:
                tally.arrivals.append((at, [len(events) + dead], _delay(events, at)))

    def refuse(self, origin: str, count: int) -> None:
        """Count events that the store did not take."""
        with self._lock:
            self._tally(origin).refused += count

    def names(self) -> list[str]:
        """Return the sources of which anything came."""
        with self._lock:
            return list(self._tallies)

    def heard(self, origin: str) -> float | None:
        """Return the last sign of life of a source in this process, in monotonic seconds."""
        tally = self._tallies.get(origin)
        return None if tally is None else tally.heard

    def pending(self, origin: str) -> SourceNews | None:
        """Return what came of a source and was not taken to be written; None for nothing."""
        with self._lock:
            tally = self._tallies.get(origin)
            return None if tally is None or tally.is_empty else tally.news(origin)

    def take(self) -> list[SourceNews]:
        """Return what came since this was asked last, to write it."""
        with self._lock:
            full = [(name, tally) for name, tally in self._tallies.items() if not tally.is_empty]
            found = [tally.news(name) for name, tally in full]
            for _, tally in full:
                tally.clear()
            return found

    def again(self, news: Sequence[SourceNews]) -> None:
        """Take back what `take` returned: it could not be written."""
        with self._lock:
            for each in news:
                self._tally(each.source).add_before(each)

    def _tally(self, origin: str) -> _Tally:
        tally = self._tallies.get(origin)
        if tally is None:
            tally = self._tallies[origin] = _Tally()
        return tally


def _newest(receipts: Sequence[Receipt], *, any_known: bool) -> str:
    """Return our id of the last event that was new."""
    if not any_known:
        return receipts[-1].event_id
    return next(receipt.event_id for receipt in reversed(receipts) if not receipt.duplicate)


def _delay(events: Sequence[NewEvent], at: float) -> float | None:
    """Return the seconds from an event's own time to its arrival; a source's own catching up shows in it too."""
    for event in reversed(events):
        if event.time is not None:
            return round(at - event.time.timestamp(), 3)
    return None
