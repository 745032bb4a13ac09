"""Whatever a record holds, it becomes events that a database can store, a dead letter, or nothing: decoding never fails otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import InvalidInput
from controller.sources.kafka.client import Record
from controller.sources.kafka.decode import Decoder
from controller.sources.kafka.options import KafkaOptions

_BASE: dict[str, Any] = {"bootstrap_servers": ["localhost:9092"], "topics": ["t"], "group_id": "g"}
_MAPPED = {"mapping": {"type": "'x'", "data": "body", "subject": "key"}, "format": "json"}


def decoder(**options: Any) -> Decoder:
    return Decoder(KafkaOptions.model_validate({**_BASE, **options}), lambda topic: f"id-of-{topic}")


def record(value: bytes | None, **more: Any) -> Record:
    fields = {"topic": "t", "partition": 0, "offset": 7, "timestamp": 0, "key": None, "headers": ()}
    return Record(**{**fields, "value": value, **more})


_TEXT = st.sampled_from(["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "content-type", "x"]) | st.text(
    max_size=5
)
_VALUES = (
    st.none()
    | st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)


@given(
    value=_VALUES,
    key=st.none() | st.binary(max_size=10),
    headers=st.lists(
        st.tuples(_TEXT, st.none() | st.binary(max_size=10) | st.sampled_from([b"1.0", b"application/cloudevents"])),
        max_size=6,
    ),
    timestamp=st.none() | st.integers(-(2**63), 2**63 - 1),
    options=st.sampled_from([{}, _MAPPED, {"mapping": _MAPPED["mapping"]}, {"tombstones": "event"}]),
)
def test_any_record_is_events_or_a_letter(
    value: bytes | None, key: bytes | None, headers: list[Any], timestamp: int | None, options: dict[str, Any]
) -> None:
    """Nothing but `InvalidInput` comes out of decoding, and a letter that is read again fails for the same reason."""
    reads = decoder(**options)
    one = record(value, key=key, headers=headers, timestamp=timestamp)

    decoded = reads.decode([one])

    assert len(decoded.events) + len(decoded.dead) + decoded.tombstones == 1
    for event in decoded.events:
        text = json.dumps([event.source, event.source_id, event.type, event.subject, event.data, event.extensions])
        text.encode()  # no half of a surrogate pair
        assert "\\u0000" not in text
    for letter in decoded.dead:
        json.dumps(letter.meta).encode()
        with pytest.raises(InvalidInput) as refused:
            reads.read_letter(letter)
        assert refused.value.message == letter.reason


@pytest.mark.parametrize("timestamp", [None, -1, 2**62])
def test_a_time_that_no_calendar_holds_is_none(timestamp: int | None) -> None:
    """Then the time of receipt counts."""
    value = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}'

    assert decoder().decode([record(value, timestamp=timestamp)]).events[0].time is None


def test_the_identity_of_plain_json_names_the_topic_by_its_id() -> None:
    """So that a topic of the same name made later has other identities."""
    (event,) = decoder(**_MAPPED).decode([record(b"1")]).events

    assert (event.source, event.source_id) == ("/kafka/t", "id-of-t/0/7")


def test_a_batch_of_items_is_several_events() -> None:
    """One record may hold a list."""
    mapping = {"items": "body", "type": "'x'", "data": "item"}

    events = decoder(mapping=mapping).decode([record(b"[1, 2]")]).events

    assert [(event.source_id, event.data) for event in events] == [("id-of-t/0/7#0", 1), ("id-of-t/0/7#1", 2)]
