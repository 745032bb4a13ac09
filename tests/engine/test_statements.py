"""Every statement that the loops execute, not only those that somebody thought of, finds its rows by an index.

An installation with a past of thousands of rows lives through everything that loops do; what it asks of the database is written down, and
then the database is asked how it would find the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import DeadLetter, LedgerEntry, NewEvent
from controller.engine.doctor import Doctor
from controller.engine.janitor import EVERY
from controller.ports import Batch
from controller.store import Store
from controller.testing import ManualClock
from tests.contract.test_query_plans import fill, scans
from tests.engine.house import House
from tests.engine.watching import WATCH, fire
from tests.factories import NOON, make_ids
from tests.statements import listen

MINUTE = timedelta(minutes=1)
#: A policy of every kind that remembers, holds or counts.
POLICIES: dict[str, Any] = {
    "drift": {"on": {"type": "drift"}, "cooldown": {"period": "1m", "after_failure": "5m"}},
    "many": {"on": {"type": "row", "count": 3, "within": "1h", "by": "event.subject"}, "debounce": {"quiet": "1m"}},
    "mean": {"on": {"type": "point", "metric": {"agg": "avg", "value": "event.data.x", "over": "1h", "above": 5}}},
    "calm": {
        "on": {"type": "calm"},
        "cooldown": {"after": "promotion", "period": "1h"},
        "budget": {"runs": 2, "per": "1d"},
    },
    "stale": {"on": {"max_age": "30d"}},
    "unsure": {"on": {"type": "unsure"}, "breaker": {"after": 2}, "max_chain": 3},
}
#: What the story itself asks, to see where it is.
NOT_OF_A_LOOP = ("FROM run ORDER BY run.id", "FROM version ORDER BY version.id")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def old_house(request: pytest.FixtureRequest, tmp_path: Path, make_house: Callable[..., House]) -> House:
    """An installation with a past, on each database."""
    url = "sqlite:///retrain.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").create_database()
        with_tables(url)
    model = {"policies": {"drift": None, **POLICIES}, "watch": WATCH, "keep_artifacts": 1}
    house = make_house(store=url, model=model)
    with house.store.engine.begin() as connection:
        fill(connection, under_way=0)
        if request.param == "postgresql":  # which does it by itself; SQLite plans without, as it does for the daemon
            connection.exec_driver_sql("ANALYZE")
    house.clock.set_now(NOON + timedelta(days=40))
    return house


def with_tables(url: str) -> None:
    clock = ManualClock()
    store = Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))
    store.upgrade()
    store.close()


def overhear(house: House) -> dict[str, Any]:
    """Write down each statement that is executed from now on, with the parameters of its first execution."""
    heard: dict[str, Any] = {}

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            heard.setdefault(statement, parameters[0] if many else parameters)

    listen(house.store, hear)
    return heard


def live(house: House) -> None:
    """Live through what loops do: decide, hold, train, retry, judge, promote, watch, roll back, ask people, tell them, and tidy up."""
    doctor = Doctor(house.runtime, house.inbox.arrivals)
    house.champion(0.6)
    for number in range(4):
        house.send("row", subject="eu", id=f"row-{number}")
        house.send("point", data={"x": number * 4})
    house.send("row", id="row-1")  # once more
    fire(house, "k1")
    fire(house, "k1")
    house.send("calm")
    house.send("unsure")
    house.advance(2 * MINUTE)
    for auc in (0.7, 0.5):
        finish(house, auc)
    house.train()
    house.world.job("a").state = "failed"
    house.monitor.tick(house.now)
    house.advance(MINUTE)
    fire(house, "k1", state="resolved")
    fire(house, "slo", type="alert.slo", subject="churn")
    house.advance(MINUTE)
    house.retrain(key="press-1")
    house.settle()
    house.desk.cancel(house.runs()[-1].id, who="ann", reason="no")
    house.settle()
    letter = DeadLetter(place="line 1", body=b"{", size=1, reason="no JSON")
    house.inbox.put("files", Batch(events=[], dead=[letter], ledger=[LedgerEntry(key="a", value=1)]))
    house.inbox.tick(house.now)
    house.inbox.put("files", Batch(events=[NewEvent(source="/f", source_id="1", type="row")]))
    house.inbox.tick(house.now)
    for pause in (MINUTE, EVERY, timedelta(hours=2), timedelta(days=31)):
        house.advance(pause)
        doctor.tick(house.now)
        house.ticker.tick(house.now)


def finish(house: House, auc: float) -> None:
    """Let whatever trains end well."""
    for job in house.world.jobs.values():
        if job.state == "running":
            house.world.succeed("a", auc=auc, champion_auc=0.6)
            break
    house.settle()


def plan_of(house: House, statement: str, parameters: Any) -> str:
    prefix = "EXPLAIN QUERY PLAN" if house.store.dialect == "sqlite" else "EXPLAIN"
    with house.store.engine.connect() as connection:
        if house.store.dialect == "postgresql":
            # The tables are small for it: what is asked is whether there is another way than reading them whole.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        lines = connection.connection.cursor().execute(f"{prefix} {statement}", parameters).fetchall()
        return "\n".join(str(line[-1]) for line in lines)


def test_every_statement_of_the_loops_finds_its_rows_by_an_index(old_house: House) -> None:
    """No statement that a loop executes reads a table that grows with the past from end to end."""
    heard = overhear(old_house)
    live(old_house)

    whole = {
        statement: plan
        for statement, parameters in list(heard.items())
        if scans(plan := plan_of(old_house, statement, parameters))
        and not " ".join(statement.split()).endswith(NOT_OF_A_LOOP)
    }

    assert len(heard) > 100
    assert not whole, "\n\n".join(f"{statement}\n{plan}" for statement, plan in whole.items())
