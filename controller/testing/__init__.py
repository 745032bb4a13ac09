"""For authors of plugins, and our own tests: the promises of `ports.py` as suites, and fakes.

A plugin keeps its protocol's promises when its suite passes::

    from controller.testing import LauncherContract

    class TestMyLauncher(LauncherContract):
        @pytest.fixture
        def make_launcher(self, tmp_path): ...

Each suite says which fixtures it wants; override those. One module per protocol, listed here.
"""

import pytest

# Before they are imported, so that a failed assertion of a suite shows its values.
pytest.register_assert_rewrite(
    "controller.testing.launchers",
    "controller.testing.notifiers",
    "controller.testing.promoters",
    "controller.testing.push",
    "controller.testing.sources",
)

# ruff: noqa: E402
from controller.testing.fakes import ManualClock, RecordingLog, SeededRandom, wait_until
from controller.testing.launchers import LauncherContract
from controller.testing.notifiers import NotifierContract
from controller.testing.promoters import PromoterContract
from controller.testing.push import PushSourceContract
from controller.testing.sources import MemoryInbox, SourceContract, run_until

__all__ = [
    "LauncherContract",
    "ManualClock",
    "MemoryInbox",
    "NotifierContract",
    "PromoterContract",
    "PushSourceContract",
    "RecordingLog",
    "SeededRandom",
    "SourceContract",
    "run_until",
    "wait_until",
]
