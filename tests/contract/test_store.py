"""What the store promises, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from controller.core import states
from controller.core.chain import PolicyState
from controller.core.model import LedgerEntry, ModelState, Promotion, Run, Version
from controller.core.policy import Cooldown
from controller.crash import arm, disarm
from controller.errors import Conflict, IllegalTransition, StoreBusy, StoreError
from controller.store import Store, intake, schema
from controller.store.dialect import make_engine, sqlite_module
from controller.store.store import StaleTerm, Transaction
from controller.testing import ManualClock
from tests.factories import (
    NOON,
    at,
    make_active,
    make_attempt,
    make_cause,
    make_champion,
    make_decision,
    make_ids,
    make_max_age,
    make_new_event,
    make_policy,
    make_result,
    make_run,
    make_state,
    minutes,
)

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

Count = Callable[[sa.Table], int]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(scope="module")
def shared_database(postgres_server: PostgresServer) -> Iterator[str]:
    """One PostgreSQL database for all tests of this file: making one takes longer than most of them."""
    url = postgres_server.create_database()
    make_tables(url)
    yield url
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
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
def make_store(database_url: str, clock: ManualClock) -> Iterator[Callable[..., Store]]:
    """Make a store on the test's database, as another process would have it; `seed` keeps their ids apart."""
    made: list[Store] = []

    def make(*, seed: int = 0, **options: Any) -> Store:
        store = Store.open(database_url, base=Path("/"), clock=clock, ids=make_ids(clock, seed), **options)
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


def add_run(store: Store, number: int = 1, **fields: Any) -> Run:
    run = make_run(number, **fields)
    with store.transaction("test") as tx:
        tx.runs.add(run)
    return run


def finish(store: Store, run: Run, state: str = "FAILED", cause: str = "invalid_parameters") -> None:
    with store.transaction("test") as tx:
        tx.runs.move(run, state, cause=cause)


def history(store: Store, entity: str) -> list[tuple[str, str, str, str, str, int]]:
    table = schema.history
    with store.reading() as tx:
        rows = tx.execute(sa.select(table).where(table.c.entity == entity).order_by(table.c.seq))
        return [(row.origin, row.target, row.cause, row.reason, row.actor, row.term) for row in rows]


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


# -------------------------------------------------------------------------------------------------- transitions


def test_a_transition_writes_state_cause_and_history_together(store: Store) -> None:
    """The row, its cause and reason, other columns, and one line of history."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched", reason="slot is free", actor="ann", started_at=NOON)
    with store.reading() as tx:
        found = tx.runs.get(run.id)

    assert found == replace(run, state="TRAINING", cause="dispatched", reason="slot is free", started_at=NOON)
    assert history(store, run.id) == [
        ("", "QUEUED", "decided", "", "controller", 1),
        ("QUEUED", "TRAINING", "dispatched", "slot is free", "ann", 1),
    ]


def test_a_final_state_has_its_finish_time(store: Store, clock: ManualClock) -> None:
    """`finished_at` is set by the transition into a final state, and only there."""
    run = add_run(store)
    clock.advance(60)
    finish(store, run)
    with store.reading() as tx:
        found = tx.runs.get(run.id)

    assert found is not None
    assert found.finished_at == at(seconds=60)


def test_the_same_transition_twice_is_a_conflict(store: Store) -> None:
    """Compare-and-set: who comes second finds that the row has moved on, and writes nothing."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched")
    with pytest.raises(Conflict, match="no longer QUEUED"), store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched")

    assert len(history(store, run.id)) == 2


def test_a_transition_of_nothing_is_a_conflict(store: Store) -> None:
    """A row that is not there is in no state."""
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.runs.move(make_run(9), "TRAINING", cause="dispatched")


@pytest.mark.parametrize("target, cause", [("PROMOTED", "promoted"), ("TRAINING", "luck")])
def test_a_transition_that_the_table_does_not_know_is_refused(store: Store, target: str, cause: str) -> None:
    """Neither the pair nor the cause can be invented."""
    run = add_run(store)
    with pytest.raises(IllegalTransition), store.transaction("test") as tx:
        tx.runs.move(run, target, cause=cause)

    assert len(history(store, run.id)) == 1


def test_a_run_that_ends_wakes_who_waits_for_it(store: Store) -> None:
    """The policies of its model that wait for a run are due now; those of other models are not."""
    run, level = add_run(store), make_policy(make_max_age())
    with store.transaction("test") as tx:
        tx.policies.save_state(level, "", make_state(level, waits_for="run"))
        tx.policies.save_state(replace(level, model="other"), "", make_state(level, waits_for="run"))
        tx.policies.save_state(replace(level, name="paused"), "", make_state(level, waits_for="resume"))
    finish(store, run)
    with store.reading() as tx:
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "")]


MACHINES_WITH_ROWS = list(states.MACHINES.values())


def raw_insert(store: Store, table: sa.Table, **values: Any) -> None:
    """Write a row past all our code, with something in every column that needs it."""
    row: dict[str, Any] = {}
    for column in table.columns:
        if not column.nullable and column.autoincrement is not True:
            python = str if isinstance(column.type, sa.Text) else int
            row[column.name] = "x" if python is str else 1
        if isinstance(column.type, sa.Boolean):
            row[column.name] = True
    row |= values
    with store.engine.begin() as connection:
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO {table.name} ({names}) VALUES ({places})"), row)


