"""`retrainctl` without a daemon: the offline commands, reading from the database, exit codes, and text made inert."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.cli.text import ago, clean, one_line, span
from controller.testing.fakes import ManualClock
from tests.factories import make_episode, make_mark, make_new_event
from tests.story import MODEL, Story, open_store, tell

RUNNER = CliRunner()
CONFIG = f"""\
version: 1
models:
  {MODEL}:
    policies:
      new-month:
        on: {{type: file.arrived, when: event.data.size > 1000}}
      drift:
        on: {{type: "drift.*", when: event.data.share > 0.3}}
    train:
      command: ["true"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def story(folder: Path) -> Iterator[Story]:
    (folder / "retrain.yaml").write_text(CONFIG)
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


# -------------------------------------------------------------------------------------------------------- offline


def test_help_names_every_command_and_the_exit_codes() -> None:
    """The help lists the commands and what exit codes mean."""
    shown = run("--help").stdout

    for command in (
        "init",
        "check",
        "schema",
        "status",
        "why",
        "retrain",
        "runs",
        "logs",
        "events",
        "token",
        "promote",
        "rollback",
    ):
        assert command in shown
    assert "5 it does not fit the present state" in " ".join(shown.split())


def test_help_imports_nothing_heavy() -> None:
    """The help comes without the web stack, the database and the configuration."""
    code = (
        "import sys; sys.argv = ['retrainctl', '--help']\n"
        "from controller.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'fastapi', 'pydantic', 'sqlalchemy', 'httpx', 'uvicorn', 'yaml', 'cel', 'alembic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_init_check_schema(folder: Path) -> None:
    """What init writes passes check; doing it twice is refused; the schema is JSON."""
    assert run("init").exit_code == 0
    assert run("check").exit_code == 0
    assert run("init").exit_code == 2
    assert json.loads(run("schema").stdout)["type"] == "object"


def test_check_names_the_place(folder: Path) -> None:
    """A mistake is shown with its place, and the exit code says so."""
    (folder / "retrain.yaml").write_text(CONFIG.replace("policies", "polices"))
    result = run("check", "-o", "json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)[0]["line"] == 4


def test_no_configuration(folder: Path) -> None:
    """Without a configuration a command says how to get one."""
    result = run("status")

    assert result.exit_code == 2
    assert "retrainctl init" in result.stderr


def test_no_database(folder: Path) -> None:
    """Before the first start there is nothing to read, and the daemon is named."""
    (folder / "retrain.yaml").write_text(CONFIG)
    result = run("status")

    assert result.exit_code == 3
    assert "retraind" in result.stderr


def test_plugins(folder: Path) -> None:
    """The installed plugins are listed with who provides them."""
    assert {"kind": "launchers", "name": "process"}.items() <= answer("plugins")[-1].items() or any(
        plugin["name"] == "process" for plugin in answer("plugins")
    )


# ------------------------------------------------------------------------------------------------- beside the daemon


def test_reading_without_the_daemon(story: Story) -> None:
    """Questions are answered from the database when the daemon does not run, and that is said on stderr."""
    result = run("status")

    assert result.exit_code == 0
    assert "read from the database" in result.stderr
    assert "flight-delay" in result.stdout
    assert answer("runs", "list", "--state", "rejected")["items"][0]["id"] == story.rejected
    assert answer("models")[0]["champion"]["number"] == 2
    assert answer("models", "show", MODEL)["name"] == MODEL
    assert answer("runs", "show", story.promoted[-6:])["id"] == story.promoted
    assert answer("events", "list", "--type", "drift.detected", "-n", "1")["items"][0]["id"] == story.dead
    assert answer("events", "show", story.dead)["error"] == "share is text"


def test_episodes(story: Story) -> None:
    """Open episodes are a table of a hundred columns at most; an event shows its own."""
    assert run("events", "episodes").stdout.strip() == "no open episodes"
    with story.store.transaction("test", fenced=False) as tx:
        alert = make_new_event(type="alert.HighDrift", subject="churn", extensions=make_mark("f00d"))
        (receipt,) = tx.events.add("alerts", [alert])
        opened = make_episode(origin="alerts", key="f00d", type=alert.type, subject="churn", event_id=receipt.event_id)
        tx.episodes.begin([opened])
    shown = run("events", "episodes").stdout

    for text in ("alert.HighDrift", "churn", "alerts", receipt.event_id, "last seen"):
        assert text in shown
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert answer("events", "episodes", "--origin", "alerts")[0]["key"] == "f00d"
    assert answer("events", "episodes", "--origin", "other") == []
    assert "episode f00d: firing since" in run("events", "show", receipt.event_id).stdout


@pytest.mark.parametrize("thing", ["promoted", "rejected", "training", "arrived", "missed", "held"])
def test_why(story: Story, thing: str) -> None:
    """The account is printed for people, and as JSON for programs."""
    name = getattr(story, thing)

    assert name in run("why", name).stdout
    assert answer("why", name)["id"] == name


def test_global_output_and_a_broken_configuration(story: Story, folder: Path) -> None:
    """`-o json` counts before the command too, and a broken configuration does not lock people out."""
    (folder / "retrain.yaml").write_text(CONFIG.replace("policies", "polices"))

    assert json.loads(run("-o", "json", "status").stdout)["leader"]["term"] == 1


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["why", "nothing-like-it"], 4),
        (["why", "run-"], 5),
        (["runs", "show", "evt-nothing"], 4),
        (["retrain", MODEL, "--reason", "x"], 3),
        (["cancel", "abcd"], 3),
        (["promote", "abcd"], 2),
        (["retrain", MODEL, "--param", "novalue"], 2),
        (["send", "t", "--data", "{"], 2),
        (["nonsense"], 2),
        (["--config", "missing.yaml", "status"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes(story: Story, arguments: list[str], code: int) -> None:
    """Each kind of failure has its code, a sentence on stderr, and no traceback."""
    result = run(*arguments)

    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_lines_fit_a_hundred_columns(story: Story) -> None:
    """Tables are at most a hundred columns wide, and the status fits one screen."""
    shown = run("status").stdout.splitlines()

    assert len(shown) < 40
    for command in (
        ["status"],
        ["runs"],
        ["events"],
        ["models"],
        ["models", "show", MODEL],
        ["runs", "show", story.promoted],
    ):
        assert max(len(line) for line in run(*command).stdout.splitlines()) <= 100, command


# ------------------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x08\x7fb\x9bc", "abc"),
        ("abc\u202edcba\u2066", "abcdcba"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("café ✓", "café ✓"),
    ],
)
def test_clean(text: str, shown: str) -> None:
    """What steers a terminal or turns text around is gone; the rest stays."""
    assert clean(text) == shown


def test_hostile_names_are_inert(story: Story) -> None:
    """Escape sequences and markup in an event reach no terminal."""
    with story.store.transaction("take", fenced=False) as tx:
        from controller.core.model import NewEvent

        tx.events.add(
            "api",
            [
                NewEvent(
                    source="/m", source_id="h", type="x\u202ey", subject="\x1b]0;owned\x07[red]a[/red]", data="\x1b[2J"
                )
            ],
        )
    listed = run("events").stdout

    assert "\x1b" not in listed
    assert "\u202e" not in listed
    assert "[red]a[/red]" in listed


def test_times() -> None:
    """Lengths of time are said in their largest unit, past and future alike."""
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert [ago((now - timedelta(seconds=s)).isoformat(), now) for s in (0, 59, 119, 200, 7300, 200000)] == [
        "0s ago", "59s ago", "119s ago", "3m ago", "2h ago", "2d ago"
    ]  # fmt: skip
    assert ago((now + timedelta(hours=5)).isoformat(), now) == "in 5h"
    assert ago(None, now) == ""
    assert span(timedelta(minutes=90)) == "90m"
    assert one_line("a\n b") == "a b"
