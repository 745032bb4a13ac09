"""How a message that is no CloudEvent becomes one, or is refused with what does not fit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.mapping import MAPPING_KEYS, load_mapping, read
from controller.core.model import EPISODE, EPISODE_STATE, Json, NewEvent
from controller.errors import ExpressionError, InvalidInput

BODY: dict[str, Any] = {
    "kind": "drift",
    "model": {"name": "churn", "rows": 2**53 + 1},
    "share": 0.4,
    "at": "2026-03-01T12:00:00Z",
    "found": [{"column": "age", "share": 0.5, "ok": True}, {"column": "income", "share": 0.1, "ok": False}],
}


def events(written: dict[str, str], body: Json = BODY, **given_: Any) -> list[NewEvent]:
    """Return what a message comes to."""
    return read(load_mapping(written), body=body, source="/bus", source_id="m1", **given_)


def one(written: dict[str, str], body: Json = BODY, **given_: Any) -> NewEvent:
    (event,) = events({"type": "'t'", **written}, body, **given_)
    return event


# ---------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    "written, message",
    [
        ({}, "a mapping needs `type`"),
        ({"subject": "body.model"}, "a mapping needs `type`"),
        ({"type": "'t'", "subjekt": "body"}, "a mapping has no key 'subjekt'\n  hint: did you mean 'subject'?"),
        ({"type": "'t'", "xyz": "body"}, "a mapping has no key 'xyz'\n  hint: known: items, accept, type"),
        ({"type": "'t'", "episode": "body.id"}, "`episode` and `state` go together"),
        ({"type": "'t'", "state": "'firing'"}, "`episode` and `state` go together"),
        ({"type": "bdy.kind"}, "type: unknown variable 'bdy' in 'bdy.kind'\n  hint: did you mean 'body'?"),
        ({"type": "'t'", "data": "body ."}, "data: 'body .' is not CEL"),
        ({"type": "'t'", "id": "sha256(body)"}, "id: unknown function 'sha256' in 'sha256(body)'"),
        ({"type": ""}, "type: '' is not CEL"),
    ],
    ids=["empty", "no type", "near", "far", "no state", "no episode", "variable", "syntax", "function", "blank"],
)
def test_what_is_refused_at_load(written: dict[str, str], message: str) -> None:
    """A wrong mapping is named with its key before any message comes."""
    with pytest.raises(ExpressionError) as refused:
        load_mapping(written)

    assert str(refused.value).startswith(message)


def test_it_is_written_as_it_was_read() -> None:
    """A mapping keeps its text, so that a configuration can be shown and compared."""
    written = dict.fromkeys(MAPPING_KEYS, "body.kind")

    assert load_mapping(written).written() == written
    assert load_mapping({"type": "'t'"}).written() == {"type": "'t'"}


# ------------------------------------------------------------------------------------------------------- attributes


def test_the_least_has_defaults() -> None:
    """Without more than a type: the whole body, the identity that the source offers, no subject and no time."""
    event = one({})

    assert (event.type, event.source, event.source_id) == ("t", "/bus", "m1")
    assert (event.subject, event.time, event.data, dict(event.extensions)) == (None, None, BODY, {})


def test_each_attribute_is_an_expression() -> None:
    """All that a mapping may say, over all that it may read."""
    event = one(
        {
            "type": "'data.' + body.kind",
            "source": "'/kafka/' + topic",
            "id": "headers['x-id']",
            "subject": "key.model",
            "time": "body.at",
            "data": "{'share': body.share, 'name': body.model.name}",
            "episode": "body.model.name",
            "state": "body.share > 0.3 ? 'firing' : 'resolved'",
        },
        headers={"x-id": "d-1"},
        key={"model": "churn"},
        topic="ml",
    )

    assert (event.type, event.source, event.source_id, event.subject) == ("data.drift", "/kafka/ml", "d-1", "churn")
    assert event.time == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert event.data == {"share": 0.4, "name": "churn"}
    assert event.extensions == {EPISODE: "churn", EPISODE_STATE: "firing"}


def test_a_path_keeps_large_numbers_exact() -> None:
    """A path is followed; every other expression is CEL, where numbers are doubles."""
    assert one({"data": "body.model.rows"}).data == 2**53 + 1
    assert one({"data": "{'rows': body.model.rows}"}).data == {"rows": float(2**53)}
    assert one({"id": "body.model.rows"}).source_id == str(2**53 + 1)


@pytest.mark.parametrize(
    "value, text",
    [
        ("a", "a"),
        ("  a ", "a"),
        (7, "7"),
        (7.0, "7"),
        (0.5, "0.5"),
        (-0.0, "0"),
        (1e22, str(10**22)),
        ("x" * 2048, "x" * 2048),
    ],
    ids=["text", "spaces", "int", "whole double", "double", "minus zero", "large", "longest"],
)
def test_what_is_text_for_an_attribute(value: Json, text: str) -> None:
    """Text without the space around it, and numbers as people write them."""
    assert one({"subject": "body.x"}, {"x": value}).subject == text


@pytest.mark.parametrize(
    "value, complaint",
    [
        (None, "type is None, not a text that says something"),
        (True, "type is True, not a text that says something"),
        (["a"], "type is ['a'], not a text that says something"),
        ({"a": 1}, "type is {'a': 1}, not a text that says something"),
        ("", "type is empty"),
        ("  ", "type is empty"),
        ("x" * 2049, "type has 2,049 characters, 2,048 are taken"),
        ("a\nb", "type 'a\\nb' holds a control character"),
        ("a\u202eb", "type 'a\\u202eb' holds a control character"),
        (["long"] * 100, "…, not a text that says something"),
    ],
    ids=["null", "bool", "list", "object", "empty", "space", "too long", "line break", "turned around", "shortened"],
)
def test_what_is_no_text_is_refused(value: Json, complaint: str) -> None:
    """No event with an attribute that says nothing or that would steer a terminal."""
    with pytest.raises(InvalidInput) as refused:
        events({"type": "body.x"}, {"x": value})

    assert complaint in refused.value.message


def test_only_a_subject_may_be_missing() -> None:
    """Null is no subject and no time; for other attributes it is an error."""
    nothing = {"x": None}

    assert one({"subject": "body.x"}, nothing).subject is None
    assert one({"time": "body.x"}, nothing).time is None
    assert one({"data": "body.x"}, nothing).data is None
    for name in ("source", "id"):
        with pytest.raises(InvalidInput, match=f"{name} is None"):
            one({name: "body.x"}, nothing)


@pytest.mark.parametrize(
    "value, instant",
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T13:00:00+01:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        (" 2026-03-01T12:00:00 ", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        (1772366400, datetime(2026, 3, 1, 12, tzinfo=UTC)),
        (1772366400.5, datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        (1772366400123, datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
    ids=[
        "RFC 3339",
        "with a zone",
        "without a zone",
        "a day",
        "seconds",
        "parts",
        "milliseconds",
        "zero",
        "before 1970",
    ],
)
def test_times(value: Json, instant: datetime) -> None:
    """An instant in words or in numbers; without a zone it is UTC."""
    assert one({"time": "body.x"}, {"x": value}).time == instant


@pytest.mark.parametrize(
    "value, complaint",
    [
        ("tomorrow", "time 'tomorrow' is no instant"),
        ("", "time '' is no instant"),
        ("0001-01-01T00:00:00+14:00", "is no instant"),
        (10**30, "is no instant"),
        (True, "time is True, neither text nor a number"),
        ([1], "time is [1], neither text nor a number"),
    ],
    ids=["words", "empty", "before the year 1", "too large", "bool", "list"],
)
def test_what_is_no_time_is_refused(value: Json, complaint: str) -> None:
    """A time that makes no sense is not replaced by now."""
    with pytest.raises(InvalidInput) as refused:
        one({"time": "body.x"}, {"x": value})

    assert complaint in refused.value.message


def test_a_timestamp_of_cel_is_a_time() -> None:
    """CEL may compute the instant."""
    event = one({"time": "timestamp(body.at) + duration('60s')"})

    assert event.time == datetime(2026, 3, 1, 12, 1, tzinfo=UTC)


# ------------------------------------------------------------------------------------------------- what is accepted


def test_what_is_not_accepted_is_no_event() -> None:
    """`accept` decides by message, or by item; null and numbers are no answer."""
    assert events({"type": "'t'", "accept": "body.share > 0.9"}) == []
    assert len(events({"type": "'t'", "accept": "body.share > 0.3"})) == 1
    accepted = events({"type": "'t'", "items": "body.found", "accept": "item.ok", "subject": "item.column"})
    assert [event.subject for event in accepted] == ["age"]
    with pytest.raises(InvalidInput, match=r"accept gave 0\.4, which is neither true nor false"):
        events({"type": "'t'", "accept": "body.share"})


def test_a_state_is_one_of_two() -> None:
    """An alert fires or is resolved; another word would leave it open for ever."""
    assert one({"episode": "'k'", "state": "'resolved'"}).extensions[EPISODE_STATE] == "resolved"
    with pytest.raises(InvalidInput, match="state is 'ok', neither 'firing' nor 'resolved'"):
        one({"episode": "'k'", "state": "'ok'"})


# ------------------------------------------------------------------------------------------------------------ items


def test_each_item_is_an_event() -> None:
    """In order, each with its own data and a number behind the message's identity."""
    found = events({"type": "'t'", "items": "body.found", "subject": "item.column"})

    assert [event.source_id for event in found] == ["m1#0", "m1#1"]
    assert [event.subject for event in found] == ["age", "income"]
    assert [event.data for event in found] == BODY["found"]
    assert events({"type": "'t'", "items": "body.x"}, {"x": []}) == []


