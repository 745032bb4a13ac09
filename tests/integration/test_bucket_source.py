"""The bucket source against a server that speaks S3, local files and memory: what counts as news, and what must not hurt it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import ValidationError

from controller.core.model import NewEvent
from controller.errors import RetryLater
from controller.secret import Secret
from controller.sources.bucket import BucketOptions, BucketSource
from controller.sources.bucket import options as options_module
from controller.sources.bucket import source as source_module
from controller.sources.bucket.options import read_url
from controller.testing import ManualClock, MemoryInbox
from tests.objectstore import KEY, SECRET, ObjectServer

#: Later than whatever the server writes meanwhile.
NOW = datetime(2100, 1, 1, tzinfo=UTC)
_NUMBERS = itertools.count(1)


class Bucket:
    """A bucket, an inbox, a clock, and a source between them."""

    def __init__(self, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        monkeypatch.setenv("OBJECT_KEY", KEY)
        monkeypatch.setenv("OBJECT_SECRET", SECRET)
        self.server = server
        self.client = server.client()
        self.name = f"bucket-{next(_NUMBERS)}"
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
    before = len(inbox.events)
    for _ in range(1_000):
        now = inbox.clock.now()
        if source.poll(now) != now:
            return inbox.events[before:]
    raise AssertionError("it never came to the end")


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket(object_server, monkeypatch)


# ------------------------------------------------------------------------------------------------------ what is news


def test_an_object_is_an_event(bucket: Bucket) -> None:
    etag = bucket.put("landing/2013-01.csv", b"hello")

    (event,) = bucket.list()

    assert (event.source, event.type) == (f"s3://{bucket.name}", "object.arrived")
    assert (event.source_id, event.subject) == (f"landing/2013-01.csv@{etag}", "landing/2013-01.csv")
    assert event.time is not None
    assert event.data == {
        "bucket": bucket.name,
        "key": "landing/2013-01.csv",
        "uri": f"s3://{bucket.name}/landing/2013-01.csv",
        "size": 5,
        "etag": etag,
        "last_modified": event.time.isoformat().replace("+00:00", "Z"),
    }
    assert bucket.list() == []
    assert b"landing/2013-01.csv" in bucket.inbox.notes["payload"]


def test_new_content_is_news_and_the_same_is_not(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    bucket.list()
    bucket.put("a", b"one")
    same = bucket.list()
    etag = bucket.put("a", b"two")

    (event,) = bucket.list()

    assert same == []
    assert event.source_id == f"a@{etag}"


def test_what_is_gone_is_forgotten_in_silence(bucket: Bucket) -> None:
    """A deletion is no event, and takes its entry out of the ledger; the same object again is the same event."""
    bucket.put("a")
    bucket.put("b")
    bucket.list()
    bucket.delete("a")

    gone = bucket.list()

    assert gone == []
    assert [value[0] for key, value in bucket.inbox.ledger.items() if not key.startswith("@")] == ["b"]
    bucket.put("a")
    assert bucket.list() == []
    assert len(bucket.inbox.duplicates) == 1


@pytest.mark.parametrize("key", ["a b", "a+b", "100%", "%41", "ü/größe", "a//b", "a?b#c&d=e", "…" * 200, "'\"<>&", "*"])
def test_any_key_will_do(bucket: Bucket, key: str) -> None:
    bucket.put(key)

    (event,) = bucket.list()

    assert event.data["key"] == key
    assert event.subject == key
    assert len(event.source_id) < 500
    assert bucket.list() == []


def test_folders_are_no_objects(bucket: Bucket) -> None:
    """What a console makes to show an empty folder is passed over."""
    bucket.put("folder/", b"")
    bucket.put("folder/a")

    assert [event.subject for event in bucket.list()] == ["folder/a"]


def test_an_object_of_several_parts_has_the_etag_of_its_parts(bucket: Bucket) -> None:
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="large")["UploadId"]
    sent = []
    for number, body in ((1, b"x" * (5 << 20)), (2, b"y")):
        part = bucket.client.upload_part(Bucket=bucket.name, Key="large", UploadId=upload, PartNumber=number, Body=body)
        sent.append({"PartNumber": number, "ETag": part["ETag"]})
    unfinished = bucket.list()
    bucket.client.complete_multipart_upload(
        Bucket=bucket.name, Key="large", UploadId=upload, MultipartUpload={"Parts": sent}
    )

    (event,) = bucket.list()

    assert unfinished == []
    assert event.data["etag"].endswith("-2")
    assert event.data["size"] == (5 << 20) + 1


def test_a_prefix_is_a_folder(bucket: Bucket) -> None:
    """What only begins with the same letters is not below it; keys and uris are whole ones all the same."""
    for key in ("landing/a", "landing2/a", "a"):
        bucket.put(key)
    bucket.restart(url=f"s3://{bucket.name}/landing")

    (event,) = bucket.list()

    assert event.data["key"] == "landing/a"
    assert event.data["uri"] == f"s3://{bucket.name}/landing/a"


def test_globs_choose_below_the_prefix(bucket: Bucket) -> None:
    for key in ("l/a.csv", "l/a.txt", "l/_tmp/a.csv", "l/day=1/b.csv", "l/day=1/c.parquet"):
        bucket.put(key)
    bucket.restart(url=f"s3://{bucket.name}/l/", include=["*.csv", "day=*/*.parquet"], exclude=["_tmp"])

    found = sorted(str(event.subject) for event in bucket.list())

    assert found == ["l/a.csv", "l/day=1/b.csv", "l/day=1/c.parquet"]


def test_a_young_object_waits(bucket: Bucket) -> None:
    """With `settle`, an object counts once it has not been modified for that long."""
    bucket.restart(settle="10m")
    bucket.clock.set_now(datetime.now(UTC))
    bucket.put("a")
    early = bucket.list()

    (event,) = bucket.list(after=timedelta(minutes=11))

    assert early == []
    assert event.subject == "a"


def test_ignore_means_what_was_there_at_the_first_start(bucket: Bucket) -> None:
    bucket.put("old")
    bucket.restart(on_start="ignore")
    first = bucket.list()
    bucket.put("new")
    bucket.put("old", b"changed")
    bucket.restart()

    found = sorted(str(event.subject) for event in bucket.list())

    assert first == []
    assert found == ["new", "old"]


def test_each_version_is_an_event(bucket: Bucket) -> None:
    """With `versions`, the same bytes written again are another version; a deleted key is gone, and not an event."""
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    bucket.restart(versions=True)
    bucket.put("a")
    bucket.put("b")
    first = bucket.list()
    bucket.put("a")
    second = bucket.list()
    bucket.delete("a")
    third = bucket.list()

    assert [event.subject for event in first] == ["a", "b"]
    assert [event.subject for event in second] == ["a"]
    assert second[0].data["version"] != first[0].data["version"]
    assert second[0].source_id.endswith(f"@{second[0].data['version']}")
    assert third == []
    assert [value[0] for key, value in bucket.inbox.ledger.items() if not key.startswith("@")] == ["b"]


# ------------------------------------------------------------------------------------------------ pages and interruptions


@pytest.fixture
def many(bucket: Bucket) -> Bucket:
    """The bucket with 2,600 objects."""
    bucket.name = "seeded"
    bucket.restart(url="s3://seeded")
    return bucket


def test_a_large_bucket_is_listed_page_by_page(many: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll ends after so many objects and asks to be called at once; in the end every object was one event, in batches."""
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    now = many.clock.now()
    answers = [many.source.poll(now) for _ in range(3)]

    counts = [events for events, _ in many.inbox.batches if events]
    assert answers == [now, now, now + timedelta(minutes=1)]
    assert len({event.source_id for event in many.inbox.events}) == 2_600
    assert max(counts) <= 500
    assert many.source.report()["last_listing"]["objects"] == 2_600
    assert many.list() == []


