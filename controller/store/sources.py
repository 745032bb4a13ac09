"""Rows of how each source has been: counts, the last event, the latest arrivals, silence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core.model import Event, Json
from controller.core.rhythm import Arrival, SourceStat
from controller.store import dialect, schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_stat = schema.source_stat
_event = schema.event
_letter = schema.dead_letter
_COUNTS = ("stored", "duplicates", "dead", "refused")
_ALL = sa.select(_stat)
_ONE = _ALL.where(_stat.c.source == sa.bindparam("source"))
# In one order, so that no two processes wait for each other.
_LOCK = (
    _ALL.where(_stat.c.source.in_(sa.bindparam("sources", expanding=True))).order_by(_stat.c.source).with_for_update()
)
# The state stands in the text, so that the partial index on it is used.
_DEAD: sa.ColumnClause[str] = sa.literal_column("'DEAD'")
_DEAD_LETTERS = (
    sa.select(sa.func.count())
    .select_from(_letter)
    .where(_letter.c.state == _DEAD, _letter.c.origin == sa.bindparam("source"))
)
_BURIED = (
    sa.select(sa.func.count())
    .select_from(_event)
    .where(_event.c.state == _DEAD, _event.c.origin == sa.bindparam("source"))
)


@lru_cache(maxsize=2)
def _save(name: str) -> Any:
    """Return the statement that writes how sources are now."""
    insert = dialect.insert(_stat, name)
    names = (*_COUNTS, "last_event_id", "last_at", "arrivals", "silent_since", "quiet_seconds", "updated_at")
    return insert.on_conflict_do_update(
        index_elements=["source"], set_={column: insert.excluded[column] for column in names}
    )


class SourceRows:
    """How each source has been, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def all(self) -> dict[str, SourceStat]:
        """Return every source that was ever configured or heard, by name."""
        return {row.source: _from_row(row) for row in self._tx.execute(_ALL)}

    def get(self, source: str) -> SourceStat | None:
        """Return how one source has been."""
        row = self._tx.execute(_ONE, {"source": source}).first()
        return None if row is None else _from_row(row)

    def lock(self, sources: Collection[str]) -> dict[str, SourceStat]:
        """Return how these sources have been, and let no other process change that before this transaction ends.

        One that was never heard of gets its row here.
        """
        found = self._locked(sources)
        missing = sorted(set(sources) - found.keys())
        if missing:
            fresh = [self._row(SourceStat(source=name, since=self._tx.now)) for name in missing]
            self._tx.execute(self._tx.insert_new(_stat), fresh)
            found |= self._locked(missing)
        return found

    def _locked(self, sources: Collection[str]) -> dict[str, SourceStat]:
        return {row.source: _from_row(row) for row in self._tx.execute(_LOCK, {"sources": list(sources)})}

    def save(self, stats: Sequence[SourceStat]) -> None:
        """Write how these sources are now; what was written of them before is replaced, but not `since`: lock them first."""
        if stats:
            self._tx.execute(_save(self._tx.dialect), [self._row(stat) for stat in stats])

    def last_event(self, source: str) -> Event | None:
        """Return the newest event of a source that was new; None when there is none, or it was pruned."""
        statement = sa.select(_event).join(_stat, _stat.c.last_event_id == _event.c.id).where(_stat.c.source == source)
        row = self._tx.execute(statement).first()
        return None if row is None else record(Event, row)

    def dead_letters(self, source: str) -> int:
        """Return how many dead letters of a source wait for a person: what was not understood, and what could not be decided."""
        given = {"source": source}
        return int(self._tx.execute(_DEAD_LETTERS, given).scalar_one()) + int(
            self._tx.execute(_BURIED, given).scalar_one()
        )

    def _row(self, stat: SourceStat) -> dict[str, Any]:
        return {
            "source": stat.source,
            **{name: getattr(stat, name) for name in _COUNTS},
            "last_event_id": stat.last_event_id,
            "last_at": stat.last_at,
            "arrivals": [_written(arrival) for arrival in stat.arrivals],
            "silent_since": stat.silent_since,
            "quiet_seconds": stat.quiet_seconds,
            "since": stat.since,
            "updated_at": self._tx.now,
        }


def _from_row(row: Any) -> SourceStat:
    return replace(record(SourceStat, row), arrivals=tuple(_read(each) for each in row.arrivals))


def _written(arrival: Arrival) -> Json:
    return [round(arrival.at.timestamp(), 3), arrival.count, arrival.delay_seconds]


def _read(written: Json) -> Arrival:
    at, count, delay = written
    return Arrival(at=datetime.fromtimestamp(at, UTC), count=count, delay_seconds=delay)
