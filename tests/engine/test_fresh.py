"""New events between inbox and evaluator: a saving that changes no decision, bounded, and never a message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from controller.clock import Ids
from controller.core.model import Event, NewEvent
from controller.engine import fresh
from controller.engine.fresh import Fresh
from controller.store import Store
from controller.store.intake import Prepared, prepare
from tests.engine.house import House

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def prepared(*events: NewEvent, ids: Ids) -> Prepared:
    return prepare("bus", events, domain=None, ids=ids, now=NOW)


def new(data: Any = None, **fields: Any) -> NewEvent:
    return NewEvent(source="/s", source_id=fields.pop("source_id", "1"), type="t", data=data, **fields)


@pytest.fixture
def store(house: House) -> Store:
    return house.store


@pytest.fixture
def ids(store: Store) -> Ids:
    return store.ids


@pytest.mark.parametrize(
    "data",
    [None, 0.1, -0.0, 1e308, 12345678901234567890123, "é\u2028", [], {}, {"a": [1, {"b": None}], "c": True}],
    ids=repr,
)
def test_what_is_kept_equals_what_the_store_would_give(store: Store, ids: Ids, data: Any) -> None:
    """An event taken from memory is the event that the store has, to the last field."""
    east = timezone(timedelta(hours=2))
    batch = prepared(new(data, subject="x", time=NOW.astimezone(east), extensions={"traceparent": "00"}), ids=ids)
    with store.transaction("inbox") as tx:
        tx.events.insert(batch)
    kept = Fresh()

    kept.keep(batch)
    with store.reading() as tx:
        (stored,) = tx.events.pending(10)
    taken = kept.take(batch.ids)

    assert taken == {stored.id: stored}
    assert repr(taken[stored.id]) == repr(stored)


@pytest.mark.parametrize("data", [(1, 2), {1: 2}, {"at": NOW}, [{"a": (1,)}]], ids=repr)
def test_what_json_would_change_is_left_to_the_store(ids: Ids, data: Any) -> None:
    """Data that do not come back from JSON as they went in are not kept."""
    kept = Fresh()

    kept.keep(prepared(new(data), new(source_id="2"), ids=ids))

    assert len(kept._events) == 1


def test_an_event_is_taken_once(ids: Ids) -> None:
    """What was taken is kept no longer."""
    kept, batch = Fresh(), prepared(new(), ids=ids)
    kept.keep(batch)

    first, again = kept.take(batch.ids), kept.take(batch.ids)

    assert list(first) == list(batch.ids)
    assert again == {}


def test_it_is_bounded_by_number_and_by_size(ids: Ids, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, whichever bound is reached; an event larger than all of it is never kept."""
    monkeypatch.setattr(fresh, "MOST_EVENTS", 3)
    monkeypatch.setattr(fresh, "MOST_TEXT", 100)
    by_number, by_size = Fresh(), Fresh()
    five = prepared(*(new(source_id=str(n)) for n in range(5)), ids=ids)
    large = prepared(*(new("x" * 45, source_id=str(n)) for n in range(3)), new("x" * 100, source_id="9"), ids=ids)

    by_number.keep(five)
    by_size.keep(large)

    assert list(by_number.take(five.ids)) == list(five.ids[2:])
    assert list(by_size.take(large.ids)) == list(large.ids[1:3])
    assert by_size._text == 0


def test_a_taken_event_is_an_event(ids: Ids) -> None:
    """Without a time of its own an event happened when it was received."""
    kept, batch = Fresh(), prepared(new({"a": 1}), ids=ids)
    kept.keep(batch)

    (event,) = kept.take(batch.ids).values()

    assert isinstance(event, Event)
    assert event.time == event.received_at == NOW
