"""`retrainctl notify` and `retrainctl notifications` against a real daemon, whose channels lead to a real receiver and a real program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.config import load_config
from controller.daemon import Daemon
from controller.telemetry import configure_logs
from controller.testing import wait_until
from tests.receivers import Receiver

RUNNER = CliRunner()
MODEL = {
    "policies": {"drift": {"on": {"type": "drift"}}},
    "train": {"launcher": "process", "command": ["false"], "retries": {"attempts": 1}},
    "gate": {"objective": {"metric": "auc"}},
    "promote": [{"type": "alias", "path": "models/churn"}],
    "notify": ["slack", "pager"],
}
AT_ONCE = {"wait": "0s", "repeat": "0s"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def daemon(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLACK_URL", f"{receiver.url}/services/T/B/geheim")
    monkeypatch.chdir(tmp_path)
    slack = {"type": "webhook", "url": "env:SLACK_URL", "template": "slack", "only": ["failed"], "group": AT_ONCE}
    pager = {"type": "command", "command": ["sh", "-c", "cat >> paged"], "timeout": "5s", "group": AT_ONCE}
    config = {
        "version": 1,
        "store": "sqlite:///retrain.db",
        "http": {"socket": "s.sock"},
        "models": {"churn": MODEL},
        "notifiers": {"slack": slack, "pager": pager},
    }
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump(config))
    with (tmp_path / "daemon.log").open("w") as log:
        configure_logs(style="json", stream=log)
        made = Daemon(load_config(tmp_path / "retrain.yaml"))
        made.start()
        yield made
        receiver.open.set()
        made.stop()
        structlog.reset_defaults()


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def listed(**wanted: str) -> list[Any]:
    options = [text for name, value in wanted.items() for text in (f"--{name}", value)]
    items: list[Any] = answer("notifications", "list", *options)["items"]
    return items


def test_trying_a_channel(daemon: Daemon, receiver: Receiver) -> None:
    """It is the daemon that sends; what came of it is said, with an exit code, and no secret of the channel."""
    good = run("notify", "test", "slack")
    receiver.answers = [(404, {}, b"no_service at /services/T/B/geheim")]
    bad = run("notify", "test", "slack")
    paged = answer("notify", "test", "pager")

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert good.stdout.startswith("slack took it in ")
    assert "answered 404: no_service at ***" in bad.stdout
    assert "geheim" not in bad.stdout
    assert (paged["ok"], paged["outcome"]) == (True, "sent")
    assert json.loads(receiver.requests[0].body)["blocks"][0]["type"] == "header"
    assert run("notify", "test", "nobody").exit_code == 4
    assert listed() == []


def test_a_failed_retraining_is_told(daemon: Daemon, receiver: Receiver, tmp_path: Path) -> None:
    """Through both channels; a dead message is listed with its reason, and sent again when a person wants it."""
    receiver.answers = [(403, {}, b"invalid_token")]
    run("retrain", "churn", "-r", "because")
    wait_until(lambda: {row["state"] for row in listed(kind="failed")} == {"SENT", "DEAD"}, what="both ends")
    (dead,) = listed(state="dead")
    table = run("notifications", "--state", "dead").stdout

    assert (dead["channel"], dead["model"], dead["attempts"]) == ("slack", "churn", 1)
    assert "answered 403: invalid_token" in dead["reason"]
    assert dead["id"] in table
    assert json.loads((tmp_path / "paged").read_text())["kind"] == "failed"
    again = run("notifications", "retry", dead["id"][-8:], "-r", "a new token")
    assert again.stdout.strip() == f"{dead['id']} is sent again through slack"
    wait_until(lambda: not listed(state="dead"), what="the message sent")
    assert [request.headers["webhook-id"] for request in receiver.requests] == [dead["id"]] * 2
    assert run("notifications", "retry", dead["id"], "-r", "again").exit_code == 5


def test_a_receiver_that_hangs_holds_up_no_other(daemon: Daemon, receiver: Receiver, tmp_path: Path) -> None:
    """While one channel waits for an answer, the other one is served, and the daemon is well."""
    receiver.open.clear()
    run("retrain", "churn", "-r", "because")
    wait_until(lambda: len(receiver.requests) == 1, what="the request that hangs")
    wait_until(lambda: (tmp_path / "paged").exists(), what="the page")

    assert daemon.report()["live"]
    assert [row["channel"] for row in listed(state="pending")] == ["slack"]
    receiver.open.set()
    wait_until(lambda: not listed(state="pending"), what="both sent")


def test_without_the_daemon(daemon: Daemon) -> None:
    """Messages are listed from the database; a channel is not tried."""
    daemon.stop()

    assert answer("notifications", "list") == {"items": [], "next": None}
    assert run("notify", "test", "slack").exit_code == 3
