"""The lease of each process: who leads, for how long, and what happens to whoever does not know yet that it leads no more.

Two processes on one database, each with a clock of its own; leases are measured by a third, the database's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from controller.clock import Ids
from controller.config import Config, load_config
from controller.core.replica import LIVE
from controller.crash import arm, disarm
from controller.engine.evaluator import Evaluator
from controller.engine.lease import QUIET, TTL, Lease, LeaseUncertain, Process
from controller.engine.runtime import Runtime
from controller.errors import StoreBusy
from controller.store import Store
from controller.telemetry import Metrics
from controller.testing import ManualClock, RecordingLog, SeededRandom
from tests.factories import make_replica

CONFIG = """
version: 1
store: sqlite:///retrain.db
models:
  churn:
    train: {command: ["true"]}
    policies: {drift: {on: {type: %s}}}
"""


@dataclass
class Seat:
    """One process that may lead."""

    lease: Lease
    runtime: Runtime
    clock: ManualClock
    is_well: bool = True
    is_free: bool = True
    changes: list[bool] = field(default_factory=list)

    def tick(self) -> None:
        self.lease.tick(self.clock.now())

    def complaints(self) -> list[str]:
        return self.runtime.complaints.all()

    def configure(self, config: Config, *, anew: bool = True) -> None:
        self.runtime.use(config)
        self.lease.configured(anew=anew)


class Table:
    """The seats around one database."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.folder = folder
        self.database_clock = ManualClock()
        self.seats: list[Seat] = []
        shutil.copy(empty_store, folder / "retrain.db")

    def config(self, type: str = "drift") -> Config:
        path = self.folder / "retrain.yaml"
        path.write_text(CONFIG % type)
        return load_config(path)

    def sit(self, config: Config | None = None, *, ttl: timedelta | None = TTL, owner: int | None = None) -> Seat:
        config = config or self.config()
        number = len(self.seats) + 1
        owner = owner or number
        clock, random = ManualClock(), SeededRandom(number)
        ids = Ids(clock, random)
        url = f"sqlite:///{self.folder / 'retrain.db'}"
        store = Store.open(url, base=Path("/"), clock=clock, ids=ids, database_clock=self.database_clock)
        runtime = Runtime(
            config=config,
            store=store,
            clock=clock,
            random=random,
            ids=ids,
            log=RecordingLog(),
            metrics=Metrics(),
            owner=f"owner-{owner}",
        )
        seats = self.seats
        process = Process(
            is_well=lambda: seats[number - 1].is_well,
            is_free=lambda: seats[number - 1].is_free,
            report=lambda: {"ready": True},
            changed=lambda: seats[number - 1].changes.append(seats[number - 1].lease.leads),
        )
        lease = Lease(runtime, make_replica(id=f"rep-{number}", owner=f"owner-{owner}"), process, ttl=ttl)
        runtime.lease = lease
        self.seats.append(Seat(lease, runtime, clock))
        return self.seats[-1]

    def wait(self, by: timedelta | float, *others: Seat) -> None:
        """Let time pass for the database and for these seats, by default for all."""
        for clock in [self.database_clock, *(seat.clock for seat in others or self.seats)]:
            clock.advance(by)

    def leaders(self) -> list[int]:
        return [number for number, seat in enumerate(self.seats, start=1) if seat.lease.leads]


@pytest.fixture
def table(tmp_path: Path, empty_store: Path) -> Iterator[Table]:
    table = Table(tmp_path, empty_store)
    yield table
    disarm()
    for seat in table.seats:
        seat.runtime.store.close()


def term_of(seat: Seat) -> int:
    assert seat.runtime.store.term is not None
    return seat.runtime.store.term.number


def test_G03_the_first_to_come_leads_and_stays(table: Table) -> None:
    """Others look, and take nothing while it renews."""
    one, two = table.sit(), table.sit()
    one.tick()
    for _ in range(10):
        two.tick()
        table.wait(5)
        one.tick()

    assert table.leaders() == [1]
    assert (one.changes, two.changes) == ([True], [])


