"""The bucket source on local folders and in memory, where there are no buckets and no ETags."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from controller.core.model import NewEvent
from controller.errors import RetryLater
from controller.sources.bucket import BucketOptions, BucketSource
from controller.testing import ManualClock, MemoryInbox
from tests.integration.bucket_house import NOW, new_number, poll_to_the_end


def local(base: Path, url: str, **options: Any) -> tuple[BucketSource, MemoryInbox]:
    inbox = MemoryInbox(name="lake", clock=ManualClock(NOW))
    return BucketSource(BucketOptions(url=url, **options), inbox.context(base)), inbox


def again(source: BucketSource, inbox: MemoryInbox) -> list[NewEvent]:
    inbox.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
    return poll_to_the_end(source, inbox)


def test_a_local_folder(tmp_path: Path) -> None:
    """Files have no ETag: size and time tell one content from another; links are not followed."""
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1/a b%.csv").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.csv").symlink_to(tmp_path / "day=1/a b%.csv")
    source, inbox = local(tmp_path, f"file://{tmp_path}")

    (event,) = again(source, inbox)
    nothing = again(source, inbox)
    os.utime(tmp_path / "day=1/a b%.csv", (1, 1))
    (touched,) = again(source, inbox)

    assert (event.source, event.subject) == (f"file://{tmp_path}", "day=1/a b%.csv")
    assert event.data["uri"] == f"file://{tmp_path}/day=1/a b%.csv"
    assert event.data["etag"] is None
    assert nothing == []
    assert touched.data["last_modified"] == "1970-01-01T00:00:01Z"


def test_a_local_folder_that_is_missing_says_so(tmp_path: Path) -> None:
    source, inbox = local(tmp_path, f"file://{tmp_path}/landing")

    with pytest.raises(RetryLater, match="cannot list"):
        again(source, inbox)
    (tmp_path / "landing").mkdir()

    assert again(source, inbox) == []


def test_a_folder_that_cannot_be_listed_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a complaint, and nothing below it is taken for gone."""
    for name in ("open/a", "shut/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    source, inbox = local(tmp_path, f"file://{tmp_path}")
    again(source, inbox)
    entries = len(inbox.ledger)
    assert source._objects is not None
    system = source._objects._system  # type: ignore[attr-defined]
    listed = system.ls

    def ls(path: str, **arguments: Any) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(system, "ls", ls)
        (tmp_path / "open/c").write_text("x")
        (event,) = again(source, inbox)
        complaint = inbox.complaints["holes"]
        remembered = len(inbox.ledger)
    again(source, inbox)

    assert event.subject == "open/c"
    assert "shut" in complaint
    assert remembered == entries + 1
    assert inbox.complaints == {}


@pytest.fixture
def memory() -> Iterator[Any]:
    """A file system in memory, in a folder of its own."""
    system = fsspec.filesystem("memory")
    root = f"/lake-{new_number()}"
    system.makedirs(root)
    yield system, root
    system.rm(root, recursive=True)


def test_memory(memory: Any, tmp_path: Path) -> None:
    """Also keys that S3's test server does not take: control characters are escaped in subject and id, not in the data."""
    system, root = memory
    keys = ["a\nb", "a%0Ab", "d/x\x07", "nul\x00"]
    for key in keys:
        system.pipe(f"{root}/{key}", b"x")
    source, inbox = local(tmp_path, f"memory:/{root}")

    events = again(source, inbox)

    assert sorted(event.data["key"] for event in events) == sorted(keys[:3])
    assert sorted(str(event.subject) for event in events) == ["a%0Ab", "a%0Ab", "d/x%07"]
    assert len({event.source_id for event in events}) == 3
    assert "1 keys" in inbox.complaints["keys"]
    assert again(source, inbox) == []