LEGAL_KINDS: dict[str, dict[str, Any]] = {"promotion": {"kind": "promoted"}}
REFUSED_ROWS = {
    **{f"{m.name} in an unknown state": (m.name, {"state": "BROKEN"}) for m in MACHINES_WITH_ROWS},
    **{
        f"{m.name} final without a finish time": (m.name, {"state": m.final[0], "finished_at": None})
        for m in MACHINES_WITH_ROWS
        if "finished_at" in schema.TABLES[m.name].c
    },
    **{
        f"{m.name} finished but not final": (m.name, {"state": m.initial, "finished_at": 1})
        for m in MACHINES_WITH_ROWS
        if "finished_at" in schema.TABLES[m.name].c
    },
    "a promotion of an unknown kind": ("promotion", {"state": "PENDING", "kind": "luck"}),
    "a run stopped as something else": ("run", {"state": "QUEUED", "stop_as": "FAILED"}),
    "a decision of an unknown kind": ("decision", {"kind": "MAYBE"}),
    "a verdict of an unknown outcome": ("verdict", {"outcome": "MAYBE"}),
    "a pause of an unknown scope": ("pause", {"scope": "world"}),
    "a second leader": ("leader", {"id": 2}),
}


def test_the_database_itself_refuses_what_must_never_be(store: Store) -> None:
    """States outside the table, final states without a time and the like are refused also from raw SQL."""
    taken = []
    for name, (table, values) in REFUSED_ROWS.items():
        try:
            raw_insert(store, schema.metadata.tables[table], **LEGAL_KINDS.get(table, {}) | values)
            taken.append(name)
        except sa.exc.IntegrityError as error:
            if "check" not in str(error.orig).lower():
                taken.append(f"{name}: {error.orig}")

    assert taken == []


def test_the_database_takes_every_state_of_the_table(store: Store) -> None:
    """The constraints come out of the table of states: each of its states can be stored."""
    for machine in MACHINES_WITH_ROWS:
        write_every_state(store, machine)


#: Columns in which every row of a machine's table must differ.
UNIQUE_NUMBERS = {"event": "identity", "version": "number", "step": "position", "dead_letter": "identity"}


def write_every_state(store: Store, machine: states.Machine) -> None:
    table = schema.TABLES[machine.name]
    unique = UNIQUE_NUMBERS.get(machine.name)
    for number, state in enumerate(machine.states):
        values: dict[str, Any] = {"id": f"x{number}", "state": state} | LEGAL_KINDS.get(machine.name, {})
        for name in ("job_id", "decision_id", "candidate", "model", "key"):
            values |= {name: f"x{number}"} if name in table.c else {}
        values |= {unique: number} if unique else {}
        values |= {"finished_at": 1} if "finished_at" in table.c and state in machine.final else {}
        raw_insert(store, table, **values)


# ------------------------------------------------------------------------------------------------------- events


def test_an_event_is_stored_once(store: Store, count: Count) -> None:
    """The same identity, within a batch or in another one, is one event; each time its receipt names it."""
    one, two = make_new_event(1), make_new_event(2)
    with store.transaction("test") as tx:
        first = tx.events.add("api", [one, two, one])
    with store.transaction("test") as tx:
        second = tx.events.add("api", [two, make_new_event(3), replace(one, data={"another": "body"})])

    assert [receipt.duplicate for receipt in first + second] == [False, False, True, True, False, True]
    assert first[2].event_id == second[2].event_id == first[0].event_id
    assert second[0].event_id == first[1].event_id
    assert count(schema.event) == 3


@pytest.mark.parametrize(
    "origin, domain, events",
    [
        pytest.param("api", None, 1, id="the same origin"),
        pytest.param("bus", None, 2, id="another origin cannot shadow it"),
        pytest.param("bus", "api", 1, id="another origin of the same domain"),
        pytest.param("api", "shared", 2, id="another domain"),
    ],
)
def test_identity_is_origin_or_domain_source_and_id(
    store: Store, count: Count, origin: str, domain: str | None, events: int
) -> None:
    """One producer's ids do not stand in the way of another's, unless both say that they share them."""
    with store.transaction("test") as tx:
        tx.events.add("api", [make_new_event()])
        tx.events.add(origin, [make_new_event()], domain=domain)

    assert count(schema.event) == events


