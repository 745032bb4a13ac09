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
from controller.crash import arm, disarm
from controller.daemon import Daemon
from controller.engine import health
from controller.engine.health import Part, stacks
from controller.testing import RecordingLog, wait_until

_CONFIG = {
    "version": 1,
    "store": "sqlite:///retrain.db",
    "state_dir": "state",
    "models": {"churn": {"policies": {"no": {"on": {"type": "other"}}}, "train": {"command": ["true"]}}},
}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A running daemon whose loops count as blocked after half a second beyond their sweep."""
    monkeypatch.setattr(daemon_module, "BLOCKED_AFTER", 1.5)
    monkeypatch.setattr(daemon_module, "PATIENT_LOOPS", {})
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


def logged(daemon: Daemon, event: str) -> list[Any]:
    log = daemon.runtime.log
    assert isinstance(log, RecordingLog)
    return [fields for name, fields in log.lines if name == event]


def test_G07_a_loop_that_blocks_is_named_and_the_watchdog_starves(
    watchdog: Callable[[], list[str]], daemon: Daemon
) -> None:
    """Life is the minimum over all loops; where every thread stood is in the log once, and it lives again when the loop comes back (LC-02)."""
    wait_until(lambda: "WATCHDOG=1" in watchdog(), what="the watchdog's food")
    free = threading.Event()
    arm("transaction.doctor.before_commit", lambda _: None)
    block(daemon, "monitor", free)
    wait_until(lambda: not daemon.report()["live"], what="the blocked loop")
    wait_until(lambda: logged(daemon, "health.blocked"), what="the line")
    watchdog()

    report = daemon.report()
    threading.Event().wait(0.3)  # some looks long

    assert "WATCHDOG=1" not in watchdog()
    assert not report["ready"]
    assert any("loop monitor has not come back" in reason for reason in report["reasons"])
    assert {"code": "part.blocked", "who": "loop monitor"}.items() <= report["complaints"][0].items()
    assert report["loops"]["loop monitor"]["age_seconds"] > 1.5
    assert len(logged(daemon, "health.blocked")) == 1
    free.set()
    wait_until(lambda: daemon.report()["live"], what="life")
    wait_until(lambda: "WATCHDOG=1" in watchdog(), what="the watchdog's food again")


def block(daemon: Daemon, name: str, free: threading.Event) -> None:
    """Have a loop wait in the middle of its next step."""
    [thread] = [each for each in [*daemon._threads, *daemon._term_threads] if each.name == name]
    tick = thread._loop.tick

    def waits(now: Any) -> Any:
        free.wait(30)
        return tick(now)

    thread._loop.tick = waits  # type: ignore[method-assign]
    daemon.runtime.bells.ring(name)
