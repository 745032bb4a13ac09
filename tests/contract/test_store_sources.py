"""How sources were is kept, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.core.rhythm import Arrival, SourceStat
from controller.store import Store
from controller.testing import ManualClock
from tests.factories import NOON, make_ids, make_new_event, minutes

STAT = SourceStat(
    source="bus",
    since=NOON,
    stored=7,
    duplicates=3,
    dead=2,
    refused=1,
    last_event_id="evt-1",
    last_at=NOON + minutes(5),
    arrivals=(
        Arrival(at=NOON, count=4, delay_seconds=0.25),
        Arrival(at=NOON + minutes(5), count=3, delay_seconds=None),
    ),
    silent_since=NOON + minutes(5),
    quiet_seconds=12.5,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def store(database_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[Store]:
    store = Store.open(database_url, base=tmp_path, clock=clock, ids=make_ids(clock))
    store.upgrade()
    store.lead(owner="o", host="h", pid=1)
    yield store
    store.close()


def save(store: Store, *stats: SourceStat) -> None:
    with store.transaction("save") as tx:
        tx.sources.save(stats)


def test_what_is_saved_is_read(store: Store) -> None:
    """Every field comes back, with the instant of writing."""
    save(store, STAT, replace(STAT, source="landing", last_event_id=None, last_at=None, arrivals=(), silent_since=None))

    with store.reading() as tx:
        found = tx.sources.all()
        assert tx.sources.get("bus") == found["bus"]
        assert tx.sources.get("nobody") is None
    assert found["bus"] == replace(STAT, updated_at=NOON)
    assert found["landing"].heard_at is None


def test_saving_again_replaces_all_but_the_beginning(store: Store, clock: ManualClock) -> None:
    """`since` stays what it was first."""
    save(store, STAT)
    clock.advance(60)
    save(store, replace(STAT, stored=8, since=NOON + minutes(1), silent_since=None))

    with store.reading() as tx:
        assert tx.sources.get("bus") == replace(STAT, stored=8, silent_since=None, updated_at=NOON + minutes(1))


def test_a_lock_makes_rows_and_reads_them(store: Store, clock: ManualClock) -> None:
    """Whoever adds to a source's row reads it under a lock; one that was never heard of gets its row there."""
    save(store, STAT)
    clock.advance(60)
    with store.transaction("lock", fenced=False) as tx:
        found = tx.sources.lock(["new", "bus"])
        again = tx.sources.lock(["new"])

    assert found == {
        "bus": replace(STAT, updated_at=NOON),
        "new": SourceStat(source="new", since=NOON + minutes(1), updated_at=NOON + minutes(1)),
    }
    assert again == {"new": found["new"]}


def test_the_last_event(store: Store) -> None:
    """It is found by the id that was kept; one that is gone is None."""
    with store.transaction("add", fenced=False) as tx:
        (receipt,) = tx.events.add("bus", [make_new_event(type="drift")])
    save(store, replace(STAT, last_event_id=receipt.event_id), replace(STAT, source="gone", last_event_id="evt-0"))

    with store.reading() as tx:
        event = tx.sources.last_event("bus")
        assert event is not None
        assert (event.id, event.type) == (receipt.event_id, "drift")
        assert tx.sources.last_event("gone") is None
        assert tx.sources.last_event("nobody") is None


def test_dead_letters_are_counted_by_source(store: Store) -> None:
    """Events that could not be decided wait for a person, of their own source only."""
    with store.transaction("add") as tx:
        first, *_ = tx.events.add("bus", [make_new_event(source_id="1"), make_new_event(source_id="2")])
        (other,) = tx.events.add("api", [make_new_event(source_id="3")])
        for receipt in (first, other):
            tx.events.mark_dead(receipt.event_id, reason="bad")

    with store.reading() as tx:
        assert tx.sources.dead_letters("bus") == 1
        assert tx.sources.dead_letters("landing") == 0
