"""What every test may ask for: a database on SQLite or PostgreSQL, and a marker by folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from tests import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

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
