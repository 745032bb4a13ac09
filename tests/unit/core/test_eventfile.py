"""Events as lines of a file: what is written can be read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.eventfile import read_csv, read_jsonl, stored, to_line
from controller.errors import InvalidInput
from tests.factories import NOON, at, make_event

names = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C", "Z"]), min_size=1, max_size=20
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(
    data=values,
    kind=names,
    subject=st.none() | names,
    extensions=st.dictionaries(st.sampled_from(["traceparent", "team", "episode"]), names, max_size=3),
    minutes=st.integers(0, 10**6),
)
def test_what_is_written_is_read_again(data: Any, kind: str, subject: Any, extensions: Any, minutes: int) -> None:
    """Every attribute, who took it in, and when."""
    event = make_event(
        type=kind, subject=subject, data=data, extensions=extensions, origin="landing", time=at(minutes=-minutes)
    )

    (filed,) = read_jsonl([json.dumps(to_line(event)).encode()], name="f")
    again = stored(filed, 1)

    assert again == event


def test_a_line_of_anybody_counts_as_received_when_it_happened() -> None:
    """Without our marks it is the API's, at its own time; empty lines are passed over."""
    document = {"specversion": "1.0", "id": "1", "source": "/m", "type": "drift", "time": "2024-03-05T12:00:00Z"}

    (filed,) = read_jsonl([b"\n", json.dumps(document).encode(), b"  \n"], name="f")
    event = stored(filed, 1)

    assert (filed.line, event.origin, event.received_at, event.time) == (2, "api", NOON, NOON)


@pytest.mark.parametrize("received", ["noon", "2024-03-05T12:00:00", "7"])
def test_a_mark_that_is_no_instant_is_refused(received: str) -> None:
    """With the file and the line."""
    document = {"specversion": "1.0", "id": "1", "source": "/m", "type": "drift", "retrainreceived": received}

    with pytest.raises(InvalidInput, match="f:1: retrainreceived is"):
        list(read_jsonl([json.dumps(document).encode()], name="f"))


def test_csv_makes_a_payload_of_columns() -> None:
    """`data` is JSON, `data.x.y` a value in it; a cell that is no JSON is text, an empty one is not there."""
    lines = [
        "time,type,source,id,data,data.share,data.where.region,origin,received\n",
        '2024-03-05T12:00:00Z,drift,/m,1,"{""share"": 1, ""n"": [2]}",0.5,eu,landing,2024-03-05T12:00:01Z\n',
        "\n",
        "2024-03-05T12:00:00Z,drift,,,,,,,\n",
    ]

    full, bare = read_csv(lines, name="f")

    assert full.event.data == {"share": 0.5, "n": [2], "where": {"region": "eu"}}
    assert (full.origin, full.received_at) == ("landing", at(seconds=1))
    assert (full.event.source, full.event.source_id) == ("/m", "1")
    assert (bare.event.data, bare.event.source, bare.event.source_id, bare.origin) == (None, "/csv", "line-4", "api")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "f:1: the file is empty"),
        ("time,type,time\n", "f:1: a column is there twice"),
        ("type\n", "f:1: the column 'time' is missing"),
        ('time,type,data,data.x\n2024-03-05T12:00:00Z,a,"[1]",2\n', "f:2: data is list"),
        ("time,type,data.x,data.x.y\n2024-03-05T12:00:00Z,a,1,2\n", "lies in a value that is no object"),
        ('time,type\n2024-03-05T12:00:00Z,"a\n', "f:2: it is not CSV"),
    ],
    ids=["empty", "twice", "missing", "list", "path", "quote"],
)
def test_csv_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    """With the file and the line."""
    with pytest.raises(InvalidInput) as caught:
        list(read_csv(text.splitlines(keepends=True), name="f"))

    assert said in caught.value.message


def test_an_event_without_a_time_cannot_be_tried() -> None:
    """A backtest needs to know when."""
    document = {"specversion": "1.0", "id": "1", "source": "/m", "type": "drift"}
    (filed,) = read_jsonl([json.dumps(document).encode()], name="f")

    with pytest.raises(InvalidInput, match="line 1: the event has no time"):
        stored(filed, 1)
