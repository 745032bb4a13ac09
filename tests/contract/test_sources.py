"""Our own sources keep the promises of `ports.py`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.sources.cron import CronOptions, CronSource
from controller.sources.files import FileOptions, FileSource
from controller.testing import ManualClock, MemoryInbox, SourceContract


class TestCronSource(SourceContract):
    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=ManualClock(datetime(2026, 3, 1, 12, 30, tzinfo=UTC)))

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], CronSource]:
        return lambda: CronSource(CronOptions(schedule="0 3 * * *"), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, inbox: MemoryInbox) -> Callable[[], None]:
        clock = inbox.clock
        assert isinstance(clock, ManualClock)
        return lambda: clock.advance(timedelta(days=1)) and None


class TestFileSource(SourceContract):
    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=SystemClock())

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], FileSource]:
        (tmp_path / "landing").mkdir()
        options = FileOptions(path="landing", settle=timedelta(0))
        return lambda: FileSource(options, inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, tmp_path: Path) -> Callable[[], None]:
        numbers = count()
        return lambda: (tmp_path / f"landing/{next(numbers)}.csv").write_text("x") and None
