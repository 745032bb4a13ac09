"""The store: transactions, the one writer of states, and the way in and out of a database.

Every step of the engine is one transaction with a name. On SQLite one transaction writes at a time (`BEGIN IMMEDIATE` behind a lock of
this process), on PostgreSQL the server orders them. A transaction of the leader is fenced: it fails when another daemon took a later term.
The rows are reached by noun: `tx.events`, `tx.letters`, `tx.episodes`, `tx.policies`, `tx.runs`, `tx.models`,
`tx.watches`, `tx.outbox`, `tx.sources`, `tx.people`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.clock import Clock, Ids
from controller.core import states
from controller.crash import crash_point
from controller.errors import Conflict, StoreBusy, StoreError
from controller.store import dialect, migrate, schema
from controller.store.episodes import EpisodeRows
from controller.store.intake import EventRows
from controller.store.letters import LetterRows
from controller.store.models import ModelRows
from controller.store.outbox import OutboxRows
from controller.store.people import PeopleRows
from controller.store.policies import PolicyRows
from controller.store.runs import RunRows
from controller.store.sources import SourceRows
from controller.store.watches import WatchRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """The right to decide: who leads, and since when."""

    number: int
    owner: str


class StaleTerm(StoreError):
    """Another daemon leads now; nothing was written."""


class Store:
    """A database with our schema. Safe to use from several threads."""

    def __init__(self, url: sa.URL, *, clock: Clock, ids: Ids, readonly: bool = False) -> None:
        self.url = url
        self.clock = clock
        self.ids = ids
        self.dialect = url.get_backend_name()
        self.term: Term | None = None
        self.engine = dialect.make_engine(url, readonly=readonly)
        self._reader = self.engine.execution_options(**dialect.reading_options(self.dialect))
        #: SQLite writes one transaction at a time; waiting here is fairer and quicker than its busy handler.
        self._writing = threading.Lock() if self.dialect == "sqlite" else contextlib.nullcontext()
        self._writer: sa.Connection | None = None

    @classmethod
    def open(cls, url: str, *, base: Path, clock: Clock, ids: Ids, readonly: bool = False) -> Store:
        """Return the store at `url` (a relative SQLite path starts at `base`), without touching it yet."""
        return cls(dialect.parse_url(url, base), clock=clock, ids=ids, readonly=readonly)

    @contextlib.contextmanager
    def transaction(self, name: str, *, fenced: bool = True) -> Iterator[Transaction]:
        """Run a block as one transaction; all of it is durable when the block ends, or none of it.

        `fenced` transactions belong to the leader: they raise `StaleTerm` when this daemon's term is over.
        Raises `StoreBusy` when the database cannot take it now.
        """
        with self._writing, _as_store_errors():
            connection = self._connection()
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
        with _as_store_errors(), self._reader.connect() as connection, connection.begin():
            yield Transaction(connection, self, now=self.clock.now())

    def upgrade(self) -> bool:
        """Bring the schema up to date; return whether there was anything to do. Raises `SchemaMismatch` for a newer one."""
        with self._writing, _as_store_errors():
            connection = self._connection()
            try:
                with connection.begin():
                    done = migrate.upgrade(connection)
            finally:
                if connection is not self._writer:
                    connection.close()
        crash_point("transaction.migrate.after_commit")
        return done

    def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is the one of this program."""
        with self.reading() as tx:
            migrate.check(tx.connection)

    def lead(self, *, owner: str, host: str, pid: int) -> Term:
        """Take the next term; every fenced transaction of an earlier one fails from now on."""
        with self.transaction("lead", fenced=False) as tx:
            number = tx.take_term(owner=owner, host=host, pid=pid)
        self.term = Term(number=number, owner=owner)
        return self.term

    def close(self) -> None:
        """Close every connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.engine.dispose()

    def description(self) -> str:
        """Return the store in words for people, without secrets: its place, the library and the journal mode."""
        if self.dialect != "sqlite":
            return self.url.render_as_string(hide_password=True)
        version = dialect.sqlite_version()
        mode = "write-ahead log" if version >= dialect.SAFE_WAL else "rollback journal"
        return f"SQLite {'.'.join(map(str, version))}, {mode}, {self.url.database}"

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


class Transaction:
    """One open transaction, and the rows that can be reached in it."""

    def __init__(self, connection: sa.Connection, store: Store, *, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.ids = store.ids
        self.dialect = store.dialect
        self.term = store.term.number if store.term else 0
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
    ) -> None:
        """Write a history row, with the others of this transaction at its end; for a new row's birth, and for `transition`."""
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
            }
        )

    def write_history(self) -> None:
        """Write the history rows that were recorded; `Store.transaction` does it before it commits."""
        if self._history:
            self.execute(_INSERT_HISTORY, self._history)
            self._history = []

    def check_term(self) -> None:
        """Raise `StaleTerm` when another daemon leads."""
        number = self.execute(_TERM if self.dialect == "sqlite" else _TERM.with_for_update(read=True)).scalar()
        if number != self.term:
            raise StaleTerm(f"term {self.term} is over, {number} leads now")

    def take_term(self, *, owner: str, host: str, pid: int) -> int:
        """Make this daemon the leader and return its term."""
        row = {"owner": owner, "host": host, "pid": pid, "since": self.now}
        upsert = self.insert(schema.leader).values(id=1, term=1, decided_seq=0, **row)
        upsert = upsert.on_conflict_do_update(
            index_elements=["id"], set_={"term": schema.leader.c.term + 1, **row}
        ).returning(schema.leader.c.term)
        return int(self.execute(upsert).scalar_one())


_TERM = sa.select(schema.leader.c.term)
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


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    """Turn the driver's errors into ours: what may pass `StoreBusy`, a row that is there already `Conflict`; the rest stays."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        raise StoreBusy(
            f"the store cannot take this now: {_first_line(getattr(error, 'orig', None) or error)}"
        ) from error
    except sa.exc.IntegrityError as error:
        if not dialect.is_duplicate(error.orig):
            raise
        raise Conflict(f"somebody else was faster: {_first_line(error.orig)}") from error
    except sa.exc.InternalError as error:
        if not dialect.is_passing(error.orig):
            raise
        raise StoreBusy(f"the store cannot take this now: {_first_line(error.orig)}") from error
    except sa.exc.InterfaceError as error:
        raise StoreBusy(f"the store's connection broke: {error.orig}") from error


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
