"""What the store promises of events and of what sources remember, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from controller.core.model import LedgerEntry
from controller.store import Store, intake, schema
from controller.testing import ManualClock
from tests.contract.store_rows import Count, history
from tests.factories import NOON, at, make_new_event


def test_G02_an_event_is_stored_once(store: Store, count: Count) -> None:
    """The same identity, within a batch or in another one, is one event; each time its receipt names it."""
    one, two = make_new_event(1), make_new_event(2)
    with store.transaction("test") as tx:
        first = tx.events.add("api", [one, two, one])
    with store.transaction("test") as tx:
        second = tx.events.add("api", [two, make_new_event(3), replace(one, data={"another": "body"})])

    assert [receipt.duplicate for receipt in first + second] == [False, False, True, True, False, True]
    assert first[2].event_id == second[2].event_id == first[0].event_id
    assert second[0].event_id == first[1].event_id
    assert count(schema.event) == 3


@pytest.mark.parametrize(
    "origin, domain, events",
    [
        pytest.param("api", None, 1, id="the same origin"),
        pytest.param("bus", None, 2, id="another origin cannot shadow it"),
        pytest.param("bus", "api", 1, id="another origin of the same domain"),
        pytest.param("api", "shared", 2, id="another domain"),
    ],
)
def test_G02_identity_is_origin_or_domain_source_and_id(
    store: Store, count: Count, origin: str, domain: str | None, events: int
) -> None:
    """One producer's ids do not stand in the way of another's, unless both say that they share them."""
    with store.transaction("test") as tx:
        tx.events.add("api", [make_new_event()])
        tx.events.add(origin, [make_new_event()], domain=domain)

    assert count(schema.event) == events


def test_events_whose_digests_are_equal_are_told_apart(
    store: Store, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collision of the 64-bit digest is no duplicate: the text decides; a redelivery finds its own event again."""
    monkeypatch.setattr(intake, "identity_of", lambda origin, source, source_id, salt=0: salt)
    events = [make_new_event(number) for number in range(4)]
    with store.transaction("test") as tx:
        first = tx.events.add("api", [*events, events[2]])
    with store.transaction("test") as tx:
        again = tx.events.add("api", list(reversed(events)))

    assert [receipt.duplicate for receipt in first] == [False] * 4 + [True]
    assert [receipt.event_id for receipt in again] == [receipt.event_id for receipt in reversed(first[:4])]
    assert all(receipt.duplicate for receipt in again)
    assert count(schema.event) == 4


def test_a_large_batch_of_mostly_known_events(store: Store, count: Count) -> None:
    """Batches may be longer than a statement's parameters; receipts keep the order."""
    events = [make_new_event(number) for number in range(1201)]
    with store.transaction("test") as tx:
        first = tx.events.add("api", events[:1200])
        second = tx.events.add("api", events)

    assert [receipt.event_id for receipt in second[:1200]] == [receipt.event_id for receipt in first]
    assert [receipt.duplicate for receipt in second] == [True] * 1200 + [False]
    assert count(schema.event) == 1201


def test_an_event_comes_back_as_it_went_in(store: Store) -> None:
    """Text of every language, nested data, its own time, extensions; without a time it is when it was received."""
    given = make_new_event(
        source_id="x'\"\\ä😀",
        subject="ü",
        time=at(minutes=-3, microseconds=7),
        data={"a": [1, 2.5, None, True, "é"]},
        extensions={"traceparent": "00-1"},
    )
    with store.transaction("test") as tx:
        tx.events.add("api", [given, make_new_event(2)])
    with store.reading() as tx:
        one, two = tx.events.pending(10)

    for name in ("source", "source_id", "type", "subject", "time", "data", "extensions"):
        assert getattr(one, name) == getattr(given, name)
    assert (one.received_at, one.origin, one.state) == (NOON, "api", "PENDING")
    assert two.time == NOON


