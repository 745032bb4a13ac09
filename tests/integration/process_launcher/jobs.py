"""Jobs as processes: a launcher and its orders, jobs that are ended afterwards, and the shims behind them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

from controller.clock import SystemClock
from controller.launchers.process import ProcessLauncher, ProcessOptions, ProcessSettings
from controller.ports import Handle, LauncherContext, Observation, Order
from controller.testing import RecordingLog, wait_until


def make_launcher(base: Path, **changes: Any) -> ProcessLauncher:
    context = LauncherContext(base=base, state=base, clock=SystemClock(), log=RecordingLog())
    return ProcessLauncher(ProcessSettings(**changes), context)


def make_order(folder: Path, *command: str, **options: Any) -> Order:
    folder.mkdir(exist_ok=True)
    return Order(
        run_id="run-1",
        job_id="job-1",
        attempt_id=f"att-{folder.parent.name}-{folder.name}",
        attempt=1,
        model="churn",
        candidate="linear",
        folder=folder,
        environment={"RETRAIN_RUN_ID": "run-1", "RETRAIN_PARAMS": '{"a": "ü\n$(b)"}'},
        options=ProcessOptions(command=list(command), **options),
    )


class Jobs:
    """Launches jobs below one folder and ends them all afterwards."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.launcher = make_launcher(base)
        self.handles: list[Handle] = []
        self._numbers = count(1)

    def order(self, *command: str, **options: Any) -> Order:
        return make_order(self.base / f"attempt-{next(self._numbers)}", *command, **options)

    def launch(self, *command: str, **options: Any) -> Handle:
        handle = self.launcher.launch(self.order(*command, **options))
        self.handles.append(handle)
        return handle

    def python(self, code: str, *arguments: str, **options: Any) -> Handle:
        return self.launch(sys.executable, "-c", code, *arguments, **options)

    def shell(self, code: str, **options: Any) -> Handle:
        return self.launch("sh", "-c", code, **options)

    def end(self, handle: Handle, timeout: float = 20.0) -> Observation:
        told = threading.Event()
        self.launcher.watch(handle, told.set)
        assert told.wait(timeout), "the watch did not tell of the end"
        seen = self.launcher.observe(handle)
        assert seen.state != "running"
        return seen

    def log(self, handle: Handle) -> bytes:
        return self.launcher.log(handle, 0, 1 << 24).data

    def started(self, handle: Handle) -> int:
        wait_until(lambda: (Path(handle["folder"]) / "started").exists())
        return int(wait_until(lambda: self.launcher.observe(handle).facts.get("pid")))

    def printed(self, handle: Handle, text: bytes) -> bytes:
        return bytes(wait_until(lambda: (data := self.log(handle)) if text in self.log(handle) else b""))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def shim_of(handle: Handle) -> int:
    return int((Path(handle["folder"]) / "claim").read_text().split()[0])


def kill_shim(handle: Handle) -> None:
    os.kill(shim_of(handle), signal.SIGKILL)
    wait_until(lambda: not is_running(shim_of(handle)))
