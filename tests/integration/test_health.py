"""How the daemon says that it is alive and ready, with a part of it blocked, dead or hanging."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import daemon as daemon_module
from controller.config import load_config
from controller.core.model import NewEvent
from controller.crash import arm, disarm
from controller.daemon import Daemon
from controller.engine import health, loop_thread
from controller.engine.health import Part, stacks
from controller.ports import Batch
from controller.testing import RecordingLog, wait_until

_CONFIG = {
    "version": 1,
    "store": "sqlite:///retrain.db",
    "state_dir": "state",
    "models": {"churn": {"policies": {"no": {"on": {"type": "other"}}}, "train": {"command": ["true"]}}},
}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A running daemon whose loops count as blocked after three seconds."""
    monkeypatch.setattr(daemon_module, "BLOCKED_AFTER", 3.0)
    monkeypatch.setattr(loop_thread, "BLOCKED_AFTER", 3.0)
    monkeypatch.setattr(loop_thread, "PATIENT_LOOPS", {})
    monkeypatch.setattr(daemon_module, "SWEEP", daemon_module.SWEEP / 20)
    monkeypatch.setattr(health, "LOOK_EVERY", 0.05)
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump(_CONFIG))
    found = Daemon(load_config(tmp_path / "retrain.yaml"))
    log = found.runtime.log = RecordingLog()
    found.start()
    wait_until(lambda: found.report()["ready"], what="readiness")
    assert isinstance(log, RecordingLog)
    yield found
    disarm()
    found.stop(timeout=5)


@pytest.fixture
def watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What systemd would hear, since it was asked last."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def heard() -> list[str]:
            found = []
            while True:
                try:
                    found.append(systemd.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield heard


def logged(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    log = daemon.runtime.log
    assert isinstance(log, RecordingLog)
    return [fields for _, name, fields in list(log.lines) if name == event]


def blocked(daemon: Daemon, part: str) -> list[dict[str, Any]]:
    return [fields for fields in logged(daemon, "health.blocked") if fields["part_name"] == part]


def hang(reached: threading.Event, free: threading.Event) -> None:
    reached.set()
    free.wait(30)


def send(daemon: Daemon, id_: str = "1") -> None:
    daemon.crew.inbox.put("api", Batch(events=[NewEvent(source="/test", source_id=id_, type="noise")]))


def test_G07_a_loop_that_blocks_is_named_and_the_watchdog_starves(
    watchdog: Callable[[], list[str]], daemon: Daemon
) -> None:
    """Life is the minimum over all loops; where every thread stood is logged once, and it lives again when the loop comes back (LC-02)."""
    wait_until(lambda: "WATCHDOG=1" in watchdog(), what="the watchdog's food")
    reached, free = threading.Event(), threading.Event()
    arm("transaction.inbox.before_commit", lambda _: hang(reached, free))
    send(daemon)
    assert reached.wait(10)
    wait_until(lambda: blocked(daemon, "inbox"), what="the line")
    watchdog()

    wait_until(lambda: daemon.report()["loops"]["inbox"]["age_seconds"] > 3.5, what="some more looks")
    report = daemon.report()

    assert "WATCHDOG=1" not in watchdog()
    assert (report["live"], report["ready"]) == (False, False)
    assert any("loop inbox has not come back" in reason for reason in report["reasons"])
    assert {"code": "part.blocked", "who": "inbox"}.items() <= report["complaints"][0].items()
    [told] = blocked(daemon, "inbox")
    assert "thread inbox:" in told["stacks"]
    assert "crash_point" in told["stacks"]
    free.set()
    wait_until(lambda: daemon.report()["ready"], what="readiness")
    wait_until(lambda: "WATCHDOG=1" in watchdog(), what="the watchdog's food again")


def test_G07_a_loop_that_dies_ends_the_process(daemon: Daemon) -> None:
    """What ends a thread without being an error of its work is not survived silently (LC-02)."""

    def ends(_: str) -> None:
        raise SystemExit(3)

    arm("transaction.inbox.before_commit", ends)
    send(daemon)
    ended = threading.Thread(target=daemon.wait)
    ended.start()
    ended.join(10)

    assert not ended.is_alive()
    assert daemon.failed is not None
    assert "loop inbox died" in daemon.failed
    assert not daemon.report()["live"]


def test_G07_an_api_that_blocks_is_noticed(daemon: Daemon) -> None:
    """The thread that answers requests is asked for an answer like any loop (LC-02)."""
    free = threading.Event()
    daemon._server.call(lambda: free.wait(30))

    wait_until(lambda: not daemon.report()["live"], what="the blocked API")

    assert "thread http has not come back" in daemon.report()["reasons"][0]
    free.set()
    wait_until(lambda: daemon.report()["live"], what="life")


def test_a_part_that_has_ended_is_no_life() -> None:
    """However young it is; and age counts only beyond its patience."""
    assert Part(name="a", age=0.0, has_ended=True).trouble() == "loop a has ended"
    assert Part(name="a", age=61.0).trouble() == "loop a has not come back for 61 s"
    assert Part(name="a", age=61.0, patience=300.0).trouble() is None


def test_stacks_name_every_thread() -> None:
    """So that a log tells which part stood where."""
    assert f"thread {threading.current_thread().name}:" in stacks()
