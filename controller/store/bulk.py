"""The statements that run for every event, each in its database's own quickest form.

Thousands of events a second pass here, and building and binding a statement through SQLAlchemy costs more than running it: so these are
plain SQL, with values as they are stored (`dialect.py`: instants in microseconds, JSON as text), and a batch is one statement.
On SQLite that matters twice: its driver lets go of Python's lock for every step, and with other threads at work each step of a statement
that is run row by row would wait for its turn. So rows come and go in one piece, rows to be read as one JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeVar

import sqlalchemy as sa

from controller.core.model import Event, Json

T = TypeVar("T")

#: A new event as it is stored: id, identity, source, source_id, type, subject, time, data, extensions.
Row = tuple[str, int, str, str, str, str | None, int, str | None, str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: A statement of SQLite has so many rows at most; a batch is taken apart into powers of two, so that few statements are prepared.
_MOST_ROWS = 1024

_INSERT = "INSERT INTO event (id, identity, source, source_id, type, subject, time, data, extensions, origin, received_at, state) "
_INSERT_POSTGRESQL = (
    f"{_INSERT} SELECT *, %s, %s, 'PENDING' FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], "  # noqa: S608
    "%s::text[], %s::bigint[], %s::text[], %s::text[]) ON CONFLICT (identity) DO NOTHING RETURNING id"
)
_THERE_SQLITE = "SELECT id FROM event WHERE id IN (SELECT value FROM json_each(?))"

#: So much data (in characters, as it is stored) is read at once, or the one event that goes beyond.
MOST_DATA = 32 << 20
#: Data that are longer are read one by one, so that no batch of them is in memory at once.
LONG_DATA = 32 << 10

_COLUMNS = "id, origin, source, source_id, type, subject, time, received_at"
_LENGTH = "coalesce(length(data), 0)"
_PENDING = "FROM event WHERE state = 'PENDING' ORDER BY id LIMIT "
# The limit follows as a number: SQLite prepares a statement anew when a bound one may be another.
_PENDING_POSTGRESQL = (
    f"SELECT {_COLUMNS}, CASE WHEN {_LENGTH} <= {LONG_DATA} THEN data END, extensions, {_LENGTH} {_PENDING}"
)
_PENDING_SQLITE = (
    f"SELECT json_group_array(json_array({_COLUMNS}, CASE WHEN {_LENGTH} <= {LONG_DATA} THEN json(data) END, json(extensions), {_LENGTH})) "  # noqa: S608
    f"FROM (SELECT {_COLUMNS}, data, extensions {_PENDING}"
)
_DATA_OF = "SELECT data FROM event WHERE id = "

_MARK = "UPDATE event SET state = 'PROCESSED', decided_seq = "
_MARK_POSTGRESQL = (
    f"{_MARK} decided.seq, decided_at = %s FROM unnest(%s::text[], %s::bigint[]) AS decided (id, seq) "
    "WHERE event.id = decided.id AND event.state = 'PENDING'"
)


@lru_cache(maxsize=16)
def _insert_sqlite(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * count)
    columns = ", ".join(f"column{number}" for number in range(1, 10))
    return (
        f"{_INSERT} SELECT {columns}, ?, ?, 'PENDING' FROM (VALUES {rows}) WHERE true ON CONFLICT (identity) DO NOTHING"  # noqa: S608
    )


@lru_cache(maxsize=16)
def _mark_sqlite(count: int) -> str:
    rows = ", ".join(["(?, ?)"] * count)
    return (
        f"{_MARK} decided.column2, decided_at = ? FROM (VALUES {rows}) AS decided "
        "WHERE event.id = decided.column1 AND event.state = 'PENDING'"
    )


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the rows in pieces whose sizes are powers of two."""
    start = 0
    while start < len(rows):
        size = min(_MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size


def to_stored(at: datetime) -> int:
    """Return an instant as it is stored: microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def insert_events(
    connection: sa.Connection, origin: str, received_at: datetime, rows: Sequence[Row]
) -> set[str] | None:
    """Insert new events of one origin, and return the ids of those whose identity was not there yet; None when all were new."""
    at = to_stored(received_at)
    if connection.dialect.name == "postgresql":
        arrays = [list(column) for column in zip(*rows, strict=True)]
        found = connection.exec_driver_sql(_INSERT_POSTGRESQL, (origin, at, *arrays)).scalars().all()
        return None if len(found) == len(rows) else set(found)
    inserted = 0
    for piece in _pieces(rows):
        values = (origin, at, *(value for row in piece for value in row))
        inserted += connection.exec_driver_sql(_insert_sqlite(len(piece)), values).rowcount
    if inserted == len(rows):
        return None
    ids = json.dumps([row[0] for row in rows])
    return set(connection.exec_driver_sql(_THERE_SQLITE, (ids,)).scalars())


def pending_events(connection: sa.Connection, limit: int) -> tuple[list[Event], bool]:
    """Return events nobody decided on yet, oldest first, and whether there may be more.

    They are `limit` at most, and no more than may be in memory at once.
    """
    if connection.dialect.name == "postgresql":
        found = connection.exec_driver_sql(f"{_PENDING_POSTGRESQL}{int(limit)}").all()
        rows = [(*row[:8], _from_json(row[8]), _from_json(row[9]), row[10]) for row in found]
    else:
        rows = json.loads(connection.exec_driver_sql(f"{_PENDING_SQLITE}{int(limit)})").scalar_one())
    events: list[Event] = []
    total = 0
    for *row, length in rows:
        total += length
        if total > MOST_DATA and events:
            return events, True
        if length > LONG_DATA:
            row[8] = _data_of(connection, row[0])
        events.append(_event(*row))
    return events, len(rows) >= limit


def _data_of(connection: sa.Connection, event_id: str) -> Json:
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    return _from_json(connection.exec_driver_sql(f"{_DATA_OF}{mark}", (event_id,)).scalar_one())


def mark_processed(connection: sa.Connection, decided: Sequence[tuple[str, int]], at: datetime) -> None:
    """Write that these events (id, place in the order of deciding) were decided on."""
    stored = to_stored(at)
    if connection.dialect.name == "postgresql":
        ids, numbers = zip(*decided, strict=True)
        connection.exec_driver_sql(_MARK_POSTGRESQL, (stored, list(ids), list(numbers)))
    else:
        for piece in _pieces(decided):
            values = (stored, *(value for pair in piece for value in pair))
            connection.exec_driver_sql(_mark_sqlite(len(piece)), values)


def _from_json(text: str | None) -> Json:
    return None if text is None else json.loads(text)


def _event(
    id_: str,
    origin: str,
    source: str,
    source_id: str,
    type_: str,
    subject: str | None,
    time: int,
    received_at: int,
    data: Json,
    extensions: dict[str, Json],
) -> Event:
    return Event(
        id=id_,
        origin=origin,
        source=source,
        source_id=source_id,
        type=type_,
        subject=subject,
        time=_EPOCH + timedelta(microseconds=time),
        received_at=_EPOCH + timedelta(microseconds=received_at),
        data=data,
        extensions=extensions,
    )
