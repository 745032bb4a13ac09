"""Counts what comes in, by source, in memory: the hot path pays for two dictionary look-ups and a few additions a batch.

The inbox counts, the doctor (`doctor.py`) writes and judges, the API reads. Nothing here touches the store.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from controller.core.model import TEST_EVENT, NewEvent, Receipt
from controller.core.rhythm import MAX_ARRIVALS, TOGETHER_SECONDS, Arrival, SourceStat


class _Tally:
    """One source's numbers, as they are."""

    __slots__ = ("arrivals", "changed", "dead", "duplicates", "heard", "last_at", "last_event_id", "refused", "stored")

    def __init__(self) -> None:
        self.stored = self.duplicates = self.dead = self.refused = 0
        self.last_event_id: str | None = None
        #: Seconds since 1970.
        self.last_at = 0.0
        #: Monotonic seconds of the last sign of life in this process.
        self.heard: float | None = None
        #: The latest, as [seconds since 1970, count, delay].
        self.arrivals: deque[tuple[float, list[int], float | None]] = deque(maxlen=MAX_ARRIVALS)
        self.changed = False


class Arrivals:
    """What came in since the start, by source. Safe to use from several threads."""

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

        Called by one thread. A test event is no sign of life.
        """
        if len(events) == 1 and events[0].type == TEST_EVENT and not dead:
            return
        if not events and not dead:
            return
        tally = self._tallies.get(origin)
        if tally is None:
            with self._lock:
                tally = self._tallies.setdefault(origin, _Tally())
        tally.heard = monotonic
        if events:
            new = len(receipts) - duplicates
            tally.stored += new
            tally.duplicates += duplicates
            if new:
                tally.last_at = at
                tally.last_event_id = (
                    receipts[-1].event_id
                    if not duplicates
                    else next(receipt.event_id for receipt in reversed(receipts) if not receipt.duplicate)
                )
        tally.dead += dead
        if tally.arrivals and 0 <= at - tally.arrivals[-1][0] < TOGETHER_SECONDS:
            tally.arrivals[-1][1][0] += len(events) + dead
        else:
            with self._lock:
                tally.arrivals.append((at, [len(events) + dead], _delay(events, at)))
        tally.changed = True

    def refuse(self, origin: str, count: int) -> None:
        """Count events that the store did not take."""
        with self._lock:
            tally = self._tallies.setdefault(origin, _Tally())
            tally.refused += count
            tally.changed = True

    def names(self) -> list[str]:
        """Return the sources of which anything came."""
        with self._lock:
            return list(self._tallies)

    def changed(self) -> list[str]:
        """Return the sources of which anything came since this was asked last."""
        with self._lock:
            found = [(name, tally) for name, tally in self._tallies.items() if tally.changed]
        for _, tally in found:
            tally.changed = False
        return [name for name, _ in found]

    def again(self, names: Sequence[str]) -> None:
        """Take back that `changed` named these: they could not be written."""
        for name in names:
            if (tally := self._tallies.get(name)) is not None:
                tally.changed = True

    def heard(self, origin: str) -> float | None:
        """Return the last sign of life of a source in this process, in monotonic seconds."""
        tally = self._tallies.get(origin)
        return None if tally is None else tally.heard

    def added_to(self, before: SourceStat) -> SourceStat:
        """Return how a source is: what was written of it before this process, and what came since."""
        with self._lock:
            tally = self._tallies.get(before.source)
            if tally is None:
                return before
            arrivals = [
                Arrival(at=datetime.fromtimestamp(at, UTC), count=count[0], delay_seconds=delay)
                for at, count, delay in tally.arrivals
            ]
            known = tally.last_event_id is not None
            return replace(
                before,
                stored=before.stored + tally.stored,
                duplicates=before.duplicates + tally.duplicates,
                dead=before.dead + tally.dead,
                refused=before.refused + tally.refused,
                last_event_id=tally.last_event_id if known else before.last_event_id,
                last_at=datetime.fromtimestamp(tally.last_at, UTC) if known else before.last_at,
                arrivals=(*before.arrivals, *arrivals)[-MAX_ARRIVALS:],
            )


def _delay(events: Sequence[NewEvent], at: float) -> float | None:
    """Return the seconds from an event's own time to its arrival; a source's own catching up shows in it too."""
    for event in reversed(events):
        if event.time is not None:
            return round(at - event.time.timestamp(), 3)
    return None