def test_events_whose_digests_are_equal_are_told_apart(
    store: Store, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collision of the 64-bit digest is no duplicate: the text decides; a redelivery finds its own event again."""
    monkeypatch.setattr(intake, "identity_of", lambda origin, source, source_id, salt=0: salt)
    events = [make_new_event(number) for number in range(4)]
    with store.transaction("test") as tx:
        first = tx.events.add("api", [*events, events[2]])
    with store.transaction("test") as tx:
        again = tx.events.add("api", list(reversed(events)))

    assert [receipt.duplicate for receipt in first] == [False] * 4 + [True]
    assert [receipt.event_id for receipt in again] == [receipt.event_id for receipt in reversed(first[:4])]
    assert all(receipt.duplicate for receipt in again)
    assert count(schema.event) == 4


def test_a_large_batch_of_mostly_known_events(store: Store, count: Count) -> None:
    """Batches may be longer than a statement's parameters; receipts keep the order."""
    events = [make_new_event(number) for number in range(1201)]
    with store.transaction("test") as tx:
        first = tx.events.add("api", events[:1200])
        second = tx.events.add("api", events)

    assert [receipt.event_id for receipt in second[:1200]] == [receipt.event_id for receipt in first]
    assert [receipt.duplicate for receipt in second] == [True] * 1200 + [False]
    assert count(schema.event) == 1201


def test_an_event_comes_back_as_it_went_in(store: Store) -> None:
    """Text of every language, nested data, its own time, extensions; without a time it is when it was received."""
    given = make_new_event(
        source_id="x'\"\\ä😀",
        subject="ü",
        time=at(minutes=-3, microseconds=7),
        data={"a": [1, 2.5, None, True, "é"]},
        extensions={"traceparent": "00-1"},
    )
    with store.transaction("test") as tx:
        tx.events.add("api", [given, make_new_event(2)])
    with store.reading() as tx:
        one, two = tx.events.pending(10)

    for name in ("source", "source_id", "type", "subject", "time", "data", "extensions"):
        assert getattr(one, name) == getattr(given, name)
    assert (one.received_at, one.origin, one.state) == (NOON, "api", "PENDING")
    assert two.time == NOON


def test_pending_events_are_found_in_the_order_of_storing_until_they_are_decided(store: Store) -> None:
    """What is decided or dead is no longer pending; the oldest that waits is known."""
    with store.transaction("test") as tx:
        receipts = tx.events.add("api", [make_new_event(number) for number in range(4)])
        tx.events.mark_processed([(receipts[0].event_id, 7)])
        tx.events.mark_processed([])
        tx.events.mark_dead(receipts[2].event_id, reason="KeyError: 'x'")
    with store.reading() as tx:
        pending = [event.id for event in tx.events.pending(10)]
        limited = [event.id for event in tx.events.pending(1)]
        done, dead = tx.events.get(receipts[0].event_id), tx.events.get(receipts[2].event_id)
        oldest = tx.events.oldest_pending()

    assert pending == [receipts[1].event_id, receipts[3].event_id]
    assert limited == pending[:1]
    assert oldest == NOON
    assert done is not None
    assert (done.state, done.decided_seq, done.decided_at) == ("PROCESSED", 7, NOON)
    assert dead is not None
    assert (dead.state, dead.error) == ("DEAD", "KeyError: 'x'")
    assert history(store, dead.id) == [("PENDING", "DEAD", "undecidable", "KeyError: 'x'", "controller", 1)]
    assert history(store, done.id) == []


def test_no_events_is_no_work(store: Store) -> None:
    """An empty batch gives no receipts, and an empty inbox has no oldest event."""
    with store.transaction("test") as tx:
        assert list(tx.events.add("api", [])) == []
        assert tx.events.oldest_pending() is None
        assert tx.events.get("evt-none") is None
        assert tx.events.of_run("run-none") == []


def test_a_source_remembers_by_key_and_forgets(store: Store) -> None:
    """The newest value counts, None forgets, and a prefix is a prefix: its case and its signs matter."""
    keys = ["a/1", "a/b", "A/1", "a-1", "a/😀", "a/\uffff", "b/1", "a/é", "a1", "a"]
    with store.transaction("test") as tx:
        tx.events.remember("files", [LedgerEntry(key=key, value={"of": key}) for key in keys])
        tx.events.remember("other", [LedgerEntry(key="a/1", value="theirs")])
    with store.transaction("test") as tx:
        tx.events.remember("files", [LedgerEntry(key="a/1", value=2), LedgerEntry(key="a/b", value=None)])
        tx.events.remember("files", [LedgerEntry(key="never", value=None)])
    with store.reading() as tx:
        slash, all_, none = (tx.events.recall("files", prefix) for prefix in ("a/", "", "zzz"))

    assert slash == {"a/1": 2, "a/😀": {"of": "a/😀"}, "a/\uffff": {"of": "a/\uffff"}, "a/é": {"of": "a/é"}}
    assert set(all_) == set(keys) - {"a/b"}
    assert none == {}


# ---------------------------------------------------------------------------------------------------------- ids


def test_rows_of_one_process_sort_in_the_order_of_making(store: Store, clock: ManualClock) -> None:
    """Also within one millisecond, and when somebody sets the clock back."""
    with store.transaction("test") as tx:
        first = tx.events.add("api", [make_new_event(number) for number in range(20)])
    clock.set_now(at(hours=-2))
    with store.transaction("test") as tx:
        second = tx.events.add("api", [make_new_event(number) for number in range(20, 30)])
    with store.reading() as tx:
        stored = [event.id for event in tx.events.pending(100)]

    assert stored == [receipt.event_id for receipt in first + second]
    assert all(one < two for one, two in pairwise(stored))


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


# ----------------------------------------------------------------------------------------------------- policies


def test_a_state_comes_back_as_it_went_in(store: Store) -> None:
    """What a policy remembers is kept per key; writing again replaces it."""
    policy = make_policy()
    full = make_state(
        policy,
        slots={"count": [1, 2], "max_age": {"fired_for": "ver-1"}},
        stage="cooldown",
        held_since=NOON,
        held_count=2,
        due_at=at(minutes=1),
    )
    waiting = make_state(policy, stage="pause", waits_for="resume", held_count=1)
    with store.transaction("test") as tx:
        tx.policies.save_state(policy, "eu", replace(full, held_count=1))
        tx.policies.save_state(policy, "eu", full)
        tx.policies.save_state(policy, "us", waiting)
    with store.reading() as tx:
        found = [tx.policies.state("churn", "drift", key) for key in ("eu", "us", "")]
        every = tx.policies.states()

    assert found == [full, waiting, None]
    assert sorted(every) == [("churn", "drift", "eu", "v1", full), ("churn", "drift", "us", "v1", waiting)]


def test_a_state_that_remembers_nothing_has_no_row(store: Store, count: Count) -> None:
    """A policy with a key for every customer leaves nothing behind once it has fired."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for number in range(5):
            tx.policies.save_state(policy, f"k{number}", make_state(policy, stage="debounce", held_count=1))
            tx.policies.save_state(policy, f"k{number}", PolicyState(on_hash=policy.on_hash))
        tx.policies.save_state(policy, "never", PolicyState(on_hash=policy.on_hash))

    assert count(schema.policy_state) == 0


def test_what_is_due_comes_in_the_order_of_its_time(store: Store) -> None:
    """Exactly due is due; the longest overdue first, up to a limit; the next one is known."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key, minute in (("late", 5), ("early", 1), ("exact", 3), ("later", 9)):
            tx.policies.save_state(policy, key, make_state(policy, stage="debounce", due_at=at(minutes=minute)))
        tx.policies.save_state(policy, "waits", make_state(policy, stage="pause", waits_for="resume"))
    with store.reading() as tx:
        due = [key for _, _, key in tx.policies.due(at(minutes=3), 10)]
        some = [key for _, _, key in tx.policies.due(at(minutes=10), 2)]
        next_due = tx.policies.next_due()

    assert due == ["early", "exact"]
    assert some == ["early", "exact"]
    assert next_due == at(minutes=1)


def test_nothing_is_due_without_states(store: Store) -> None:
    """An installation at rest has no next instant."""
    with store.reading() as tx:
        assert tx.policies.next_due() is None
        assert tx.runs.next_due_job() is None
        assert tx.outbox.next_due() is None


WAKES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "everything that waits for it": ({"model": None, "waits_for": ("resume",)}, {"a/one", "a/two", "b/one"}),
    "a model's": ({"model": "a", "waits_for": ("resume",)}, {"a/one", "a/two"}),
    "a policy's": ({"model": "a", "policy": "two", "waits_for": ("resume",)}, {"a/two"}),
    "several reasons": ({"model": "b", "waits_for": ("resume", "champion")}, {"b/one", "b/level"}),
    "nothing": ({"model": "a", "waits_for": ("champion",)}, set()),
}


