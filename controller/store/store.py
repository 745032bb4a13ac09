"""The store: transactions, the one writer of states, and the way in and out of a database.

Every step of the engine is one transaction with a name. On SQLite one transaction writes at a time (`BEGIN IMMEDIATE` behind a lock of
this process), on PostgreSQL the server orders them. A transaction of the leader is fenced: it fails when another daemon took a later term.
The rows are reached by noun: `tx.events`, `tx.letters`, `tx.episodes`, `tx.policies`, `tx.runs`, `tx.models`,
`tx.watches`, `tx.outbox`, `tx.sources`, `tx.people`, `tx.replicas`, `tx.seals`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from controller.clock import Clock, Ids
from controller.core import states
from controller.crash import crash_point
from controller.errors import Conflict, StoreBroken, StoreBusy, StoreError
from controller.store import backup, dialect, migrate, place, schema
from controller.store.episodes import EpisodeRows
from controller.store.intake import EventRows
from controller.store.letters import LetterRows
from controller.store.models import ModelRows
from controller.store.outbox import OutboxRows
from controller.store.people import PeopleRows
from controller.store.policies import PolicyRows
from controller.store.replicas import ReplicaRows
from controller.store.runs import RunRows
from controller.store.seals import SealRows
from controller.store.sources import SourceRows
from controller.store.watches import WatchRows

#: On SQLite a transaction waits so long for the one that is being written.
WRITER_SECONDS = 5.0
#: So many questions of people are worked on at once, and another one waits so long for its turn.
ASKING, ASKING_SECONDS = 4, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """The right to decide: who leads, and since when."""

    number: int
    owner: str


class StaleTerm(StoreError):
    """Another daemon leads now; nothing was written."""


class Store:
    """A database with our schema. Safe to use from several threads."""

    def __init__(
        self, url: sa.URL, *, clock: Clock, ids: Ids, readonly: bool = False, database_clock: Clock | None = None
    ) -> None:
        """`database_clock` is the time by which SQLite measures leases, ours if there is none; PostgreSQL has its own."""
        self.url = url
        self.clock = clock
        self.database_clock = database_clock or clock
        self.ids = ids
        self.dialect = url.get_backend_name()
        self.term: Term | None = None
        #: When a server answered a thread last, in monotonic seconds by the thread's number: a slow step that goes on is not a blocked one.
        self.answered_at: dict[int, float] = {}
        self.engine = dialect.make_engine(url, readonly=readonly, answered=self._note_answer)
        #: SQLite's file as it was opened; None for a server, and in memory.
        self.file = place.opened(url.database) if self.dialect == "sqlite" else None
        self._reader = dialect.make_reader(self.engine)
        #: SQLite writes one transaction at a time; waiting here is fairer and quicker than its busy handler.
        self._writing = threading.Lock() if self.dialect == "sqlite" else None
        #: Why nothing may be written any more; None while all is well.
        self._broken: str | None = None
        #: Told once when nothing may be written any more; the daemon ends the process.
        self.when_broken: Callable[[str], None] = _ignore
        self._asking = threading.BoundedSemaphore(ASKING)
        self._writer: sa.Connection | None = None
        #: A connection on PostgreSQL that only the lease uses, so that nothing else can keep it waiting.
        self._reserved = dialect.make_engine(url, reserved=True) if self.dialect != "sqlite" and not readonly else None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        base: Path,
        clock: Clock,
        ids: Ids,
        readonly: bool = False,
        database_clock: Clock | None = None,
    ) -> Store:
        """Return the store at `url` (a relative SQLite path starts at `base`), without touching it yet."""
        parsed = dialect.parse_url(url, base)
        return cls(parsed, clock=clock, ids=ids, readonly=readonly, database_clock=database_clock)

    @contextlib.contextmanager
    def transaction(self, name: str, *, fenced: bool = True, reserved: bool = False) -> Iterator[Transaction]:
        """Run a block as one transaction; all of it is durable when the block ends, or none of it.

        `fenced` transactions belong to the leader: they raise `StaleTerm` when this daemon's term is over.
        A `reserved` one has a connection of its own, and gives up sooner.
        Raises `StoreBusy` when the database cannot take it now.
        """
        with self._turn(), self._as_store_errors():
            connection = self._connection() if self._reserved is None or not reserved else self._reserved.connect()
            try:
                with connection.begin():
                    tx = Transaction(connection, self, now=self.clock.now())
                    if fenced:
                        tx.check_term()
                    yield tx
                    tx.write_history()
                    crash_point(f"transaction.{name}.before_commit")
            except sa.exc.DBAPIError as error:
                self._drop_writer(connection, broken=error.connection_invalidated)
                raise
            finally:
                if connection is not self._writer:
                    connection.close()
        crash_point(f"transaction.{name}.after_commit")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Run a block that only reads, on a connection of its own, seeing one state of the database."""
        if self.file is not None:
            self.file.check()
        with self._as_store_errors(), self._reader.connect() as connection, connection.begin():
            yield Transaction(connection, self, now=self.clock.now())

    def upgrade(self) -> bool:
        """Bring the schema up to date; return whether there was anything to do. Raises `SchemaMismatch` for a newer one."""
        with self._turn(), self._as_store_errors():
            connection = self._connection()
            try:
                with connection.begin():
                    done = migrate.upgrade(connection, before=self._copy_before_upgrade)
            finally:
                if connection is not self._writer:
                    connection.close()
        crash_point("transaction.migrate.after_commit")
        return done

    def _copy_before_upgrade(self, schema: str) -> None:
        """Copy a SQLite database beside itself; nobody else writes now. A server's own backups are its administrator's."""
        if self.file is not None:
            backup.before_upgrade(self.url, schema)

    def trouble(self) -> str | None:
        """Return what is wrong with SQLite's file, without asking the database; None when nothing is."""
        try:
            if self.file is not None:
                self.file.check()
        except StoreBusy as error:
            return error.message
        return None

    def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is the one of this program."""
        with self.reading() as tx:
            migrate.check(tx.connection)

    def lead(self, *, owner: str, host: str, pid: int, replica: str = "") -> Term:
        """Take the next term, whoever has the present one, and for good; every fenced transaction of an earlier one fails from now on."""
        with self.transaction("lead", fenced=False) as tx:
            number = tx.replicas.take_over(replica, owner=owner, host=host, pid=pid)
        self.term = Term(number=number, owner=owner)
        return self.term

    def close(self) -> None:
        """Close every connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.engine.dispose()
        if self._reserved is not None:
            self._reserved.dispose()

    def description(self) -> str:
        """Return the store in words for people, without secrets: its place, the library and the journal mode."""
        if self.dialect != "sqlite":
            return self.url.render_as_string(hide_password=True)
        version = dialect.sqlite_version()
        mode = "write-ahead log" if version >= dialect.SAFE_WAL else "rollback journal"
        return f"SQLite {'.'.join(map(str, version))}, {mode}, {self.url.database}"

    def _note_answer(self) -> None:
        self.answered_at[threading.get_ident()] = self.clock.monotonic()

    def asking(self) -> Asking:
        """Return this store as people's questions may use it."""
        return Asking(self, self._asking)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for our turn to write; nobody writes once the database is broken."""
        if self._broken is not None:
            raise StoreBroken(self._broken, hint=_BROKEN_HINT)
        if self.file is not None:
            self.file.check()
        if self._writing is None:
            yield
            return
        if not self._writing.acquire(timeout=WRITER_SECONDS):
            raise StoreBusy(
                f"the store is still writing something else after {WRITER_SECONDS:g} s", code="store.locked"
            )
        try:
            yield
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        """Turn the driver's errors into ours (`dialect.verdict`): what may pass `StoreBusy`, a row that is there already `Conflict`."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            verdict = dialect.verdict(error, self.url.database)
            text = _first_line(getattr(error, "orig", None) or error)
            match verdict.kind:
                case "passing":
                    raise StoreBusy(f"the store cannot take this now: {text}", code=verdict.code) from error
                case "contended":
                    raise StoreBusy(
                        f"somebody else was in the way: {text}", code=verdict.code, after_seconds=1
                    ) from error
                case "duplicate":
                    raise Conflict(f"somebody else was faster: {text}") from error
                case "broken":
                    raise self._break(text) from error
                case "ours":
                    raise

    def _break(self, text: str) -> StoreBroken:
        """Write nothing any more: a second attempt would seem to succeed on data that the disk has lost."""
        reason = f"the database can no longer be trusted: {text}"
        if self._broken is None:
            self._broken = reason
            self.when_broken(reason)
        return StoreBroken(reason, hint=_BROKEN_HINT)

    def _connection(self) -> sa.Connection:
        if self.dialect != "sqlite":
            return self.engine.connect()
        if self._writer is None:
            self._writer = self.engine.connect()
        return self._writer

    def _drop_writer(self, connection: sa.Connection, *, broken: bool) -> None:
        if broken and connection is self._writer:
            self._writer = None
            connection.close()


