"""One daemon per SQLite file: the second one is refused, and told who the first is; PostgreSQL takes several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller.errors import AlreadyRunning
from controller.store import Store
from controller.store.lock import InstallationLock
from controller.testing import ManualClock
from tests.factories import make_ids

#: Another process that takes the lock, says so with its pid, and holds it until its input ends.
HOLDER = """
import os, sys
from pathlib import Path
from controller.clock import Ids, SystemClock, system_random
from controller.store import Store
from controller.store.lock import InstallationLock
clock = SystemClock()
store = Store.open(sys.argv[1], base=Path("/"), clock=clock, ids=Ids(clock, system_random()))
store.upgrade()
InstallationLock(store).acquire(pid=os.getpid())
store.lead(owner="there", host="host", pid=os.getpid())
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/locked.db"


def open_store(url: str) -> Store:
    clock = ManualClock()
    return Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))


def test_a_second_daemon_is_refused_until_the_first_is_gone(sqlite_url: str) -> None:
    """It reads the first one's pid; when that dies without a goodbye, the lock is free."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, sqlite_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    pid = holder.stdout.readline().strip()
    store = open_store(sqlite_url)
    lock = InstallationLock(store)
    with pytest.raises(AlreadyRunning, match=rf"pid {pid}\b"):
        lock.acquire(pid=1)
    holder.kill()
    holder.communicate()
    lock.acquire(pid=2)
    lock.release()
    store.close()


def test_within_a_process_too_there_is_one(sqlite_url: str) -> None:
    """Two locks do not both hold; once released, the next one does; releasing twice does no harm."""
    stores = [open_store(sqlite_url) for _ in range(2)]
    stores[0].upgrade()
    first, second = (InstallationLock(store) for store in stores)
    first.acquire(pid=11)
    with pytest.raises(AlreadyRunning):
        second.acquire(pid=12)
    first.release()
    first.release()
    second.acquire(pid=12)
    with pytest.raises(AlreadyRunning):
        first.acquire(pid=11)
    second.release()
    for store in stores:
        store.close()


def test_a_state_directory_has_one_daemon(tmp_path: Path) -> None:
    """Also on PostgreSQL, where two would take each other's jobs for their own."""
    stores = [open_store("postgresql://retrain@127.0.0.1:1/none") for _ in range(2)]
    first, second = (InstallationLock(store, state_dir=tmp_path) for store in stores)
    first.acquire(pid=11)
    with pytest.raises(AlreadyRunning, match=rf"pid 11\b.*{tmp_path}"):
        second.acquire(pid=12)
    first.release()
    second.acquire(pid=12)
    second.release()

    assert (tmp_path / "daemon.lock").read_text() == "12\n"


def test_a_server_has_nothing_to_lock(tmp_path: Path) -> None:
    """Several daemons may run on PostgreSQL: which of them leads is a matter of the lease."""
    stores = [open_store("postgresql://retrain@127.0.0.1:1/none") for _ in range(2)]
    locks = [InstallationLock(store) for store in stores]
    for pid, lock in enumerate(locks):
        lock.acquire(pid=pid)
        lock.release()

    assert list(tmp_path.iterdir()) == []