def test_G07_another_leads_when_the_leader_is_silent_for_the_length_of_its_lease(table: Table) -> None:
    """Not before; and with a term of its own."""
    one, two = table.sit(), table.sit()
    one.tick()
    two.tick()
    table.wait(TTL - timedelta(seconds=1))
    two.tick()
    before = table.leaders()
    table.wait(1)
    two.tick()

    assert before == [1]
    assert two.lease.leads
    assert term_of(two) == term_of(one) + 1


def test_G07_a_daemon_that_was_killed_leads_again_at_once(table: Table) -> None:
    """Nobody else has the lock of its state directory, so what that held is given back; and its former configuration rivals nobody."""
    table.sit(table.config("other")).tick()
    table.wait(1)
    again = table.sit(table.config("drift"), owner=1)
    again.tick()

    assert again.lease.leads
    assert term_of(again) == 2
    with again.runtime.store.reading() as tx:
        assert [replica.id for replica in tx.replicas.all()] == ["rep-2"]


def test_G03_no_call_is_made_in_the_last_seconds_of_a_lease(table: Table) -> None:
    """By the leader's own clock that does not jump, whatever the database's says."""
    one = table.sit()
    one.tick()
    one.clock.advance(TTL - QUIET)
    one.lease.check()
    one.clock.advance(1)

    with pytest.raises(LeaseUncertain, match="13 s ago"):
        one.lease.check()


def test_G03_one_that_was_stopped_past_its_lease_leads_no_more(table: Table) -> None:
    """It finds out at its next renewal, and until then it makes no call."""
    one, two = table.sit(), table.sit()
    one.tick()
    table.wait(TTL * 2)
    two.tick()
    with pytest.raises(LeaseUncertain):
        one.lease.check()
    one.tick()

    assert table.leaders() == [2]
    assert one.changes == [True, False]
    assert one.runtime.store.term is None


def test_the_lease_of_one_that_nobody_replaced_goes_on(table: Table) -> None:
    """An outage of the database longer than the lease changes no leader when nobody else is there."""
    one = table.sit()
    one.tick()
    table.wait(TTL * 4)
    one.tick()
    one.lease.check()

    assert one.changes == [True]


def test_a_lease_given_back_is_taken_at_the_next_look(table: Table) -> None:
    """A planned end keeps nobody waiting, and who retired never leads again."""
    one, two = table.sit(), table.sit()
    one.tick()
    two.tick()
    one.lease.give_back()
    two.tick()
    two.lease.give_back()
    one.tick()

    assert two.changes == [True]
    assert table.leaders() == []


def test_a_leader_whose_loops_hang_lets_another_lead(table: Table) -> None:
    """A live heartbeat over dead loops is the classic silent stop."""
    one, two = table.sit(), table.sit()
    one.tick()
    two.tick()
    one.is_well = False
    table.wait(5)
    one.tick()
    two.tick()
    one.tick()

    assert table.leaders() == [2]


def test_G03_nobody_leads_while_something_of_a_former_term_is_at_work(table: Table) -> None:
    """What began under one term must not be written under another."""
    one, two = table.sit(), table.sit()
    one.tick()
    table.wait(TTL)
    two.tick()
    one.tick()
    one.is_free = False
    table.wait(TTL)
    one.tick()
    before = one.lease.leads
    one.is_free = True
    one.tick()

    assert before is False
    assert one.lease.leads


def test_a_write_that_was_refused_ends_it(table: Table) -> None:
    """Whichever loop learns first that another leads, nothing is done any more."""
    one, two = table.sit(), table.sit()
    one.tick()
    table.wait(TTL, two)
    two.tick()
    one.lease.lose("the term is over")
    before = one.lease.leads
    one.tick()

    assert before is False
    assert one.changes == [True, False]


def test_the_lost_answer_to_a_taking_leaves_nobody_leading_for_long(table: Table) -> None:
    """The lease was taken, and its taker does not know: it gives it up and takes it anew, under another term."""

    def lose(name: str) -> None:
        raise StoreBusy(f"the answer to {name} was lost")

    one = table.sit()
    arm("transaction.seek.after_commit", lose)
    one.tick()
    before = one.lease.leads
    table.wait(1)
    one.tick()

    assert before is False
    assert one.lease.leads
    assert term_of(one) == 2


