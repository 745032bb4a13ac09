"""Our launchers keep the launchers' promises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.launchers.process import ProcessLauncher, ProcessOptions, ProcessSettings
from controller.ports import Launcher, LauncherContext, Order
from controller.testing import LauncherContract, RecordingLog
from controller.testing.launchers import Behaviour

COMMANDS: dict[Behaviour, list[str]] = {
    "succeeds": ["true"],
    "fails": ["sh", "-c", "exit 3"],
    "runs": ["sleep", "60"],
    "prints": [sys.executable, "-c", "print('hello')"],
}


class TestProcessLauncher(LauncherContract):
    @pytest.fixture
    def make_launcher(self, tmp_path: Path) -> Callable[[], Launcher]:
        context = LauncherContext(base=tmp_path, state=tmp_path, clock=SystemClock(), log=RecordingLog())
        return lambda: ProcessLauncher(ProcessSettings(slots=2), context)

    @pytest.fixture
    def make_order(self, tmp_path: Path) -> Callable[[Behaviour], Order]:
        numbers = count(1)

        def make(behaviour: Behaviour) -> Order:
            number = next(numbers)
            folder = tmp_path / f"attempt-{number}"
            folder.mkdir()
            return Order(
                run_id="run-1",
                job_id="job-1",
                attempt_id=f"{tmp_path.name}-{number}",
                attempt=number,
                model="churn",
                candidate="linear",
                folder=folder,
                environment={},
                options=ProcessOptions(command=COMMANDS[behaviour]),
            )

        return make
