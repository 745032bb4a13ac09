"""CloudEvents over HTTP, read into events."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.cloudevents import MAX_ATTRIBUTE, MAX_ATTRIBUTES, NotUnderstood, Received, read
from controller.core.model import NewEvent
from controller.errors import InvalidInput

PLAIN: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/test", "type": "drift"}
CE = [(f"ce-{name}".encode(), value.encode()) for name, value in PLAIN.items()]
Headers = list[tuple[bytes, bytes]]


def structured(change: Any = None, *, kind: str = "application/cloudevents+json") -> Received:
    body = PLAIN | (change or {})
    return read([(b"content-type", kind.encode())], json.dumps(body).encode())


def binary(*more: tuple[bytes, bytes], body: bytes = b"", kind: str | None = None) -> Received:
    content = [] if kind is None else [(b"content-type", kind.encode())]
    return read([(b"host", b"x"), *CE, *content, *more], body)


def batch(*items: Any) -> Received:
    return read([(b"content-type", b"application/cloudevents-batch+json")], json.dumps(items).encode())


EVENT = NewEvent(source="/test", source_id="1", type="drift")
TAKEN: dict[str, tuple[Received, dict[str, Any]]] = {
    "structured": (structured(), {}),
    "structured, without the suffix": (structured(kind="application/cloudevents"), {}),
    "a known charset": (structured(kind='application/cloudevents+json; charset="UTF-8"'), {}),
    "an attribute that is null is not there": (structured({"subject": None, "time": None}), {}),
    "a subject": (structured({"subject": "eu"}), {"subject": "eu"}),
    "a time in another zone": (
        structured({"time": "2024-03-05t13:00:00.5+01:00"}),
        {"time": datetime(2024, 3, 5, 12, 0, 0, 500_000, tzinfo=UTC)},
    ),
    "extensions": (structured({"a": "x", "b": 1, "c": True}), {"extensions": {"a": "x", "b": 1, "c": True}}),
    "data": (structured({"data": {"n": 1}}), {"data": {"n": 1}}),
    "data in base64 that is JSON": (
        structured({"data_base64": base64.b64encode(b'{"n": 1}').decode()}),
        {"data": {"n": 1}},
    ),
    "data in base64 that is not": (
        structured({"data_base64": "/w==", "datacontenttype": "image/png"}),
        {"data": "/w==", "extensions": {"datacontenttype": "image/png", "dataencoding": "base64"}},
    ),
    "binary without data": (binary(), {}),
    "binary with JSON": (
        binary(body=b'{"n": 1}', kind="application/json"),
        {"data": {"n": 1}, "extensions": {"datacontenttype": "application/json"}},
    ),
    "binary with JSON of another name": (
        binary(body=b"[1]", kind="application/vnd.x+json; a=b"),
        {"data": [1], "extensions": {"datacontenttype": "application/vnd.x+json; a=b"}},
    ),
    "binary with data of no type": (binary(body=b"1"), {"data": 1}),
    "binary with text": (
        binary(body="ü".encode(), kind="text/plain"),
        {"data": "ü", "extensions": {"datacontenttype": "text/plain"}},
    ),
    "binary with bytes": (
        binary(body=b"\xff", kind="application/octet-stream"),
        {"data": "/w==", "extensions": {"datacontenttype": "application/octet-stream", "dataencoding": "base64"}},
    ),
    "a header with percent signs": (binary((b"ce-subject", b"eu%20%C3%BC%2525")), {"subject": "eu ü%25"}),
    "a header in quotes": (binary((b"ce-subject", b' "a \\"b\\"" ')), {"subject": 'a "b"'}),
}


@pytest.mark.parametrize("received, fields", TAKEN.values(), ids=TAKEN)
def test_an_event_is_read_as_its_producer_meant_it(received: Received, fields: dict[str, Any]) -> None:
    """Structured and binary mode say the same thing, each in its own way."""
    (event,) = received.events

    assert not received.batch
    assert {name: getattr(event, name) for name in fields} == fields
    assert (event.source, event.source_id, event.type) == (EVENT.source, EVENT.source_id, EVENT.type)


def test_a_batch_is_read_whole() -> None:
    """An array of events, which may be empty."""
    received = batch(PLAIN, PLAIN | {"id": "2"})

    assert received.batch
    assert [event.source_id for event in received.events] == ["1", "2"]
    assert batch().events == []


STRUCTURED: dict[str, tuple[dict[str, Any], str]] = {
    **{f"no {name}": ({name: None}, f"'{name}' is missing") for name in PLAIN},
    "another version": ({"specversion": "0.3"}, "specversion is '0.3'"),
    "an id that is a number": ({"id": 1}, "id is 1, not a string"),
    "an id of blanks": ({"id": "  "}, "not a string that says something"),
    "an empty subject": ({"subject": ""}, "subject is ''"),
    "a source with a blank": ({"source": "a b"}, "no URI reference"),
    "a control character": ({"type": "a\nb"}, "control character"),
    "a very long attribute": ({"type": "x" * (MAX_ATTRIBUTE + 1)}, "2,049 characters, 2,048 are taken"),
    "a long extension": ({"ext": "x" * (MAX_ATTRIBUTE + 1)}, "ext has 2,049 characters"),
    "too many attributes": ({f"a{n}": 1 for n in range(MAX_ATTRIBUTES)}, "64 are taken"),
    "a time without a zone": ({"time": "2024-03-05T12:00:00"}, "not RFC 3339 with a zone"),
    "a time that is a number": ({"time": 1}, "not RFC 3339"),
    "a time that is no instant": ({"time": "2024-02-30T12:00:00Z"}, "is no instant"),
    "a time before all times": ({"time": "0001-01-01T00:00:00+01:00"}, "is no instant"),
    "a name in capitals": ({"Region": "eu"}, "'Region' is not allowed"),
    "an extension that is an object": ({"ext": {}}, "is dict, not a string"),
    "an extension with decimals": ({"ext": 1.5}, "is float, not a string"),
    "both kinds of data": ({"data": 1, "data_base64": "MQ=="}, "both data and data_base64"),
    "base64 that is none": ({"data_base64": "?"}, "is not base64"),
    "base64 that is no text": ({"data_base64": 7}, "data_base64 is 7, not a string"),
    "base64 of bad JSON": ({"data_base64": "ew=="}, "not JSON"),
}


@pytest.mark.parametrize("change, said", STRUCTURED.values(), ids=STRUCTURED)
def test_an_event_that_is_malformed_is_refused(change: dict[str, Any], said: str) -> None:
    """What the specification leaves loose is refused with a reason."""
    with pytest.raises(InvalidInput) as refused:
        structured(change)

    assert said in refused.value.message


BINARY: dict[str, tuple[list[tuple[bytes, bytes]], bytes, str | None, str]] = {
    "datacontenttype as a header": ([(b"ce-datacontenttype", b"text/plain")], b"", None, "must not be sent"),
    "a header twice": ([(b"ce-id", b"2")], b"", None, "ce-id is there twice"),
    "a header that is no UTF-8": ([(b"ce-subject", b"%FF")], b"", None, "not UTF-8"),
    "bad JSON": ([], b"{", "application/json", "not JSON"),
    "text that is no UTF-8": ([], b"a\xff", "text/plain", "byte 1 is 0xff"),
    "text with NUL": ([], b"a\x00", "text/plain", "NUL"),
}


@pytest.mark.parametrize("headers, body, kind, said", BINARY.values(), ids=BINARY)
def test_a_binary_event_that_is_malformed_is_refused(
    headers: Headers, body: bytes, kind: str | None, said: str
) -> None:
    """Headers are percent-decoded once, and data is what its content type says."""
    with pytest.raises(InvalidInput) as refused:
        binary(*headers, body=body, kind=kind)

    assert said in refused.value.message


BATCHES: dict[str, tuple[bytes, str]] = {
    "no array": (b"{}", "a batch is a JSON array"),
    "an item that is no object": (b"[1]", "item 0: an event is a JSON object"),
    "one bad item": (json.dumps([PLAIN, PLAIN | {"type": ""}]).encode(), "item 1: type is ''"),
}


@pytest.mark.parametrize("body, said", BATCHES.values(), ids=BATCHES)
def test_a_batch_is_refused_whole_and_names_the_item(body: bytes, said: str) -> None:
    """One bad event refuses the batch, so that a producer may send it again."""
    with pytest.raises(InvalidInput) as refused:
        read([(b"content-type", b"application/cloudevents-batch+json")], body)

    assert said in refused.value.message


NOT_UNDERSTOOD: dict[str, Headers] = {
    "no CloudEvent": [(b"content-type", b"application/json")],
    "nothing at all": [],
    "several content types": [(b"content-type", b"a/b"), (b"content-type", b"a/b")],
    "another format": [(b"content-type", b"application/cloudevents+avro")],
    "a batch in another format": [(b"content-type", b"application/cloudevents-batch+xml")],
    "another charset": [(b"content-type", b"application/cloudevents+json; charset=utf-16")],
}


@pytest.mark.parametrize("headers", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_a_content_type_that_is_no_mode_is_not_understood(headers: Headers) -> None:
    """It is another error than a malformed event, because another answer is due (415)."""
    with pytest.raises(NotUnderstood):
        read(headers, b"{}")


@given(
    st.sampled_from(["application/cloudevents+json", "application/cloudevents-batch+json", "text/plain", ""]),
    st.binary(),
)
def test_any_request_is_events_or_a_refusal(kind: str, body: bytes) -> None:
    """Whatever comes in, the only exception is the one that says what is wrong."""
    try:
        received = read([(b"content-type", kind.encode()), *CE], body)
    except InvalidInput:
        return

    assert all(isinstance(event, NewEvent) for event in received.events)
