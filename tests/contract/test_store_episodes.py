"""What the store promises of episodes, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core import states
from controller.core.episode import Episode, read_mark
from controller.core.model import Event
from controller.errors import Conflict
from controller.store import Store, schema
from controller.store.dialect import make_engine
from controller.store.views import Views
from controller.testing import ManualClock
from tests.factories import (
    NOON,
    at,
    make_cause,
    make_episode,
    make_event,
    make_ids,
    make_mark,
    make_new_event,
    make_policy,
    make_state,
)

OVER: dict[str, Any] = {"state": "RESOLVED", "cause": "resolved", "finished_at": NOON, "expires_at": None}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def make_store(database_url: str, clock: ManualClock) -> Iterator[Callable[..., Store]]:
    """Make a store on the test's database, as another process would have it."""
    engine = make_engine(sa.make_url(database_url))
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
    engine.dispose()
    made: list[Store] = []

    def make(seed: int = 0) -> Store:
        made.append(Store.open(database_url, base=Path("/"), clock=clock, ids=make_ids(clock, seed)))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    store = make_store()
    store.lead(owner="here", host="host", pid=1)
    return store


def begin(store: Store, *episodes: Episode) -> None:
    with store.transaction("test") as tx:
        tx.episodes.begin(episodes)


def known(store: Store, key: str = "k", origin: str = "api") -> Episode:
    with store.reading() as tx:
        return tx.episodes.known([(origin, key)])[origin, key]


def path(store: Store, entity: str) -> list[tuple[str, str, str, str]]:
    table = schema.history
    with store.reading() as tx:
        rows = tx.execute(sa.select(table).where(table.c.entity == entity).order_by(table.c.seq))
        return [(row.origin, row.target, row.cause, row.reason) for row in rows]


def marks(*keys: str, origin: str = "api", expire: int = 60) -> dict[tuple[str, str], Any]:
    return {(origin, key): read_mark(make_mark(key, expire=expire)) for key in keys}


def test_what_begins_is_known_and_has_a_history(store: Store) -> None:
    """The row comes back as it was written, and its birth is recorded."""
    opened, over = make_episode(1), make_episode(2, key="l", subject="churn", event_id=None, **OVER)
    begin(store, opened, over)

    assert known(store) == opened
    assert known(store, "l") == over
    assert path(store, "epi-1") == [("", "OPEN", "opened", f"by {opened.event_id}")]
    assert path(store, "epi-2") == [("", "RESOLVED", "resolved", "before it was seen firing")]


def test_a_key_is_unique_within_its_origin(store: Store) -> None:
    """Another origin may have the same; the same one may not have it twice."""
    begin(store, make_episode(1), make_episode(2, origin="bus"))

    with store.reading() as tx:
        found = tx.episodes.known([("api", "k"), ("bus", "k"), ("api", "other")])
    assert {name: each.id for name, each in found.items()} == {("api", "k"): "epi-1", ("bus", "k"): "epi-2"}
    with pytest.raises(Conflict):
        begin(store, make_episode(3))


def test_thousands_of_keys_are_asked_for_at_once(store: Store) -> None:
    """No limit of a statement's parameters is in the way."""
    begin(store, *(make_episode(number, key=f"k{number}") for number in range(1200)))

    with store.reading() as tx:
        found = tx.episodes.known([("api", f"k{number}") for number in range(1300)])
        assert len(found) == 1200
        assert tx.episodes.known([]) == {}


def test_it_ends_once(store: Store, clock: ManualClock) -> None:
    """Whoever comes second finds that it is no longer open, and writes nothing."""
    begin(store, make_episode())
    opened = known(store)
    clock.advance(timedelta(hours=1))
    with store.transaction("test") as tx:
        tx.episodes.end(opened, target="RESOLVED", cause="resolved", reason="")
    over = known(store)

    assert (over.state, over.cause, over.finished_at, over.seen_at) == (
        "RESOLVED",
        "resolved",
        at(hours=1),
        at(hours=1),
    )
    assert path(store, "epi-1")[1:] == [("OPEN", "RESOLVED", "resolved", "")]
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.episodes.end(opened, target="EXPIRED", cause="expired", reason="")
    assert known(store) == over