@pytest.mark.parametrize("asked, woken", WAKES.values(), ids=WAKES)
def test_wake_makes_due_what_waits_for_something(store: Store, asked: dict[str, Any], woken: set[str]) -> None:
    """Only what waits for what happened is due now, and waits no longer."""
    waits = [("a", "one", "resume"), ("a", "two", "resume"), ("b", "one", "resume"), ("b", "level", "champion")]
    with store.transaction("test") as tx:
        for model, name, waits_for in waits:
            policy = make_policy(model=model, name=name)
            tx.policies.save_state(policy, "", make_state(policy, stage="pause", waits_for=waits_for))
        number = tx.policies.wake(**asked)
        due = {f"{model}/{name}" for model, name, _ in tx.policies.due(NOON, 10)}
        still = {f"{model}/{name}" for model, name, _, _, state in tx.policies.states() if state.waits_for}

    assert (number, due) == (len(woken), woken)
    assert still == {f"{model}/{name}" for model, name, _ in waits} - woken


def test_touch_makes_one_state_due(store: Store) -> None:
    """A policy whose configuration changed is looked at now."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key in ("eu", "us"):
            tx.policies.save_state(policy, key, make_state(policy, stage="pause", waits_for="resume"))
        tx.policies.touch("churn", "drift", "eu")
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "eu")]


def test_held_causes_are_kept_per_key_in_the_order_of_storing(store: Store) -> None:
    """The same event is one cause; what leaves the window is dropped alone; a cause without an event is not collected."""
    causes = [make_cause(number, subject="ü", time=at(minutes=number)) for number in (1, 2, 3)]
    with store.transaction("test") as tx:
        for cause in [causes[2], causes[0], causes[1], causes[0]]:
            tx.policies.collect("churn", "drift", "eu", cause)
        tx.policies.collect("churn", "drift", "us", causes[0])
        tx.policies.collect("churn", "drift", "eu", make_cause(None))
        held = tx.policies.collected("churn", "drift", "eu")
        tx.policies.drop_causes("churn", "drift", "eu", before=at(minutes=2))
        window = tx.policies.collected("churn", "drift", "eu")
        tx.policies.drop_causes("churn", "drift", "eu")
        dropped = tx.policies.collected("churn", "drift", "eu")
        others = tx.policies.collected("churn", "drift", "us")

    assert held == causes
    assert window == causes[1:]
    assert (dropped, others) == ([], causes[:1])


def test_a_state_that_is_dropped_takes_its_causes_along(store: Store, count: Count) -> None:
    """A policy that is gone leaves nothing behind; other keys stay."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key in ("eu", "us"):
            tx.policies.save_state(policy, key, make_state(policy, stage="pause", held_count=1))
            tx.policies.collect("churn", "drift", key, make_cause())
        tx.policies.drop_state("churn", "drift", "eu")

    assert (count(schema.policy_state), count(schema.held_cause)) == (1, 1)


def test_refusals_are_counted(store: Store) -> None:
    """Skips of the first stages are tallies that add up."""
    with store.transaction("test") as tx:
        tx.policies.count_refusals({("churn", "drift", "when"): 2, ("churn", "drift", "match"): 1})
        tx.policies.count_refusals({("churn", "drift", "when"): 3})
        tx.policies.count_refusals({})
        rows = {(row.outcome, row.count) for row in tx.execute(sa.select(schema.tally))}

    assert rows == {("when", 5), ("match", 1)}


def test_a_decision_is_written_whole(store: Store) -> None:
    """Reason, trace, what it waits for, its event and run, its number and term."""
    decision = make_decision(kind="HOLD", stage="pause", waits_for="resume", until=None, key="eu")
    with store.transaction("test") as tx:
        decision_id = tx.policies.add_decision(decision, seq=4, event_id="evt-1", run_id=None)
        row = tx.execute(sa.select(schema.decision).where(schema.decision.c.id == decision_id)).one()

    assert (row.kind, row.stage, row.waits_for, row.key, row.event_id) == ("HOLD", "pause", "resume", "eu", "evt-1")
    assert (row.seq, row.term, row.at, row.trace) == (4, 1, NOON, [])