def test_the_number_is_the_place_in_the_message() -> None:
    """What is not accepted keeps its number, so a redelivery has the same identities when more is accepted."""
    accepted = events({"type": "'t'", "items": "body.found", "accept": "!item.ok"})

    assert [event.source_id for event in accepted] == ["m1#1"]


@pytest.mark.parametrize(
    "items, body, complaint",
    [
        ("body.x", {"x": {"a": 1}}, "the mapping does not fit: items is {'a': 1}, not a list"),
        ("body.x", {"x": None}, "the mapping does not fit: items is None, not a list"),
        ("body.x", {}, "the mapping does not fit: 'body.x': the data has no field 'x'"),
        ("body.x", [], "the mapping does not fit: 'body.x': the data has no field 'x'"),
        ("body.x", {"x": list(range(10_001))}, "10,001 items in one message, 10,000 are taken"),
        ("body.x", {"x": [{"a": "1"}, {"b": 2}]}, "item 1: the mapping does not fit: 'item.a': the data has no field"),
        ("body.x", {"x": [{"a": "1"}, {"a": []}]}, "item 1: the mapping does not fit: type is [], not a text"),
    ],
    ids=["object", "null", "missing", "body is a list", "too many", "an item lacks it", "an item has it otherwise"],
)
def test_what_is_wrong_with_items(items: str, body: Json, complaint: str) -> None:
    """One item that does not fit refuses the message: a half of it would be a loss that nobody sees."""
    with pytest.raises(InvalidInput) as refused:
        events({"type": "item.a", "items": items}, body)

    assert refused.value.message.startswith(complaint)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3),
    max_leaves=8,
)


@given(
    body=ANY, path=st.sampled_from(["body", "body.a", "body.a.b", "body.x"]), name=st.sampled_from(sorted(MAPPING_KEYS))
)
def test_any_body_is_events_or_refused(body: Json, path: str, name: str) -> None:
    """Whatever comes in: events whose attributes are text, or `InvalidInput`; never another exception."""
    written = {
        "type": "'t'",
        **({"episode": "'k'", "state": "'firing'"} if name in ("episode", "state") else {}),
        name: path,
    }
    try:
        found = events(written, body)
    except InvalidInput:
        return

    assert all(event.type and event.source and event.source_id for event in found)
    assert all(event.time is None or event.time.tzinfo is UTC for event in found)