def test_a_large_bucket_that_is_known_is_no_work_for_the_store(many: Bucket) -> None:
    many.list()
    batches = len(many.inbox.batches)
    many.restart()

    events = many.list()

    assert events == []
    assert len(many.inbox.batches) == batches
    assert many.source.report()["known"] == 2_600


def test_a_restart_in_the_middle_of_a_listing_repeats_nothing(many: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    many.source.poll(many.clock.now())
    many.restart()

    many.list()

    assert len(many.inbox.events) == 2_600
    assert not many.inbox.duplicates


def test_a_listing_that_broke_shows_nothing_to_be_gone(many: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a listing that came to its end tells what is no longer there; the next one begins anew."""
    many.list()
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    many.clock.advance(timedelta(minutes=1))
    many.source.poll(many.clock.now())
    many.restart(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(RetryLater):
        many.source.poll(many.clock.now())
    entries = len(many.inbox.ledger)
    many.restart(endpoint_url=many.server.url)

    assert many.list() == []
    assert len(many.inbox.ledger) == entries == 2_601


def test_a_thousand_that_are_gone_are_forgotten(many: Bucket) -> None:
    many.list()
    many.restart(exclude=["0", "1", "2", "3"])

    assert many.list() == []
    assert many.source.report()["known"] == len(many.inbox.ledger) - 1 < 1_200


def test_a_busy_store_gets_the_same_again(many: Bucket) -> None:
    many.inbox.refusals = 3

    for _ in range(8):
        many.list()

    assert len(many.inbox.events) == 2_600
    assert not many.inbox.duplicates


def test_a_lost_ledger_makes_no_second_event(many: Bucket) -> None:
    many.list()
    many.inbox.ledger.clear()
    many.restart()

    assert many.list() == []
    assert len(many.inbox.duplicates) == 2_600


def test_the_next_listing_waits_ten_times_the_length_of_the_last(bucket: Bucket) -> None:
    """A listing that takes a minute is made every ten at most, whatever `every` says."""
    slow = bucket.source._steps

    def steps() -> Iterator[int]:
        bucket.clock.advance(timedelta(seconds=60))
        yield from slow()

    bucket.source._steps = steps  # type: ignore[method-assign]

    bucket.source.poll(bucket.clock.now())
    answer = bucket.source.poll(bucket.clock.now())

    assert answer is not None
    assert answer >= NOW + timedelta(seconds=660)
    bucket.put("a")
    bucket.clock.advance(timedelta(seconds=599))
    bucket.source.poll(bucket.clock.now())
    assert bucket.inbox.events == []


# --------------------------------------------------------------------------------------------------------------- trouble


def test_a_missing_bucket_says_so(bucket: Bucket) -> None:
    bucket.restart(url="s3://no-such-bucket")

    with pytest.raises(RetryLater) as refused:
        bucket.list()

    assert "'s3://no-such-bucket'" in refused.value.message
    assert "bucket does not exist" in refused.value.message
    assert "name of the bucket" in refused.value.hint
    bucket.client.create_bucket(Bucket="no-such-bucket")
    assert bucket.list() == []


def test_wrong_credentials_say_so_and_tell_no_secret(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names neither key nor secret; right ones count at once, without a restart."""
    server = ObjectServer()
    server.start(ask_for_credentials=True)
    try:
        bucket.restart(endpoint_url=server.url)
        with pytest.raises(RetryLater) as refused:
            bucket.list()
        bucket.restart(endpoint_url=bucket.server.url)
    finally:
        server.close()

    told = f"{refused.value}{refused.value.__cause__!r}{bucket.inbox.log.lines}"
    assert "Access Key Id you provided does not exist" in refused.value.message
    assert "credentials" in refused.value.hint
    assert KEY not in told
    assert SECRET not in told
    assert refused.value.__suppress_context__


def test_a_secret_that_is_not_there_says_which(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OBJECT_SECRET")

    with pytest.raises(RetryLater, match="env:OBJECT_SECRET is not set"):
        bucket.list()

    monkeypatch.setenv("OBJECT_SECRET", SECRET)
    assert bucket.list() == []


def test_an_endpoint_that_is_killed_and_comes_back(bucket: Bucket) -> None:
    """While it is away nothing is forgotten; what it has when it is back is found."""
    server = ObjectServer()
    server.start()
    try:
        client = server.client()
        client.create_bucket(Bucket="phoenix")
        client.put_object(Bucket="phoenix", Key="a", Body=b"1")
        bucket.restart(url="s3://phoenix", endpoint_url=server.url)
        (first,) = bucket.list()
        server.kill()
        for _ in range(2):
            with pytest.raises(RetryLater, match="cannot list 's3://phoenix'"):
                bucket.list()
        remembered = dict(bucket.inbox.ledger)
        server.start()
        client = server.client()
        client.create_bucket(Bucket="phoenix")
        client.put_object(Bucket="phoenix", Key="a", Body=b"1")
        client.put_object(Bucket="phoenix", Key="b", Body=b"2")
        (second,) = bucket.list()
    finally:
        server.close()

    assert (first.subject, second.subject) == ("a", "b")
    assert any(value[0] == "a" for key, value in remembered.items() if not key.startswith("@"))
    assert not bucket.inbox.duplicates


# ------------------------------------------------------------------------------------------------- other stores


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
    root = f"/lake-{next(_NUMBERS)}"
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


# ------------------------------------------------------------------------------------------------------------ data sets


def names(event: NewEvent) -> list[str]:
    return [part["name"] for part in event.data["parts"]]


def test_a_marker_makes_one_event_of_a_partition(bucket: Bucket) -> None:
    bucket.restart(url=f"s3://{bucket.name}/landing", group={"complete": {"marker": "_SUCCESS"}})
    etag = bucket.put("landing/day=1/a.csv")
    bucket.put("landing/day=1/b.csv")
    bucket.put("landing/day=2/a.csv")
    before = bucket.list()
    bucket.put("landing/day=1/_SUCCESS", b"")

    (event,) = bucket.list()

    assert before == []
    assert (event.type, event.source, event.subject) == ("dataset.arrived", f"s3://{bucket.name}", "day=1")
    assert event.data["parts"][0] == {"name": "day=1/a.csv", "size": 1, "etag": etag}
    assert (event.data["count"], event.data["complete_by"]) == (2, "marker")
    assert "rows" not in event.data
    waiting = bucket.source.report()["groups"]["waiting"]
    assert [(group["group"], group["missing"]) for group in waiting["oldest"]] == [("day=2", "the marker _SUCCESS")]
    assert bucket.list() == []


def test_what_came_between_marker_and_look_is_of_the_data_set(bucket: Bucket) -> None:
    """The folder is looked through once more, unless a listing that began after the last change has shown all of it."""
    bucket.restart(group={"complete": {"quiet": "30s"}}, every="1h")
    bucket.put("d/a")
    bucket.list()
    bucket.put("d/b")

    early = bucket.list(after=timedelta(seconds=40))
    (event,) = bucket.list(after=timedelta(seconds=40))

    assert early == []
    assert names(event) == ["d/a", "d/b"]


def test_a_regular_expression_waits_for_a_listing(bucket: Bucket) -> None:
    bucket.restart(group={"by": r"^(day=\d)/", "complete": {"parts": 2}})
    bucket.put("day=1/x/a")
    bucket.put("other")
    first = bucket.list()
    bucket.put("day=1/y/b")

    events = bucket.list() + bucket.list()

    assert first == []
    assert [names(event) for event in events] == [["day=1/x/a", "day=1/y/b"]]
    assert bucket.source.report()["groups"]["outside"] == 1


def test_a_manifest_is_read(bucket: Bucket) -> None:
    bucket.restart(url=f"s3://{bucket.name}/l", group={"complete": {"manifest": "manifest.json"}})
    bucket.put("l/d/manifest.json", f'{{"entries": [{{"url": "s3://{bucket.name}/l/d/a"}}, {{"url": "b"}}]}}'.encode())
    bucket.put("l/d/a")
    bucket.put("l/d/stray")
    before = bucket.list()
    bucket.put("l/d/b")

    (event,) = bucket.list()

    assert before == []
    assert names(event) == ["d/a", "d/b"]


def test_a_bad_or_empty_manifest_is_a_complaint(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"manifest": "manifest.json"}})
    bucket.put("d/a")
    bucket.put("d/manifest.json", b"")
    bucket.list()
    complaint = bucket.inbox.complaints["manifest"]
    bucket.put("d/manifest.json", b'["a"]')

    (event,) = bucket.list()

    assert "names no part" in complaint
    assert names(event) == ["d/a"]
    assert "manifest" not in bucket.inbox.complaints


def test_what_is_gone_is_not_of_the_data_set(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    bucket.put("d/a")
    bucket.put("d/b")
    bucket.list()
    bucket.delete("d/a")
    bucket.put("d/_SUCCESS", b"")

    events = bucket.list() + bucket.list()

    assert [names(event) for event in events][-1] == ["d/b"]


def test_what_goes_after_the_event_is_no_news(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    for key in ("d/a", "d/b", "d/_SUCCESS"):
        bucket.put(key)
    bucket.list()
    bucket.delete("d/a")

    assert bucket.list() == []
    assert bucket.list() == []
    assert bucket.source.report()["groups"]["waiting"]["count"] == 0


def test_late_objects_are_one_more_event(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}}, every="10s")
    bucket.put("d/a")
    bucket.put("d/_SUCCESS", b"")
    (first,) = bucket.list()
    bucket.put("d/b")
    at_once = bucket.list(after=timedelta(seconds=10))

    (second,) = bucket.list(after=timedelta(seconds=60))

    assert at_once == []
    assert (second.data["generation"], second.data["late"], second.data["previous"]) == (2, True, first.data["digest"])


def test_a_restart_and_a_lost_ledger_repeat_no_data_set(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    bucket.put("d/a")
    bucket.put("d/_SUCCESS", b"")
    bucket.list()
    bucket.restart()
    restarted = bucket.list()
    bucket.inbox.ledger.clear()
    bucket.restart()

    lost = bucket.list()

    assert (restarted, lost) == ([], [])
    assert len(bucket.inbox.duplicates) == 1


def test_a_young_object_keeps_its_data_set_waiting(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"parts": 1}}, settle="10m")
    bucket.clock.set_now(datetime.now(UTC) + timedelta(minutes=30))
    bucket.put("d/a")
    bucket.restart(settle="1h")
    early = bucket.list()

    (event,) = bucket.list(after=timedelta(hours=1))

    assert early == []
    assert names(event) == ["d/a"]


