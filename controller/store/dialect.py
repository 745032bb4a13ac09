"""What differs between SQLite and PostgreSQL, and nothing else.

One set of statements serves both; here are the engines, the column types that both read alike, and the few words that are not the same.
Instants are stored as microseconds since 1970 in UTC and JSON as text, so that both databases hold, order and compare the same values.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.types import TypeDecorator

from controller.errors import StoreError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: From this version on SQLite's write-ahead log cannot lose pages when one connection writes while another checkpoints
#: (the "WAL-reset" bug of 3.7.0 to 3.51.2).
SAFE_WAL = (3, 51, 3)


class SQLiteReader(SQLiteDialect_pysqlite):
    """SQLite without the driver's own transactions (isolation_level=None): we say BEGIN.

    A listener for that would cost every statement a look whether somebody listens.
    """

    supports_statement_cache = True
    begin = "BEGIN"

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin a transaction."""
        dbapi_connection.execute(self.begin)


class SQLiteWriter(SQLiteReader):
    """The same for a writer: it waits for its turn here, and not in the middle of its work."""

    supports_statement_cache = True
    begin = "BEGIN IMMEDIATE"


sa.dialects.registry.register("sqlite.retrain_reader", __name__, SQLiteReader.__name__)
sa.dialects.registry.register("sqlite.retrain_writer", __name__, SQLiteWriter.__name__)


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        if value is None:
            return None
        return microseconds(value)

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


def microseconds(value: datetime) -> int:
    """Return an instant as it is stored."""
    return (value - _EPOCH) // _MICROSECOND


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

#: After a checkpoint the write-ahead log keeps no more bytes than this.
MOST_LOG = 64 << 20

#: Statements that a connection to SQLite keeps prepared. More than there are: the driver gives up the newest when its cache is full, so
#: that after a start with migrations every statement of the loops would be prepared each time.
STATEMENTS = 1000


#: How long an answer of PostgreSQL is waited for: a little longer than it allows itself (`statement_timeout`).
ANSWER_SECONDS, RESERVED_ANSWER_SECONDS = 12.0, 4.0
_SILENT = "the database has not answered for"


