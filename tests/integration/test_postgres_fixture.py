"""The throw-away server keeps what the tests rely on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from tests import postgres

if TYPE_CHECKING:
    from tests.postgres import PostgresServer


def fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE note (text text)")
        connection.execute("INSERT INTO note VALUES ('from the template')")


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY text")]


@pytest.mark.postgresql
def test_clones_are_isolated(postgres_server: PostgresServer) -> None:
    """What one test writes into its clone, another never sees."""
    first = postgres_server.create_database(fill)
    second = postgres_server.create_database(fill)

    with psycopg.connect(first) as connection:
        connection.execute("INSERT INTO note VALUES ('mine')")

    assert notes(first) == ["from the template", "mine"]
    assert notes(second) == ["from the template"]


@pytest.mark.postgresql
def test_a_template_is_closed_though_its_maker_left_a_connection_open(
    postgres_server: PostgresServer,
) -> None:
    """A callable that forgets a connection does not spoil the clones."""
    forgotten = []

    def forgetful(url: str) -> None:
        forgotten.append(psycopg.connect(url))
        fill(url)

    url = postgres_server.create_database(forgetful)

    assert notes(url) == ["from the template"]
    forgotten[0].close()


@pytest.mark.postgresql
def test_drop_ends_open_connections(postgres_server: PostgresServer) -> None:
    """A database is gone after its drop, even while somebody uses it."""
    url = postgres_server.create_database()

    with contextlib.closing(psycopg.connect(url)):
        postgres_server.drop(url)

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.postgresql
def test_the_server_is_durable_as_in_production(postgres_server: PostgresServer) -> None:
    """A commit is on disk: fsync and synchronous_commit are on."""
    with psycopg.connect(postgres_server.url("postgres")) as connection:
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit")]

    assert shown == [("on",), ("on",)]


def test_database_url_is_empty_and_usable(database_url: str) -> None:
    """Each test gets an empty database of the kind its id names."""
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        tables = sa.inspect(connection).get_table_names()
        connection.execute(sa.text("CREATE TABLE left_over (id integer)"))
    engine.dispose()

    assert tables == []


@pytest.mark.postgresql
def test_no_server_is_left_behind() -> None:
    """A stopped server has no process and no folder; stopping twice is no error."""
    programs = postgres.find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs")
    server = postgres.start(programs)

    server.stop()
    server.stop()

    assert server.process.poll() is not None
    assert not server.folder.exists()
