"""What records come to: CloudEvents, JSON by a mapping, dead letters; on a real broker, with either client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import DeadLetter
from controller.errors import InvalidInput
from controller.testing import MemoryInbox
from tests.integration.kafka_house import CLIENTS, House, cloud_event
from tests.kafka import KafkaBroker, send

MAPPING = {"type": "'data.arrived'", "subject": "body.model", "id": "body.uid"}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(kafka_broker: KafkaBroker, tmp_path: Path, client: str) -> House:
    house = House(kafka_broker, tmp_path, client)
    house.create()
    return house


def test_structured_events_keep_where_they_stood(house: House) -> None:
    """A structured event comes as it was sent, with topic, partition, offset, key and headers beside it."""
    sent = cloud_event(7, subject="churn", time="2026-05-01T12:00:00Z", partitionkey="own")
    headers = [("content-type", b"application/cloudevents+json; charset=UTF-8"), ("tenant", b"north")]
    house.broker.produce(house.topic, sent, key=b"k1", headers=headers)
    house.broker.produce(house.topic, cloud_event(8), key=b"k2", timestamp=1_767_225_600_000)

    house.run_until(lambda: len(house.inbox.events) == 2)

    first, second = house.inbox.events
    assert (first.source, first.source_id, first.type, first.subject) == ("/test", "7", "data.arrived", "churn")
    assert first.data == {"n": 7}
    assert first.time is not None
    assert first.time.isoformat() == "2026-05-01T12:00:00+00:00"
    assert first.extensions == {
        "kafkatopic": house.topic,
        "kafkapartition": 0,
        "kafkaoffset": 0,
        "kafkaheaders": '{"tenant": "north"}',
        "partitionkey": "own",
    }
    assert second.extensions["partitionkey"] == "k2"
    assert second.time is not None
    assert second.time.isoformat() == "2026-01-01T00:00:00+00:00"


def test_binary_events_are_read_from_headers(house: House) -> None:
    """Attributes come from `ce_` headers as they are, the value by its content type; no value is an event without data."""
    attributes = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/d%20x"), ("ce_type", b"drift.detected")]
    house.broker.produce(
        house.topic,
        b'{"score": 0.3}',
        headers=[
            *attributes,
            ("ce_subject", "größe".encode()),
            ("content-type", b"application/json"),
            ("ce_traceparent", b"00-1"),
        ],
    )
    more = [("ce_id", b"2") if name == "ce_id" else (name, value) for name, value in attributes]
    house.broker.produce(house.topic, b"\x00\xff", headers=[*more, ("content-type", b"application/avro")])
    house.broker.produce(
        house.topic, None, headers=[("ce_id", b"3") if n == "ce_id" else (n, v) for n, v in attributes]
    )

    house.run_until(lambda: len(house.inbox.events) == 3)

    json_event, bytes_event, empty_event = house.inbox.events
    assert (json_event.source, json_event.subject, json_event.data) == ("/d%20x", "größe", {"score": 0.3})
    assert json_event.extensions["traceparent"] == "00-1"
    assert json_event.extensions["datacontenttype"] == "application/json"
    assert (bytes_event.data, bytes_event.extensions["dataencoding"]) == ("AP8=", "base64")
    assert (empty_event.source_id, empty_event.data) == ("3", None)


def test_plain_json_becomes_an_event_by_a_mapping(house: House) -> None:
    """The mapping reads body, key, headers and topic; without an id the record's place is the identity."""
    mapping = {
        "type": "headers.kind",
        "subject": "key",
        "data": "{'model': body.model, 'topic': topic}",
    }
    house.broker.produce(house.topic, b'{"model": "churn"}', key=b"churn", headers=[("Kind", b"data.arrived")])
    house.broker.produce(house.topic, b'{"model": "fraud"}', key=b"\xff\xfe", headers=[("Kind", b"data.arrived")])
    house.broker.produce(house.topic, cloud_event(5))

    house.run_until(lambda: len(house.inbox.events) == 3, mapping=mapping)

    first, second, third = house.inbox.events
    topic_id = house.inbox.ledger[f"{house.topic}/0"]["topic_id"]
    assert (first.type, first.subject, first.source) == ("data.arrived", "churn", f"/kafka/{house.topic}")
    assert first.source_id == f"{topic_id}/0/0"
    assert first.data == {"model": "churn", "topic": house.topic}
    assert second.subject == "//4="
    assert third.source_id == "5"