def make_engine(
    url: sa.URL, *, readonly: bool = False, reserved: bool = False, answered: Callable[[], None] | None = None
) -> sa.Engine:
    """Return an engine for a `sqlite` or `postgresql` URL, with the settings that durability needs.

    `readonly` opens an existing SQLite file without the right to write, or a PostgreSQL session that only reads.
    `reserved`, on PostgreSQL, is one connection that gives up sooner: for what must not wait for others.
    `answered` is called, on PostgreSQL, in the thread that waited, whenever the server answered.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, readonly=readonly)
    if url.get_backend_name() == "postgresql":
        return _postgresql_engine(url, readonly=readonly, reserved=reserved, answered=answered)
    raise StoreError(
        f"the store cannot be on {url.get_backend_name()!r}",
        hint="write sqlite:///path or postgresql://user@host/database",
    )


def insert(table: sa.Table, dialect: str) -> Any:
    """Return an INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update` on both databases."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def make_reader(engine: sa.Engine) -> sa.Engine:
    """Return an engine on the same connections for what only reads: one state of the database for the whole transaction."""
    if engine.dialect.name == "sqlite":
        return sa.create_engine("sqlite+retrain_reader://", module=sqlite_module(), pool=engine.pool)
    return engine.execution_options(isolation_level="REPEATABLE READ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error of the database means for us."""

    #: passing: the same may succeed later. contended: it may at once. duplicate: the row is there already.
    #: broken: the disk did not keep what it was told to. ours: a mistake of this program.
    kind: Literal["passing", "contended", "duplicate", "broken", "ours"]
    #: The stable name of the reason.
    code: str = ""


#: By SQLSTATE; where that is not here, by its class (the first two characters).
_STATES: Mapping[str, Verdict] = {
    "23505": Verdict("duplicate"),
    "40001": Verdict("contended", "store.contended"),
    "40P01": Verdict("contended", "store.contended"),
    "55P03": Verdict("passing", "store.locked"),
    "57014": Verdict("passing", "store.slow"),
    "25006": Verdict("passing", "store.read_only"),
    "25P03": Verdict("passing", "store.slow"),
    "53100": Verdict("passing", "store.full"),
    "53300": Verdict("passing", "store.crowded"),
    "08": Verdict("passing", "store.down"),
    "28": Verdict("passing", "store.refused"),
    "3D": Verdict("passing", "store.refused"),
    "53": Verdict("passing", "store.short"),
    "57": Verdict("passing", "store.down"),
    "58": Verdict("passing", "store.failing"),
    "XX": Verdict("passing", "store.failing"),
}
#: By the name of SQLite's extended result code; where that is not here, by the name of its family.
_SQLITE: Mapping[str, Verdict] = {
    # Data that could not be synced may be gone although a second sync succeeds: only what is on disk can be trusted, by reading it again.
    # The code does not always say what failed, so of these the disk itself is asked (`_disk_has_room`).
    "SQLITE_IOERR": Verdict("broken", "store.broken"),
    "SQLITE_CORRUPT": Verdict("broken", "store.broken"),
    "SQLITE_NOTADB": Verdict("broken", "store.broken"),
    "SQLITE_BUSY": Verdict("passing", "store.locked"),
    "SQLITE_LOCKED": Verdict("passing", "store.locked"),
    "SQLITE_PROTOCOL": Verdict("passing", "store.locked"),
    "SQLITE_FULL": Verdict("passing", "store.full"),
    "SQLITE_READONLY": Verdict("passing", "store.read_only"),
    "SQLITE_CANTOPEN": Verdict("passing", "store.down"),
    "SQLITE_NOMEM": Verdict("passing", "store.short"),
    "SQLITE_INTERRUPT": Verdict("passing", "store.slow"),
    "SQLITE_CONSTRAINT_UNIQUE": Verdict("duplicate"),
    "SQLITE_CONSTRAINT_PRIMARYKEY": Verdict("duplicate"),
    "SQLITE_CONSTRAINT_ROWID": Verdict("duplicate"),
}


def verdict(error: sa.exc.SQLAlchemyError, database: str | None = None) -> Verdict:
    """Return what an error means; the only place that knows the databases' codes. `database` is the file of SQLite."""
    if isinstance(error, sa.exc.TimeoutError):
        return Verdict("passing", "store.crowded")  # no connection of the pool was free in time
    origin: Any = getattr(error, "orig", None)
    state = getattr(origin, "sqlstate", None)
    if state:
        return _STATES.get(state) or _STATES.get(state[:2]) or Verdict("ours")
    name = getattr(origin, "sqlite_errorname", None)
    if "UNIQUE constraint failed" in str(origin):
        return Verdict("duplicate")  # the name that pysqlite3 gives does not say which constraint it was
    if name:
        if name.startswith("SQLITE_IOERR") and database and not _disk_has_room(database):
            return Verdict("passing", "store.full")
        return _SQLITE.get(name) or _SQLITE.get("_".join(name.split("_")[:2])) or Verdict("ours")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        # A connection that cannot be had, that broke, or that was given up: neither driver has a code for that.
        text = str(origin)
        code = "store.read_only" if "read-only" in text else "store.slow" if _SILENT in text else "store.down"
        return Verdict("passing", code)
    return Verdict("ours")


def _disk_has_room(database: str) -> bool:
    """Say whether the disk of a database takes a write behind the end of its files; a quota or a limit on sizes is no broken disk."""
    folder = Path(database).parent
    sizes = [path.stat().st_size for path in folder.glob(f"{Path(database).name}*")]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.pwrite(file.fileno(), b"\0" * 4096, max(sizes, default=0))
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return True


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
        _make_file(path)
    journal = "WAL" if module.sqlite_version_info >= SAFE_WAL else "DELETE"

    memory = path == ":memory:"

    def connect() -> Any:
        if readonly:
            connection = module.connect(
                f"file:{escaped(path)}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=5,
                cached_statements=STATEMENTS,
            )
        else:
            # The file is there: one that was moved away meanwhile must not come into being again, empty, beside the log of the other.
            connection = module.connect(
                path if memory else f"file:{escaped(path)}?mode=rw",
                uri=not memory,
                isolation_level=None,
                check_same_thread=False,
                timeout=5,
                cached_statements=STATEMENTS,
            )
            connection.execute(f"PRAGMA journal_mode={journal}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA journal_size_limit={MOST_LOG}")
            connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA cache_size=-4000")
        return connection

    return sa.create_engine(
        "sqlite+retrain_writer://",
        module=module,
        creator=connect,
        poolclass=sa.StaticPool if memory else sa.QueuePool,
        **({} if memory else {"pool_size": 5, "max_overflow": 15}),
    )


def _make_file(path: str) -> None:
    """Make the database's file for its owner alone; raises `StoreError` where that cannot be."""
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"the database {path!r} cannot be written: {error.strerror or error}",
            hint="give its folder to the daemon's user, or set `store:` to another place",
        ) from error


def escaped(path: str) -> str:
    """Return a path as a `file:` URI holds it."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _postgresql_engine(
    url: sa.URL, *, readonly: bool, reserved: bool, answered: Callable[[], None] | None
) -> sa.Engine:
    settings = {
        "statement_timeout": "3s" if reserved else "10s",
        "lock_timeout": "2s" if reserved else "3s",
        # A leader that was stopped in the middle of a transaction keeps its successor waiting for no longer than this.
        "idle_in_transaction_session_timeout": "15s",
        "timezone": "UTC",
    }
    if readonly:
        settings["default_transaction_read_only"] = "on"
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    arguments: dict[str, Any] = {
        "options": options,
        "application_name": "retrain-controller",
        "connect_timeout": 3 if reserved else 5,
        "tcp_user_timeout": 4000 if reserved else 10000,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
    }
    if not readonly:
        arguments["target_session_attrs"] = "read-write"
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=arguments,
        # Ten loops, what people ask (`Store.asking`), senders, sources: more than these wait for each other.
        pool_size=1 if reserved else 8,
        max_overflow=0 if reserved else 16,
        pool_timeout=2 if reserved else 5,
        pool_pre_ping=False,
        pool_recycle=1800,
    )
    seconds = RESERVED_ANSWER_SECONDS if reserved else ANSWER_SECONDS

    def connect(_dialect: Any, _record: Any, _arguments: Any, words: Mapping[str, Any]) -> Any:
        connection = _impatient().connect(**words)
        connection.patience, connection.answered = seconds, answered
        return connection

    sa.event.listen(engine, "do_connect", connect)
    return engine


@lru_cache(maxsize=1)
def _impatient() -> Any:
    """Return a class of connections that do not wait for ever; made when first used, because SQLite's users need no PostgreSQL driver."""
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        """A connection whose every wait ends.

        The server's own limits help only while it works: a host that lost its power, a server that is stopped and a proxy that swallows
        answers keep a client waiting for as long as it likes.
        """

        patience = ANSWER_SECONDS
        answered: Callable[[], None] | None = None

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                answer = super().wait(gen, interval, self.patience if timeout is None else timeout)
            except psycopg.errors._WaitTimeout as error:  # noqa: SLF001 - the only name it has
                self.pgconn.finish()  # what it would still say belongs to nobody
                raise psycopg.errors.ConnectionTimeout(f"{_SILENT} {self.patience:g} s") from error
            if self.answered is not None:
                self.answered()
            return answer

    return Impatient


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
