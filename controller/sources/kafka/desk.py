"""Between the thread that reads and the thread that stores: one piece of work waits while another is stored.

So the next records are read and decoded while the database works, and never more than that lies in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.ports import Batch
from controller.sources.kafka.client import Partition, Record
from controller.sources.kafka.positions import Position


@dataclass(kw_only=True, slots=True, eq=False)
class Work:
    """What is stored in one transaction, and what follows once it is."""

    batch: Batch
    #: The records it was made of, so that it can be divided when the store refuses one of them.
    records: Sequence[Record]
    #: Where the partitions stand once it is stored.
    positions: Mapping[Partition, Position]
    #: Partitions that may be delivered once it is stored, and from where.
    starts: Mapping[Partition, int] | None = None
    #: Of the reader's assignment when it was made.
    generation: int = 0
    #: Set by the reader: the group took the partitions away, so whoever has them now reads it again.
    cancelled: bool = False
    #: Set by whoever stores it.
    stored: bool = False


class Desk:
    """Where work is handed over, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Work | None = None
        self._storing: Work | None = None
        self._done: list[Work] = []

    # ------------------------------------------------------------------------------------------------- for the reader

    def offer(self, work: Work) -> bool:
        """Hand over work; False when there is no room."""
        with self._changed:
            if self._waiting is not None:
                return False
            self._waiting = work
            self._changed.notify_all()
            return True

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most so long, and return whether there is room."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None, seconds)

    def is_idle(self) -> bool:
        """Return whether nothing waits, is being stored, or was stored without the reader knowing."""
        with self._changed:
            return self._waiting is None and self._storing is None and not self._done

    def done(self) -> list[Work]:
        """Return what was stored or given up since the last call."""
        with self._changed:
            done, self._done = self._done, []
            return done

    def drop(self) -> list[Work]:
        """Take back what waits, and give up what is being stored as soon as that can be; return both."""
        with self._changed:
            dropped = [work for work in (self._storing, self._waiting) if work is not None]
            for work in dropped:
                work.cancelled = True
            self._waiting = None
            self._changed.notify_all()
            return dropped

    # ------------------------------------------------------------------------------------------ for whoever stores it

    def take(self, seconds: float) -> Work | None:
        """Return the next work, None when there is none after so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None, seconds)
            self._storing, self._waiting = self._waiting, None
            self._changed.notify_all()
            return self._storing

    def finish(self, work: Work, *, stored: bool) -> None:
        """Tell the reader what became of the work that was taken."""
        with self._changed:
            work.stored = stored
            self._storing = None
            self._done.append(work)
            self._changed.notify_all()