def test_giving_it_up_is_no_sign_of_life(store: Store, clock: ManualClock) -> None:
    """`seen_at` keeps saying when it was last heard of."""
    begin(store, make_episode())
    clock.advance(timedelta(days=1))
    with store.transaction("test") as tx:
        tx.episodes.end(known(store), target="EXPIRED", cause="expired", reason="no sign of life for 1d")

    assert (known(store).state, known(store).seen_at, known(store).finished_at) == ("EXPIRED", NOON, at(days=1))


def test_a_sign_of_life_moves_open_episodes_only(store: Store, clock: ManualClock) -> None:
    """Those that are over, or of another origin, or unknown, are left alone; nothing is fenced, and no history written."""
    over = make_episode(2, key="l", **OVER)
    begin(store, make_episode(1), over, make_episode(3, origin="bus"))
    clock.advance(timedelta(hours=2))
    with store.transaction("test", fenced=False) as tx:
        tx.episodes.alive(marks("k", "l", "unknown"))
        tx.episodes.alive({})

    seen = replace(make_episode(1), seen_at=at(hours=2), expires_at=at(hours=2, minutes=1), expires_after_seconds=60)
    assert known(store) == seen
    assert known(store, "l") == over
    assert known(store, origin="bus") == make_episode(3, origin="bus")
    assert len(path(store, "epi-1")) == 1


