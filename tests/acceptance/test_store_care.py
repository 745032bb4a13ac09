"""The daemon and its database file: moved, damaged, older, newer, copied, verified and pruned, seen from outside."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.store import migrate
from tests.acceptance.harness import ROOT, Installation
from tests.migration import old

CONFIG: dict[str, Any] = {
    "models": {"churn": {"policies": {"drift": {"on": {"type": "drift"}}}, "train": {"command": ["/bin/true"]}}},
}
PENDING = sa.text("SELECT 1 FROM event WHERE state = 'PENDING'")


@pytest.fixture
def there() -> Iterator[Installation]:
    """An installation that is configured, with nothing running."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-care-"))
    installation = Installation(folder)
    installation.configure(CONFIG)
    yield installation
    installation.close()
    shutil.rmtree(folder, ignore_errors=True)


def ctl(there: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "retrainctl")
    command = [program, "--config", str(there.folder / "retrain.yaml"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(there.folder)}
    return subprocess.run(
        command, cwd=there.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def told(there: Installation, *arguments: str) -> Any:
    answer = ctl(there, *arguments, "-o", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def event(number: int) -> dict[str, Any]:
    return {"specversion": "1.0", "id": f"e{number}", "source": "/test", "type": "nobody"}


def send(there: Installation, number: int) -> int:
    return there.ask("POST", "/v1/events", event(number), Content_Type="application/cloudevents+json").status


def end(there: Installation) -> tuple[int, str]:
    """Wait for the daemon's end, and return its code and what it wrote."""
    assert there.process is not None
    code = there.process.wait(30)
    return code, there.log()


def test_DB18_a_database_that_is_moved_away_stops_the_writing(there: Installation) -> None:
    """Within 5 s health is red and says why, events are refused with 503; put back, all goes on and nothing is missing."""
    there.start()
    there.wait_ready()
    accepted = [send(there, 1)]
    (there.folder / "retrain.db").rename(there.folder / "elsewhere.db")
    began = time.monotonic()
    there.wait(lambda: "is not there any more" in str(there.ready()["reasons"]), what="red health", seconds=10)
    seconds = time.monotonic() - began
    refused = send(there, 2)
    live = there.ask("GET", "/healthz").status
    (there.folder / "elsewhere.db").rename(there.folder / "retrain.db")
    there.wait_ready()
    accepted.append(send(there, 3))

    assert seconds <= 6
    assert (accepted, refused, live) == ([202, 202], 503, 200)
    assert there.count_events() == 2


def test_DB17_a_damaged_database_is_refused_and_left_alone(there: Installation) -> None:
    """The daemon ends, says to restore a backup, and has not changed a byte."""
    path = there.folder / "retrain.db"
    old.fill(there.database, "0003")
    data = bytearray(path.read_bytes())
    data[:100] = b"not a database at all".ljust(100, b"!")
    path.write_bytes(data)
    there.start()
    code, log = end(there)

    assert code != 0
    assert "restore" in log
    assert "backup" in log
    assert path.read_bytes() == bytes(data)


def test_UP01_the_daemon_takes_an_older_database_over(there: Installation) -> None:
    """It upgrades it after a copy, and what was there is there."""
    before = old.fill(there.database, "0002")
    there.start()
    there.wait_ready()

    assert there.count_events() >= len(before["event"])
    assert "store.upgraded" in there.log()
    assert (there.folder / "retrain.db.schema-0002.backup").exists()


def test_UP03_an_older_database_is_not_read_but_upgraded_by_command(there: Installation) -> None:
    """A command that reads says which schema there is and how to go on; `db status` says so too, and `db upgrade` does it."""
    old.fill(there.database, "0001")
    refused = ctl(there, "runs")
    status = told(there, "db", "status")
    upgraded = told(there, "db", "upgrade")
    again = told(there, "db", "upgrade")

    assert refused.returncode == 2
    assert f"schema 0001, this program needs {migrate.HEAD}" in refused.stderr
    assert "retrainctl db upgrade" in refused.stderr
    assert (status["schema"], status["needs"], status["rows"]) == ("0001", migrate.HEAD, {})
    assert (upgraded["from"], upgraded["to"]) == ("0001", migrate.HEAD)
    assert Path(upgraded["backup"]).exists()
    assert again["upgraded"] is False
    assert ctl(there, "runs").returncode == 0


def test_UP03_a_newer_database_is_refused(there: Installation) -> None:
    """The daemon names both versions, ends with 69, and leaves the database as it is."""
    old.open_old(there.database).upgrade()
    with contextlib.closing(sqlite3.connect(there.folder / "retrain.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = (there.folder / "retrain.db").read_bytes()
    there.start()
    code, log = end(there)

    assert code == 69
    assert f"schema 9999, this program knows up to {migrate.HEAD}" in log
    assert (there.folder / "retrain.db").read_bytes() == before


def test_the_database_is_cared_for_while_the_daemon_writes(there: Installation) -> None:
    """Status, backup, verify and prune work beside the daemon, and the backup is a database that can be run."""
    there.configure({**CONFIG, "retention": {"events": "1h"}})
    there.start()
    there.wait_ready()
    for number in range(20):
        send(there, number)
    there.wait(lambda: there.rows(PENDING) == [], what="decisions")
    status = told(there, "db", "status")
    copy = told(there, "db", "backup", "copy.db")
    verified = told(there, "db", "verify")
    pruned = told(there, "db", "prune")
    after = told(there, "db", "status")
    refused = ctl(there, "db", "backup", "copy.db")
    upgrade = ctl(there, "db", "upgrade")

    assert status["rows"]["event"] == 20
    assert (status["schema"], status["database"], status["last_backup"]) == (migrate.HEAD, "sqlite", None)
    assert copy["events"] == 20
    assert verified == {"sound": True, "findings": []}
    assert pruned == {"dry_run": False, "gone": {}}
    assert after["last_backup"]["path"] == str(there.folder / "copy.db")
    assert refused.returncode == 5
    assert "another daemon" in upgrade.stderr

    there.terminate()
    (there.folder / "retrain.db").unlink()
    (there.folder / "copy.db").rename(there.folder / "retrain.db")
    there.start()
    there.wait_ready()
    assert told(there, "db", "status")["rows"]["event"] == 20
