"""The statements that run for every event, each in its database's own quickest form.

Thousands of events a second pass here, and building and binding a statement through SQLAlchemy costs more than running it: so these are
plain SQL, with values as they are stored (`dialect.py`: instants in microseconds, JSON as text). On PostgreSQL a batch is one statement
over arrays, on SQLite one prepared statement that is run for each row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from controller.core.model import Event

#: A new event as it is stored: id, identity, source, source_id, type, subject, time, data, extensions.
Row = tuple[str, int, str, str, str, str | None, int, str | None, str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_INSERT = "INSERT INTO event (id, identity, source, source_id, type, subject, time, data, extensions, origin, received_at, state) "
_INSERT_SQLITE = f"{_INSERT} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'PENDING') ON CONFLICT (identity) DO NOTHING"
_INSERT_POSTGRESQL = (
    f"{_INSERT} SELECT *, %s, %s, 'PENDING' FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], "  # noqa: S608
    "%s::text[], %s::bigint[], %s::text[], %s::text[]) ON CONFLICT (identity) DO NOTHING RETURNING id"
)
_THERE_SQLITE = "SELECT id FROM event WHERE id IN (SELECT value FROM json_each(?))"

_COLUMNS = "id, origin, source, source_id, type, subject, time, received_at, data, extensions, state, decided_seq, decided_at, error"
_PENDING = f"SELECT {_COLUMNS} FROM event WHERE state = 'PENDING' ORDER BY id LIMIT "  # noqa: S608 - constants

_MARK = "UPDATE event SET state = 'PROCESSED', decided_seq = "
_MARK_SQLITE = f"{_MARK} ?, decided_at = ? WHERE id = ? AND state = 'PENDING'"
_MARK_POSTGRESQL = (
    f"{_MARK} decided.seq, decided_at = %s FROM unnest(%s::text[], %s::bigint[]) AS decided (id, seq) "
    "WHERE event.id = decided.id AND event.state = 'PENDING'"
)


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
    done = connection.exec_driver_sql(_INSERT_SQLITE, [(*row, origin, at) for row in rows])
    if done.rowcount == len(rows):
        return None
    ids = json.dumps([row[0] for row in rows])
    return set(connection.exec_driver_sql(_THERE_SQLITE, (ids,)).scalars())


def pending_events(connection: sa.Connection, limit: int) -> list[Event]:
    """Return events nobody decided on yet, oldest first."""
    return [_event(*row) for row in connection.exec_driver_sql(f"{_PENDING}{int(limit)}")]


def mark_processed(connection: sa.Connection, decided: Sequence[tuple[str, int]], at: datetime) -> None:
    """Write that these events (id, place in the order of deciding) were decided on."""
    stored = to_stored(at)
    if connection.dialect.name == "postgresql":
        ids, numbers = zip(*decided, strict=True)
        connection.exec_driver_sql(_MARK_POSTGRESQL, (stored, list(ids), list(numbers)))
    else:
        connection.exec_driver_sql(_MARK_SQLITE, [(seq, stored, event_id) for event_id, seq in decided])


def _event(
    id_: str,
    origin: str,
    source: str,
    source_id: str,
    type_: str,
    subject: str | None,
    time: int,
    received_at: int,
    data: str | None,
    extensions: str,
    state: str,
    decided_seq: int | None,
    decided_at: int | None,
    error: str | None,
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
        data=None if data is None else json.loads(data),
        extensions={} if extensions == "{}" else json.loads(extensions),
        state=state,
        decided_seq=decided_seq,
        decided_at=None if decided_at is None else _EPOCH + timedelta(microseconds=decided_at),
        error=error,
    )
