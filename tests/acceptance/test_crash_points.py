"""The daemon is killed at every point where it can be, and the end is the same.

Each point on one of the two databases here; all pairs in `make campaign` (`tests/campaign/crash_matrix.py`).
"""

from __future__ import annotations

import pytest

from tests.acceptance.matrix import DATABASES, Pair, crash_all, nominal
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.postgresql]


@pytest.mark.timeout(900)
def test_the_end_is_the_same_whenever_the_daemon_dies(postgres_server: PostgresServer) -> None:
    """Killed once at each crash point and restarted: the same runs, verdicts, champion; each attempt started once."""
    undisturbed = {database: nominal(database, lambda: postgres_server) for database in DATABASES}
    sqlite, postgresql = (undisturbed[database] for database in DATABASES)
    assert set(sqlite.points) == set(postgresql.points)
    assert sqlite.facts == postgresql.facts
    pairs = [Pair(point, DATABASES[number % 2]) for number, point in enumerate(sqlite.points)]

    outcomes = crash_all(
        pairs, {database: each.facts for database, each in undisturbed.items()}, lambda: postgres_server
    )

    assert len(outcomes) > 50, "fewer points than there were: the trace is broken"
    assert [str(outcome) for outcome in outcomes if outcome.problems] == []
