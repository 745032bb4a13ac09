"""Objects in a bucket on a server that speaks S3: which are news, and what their events say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.bucket_house import Bucket


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
