"""Notices of object storage: by the bucket, through SNS and EventBridge, and from MinIO.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.errors import NotUnderstood
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc
from tests.webhooks import content


def test_an_object_is_an_event(hook: Any) -> None:
    """The key is decoded, with a space for each plus."""
    event = hook(format="s3").event("s3/created")

    assert (event.type, event.source) == ("object.created", "s3://landing")
    assert event.subject == "landing/flights/red flower ü.csv"
    assert event.time == utc(2026, 3, 5, 12, 0, 0, 123_000)
    assert {
        "bucket": "landing",
        "key": "flights/red flower ü.csv",
        "size": 1024,
        "etag": "d41d8cd98f00b204e9800998ecf8427e",
        "version_id": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
        "event": "ObjectCreated:Put",
    }.items() <= event.data.items()


def test_one_object_by_three_ways_is_one_event(hook: Any, inbox: MemoryInbox) -> None:
    """By the bucket, through SNS as text, and through EventBridge, which does not encode keys."""
    objects = hook(format="s3")
    objects.send("s3/created")
    objects.send("s3/sns", ("content-type", "text/plain; charset=UTF-8"), ("x-amz-sns-message-type", "Notification"))
    objects.send("s3/eventbridge")

    assert (len(inbox.events), len(inbox.duplicates)) == (1, 2)
    assert {event.data["key"] for event in inbox.duplicates} == {"flights/red flower ü.csv"}


def test_minio_speaks_the_same(hook: Any) -> None:
    """With `s3:` before the event's name."""
    event = hook(format="s3").event("s3/minio")

    assert (event.type, event.subject) == ("object.created", "landing/flights/2026-03.parquet")
    assert event.data["content_type"] == "application/octet-stream"


def test_records_of_one_key_are_put_in_order(hook: Any) -> None:
    """By their sequencers, the shorter one padded; other keys stay where they are."""
    events = hook(format="s3").send("s3/out-of-order").batch.events

    assert [(event.data["key"], event.type) for event in events] == [
        ("a.csv", "object.created"),
        ("b.csv", "object.created"),
        ("a.csv", "object.removed"),
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ObjectRemoved:DeleteMarkerCreated", "object.removed"),
        ("LifecycleExpiration:Delete", "object.removed"),
        ("s3:ObjectRemoved:Delete", "object.removed"),
        ("ObjectCreated:CompleteMultipartUpload", "object.created"),
        ("ObjectTagging:Put", "object.changed"),
        ("ObjectRestore:Completed", "object.changed"),
    ],
)
def test_types_by_the_name_of_the_event(hook: Any, name: str, expected: str) -> None:
    """Created, removed, or something else that happened to it."""
    body = content("s3/created")
    body["Records"][0]["eventName"] = name

    assert [event.type for event in hook(format="s3").post(body).batch.events] == [expected]


def test_without_a_sequencer_the_request_stands_in(hook: Any, inbox: MemoryInbox) -> None:
    """S3 gives one only for what is created and deleted."""
    body = content("s3/created")
    del body["Records"][0]["s3"]["object"]["sequencer"]
    objects = hook(format="s3")
    objects.post(body)
    body["Records"][0]["responseElements"]["x-amz-request-id"] = "ANOTHER"
    objects.post(body)
    objects.post(body)

    assert (len(inbox.events), len(inbox.duplicates)) == (2, 1)


def test_the_test_event_is_answered(hook: Any, inbox: MemoryInbox) -> None:
    """And is no event."""
    taken = hook(format="s3").send("s3/test-event")

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert not inbox.events
    assert not inbox.dead


def test_a_subscription_is_shown_and_not_fetched(hook: Any, inbox: MemoryInbox) -> None:
    """Its address is in the notes and in the log, for a person."""
    sns = [("content-type", "text/plain; charset=UTF-8"), ("x-amz-sns-message-type", "SubscriptionConfirmation")]

    taken = hook(format="s3").send("s3/sns-subscription", *sns)

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert inbox.notes["subscription"]["address"].startswith("https://sns.eu-central-1.amazonaws.com/?Action=Confirm")  # type: ignore[index,call-overload]
    assert inbox.log.lines[0][1] == "webhook.noted"
    assert not inbox.events


@pytest.mark.parametrize("key", ["%FF", "a%00b", None, 5, "", "k" * 3000])
def test_a_key_that_is_none_is_kept(hook: Any, inbox: MemoryInbox, key: Any) -> None:
    """A database could not store it, or nobody could find it."""
    body = content("s3/created")
    body["Records"][0]["s3"]["object"]["key"] = key
    hook(format="s3").post(body)

    assert not inbox.events
    assert len(inbox.dead) == 1


def test_text_without_sns_is_not_taken(hook: Any) -> None:
    """A web page may send text to anybody without asking; it cannot set SNS' header."""
    with pytest.raises(NotUnderstood):
        hook(format="s3").send("s3/created", ("content-type", "text/plain"))
