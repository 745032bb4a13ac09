"""A webhook that stores what it takes, for the tests of the formats."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.core.model import NewEvent
from controller.ports import Request, Taken
from controller.sources.webhook import WebhookSource
from controller.testing import MemoryInbox
from tests.webhooks import make_request, make_source, payload


class Hook:
    """A webhook whose batches are stored, and what came of them."""

    def __init__(self, inbox: MemoryInbox, folder: Path, **said: Any) -> None:
        self.inbox = inbox
        self.source: WebhookSource = make_source(inbox, folder, **said)

    def send(self, name: str, *headers: tuple[str, str], query: str = "") -> Taken:
        return self.post(payload(name), *headers, query=query)

    def post(self, body: Any, *headers: tuple[str, str], query: str = "") -> Taken:
        return self.take(make_request(body, *headers, query=query))

    def take(self, request: Request) -> Taken:
        taken = self.source.take(request)
        self.inbox.emit(taken.batch)
        return taken

    def event(self, name: str, *headers: tuple[str, str], query: str = "") -> NewEvent:
        (event,) = self.send(name, *headers, query=query).batch.events
        return event


def utc(*parts: int) -> datetime:
    """Return an instant by its parts: year, month, day, and so on."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]
