"""The daemon is killed at every point where it can be, and the end is the same.

Each point on one of the two databases here; all pairs in `make campaign` (`tests/campaign/crash_matrix.py`).
"""

from __future__ import annotations

import pytest

from tests.acceptance.matrix import DATABASES, Nominal, Pair, crash_all, nominal
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.postgresql]


@pytest.mark.timeout(900)
def test_the_end_is_the_same_whenever_the_daemon_dies(postgres_server: PostgresServer) -> None:
    """Killed once at each crash point and restarted: the same runs, verdicts, champion; each attempt started once."""
    undisturbed = {database: nominal(database, lambda: postgres_server) for database in DATABASES}
    sqlite, postgresql = (undisturbed[database] for database in DATABASES)
    assert sqlite.facts == postgresql.facts
    points = dict.fromkeys((*sqlite.points, *postgresql.points))
    pairs = [Pair(point, _database_for(point, number, undisturbed)) for number, point in enumerate(points)]

    outcomes = crash_all(
        pairs, {database: each.facts for database, each in undisturbed.items()}, lambda: postgres_server
    )

    assert len(outcomes) > 50, "fewer points than there were: the trace is broken"
    assert [str(outcome) for outcome in outcomes if outcome.problems] == []


def _database_for(point: str, number: int, undisturbed: dict[str, Nominal]) -> str:
    """Alternate, but only between databases on which the point was seen."""
    seen = [database for database in DATABASES if point in undisturbed[database].points]
    return seen[number % len(seen)]
