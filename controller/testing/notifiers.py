"""What every notifier promises."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controller.core.model import Notification
from controller.errors import GiveUp, RetryLater
from controller.ports import Notifier


def make_notification(number: int = 1, *, title: str = "run promoted", gathered: int = 0) -> Notification:
    """Return a notification with its own id, which stands for so many if it is told to."""
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
        group_id=f"not-{number}",
        closed_at=now,
        messages=tuple(
            replace(make_notification(number), id=f"not-{number}-{each}", title=f"run {each} promoted")
            for each in range(gathered)
        ),
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

    @pytest.fixture
    def broken(self) -> Notifier:
        """Return a notifier whose receiver refuses for good; overridden by one that has a receiver."""
        pytest.skip("nobody refuses")

    @pytest.fixture
    def busy(self) -> Notifier:
        """Return a notifier whose receiver asks for later; overridden by one that has a receiver."""
        pytest.skip("nobody asks for later")

    def test_delivers(self, notifier: Notifier, delivered: Callable[[], Sequence[str]]) -> None:
        """What is sent arrives under its own id, in order; sending it again is allowed."""
        for number in (1, 2, 2):
            notifier.send(make_notification(number))

        assert list(dict.fromkeys(delivered())) == ["not-1", "not-2"]

    def test_any_text(self, notifier: Notifier, delivered: Callable[[], Sequence[str]]) -> None:
        """Text from events is only text: quotes, markup, line ends, any script."""
        notifier.send(make_notification(3, title='a\n"b" <script> ${x} {{ y }} 漂移\x00'))

        assert "not-3" in delivered()

    @pytest.mark.parametrize("count", [2, 200])
    def test_gathered(self, notifier: Notifier, delivered: Callable[[], Sequence[str]], count: int) -> None:
        """One message that stands for many is delivered once, under its own id."""
        notifier.send(make_notification(4, gathered=count))

        assert delivered() == ["not-4"]

    def test_gives_up(self, broken: Notifier) -> None:
        """What the receiver refuses for good is `GiveUp`, with what it said."""
        with pytest.raises(GiveUp, match="no"):
            broken.send(make_notification())

    def test_later(self, busy: Notifier) -> None:
        """What the receiver cannot take now is `RetryLater`, with what it said."""
        with pytest.raises(RetryLater, match="not now"):
            busy.send(make_notification())

    def test_options(self, notifier: Notifier) -> None:
        """The options are a model."""
        assert notifier.Options.model_json_schema()["type"] == "object"