def test_pending_events_are_found_in_the_order_of_storing_until_they_are_decided(store: Store) -> None:
    """What is decided or dead is no longer pending; the oldest that waits is known."""
    with store.transaction("test") as tx:
        receipts = tx.events.add("api", [make_new_event(number) for number in range(4)])
        tx.events.mark_processed([(receipts[0].event_id, 7)])
        tx.events.mark_processed([])
        tx.events.mark_dead(receipts[2].event_id, reason="KeyError: 'x'")
    with store.reading() as tx:
        pending = [event.id for event in tx.events.pending(10)]
        limited = [event.id for event in tx.events.pending(1)]
        done, dead = tx.events.get(receipts[0].event_id), tx.events.get(receipts[2].event_id)
        oldest = tx.events.oldest_pending()

    assert pending == [receipts[1].event_id, receipts[3].event_id]
    assert limited == pending[:1]
    assert oldest == NOON
    assert done is not None
    assert (done.state, done.decided_seq, done.decided_at) == ("PROCESSED", 7, NOON)
    assert dead is not None
    assert (dead.state, dead.error) == ("DEAD", "KeyError: 'x'")
    assert history(store, dead.id) == [("PENDING", "DEAD", "undecidable", "KeyError: 'x'", "controller", 1)]
    assert history(store, done.id) == []


def test_no_events_is_no_work(store: Store) -> None:
    """An empty batch gives no receipts, and an empty inbox has no oldest event."""
    with store.transaction("test") as tx:
        assert list(tx.events.add("api", [])) == []
        assert tx.events.oldest_pending() is None
        assert tx.events.get("evt-none") is None
        assert tx.events.of_run("run-none") == []


def test_a_source_remembers_by_key_and_forgets(store: Store) -> None:
    """The newest value counts, None forgets, and a prefix is a prefix: its case and its signs matter."""
    keys = ["a/1", "a/b", "A/1", "a-1", "a/😀", "a/\uffff", "b/1", "a/é", "a1", "a"]
    with store.transaction("test") as tx:
        tx.events.remember("files", [LedgerEntry(key=key, value={"of": key}) for key in keys])
        tx.events.remember("other", [LedgerEntry(key="a/1", value="theirs")])
    with store.transaction("test") as tx:
        tx.events.remember("files", [LedgerEntry(key="a/1", value=2), LedgerEntry(key="a/b", value=None)])
        tx.events.remember("files", [LedgerEntry(key="never", value=None)])
    with store.reading() as tx:
        slash, all_, none = (tx.events.recall("files", prefix) for prefix in ("a/", "", "zzz"))

    assert slash == {"a/1": 2, "a/😀": {"of": "a/😀"}, "a/\uffff": {"of": "a/\uffff"}, "a/é": {"of": "a/é"}}
    assert set(all_) == set(keys) - {"a/b"}
    assert none == {}


def test_an_event_is_read_as_it_was_written(store: Store) -> None:
    """The plain statements for new events and the expressions for old ones read the same record, whatever it holds."""
    rich = replace(
        make_new_event(1),
        subject="flüge",
        data={"share": 0.25, "list": [1, None, "\u2028"], "large": 2**53 + 1},
        extensions={"traceparent": "00-ab", "sequence": 7},
    )
    bare = replace(make_new_event(2), subject=None, data=None, time=None)
    with store.transaction("test") as tx:
        first, second = tx.events.add("api", [rich, bare])
    with store.reading() as tx:
        pending = {event.id: event for event in tx.events.pending(10)}
        read = {id_: tx.events.get(id_) for id_ in pending}

    assert pending == read
    assert (pending[first.event_id].data, pending[first.event_id].extensions) == (rich.data, rich.extensions)
    assert pending[second.event_id].data is None
    assert pending[second.event_id].time == pending[second.event_id].received_at


def test_rows_of_one_process_sort_in_the_order_of_making(store: Store, clock: ManualClock) -> None:
    """Also within one millisecond, and when somebody sets the clock back."""
    with store.transaction("test") as tx:
        first = tx.events.add("api", [make_new_event(number) for number in range(20)])
    clock.set_now(at(hours=-2))
    with store.transaction("test") as tx:
        second = tx.events.add("api", [make_new_event(number) for number in range(20, 30)])
    with store.reading() as tx:
        stored = [event.id for event in tx.events.pending(100)]

    assert stored == [receipt.event_id for receipt in first + second]
    assert all(one < two for one, two in pairwise(stored))