def test_G02_a_mapped_id_makes_a_repeat_harmless(house: House) -> None:
    """Two records with the same mapped identity are one event."""
    for _ in range(2):
        house.broker.produce(house.topic, b'{"uid": 9007199254740993, "model": "m"}')
    house.broker.produce(house.topic, b'{"uid": 2, "model": "m"}')

    house.run_until(lambda: len(house.inbox.events) == 2, mapping=MAPPING, format="json")

    assert [event.source_id for event in house.inbox.events] == ["9007199254740993", "2"]
    assert len(house.inbox.duplicates) == 1


POISON: list[tuple[str, bytes | None, list[tuple[str, bytes]], str]] = [
    ("invalid UTF-8", b'{"a": "\xff"}', [], "not UTF-8"),
    ("bad JSON", b'{"a": ', [], "not JSON"),
    ("another schema", b'{"model": "churn"}', [], "no CloudEvent"),
    ("a missing attribute", b'{"specversion": "1.0", "id": "1", "type": "t"}', [], "'source' is missing"),
    ("Avro with a magic byte", b"\x00\x00\x00\x00\x07\x02", [], "not JSON"),
    ("deep nesting", b"[" * 5000 + b"]" * 5000, [], "nested deeper"),
    ("NUL", cloud_event(1, subject="a\x00b"), [], "NUL"),
    ("half of a surrogate pair", b'{"a": "\\ud800"}', [], "surrogate"),
    ("a huge number", b'{"a": ' + b"9" * 5000 + b"}", [], "digits"),
    ("NaN", b'{"a": NaN}', [], "NaN"),
    ("empty", b"", [], "empty"),
    ("another event format", b"x", [("content-type", b"application/cloudevents+avro")], "not understood"),
    ("a batch", b"[]", [("content-type", b"application/cloudevents-batch+json")], "not understood"),
    ("a header that is not UTF-8", b"{}", [("ce_id", b"\xff"), ("ce_type", b"t")], "header ce_id is not UTF-8"),
    ("an attribute twice", b"{}", [("ce_id", b"1"), ("ce_id", b"2")], "twice"),
    (
        "an old version",
        b"{}",
        [("ce_id", b"1"), ("ce_type", b"t"), ("ce_source", b"/s"), ("ce_specversion", b"0.3")],
        "0.3",
    ),
]


def test_G10_poison_becomes_dead_letters_and_stops_nothing(house: House) -> None:
    """What cannot be read is kept with its bytes and the reason; the next record is read."""
    for _, value, headers, _ in POISON:
        house.broker.produce(house.topic, value, key=b"\xffkey", headers=headers)
    house.produce(99)

    house.run_until(lambda: house.ids() == ["99"])

    letters = sorted(house.inbox.dead.values(), key=lambda letter: int(letter.meta["offset"]))
    assert len(letters) == len(POISON)
    for letter, (name, value, _, reason) in zip(letters, POISON, strict=True):
        assert reason in letter.reason, (name, letter.reason)
        assert letter.body == value, name
        assert letter.size == len(value or b"")
        assert letter.meta["key"] == "/2tleQ=="
        assert letter.place.startswith(f"{house.topic}/0/")
    assert house.position() == len(POISON) + 1


def test_a_dead_letter_is_read_again_with_other_options(house: House) -> None:
    """Once there is a mapping, the letter's events are what the record would have been."""
    house.broker.produce(house.topic, b'{"uid": "u1", "model": "churn"}', key=b"k", headers=[("h", b"1")])
    house.run_until(lambda: house.inbox.dead)
    letter = next(iter(house.inbox.dead.values()))

    with pytest.raises(InvalidInput, match="no mapping"):
        house.source().read_again(letter)
    events = house.source(mapping={**MAPPING, "data": "headers"}).read_again(letter)

    assert [(event.source_id, event.subject, event.data) for event in events] == [("u1", "churn", {"h": "1"})]
    assert events[0].extensions["partitionkey"] == "k"


def test_an_oversized_record_is_noted_without_its_body(house: House) -> None:
    """More than `max_record_bytes` is a dead letter with its size; it cannot be read again, and says so."""
    big = cloud_event(1, data="x" * (3 << 20))
    house.broker.produce(house.topic, big)
    house.produce(2)

    house.run_until(lambda: house.ids() == ["2"])

    letter = next(iter(house.inbox.dead.values()))
    assert (letter.body, letter.size) == (None, len(big))
    assert "at most 1,048,576" in letter.reason
    with pytest.raises(InvalidInput, match="cannot be read again"):
        house.source().read_again(letter)


