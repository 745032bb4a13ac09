"""`retrainctl events import` with a daemon: what is in a file is handed over, and each identity is stored once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from tests.integration.api_house import House
from tests.integration.test_cli_online import house

__all__ = ["house"]

RUNNER = CliRunner()


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def write(path: Path, count: int, **fields: object) -> None:
    document = {"specversion": "1.0", "source": "/m", "type": "drift.data", "time": "2026-03-01T00:00:00Z", **fields}
    path.write_text("".join(json.dumps({**document, "id": f"e{number}"}) + "\n" for number in range(count)))


def test_importing_twice_stores_once(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity is kept, whatever the batches; what marks a line as exported stays behind."""
    monkeypatch.setattr("controller.cli.events.BATCH", 7)
    write(tmp_path / "e.jsonl", 20, retrainorigin="landing", retrainreceived="2026-03-01T00:00:01Z", team="travel")

    first = json.loads(run("events", "import", "e.jsonl", "-o", "json").stdout)
    second = run("events", "import", "e.jsonl")

    assert (first["stored"], first["duplicates"]) == (20, 0)
    assert "0 events stored, 20 were there already" in second.stdout
    with house.store.reading() as tx:
        mine = [event for event in tx.events.pending(100) if event.source == "/m"]
    assert [event.source_id for event in mine] == [f"e{number}" for number in range(20)]
    assert mine[0].extensions == {"team": "travel"}


def test_a_bad_line_stores_nothing(house: House, tmp_path: Path) -> None:
    """The whole file is read before its first event is handed over."""
    write(tmp_path / "e.jsonl", 3)
    with (tmp_path / "e.jsonl").open("a") as file:
        file.write("{}\n")

    result = run("events", "import", "e.jsonl")

    assert result.exit_code == 2
    assert "e.jsonl:4:" in result.stderr
    with house.store.reading() as tx:
        assert [event for event in tx.events.pending(100) if event.source == "/m"] == []
