"""CloudEvents over HTTP: the three modes, and what is malformed or none.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.errors import InvalidInput, NotUnderstood
from controller.testing import MemoryInbox
from tests.webhooks import payload

CE = ("content-type", "application/cloudevents+json; charset=utf-8")
CE_BATCH = ("content-type", "application/cloudevents-batch+json")


def test_cloudevents_in_all_three_modes(hook: Any) -> None:
    """Structured, batched (whose type begins like the other's) and binary with percent-encoded and quoted headers."""
    events = hook(format="cloudevents")
    structured = events.event("cloudevents/structured", CE)
    batch = events.send("cloudevents/batch", CE_BATCH).batch.events
    binary = events.post(
        b'{"score": 1}',
        ("ce-specversion", "1.0"),
        ("ce-type", '"a.\\"b"'),
        ("ce-source", "/x"),
        ("ce-id", "1"),
        ("ce-subject", "Gr%C3%BC%C3%9Fe%2520"),
    ).batch.events[0]

    assert (structured.type, structured.subject) == ("com.example.someevent", "churn")
    assert [event.source_id for event in batch] == ["b-0", "b-1", "b-2"]
    assert (binary.type, binary.subject, binary.data) == ('a."b', "Grüße%20", {"score": 1})
    assert events.post(b"[]", CE_BATCH).batch.events == []


@pytest.mark.parametrize(
    "body, headers, expected",
    [
        (payload("cloudevents/both-kinds-of-data"), [CE], "both data and data_base64"),
        (payload("cloudevents/batch-one-bad"), [CE_BATCH], "item 1"),
        (b"{", [CE], "not JSON"),
        (b'{"a": NaN}', [CE], "NaN"),
        (b"x", [("ce-id", "%C0%A0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-specversion", "1.0")], "not UTF-8"),
    ],
    ids=["two kinds of data", "a bad item", "no JSON", "no strict JSON", "no UTF-8"],
)
def test_malformed_cloudevents_are_refused(
    hook: Any, inbox: MemoryInbox, body: bytes, headers: list[tuple[str, str]], expected: str
) -> None:
    """With the reason, and the item; nothing of a batch is taken."""
    with pytest.raises(InvalidInput, match=expected):
        hook(format="cloudevents").post(body, *headers)

    assert not inbox.events
    assert not inbox.dead


@pytest.mark.parametrize("kind", ["application/cloudevents+avro", "application/json", "text/plain"])
def test_what_is_no_cloudevent_is_not_understood(hook: Any, kind: str) -> None:
    """415: an unknown event format, and a body without a single ce- header."""
    with pytest.raises(NotUnderstood):
        hook(format="cloudevents").post(b"{}", ("content-type", kind))
