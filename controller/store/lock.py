"""One daemon per file and folder: a second one on a SQLite database, or on a state directory, is refused and told who the first one is.

A lock on a file beside it, which the system lets go when its holder dies, however it dies.
On PostgreSQL several daemons may run, each with a state directory of its own, and a lease says which of them leads (`engine/lease.py`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from controller.errors import AlreadyRunning

if TYPE_CHECKING:
    from controller.store.store import Store


class InstallationLock:
    """Held from `acquire` until `release` or the end of the process."""

    def __init__(self, store: Store, *, state_dir: Path | None = None) -> None:
        """Without `state_dir` only the database is locked, as for a command that works on it alone."""
        #: What is held, with the file that says so.
        self._wanted: list[tuple[str, str]] = []
        if store.dialect == "sqlite":
            self._wanted.append((str(store.url.database), f"{store.url.database}.lock"))
        if state_dir is not None:
            self._wanted.append((str(state_dir), str(state_dir / "daemon.lock")))
        self._descriptors: list[int] = []

    def acquire(self, *, pid: int) -> None:
        """Take the lock; raises `AlreadyRunning` when another daemon has it."""
        try:
            for what, path in self._wanted:
                self._descriptors.append(_locked(what, path, pid))
        except AlreadyRunning:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the lock."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _locked(what: str, path: str, pid: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunning(
            f"another daemon (pid {holder}) holds {what}",
            hint=f"stop it first: kill {holder}; several replicas need PostgreSQL, and a state directory each",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)
    return descriptor
