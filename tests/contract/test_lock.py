"""One daemon per installation: the second one is refused, and told who the first is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.errors import AlreadyRunning, StoreBusy
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


def open_store(url: str) -> Store:
    clock = ManualClock()
    return Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))


def test_a_second_daemon_is_refused_until_the_first_is_gone(database_url: str) -> None:
    """It reads the first one's pid; when that dies without a goodbye, the lock is free."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    pid = holder.stdout.readline().strip()
    store = open_store(database_url)
    lock = InstallationLock(store)
    with pytest.raises(AlreadyRunning, match=rf"pid {pid}\b"):
        lock.acquire(pid=1)
    holder.kill()
    holder.communicate()
    wait_until_gone(store)
    lock.acquire(pid=2)
    lock.release()
    store.close()


def wait_until_gone(store: Store) -> None:
    """Wait until PostgreSQL has noticed that the holder is dead; a file's lock is free at once."""
    if store.dialect == "sqlite":
        return
    others = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    for _ in range(500):
        with store.engine.connect() as connection:
            if not connection.execute(sa.text(others)).scalar():
                return
            connection.execute(sa.text("SELECT pg_sleep(0.01)"))
    pytest.fail("the holder's lock outlives it")


def test_within_a_process_too_there_is_one(database_url: str) -> None:
    """Two locks do not both hold; once released, the next one does; releasing twice does no harm."""
    stores = [open_store(database_url) for _ in range(2)]
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


def test_a_lock_on_a_server_that_is_gone_is_busy(tmp_path: Path) -> None:
    """Who cannot even ask is told to try later."""
    store = open_store("postgresql://retrain@127.0.0.1:1/none")
    with pytest.raises(StoreBusy):
        InstallationLock(store).acquire(pid=1)
