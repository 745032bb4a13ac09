"""Outages of the database, seen from outside: producers are told to come again, nothing acknowledged is lost, and it passes by itself.

Each story is the same: producers send all the time, the database goes away in its own manner, and comes back. What differs is the manner.
Longer ones are played by `tests/campaign/outages.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from controller.store import schema
from tests import postgres
from tests.acceptance.harness import DaemonGone, Installation
from tests.acceptance.test_faults import run_daemon
from tests.conftest import missing_server
from tests.outages import GIVE_UP_SECONDS, Producers, SlowWire, fill, resident_megabytes, small_disk, thread_count
from tests.postgres import PostgresServer

#: An answer comes within the deadline of intake (9 s), and a moment for a busy machine.
LONGEST_ANSWER = 11.0
#: Everything works again so soon after the cause is gone.
BACK_WITHIN = 5.0

pytestmark = pytest.mark.timeout(150)

_CONFIG: dict[str, Any] = {
    "sources": {"landing": {"type": "files", "path": "landing", "settle": "0s", "scan_every": "1s"}},
    "models": {
        "idle": {
            "policies": {"no": {"on": {"type": "other"}}},
            "train": {"command": ["true"]},
            "gate": {"require": ["true"]},
        }
    },
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder on the machine's own disk."""
    path = Path(tempfile.mkdtemp(prefix="retrain-outage-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own: they end it, freeze it and fill it."""
    programs = postgres.find_programs()
    if programs is None:
        missing_server("no PostgreSQL server programs (postgres, initdb) found")
    found = postgres.start(programs)
    yield found
    found.stop()


@pytest.fixture
def there(folder: Path, server: PostgresServer) -> Iterator[Installation]:
    """An installation on PostgreSQL, configured, with nothing running."""
    with installed(folder, server.create_database()) as installation:
        yield installation


@pytest.fixture
def on_sqlite(folder: Path) -> Iterator[Installation]:
    """An installation on SQLite, configured, with nothing running."""
    with installed(folder, None) as installation:
        yield installation


@contextlib.contextmanager
def installed(folder: Path, database: str | None) -> Iterator[Installation]:
    """An installation, and its end."""
    installation = Installation(folder, database)
    (folder / "landing").mkdir()
    installation.configure(_CONFIG)
    yield installation
    installation.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an outage came to."""

    #: Answers during the outage.
    refused: int
    #: Codes that readiness gave meanwhile.
    codes: set[str]
    #: Seconds from the end of the cause until an event was acknowledged and everything was ready.
    back_after: float


def suffer(
    there: Installation,
    begin: Callable[[], object],
    end: Callable[[], object],
    *,
    seconds: float = 3.0,
    back_within: float = BACK_WITHIN,
) -> Outcome:
    """Play the story, and assert what holds in every outage: G1, G7, G15."""
    codes: set[str] = set()
    with Producers(there.socket) as producers:
        there.wait(lambda: producers.acknowledged(), what="an acknowledged event")
        before = threads(there)
        begin()
        began = time.monotonic()
        there.drop_file("meanwhile.csv")
        there.wait(lambda: look(there, codes) and time.monotonic() - began > seconds and codes, what="the outage")
        there.wait(lambda: producers.refused(since=began), what="a refusal")
        at_most = threads(there)
        end()
        ended = time.monotonic()

        def is_back() -> bool:
            return bool(producers.acknowledged(since=ended)) and bool(there.ready()["ready"])

        there.wait(is_back, what="recovery", seconds=60)
        back_after = time.monotonic() - ended
        there.wait(lambda: "meanwhile.csv" in stored_files(there), what="the file that came meanwhile", seconds=5)
    refused = producers.refused()

    assert {answer.status for answer in refused} == {503}
    assert all(answer.retry_after is not None and int(answer.retry_after) >= 1 for answer in refused)
    assert max(answer.seconds for answer in producers.answers) < LONGEST_ANSWER
    assert {answer.id for answer in producers.acknowledged()} <= stored_ids(there)
    assert back_after < back_within, f"it took {back_after:.1f} s"
    assert at_most - before <= 12, (
        f"{before} threads became {at_most}"
    )  # those of the API, which come when they are needed
    return Outcome(refused=len(refused), codes=codes, back_after=back_after)


def look(there: Installation, codes: set[str]) -> bool:
    """Ask how it is: alive at any time, at once, with reasons that have codes and an age."""
    began = time.monotonic()
    health = there.ask("GET", "/healthz")
    report = there.ready()
    assert health.status == 200, health
    assert time.monotonic() - began < 3.0
    for complaint in report["complaints"]:
        assert complaint["since"]
        codes.add(complaint["code"])
    return True


def threads(there: Installation) -> int:
    assert there.process is not None
    return thread_count(there.process.pid)


def stored_ids(there: Installation) -> set[str]:
    return {row[0] for row in there.rows(sa.select(schema.event.c.source_id).where(schema.event.c.origin == "api"))}


def stored_files(there: Installation) -> str:
    return " ".join(
        str(row[0]) for row in there.rows(sa.select(schema.event.c.subject).where(schema.event.c.origin == "landing"))
    )


def start(there: Installation) -> None:
    there.start()
    there.wait_ready()


# ------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.crash
def test_G07_a_database_that_is_down_at_the_start(there: Installation, server: PostgresServer) -> None:
    """The process lives, says why it is not ready, refuses with 503, and is ready within 5 s of the database's return (DB-01)."""
    server.crash()
    there.start()

    there.wait(lambda: unready(there) == {"store.down"}, what="the complaint")
    assert there.ask("GET", "/healthz").status == 200
    refused = Producers(there.socket).send("early")
    server.restart()
    began = time.monotonic()
    there.wait(lambda: unready(there) == set(), what="readiness")

    assert time.monotonic() - began < BACK_WITHIN
    assert (refused.status, refused.retry_after) == (503, "5")
    assert Producers(there.socket).send("later").status == 202


def has_more(producers: Producers, count: int) -> bool:
    return len(producers.acknowledged()) > count


def unready(there: Installation) -> set[str] | None:
    """The codes of what is wrong; None while there is no answer."""
    with contextlib.suppress(DaemonGone):
        return {complaint["code"] for complaint in there.ready()["complaints"]}
    return None


@pytest.mark.crash
def test_G15_a_database_that_dies_and_comes_back(there: Installation, server: PostgresServer) -> None:
    """Killed under load, away for three seconds, and started again (DB-02)."""
    start(there)

    outcome = suffer(there, server.crash, server.restart)

    assert "store.down" in outcome.codes


@pytest.mark.crash
def test_G15_a_database_that_only_reads(there: Installation, server: PostgresServer) -> None:
    """It is refused as clearly as one that is away, and no loop spins (DB-09)."""
    start(there)

    def only_reads(*, wanted: str) -> None:
        server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {wanted}")
        server.execute("SELECT pg_reload_conf()")

    def back() -> None:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")

    outcome = suffer(there, lambda: only_reads(wanted="on"), back)

    assert "store.read_only" in outcome.codes
    assert there.log().count("store.busy") < 200


@pytest.mark.crash
def test_G15_a_table_that_is_locked(there: Installation, server: PostgresServer) -> None:
    """Whoever waits for the lock gives up after three seconds; health, and what needs another table, goes on (DB-07)."""
    start(there)
    with psycopg.connect(server.url(there.database.rpartition("/")[2])) as holder:
        outcome = suffer(
            there, lambda: holder.execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE"), holder.rollback, seconds=8
        )

    assert "store.locked" in outcome.codes


@pytest.mark.crash
def test_G15_a_server_that_is_frozen(there: Installation, server: PostgresServer) -> None:
    """A server that takes connections and never answers costs each producer its deadline at the most, and later nothing (DB-06)."""
    start(there)

    outcome = suffer(there, lambda: server.freeze(frozen=True), lambda: server.freeze(frozen=False), seconds=13)

    assert "store.slow" in outcome.codes


@pytest.mark.crash
def test_G15_a_database_that_takes_two_seconds_a_statement(folder: Path, server: PostgresServer) -> None:
    """No loop counts as dead, intake answers within its deadline, and what was acknowledged is stored (DB-06)."""
    url = server.create_database()
    wire = SlowWire(server.port)
    with installed(folder, url.replace(f":{server.port}/", f":{wire.port}/")) as there:
        start(there)
        with Producers(there.socket) as producers:
            there.wait(producers.acknowledged, what="an acknowledged event")
            wire.delay = 2.0
            began = time.monotonic()
            there.wait(lambda: time.monotonic() - began > 20 and look(there, set()), what="a while")
            wire.delay = 0.0
            ended = time.monotonic()
            there.wait(lambda: producers.acknowledged(since=ended) and there.ready()["ready"], what="recovery")
            back_after = time.monotonic() - ended

        assert {answer.status for answer in producers.refused()} <= {503}
        assert max(answer.seconds for answer in producers.answers) < LONGEST_ANSWER
        assert {answer.id for answer in producers.acknowledged()} <= stored_ids(there)
        assert back_after < BACK_WITHIN + 2.0  # one statement is still on its way
    wire.close()


@pytest.mark.crash
def test_G15_connections_that_are_cut(there: Installation, server: PostgresServer) -> None:
    """Sessions that the server ends in the middle of their work are made anew; nothing is half stored (DB-03)."""
    start(there)
    with Producers(there.socket) as producers:
        for _ in range(5):
            known = len(producers.acknowledged())
            there.wait(partial(has_more, producers, known + 20), what="more events")
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'retrain-controller'"
            )
        there.wait(lambda: there.ready()["ready"], what="readiness", seconds=BACK_WITHIN)

    assert {answer.status for answer in producers.refused()} <= {503}
    assert {answer.id for answer in producers.acknowledged()} <= stored_ids(there)


@pytest.mark.crash
def test_G15_five_hundred_slow_questions(there: Installation, server: PostgresServer) -> None:
    """They wait for each other and are told to come again; neither intake nor the loops notice (DB-08)."""
    start(there)
    with (
        psycopg.connect(server.url(there.database.rpartition("/")[2])) as holder,
        Producers(there.socket, count=2) as producers,
    ):
        there.wait(producers.acknowledged, what="an event to ask about")
        asked = producers.acknowledged()[0].id
        holder.execute("LOCK TABLE decision IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with ThreadPoolExecutor(100) as people:
            questions = [people.submit(there.ask, "GET", f"/v1/why/{asked}") for _ in range(500)]
            answers = Counter(question.result(GIVE_UP_SECONDS + 5).status for question in questions)
        meanwhile = sorted(answer.seconds for answer in producers.acknowledged(since=began))
        report = there.ready()
        holder.rollback()

    assert answers == {503: 500}
    assert report["ready"], report
    assert producers.refused(since=began) == []
    assert meanwhile[int(len(meanwhile) * 0.95)] < 1.0
    assert there.ask("GET", f"/v1/why/{asked}").status == 200


@pytest.mark.crash
def test_G15_a_full_disk_of_the_database_server(folder: Path) -> None:
    """Refusals while there is no room, and everything back within 10 s of room again (DB-10)."""
    programs = postgres.find_programs()
    if programs is None:
        missing_server("no PostgreSQL server programs (postgres, initdb) found")
    with disk(160) as small:
        small.chmod(0o755)
        crowded = postgres.start(programs, within=small)
        with installed(folder, crowded.create_database()) as there:
            start(there)
            ballast: list[Path] = []
            outcome = suffer(
                there, lambda: ballast.append(fill(small)), lambda: ballast[0].unlink(), seconds=2, back_within=10
            )
        crowded.stop()

    assert outcome.codes & {"store.full", "store.down", "store.failing"}


# ----------------------------------------------------------------------------------------------------- SQLite


@contextlib.contextmanager
def disk(megabytes: int) -> Iterator[Path]:
    """A small disk; skipped at home, and a failure in CI, where none can be made."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(small_disk(megabytes))
        except PermissionError as error:
            missing_server(f"no file system can be mounted here: {error}")
        yield path


@pytest.mark.crash
def test_G15_a_full_disk(folder: Path) -> None:
    """SQLite on a disk without room: refusals, then everything back by itself; the database is whole (DB-11, FI-17)."""
    with disk(24) as small, installed(folder, f"sqlite:///{small / 'retrain.db'}") as there:
        start(there)
        ballast: list[Path] = []
        outcome = suffer(
            there, lambda: ballast.append(fill(small)), lambda: ballast[0].unlink(), seconds=2, back_within=10
        )
        assert there.terminate() == 0
        with contextlib.closing(sqlite3.connect(small / "retrain.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    assert "store.full" in outcome.codes


@pytest.mark.crash
def test_G15_a_database_that_another_process_locks(on_sqlite: Installation) -> None:
    """Whoever waits for the lock gives up in time, and goes on when it is gone (DB-15)."""
    there = on_sqlite
    start(there)
    with contextlib.closing(sqlite3.connect(there.folder / "retrain.db", isolation_level=None, timeout=10)) as holder:
        outcome = suffer(
            there, lambda: holder.execute("BEGIN EXCLUSIVE"), lambda: holder.execute("ROLLBACK"), seconds=12
        )

    assert "store.locked" in outcome.codes


def test_G15_a_folder_that_cannot_be_written(folder: Path) -> None:
    """The daemon does not start, and says in one line what it cannot write; it exits as for a wrong configuration (DB-16, FI-17)."""
    with disk(1) as small:
        there = Installation(folder, f"sqlite:///{small / 'retrain.db'}")
        there.configure(_CONFIG)
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        refused = run_daemon(there)
        there.configure({**_CONFIG, "store": f"sqlite:///{folder / 'other.db'}", "state_dir": str(small / "state")})
        stateless = run_daemon(there)

    assert (refused.returncode, stateless.returncode) == (78, 78)
    assert f"the folder {str(small)!r} cannot be written" in refused.stderr
    assert "state' cannot be written: Read-only file system" in stateless.stderr
    assert "Traceback" not in refused.stderr + stateless.stderr


@pytest.mark.crash
def test_G01_a_disk_that_does_not_sync(on_sqlite: Installation) -> None:
    """Nothing is acknowledged or written any more, the process ends on purpose, and the next one reads what is there (DB-12)."""
    there = on_sqlite
    strace = shutil.which("strace")
    if strace is None:
        missing_server("no strace found (Debian: apt install strace)")
    start(there)
    assert there.process is not None
    first = Producers(there.socket).send("first")
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]
    command += ["-e", "inject=fdatasync,fsync:error=EIO", "-p", str(there.process.pid)]
    with subprocess.Popen(command, start_new_session=True) as tracer:
        there.wait(lambda: is_traced(there), what="strace")
        lost = Producers(there.socket).send("lost")
        code = there.process.wait(30)
        tracer.terminate()

    assert first.status == 202
    assert lost.status in (0, 500, 503)
    assert code == 70
    assert "can no longer be trusted" in there.log()
    there.start()
    there.wait_ready()
    assert "first" in stored_ids(there)
    assert Producers(there.socket).send("again").status == 202


def is_traced(there: Installation) -> bool:
    assert there.process is not None
    return "TracerPid:\t0" not in Path(f"/proc/{there.process.pid}/status").read_text()


# ---------------------------------------------------------------------------------------------------- process


@pytest.mark.crash
def test_G15_ten_times_the_load(on_sqlite: Installation) -> None:
    """More producers than can be served: the others are told to come again and counted, memory stays bounded, nothing is lost (WH-17)."""
    there = on_sqlite
    start(there)
    assert there.process is not None
    with Producers(there.socket, count=4, pause=0.0, size=20_000) as some:
        there.wait(lambda: len(some.answers) > 200, what="a usual load")
    usual = resident_megabytes(there.process.pid)
    began = time.monotonic()
    with Producers(there.socket, count=40, pause=0.0, size=20_000) as many:
        there.wait(lambda: time.monotonic() - began > 8, what="ten times the load")
        crowded = resident_megabytes(there.process.pid)
        accepted = sorted(answer.seconds for answer in many.acknowledged())
        there.wait(lambda: there.ask("GET", "/healthz").status == 200, what="health", seconds=3)

    assert crowded - usual < 150
    assert accepted[int(len(accepted) * 0.99)] < 1.0
    assert {answer.status for answer in many.refused()} <= {503}
    assert {answer.id for answer in many.acknowledged()} <= stored_ids(there)


@pytest.mark.crash
def test_G15_few_open_files(on_sqlite: Installation) -> None:
    """With 64 descriptors and more connections than that, those that are too many are turned away, and the daemon goes on (LC-06)."""
    there = on_sqlite
    there.start(preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    there.wait_ready()
    with Producers(there.socket, count=80, pause=0.0) as many:
        there.wait(lambda: len(many.acknowledged()) > 300, what="events")
    there.wait(lambda: there.ready()["ready"], what="readiness", seconds=BACK_WITHIN)

    assert {answer.status for answer in many.refused()} <= {0, 503}
    assert {answer.id for answer in many.acknowledged()} <= stored_ids(there)
    assert there.terminate() == 0


@pytest.mark.crash
def test_G15_a_log_that_nobody_reads(on_sqlite: Installation) -> None:
    """Standard error is a full pipe: no loop waits for it, and what was said meanwhile is there once somebody reads again (LC-04)."""
    there = on_sqlite
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    there.start(preexec=lambda: (os.dup2(writing, 2), None)[1])
    os.close(writing)
    assert there.process is not None
    there.wait_ready()
    for number in range(40):
        there.configure({**_CONFIG, f"mistake{number}": 1})
        assert there.ask("POST", "/v1/reload", {}).status == 422  # a line each time, and more than the pipe holds

    assert Producers(there.socket).send("quiet").status == 202
    assert there.ask("GET", "/healthz").status == 200
    os.set_blocking(reading, False)
    heard = bytearray()

    def said() -> bool:
        with contextlib.suppress(BlockingIOError):
            heard.extend(os.read(reading, 1 << 20))
        return b"mistake39" in heard

    there.wait(said, what="the last line", seconds=30)
    assert [f"mistake{number}".encode() in heard for number in range(40)] == [True] * 40
    os.set_blocking(reading, True)
    there.process.send_signal(signal.SIGTERM)
    assert there.process.wait(20) == 0
    os.close(reading)
