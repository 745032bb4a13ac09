"""What a database is and holds: its place and its sizes, its schema, its rows, what waits, what went, and when it was copied last.

Reads only, also from a database of another schema: then only what does not depend on it.
Called by `retrainctl db status`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controller.core.model import Json, LedgerEntry
from controller.store import dialect, migrate, place, pruning, schema
from controller.store.backup import Copy
from controller.store.pruning import Pruned
from controller.store.store import Store, Transaction

#: PostgreSQL counts larger tables for too long; its own estimate is shown then.
ESTIMATED_FROM = 200_000
#: Where the last backup stands in the ledger; no source has an empty name.
_BACKUP = "@backup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """A database as it is now."""

    #: Its place, library and journal mode, in words.
    store: str
    #: sqlite or postgresql.
    database: str
    #: Version of SQLite's library or of the server.
    version: str
    #: The journal mode of SQLite's file; empty for PostgreSQL.
    journal: str
    #: Revision of its schema; None for an empty database.
    schema: str | None
    #: The revision that this program needs.
    needs: str
    bytes: int
    #: Of SQLite's write-ahead log, beside the file.
    log_bytes: int
    #: Rows by table, and which of the numbers are estimates; empty for another schema.
    rows: dict[str, int] = field(default_factory=dict)
    estimated: tuple[str, ...] = ()
    oldest_pending_at: datetime | None = None
    #: What retention let go of so far, by kind.
    pruned: dict[str, Pruned] = field(default_factory=dict)
    #: When, where to and how large.
    last_backup: dict[str, Json] | None = None


def take_inventory(store: Store) -> Inventory:
    """Return what there is."""
    with store.reading() as tx:
        _take_your_time(tx)
        found: dict[str, Any] = {
            "store": store.description(),
            "database": store.dialect,
            "schema": migrate.current(tx.connection),
            "needs": migrate.HEAD,
            **(_of_file(tx, str(store.url.database)) if store.dialect == "sqlite" else _of_server(tx)),
        }
        if found["schema"] == migrate.HEAD:
            rows, estimated = _rows(tx)
            backup = tx.events.recall("", _BACKUP).get(_BACKUP)
            found |= {
                "rows": rows,
                "estimated": estimated,
                "oldest_pending_at": tx.events.oldest_pending(),
                "pruned": pruning.gone(tx),
                "last_backup": backup,
            }
        return Inventory(**found)


def note_backup(store: Store, copy: Copy) -> None:
    """Write that a backup was made."""
    with store.transaction("note_backup", fenced=False) as tx:
        said = {"at": tx.now.isoformat().replace("+00:00", "Z"), "path": str(copy.path), "bytes": copy.bytes}
        tx.events.remember("", [LedgerEntry(key=_BACKUP, value=said)])


def _take_your_time(tx: Transaction) -> None:
    if tx.dialect == "postgresql":
        tx.execute(sa.text("SET LOCAL statement_timeout = 0"))


def _of_file(tx: Transaction, path: str) -> dict[str, Any]:
    return {
        "version": ".".join(map(str, dialect.sqlite_version())),
        "journal": str(tx.connection.exec_driver_sql("PRAGMA journal_mode").scalar()),
        "bytes": place.size_of(path),
        "log_bytes": place.size_of(f"{path}-wal"),
    }


def _of_server(tx: Transaction) -> dict[str, Any]:
    size = tx.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one()
    version = tx.execute(sa.text("SHOW server_version")).scalar_one()
    return {"version": str(version), "journal": "", "bytes": int(size), "log_bytes": 0}


def _rows(tx: Transaction) -> tuple[dict[str, int], tuple[str, ...]]:
    large = _large_tables(tx)
    rows = {}
    for table in sorted(schema.metadata.tables.values(), key=lambda each: each.name):
        if table.name in large:
            rows[table.name] = large[table.name]
        else:
            rows[table.name] = int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
    return rows, tuple(sorted(large))


def _large_tables(tx: Transaction) -> dict[str, int]:
    """Return PostgreSQL's own estimates of its large tables."""
    if tx.dialect == "sqlite":
        return {}
    estimates = tx.execute(
        sa.text(
            "SELECT relname, reltuples FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND reltuples > :most"
        ),
        {"most": ESTIMATED_FROM},
    )
    return {row.relname: int(row.reltuples) for row in estimates if row.relname in schema.metadata.tables}
