"""What the event of a file says, on a real file system, and that any name will do."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.sources.files.names import escape_name, event_id, ledger_key
from tests.integration.landing import NOW, Landing


def test_a_file_is_an_event(landing: Landing) -> None:
    """It says where the file is, how large it is, what is in it, and when it was written."""
    path = landing.write("2013-01.csv", "hello")
    os.utime(path, ns=(0, int(datetime(2026, 2, 28, tzinfo=UTC).timestamp()) * 10**9))

    landing.scan()

    (event,) = landing.inbox.events
    assert event.source == "/sources/landing"
    assert event.source_id == "2013-01.csv#1"
    assert event.type == "file.arrived"
    assert event.subject == "2013-01.csv"
    assert event.time == datetime(2026, 2, 28, tzinfo=UTC)
    assert event.data == {
        "path": str(path),
        "name": "2013-01.csv",
        "size": 5,
        "mtime": "2026-02-28T00:00:00Z",
        "digest": f"sha256:{hashlib.sha256(b'hello').hexdigest()}",
        "generation": 1,
    }


@pytest.mark.parametrize(
    "mtime, expected",
    [
        (NOW + timedelta(days=400), NOW),
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(1969, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    ids=["future", "1970", "before 1970"],
)
def test_the_time_of_an_event_is_never_in_the_future(landing: Landing, mtime: datetime, expected: datetime) -> None:
    """The time is the mtime as far as it can be true; the data has it as it is."""
    path = landing.write("a.csv")
    os.utime(path, (mtime.timestamp(), mtime.timestamp()))

    landing.scan()

    (event,) = landing.inbox.events
    assert event.time == expected
    assert datetime.fromisoformat(event.data["mtime"]) == mtime


NAMES = [
    b"plain.csv",
    "größe.csv".encode(),
    b"latin-\xe4.csv",
    b"new\nline.csv",
    b"bell\x07.csv",
    b"100%.csv",
    b"%41.csv",
    b"%41\xff.csv",
    b"-rf",
    "\u202egnp.csv".encode(),
    "\u0085.csv".encode(),
    b"x" * 255,
    "…".encode() * 85,
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_name_will_do(landing: Landing, name: bytes) -> None:
    """Names are bytes: what cannot be carried as text is escaped, and unquoting gives the file, of any name."""
    (landing.root / os.fsdecode(name)).write_text("x")

    landing.scan()

    (event,) = landing.inbox.events
    assert event.subject is not None
    assert unquote_to_bytes(event.subject) == name
    assert Path(os.fsdecode(unquote_to_bytes(event.data["path"]))).read_text() == "x"
    assert landing.scan() == []


def test_names_that_look_alike_are_told_apart(landing: Landing) -> None:
    for name in (b"\xff", b"%FF", b"%25FF", b"a\nb", b"a%0Ab"):
        (landing.root / os.fsdecode(name)).write_text("same")

    assert len(set(landing.scan())) == 5


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
def test_every_name_is_escaped_so_that_it_can_be_undone(name: bytes) -> None:
    escaped = escape_name(os.fsdecode(name))

    assert unquote_to_bytes(escaped) == name
    escaped.encode("utf-8")


def test_ids_and_keys_are_bounded() -> None:
    """A path of 4,000 characters has an id and a key that an index can hold, and keeps its own."""
    long, other = "d/" * 2000 + "a", "d/" * 2000 + "b"

    assert len(event_id(long, 7)) < 500
    assert len(ledger_key(long)) < 300
    assert event_id(long, 7) != event_id(other, 7)
    assert ledger_key(long) != ledger_key(other)