# -------------------------------------------------------------------------------------------------------- facts

HOUR = {"period": minutes(60)}


def tell(store: Store, **options: Any) -> Any:
    policy = options.pop("policy", None) or make_policy(**options)
    with store.reading() as tx:
        return tx.policies.facts(policy, "eu", champion=make_champion(), labels={"a": "b"}, pauses=())


def end_run(store: Store, number: int, state: str, minute: float, clock: ManualClock, **fields: Any) -> Run:
    """Write a run that started at its number's minute and ended in `state` at `minute`."""
    clock.set_now(at(minutes=minute))
    final = None if state not in states.RUN.final else clock.now()
    run = make_run(number, state=state, started_at=at(minutes=number), finished_at=final, **fields)
    with store.transaction("test") as tx:
        tx.runs.add(run)
    return run


def test_facts_about_runs_come_from_the_rows(store: Store, clock: ManualClock) -> None:
    """The last launch, success, promotion and failure of the model, whoever asked; other models do not count."""
    for number, state in enumerate(states.RUN.final, start=1):
        end_run(store, number, state, 10 * number, clock)
    end_run(store, 30, "PROMOTED", 300, clock, model="other")
    ended = {state: at(minutes=10 * number) for number, state in enumerate(states.RUN.final, start=1)}
    facts = {
        after: tell(store, cooldown=Cooldown(after=after, after_failure=minutes(1), **HOUR))
        for after in ("decision", "launch", "success", "promotion")
    }

    assert facts["launch"].last_launch_at == at(minutes=len(states.RUN.final))
    assert facts["promotion"].last_promotion_at == ended["PROMOTED"]
    assert facts["success"].last_success_at == max(ended[state] for state in ("PROMOTED", "REJECTED", "SUCCEEDED"))
    assert facts["success"].last_failure_at == max(ended[state] for state in ("FAILED", "TIMED_OUT"))
    assert facts["decision"].last_decision_at is None
    assert facts["launch"].active == ()
    assert (facts["launch"].labels, facts["launch"].champion) == ({"a": "b"}, make_champion())


def test_the_last_decision_is_of_this_policy_and_key(store: Store, clock: ManualClock) -> None:
    """Only a FIRE counts, and only of the same policy and key."""
    told = [
        make_decision(key="eu"),
        make_decision(key="us"),
        make_decision(key="eu", policy="nightly"),
        make_decision(key="eu", kind="HOLD"),
    ]
    for decision in told:
        with store.transaction("test") as tx:
            tx.policies.add_decision(decision, seq=1, event_id=None, run_id=None)
        clock.advance(60)

    assert tell(store, cooldown=Cooldown(after="decision", **HOUR)).last_decision_at == NOON


def test_active_runs_hold_the_slot_from_queued_to_promoting(store: Store) -> None:
    """Every open run of the model but the one that waits for a person, the oldest first."""
    open_states = [state for state in states.RUN.states if state not in states.RUN.final]
    for number, state in enumerate(reversed(open_states), start=1):
        add_run(store, number, state=state, key="eu")
    add_run(store, 50, model="other")
    active = tell(store).active

    expected = [
        make_active(state, id=f"run-{number:016d}", key="eu")
        for number, state in enumerate(reversed(open_states), start=1)
        if state != "AWAITING_APPROVAL"
    ]
    assert list(active) == expected


def level_facts(store: Store) -> Any:
    return tell(store, policy=make_policy(make_max_age())).last_ended_at


def fire(store: Store, run: str, *, policy: str = "drift") -> None:
    with store.transaction("test") as tx:
        tx.policies.add_decision(make_decision(policy=policy), seq=1, event_id=None, run_id=run)


@pytest.mark.parametrize("policy", ["drift", "nightly"], ids=["its own run", "another policy's run, which it joined"])
def test_a_level_knows_when_the_run_of_its_last_fire_ended(store: Store, clock: ManualClock, policy: str) -> None:
    """None while that run goes on, also while it waits for a person; then its end, whosever run it was."""
    assert level_facts(store) is None
    first = end_run(store, 1, "FAILED", 10, clock, policy=policy)
    fire(store, first.id)
    assert level_facts(store) == at(minutes=10)

    clock.advance(60)
    second = add_run(store, 2, state="AWAITING_APPROVAL", policy=policy)
    fire(store, second.id)
    assert level_facts(store) is None

    clock.advance(60)
    finish(store, second, "REJECTED", "rejected")
    assert level_facts(store) == clock.now()


# --------------------------------------------------------------------------------------------------------- runs


def test_two_runs_of_one_decision_are_impossible(store: Store) -> None:
    """Uniqueness lives in the database, and reads as a conflict."""
    add_run(store, 1)
    with pytest.raises(Conflict, match="somebody else was faster"):
        add_run(store, 2, decision_id=make_run(1).decision_id)


