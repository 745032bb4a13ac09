"""Our notifiers keep the notifiers' promises."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.notifiers.command import CommandNotifier, CommandOptions
from controller.notifiers.log import LogNotifier, LogOptions
from controller.notifiers.webhook import WebhookNotifier, WebhookOptions
from controller.ports import Notifier, NotifierContext
from controller.testing import NotifierContract, RecordingLog
from controller.testing.notifiers import make_notification
from tests.receivers import Receiver


def context(base: Path, log: RecordingLog | None = None) -> NotifierContext:
    return NotifierContext(name="test", base=base, clock=SystemClock(), log=log or RecordingLog())


class TestLogNotifier(NotifierContract):
    @pytest.fixture
    def log(self) -> RecordingLog:
        return RecordingLog()

    @pytest.fixture
    def notifier(self, log: RecordingLog, tmp_path: Path) -> Notifier:
        return LogNotifier(LogOptions(), context(tmp_path, log))

    @pytest.fixture
    def delivered(self, log: RecordingLog) -> Callable[[], Sequence[str]]:
        return lambda: [fields["notification_id"] for _, _, fields in log.lines]

    def test_level(self, log: RecordingLog, tmp_path: Path) -> None:
        """The severity of the lines can be chosen."""
        LogNotifier(LogOptions(level="warning"), context(tmp_path, log)).send(make_notification())

        assert [(level, event) for level, event, _ in log.lines] == [("warning", "notification")]


class TestCommandNotifier(NotifierContract):
    @pytest.fixture
    def notifier(self, tmp_path: Path) -> Notifier:
        script = 'IFS= read -r _ < /dev/null; printf "%s\\n" "$RETRAIN_NOTIFICATION_ID" >> sent; cat > "$1"'
        options = CommandOptions(command=("sh", "-c", script, "notify", "last.json"))
        return CommandNotifier(options, context(tmp_path))

    @pytest.fixture
    def delivered(self, tmp_path: Path, notifier: Notifier) -> Callable[[], Sequence[str]]:
        return lambda: (tmp_path / "sent").read_text().split()

    @pytest.fixture
    def broken(self, tmp_path: Path) -> Notifier:
        return CommandNotifier(CommandOptions(command=("sh", "-c", "echo no; exit 3")), context(tmp_path))

    @pytest.fixture
    def busy(self, tmp_path: Path) -> Notifier:
        return CommandNotifier(CommandOptions(command=("sh", "-c", "echo not now; exit 75")), context(tmp_path))


class _Webhook(NotifierContract):
    template = "json"

    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        with Receiver() as receiver:
            yield receiver

    @pytest.fixture
    def notifier(self, tmp_path: Path, receiver: Receiver) -> Notifier:
        options = WebhookOptions(url=f"{receiver.url}/in", template=self.template)
        return WebhookNotifier(options, context(tmp_path))

    @pytest.fixture
    def delivered(self, receiver: Receiver, notifier: Notifier) -> Callable[[], Sequence[str]]:
        return lambda: [request.headers["webhook-id"] for request in receiver.requests if json.loads(request.body)]

    @pytest.fixture
    def broken(self, receiver: Receiver, notifier: Notifier) -> Notifier:
        receiver.answers = [(404, {}, b"no_service")] * 10
        return notifier

    @pytest.fixture
    def busy(self, receiver: Receiver, notifier: Notifier) -> Notifier:
        receiver.answers = [(503, {}, b"not now")] * 10
        return notifier


class TestWebhookNotifier(_Webhook):
    """With a body for programs."""


class TestSlackNotifier(_Webhook):
    """With a body for Slack."""

    template = "slack"


class TestTeamsNotifier(_Webhook):
    """With a body for Teams."""

    template = "teams"


class TestCloudEventsNotifier(_Webhook):
    """With a CloudEvent."""

    template = "cloudevents"


def test_environment_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is given none of the daemon's own secrets."""
    monkeypatch.setenv("DAEMON_SECRET", "geheim")
    options = CommandOptions(command=("sh", "-c", "env > seen"))

    CommandNotifier(options, context(tmp_path)).send(make_notification())

    seen = (tmp_path / "seen").read_text()
    assert "geheim" not in seen
    assert f"PATH={os.environ['PATH']}" in seen
