"""Rows of replicas and of the lease, on both databases: one holder at a time, terms that rise, instants by the database's clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from controller.core.replica import Replica
from controller.store import Store
from controller.store.store import StaleTerm, Term
from controller.testing import ManualClock
from tests.factories import make_replica

TTL = timedelta(seconds=15)
MakeStore = Callable[..., Store]


def take(store: Store, replica: Replica, *, later: timedelta = timedelta()) -> int | None:
    """Take the lease as if it were later by the database's clock."""
    with store.transaction("seek", fenced=False, reserved=True) as tx:
        term = tx.replicas.take(replica, ttl=TTL, now=tx.database_now() + later)
    if term is not None:
        store.term = Term(number=term, owner=replica.owner)
    return term


def renew(store: Store, replica: Replica, term: int) -> bool:
    with store.transaction("renew", fenced=False, reserved=True) as tx:
        return tx.replicas.renew(replica.id, term, ttl=TTL, now=tx.database_now())


def test_G03_a_lease_is_held_by_one_until_it_ends(make_store: MakeStore) -> None:
    """While it lasts nobody else gets it; once it ended, the next one does, with a higher term."""
    one, two = make_store(seed=1), make_store(seed=2)
    first, second = make_replica(id="rep-1"), make_replica(id="rep-2")
    term = take(one, first)

    assert term is not None
    assert take(two, second) is None
    assert take(two, second, later=TTL + timedelta(seconds=1)) == term + 1
    assert renew(one, first, term) is False


def test_G03_whoever_was_replaced_writes_nothing_any_more(make_store: MakeStore) -> None:
    """A fenced transaction of a former term fails, whatever its replica believes."""
    one, two = make_store(seed=1), make_store(seed=2)
    take(one, make_replica(id="rep-1"))
    take(two, make_replica(id="rep-2"), later=TTL + timedelta(seconds=1))

    with pytest.raises(StaleTerm), one.transaction("decide") as tx:
        tx.people.add_pause(scope="all", target="", actor="ann", reason="")
    with two.transaction("decide") as tx:
        assert tx.people.pauses() == []


def test_a_lease_that_ended_and_that_nobody_took_goes_on(make_store: MakeStore) -> None:
    """After an outage of the database its leader need not be another."""
    store, replica = make_store(), make_replica()
    term = take(store, replica)

    assert term is not None
    with store.transaction("renew", fenced=False) as tx:
        tx.replicas.renew(replica.id, term, ttl=-TTL, now=tx.database_now())
    assert renew(store, replica, term) is True
    assert take(store, replace(replica, id="rep-other")) is None


def test_a_lease_that_was_given_back_is_free_at_once(make_store: MakeStore) -> None:
    """Giving it back twice does nothing, and its term is never used again."""
    store, replica = make_store(), make_replica()
    term = take(store, replica)

    assert term is not None
    for expected in (True, False):
        with store.transaction("give_back", fenced=False) as tx:
            assert tx.replicas.give_back(replica.id, term) is expected
    assert take(store, replica) == term + 1


def test_who_is_alone_takes_the_lease_from_anybody_and_for_good(make_store: MakeStore) -> None:
    """Where only one daemon can run, a lock says who that is, and its lease does not end."""
    one, two = make_store(seed=1), make_store(seed=2)
    take(one, make_replica(id="rep-1"))
    two.lead(owner="there", host="tower", pid=2, replica="rep-2")

    with two.reading() as tx:
        holding = tx.replicas.holding()
        assert holding is not None
        assert (holding.replica, holding.expires_at) == ("rep-2", None)
        assert not holding.is_over(tx.database_now() + timedelta(days=365))
    assert take(one, make_replica(id="rep-1"), later=timedelta(days=365)) is None


def test_replicas_show_themselves_and_say_goodbye(make_store: MakeStore) -> None:
    """What a replica says again replaces what it said, but for when it started."""
    store = make_store()
    first, second = make_replica(id="rep-1", owner="here"), make_replica(id="rep-2", owner="there")
    again = replace(first, seen_at=first.seen_at + TTL, started_at=first.seen_at + TTL, report={"ready": False})
    with store.transaction("show", fenced=False) as tx:
        for replica in (first, second, again):
            tx.replicas.show(replica)

    with store.reading() as tx:
        assert tx.replicas.all() == [replace(again, started_at=first.started_at), second]
        assert tx.replicas.of_owner("there") == second
        assert tx.replicas.of_owner("nowhere") is None
    with store.transaction("leave", fenced=False) as tx:
        tx.replicas.leave("rep-1")
        assert tx.replicas.all() == [second]


def test_the_database_s_clock_is_the_one_that_counts(make_store: MakeStore, clock: ManualClock) -> None:
    """A replica whose own clock is a day ahead sees the same instant as the others."""
    others = ManualClock(clock.now())
    one, two = make_store(seed=1, database_clock=others), make_store(seed=2, database_clock=others)
    clock.advance(timedelta(days=1))
    with one.reading() as tx:
        first = tx.database_now()
    with two.reading() as tx:
        second = tx.database_now()

    assert timedelta() <= second - first < timedelta(minutes=1)
    assert clock.now() - second >= timedelta(hours=23) or one.dialect == "postgresql"
