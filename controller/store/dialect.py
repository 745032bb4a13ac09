"""What differs between SQLite and PostgreSQL, and nothing else.

One set of statements serves both; here are the engines, the column types that both read alike, and the few words that are not the same.
Instants are stored as microseconds since 1970 in UTC and JSON as text, so that both databases hold, order and compare the same values.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeDecorator

from controller.errors import StoreError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: From this version on SQLite's write-ahead log cannot lose pages when one connection writes while another checkpoints
#: (the "WAL-reset" bug of 3.7.0 to 3.51.2).
SAFE_WAL = (3, 51, 3)


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        if value is None:
            return None
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return _EPOCH + timedelta(microseconds=value)


class JsonText(TypeDecorator[Any]):
    """A JSON value, stored as compact text; None is stored as NULL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else dump_json(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


def dump_json(value: Any) -> str:
    """Write a value as compact JSON; instants become RFC 3339 text, tuples lists, records objects."""
    return _ENCODER.encode(value)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_encode, allow_nan=False)

#: Statements that a connection to SQLite keeps prepared. More than there are: the driver gives up the newest when its cache is full, so
#: that after a start with migrations every statement of the loops would be prepared each time.
STATEMENTS = 1000


def make_engine(url: sa.URL, *, readonly: bool = False) -> sa.Engine:
    """Return an engine for a `sqlite` or `postgresql` URL, with the settings that durability needs.

    `readonly` opens an existing SQLite file without the right to write, or a PostgreSQL session that only reads.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, readonly=readonly)
    if url.get_backend_name() == "postgresql":
        return _postgresql_engine(url, readonly=readonly)
    raise StoreError(
        f"the store cannot be on {url.get_backend_name()!r}",
        hint="write sqlite:///path or postgresql://user@host/database",
    )


def insert(table: sa.Table, dialect: str) -> Any:
    """Return an INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update` on both databases."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def reading_options(dialect: str) -> dict[str, Any]:
    """Return the options of a connection that reads: one state of the database for the whole transaction."""
    if dialect == "sqlite":
        return {"reads": True}
    return {"isolation_level": "REPEATABLE READ"}


def is_duplicate(error: Any) -> bool:
    """Say whether a constraint was broken because the row is there already."""
    return getattr(error, "sqlstate", None) == "23505" or "UNIQUE constraint failed" in str(error)


def is_passing(error: Any) -> bool:
    """Say whether PostgreSQL refused for its state, not for ours: a standby that only reads, a session that it ended."""
    return getattr(error, "sqlstate", None) in ("25006", "25P03")


@lru_cache(maxsize=64)
def insert_new(table: sa.Table, dialect: str) -> Any:
    """Return an INSERT that leaves rows alone whose key is there already; built once, which costs more than running it."""
    return insert(table, dialect).on_conflict_do_nothing()


def sqlite_version() -> tuple[int, ...]:
    """Return the version of the SQLite library that is in use."""
    return tuple(sqlite_module().sqlite_version_info)


def sqlite_module() -> Any:
    """Return the SQLite driver: the one that bundles a repaired library where it is installed, else Python's own."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return importlib.import_module("sqlite3")


def _sqlite_engine(url: sa.URL, *, readonly: bool) -> sa.Engine:
    module = sqlite_module()
    path = url.database or ":memory:"
    if path != ":memory:" and not readonly:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    journal = "WAL" if module.sqlite_version_info >= SAFE_WAL else "DELETE"

    def connect() -> Any:
        if readonly:
            connection = module.connect(
                f"file:{_escaped(path)}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=5,
                cached_statements=STATEMENTS,
            )
        else:
            connection = module.connect(
                path, isolation_level=None, check_same_thread=False, timeout=5, cached_statements=STATEMENTS
            )
            connection.execute(f"PRAGMA journal_mode={journal}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA cache_size=-16000")
        return connection

    memory = path == ":memory:"
    engine = sa.create_engine(
        "sqlite://",
        module=module,
        creator=connect,
        poolclass=sa.StaticPool if memory else sa.QueuePool,
        **({} if memory else {"pool_size": 5, "max_overflow": 15}),
    )
    # The driver's own transaction handling is off (isolation_level=None): we say BEGIN ourselves, IMMEDIATE for a writer.
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(_begin(connection)))
    return engine


def _begin(connection: sa.Connection) -> str:
    return "BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE"


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _postgresql_engine(url: sa.URL, *, readonly: bool) -> sa.Engine:
    settings = {
        "statement_timeout": "10s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "15s",
        "timezone": "UTC",
    }
    if readonly:
        settings["default_transaction_read_only"] = "on"
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    arguments: dict[str, Any] = {
        "options": options,
        "application_name": "retrain-controller",
        "connect_timeout": 5,
        "tcp_user_timeout": 10000,
        "keepalives_idle": 10,
    }
    if not readonly:
        arguments["target_session_attrs"] = "read-write"
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=arguments,
        pool_size=6,
        max_overflow=6,
        pool_timeout=5,
        pool_pre_ping=False,
        pool_recycle=1800,
    )


def parse_url(text: str, base: Path) -> sa.URL:
    """Return the URL of the store; a relative SQLite path starts at `base`. Raises `StoreError` for one that is no URL."""
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f"{text!r} is no database URL",
            hint="write sqlite:///state/retrain.db or postgresql://user@host/database",
        ) from error
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        return url.set(database=str((base / url.database).absolute()))
    return url
