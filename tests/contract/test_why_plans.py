"""What `why` asks of the database finds its rows by an index, or is bounded, however many events there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.api.why import why
from controller.store import Store, schema
from controller.store.columns import metadata
from controller.store.views import Views
from controller.testing import ManualClock
from tests.contract.test_query_plans import LEAF, fill, plans, scans
from tests.factories import NOON, make_ids, make_policy
from tests.story import make_spec

#: Tables that hold a row per source, model, configuration or version of a policy, and are read whole where all of it is wanted.
SMALL = {"source_stat", "model", "config_version", "pause"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A filled database in which many models remember something, and few hold anything."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('why') / 'retrain.db'}"
    else:
        url = request.getfixturevalue("postgres_server").create_database()
    clock = ManualClock(NOON)
    store = Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))
    number = sa.cast(sa.func.substr(schema.policy_state.c.key, 2), sa.Integer)
    with store.engine.begin() as connection:
        metadata.create_all(connection)
        fill(connection)
        change = sa.update(schema.policy_state)
        connection.execute(
            change.where(number % 10 > 0).values(model=sa.func.concat("m", sa.cast(number % 50, sa.Text)))
        )
        connection.execute(change.where(number % 20 > 0).values(stage=None))
        connection.exec_driver_sql("ANALYZE")
    if store.dialect == "postgresql":
        # The tables are small for it: what is asked is whether there is another way than reading them whole.
        sa.event.listen(
            store.engine, "begin", lambda connection: connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        )
    yield store
    store.close()


def specs() -> dict[str, Any]:
    fields = {name: getattr(make_spec(), name) for name in make_spec().__dataclass_fields__}
    policies = {"drift": LEAF, "other": make_policy(name="other")}
    return {"churn": type(make_spec())(**{**fields, "name": "churn", "policies": policies})}


#: What is asked for, of which key, and whether of an instant in the past.
QUESTIONS = {
    "an event": ("evt-000001", None, False),
    "an event as it was": ("evt-000001", None, True),
    "a run": ("run-0001", None, False),
    "a model": ("churn", None, False),
    "a model as it was": ("churn", None, True),
    "a policy": ("churn/drift", None, False),
    "a key": ("churn/drift", "k10", False),
    "a policy as it was": ("churn/drift", None, True),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_account_reads_no_table_that_grows_from_end_to_end(store: Store, name: str) -> None:
    """Every statement behind an account goes along an index."""
    thing, key, is_past = QUESTIONS[name]
    if thing.startswith("run"):
        thing = Views(store).runs(limit=1, before=None)["items"][0]["id"]

    def ask(tx: Any) -> None:
        del tx  # the account opens its own transactions on the same engine
        why(Views(store), thing, specs(), key=key, at=NOON if is_past else None)

    asked = plans(store, ask)

    assert len(asked) > 3
    for statement, plan in asked:
        assert [table for table in scans(plan) if table not in SMALL] == [], f"{statement}\n{plan}"
