"""Every database that an older version left can be taken over: nothing is lost, and the work goes on where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.states import RUN
from controller.errors import SchemaMismatch
from controller.store import Store, migrate, schema
from controller.store.verify import verify
from tests.engine.conftest import empty_store as empty_store
from tests.engine.conftest import plugin_folder as plugin_folder
from tests.engine.conftest import scripted_plugins as scripted_plugins
from tests.engine.house import House
from tests.engine.scripted import FarJob
from tests.migration import old
from tests.migration.old import VERSIONS, open_old

#: As in `tests/data/schema/record.py`.
POLICIES: dict[str, Any] = {
    "drift": {"on": {"type": "drift"}},
    "held": {"on": {"type": "held"}, "debounce": {"quiet": "30m"}},
    "paced": {"on": {"type": "paced"}, "cooldown": {"after": "decision", "period": "6h"}},
    "counted": {"on": {"type": "counted", "count": 3, "within": "1d"}},
}
#: Another process that brings a database up to date, and can be killed by a crash point.
UPGRADE = """
import os, sys
from pathlib import Path
from controller.clock import Ids, SystemClock, system_random
from controller.crash import arm_from_environment
from controller.store import Store
arm_from_environment(dict(os.environ))
clock = SystemClock()
store = Store.open(sys.argv[1], base=Path("/"), clock=clock, ids=Ids(clock, system_random()))
store.upgrade()
store.close()
"""


def expected(before: old.Rows, version: str) -> old.Rows:
    """What the migrations change of the rows that were there: a dead message has not ended any more since 0003."""
    if version >= "0003":
        return before
    mended = [{**row, "finished_at": None} if row["state"] == "DEAD" else row for row in before["notification"]]
    return {**before, "notification": sorted(mended, key=str)}


def upgrade(url: str) -> Store:
    store = open_old(url)
    assert store.upgrade()
    return store


def test_every_schema_before_this_one_is_recorded() -> None:
    """A new schema comes with what the one before it left behind."""
    known = sorted(path.name[:4] for path in (Path(migrate.__file__).parent / "migrations/versions").glob("0*.py"))

    assert list(VERSIONS) == known[:-1]
    assert known[-1] == migrate.HEAD


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upgrade_keeps_every_row(database_url: str, version: str) -> None:
    """Row by row and column by column the same, and what is said of them fits together."""
    before = old.fill(database_url, version)
    store = upgrade(database_url)
    after = old.rows(store, version)
    findings = verify(store)
    store.check_schema()
    store.close()

    assert sum(map(len, before.values())) > 150
    assert after == expected(before, version)
    assert findings == []


@pytest.mark.parametrize("point", ["migrate.0002.before_commit", "migrate.0004.before_commit"])
def test_CP17_a_crash_in_a_migration_changes_nothing(database_url: str, point: str) -> None:
    """Killed between two migrations, the database is as it was, the older program can go on, and the next start upgrades it."""
    before = old.fill(database_url, "0001")
    environment = {**os.environ, "RETRAIN_CRASH": point}
    killed = subprocess.run([sys.executable, "-c", UPGRADE, database_url], env=environment, timeout=60, check=False)
    store = open_old(database_url)
    with store.reading() as tx:
        left = migrate.current(tx.connection)
    rows = old.rows(store, "0001")
    store.close()

    assert killed.returncode == -9
    assert (left, rows) == ("0001", before)
    store = upgrade(database_url)
    assert old.rows(store, "0001") == expected(before, "0001")
    store.close()


def test_CP17_a_crash_after_a_migration_is_the_same_as_none(database_url: str) -> None:
    """Killed after the commit, the next start finds nothing to do."""
    before = old.fill(database_url, "0002")
    environment = {**os.environ, "RETRAIN_CRASH": "transaction.migrate.after_commit"}
    killed = subprocess.run([sys.executable, "-c", UPGRADE, database_url], env=environment, timeout=60, check=False)
    store = open_old(database_url)

    assert killed.returncode == -9
    assert not store.upgrade()
    assert old.rows(store, "0002") == expected(before, "0002")
    store.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_sqlite_is_copied_before_its_schema_changes(tmp_path: Path, version: str) -> None:
    """Beside the file lies the database as it was, whole; a second attempt replaces the copy."""
    url = f"sqlite:///{tmp_path / 'retrain.db'}"
    before = old.fill(url, version)
    copy = tmp_path / f"retrain.db.schema-{version}.backup"
    copy.write_text("what an attempt before left")
    upgrade(url).close()
    kept = open_old(f"sqlite:///{copy}")
    rows = old.rows(kept, version)
    with kept.reading() as tx:
        revision = migrate.current(tx.connection)
    kept.close()

    assert (revision, rows) == (version, before)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.partial"))


def test_a_new_database_is_not_copied(tmp_path: Path) -> None:
    """There is nothing to keep of an empty one."""
    store = open_old(f"sqlite:///{tmp_path / 'retrain.db'}")
    store.upgrade()
    store.close()

    assert not list(tmp_path.glob("*.backup"))


def test_a_migration_without_room_for_the_copy_changes_nothing(tmp_path: Path) -> None:
    """Where the copy cannot be made, the schema stays as it is and the reason is said."""
    url = f"sqlite:///{tmp_path / 'retrain.db'}"
    before = old.fill(url, "0003")
    (tmp_path / "retrain.db.schema-0003.backup.partial").mkdir()
    store = open_old(url)
    with pytest.raises(Exception, match=r"the backup .* cannot be written") as refused:
        store.upgrade()
    with store.reading() as tx:
        revision = migrate.current(tx.connection)
    rows = old.rows(store, "0003")
    store.close()

    assert "has room for a copy" in refused.value.hint  # type: ignore[attr-defined]
    assert (revision, rows) == ("0003", before)


class Inherited(House):
    """An installation whose database an older version left, at the moment when it was stopped."""

    def __init__(self, folder: Path, empty_store: Path, *, url: str) -> None:
        super().__init__(folder, empty_store, model={"policies": POLICIES}, store=url)

    def _open(self) -> Store:
        store = super()._open()
        if not self.world.jobs:
            store.upgrade()
            self._remember(store)
        return store

    def _remember(self, store: Store) -> None:
        """Let the far side know the jobs that were started before, and the clock go on."""
        with store.reading() as tx:
            last = max(tx.execute(sa.select(sa.func.max(schema.history.c.at))).scalar_one(), self.clock.now())
            for job, attempt, _ in tx.runs.watched():
                folder = self.folder / "state" / attempt.folder
                (folder / "artifact").mkdir(parents=True)
                order = SimpleNamespace(
                    attempt_id=attempt.id, candidate=job.candidate, attempt=attempt.number, folder=folder
                )
                self.world.jobs[attempt.id] = FarJob(order)  # type: ignore[arg-type]  # what is asked of an order
            champions = {each.name: each.champion_id for each in tx.models.all()}
        self.world.registries["first"].serves = champions
        self.clock.advance(last - self.clock.now() + timedelta(seconds=5))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_work_goes_on(
    database_url: str, tmp_path: Path, empty_store: Path, scripted_plugins: None, version: str
) -> None:
    """After the upgrade a pending event is decided, the running job ends and is judged, the message is sent, what is held fires."""
    old.fill(database_url, version)
    home = tmp_path / "home"
    home.mkdir()
    house = Inherited(home, empty_store, url=database_url)
    house.settle()
    (running,) = [run for run in house.runs() if run.state == "TRAINING"]
    held = house.decisions("HOLD")
    house.world.succeed("a", auc=0.99, champion_auc=0.9)
    house.settle()
    promoted = next(run for run in house.runs() if run.id == running.id)
    house.world.succeed("a", auc=0.5, champion_auc=0.99)
    house.advance(timedelta(minutes=6))
    sent = list(house.mail())
    house.advance(timedelta(minutes=30))
    fired = [each for each in house.decisions("FIRE") if each.policy == "held"]
    pending = [event for event in house.events() if event.state == "PENDING"]
    findings = verify(house.store)
    ended = [run for run in house.runs() if run.state in RUN.final]
    house.close()

    assert promoted.state == "PROMOTED"
    assert [each.policy for each in held if each.policy == "held"]
    assert len(fired) == 1
    assert "failed" in sent
    assert pending == []
    assert len(ended) == 8
    assert findings == []


def test_a_newer_schema_is_refused_with_both_versions(database_url: str) -> None:
    """Neither an upgrade nor a look goes on, and the database stays as it is."""
    store = upgrade_to_the_future(database_url)
    for refused in (store.upgrade, store.check_schema):
        with pytest.raises(SchemaMismatch, match=f"schema 9999, this program knows up to {migrate.HEAD}"):
            refused()
    store.close()


def upgrade_to_the_future(url: str) -> Store:
    store = open_old(url)
    store.upgrade()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    return store


def test_the_recorded_rows_name_no_place() -> None:
    """Nothing in them is of the machine that recorded them."""
    for version in VERSIONS:
        text = (old.RECORDED / f"{version}.sql").read_text(encoding="utf-8")
        assert "/tmp/" not in text
        assert "/srv/retrain/" in text
