"""What every notifier promises."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from controller.core.model import Notification
from controller.ports import Notifier


def make_notification(number: int = 1, *, title: str = "run promoted") -> Notification:
    """Return a notification with its own id."""
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return Notification(
        id=f"not-{number}",
        channel="test",
        kind="promoted",
        model="churn",
        run_id="run-1",
        title=title,
        body={"auc": 0.72, "reason": "<b>better</b> than before"},
        state="PENDING",
        cause="queued",
        attempts=0,
        due_at=now,
        created_at=now,
        finished_at=None,
    )


class NotifierContract(ABC):
    """The suite for notifiers: subclass it as `Test…` and override the two fixtures."""

    @pytest.fixture
    @abstractmethod
    def notifier(self) -> Notifier:
        """Return a notifier whose receiver is reachable."""

    @pytest.fixture
    @abstractmethod
    def delivered(self, notifier: Notifier) -> Callable[[], Sequence[str]]:
        """Return a function that lists the ids of the notifications the receiver got, in order."""

    def test_delivers(self, notifier: Notifier, delivered: Callable[[], Sequence[str]]) -> None:
        """What is sent arrives under its own id, in order; sending it again is allowed."""
        for number in (1, 2, 2):
            notifier.send(make_notification(number))

        assert list(dict.fromkeys(delivered())) == ["not-1", "not-2"]

    def test_any_text(self, notifier: Notifier, delivered: Callable[[], Sequence[str]]) -> None:
        """Text from events is only text: quotes, markup, line ends, any script."""
        notifier.send(make_notification(3, title='a\n"b" <script> ${x} {{ y }} 漂移\x00'))

        assert "not-3" in delivered()

    def test_options(self, notifier: Notifier) -> None:
        """The options are a model."""
        assert notifier.Options.model_json_schema()["type"] == "object"
