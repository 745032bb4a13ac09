"""One daemon per file: the second one on a SQLite database is refused, and told who the first one is.

A lock on a file beside the database, which the system lets go when its holder dies, however it dies.
On PostgreSQL several daemons may run, and a lease says which of them leads (`engine/lease.py`); there is nothing to lock.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from controller.errors import AlreadyRunning

if TYPE_CHECKING:
    from controller.store.store import Store


class InstallationLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, store: Store) -> None:
        self._path = f"{store.url.database}.lock" if store.dialect == "sqlite" else None
        self._database = store.url.database
        self._descriptor: int | None = None

    def acquire(self, *, pid: int) -> None:
        """Take the lock; raises `AlreadyRunning` when another daemon has it."""
        if self._path is None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"another daemon (pid {holder}) holds {self._database}",
                hint=f"stop it first: kill {holder}; several replicas need PostgreSQL",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
