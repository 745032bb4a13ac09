"""What the databases' errors mean for us: which pass, which are nobody's fault, and which end the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from controller.store.dialect import sqlite_module, verdict


def from_server(state: str) -> sa.exc.DBAPIError:
    """An error of PostgreSQL, as SQLAlchemy hands it on."""
    return sa.exc.DBAPIError("SELECT 1", {}, psycopg.errors.lookup(state)("it says why"))


@pytest.mark.parametrize(
    "state, kind, code",
    [
        ("40001", "contended", "store.contended"),
        ("40P01", "contended", "store.contended"),
        ("55P03", "passing", "store.locked"),
        ("57014", "passing", "store.slow"),
        ("57P01", "passing", "store.down"),
        ("57P03", "passing", "store.down"),
        ("25006", "passing", "store.read_only"),
        ("25P03", "passing", "store.slow"),
        ("53100", "passing", "store.full"),
        ("53200", "passing", "store.short"),
        ("53300", "passing", "store.crowded"),
        ("08006", "passing", "store.down"),
        ("58030", "passing", "store.failing"),
        ("XX001", "passing", "store.failing"),
        ("28P01", "passing", "store.refused"),
        ("3D000", "passing", "store.refused"),
        ("23505", "duplicate", ""),
        ("23502", "ours", ""),
        ("42P01", "ours", ""),
    ],
)
def test_G15_errors_of_postgresql(state: str, kind: str, code: str) -> None:
    """Each SQLSTATE, or its class, means one thing (DB-02, DB-07, DB-09, DB-10, DB-22, DB-23)."""
    found = verdict(from_server(state))

    assert (found.kind, found.code) == (kind, code)


@pytest.mark.parametrize(
    "text, code",
    [
        ("connection refused", "store.down"),
        ("session is read-only", "store.read_only"),
        ("the database has not answered for 12 s", "store.slow"),
    ],
)
def test_G15_connections_without_a_code(text: str, code: str) -> None:
    """A connection that cannot be had, or broke, has no SQLSTATE."""
    found = verdict(sa.exc.OperationalError("", {}, psycopg.OperationalError(text)))

    assert (found.kind, found.code) == ("passing", code)


def from_sqlite(name: str, number: int = 1) -> sa.exc.DBAPIError:
    """An error of SQLite, as SQLAlchemy hands it on."""
    error: Any = sqlite_module().OperationalError("it says why")
    error.sqlite_errorname, error.sqlite_errorcode = name, number
    return sa.exc.OperationalError("", {}, error)


@pytest.mark.parametrize(
    "name, kind, code",
    [
        ("SQLITE_BUSY", "passing", "store.locked"),
        ("SQLITE_BUSY_SNAPSHOT", "passing", "store.locked"),
        ("SQLITE_FULL", "passing", "store.full"),
        ("SQLITE_READONLY_DBMOVED", "passing", "store.read_only"),
        ("SQLITE_CANTOPEN", "passing", "store.down"),
        ("SQLITE_IOERR_FSYNC", "broken", "store.broken"),
        ("SQLITE_IOERR", "broken", "store.broken"),
        ("SQLITE_CORRUPT", "broken", "store.broken"),
        ("SQLITE_CORRUPT_INDEX", "broken", "store.broken"),
        ("SQLITE_NOTADB", "broken", "store.broken"),
        ("SQLITE_CONSTRAINT_UNIQUE", "duplicate", ""),
        ("SQLITE_CONSTRAINT_NOTNULL", "ours", ""),
        ("SQLITE_ERROR", "ours", ""),
    ],
)
def test_G15_errors_of_sqlite(tmp_path: Path, name: str, kind: str, code: str) -> None:
    """Each result code, or its family, means one thing; damage and a disk that does not sync end the process (DB-11, DB-12, DB-15)."""
    found = verdict(from_sqlite(name), str(tmp_path / "retrain.db"))

    assert (found.kind, found.code) == (kind, code)
