"""One daemon per installation: the second is refused, and told who the first one is.

On SQLite a lock on a file beside the database, which the system lets go when its holder dies, however it dies; on PostgreSQL an
advisory lock held by a connection of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

import sqlalchemy as sa

from controller.errors import AlreadyRunning, StoreBusy

if TYPE_CHECKING:
    from controller.store.store import Store

_LOCK_KEY = 7241944


class InstallationLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._descriptor: int | None = None
        self._connection: sa.Connection | None = None

    def acquire(self, *, pid: int) -> None:
        """Take the lock; raises `AlreadyRunning` when another daemon has it."""
        if self._store.dialect == "sqlite":
            self._lock_file(pid)
        else:
            self._lock_server()

    def release(self) -> None:
        """Let go of the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._connection is not None:
            with contextlib.suppress(sa.exc.DBAPIError):
                # The connection goes back to the pool, and its session would keep the lock.
                self._connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
                self._connection.close()
            self._connection = None

    def _lock_file(self, pid: int) -> None:
        path = f"{self._store.url.database}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"another daemon (pid {holder}) holds {self._store.url.database}",
                hint=f"stop it first: kill {holder}",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)
        self._descriptor = descriptor

    def _lock_server(self) -> None:
        try:
            connection = self._store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            taken = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}).scalar()
        except sa.exc.OperationalError as error:
            raise StoreBusy(f"the store cannot take this now: {error.orig}") from error
        if not taken:
            connection.close()
            holder = self._holder()
            raise AlreadyRunning(
                f"another daemon ({holder}) leads on {self._store.description()}",
                hint="stop it first; one daemon per database",
            )
        self._connection = connection

    def _holder(self) -> str:
        with self._store.reading() as tx:
            row = tx.execute(sa.text("SELECT host, pid FROM leader WHERE id = 1")).first()
        return "unknown" if row is None else f"pid {row.pid} on {row.host}"
