"""Wakes the other daemons on a PostgreSQL database, by LISTEN and NOTIFY.

A wake-up is a hint, as a bell within a process is: it names loops that may have something to do, and may be lost.
A pooler in transaction mode takes LISTEN and delivers nothing, so whoever listens first makes sure that it hears itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.errors import StoreBusy
from controller.store import dialect

if TYPE_CHECKING:
    from controller.store.store import Store

#: The channel on which the daemons of a database hear each other.
CHANNEL = "retrain_wake"
_NOTIFY = sa.text("SELECT pg_notify(:channel, :said)")


class Wire:
    """One daemon's way to the others; `say` from any thread, `listen` from one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._engine = dialect.make_engine(store.url, reserved=True)

    def say(self, words: Sequence[str]) -> None:
        """Send a few words to every daemon that listens, this one too; raises `StoreBusy`."""
        with self._store.transaction("wake", fenced=False) as tx:
            tx.execute(_NOTIFY, {"channel": CHANNEL, "said": " ".join(words)})

    @contextlib.contextmanager
    def listen(self) -> Iterator[Ear]:
        """Give what hears until the block ends; raises `StoreBusy` when the server cannot be reached, or is reached no more."""
        import psycopg  # ten megabytes, which a daemon on SQLite does not need

        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                try:
                    yield Ear(connection.connection.driver_connection)
                finally:
                    connection.invalidate()  # nobody else gets a connection that listens
        except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
            raise StoreBusy(f"cannot listen for the other replicas: {error}") from error

    def close(self) -> None:
        """Close what listened."""
        self._engine.dispose()


class Ear:
    """A connection that listens."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def hear(self, seconds: float) -> list[list[str]]:
        """Return what was said, each as its words; waits so long for the first."""
        return [str(each.payload).split() for each in self._connection.notifies(timeout=seconds, stop_after=1)]
