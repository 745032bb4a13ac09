"""`retrainctl db` without a daemon: what it shows, what it does, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.store import Store, migrate, schema
from controller.testing.fakes import ManualClock
from tests.story import MODEL, Story, open_store, tell

RUNNER = CliRunner()
CONFIG = f"""\
version: 1
models:
  {MODEL}:
    policies:
      new-month:
        on: {{type: file.arrived, when: event.data.size > 1000}}
    train:
      command: ["true"]
"""
#: Every command that reads or changes a database without a daemon.
OFFLINE = (
    ["status"],
    ["models"],
    ["runs"],
    ["events"],
    ["policies"],
    ["why", "churn"],
    ["sources"],
    ["doctor", "sources"],
    ["backtest"],
    ["plan"],
    ["events", "export"],
    ["audit"],
    ["db", "replay", "--into", "again.db"],
    ["db", "prune"],
    ["db", "prune", "--dry-run"],
    ["db", "verify"],
    ["db", "backup", "copy.db"],
    ["db", "upgrade"],
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def story(folder: Path) -> Iterator[Story]:
    """A database in which everything happened in 2024, so that retention has an opinion of it."""
    clock = ManualClock()
    store = open_store(f"sqlite:///{folder / 'state' / 'retrain.db'}", clock)
    yield tell(store, clock)
    store.close()


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def set_schema(store: Store, revision: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_status_says_what_there_is(story: Story, folder: Path) -> None:
    """Place, library, schema, sizes, rows, what waits longest, and what the next prune would let go of."""
    found = answer("db", "status")
    shown = run("db", "status").stdout

    assert (found["database"], found["schema"], found["needs"]) == ("sqlite", migrate.HEAD, migrate.HEAD)
    assert found["bytes"] == (folder / "state" / "retrain.db").stat().st_size
    assert found["rows"]["event"] == 7
    assert found["oldest_pending_at"].startswith("2024-")
    assert found["next_prune"]["events"] > 0
    for said in (
        str(folder / "state" / "retrain.db"),
        f"schema         {migrate.HEAD}",
        "none was made",
        "events",
        "decision",
    ):
        assert said in shown


def test_a_dry_run_changes_nothing_and_counts_what_goes(story: Story) -> None:
    """What would go is what then goes; what is kept for ever is all there, and a second prune finds nothing."""
    before = answer("db", "status")["rows"]
    expected = answer("db", "prune", "--dry-run")
    assert answer("db", "status")["rows"] == before
    done = answer("db", "prune")
    after = answer("db", "status")

    assert expected == {"dry_run": True, "gone": done["gone"]}
    assert after["rows"]["event"] == before["event"] - done["gone"]["events"]
    for kept in ("decision", "run", "run_cause", "attempt", "version", "promotion", "verdict", "history", "act"):
        assert after["rows"][kept] == before[kept]
    assert after["pruned"]["events"]["rows"] == done["gone"]["events"]
    assert answer("db", "prune")["gone"] == {}
    assert answer("db", "verify") == {"sound": True, "findings": []}


def test_what_retention_says_counts(story: Story, folder: Path) -> None:
    """A longer time keeps what a shorter one lets go of."""
    (folder / "retrain.yaml").write_text(
        f"{CONFIG}retention: {{events: 3650d, episodes: 3650d, notifications: 3650d}}\n"
    )

    assert answer("db", "prune", "--dry-run")["gone"] == {}


def test_backup_makes_a_database_and_is_remembered(story: Story, folder: Path) -> None:
    """The copy is read back; the status says when and where; the same name is refused."""
    made = answer("db", "backup", "copy.db")
    again = run("db", "backup", "copy.db")
    status = answer("db", "status")

    assert (made["schema"], made["events"]) == (migrate.HEAD, 7)
    assert made["bytes"] == (folder / "copy.db").stat().st_size
    assert again.exit_code == 5
    assert "is there already" in again.stderr
    assert status["last_backup"]["path"] == str(folder / "copy.db")
    assert "copy.db" in run("db", "status").stdout


def test_backup_of_postgresql_says_the_command(folder: Path) -> None:
    """It ends with 2, and the hint is the command to run; no password is shown."""
    from tests import postgres

    programs = postgres.find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs found")
    server = postgres.start(programs)
    try:
        url = server.create_database()
        store = open_store(url, ManualClock())
        store.close()
        (folder / "retrain.yaml").write_text(f"{CONFIG}store: {url}\n")
        refused = run("db", "backup", "copy.dump")
        status = answer("db", "status")
    finally:
        server.stop()

    assert refused.exit_code == 2
    assert f"run: pg_dump --format=custom --file=copy.dump {url}" in " ".join(refused.stderr.split())
    assert (status["database"], status["rows"]["event"]) == ("postgresql", 0)


def test_verify_names_what_is_broken(story: Story) -> None:
    """It ends with 1, and says which rule is broken by what."""
    with story.store.engine.begin() as connection:
        connection.execute(sa.delete(schema.verdict))
    result = run("db", "verify")
    found = json.loads(run("db", "verify", "-o", "json").stdout)

    assert result.exit_code == 1
    assert f"{story.promoted} was promoted without a verdict" in result.stdout
    assert [each["rule"] for each in found["findings"]] == ["verdict.run"]


@pytest.mark.parametrize("command", OFFLINE, ids=" ".join)
def test_UP03_a_newer_database_is_refused_by_every_command(story: Story, command: list[str]) -> None:
    """Both versions are named, and the way out; nothing is written."""
    set_schema(story.store, "9999")
    result = run(*command)

    assert result.exit_code == 2
    assert f"schema 9999, this program knows up to {migrate.HEAD}" in result.stderr
    assert "newer version" in result.stderr


@pytest.mark.parametrize("command", [each for each in OFFLINE if each != ["db", "upgrade"]], ids=" ".join)
def test_UP03_an_older_database_is_refused_by_every_command_that_reads(story: Story, command: list[str]) -> None:
    """Both versions are named, and the command that brings it up to date."""
    set_schema(story.store, "0003")
    result = run(*command)

    assert result.exit_code == 2
    assert f"schema 0003, this program needs {migrate.HEAD}" in result.stderr
    assert "retrainctl db upgrade" in result.stderr


def test_status_of_another_schema(story: Story) -> None:
    """It is the one command that looks at any: it says which schema there is, and does not count what it does not know."""
    set_schema(story.store, "9999")
    newer = answer("db", "status")
    said = run("db", "status").stdout

    assert (newer["schema"], newer["rows"]) == ("9999", {})
    assert "a newer version of the controller wrote it" in said


def test_upgrade_of_what_is_up_to_date(story: Story) -> None:
    """There is nothing to do, and no copy is made."""
    assert answer("db", "upgrade") == {"upgraded": False, "from": migrate.HEAD, "to": migrate.HEAD, "backup": None}