def test_a_run_has_each_event_as_a_cause_once(store: Store) -> None:
    """Causes keep the order in which they were learned; merging the same event again changes nothing."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.add_causes(run.id, "dec-1", [make_cause(2), make_cause(None, type="timer.max_age")], joins=False)
        tx.runs.add_causes(run.id, "dec-2", [make_cause(2), make_cause(1)], joins=True)
        tx.runs.add_causes(run.id, "dec-3", [], joins=True)
        causes = tx.runs.causes(run.id)

    assert causes == [make_cause(2), make_cause(None, type="timer.max_age"), make_cause(1)]


def test_jobs_attempts_and_results_hang_on_a_run(store: Store, clock: ManualClock) -> None:
    """A job per candidate, an attempt per try, one result; what launchers have is found with its run."""
    run = add_run(store, state="TRAINING")
    with store.transaction("test") as tx:
        jobs = [tx.runs.add_job(run, name, {"depth": 3}) for name in ("boosting", "linear")]
        tx.runs.move_job(jobs[0], "LAUNCHING", cause="launching", attempt=1)
        attempt = make_attempt(id=tx.runs.new_attempt_id(), job_id=jobs[0].id, handle=None)
        tx.runs.add_attempt(attempt)
        tx.runs.set_handle(attempt.id, {"pid": 7})
        launching = tx.runs.get_job(jobs[0].id)
        assert launching is not None
        tx.runs.move_job(launching, "RUNNING", cause="launched", due_at=at(minutes=9))
    with store.reading() as tx:
        (watched,) = tx.runs.watched()
        assert [job.candidate for job in tx.runs.jobs(run.id)] == ["boosting", "linear"]
        assert [job.candidate for job in tx.runs.open_jobs("PENDING")] == ["linear"]
        assert tx.runs.on_launchers() == {"process": 1}
        assert tx.runs.next_due_job() == at(minutes=9)
        assert tx.runs.attempt(jobs[1]) is None
        assert tx.runs.attempt(watched[0]) == watched[1]
        assert tx.runs.attempts(jobs[0].id) == [watched[1]]

    assert (watched[0].state, watched[1].handle, watched[2]) == ("RUNNING", {"pid": 7}, run)
    assert [line[1] for line in history(store, jobs[0].id)] == ["PENDING", "LAUNCHING", "RUNNING"]


def test_an_attempt_has_its_number_once(store: Store) -> None:
    """Two launches of the same attempt cannot both be intended."""
    with store.transaction("test") as tx:
        tx.runs.add_attempt(make_attempt())
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.runs.add_attempt(make_attempt(id="att-2"))


def test_a_result_is_written_once(store: Store) -> None:
    """The first valid result stays, whatever comes after it."""
    run = add_run(store)
    with store.transaction("test") as tx:
        job = tx.runs.add_job(run, "boosting", {})
        tx.runs.add_result(job.id, make_result(0.8, champion=0.7), "d1")
        tx.runs.add_result(job.id, make_result(0.1), "d2")
        results = tx.runs.results(run.id)

    assert results == {job.id: make_result(0.8, champion=0.7)}


def test_open_runs_are_found_by_state(store: Store) -> None:
    """The oldest first; a run that ended is not open."""
    runs = [add_run(store, number) for number in (1, 2, 3)]
    finish(store, runs[1])
    with store.reading() as tx:
        assert [run.id for run in tx.runs.in_state("QUEUED", "TRAINING")] == [runs[0].id, runs[2].id]
        assert tx.runs.get("run-none") is None


# ------------------------------------------------------------------------------------ models, versions, promotions


def add_version(tx: Transaction, **fields: Any) -> Version:
    defaults: dict[str, Any] = {"artifact": "a", "artifact_digest": None, "metrics": {"auc": 0.7}, "lineage": {}}
    return tx.models.add_version(fields.pop("model", "churn"), **(defaults | fields))


def promote(tx: Transaction, version: Version, *, kind: str = "promoted", promoters: tuple[str, ...] = ()) -> Promotion:
    model = tx.models.ensure(version.model)
    return tx.models.add_promotion(
        model, version_id=version.id, kind=kind, run_id=None, actor="ann", reason="why", promoters=promoters
    )


def crown(tx: Transaction, version: Version, *, kind: str = "promoted", **held: Any) -> Promotion:
    promotion = promote(tx, version, kind=kind)
    tx.models.crown(promotion, **held)
    tx.models.move_promotion(promotion, "APPLIED", cause="applied")
    return promotion


def test_versions_are_numbered_per_model(store: Store) -> None:
    """From 1, the newest first when listed."""
    with store.transaction("test") as tx:
        versions = [add_version(tx), add_version(tx), add_version(tx, model="other")]
        listed = tx.models.versions("churn")

    assert [version.number for version in versions] == [1, 2, 1]
    assert listed == [versions[1], versions[0]]


def test_a_crowned_version_is_the_champion(store: Store, clock: ManualClock) -> None:
    """Versions, the model's row and its epoch move together; the one before is retired."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx, artifact="b", metrics={"auc": 0.8})
        assert tx.models.champion("churn") is None
        crown(tx, first)
    clock.advance(60)
    with store.transaction("test") as tx:
        crown(tx, second)
        states_of = {version.number: version.state for version in tx.models.versions("churn")}
        champion, model = tx.models.champion("churn"), tx.models.get("churn")

    assert states_of == {1: "RETIRED", 2: "CHAMPION"}
    assert champion == make_champion(
        version_id=second.id, number=2, artifact="b", metrics={"auc": 0.8}, promoted_at=at(minutes=1), decided_at=None
    )
    assert model == ModelState(name="churn", champion_id=second.id, epoch=2)


def test_a_champion_knows_when_its_run_was_decided(store: Store) -> None:
    """Promotions are ordered by the decision behind them."""
    run = add_run(store, decided_at=at(minutes=-5))
    with store.transaction("test") as tx:
        crown(tx, add_version(tx, run_id=run.id))
        champion = tx.models.champion("churn")

    assert champion is not None
    assert champion.decided_at == at(minutes=-5)


