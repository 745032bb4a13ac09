"""Takes the database away again and again while producers send, and compares what was acknowledged with what is stored.

    python tests/campaign/outages.py [--minutes 10] [--seed N]

Each time in another manner: killed and restarted, frozen, read-only, a locked table, cut connections. After each, everything must be back
within five seconds; in the end every acknowledged event is stored once, the daemon is the one that was started, and its threads did not
pile up.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from controller.store import schema
from tests import postgres
from tests.acceptance.harness import Installation
from tests.outages import Producers, resident_megabytes, thread_count
from tests.postgres import PostgresServer

BACK_WITHIN = 5.0
#: Seconds between two outages, and of one.
_PEACE, _OUTAGE = (5.0, 15.0), (0.5, 14.0)
_MODEL = {"policies": {"no": {"on": {"type": "other"}}}, "train": {"command": ["true"]}, "gate": {"require": ["true"]}}


@contextlib.contextmanager
def killed(server: PostgresServer, database: str) -> Iterator[None]:
    server.crash()
    yield
    server.restart()


@contextlib.contextmanager
def frozen(server: PostgresServer, database: str) -> Iterator[None]:
    server.freeze(frozen=True)
    yield
    server.freeze(frozen=False)


@contextlib.contextmanager
def read_only(server: PostgresServer, database: str) -> Iterator[None]:
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")
    yield
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def locked(server: PostgresServer, database: str) -> Iterator[None]:
    with psycopg.connect(server.url(database)) as holder:
        holder.execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
        yield
        holder.rollback()


@contextlib.contextmanager
def cut(server: PostgresServer, database: str) -> Iterator[None]:
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'retrain-controller'"
    )
    yield


MANNERS: dict[str, Callable[[PostgresServer, str], contextlib.AbstractContextManager[None]]] = {
    "killed": killed,
    "frozen": frozen,
    "read-only": read_only,
    "locked": locked,
    "cut": cut,
}


def play(there: Installation, server: PostgresServer, *, minutes: float, chance: random.Random) -> None:
    """Play outages for so long, and compare; raises `AssertionError`."""
    there.start()
    there.wait_ready()
    assert there.process is not None
    pid = there.process.pid
    database = there.database.rpartition("/")[2]
    backs: dict[str, list[float]] = {name: [] for name in MANNERS}
    ends = time.monotonic() + minutes * 60
    with Producers(there.socket, count=4) as producers:
        there.wait(lambda: len(producers.acknowledged()) > 200, what="a usual load")
        before = (thread_count(pid), resident_megabytes(pid))
        while time.monotonic() < ends:
            rest(there, chance.uniform(*_PEACE))
            name = chance.choice(sorted(MANNERS))
            with MANNERS[name](server, database):
                rest(there, chance.uniform(*_OUTAGE))
            backs[name].append(wait_back(there, producers))
            print(f"{name}: back after {backs[name][-1]:.2f} s", flush=True)
        after = (thread_count(pid), resident_megabytes(pid))
    compare(there, producers, backs)
    print(f"threads {before[0]} -> {after[0]}, memory {before[1]:.0f} -> {after[1]:.0f} MB")
    assert there.process.poll() is None, "the daemon ended"
    assert after[0] <= before[0] + 16, "threads piled up"


def rest(there: Installation, seconds: float) -> None:
    """Let so much time pass, and see that it lives meanwhile."""
    until = time.monotonic() + seconds
    there.wait(lambda: there.ask("GET", "/healthz").status == 200 and time.monotonic() > until, what="time", seconds=60)


def wait_back(there: Installation, producers: Producers) -> float:
    """Return the seconds until an event was acknowledged and everything is ready."""
    ended = time.monotonic()
    there.wait(lambda: producers.acknowledged(since=ended) and there.ready()["ready"], what="recovery", seconds=60)
    return time.monotonic() - ended


def compare(there: Installation, producers: Producers, backs: dict[str, list[float]]) -> None:
    """Compare what producers were told with what is stored, and say the counts."""
    rows = there.rows(sa.select(schema.event.c.source_id).where(schema.event.c.origin == "api"))
    stored = Counter(row[0] for row in rows)
    acknowledged = {answer.id for answer in producers.acknowledged()}
    missing, twice = acknowledged - set(stored), [id_ for id_, count in stored.items() if count > 1]
    slowest = max(answer.seconds for answer in producers.answers)
    outages = sum(map(len, backs.values()))
    print(
        f"{outages} outages, {len(producers.answers)} requests, {len(acknowledged)} acknowledged, "
        f"{len(missing)} missing, {len(twice)} twice, slowest answer {slowest:.1f} s"
    )
    assert not missing, sorted(missing)[:10]
    assert not twice, twice[:10]
    assert {answer.status for answer in producers.refused()} <= {503}
    assert slowest < 11.0
    late = {name: [round(each, 2) for each in values if each >= BACK_WITHIN] for name, values in backs.items()}
    assert not any(late.values()), f"back too late: {late}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    programs = postgres.find_programs()
    if programs is None:
        print("no PostgreSQL server programs (postgres, initdb) found", file=sys.stderr)
        return 1
    print(f"seed {options.seed}")
    server = postgres.start(programs)
    folder = Path(tempfile.mkdtemp(prefix="retrain-outages-"))
    there = Installation(folder, server.create_database())
    there.configure({"models": {"idle": _MODEL}})
    try:
        play(there, server, minutes=options.minutes, chance=random.Random(options.seed))
    finally:
        there.close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
