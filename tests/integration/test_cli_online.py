"""`retrainctl` and a server: acts reach the desk, waits end with the run, logs are followed, exit codes carry the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.store.store import Transaction
from controller.testing.fakes import wait_until
from tests.integration.api_house import GOOD, House
from tests.story import MODEL
from tests.unit.test_cli import CONFIG

RUNNER = CliRunner()


@pytest.fixture
def house(start_api: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.yaml").write_text(f"{CONFIG}http: {{socket: s.sock}}\nstore: sqlite:///retrain.db\n")
    return start_api(socket_path=tmp_path / "s.sock")


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def end_run(house: House, target: str, cause: str, reason: str) -> None:
    def move(tx: Transaction) -> None:
        found = tx.runs.get(house.story.training)
        assert found is not None
        tx.runs.move(found, target, cause=cause, reason=reason)

    with house.store.transaction("end") as tx:
        move(tx)


def in_background(*arguments: str) -> tuple[threading.Thread, list[Result]]:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(*arguments)))
    thread.start()
    return thread, results


def test_questions_go_to_the_daemon(house: House) -> None:
    """With a daemon nothing is read beside it."""
    result = run("status", "-o", "json")

    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout)["leader"]["host"] == "tower"
    assert house.story.missed in run("why", house.story.missed).stdout


def test_over_tcp(house: House) -> None:
    """`--url` and `--token` speak TCP; without the token it is refused."""
    url = f"http://127.0.0.1:{house.port}"

    assert run("--url", url, "--token", GOOD, "models", "list").exit_code == 0
    assert run("--url", url, "models", "list").exit_code == 2


@pytest.mark.parametrize(
    "arguments, verb, given",
    [
        (["retrain", MODEL, "-r", "why not", "--param", "depth=6", "--param", "name=x", "--idempotency-key", "k"],
         "retrain", {"reason": "why not", "params": {"depth": 6, "name": "x"}, "key": "k"}),
        (["retrain", MODEL, "-r", "now", "--force", "--idempotency-key", "k"],
         "retrain", {"reason": "now", "params": {}, "key": "k", "force": True}),
        (["pause", f"{MODEL}/drift", "-r", "noise"], "pause", {"scope": "policy", "target": f"{MODEL}/drift"}),
        (["resume"], "resume", {"scope": "all", "target": ""}),
        (["rollback", MODEL, "-r", "bad", "--to", "v1"], "rollback", {"to": "v1", "reason": "bad"}),
        (["models", "adopt", MODEL, "--artifact", "s3://b/m", "--metric", "auc=0.7", "-r", "ours"],
         "adopt", {"artifact": "s3://b/m", "metrics": {"auc": 0.7}}),
        (["token", "create", "ci2", "--expires", "90d"], "create_token", {"name": "ci2"}),
        (["token", "revoke", "ci2"], "revoke_token", {"name": "ci2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_acts(house: House, arguments: list[str], verb: str, given: dict[str, Any]) -> None:
    """Each command asks the desk for what it says."""
    result = run(*arguments)

    assert result.exit_code == 0, result.output
    assert house.desk.asked[0][0] == verb
    assert given.items() <= house.desk.asked[0][1].items()


def test_send(house: House) -> None:
    """An event is sent, and the same id again is the same event."""
    first = json.loads(run("send", "drift.detected", "--data", '{"share": 0.5}', "--id", "e-1", "-o", "json").stdout)
    again = json.loads(
        run("events", "send", "drift.detected", "--data", '{"share": 0.5}', "--id", "e-1", "-o", "json").stdout
    )

    assert again == {"event_id": first["event_id"], "duplicate": True}


@pytest.mark.parametrize("target, cause, code", [("FAILED", "training_failed", 1), ("CANCELLED", "cancelled", 1)])
def test_watch_ends_with_the_run(house: House, target: str, cause: str, code: int) -> None:
    """`runs watch` prints each change of state and ends with the run, with its exit code."""
    thread, results = in_background("runs", "watch", house.story.training)
    end_run(house, target, cause, "exit code 1")
    thread.join(20)

    assert [result.exit_code for result in results] == [code]
    assert f"run {target} ({cause}): exit code 1" in results[0].stdout


def test_watch_of_a_run_that_has_ended(house: House) -> None:
    """A run that has ended is shown at once; a rejection is no failure."""
    assert run("runs", "watch", house.story.rejected).exit_code == 0


def test_logs(house: House) -> None:
    """A log is printed without what would steer the terminal; followed, it ends with the training."""
    assert run("logs", house.story.training).stdout == "one\ntwo\n\ufffd"
    thread, results = in_background("logs", house.story.training, "--follow")
    end_run(house, "FAILED", "training_failed", "")
    thread.join(20)

    assert [(result.exit_code, result.stdout) for result in results] == [(0, "one\ntwo\n\ufffd")]


def test_logs_of_an_unknown_candidate(house: House) -> None:
    """An unknown candidate is not found."""
    assert run("logs", house.story.training, "--candidate", "none").exit_code == 4


def test_a_busy_daemon(house: House) -> None:
    """A conflict at the desk is exit code 5, with its reason."""
    from controller.errors import Conflict

    house.desk.failure = Conflict("it has ended", hint="retry it")
    result = run("cancel", house.story.training, "-r", "x")

    assert result.exit_code == 5
    assert "it has ended" in result.stderr
    assert "hint: retry it" in result.stderr
    wait_until(lambda: house.server.alive())