def test_clocks_of_replicas_do_not_matter(table: Table) -> None:
    """One that is an hour ahead takes nothing that is held, one an hour behind keeps what it holds."""
    one, two = table.sit(), table.sit()
    one.clock.set_now(one.clock.now() - timedelta(hours=1))
    two.clock.set_now(two.clock.now() + timedelta(hours=1))
    for _ in range(5):
        one.tick()
        two.tick()
        table.wait(5)

    assert table.leaders() == [1]


# ------------------------------------------------------------------------------------------------------- configurations


def test_a_replica_with_a_newer_configuration_takes_over(table: Table) -> None:
    """The leader gives the lease back as soon as it sees one, and complains as long as it is the older one."""
    old = table.config("drift")
    one = table.sit(old)
    one.tick()
    table.wait(5)
    two = table.sit(table.config("other"))
    two.tick()
    table.wait(1)
    one.tick()
    two.tick()
    table.wait(1)
    one.tick()

    assert table.leaders() == [2]
    table.wait(TTL, one)
    two.clock.advance(TTL)
    two.tick()
    one.tick()
    assert table.leaders() == [2]


def test_an_older_configuration_decides_only_when_nobody_with_the_newer_one_is_there(table: Table) -> None:
    """Then somebody must, and it complains no more."""
    one = table.sit(table.config("drift"))
    one.tick()
    table.wait(5)
    two = table.sit(table.config("other"))
    two.tick()
    one.tick()
    two.tick()
    table.wait(LIVE + timedelta(seconds=1), one)
    one.tick()

    assert one.lease.leads
    assert one.complaints() == []


def led_by_the_older(table: Table, newer: Seat) -> Seat:
    """Let the first seat, with an older configuration, lead and decide because the newer one's process is gone."""
    older = table.seats[0]
    table.wait(LIVE + timedelta(seconds=1), older)
    older.tick()
    assert older.lease.leads
    Evaluator(older.runtime).tick(older.clock.now())
    newer.clock.advance(LIVE + timedelta(seconds=1))
    return older


def test_an_older_configuration_that_had_to_decide_is_not_newer_for_that(table: Table) -> None:
    """When the newer one's replica is back after a crash, it leads again: a deployment that was half done goes on."""
    table.sit(table.config("drift")).tick()
    table.wait(5)
    newer = table.config("other")
    died = table.sit(newer)
    died.tick()
    table.seats[0].tick()
    died.tick()
    Evaluator(died.runtime).tick(died.clock.now())
    older = led_by_the_older(table, died)
    back = table.sit(newer)
    back.tick()
    older.tick()
    back.tick()

    assert back.lease.leads
    assert not older.lease.leads


def test_a_newer_configuration_that_was_taken_back_is_older_afterwards(table: Table) -> None:
    """Its replicas said goodbye, so what decides now was meant: a forgotten replica with the other one must not take over."""
    table.sit(table.config("drift")).tick()
    table.wait(5)
    newer = table.config("other")
    gone = table.sit(newer)
    gone.tick()
    table.seats[0].tick()
    gone.tick()
    Evaluator(gone.runtime).tick(gone.clock.now())
    gone.lease.give_back()
    gone.lease.leave()
    older = led_by_the_older(table, gone)
    forgotten = table.sit(newer)
    forgotten.tick()
    older.tick()
    table.wait(5, older, forgotten)
    forgotten.tick()

    assert table.leaders() == [1]
    assert "has a newer configuration" in forgotten.complaints()[0]


def test_a_reload_on_a_follower_makes_it_lead(table: Table) -> None:
    """Whoever reloads wants what was loaded to decide, on whichever replica it was asked for."""
    old = table.config("drift")
    one, two = table.sit(old), table.sit(old)
    one.tick()
    two.tick()
    table.wait(3)
    two.configure(table.config("other"))
    two.tick()
    one.tick()
    two.tick()

    assert table.leaders() == [2]


# ------------------------------------------------------------------------------------------------------- alone


def test_who_is_alone_seizes_the_lease_for_good(table: Table) -> None:
    """Nothing is written while nothing happens, and the replicas of former processes are gone."""
    table.sit().tick()
    two = table.sit(ttl=None)
    two.lease.seize()
    table.wait(timedelta(days=1))
    two.lease.tick(two.clock.now())
    two.lease.check()

    assert two.changes == [True]
    with two.runtime.store.reading() as tx:
        assert [replica.id for replica in tx.replicas.all()] == ["rep-2"]
