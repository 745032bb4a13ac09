"""A store on SQLite and on PostgreSQL, for the files that say what it promises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from controller.store import Store, schema
from controller.store.dialect import make_engine
from controller.testing import ManualClock
from tests.contract.store_rows import Count
from tests.factories import NOON, make_ids

if TYPE_CHECKING:
    from tests.postgres import PostgresServer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(scope="session")
def shared_database(postgres_server: PostgresServer) -> Iterator[str]:
    """One PostgreSQL database for all these tests: making one takes longer than most of them."""
    url = postgres_server.create_database()
    make_tables(url)
    yield url
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def schema_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with our tables, empty, once on each of the two."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'retrain.db'}"
        make_tables(url)
        yield url
        return
    url = request.getfixturevalue("shared_database")
    yield url
    with connected(url) as connection:
        for table in schema.metadata.sorted_tables:
            connection.execute(sa.delete(table))


@contextlib.contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = make_engine(sa.make_url(url))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def make_tables(url: str) -> None:
    with connected(url) as connection:
        schema.metadata.create_all(connection)


@pytest.fixture
def make_store(schema_url: str, clock: ManualClock) -> Iterator[Callable[..., Store]]:
    """Make a store on the test's database, as another process would have it; `seed` keeps their ids apart."""
    made: list[Store] = []

    def make(*, seed: int = 0, **options: Any) -> Store:
        store = Store.open(schema_url, base=Path("/"), clock=clock, ids=make_ids(clock, seed), **options)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """A store with our schema, that leads."""
    store = make_store()
    store.lead(owner="here", host="host", pid=1)
    return store


@pytest.fixture
def count(store: Store) -> Count:
    def rows(table: sa.Table) -> int:
        with store.reading() as tx:
            return int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    return rows