def test_a_promotion_of_an_older_epoch_is_a_conflict(store: Store, count: Count) -> None:
    """Who promotes is compared with the epoch that the promotion was meant for; the loser writes nothing."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        slow = promote(tx, first)
        tx.models.move_promotion(slow, "SUPERSEDED", cause="newer_champion")
        crown(tx, second)
    with pytest.raises(Conflict, match="promoted by somebody else"), store.transaction("test") as tx:
        tx.models.crown(slow)
    with store.reading() as tx:
        model = tx.models.get("churn")

    assert model is not None
    assert (model.champion_id, model.epoch) == (second.id, 1)


def test_a_rollback_holds_promotion_until_it_is_released(store: Store) -> None:
    """Going back names the bad version ROLLED_BACK and holds automatic promotion."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        crown(tx, first)
        crown(tx, second)
        crown(tx, first, kind="rollback", held_reason="worse", held_until=at(hours=24))
        held = tx.models.get("churn")
        states_of = {version.number: version.state for version in tx.models.versions("churn")}
        tx.models.release("churn")
        released = tx.models.get("churn")

    assert states_of == {1: "CHAMPION", 2: "ROLLED_BACK"}
    assert held is not None
    assert (held.epoch, held.promotion_held, held.held_until, held.held_reason) == (3, True, at(hours=24), "worse")
    assert released == ModelState(name="churn", champion_id=first.id, epoch=3)


def test_crowning_wakes_who_waits_for_a_champion(store: Store) -> None:
    """A level that waits for a champion, or for its run, is looked at now."""
    level = make_policy(make_max_age())
    with store.transaction("test") as tx:
        tx.policies.save_state(level, "", make_state(level, stage="max_age", waits_for="champion"))
        crown(tx, add_version(tx))
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "")]


def test_a_model_has_one_champion(store: Store) -> None:
    """The database refuses a second one, whoever writes it."""
    with store.transaction("test") as tx:
        crown(tx, add_version(tx))
        other = add_version(tx)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.models.move_version(other, "CHAMPION", cause="override")


