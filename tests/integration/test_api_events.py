"""CloudEvents by the API: every mode is stored before it is acknowledged, every malformed one is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from controller.errors import StoreBusy
from controller.store.views import Views
from tests.integration.api_house import GOOD, House
from tests.rawsocket import send_until_answered

EVENT = {"specversion": "1.0", "id": "1", "source": "/m", "type": "t"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {
    "ce-id": "b-1",
    "ce-source": "/m",
    "ce-specversion": "1.0",
    "ce-type": "t",
    "content-type": "application/json",
}


def stored(api: House, answer: Any) -> Any:
    with api.store.reading() as tx:
        event = tx.events.get(answer["event_id"])
    assert event is not None
    return event


def test_structured(api: House, unix: httpx.Client) -> None:
    """A structured event is stored before it is acknowledged; the same one again is a duplicate."""
    event = {
        **EVENT,
        "data": {"share": 0.4},
        "subject": "x",
        "time": "2026-01-31T12:00:00+01:00",
        "traceparent": "00-a",
    }
    first = unix.post("/v1/events", json=event, headers=STRUCTURED)
    again = unix.post("/v1/events", json=event, headers={"content-type": "Application/CloudEvents+JSON; charset=UTF-8"})
    kept = stored(api, first.json())

    assert first.status_code == 202
    assert first.json()["duplicate"] is False
    assert again.json() == {**first.json(), "duplicate": True}
    assert (kept.origin, kept.data, kept.subject, kept.extensions) == (
        "api",
        {"share": 0.4},
        "x",
        {"traceparent": "00-a"},
    )
    assert kept.time.isoformat() == "2026-01-31T11:00:00+00:00"


def test_batch(api: House, unix: httpx.Client) -> None:
    """A batch is answered with a list; an empty one is fine; one bad item refuses it whole and is named."""
    events = [{**EVENT, "id": str(n)} for n in range(3)]
    taken = unix.post("/v1/events", content=json.dumps(events), headers=BATCH)
    refused = unix.post("/v1/events", content=json.dumps([{**EVENT, "id": "9"}, {**EVENT, "id": ""}]), headers=BATCH)
    later = unix.post("/v1/events", json={**EVENT, "id": "9"}, headers=STRUCTURED)

    assert [receipt["duplicate"] for receipt in taken.json()] == [False] * 3
    assert (unix.post("/v1/events", content=b"[]", headers=BATCH).status_code, refused.status_code) == (202, 400)
    assert "item 1" in refused.json()["detail"]
    assert later.json()["duplicate"] is False


def test_binary(api: House, unix: httpx.Client) -> None:
    """In binary mode attributes are headers: quotes undone, one round of percent-decoding."""
    headers = {**BINARY, "ce-subject": '"caf%C3%A9%20%2541"', "ce-time": "2026-01-31T12:00:00Z", "ce-team": "x"}
    response = unix.post("/v1/events", content=b'{"a": 1}', headers=headers)
    kept = stored(api, response.json())

    assert response.status_code == 202
    assert (kept.subject, kept.data) == ("café %41", {"a": 1})
    assert kept.extensions == {"team": "x", "datacontenttype": "application/json"}


@pytest.mark.parametrize(
    "headers, body, data",
    [
        ({"content-type": "text/csv"}, b"a,b", "a,b"),
        ({"content-type": "application/octet-stream"}, b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        ({"content-type": "application/vnd.x+json"}, b"[1]", [1]),
        ({}, b"", None),
    ],
    ids=["text", "bytes", "json-suffix", "empty"],
)
def test_binary_payloads(api: House, unix: httpx.Client, headers: dict[str, str], body: bytes, data: Any) -> None:
    """Text stays text, JSON is JSON, anything else is base64."""
    mode = {name: value for name, value in BINARY.items() if name != "content-type"}
    response = unix.post("/v1/events", content=body, headers={**mode, **headers})

    assert stored(api, response.json()).data == data


def test_data_base64(api: House, unix: httpx.Client) -> None:
    """data_base64 becomes what its content type says."""
    text = base64.b64encode(b'{"a": 1}').decode()
    response = unix.post(
        "/v1/events", json={**EVENT, "data_base64": text, "datacontenttype": "application/json"}, headers=STRUCTURED
    )

    assert stored(api, response.json()).data == {"a": 1}


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in EVENT.items() if key != name}).encode()


def _with(**more: Any) -> bytes:
    return json.dumps({**EVENT, **more}).encode()


TRAPS: dict[str, tuple[dict[str, str], bytes, int]] = {
    "avro": ({"content-type": "application/cloudevents+avro"}, b"", 415),
    "avro-batch": ({"content-type": "application/cloudevents-batch+avro"}, b"", 415),
    "charset": ({"content-type": "application/cloudevents+json; charset=utf-16"}, b"{}", 415),
    "plain-json": ({"content-type": "application/json"}, _with(), 415),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, b"a=b", 415),
    "no-type": ({}, b"{}", 415),
    "gzip": ({**STRUCTURED, "content-encoding": "gzip"}, b"x", 415),
    "object-as-batch": (BATCH, _with(), 400),
    "array-as-event": (STRUCTURED, b"[]", 400),
    **{f"no-{name}": (STRUCTURED, _without(name), 400) for name in ("id", "source", "type", "specversion")},
    "empty-id": (STRUCTURED, _with(id=""), 400),
    "number-id": (STRUCTURED, _with(id=7), 400),
    "old-version": (STRUCTURED, _with(specversion="0.3"), 400),
    "space-in-source": (STRUCTURED, _with(source="a b"), 400),
    "time-without-zone": (STRUCTURED, _with(time="2026-01-31T12:00:00"), 400),
    "time-out-of-range": (STRUCTURED, _with(time="2026-02-31T12:00:00Z"), 400),
    "time-before-time": (STRUCTURED, _with(time="0001-01-01T00:00:00+14:00"), 400),
    "both-data": (STRUCTURED, _with(data=1, data_base64="MQ=="), 400),
    "bad-base64": (STRUCTURED, _with(data_base64="%%"), 400),
    "capital-name": (STRUCTURED, _with(Team="x"), 400),
    "object-extension": (STRUCTURED, _with(team={}), 400),
    "control-in-type": (STRUCTURED, _with(type="a\nb"), 400),
    "twice": (STRUCTURED, b'{"id": "1", "id": "2"}', 400),
    "nan": (STRUCTURED, b'{"data": NaN}', 400),
    "huge-number": (STRUCTURED, b'{"data": 1e999}', 400),
    "nul": (STRUCTURED, b'{"data": "\\u0000"}', 400),
    "surrogate": (STRUCTURED, b'{"data": "\\ud800"}', 400),
    "not-utf8": (STRUCTURED, b'{"data": "\xff"}', 400),
    "bom": (STRUCTURED, b"\xef\xbb\xbf{}", 400),
    "deep": (STRUCTURED, b"[" * 100_000, 400),
    "long-integer": (STRUCTURED, b"9" * 5000, 400),
    "long-id": (STRUCTURED, _with(id="x" * 3000), 400),
    "ce-datacontenttype": ({**BINARY, "ce-datacontenttype": "text/plain"}, b"1", 400),
    "overlong-utf8": ({**BINARY, "ce-subject": "%C0%A0"}, b"1", 400),
    "binary-no-type": ({k: v for k, v in BINARY.items() if k != "ce-type"}, b"1", 400),
    "binary-bad-json": (BINARY, b"{", 400),
    "injected-header": ({**BINARY, "ce-subject": "a%0d%0ab"}, b"1", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_traps(api: House, unix: httpx.Client, name: str) -> None:
    """Each malformed event is refused with a reason, and nothing is stored."""
    headers, body, status = TRAPS[name]
    before = Views(api.store).events(limit=500)
    response = unix.post("/v1/events", content=body, headers=headers)

    assert response.status_code == status
    assert response.json()["detail"]
    assert Views(api.store).events(limit=500) == before


def test_too_long_is_refused_before_it_is_read(api: House) -> None:
    """413 by the announced length, and by what comes when none is announced."""
    with api.raw() as client:
        head = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GOOD}\r\n"
        client.sendall(f"{head}content-length: 99999999\r\n\r\n".encode())
        announced = client.recv(4096)
    with api.raw() as client:
        client.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
        unannounced = send_until_answered(client, chunk)

    assert announced.startswith(b"HTTP/1.1 413")
    assert unannounced.startswith(b"HTTP/1.1 413")


def test_a_busy_store_is_503(api: House, unix: httpx.Client) -> None:
    """What cannot be stored now is not acknowledged, and the producer is told when to come again."""
    api.inbox.failure = StoreBusy("the disk is full", after_seconds=2.2)
    response = unix.post("/v1/events", json=EVENT, headers=STRUCTURED)

    assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_options_grants_a_producer(unix: httpx.Client) -> None:
    """A producer of web hooks that asks for consent gets it."""
    response = unix.options("/v1/events", headers={"webhook-request-origin": "eventemitter.example.com"})

    assert response.headers["webhook-allowed-origin"] == "eventemitter.example.com"
    assert response.headers["webhook-allowed-rate"] == "*"
