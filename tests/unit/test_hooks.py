"""What a hook answers when its source cannot be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.api.hooks import Hooks
from controller.errors import RetryLater
from controller.ports import PushSource
from controller.testing import ManualClock, RecordingLog


def absent(name: str) -> PushSource | None:
    if name == "starting":
        raise RetryLater("source 'starting' does not run now", after_seconds=1)
    return None


def post(path: str) -> tuple[int, dict[bytes, bytes]]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    refused: list[tuple[str, str]] = []
    nowhere: Any = None
    hooks = Hooks(absent, nowhere, clock=ManualClock(), log=RecordingLog(), refused=lambda *what: refused.append(what))
    asyncio.run(hooks({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send))
    assert len(refused) == 1
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("name, status", [("starting", 503), ("unknown", 404)])
def test_a_source_that_does_not_run_yet_is_busy_not_missing(name: str, status: int) -> None:
    """Alertmanager drops for good what is answered with 404; a daemon that is just starting asks it to come again."""
    answered, headers = post(f"/hooks/{name}")

    assert answered == status
    assert (b"retry-after" in headers) == (status == 503)
