"""What the store promises of transactions, on SQLite and PostgreSQL alike: all or nothing, under one leader, and busy when it must be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.core.model import LedgerEntry
from controller.crash import arm, disarm
from controller.errors import StoreBusy, StoreError
from controller.store import Store, schema
from controller.store.dialect import sqlite_module
from controller.store.store import StaleTerm
from controller.testing import ManualClock
from tests.contract.store_rows import Count, add_run
from tests.factories import make_ids, make_new_event, make_run

# ------------------------------------------------------------------------------------------------- transactions


def test_a_transaction_that_raises_leaves_nothing(store: Store, count: Count) -> None:
    """All of it is durable, or none of it; history rows and ledger entries included."""
    with pytest.raises(ZeroDivisionError), store.transaction("test") as tx:  # noqa: PT012 - the block is what is tested
        tx.runs.add(make_run())
        tx.events.add("api", [make_new_event()])
        tx.events.remember("api", [LedgerEntry(key="k", value=1)])
        raise ZeroDivisionError

    assert [count(table) for table in (schema.run, schema.event, schema.ledger, schema.history)] == [0, 0, 0, 0]
    add_run(store)
    assert count(schema.run) == 1


@pytest.mark.parametrize("point, rows", [("before_commit", 0), ("after_commit", 1)])
def test_crash_points_sit_around_the_commit(store: Store, count: Count, point: str, rows: int) -> None:
    """A process that dies before the commit wrote nothing, behind it everything."""

    def die(name: str) -> None:
        raise KeyboardInterrupt(name)

    arm(f"transaction.dying.{point}", die)
    try:
        with pytest.raises(KeyboardInterrupt), store.transaction("dying") as tx:
            tx.events.add("api", [make_new_event()])
    finally:
        disarm()

    assert count(schema.event) == rows


def test_a_reader_sees_one_state_of_the_database(store: Store, make_store: Callable[..., Store]) -> None:
    """What others commit while a block reads, it does not see."""
    with make_store(seed=1).reading() as tx:
        before = len(tx.events.pending(10))
        with store.transaction("test") as writing:
            writing.events.add("api", [make_new_event()])
        after = len(tx.events.pending(10))

    assert (before, after) == (0, 0)
    with store.reading() as tx:
        assert len(tx.events.pending(10)) == 1


def test_transactions_of_several_threads_do_not_mix(store: Store, count: Count) -> None:
    """Threads may share a store."""

    def work(number: int) -> None:
        for step in range(5):
            with store.transaction("test") as tx:
                tx.events.add("api", [make_new_event(number * 100 + step)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert count(schema.event) == 20


# -------------------------------------------------------------------------------------------- terms and numbers


def test_a_second_leader_fences_the_first(
    store: Store, make_store: Callable[..., Store], count: Count, clock: ManualClock
) -> None:
    """The transactions of an earlier term fail and write nothing; those that need no term go on."""
    other = make_store(seed=1)
    term = other.lead(owner="there", host="host", pid=2)
    with pytest.raises(StaleTerm, match="term 1 is over, 2 leads now"), store.transaction("decide") as tx:
        tx.runs.add(make_run())
    with pytest.raises(StaleTerm), store.transaction("decide", fenced=False) as tx:  # noqa: PT012
        tx.events.add("api", [make_new_event(1)])
        tx.policies.take_numbers(1)
    with store.transaction("accept", fenced=False) as tx:
        tx.events.add("api", [make_new_event(2)])

    assert term.number == 2
    assert (count(schema.run), count(schema.event)) == (0, 1)
    with other.transaction("decide") as tx:
        assert tx.policies.take_numbers(1) == 1


def test_who_never_led_writes_nothing(make_store: Callable[..., Store], store: Store) -> None:
    """A store that has not taken a term cannot decide."""
    with pytest.raises(StaleTerm), make_store(seed=1).transaction("decide"):
        pytest.fail("the block must not run")


def test_numbers_of_deciding_are_given_once(store: Store, make_store: Callable[..., Store]) -> None:
    """They go on where they stopped, under a new term too; a transaction that fails gives its numbers back."""
    with store.transaction("test") as tx:
        first = (tx.policies.take_numbers(3), tx.policies.take_numbers(1))
    with pytest.raises(ZeroDivisionError), store.transaction("test") as tx:  # noqa: PT012
        tx.policies.take_numbers(10)
        raise ZeroDivisionError
    other = make_store(seed=1)
    other.lead(owner="there", host="host", pid=2)
    with other.transaction("test") as tx:
        second = tx.policies.take_numbers(2)

    assert (first, second) == ((1, 4), 5)


# --------------------------------------------------------------------------------------------- busy, closed, wrong


def test_a_locked_file_is_busy(store: Store, make_store: Callable[..., Store], count: Count) -> None:
    """Who cannot write in time is told to try later, and the next transaction goes through as if nothing had been."""
    if store.dialect != "sqlite":
        pytest.skip("a lock on the whole database is SQLite's")
    impatient = make_store(seed=1)
    sa.event.listen(impatient.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=20"))
    other = sqlite_module().connect(str(store.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(StoreBusy, match="locked") as busy, impatient.transaction("test", fenced=False):
            pytest.fail("the block must not run")
    other.execute("ROLLBACK")
    other.close()
    with impatient.transaction("test", fenced=False) as tx:
        tx.events.add("api", [make_new_event()])

    assert busy.value.after_seconds > 0
    assert count(schema.event) == 1


def test_a_server_that_is_gone_is_busy(schema_url: str, store: Store) -> None:
    """Nobody answers: writing and reading say so, as often as they try."""
    if store.dialect == "sqlite":
        pytest.skip("a server is PostgreSQL's")
    gone = Store(sa.make_url(schema_url).set(port=1), clock=store.clock, ids=store.ids)
    for _ in range(2):
        with pytest.raises(StoreBusy, match="the store cannot take this now"), gone.transaction("test"):
            pytest.fail("the block must not run")
        with pytest.raises(StoreBusy), gone.reading():
            pytest.fail("the block must not run")


def test_a_connection_that_breaks_is_busy_once(store: Store, make_store: Callable[..., Store], count: Count) -> None:
    """What was under way is lost and says so; the next transaction has a new connection."""
    if store.dialect == "sqlite":
        pytest.skip("a connection to a server is PostgreSQL's")
    query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with pytest.raises(StoreBusy), store.transaction("test") as tx:  # noqa: PT012
        tx.events.add("api", [make_new_event(1)])
        with make_store(seed=1).reading() as killer:
            killer.execute(sa.text(query)).all()
        tx.events.add("api", [make_new_event(2)])
    with store.transaction("test") as tx:
        tx.events.add("api", [make_new_event(3)])

    assert count(schema.event) == 1


def test_a_store_that_only_reads_cannot_write(store: Store, make_store: Callable[..., Store], count: Count) -> None:
    """Offline commands look without being able to change anything."""
    add_run(store)
    reader = make_store(seed=1, readonly=True)
    with reader.reading() as tx:
        assert tx.runs.get(make_run().id) is not None
    with pytest.raises(StoreBusy, match=r"read-?only"), reader.transaction("test", fenced=False) as tx:
        tx.events.add("api", [make_new_event()])

    assert count(schema.event) == 0


def test_a_row_that_is_wrong_is_no_conflict(store: Store) -> None:
    """A constraint that our own code breaks is a bug, and must not look like a race."""
    with pytest.raises(sa.exc.IntegrityError), store.transaction("test") as tx:
        tx.runs.add(make_run(model=None))


@pytest.mark.parametrize(
    "url, said",
    [
        pytest.param("no url", "is no database URL", id="no URL"),
        pytest.param("mysql://host/db", "cannot be on 'mysql'", id="another database"),
    ],
)
def test_a_store_that_cannot_be_is_refused(url: str, said: str, clock: ManualClock) -> None:
    """The error says what to write."""
    with pytest.raises(StoreError, match=said) as refused:
        Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))

    assert "sqlite:///" in refused.value.hint


def test_a_store_describes_itself_without_secrets(store: Store, clock: ManualClock) -> None:
    """Where it is and how it keeps; a password is not shown."""
    place = str(store.url.database)
    secret = Store.open("postgresql://ann:s3cret@host/db", base=Path("/"), clock=clock, ids=make_ids(clock))

    assert place in store.description()
    assert "s3cret" not in secret.description()