def test_a_large_record_is_read_when_it_is_allowed(house: House) -> None:
    """A record beyond the clients' usual fetch size comes through."""
    house.broker.produce(house.topic, cloud_event(1, data="x" * (20 << 20)))

    house.run_until(lambda: house.ids() == ["1"], max_record_bytes=32 << 20)

    assert len(house.inbox.events[0].data) == 20 << 20


@pytest.mark.parametrize("mode", ["ignore", "event"])
def test_tombstones_are_counted_or_events(house: House, mode: str) -> None:
    """A record without a value is passed over and counted, or an event; either way the position moves."""
    house.broker.produce(house.topic, None, key=b"gone")
    house.produce(1)

    with house.running(tombstones=mode) as source:
        house.wait(lambda: "1" in house.ids())
        house.wait(lambda: source.report().get("tombstones") == (1 if mode == "ignore" else 0))

    kinds = [(event.type, event.subject) for event in house.inbox.events]
    assert kinds == ([("kafka.tombstone", "gone")] if mode == "event" else []) + [("data.arrived", None)]
    assert not house.inbox.dead


def test_null_keys_and_odd_headers(house: House) -> None:
    """No key is no `partitionkey`; headers without a value say nothing, and of several of one name the last is kept."""
    headers: list[tuple[str, bytes | None]] = [
        ("a", b"1"),
        ("a", b"2"),
        ("none", None),
        ("", b"nameless"),
        ("raw", b"\xff"),
    ]
    house.broker.produce(house.topic, cloud_event(1), headers=headers)
    house.broker.produce(house.topic, cloud_event(2), key=b"", headers=[])

    house.run_until(lambda: house.ids() == ["1", "2"])

    first, second = house.inbox.events
    assert "partitionkey" not in first.extensions
    assert json.loads(str(first.extensions["kafkaheaders"])) == {"a": "2", "": "nameless", "raw": "/w=="}
    assert second.extensions["partitionkey"] == ""
    assert "kafkaheaders" not in second.extensions


def test_aborted_transactions_are_not_seen(house: House) -> None:
    """Only what was committed is read, and what follows an aborted transaction is not held up."""
    producer = house.broker.producer(transactional_id=f"tx-{house.topic}")
    producer.init_transactions(20)
    for number, commits in ((1, True), (2, False), (3, True)):
        producer.begin_transaction()
        send(producer, house.topic, [cloud_event(number)], partition=0)
        producer.commit_transaction(20) if commits else producer.abort_transaction(20)
    house.produce(4)

    house.run_until(lambda: len(house.ids()) >= 3)

    assert house.ids() == ["1", "3", "4"]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches(house: House, codec: str) -> None:
    """Whatever producers compress with is read."""
    numbers = range(200)
    producer = house.broker.producer(compression_type=codec, linger_ms=50)
    send(producer, house.topic, [cloud_event(number) for number in numbers], partition=0)

    house.run_until(lambda: len(house.ids()) >= 200)

    assert house.ids() == [str(number) for number in numbers]


def test_one_record_that_the_store_refuses_becomes_a_dead_letter(house: House) -> None:
    """A store that says that a batch is malformed gets it in parts, until only the culprit is left."""
    inbox: MemoryInbox = house.inbox

    def emit(batch: Any) -> Any:
        if any(event.source_id == "6" for event in batch.events):
            raise InvalidInput("the store cannot take 6")
        return inbox.emit(batch)

    house.produce(*range(10))
    with house.running(house.source(emit)):
        house.wait(lambda: house.position() == 10)

    assert house.ids() == [str(number) for number in range(10) if number != 6]
    assert [(letter.meta["offset"], letter.reason) for letter in inbox.dead.values()] == [
        (6, "the store cannot take 6")
    ]


def test_what_people_see(house: House) -> None:
    """The last payload and the lag are noted, and the report says where everything stands."""
    house.produce(*range(5))

    with house.running() as source:
        house.wait(lambda: len(house.ids()) == 5)
        report = house.wait(lambda: source.report().get("positions") == {f"{house.topic}/0": 5} and source.report())

    assert report["assigned"] == [f"{house.topic}/0"]
    assert report["lag"] == {f"{house.topic}/0": 0}
    assert not report["halted"]
    assert house.inbox.notes["lag"] == 0
    assert house.inbox.notes["payload"] == cloud_event(4)


def test_a_letter_of_another_source_version_is_refused(house: House) -> None:
    """A body that was cut is not taken for the whole."""
    meta = {"topic": house.topic, "partition": 0, "offset": 3}
    with pytest.raises(InvalidInput, match="only 2 were kept"):
        house.source().read_again(DeadLetter(place="x", reason="", body=b"{}", size=9, meta=meta))