def test_many_data_sets_at_once(many: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are looked through one by one wait for the next listing; then all come, stored together."""
    monkeypatch.setattr(source_module, "_BATCH_GROUPS", 2)
    many.restart(group={"complete": {"quiet": "10s"}})
    many.list()

    events = many.list()

    assert sorted(str(event.subject) for event in events) == [f"many/{number}" for number in range(7)]
    assert sum(event.data["count"] for event in events) == 2_600


def test_another_grouping_finds_the_data_sets_anew(bucket: Bucket) -> None:
    for key in ("x/a", "x/b", "y/a"):
        bucket.put(key)
    single = bucket.list()
    bucket.restart(group={"by": "([ab])$", "complete": {"parts": 1}})
    grouped = bucket.list()
    bucket.restart()
    known = bucket.list()
    bucket.restart(group=None)

    assert len(single) == 3
    assert sorted((str(event.subject), event.data["count"]) for event in grouped) == [("a", 2), ("b", 1)]
    assert known == []
    assert bucket.list() == []
    assert not any(key.startswith(("group:", "part:")) for key in bucket.inbox.ledger)


# --------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options, words",
    [
        ({"url": "http://x"}, "not the URL of a bucket"),
        ({"url": "bucket"}, "not the URL of a bucket"),
        ({"url": "s3://"}, "names no bucket"),
        ({"url": "s3://key:word@bucket/x"}, "carries a name or a password"),
        ({"url": "file://landing"}, "not an absolute path"),
        ({"url": "s3://b", "key": "env:A"}, "belong together"),
        ({"url": "s3://b", "key": "env:A", "secret": "env:B", "anonymous": True}, "contradicts"),
        ({"url": "s3://b", "key": "plain", "secret": "plain"}, "by reference"),
        ({"url": "file:///b", "endpoint_url": "http://x"}, "is for s3://"),
        ({"url": "file:///b", "versions": True}, "is for s3://"),
        ({"url": "file:///b", "key": "env:A", "secret": "env:B"}, "from the environment"),
        ({"url": "s3://b", "options": {"token": "abc"}}, "looks like a secret"),
        ({"url": "s3://b", "options": {"anon": True}}, "sets itself"),
        ({"url": "s3://b", "every": "100ms"}, "less than 1s"),
        ({"url": "s3://b", "group": {"complete": {}}}, "`complete` must say"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BucketOptions(**options)

    assert words in str(refused.value.errors()[0]["msg"])
    assert "word@" not in str(refused.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    "url, package, extra", [("gs://b", "gcsfs", "gcs"), ("az://b", "adlfs", "azure"), ("s3://b", "s3fs", "s3")]
)
def test_a_package_that_is_missing_is_named_at_load(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = options_module.importlib.util.find_spec
    monkeypatch.setattr(
        options_module.importlib.util, "find_spec", lambda name: None if name == package else found("json")
    )

    with pytest.raises(ValidationError) as refused:
        BucketOptions(url=url)

    (error,) = refused.value.errors()
    assert f"needs the package {package}" in error["msg"]
    assert error["ctx"]["hint"] == f"pip install 'retrain-controller[{extra}]'"


@pytest.mark.parametrize(
    "url, bucket, prefix, root",
    [
        ("s3://b", "b", "", "s3://b"),
        ("s3://b/", "b", "", "s3://b"),
        ("s3://b/x/y/", "b", "x/y/", "s3://b/x/y"),
        ("file:///data/x/", "/data/x", "", "file:///data/x"),
        ("memory://x", "/x", "", "memory:///x"),
    ],
)
def test_a_url_leads_somewhere(url: str, bucket: str, prefix: str, root: str) -> None:
    place = read_url(url)

    assert (place.bucket, place.prefix, place.root) == (bucket, prefix, root)


def test_options_reach_the_file_system(bucket: Bucket) -> None:
    options = BucketOptions(
        url="s3://b", key="env:OBJECT_KEY", secret="env:OBJECT_SECRET", options={"client_kwargs": {"region_name": "x"}}
    )

    assert options.arguments() == {"client_kwargs": {"region_name": "x"}, "key": KEY, "secret": SECRET}
    assert isinstance(options.key, Secret)
    assert SECRET not in repr(options)
    assert BucketOptions(url="s3://b", anonymous=True).arguments() == {"anon": True}


def test_fsspec_is_imported_only_when_it_is_used() -> None:
    """Loading and checking a configuration without buckets, or with one, does not load the client."""
    import subprocess
    import sys

    program = (
        "import sys; from controller.sources.bucket import BucketOptions; BucketOptions(url='s3://b'); "
        "print([name for name in ('fsspec', 's3fs', 'botocore', 'aiohttp') if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)

    assert said.stdout.strip() == "[]"
