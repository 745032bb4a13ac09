"""What a source hands over is what a policy sees: no value changes on its way through the statements that run for every event."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.core import strict_json
from controller.core.model import Json, NewEvent
from controller.store import Store, schema
from controller.store.dialect import make_engine
from controller.testing import ManualClock
from tests.factories import NOON, make_ids

#: Text that JSON from outside may hold: neither NUL nor half of a surrogate pair.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
#: As long as numbers from outside may be.
NUMBERS = st.integers(-(10**63), 10**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
EDGES: list[Json] = [
    0.1234567890123456,
    12345678901234567,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**63,
    0,
    -0.0,
    1e308,
    5e-324,
    2.2250738585072014e-308,
    1.0,
    1e22,
    True,
    None,
    "",
    "null",
    "0.10",
    "😀 é \u2028 \u200b \x7f \x01 \\ \" '",
    {"": {"ключ": ["值", {"\U0001f9ea": [[], {}, None]}]}},
    {"a\\b": '"', "t\tn\n": "\\u0041"},
]


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a database with our tables."""
    engine = make_engine(sa.make_url(database_url))
    schema.metadata.create_all(engine)
    engine.dispose()
    clock = ManualClock(NOON)
    store = Store.open(database_url, base=Path("/"), clock=clock, ids=make_ids(clock, 0))
    store.lead(owner="here", host="host", pid=1)
    yield store
    store.close()


class Journey:
    """Sends events through the store, one after the other, each under a new identity."""

    _numbers = itertools.count(1)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, sent: NewEvent) -> None:
        """Store an event, read it as the evaluator and as a person do, and compare."""
        with self._store.transaction("test") as tx:
            (receipt,) = tx.events.add(f"origin-{next(self._numbers)}", [sent])
        with self._store.transaction("test") as tx:
            (found,) = tx.events.pending(10)
            again = tx.events.get(receipt.event_id)
            tx.events.mark_processed([(found.id, next(self._numbers))])

        assert again == found
        assert (found.source, found.source_id, found.type, found.subject) == (
            sent.source,
            sent.source_id,
            sent.type,
            sent.subject,
        )
        assert exact([found.data, found.extensions]) == exact([sent.data, dict(sent.extensions)])


def exact(value: Json) -> str:
    """Return a value as text that tells 1 from 1.0 and from true, and 0.0 from -0.0; keys have no order."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{name!r}:{exact(item)}" for name, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(exact(item) for item in value) + "]"
    return repr(value)


def make(data: Json, *, text: str = "s", extensions: dict[str, Json] | None = None) -> NewEvent:
    return NewEvent(
        source=text or "s",
        source_id=text or "s",
        type=text or "t",
        subject=text,
        data=data,
        extensions=extensions or {},
    )


def test_edges(store: Store) -> None:
    """Values that number formats and encodings like to bend come back as they were sent, alone and within others."""
    send = Journey(store)
    for value in EDGES:
        text = value if isinstance(value, str) else "s"
        send(make(value, text=text))
        send(make({"value": [value]}, extensions={"value": value}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=VALUES, text=TEXT, extensions=st.dictionaries(TEXT, VALUES, max_size=2))
@example(data={"a": 10**63, "b": -0.0}, text="", extensions={})
def test_whatever_is_sent_is_what_is_read(store: Store, data: Json, text: str, extensions: dict[str, Json]) -> None:
    """Data, extensions and attributes are the same for whoever decides, and tell int from float."""
    send = getattr(store, "_journey", None) or Journey(store)
    send(make(data, text=text, extensions=extensions))


@pytest.mark.parametrize("depth", [1, strict_json.MAX_DEPTH])
def test_nesting(store: Store, depth: int) -> None:
    """What the door lets in, the store can hold: nesting up to its limit."""
    data: Json = strict_json.parse(b"[" * depth + b"1e-7" + b"]" * depth)

    Journey(store)(make(data))


def test_the_text_of_a_number_does_not_matter(store: Store) -> None:
    """A number is what the parser at the door read, however its sender wrote it."""
    for written in (b"1E2", b"100.0", b"1.0e+2"):
        Journey(store)(make(strict_json.parse(written), text=json.dumps(written.decode())))