def test_a_model_has_one_promotion_under_way(store: Store) -> None:
    """A second one is refused with what to do, and by the database if that is passed by."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        pending = promote(tx, first)
    with pytest.raises(Conflict, match="another promotion of model 'churn'"), store.transaction("test") as tx:
        promote(tx, second)
    with pytest.raises(sa.exc.IntegrityError):
        raw_insert(store, schema.promotion, state="PENDING", kind="override", model="churn")
    with store.reading() as tx:
        assert tx.models.pending_promotion("churn") == pending
        assert tx.models.pending_promotions() == [pending]
        assert tx.models.promotions("churn") == [pending]


def test_a_promotion_has_a_step_for_each_promoter(store: Store) -> None:
    """In order, each with a state of its own."""
    with store.transaction("test") as tx:
        promotion = promote(tx, add_version(tx), promoters=("alias", "command"))
        first, second = tx.models.steps(promotion.id)
        tx.models.set_step(first.id, attempts=2, due_at=at(minutes=1))
        tx.models.move_step(first, "APPLIED", cause="applied", reason="points there")
        steps = tx.models.steps(promotion.id)

    assert [(step.promoter, step.state, step.attempts) for step in steps] == [
        ("alias", "APPLIED", 2),
        ("command", "PENDING", 0),
    ]
    assert second.position == 2


def old_versions(tx: Transaction, number: int) -> list[Version]:
    """Write versions of runs that were promoted one after another; the last one is the champion."""
    versions = [add_version(tx, run_id=f"run-{n}", job_id=f"job-{n}") for n in range(number)]
    for version in versions:
        crown(tx, version)
    return versions


@pytest.mark.parametrize("keep, numbers", [(0, [3, 2, 1]), (1, [2, 1]), (2, [1]), (9, [])])
def test_artifacts_of_old_versions_may_go(store: Store, keep: int, numbers: list[int]) -> None:
    """Beside the champion and its predecessor the newest `keep` stay; candidates and adopted versions always do."""
    with store.transaction("test") as tx:
        crown(tx, add_version(tx, model="other"))
        versions = old_versions(tx, 5)
        add_version(tx, run_id="run-9", job_id="job-9")
        forgettable = [version.number for version in tx.models.forgettable_artifacts("churn", keep)]
        tx.models.mark_forgotten(versions[0].id)
        again = [version.number for version in tx.models.forgettable_artifacts("churn", keep)]

    assert forgettable == numbers
    assert again == [number for number in numbers if number != 1]


def test_an_artifact_that_is_being_promoted_again_stays(store: Store) -> None:
    """Going back to an old version needs its artifact until that has ended."""
    with store.transaction("test") as tx:
        versions = old_versions(tx, 4)
        promote(tx, versions[0], kind="rollback")
        forgettable = [version.number for version in tx.models.forgettable_artifacts("churn", 0)]
        unknown = tx.models.forgettable_artifacts("nobody", 0)

    assert forgettable == [2]
    assert unknown == []


# ----------------------------------------------------------------------------------------------- people, outbox


def act(tx: Transaction, key: str | None, digest: str = "d") -> str:
    return tx.people.add_act(
        actor="ann",
        verb="retrain",
        target="churn",
        reason="why",
        details={"a": 1},
        response={"run": 1},
        idempotency_key=key,
        request_digest=digest,
    )


def test_an_idempotency_key_is_one_act(store: Store) -> None:
    """What was done under a key is found again; a second row under it is a conflict; acts without a key are free."""
    with store.transaction("test") as tx:
        act_id = act(tx, "k1")
        act(tx, None)
        act(tx, None)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        act(tx, "k1", "another request")
    with store.reading() as tx:
        found, none = tx.people.act_by_key("k1"), tx.people.act_by_key("k2")
        acts = tx.people.acts("churn")

    assert found is not None
    assert (found.id, found.request_digest, found.response, found.at) == (act_id, "d", {"run": 1}, NOON)
    assert none is None
    assert [a.id for a in acts] == sorted((a.id for a in acts), reverse=True)
    assert len(acts) == 3


def test_tokens_are_known_by_their_digest(store: Store) -> None:
    """A name is given once, also after it was revoked; revoking twice says that there was nothing to revoke."""
    with store.transaction("test") as tx:
        tx.people.add_token(name="ci", digest="aa", actor="ann", expires_at=at(hours=1))
    with pytest.raises(Conflict, match="there is a token 'ci' already"), store.transaction("test") as tx:
        tx.people.add_token(name="ci", digest="bb", actor="ann", expires_at=None)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.people.add_token(name="other", digest="aa", actor="ann", expires_at=None)
    with store.transaction("test") as tx:
        revoked = [tx.people.revoke_token(name, actor="bob") for name in ("ci", "ci", "none")]
        token, none = tx.people.token_by_digest("aa"), tx.people.token_by_digest("bb")
        tokens = tx.people.tokens()

    assert revoked == [True, False, False]
    assert token is not None
    assert (token.revoked_at, token.revoked_by, token.expires_at) == (NOON, "bob", at(hours=1))
    assert none is None
    assert tokens == [token]


def test_pauses_are_one_per_target_the_widest_first(store: Store) -> None:
    """Pausing again changes the reason; lifting a pause that is not there says so."""
    with store.transaction("test") as tx:
        for scope, target in (("policy", "churn/drift"), ("all", ""), ("model", "churn")):
            tx.people.add_pause(scope=scope, target=target, actor="ann", reason="first")
        tx.people.add_pause(scope="model", target="churn", actor="bob", reason="second")
        pauses = tx.people.pauses()
        dropped = [tx.people.drop_pause(scope="all", target="") for _ in range(2)]
        left = tx.people.pauses()

    assert [pause.scope for pause in pauses] == ["all", "model", "policy"]
    assert (pauses[1].actor, pauses[1].reason) == ("bob", "second")
    assert dropped == [True, False]
    assert left == pauses[1:]


def test_configurations_are_kept_for_ever(store: Store, clock: ManualClock) -> None:
    """Each version of a configuration and of its policies is found again; the first body of a version stays."""
    with store.transaction("test") as tx:
        tx.people.activate(version="c1", body={"n": 1}, actor="ann", policies=[make_policy(version="p1")])
        clock.advance(60)
        tx.people.activate(version="c2", body={"n": 2}, actor="ann", policies=[make_policy(version="p1")])
        tx.people.activate(version="c1", body={"n": 3}, actor="bob", policies=[])
        bodies = [tx.people.configuration(version) for version in ("c1", "c2", "c3")]
        of_policy = [tx.people.configuration_of_policy(version) for version in ("p1", "p2")]
        actors = dict(tx.execute(sa.select(schema.config_version.c.version, schema.config_version.c.actor)).all())

    assert bodies == [{"n": 1}, {"n": 2}, None]
    assert of_policy == [{"n": 1}, None]
    assert actors == {"c1": "bob", "c2": "ann"}


def test_messages_wait_until_they_are_sent(store: Store, clock: ManualClock) -> None:
    """One for each channel; postponed ones come back; sent and dead ones do not."""
    with store.transaction("test") as tx:
        tx.outbox.add(("log", "mail"), kind="promoted", title="v2", model="churn", body={"n": 1})
        first, second = tx.outbox.due(NOON, 10)
        tx.outbox.postpone(first, until=at(minutes=5))
        tx.outbox.move(second, "SENT", cause="sent")
        assert tx.outbox.due(NOON, 10) == []
        assert tx.outbox.next_due() == at(minutes=5)
        (again,) = tx.outbox.due(at(minutes=5), 10)
        tx.outbox.move(again, "DEAD", cause="gave_up", reason="no such host")
        assert tx.outbox.next_due() is None

    assert (first.channel, second.channel, again.attempts) == ("log", "mail", 1)
    assert history(store, first.id) == [("PENDING", "DEAD", "gave_up", "no such host", "controller", 1)]


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


def test_a_server_that_is_gone_is_busy(database_url: str, store: Store) -> None:
    """Nobody answers: writing and reading say so, as often as they try."""
    if store.dialect == "sqlite":
        pytest.skip("a server is PostgreSQL's")
    gone = Store(sa.make_url(database_url).set(port=1), clock=store.clock, ids=store.ids)
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


def test_an_event_is_read_as_it_was_written(store: Store) -> None:
    """The plain statements for new events and the expressions for old ones read the same record, whatever it holds."""
    rich = replace(
        make_new_event(1),
        subject="flüge",
        data={"share": 0.25, "list": [1, None, "\u2028"], "large": 2**53 + 1},
        extensions={"traceparent": "00-ab", "sequence": 7},
    )
    bare = replace(make_new_event(2), subject=None, data=None, time=None)
    with store.transaction("test") as tx:
        first, second = tx.events.add("api", [rich, bare])
    with store.reading() as tx:
        pending = {event.id: event for event in tx.events.pending(10)}
        read = {id_: tx.events.get(id_) for id_ in pending}

    assert pending == read
    assert (pending[first.event_id].data, pending[first.event_id].extensions) == (rich.data, rich.extensions)
    assert pending[second.event_id].data is None
    assert pending[second.event_id].time == pending[second.event_id].received_at
