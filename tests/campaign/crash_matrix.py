"""Kills the daemon at every crash point, on both databases; one line a pair, kept in docs/campaigns/crash-matrix.txt.

    python tests/campaign/crash_matrix.py                                        every pair
    python tests/campaign/crash_matrix.py --point transaction.crown.after_commit --database sqlite      one pair again

With RETRAIN_KEEP=FOLDER the installation of a pair that went wrong is kept there.
"""

from __future__ import annotations

import argparse
import functools
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import postgres
from tests.acceptance.matrix import DATABASES, Outcome, Pair, crash_all, nominal

LOG = ROOT / "docs" / "campaigns" / "crash-matrix.txt"


def main() -> int:
    """Run what is asked for; return 1 when a pair went wrong."""
    options = _options()
    databases = [options.database] if options.database else list(DATABASES)
    programs = postgres.find_programs() if "postgresql" in databases else None
    if programs is None and "postgresql" in databases:
        print("no PostgreSQL server programs found", file=sys.stderr)
        return 1

    @functools.cache
    def server() -> postgres.PostgresServer:
        assert programs is not None
        return postgres.start(programs)

    try:
        return _run(options, databases, server)
    finally:
        if server.cache_info().currsize:
            server().stop()


def _run(options: argparse.Namespace, databases: list[str], server: functools._lru_cache_wrapper) -> int:
    began = time.monotonic()
    lines: list[str] = []

    def say(line: object) -> None:
        print(line, flush=True)
        lines.append(str(line))

    say(f"# crash matrix, Python {platform.python_version()}, {' and '.join(databases)}")
    undisturbed = {database: nominal(database, server) for database in databases}
    pairs = [
        Pair(point, database)
        for database in databases
        for point in undisturbed[database].points
        if options.point in (None, point)
    ]
    if not pairs:
        print(f"the flow never reaches {options.point!r}", file=sys.stderr)
        return 1
    expected = {database: each.facts for database, each in undisturbed.items()}

    def told(outcome: Outcome) -> None:
        say(outcome)

    outcomes = crash_all(pairs, expected, server, said=told)
    wrong = sum(bool(outcome.problems) for outcome in outcomes)
    say(f"# {len(outcomes)} pairs, {wrong} went wrong, {time.monotonic() - began:.0f} s")
    if options.point is None and options.database is None:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        LOG.write_text("\n".join(lines) + "\n")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", help="only this crash point")
    parser.add_argument("--database", choices=DATABASES, help="only this database")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