def test_two_replicas_that_hear_the_same_repeats_do_not_block_each_other(
    store: Store, make_store: Callable[..., Store]
) -> None:
    """They write in one order of keys, whatever order they heard them in."""
    keys = [f"k{number}" for number in range(40)]
    begin(store, *(make_episode(number, key=key) for number, key in enumerate(keys)))
    failed: list[Exception] = []

    def repeat(mine: Store, heard: list[str]) -> None:
        try:
            for _ in range(15):
                with mine.transaction("test", fenced=False) as tx:
                    tx.episodes.alive(marks(*heard))
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    replicas = [(make_store(1), keys), (make_store(2), keys[::-1])]
    threads = [threading.Thread(target=repeat, args=replica) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []


def test_what_is_due(store: Store, clock: ManualClock) -> None:
    """Open episodes whose time has come, the longest overdue first, as many as are asked for; and when the next is due."""
    for number, hours in enumerate([3, 1, 2]):
        begin(store, make_episode(number, key=f"k{number}", expires_at=at(hours=hours)))
    begin(store, make_episode(9, key="over", **OVER))

    with store.transaction("test") as tx:
        assert tx.episodes.next_expiry() == at(hours=1)
        assert [each.key for each in tx.episodes.due(at(hours=2), 10)] == ["k1", "k2"]
        assert [each.key for each in tx.episodes.due(at(hours=5), 2)] == ["k1", "k2"]
        assert tx.episodes.due(at(minutes=59), 10) == []


def test_nothing_is_due_without_episodes(store: Store) -> None:
    """An installation without alerts has nothing to wait for."""
    with store.reading() as tx:
        assert tx.episodes.next_expiry() is None
        assert tx.episodes.open() == []


def test_one_that_lives_at_this_moment_is_not_given_up(store: Store, make_store: Callable[..., Store]) -> None:
    """A sign of life that is being written while the janitor looks wins; SQLite lets one write at a time anyway."""
    if store.dialect == "sqlite":
        pytest.skip("SQLite writes one transaction at a time")
    begin(store, make_episode(1, expires_at=NOON), make_episode(2, key="l", expires_at=NOON))

    with make_store(1).transaction("inbox", fenced=False) as living:
        living.episodes.alive(marks("k"))
        with store.transaction("expire") as tx:
            assert [each.key for each in tx.episodes.due(NOON, 10)] == ["l"]


def test_open_episodes(store: Store) -> None:
    """They come by origin or all, those first that live longest without another sign; the views have the same."""
    begin(
        store,
        make_episode(1, subject="churn"),
        make_episode(2, key="l", origin="bus", expires_at=at(days=2)),
        make_episode(3, key="over", **OVER),
    )

    with store.reading() as tx:
        assert [each.id for each in tx.episodes.open()] == ["epi-2", "epi-1"]
        assert [each.id for each in tx.episodes.open(limit=1)] == ["epi-2"]
        (mine,) = tx.episodes.open("api")
    assert (mine.type, mine.subject, mine.event_id) == ("drift", "churn", make_event(1).id)
    (shown,) = Views(store).episodes(origin="api")
    assert (shown["key"], shown["state"], shown["opened_at"]) == ("k", "OPEN", "2024-03-05T12:00:00Z")


OF_EVENT: dict[str, tuple[list[Episode], Event, str | None]] = {
    "its own origin's": (
        [make_episode(1, origin="bus"), make_episode(2)],
        make_event(7, extensions=make_mark()),
        "epi-2",
    ),
    "the one that it opened, in a shared domain": (
        [make_episode(1, origin="ha"), make_episode(7, origin="other")],
        make_event(7, extensions=make_mark()),
        "epi-7",
    ),
    "the only one, in a shared domain": (
        [make_episode(1, origin="ha")],
        make_event(7, extensions=make_mark(), state="PROCESSED"),
        "epi-1",
    ),
    "undecided, so of none": ([make_episode(1, origin="ha")], make_event(7, extensions=make_mark()), None),
    "unknown": ([make_episode(1)], make_event(7, extensions=make_mark("x")), None),
    "no mark": ([make_episode(1)], make_event(7), None),
    "a mark that cannot be read": ([make_episode(1)], make_event(7, extensions=make_mark(state="x")), None),
}


@pytest.mark.parametrize("episodes, event, expected", OF_EVENT.values(), ids=OF_EVENT)
def test_the_episode_of_an_event(store: Store, episodes: list[Episode], event: Event, expected: str | None) -> None:
    """It is found by the key, for `why`."""
    begin(store, *episodes)
    with store.reading() as tx:
        found = tx.episodes.of_event(event)

    assert (None if found is None else found.id) == expected
    assert Views(store).episode_of(event) == found


def test_what_holds_an_event(store: Store) -> None:
    """Holds are found by the event of one of their causes, with how many they have; a window that only counts is none."""
    holding, counting = make_policy(name="holding"), make_policy(name="counting")
    with store.transaction("test") as tx:
        receipts = tx.events.add("api", [make_new_event(1), make_new_event(2)])
        one, two = (make_cause(event_id=receipt.event_id) for receipt in receipts)
        for policy, stage in ((holding, "debounce"), (counting, None)):
            state = make_state(policy, stage=stage, held_count=2, slots={"count": [1, 2]})
            tx.policies.save_state(policy, "eu", state)
            tx.policies.collect("churn", policy.name, "eu", one)
            tx.policies.collect("churn", policy.name, "eu", two)
        found = tx.policies.holds_of(str(one.event_id))
        tx.policies.let_go("churn", "holding", "eu", str(one.event_id))

    assert [(model, name, key, state.stage, held) for model, name, key, state, held in found] == [
        ("churn", "holding", "eu", "debounce", 2)
    ]
    with store.reading() as tx:
        assert tx.policies.holds_of(str(one.event_id)) == []
        assert [cause.event_id for cause in tx.policies.collected("churn", "holding", "eu")] == [two.event_id]
        assert len(tx.policies.collected("churn", "counting", "eu")) == 2


def test_the_states_are_those_of_the_table(store: Store) -> None:
    """An episode that ended stays so: the table of states has no way back."""
    assert set(states.EPISODE.final) == {"RESOLVED", "EXPIRED"}
    begin(store, make_episode(1, **OVER))
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.episodes.end(known(store), target="EXPIRED", cause="expired", reason="")
