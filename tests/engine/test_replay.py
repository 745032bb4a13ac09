"""Deciding what was recorded once more gives the same decisions, hash for hash, on either database."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from controller.engine.replay import Replayed, replay
from controller.errors import Conflict
from controller.store import schema
from controller.testing import ManualClock
from tests.engine.house import House
from tests.engine.test_backtest_live import MIXED, POLICIES, endings, every, happenings, model, policies
from tests.engine.walk import Happening, Live
from tests.factories import make_mark

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

MakeHouse = Callable[..., House]


def again(house: House, url: str | None = None) -> Replayed:
    """Replay what an installation recorded."""
    folder = Path(tempfile.mkdtemp(dir=house.folder))
    return replay(
        house.store, url or f"sqlite:///{folder / 'again.db'}", config=house.runtime.config, clock=ManualClock()
    )


def count_decisions(house: House) -> int:
    with house.store.reading() as tx:
        return int(tx.execute(sa.select(sa.func.count()).select_from(schema.decision)).scalar_one())


def assert_equal(house: House, found: Replayed) -> None:
    assert (found.recorded, found.replayed) == (None, None)
    assert found.decisions == count_decisions(house)


def eventful(house: House) -> None:
    """A day with everything in it: runs that end in all ways, a pause, a press, a rollback, another configuration, alerts."""
    live = Live(house, MIXED)
    live.tell(every(7, 12, data={"share": 0.6, "region": "eu"}), until=timedelta(hours=2))
    house.desk.pause("model", "churn", who="ann", reason="migration")
    Live(house, MIXED).tell(every(5, 4, data={"share": 0.9, "region": "us"}), until=timedelta(hours=1))
    house.desk.resume("model", "churn", who="ann", reason="over")
    house.settle()
    house.retrain(reason="because", key="k1")
    Live(house, MIXED).tell([], until=timedelta(hours=1))
    house.write(model=model(it={"on": {"type": "drift", "count": 2, "within": "1h"}}))
    house.desk.reload(who="ann")
    Live(house, MIXED).tell(every(9, 6, data={"share": 0.9, "region": "us"}), until=timedelta(hours=2))


@pytest.mark.parametrize("name", list(POLICIES))
def test_G04_each_policy_is_replayed(make_house: MakeHouse, name: str) -> None:
    """Whatever the policy."""
    house = make_house(model=model(it=POLICIES[name], other={"on": {"type": "file"}}))
    Live(house, MIXED).tell(
        every(3, 20, data={"share": 0.5, "region": "eu"}) + every(11, 5, type="file"), until=timedelta(hours=4)
    )

    found = again(house)

    assert_equal(house, found)
    assert found.events == 25


@pytest.mark.parametrize("concurrency", ["queue", "forbid", "replace", "allow"])
def test_G04_acts_and_configurations_are_replayed(make_house: MakeHouse, concurrency: str) -> None:
    """Pauses, presses and reloads happen again where they happened."""
    house = make_house(
        model=model(
            concurrency=concurrency,
            it={"on": {"type": "drift"}, "debounce": {"quiet": "4m"}},
            gone={"on": {"type": "drift"}, "debounce": {"quiet": "3d"}},
        )
    )
    eventful(house)

    assert_equal(house, again(house))


def test_alerts_are_replayed(make_house: MakeHouse) -> None:
    """Episodes that are opened, repeated, resolved and given up."""
    house = make_house(model=model(it={"on": {"type": "alert"}, "debounce": {"quiet": "10m"}}))
    marks = [make_mark("a"), make_mark("b", expire=600), make_mark("a", "resolved"), make_mark("b")]
    events = [
        Happening(after=timedelta(minutes=8 * n), type="alert", extensions=mark) for n, mark in enumerate(marks, 1)
    ]
    Live(house, MIXED).tell(events, until=timedelta(hours=30))

    assert_equal(house, again(house))


def test_a_decision_that_differs_is_shown(make_house: MakeHouse) -> None:
    """The first one, as it was and as it is now."""
    house = make_house(model=model(it={"on": {"type": "drift"}}))
    Live(house, MIXED).tell(every(7, 3), until=timedelta(hours=1))
    second = house.decisions()[1]
    with house.store.transaction("spoil") as tx:
        tx.execute(sa.update(schema.decision).where(schema.decision.c.id == second.id).values(reason="another"))

    found = again(house)

    assert not found.is_equal
    assert found.decisions == 1
    assert found.recorded is not None
    assert found.recorded["id"] == second.id
    assert found.recorded["reason"] == "another"
    assert found.replayed is not None
    assert found.replayed["reason"] == second.reason


def test_an_older_record_is_refused(make_house: MakeHouse) -> None:
    """Without the order in which things happened nothing is replayed, and it says why."""
    house = make_house(model=model(it={"on": {"type": "drift"}}))
    Live(house, MIXED).tell(every(7, 3), until=timedelta(hours=1))
    with house.store.transaction("age") as tx:
        tx.execute(sa.update(schema.history).values(after_seq=None))

    with pytest.raises(Conflict, match="behind which decision"):
        again(house)


@pytest.mark.postgresql
def test_G04_both_databases_decide_alike(make_house: MakeHouse, postgres_server: PostgresServer) -> None:
    """What was recorded on SQLite gives the same decisions on PostgreSQL."""
    house = make_house(model=model(it=POLICIES["both"], level=POLICIES["max-age"]))
    eventful(house)
    url = postgres_server.create_database()
    try:
        assert_equal(house, again(house, url))
    finally:
        postgres_server.drop(url)


@pytest.mark.timeout(300)
@settings(max_examples=15, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(configured=policies, other=policies, story=happenings, ends=endings)
def test_G04_any_record_is_replayed(
    empty_store: Path, scripted_plugins: None, configured: Any, other: Any, story: list[Any], ends: Any
) -> None:
    """Live = replay, for any policies and any events."""
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder), empty_store, model=model(a=configured, b=other))
        events = [
            Happening(after=timedelta(minutes=minute, microseconds=n + 1), type=kind, data=data, extensions=mark)
            for n, (minute, kind, data, mark) in enumerate(story)
        ]
        try:
            Live(house, ends).tell(events, until=timedelta(hours=3))
            assert_equal(house, again(house))
        finally:
            house.close()
