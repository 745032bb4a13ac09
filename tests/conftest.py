"""What every test may ask for: a database on SQLite or PostgreSQL, and a marker by folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from tests import postgres, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kafka import KafkaBroker
    from tests.objectstore import ObjectServer
    from tests.postgres import PostgresServer

TESTS = Path(__file__).parent
#: Folders whose tests carry the marker of the same name.
MARKED_FOLDERS = frozenset({"acceptance", "contract", "engine", "integration", "migration", "simulation", "unit"})
#: Values of the variable CI that mean no.
NO = frozenset({"", "0", "false", "no"})

# A shared machine stalls now and then; the time-out per test finds what hangs.
settings.register_profile("retrain", deadline=None, print_blob=True)
settings.load_profile("retrain")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


def missing_server(reason: str) -> NoReturn:
    """Skip on a laptop, fail in CI: a test that never runs there proves nothing."""
    if os.environ.get("CI", "").lower() in NO:
        pytest.skip(reason)
    pytest.fail(f"{reason}; with CI set this is a failure", pytrace=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server of this session's own."""
    programs = postgres.find_programs()
    if programs is None:
        missing_server("no PostgreSQL server programs (postgres, initdb) found")
    server = postgres.start(programs)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    """The program of Prometheus."""
    program = prometheus.find(prometheus.PROMETHEUS)
    if program is None:
        missing_server("no Prometheus found (Debian: apt install prometheus)")
    return program


@pytest.fixture(scope="session")
def alertmanager_program() -> str:
    """The program of Alertmanager."""
    program = prometheus.find(prometheus.ALERTMANAGER)
    if program is None:
        missing_server("no Alertmanager found (Debian: apt install prometheus-alertmanager)")
    return program


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server that speaks S3, of this session's own; each test makes buckets of its own."""
    from tests.objectstore import ObjectServer

    server = ObjectServer()
    server.start(objects=2_600)
    yield server
    server.close()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """A real Kafka broker of this session's own; each test makes topics and groups of its own."""
    from tests import kafka

    if (reason := kafka.missing()) is not None:
        missing_server(reason)
    broker = kafka.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh, empty database, once on each of the two."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'retrain.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop(url)
