"""Lays the chain over history, a link at a time, behind everything else that goes on.

Whoever writes history never waits for it: rows are read and hashed outside of any writing transaction, and what is written in the end is
one row. Two leaders cannot fork the chain: a link is fenced by the term, and its number is the primary key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.core.seal import ActsBefore, Link, Sealed, lay, sealed
from controller.engine.runtime import Runtime, Ticked
from controller.errors import Conflict
from controller.store.dialect import microseconds

#: A link covers so many rows at most.
BATCH = 1000
#: Unless so many rows wait, a link is laid this long after the one before it: a link for each row would cost more than the rows.
EVERY = timedelta(seconds=10)
#: Between two links while many rows wait, as after an upgrade: whoever decides and launches meanwhile must not notice.
REST = timedelta(milliseconds=50)
#: When it is looked again whether those who were writing have ended.
AGAIN = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True)
class _Horizon:
    """A number up to which history is complete as soon as none of these writers is at work any more."""

    seq: int
    writers: frozenset[str]


class Sealer:
    """The loop that lays the chain."""

    name = "sealer"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._horizon: _Horizon | None = None

    def tick(self, now: datetime) -> Ticked:
        """Lay a link over what is new, if enough or long enough has passed."""
        with self._runtime.store.reading() as tx:
            head, last = tx.seals.head(), tx.seals.last_seq()
            new = last - (0 if head is None else head.last_seq)
            if new <= 0:
                return Ticked()
            if (due := _due(head, new, now)) > now:
                return Ticked(next_at=due)
            horizon = self._look(last, tx.seals.writers())
        if horizon is None:
            return Ticked(next_at=now + AGAIN)
        laid = self._lay(head, horizon)
        return Ticked(worked=laid, next_at=now + REST if laid >= BATCH else None)

    def _look(self, last: int, writers: frozenset[str]) -> int | None:
        """Return up to where history is complete, None if that is not known yet."""
        if self._horizon is None:
            self._horizon = _Horizon(last, writers)
            is_complete = not writers
        else:
            is_complete = not self._horizon.writers & writers
        if not is_complete:
            return None
        horizon, self._horizon = self._horizon, None
        return horizon.seq

    def _lay(self, head: Link | None, upto: int) -> int:
        """Lay a link over the next rows; return how many they are."""
        # Not in the transaction that looked for the horizon: that one sees the rows as they were before.
        with self._runtime.store.reading() as tx:
            rows = sealed(tx.seals.rows(after=None if head is None else head.last_seq, upto=upto, most=BATCH))
            before = tx.seals.acts_before() if head is None else None
        if not rows:
            return 0
        try:
            link = self._write(head, rows, before)
        except Conflict:
            self._runtime.log.info("sealer.overtaken", number=1 if head is None else head.number + 1)
            return 0  # another leader laid it; the next look begins at its link
        self._runtime.log.debug("sealer.laid", number=link.number, rows=link.count, last_seq=link.last_seq)
        return link.count

    def _write(self, head: Link | None, rows: list[Sealed], before: ActsBefore | None) -> Link:
        with self._runtime.store.transaction("seal") as tx:
            link = lay(head, rows, term=tx.term, at=microseconds(tx.now))
            tx.seals.add(link)
            if before is not None:
                tx.seals.begin(before)
        return link


def _due(head: Link | None, new: int, now: datetime) -> datetime:
    """Return when the next link is due."""
    if head is None or new >= BATCH:
        return now
    since = timedelta(microseconds=microseconds(now) - head.at)
    return now if not timedelta(0) <= since < EVERY else now + (EVERY - since)
