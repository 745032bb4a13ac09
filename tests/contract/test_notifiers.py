"""Our notifiers keep the notifiers' promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from controller.notifiers.log import LogNotifier, LogOptions
from controller.ports import Notifier, NotifierContext
from controller.testing import NotifierContract, RecordingLog
from controller.testing.notifiers import make_notification


class TestLogNotifier(NotifierContract):
    @pytest.fixture
    def log(self) -> RecordingLog:
        return RecordingLog()

    @pytest.fixture
    def notifier(self, log: RecordingLog, tmp_path: Path) -> Notifier:
        return LogNotifier(LogOptions(), NotifierContext(base=tmp_path, log=log))

    @pytest.fixture
    def delivered(self, log: RecordingLog) -> Callable[[], Sequence[str]]:
        return lambda: [fields["notification_id"] for _, _, fields in log.lines]

    def test_level(self, log: RecordingLog, tmp_path: Path) -> None:
        """The severity of the lines can be chosen."""
        context = NotifierContext(base=tmp_path, log=log)

        LogNotifier(LogOptions(level="warning"), context).send(make_notification())

        assert [(level, event) for level, event, _ in log.lines] == [("warning", "notification")]