class Readable(Protocol):
    """A store to ask: the store itself, or the part of it that people's questions may use."""

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """Run a block that only reads."""
        ...

    def description(self) -> str:
        """Return the store in words for people."""
        ...


class Asking:
    """The store as people's questions may use it: so many at once, so that they starve neither the loops nor each other for long."""

    def __init__(self, store: Store, turns: threading.BoundedSemaphore) -> None:
        self._store = store
        self._turns = turns
        #: How deep this thread already reads: a question within a question has its turn.
        self._depth = threading.local()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Run a block that only reads; raises `StoreBusy` when too many ask already."""
        depth = getattr(self._depth, "now", 0)
        if not depth and not self._turns.acquire(timeout=ASKING_SECONDS):
            raise StoreBusy(
                f"{ASKING} questions are being worked on, and others wait", after_seconds=1, code="api.crowded"
            )
        self._depth.now = depth + 1
        try:
            with self._store.reading() as tx:
                yield tx
        finally:
            self._depth.now = depth
            if not depth:
                self._turns.release()

    def description(self) -> str:
        """Return the store in words for people."""
        return self._store.description()


class Transaction:
    """One open transaction, and the rows that can be reached in it."""

    def __init__(self, connection: sa.Connection, store: Store, *, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.ids = store.ids
        self.dialect = store.dialect
        #: The term of this daemon; 0 while it does not lead.
        self.term = store.term.number if store.term else 0
        self._database_clock = store.database_clock
        self._history: list[dict[str, Any]] = []

    @cached_property
    def events(self) -> EventRows:
        """What came in, and what sources remember."""
        return EventRows(self)

    @cached_property
    def letters(self) -> LetterRows:
        """Dead letters: what was not understood, and events that could not be decided."""
        return LetterRows(self)

    @cached_property
    def episodes(self) -> EpisodeRows:
        """Alerts from firing to resolved."""
        return EpisodeRows(self)

    @cached_property
    def policies(self) -> PolicyRows:
        """What policies concluded, hold and remember."""
        return PolicyRows(self)

    @cached_property
    def runs(self) -> RunRows:
        """Runs, their jobs, attempts, results and verdicts."""
        return RunRows(self)

    @cached_property
    def models(self) -> ModelRows:
        """Models, their versions and promotions."""
        return ModelRows(self)

    @cached_property
    def watches(self) -> WatchRows:
        """Watches after promotions, and what they came to."""
        return WatchRows(self)

    @cached_property
    def outbox(self) -> OutboxRows:
        """Messages to people."""
        return OutboxRows(self)

    @cached_property
    def sources(self) -> SourceRows:
        """How each source has been."""
        return SourceRows(self)

    @cached_property
    def people(self) -> PeopleRows:
        """What persons did: acts, pauses, tokens; and the configurations they activated."""
        return PeopleRows(self)

    @cached_property
    def replicas(self) -> ReplicaRows:
        """The daemons on this database, and the lease by which one of them leads."""
        return ReplicaRows(self)

    @cached_property
    def seals(self) -> SealRows:
        """The chain over history."""
        return SealRows(self)

    def database_now(self) -> datetime:
        """Return the present instant by the database's clock, which all replicas share."""
        if self.dialect == "sqlite":
            return self._database_clock.now()
        now: datetime = self.execute(_DATABASE_NOW).scalar_one()
        return now

    def execute(self, statement: Any, parameters: Any = None) -> sa.CursorResult[Any]:
        """Execute one statement."""
        return self.connection.execute(statement, parameters)

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that can say what happens on a conflict."""
        return dialect.insert(table, self.dialect)

    def insert_new(self, table: sa.Table) -> Any:
        """Return an INSERT that leaves rows alone whose key is there already."""
        return dialect.insert_new(table, self.dialect)

    def transition(
        self,
        machine: states.Machine,
        entity: str,
        *,
        origin: str,
        target: str,
        cause: str,
        reason: str = "",
        actor: str = "controller",
        **values: Any,
    ) -> None:
        """Change a state: the only code that does.

        Checks the table of states, updates only if the row is still in `origin`, and writes the history row.
        `values` are other columns of the same row. Raises `IllegalTransition` for a change the table does not know, and
        `Conflict` when the row has moved on.
        """
        machine.check(origin, target, cause)
        table = schema.TABLES[machine.name]
        values["state"] = target
        if "cause" in table.c:
            values["cause"] = cause
        if "reason" in table.c:
            values["reason"] = reason
        if "finished_at" in table.c and target in machine.final:
            values["finished_at"] = self.now
        statement = _transition_statement(machine.name, tuple(values))
        done = self.execute(statement, {**values, "b_id": entity, "b_state": origin})
        if done.rowcount != 1:
            raise Conflict(f"{machine.name} {entity} is no longer {origin}")
        self.record(machine.name, entity, origin, target, cause, reason, actor)

    def record(
        self,
        machine: str,
        entity: str,
        origin: str,
        target: str,
        cause: str,
        reason: str,
        actor: str,
        *,
        digest: str | None = None,
    ) -> None:
        """Write a history row, with the others of this transaction at its end; for a new row's birth, and for `transition`.

        `digest` is for what history only points at, such as an act.
        """
        self._history.append(
            {
                "machine": machine,
                "entity": entity,
                "origin": origin,
                "target": target,
                "cause": cause,
                "reason": reason,
                "actor": actor,
                "term": self.term,
                "at": self.now,
                "digest": digest,
            }
        )

    def write_history(self) -> None:
        """Write the history rows that were recorded; `Store.transaction` does it before it commits."""
        if self._history:
            self.execute(_INSERT_HISTORY, self._history)
            self._history = []

    def check_term(self) -> None:
        """Raise `StaleTerm` when another daemon leads."""
        number = self.execute(_TERM if self.dialect == "sqlite" else _TERM_SHARED).scalar()
        if number != self.term:
            raise StaleTerm(f"term {self.term} is over, {number} leads now")

    def present_term(self) -> int | None:
        """Return the term of whoever leads; on PostgreSQL another may be taken before this transaction ends."""
        number: int | None = self.execute(_TERM).scalar()
        return number


_BROKEN_HINT = "look at the disk and its messages; the next start reads what is really there, and if that is damaged, restore a backup"
_TERM = sa.select(schema.leader.c.term)
_TERM_SHARED = _TERM.with_for_update(read=True)
_DATABASE_NOW = sa.select(
    sa.type_coerce(sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger), dialect.Instant)
)
_INSERT_HISTORY = sa.insert(schema.history).values(
    after_seq=sa.select(schema.leader.c.decided_seq).where(schema.leader.c.id == 1).scalar_subquery()
)


@lru_cache(maxsize=256)
def _transition_statement(machine: str, columns: tuple[str, ...]) -> sa.Update:
    """Return the compare-and-set update of these columns; building one costs more than running it."""
    table = schema.TABLES[machine]
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("b_id"), table.c.state == sa.bindparam("b_state"))
        .values({column: sa.bindparam(column) for column in columns})
    )


def _ignore(reason: str) -> None:
    del reason


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
