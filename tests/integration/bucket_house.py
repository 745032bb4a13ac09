"""A bucket on a server that speaks S3, an inbox in memory, a clock, and a bucket source between them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import NewEvent
from controller.sources.bucket import BucketOptions, BucketSource
from controller.testing import ManualClock, MemoryInbox
from tests.objectstore import KEY, SECRET, ObjectServer

#: Later than whatever the server writes meanwhile.
NOW = datetime(2100, 1, 1, tzinfo=UTC)
_NUMBERS = itertools.count(1)


def new_number() -> int:
    """Return a number that no other bucket or folder of this process has."""
    return next(_NUMBERS)


class Bucket:
    """A bucket, an inbox, a clock, and a source between them."""

    def __init__(self, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        monkeypatch.setenv("OBJECT_KEY", KEY)
        monkeypatch.setenv("OBJECT_SECRET", SECRET)
        self.server = server
        self.client = server.client()
        self.name = f"bucket-{new_number()}"
        self.clock = ManualClock(NOW)
        self.inbox = MemoryInbox(name="lake", clock=self.clock)
        self.options: dict[str, Any] = {
            "url": f"s3://{self.name}",
            "endpoint_url": server.url,
            "key": "env:OBJECT_KEY",
            "secret": "env:OBJECT_SECRET",
            **options,
        }
        self.client.create_bucket(Bucket=self.name)
        self.restart()

    def restart(self, **options: Any) -> None:
        self.options |= options
        self.source = BucketSource(BucketOptions(**self.options), self.inbox.context(Path()))

    def put(self, key: str, body: bytes = b"x") -> str:
        """Write an object, and return its ETag."""
        return str(self.client.put_object(Bucket=self.name, Key=key, Body=body)["ETag"].strip('"'))

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def list(self, after: timedelta = timedelta(minutes=1)) -> list[NewEvent]:
        """Let time pass, list the whole bucket, and return the new events."""
        self.clock.advance(after)
        return poll_to_the_end(self.source, self.inbox)


def poll_to_the_end(source: BucketSource, inbox: MemoryInbox) -> list[NewEvent]:
    """Poll until the source has listed everything, and return the new events."""
    before = len(inbox.events)
    for _ in range(1_000):
        now = inbox.clock.now()
        if source.poll(now) != now:
            return inbox.events[before:]
    raise AssertionError("it never came to the end")
