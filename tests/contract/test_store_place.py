"""A SQLite file must be where it can live, and stay the one that was opened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.errors import StoreBusy, StoreError
from controller.store import Store, dialect, place, schema
from controller.testing import ManualClock
from tests.factories import make_new_event
from tests.story import open_store

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/share rw - nfs4 server:/share rw
31 22 0:41 / /srv/share/local\\040disk rw - xfs /dev/sdb rw
32 22 0:42 / /home/me rw - fuse.sshfs me@there: rw
33 32 0:43 / /home/me rw - tmpfs none rw
not a line of it
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'retrain.db'}", ManualClock())
    yield store
    store.close()


def add(store: Store, number: int) -> None:
    with store.transaction("test", fenced=False) as tx:
        tx.events.add("api", [make_new_event(number)])


def count(store: Store) -> int:
    with store.reading() as tx:
        return int(tx.execute(sa.select(sa.func.count()).select_from(schema.event)).scalar_one())


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replace(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("happens", [remove, move, replace])
def test_DB18_a_file_that_is_gone_or_another_is_not_written_to(
    store: Store, tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    """Neither a write nor a read goes on, the reason is said, and nothing comes into being under the name."""
    add(store, 1)
    path = tmp_path / "retrain.db"
    happens(path)
    for attempt in (lambda: add(store, 2), lambda: count(store)):
        with pytest.raises(StoreBusy, match=r"(is not there any more|was replaced)") as refused:
            attempt()
        assert refused.value.code == "store.moved"

    assert "nothing is written" in (store.trouble() or "")
    assert path.exists() == (happens is replace)


def test_DB18_a_file_that_is_put_back_is_used_again(store: Store, tmp_path: Path) -> None:
    """Nothing was lost and nothing has to be started again when the same file is back under its name."""
    add(store, 1)
    move(tmp_path / "retrain.db")
    with pytest.raises(StoreBusy):
        add(store, 2)
    (tmp_path / "retrain.old").rename(tmp_path / "retrain.db")
    add(store, 2)

    assert count(store) == 2
    assert store.trouble() is None


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/var/lib/retrain.db", "ext4"),
        ("/srv/share/retrain.db", "nfs4"),
        ("/srv/shared/retrain.db", "ext4"),
        ("/srv/share/local disk/retrain.db", "xfs"),
        ("/home/me/retrain.db", "tmpfs"),
        ("/srv/share", "nfs4"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    """The innermost mount counts, of two at one place the later; a folder's name is not its beginning."""
    assert place.file_system_of(path, MOUNTS.splitlines()) == kind


def test_DB19_a_network_is_refused_unless_somebody_knows_better(tmp_path: Path) -> None:
    """The kind of file system is named, and the way to allow it; without a list of mounts nobody is refused."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 0:1 / / rw - ext4 x rw\n30 22 0:40 / {tmp_path} rw - nfs4 server:/share rw\n")
    url = sa.make_url(f"sqlite:///{tmp_path / 'state' / 'retrain.db'}")
    with pytest.raises(StoreError, match=r"network's file system \(nfs4\)") as refused:
        place.check(url, on_network=False, mounts=mounts)
    place.check(url, on_network=True, mounts=mounts)
    place.check(url, on_network=False, mounts=tmp_path / "none")
    place.check(sa.make_url("postgresql://db/x"), on_network=False, mounts=mounts)

    assert "on_network: true" in refused.value.hint


@pytest.fixture
def somebody() -> Iterator[None]:
    """An account that may not write everywhere, as root may."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


def test_DB16_a_folder_that_cannot_be_written_is_refused(somebody: None) -> None:
    """SQLite needs it for its journal, and would fail at the first write only."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with pytest.raises(StoreError, match="keeps its journal beside the database"):
            place.check(sa.make_url(f"sqlite:///{folder}/retrain.db"), on_network=False)


def test_DB16_a_place_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    """The reason of the system is said in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written: (Not a directory|File exists)"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'retrain.db'}", ManualClock())


@pytest.mark.skipif(dialect.sqlite_version() < dialect.SAFE_WAL, reason="no write-ahead log here")
def test_DB21_the_log_does_not_stay_large(store: Store, tmp_path: Path) -> None:
    """While somebody reads, the log grows; once nobody does, it is cut to its limit, and then goes on from its beginning."""
    log = tmp_path / "retrain.db-wal"
    text = "x" * 100_000
    with store.reading() as tx:
        tx.events.oldest_pending()  # from here on this reader sees the past, and the log must be kept for it
        number = 0
        while place.size_of(str(log)) <= dialect.MOST_LOG:
            number += 100
            with store.transaction("test", fenced=False) as writing:
                writing.events.add("api", [make_new_event(number + each, data={"x": text}) for each in range(100)])
    grown = place.size_of(str(log))
    for each in (1, 2, 3):
        add(store, number + 1000 + each)

    assert grown > dialect.MOST_LOG
    assert place.size_of(str(log)) <= dialect.MOST_LOG
