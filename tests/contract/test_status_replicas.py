"""What status says of the daemons on a database, by the database's clock, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.store import Store
from controller.store.views import Views
from controller.testing import ManualClock
from tests.factories import NOON, make_ids, make_new_event, make_replica

TTL = timedelta(seconds=15)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def store(database_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[Store]:
    store = Store.open(database_url, base=tmp_path, clock=clock, ids=make_ids(clock))
    store.upgrade()
    yield store
    store.close()


def show(store: Store, name: str, *, ago: float = 0.0, leads: bool = False, **fields: Any) -> datetime:
    """Let a replica have been seen so many seconds ago, and lead if it is to; return the database's time."""
    with store.transaction("show", fenced=False) as tx:
        now = tx.database_now()
        replica = make_replica(id=name, owner=name, seen_at=now - timedelta(seconds=ago), **fields)
        tx.replicas.show(replica)
        if leads:
            assert tx.replicas.take(replica, ttl=TTL, now=now - timedelta(seconds=ago)) is not None
        return now


def test_who_leads_and_who_is_gone(store: Store) -> None:
    """A replica is gone when it was not seen for fifteen seconds, and leads while its lease lasts."""
    show(store, "rep-1", ago=3, leads=True, report={"ready": False, "reasons": ["store: slow"], "waiting": 7})
    show(store, "rep-2", ago=20, report={"ready": True})
    status = Views(store).status()
    first, second = status["replicas"]

    assert status["leader"] is not None
    assert (status["leader"]["replica"], status["leader"]["is_over"]) == ("rep-1", False)
    assert status["leader"]["ends_in_seconds"] == pytest.approx(12, abs=2)
    assert (first["leads"], first["is_gone"], first["ready"]) == (True, False, False)
    assert (first["reasons"], first["waiting"]) == (["store: slow"], 7)
    assert first["seen_seconds_ago"] == pytest.approx(3, abs=2)
    assert (second["leads"], second["is_gone"], second["ready"]) == (False, True, None)


@pytest.mark.parametrize("how", ["ended", "given back"])
def test_nobody_leads(store: Store, how: str) -> None:
    """Of a lease that is over the last holder is named, and nobody leads."""
    show(store, "rep-1", ago=16 if how == "ended" else 0, leads=True)
    if how == "given back":
        with store.transaction("back", fenced=False) as tx:
            assert tx.replicas.give_back("rep-1", 1)
    status = Views(store).status()

    assert status["leader"] is not None
    assert status["leader"]["is_over"]
    assert [replica["leads"] for replica in status["replicas"]] == [False]
    with store.reading() as tx:
        assert tx.replicas.leading() is None


def test_the_only_daemon_need_not_be_seen(store: Store, clock: ManualClock) -> None:
    """Where one daemon has the lease for good, it is never called gone."""
    show(store, "rep-1", ago=3600)
    store.lead(owner="rep-1", host="tower", pid=1, replica="rep-1")
    clock.advance(3600)
    status = Views(store).status()

    assert status["leader"] is not None
    assert (status["leader"]["expires_at"], status["leader"]["ends_in_seconds"]) == (None, None)
    assert [(each["leads"], each["is_gone"], each["seen_seconds_ago"]) for each in status["replicas"]] == [
        (True, False, None)
    ]


def test_an_asker_whose_clock_is_wrong(store: Store, clock: ManualClock) -> None:
    """Replicas are compared with the database's clock, whoever asks."""
    if store.dialect == "sqlite":
        pytest.skip("there the clock of whoever asks is the database's")
    show(store, "rep-1", leads=True)
    clock.advance(timedelta(days=3))

    assert [each["is_gone"] for each in Views(store).status()["replicas"]] == [False]


def test_the_configuration_in_force(store: Store, clock: ManualClock) -> None:
    """It is the one that was activated last; a replica says which it has."""
    for version in ("c1", "c2"):
        clock.advance(1)
        with store.transaction("activate", fenced=False) as tx:
            tx.people.activate(version=version, body={}, actor="test", policies=())
    show(store, "rep-1", config_version="c1")
    show(store, "rep-2", config_version="c2")
    status = Views(store).status()

    assert status["config_in_force"] == "c2"
    assert [each["is_in_force"] for each in status["replicas"]] == [False, True]


def test_how_far_deciding_is_behind(store: Store, clock: ManualClock) -> None:
    """As long as the oldest event waits."""
    assert Views(store).status()["lag"] == {"events_seconds": 0.0, "timers": 0, "timers_seconds": 0.0}
    for number in (1, 2):
        with store.transaction("add", fenced=False) as tx:
            tx.events.add("api", [make_new_event(number)])
        clock.advance(30)

    assert Views(store).status()["lag"]["events_seconds"] == 60


def test_replicas_that_are_long_gone_are_forgotten(store: Store) -> None:
    """Only those that were not seen since."""
    now = show(store, "rep-1")
    show(store, "rep-2", ago=90_000)
    with store.transaction("forget", fenced=False) as tx:
        assert tx.replicas.forget(now - timedelta(days=1)) == 1

    assert [each["id"] for each in Views(store).status()["replicas"]] == ["rep-1"]
