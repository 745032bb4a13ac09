"""A backup is whole, whatever is written meanwhile, and never takes the place of anything."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.errors import Conflict, StoreBroken, StoreError
from controller.store import Store, migrate, schema
from controller.store.backup import back_up, command_for
from controller.store.verify import verify
from controller.testing import ManualClock
from tests.factories import make_ids, make_new_event
from tests.story import open_store, tell


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    clock = ManualClock()
    store = open_store(f"sqlite:///{tmp_path / 'state' / 'retrain.db'}", clock)
    tell(store, clock)
    yield store
    store.close()


def event_ids(store: Store) -> list[str]:
    with store.reading() as tx:
        return list(tx.execute(sa.select(schema.event.c.source_id).order_by(schema.event.c.id)).scalars())


def opened(path: Path) -> contextlib.closing[Store]:
    clock = ManualClock()
    return contextlib.closing(Store.open(f"sqlite:///{path}", base=Path("/"), clock=clock, ids=make_ids(clock)))


def test_a_backup_is_the_database(store: Store, tmp_path: Path) -> None:
    """All rows are in it, it is sound, only its owner may read it, and nothing lies beside it."""
    copy = back_up(store.url, tmp_path / "copy.db")
    with opened(tmp_path / "copy.db") as other:
        rows, findings = event_ids(other), verify(other)

    assert (copy.schema, copy.events, copy.bytes) == (
        migrate.HEAD,
        len(event_ids(store)),
        (tmp_path / "copy.db").stat().st_size,
    )
    assert rows == event_ids(store)
    assert findings == []
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"state", "copy.db", "copy.db-wal", "copy.db-shm"} & {
        path.name for path in tmp_path.iterdir()
    }


def test_UP05_a_backup_while_others_write(store: Store, tmp_path: Path) -> None:
    """It is of one moment: what one transaction wrote is in it as a whole or not at all, and nobody had to wait for it to end."""
    stop, written = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            number = len(written)
            with store.transaction("test", fenced=False) as tx:
                tx.events.add("api", [make_new_event(f"{number}-{part}") for part in range(20)])  # type: ignore[arg-type]
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    copies = [back_up(store.url, tmp_path / f"copy-{number}.db") for number in range(5)]
    stop.set()
    writer.join()

    before = 0
    for copy in copies:
        with opened(copy.path) as other:
            found = [each for each in event_ids(other) if each.startswith("e") and "-" in each]
            assert verify(other) == []
        assert len(found) % 20 == 0
        assert before <= len(found) <= len(written) * 20
        before = len(found)
    assert written


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_replaced(store: Store, tmp_path: Path, kind: str) -> None:
    """Whatever has the name already stays as it is."""
    target = tmp_path / "there"
    if kind == "file":
        target.write_text("precious")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict, match="is there already"):
        back_up(store.url, target)

    assert kind != "file" or target.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_backup_that_cannot_be_written_says_why(store: Store, tmp_path: Path) -> None:
    """A folder that is not there is named, and nothing is left behind."""
    with pytest.raises(StoreError, match=r"cannot be written: No such file") as refused:
        back_up(store.url, tmp_path / "missing" / "copy.db")

    assert "room for a copy" in refused.value.hint


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_UP02_a_backup_without_room_is_refused(store: Store, tmp_path: Path) -> None:
    """On a disk that is full nothing takes the name, what was written of it is gone, and the database goes on."""
    small = tmp_path / "small"
    small.mkdir()
    program = (
        "import sys; from pathlib import Path; import sqlalchemy as sa; from controller.store.backup import back_up\n"
        "from controller.errors import StoreError\n"
        "try: back_up(sa.make_url(sys.argv[1]), Path(sys.argv[2]) / 'copy.db')\n"
        "except StoreError as error: print(error.message); sys.exit(9)\n"
    )
    script = f'mount -t tmpfs -o size=64k none {small} && "$@"; code=$?; ls -A {small}; exit $code'
    python = shutil.which("python", path=f"{Path(__file__).parents[2]}/.venv/bin") or "python3"
    made = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", python, "-c", program, str(store.url), str(small)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if made.returncode not in (0, 9):
        pytest.skip(f"cannot mount here: {made.stderr.strip()[-200:]}")

    assert made.returncode == 9, made.stdout
    assert made.stdout.splitlines() == [line for line in made.stdout.splitlines() if "cannot be" in line]
    assert verify(store) == []


def test_a_damaged_database_makes_no_backup(store: Store, tmp_path: Path) -> None:
    """A copy that does not read back whole takes no name, and the damage is said to be the database's."""
    path = Path(str(store.url.database))
    store.close()
    data = bytearray(path.read_bytes())
    for page in range(20, 40):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(StoreBroken, match=r"(is damaged|cannot be read)"):
        back_up(store.url, tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


def test_postgresql_is_told_its_own_command() -> None:
    """The command names the database and holds no password."""
    url = sa.make_url("postgresql://me:secret@db:5433/re train")

    assert command_for(url, Path("/backups/x.dump")) == (
        "pg_dump --format=custom --file=/backups/x.dump 'postgresql://me@db:5433/re train'"
    )
