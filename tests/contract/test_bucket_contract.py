"""The bucket source keeps the promises of `ports.py`, on S3 and on a local folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.sources.bucket import BucketOptions, BucketSource
from controller.testing import ManualClock, MemoryInbox, SourceContract
from tests.objectstore import KEY, SECRET, ObjectServer

_BUCKETS = itertools.count(1)


class _BucketContract(SourceContract):
    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=ManualClock(datetime(2100, 1, 1, tzinfo=UTC)))


class TestBucketSourceOnS3(_BucketContract):
    @pytest.fixture
    def bucket(self, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("OBJECT_KEY", KEY)
        monkeypatch.setenv("OBJECT_SECRET", SECRET)
        name = f"contract-{next(_BUCKETS)}"
        object_server.client().create_bucket(Bucket=name)
        return name

    @pytest.fixture
    def make_source(
        self, inbox: MemoryInbox, object_server: ObjectServer, bucket: str, tmp_path: Path
    ) -> Callable[[], BucketSource]:
        options = BucketOptions(
            url=f"s3://{bucket}/landing",
            endpoint_url=object_server.url,
            key="env:OBJECT_KEY",
            secret="env:OBJECT_SECRET",
        )
        return lambda: BucketSource(options, inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, object_server: ObjectServer, bucket: str) -> Callable[[], None]:
        numbers = itertools.count()
        client = object_server.client()
        return lambda: client.put_object(Bucket=bucket, Key=f"landing/{next(numbers)}.csv", Body=b"x") and None


class TestBucketSourceOnFiles(_BucketContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], BucketSource]:
        (tmp_path / "landing").mkdir()
        options = BucketOptions(url=f"file://{tmp_path}/landing")
        return lambda: BucketSource(options, inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, tmp_path: Path) -> Callable[[], None]:
        numbers = itertools.count()
        return lambda: (tmp_path / f"landing/{next(numbers)}.csv").write_text("x") and None
