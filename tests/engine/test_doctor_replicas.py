"""Several replicas hear one source: their counts add up, silence is judged by the one that leads, and only of what nobody heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from controller.clock import Ids
from controller.config import load_config
from controller.core.model import CONTROLLER_ORIGIN, EPISODE_STATE, Event, Json, NewEvent
from controller.core.rhythm import SourceStat
from controller.engine.doctor import Doctor
from controller.engine.evaluator import Evaluator
from controller.engine.inbox import Inbox
from controller.engine.lease import Lease, Process
from controller.engine.runtime import Runtime
from controller.engine.sources import Sources
from controller.engine.ticker import Ticker
from controller.ports import Batch
from controller.store import Store, schema
from controller.store.rows import record
from controller.telemetry import Metrics
from controller.testing import ManualClock, RecordingLog, SeededRandom
from tests.factories import make_replica
from tests.statements import listen

#: Something is expected of both every two minutes: what is pushed comes to any replica, a schedule runs where it leads.
SOURCES: Mapping[str, Any] = {
    "bus": {"type": "webhook", "format": "cloudevents", "insecure": True, "expect_every": "2m"},
    "nightly": {"type": "cron", "schedule": "0 3 * * *", "expect_every": "2m"},
}
#: A lease is renewed this often.
STEP = 5.0


class Member:
    """One replica: what it hears, its doctor and its lease; ticked by hand."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self.clock = ManualClock()
        chance = SeededRandom(sum(map(ord, name)))
        ids = Ids(self.clock, chance)
        config = load_config(folder / "retrain.yaml")
        self.store = Store.open(url, base=folder, clock=self.clock, ids=ids)
        self.log = RecordingLog()
        self.runtime = Runtime(
            config=config,
            store=self.store,
            clock=self.clock,
            random=chance,
            ids=ids,
            log=self.log,
            metrics=Metrics(),
            owner=name,
        )
        process = Process(is_well=lambda: True, is_free=lambda: True, report=_nothing, changed=lambda: None)
        me = make_replica(id=f"rep-{name}", owner=name, config_version=config.version)
        self.lease = self.runtime.lease = Lease(self.runtime, me, process)
        self.inbox = Inbox(self.runtime)
        sources = Sources(self.runtime, self.inbox, Ticker(self.runtime))
        self.doctor = Doctor(self.runtime, self.inbox.arrivals, is_everywhere=sources.is_everywhere)

    def hear(self, *ids: str, source: str = "bus") -> None:
        """Take events in."""
        events = [NewEvent(source=f"/{source}", source_id=each, type="drift") for each in ids]
        self.inbox.put(source, Batch(events=events))
        self.inbox.tick(self.clock.now())

    def look(self) -> None:
        """Let its loops tick once."""
        self.lease.tick(self.clock.now())
        self.doctor.tick(self.clock.now())

    def stat(self, name: str = "bus") -> SourceStat:
        """How it says that a source is."""
        with self.store.reading() as tx:
            return self.doctor.stat(tx, name)


class Pair:
    """Two replicas on one database; `first` leads."""

    def __init__(self, folder: Path, url: str) -> None:
        config = {"version": 1, "store": url, "state_dir": "state", "sources": dict(SOURCES), "models": {}}
        (folder / "retrain.yaml").write_text(yaml.safe_dump(config))
        self._make = lambda name: Member(name, folder, url)
        self.first, self.second = self._make("first"), self._make("second")
        self.first.store.upgrade()
        self.look()

    @property
    def members(self) -> tuple[Member, Member]:
        return self.first, self.second

    def look(self) -> None:
        """Let both look."""
        for member in self.members:
            member.look()

    def listen(self, seconds: float, *, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass while both run; `each` happens at every step."""
        for _ in range(int(seconds // STEP)):
            for member in self.members:
                member.clock.advance(STEP)
            each()
            self.look()

    def hand_over(self) -> None:
        """Let the other lead, and the leader know."""
        leader, other = self._change()
        leader.lease.lose("another replica leads")
        leader.look()
        assert (leader.lease.leads, other.lease.leads) == (False, True)

    def depose(self) -> None:
        """Let the other lead without the leader's knowing, as after a long stop."""
        leader, other = self._change()
        assert (leader.lease.leads, other.lease.leads) == (True, True)

    def _change(self) -> tuple[Member, Member]:
        leader, other = self.members if self.first.lease.leads else self.members[::-1]
        assert leader.store.term is not None
        with other.store.transaction("test", fenced=False) as tx:
            tx.replicas.give_back(leader.lease.replica_id, leader.store.term.number)
        other.look()
        return leader, other

    def replace_first(self) -> None:
        """The first is killed; another process comes up in its place."""
        self.depose()
        self.first.store.close()
        self.first = self._make("third")
        self.first.clock.set_now(self.second.clock.now())
        self.look()

    def told(self, name: str = "bus") -> list[str]:
        """What was said about a source's silence, in order: firing or resolved."""
        return self._states(name, "source.silent")

    def failing(self) -> list[str]:
        """What was said about `bus` failing, in order."""
        return self._states("bus", "source.failing")

    def decide(self) -> None:
        """Let the leader's evaluator decide what came in."""
        leader = self.first if self.first.lease.leads else self.second
        evaluator = Evaluator(leader.runtime)
        evaluator.activate(actor="test")
        evaluator.tick(leader.clock.now())

    def _states(self, name: str, kind: str) -> list[str]:
        found = [event for event in self.events() if (event.subject, event.type) == (name, kind)]
        return [str(event.extensions[EPISODE_STATE]) for event in found]

    def events(self) -> list[Event]:
        """The events of the doctors."""
        table = schema.event
        mine = sa.select(table).where(table.c.origin == CONTROLLER_ORIGIN).order_by(table.c.id)
        with self.second.store.reading() as tx:
            return [record(Event, row) for row in tx.execute(mine)]

    def row(self, name: str = "bus") -> SourceStat:
        """What is written of a source."""
        with self.second.store.reading() as tx:
            found = tx.sources.get(name)
        assert found is not None
        return found

    def close(self) -> None:
        for member in self.members:
            member.store.close()


def _nothing() -> Mapping[str, Json]:
    return {}


@pytest.fixture
def pair(database_url: str, tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path, database_url)
    yield found
    found.close()


# --------------------------------------------------------------------------------------------------------- counting


def test_counts_of_replicas_add_up(pair: Pair) -> None:
    """Each adds what it heard, both show the sum, and the last event is the newest of any."""
    pair.first.hear("1", "2")
    pair.first.clock.advance(2)
    pair.second.clock.advance(2)
    pair.second.hear("3", "1")
    pair.listen(10)
    pair.second.hear("4")
    pair.listen(10)
    row = pair.row()
    newest = pair.second.stat()

    assert (row.stored, row.duplicates) == (4, 1)
    assert [arrival.count for arrival in row.arrivals] == [2, 2, 1]
    assert list(row.arrivals) == sorted(row.arrivals, key=lambda arrival: arrival.at)
    assert newest.last_event_id == row.last_event_id
    assert newest.last_at == row.last_at == row.arrivals[-1].at
    assert (pair.first.stat().stored, newest.stored) == (4, 4)


def test_one_shows_what_the_other_wrote_and_itself_has_not(pair: Pair) -> None:
    """What is shown is the row, and on top of it what this replica heard since."""
    pair.first.hear("1")
    pair.listen(10)
    pair.first.hear("2")

    assert pair.first.stat().stored == 2
    assert pair.second.stat().stored == 1


def test_replicas_that_write_at_once_lose_nothing(pair: Pair) -> None:
    """The row is locked while one adds to it."""

    def work(member: Member) -> None:
        for number in range(25):
            member.hear(f"{member.runtime.owner}-{number}")
            member.doctor.flush()

    threads = [threading.Thread(target=work, args=[member]) for member in pair.members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pair.row().stored == 50


def test_a_new_replica_goes_on_counting(pair: Pair) -> None:
    """Totals are in the database, and nowhere else."""
    pair.first.hear("1")
    pair.first.doctor.flush()
    pair.replace_first()
    pair.first.hear("2", "1")
    pair.listen(10)

    assert (pair.row().stored, pair.row().duplicates) == (2, 1)


# ---------------------------------------------------------------------------------------------------------- silence


def test_silence_is_said_once_and_by_the_leader(pair: Pair) -> None:
    """One event for each source, under the leader's term, whoever else looks."""
    pair.first.hear("1")
    pair.listen(600)

    assert pair.told("bus") == ["firing"]
    assert pair.told("nightly") == ["firing"]
    assert [line for line in pair.second.log.lines if line[1] == "source.silent"] == []


def test_what_another_replica_hears_is_not_silent(pair: Pair) -> None:
    """A leader that hears nothing itself says nothing of a source that talks to a follower."""
    ids = iter(range(10_000))
    pair.listen(600, each=lambda: pair.second.hear(str(next(ids))))

    assert pair.told("bus") == []
    assert pair.row().stored == 120


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_clocks_that_differ_make_no_silence(pair: Pair, skew: timedelta) -> None:
    """That the other heard something is read from counts, and for how long nobody did from clocks that do not jump."""
    if pair.first.store.dialect == "sqlite":
        pytest.skip("there a lease is measured by the clock that is wrong here")
    ids = iter(range(10_000))
    pair.second.clock.set_now(pair.second.clock.now() + skew)
    pair.listen(300, each=lambda: pair.second.hear(str(next(ids))))
    pair.hand_over()
    pair.listen(300, each=lambda: pair.first.hear(str(next(ids))))
    pair.hand_over()
    pair.replace_first()
    pair.listen(120, each=lambda: pair.second.hear(str(next(ids))))

    assert pair.told("bus") == []


def test_what_another_replica_hears_ends_a_silence(pair: Pair) -> None:
    """It is told within moments."""
    pair.listen(300)
    assert pair.told("bus") == ["firing"]
    pair.second.hear("1")
    pair.listen(15)

    assert pair.told("bus") == ["firing", "resolved"]


@pytest.mark.parametrize("how", ["hand_over", "depose", "replace_first"])
def test_a_change_of_leader_repeats_nothing(pair: Pair, how: str) -> None:
    """The next leader knows what was said; it says when the silence ends."""
    pair.listen(300)
    getattr(pair, how)()
    pair.listen(300)
    assert pair.told("bus") == ["firing"]
    pair.second.hear("1")
    pair.listen(15)

    assert pair.told("bus") == ["firing", "resolved"]


def test_silence_is_measured_over_changes_of_leader(pair: Pair) -> None:
    """Replicas listen whoever leads, so a lease that never stays for a minute hides no silence."""
    pair.first.hear("1")
    for _ in range(6):
        pair.listen(30)
        pair.hand_over()

    assert pair.told("bus") == ["firing"]


def test_a_source_of_the_leader_may_catch_up_where_it_moves(pair: Pair) -> None:
    """What only the leader runs was due while nobody ran it: the next leader gives it a minute."""
    pair.first.hear("1", source="nightly")
    pair.listen(115)
    pair.hand_over()
    pair.listen(50)
    assert pair.told("nightly") == []
    pair.first.hear("2", source="nightly")
    pair.listen(60)
    assert pair.told("nightly") == []
    pair.listen(120)

    assert pair.told("nightly") == ["firing"]


def test_a_leader_that_was_deposed_says_nothing(pair: Pair) -> None:
    """Its word carries an old term and is refused; it follows from then on, and goes on counting."""
    pair.first.hear("1")
    pair.listen(110)
    pair.depose()
    pair.first.clock.advance(60)
    pair.first.doctor.tick(pair.first.clock.now())
    assert not pair.first.lease.leads
    pair.first.hear("2")
    pair.listen(15)

    assert pair.told("bus") == []
    assert pair.row().stored == 2


# ---------------------------------------------------------------------------------------------------------- failing


def test_only_the_leader_says_that_a_source_is_failing(pair: Pair) -> None:
    """What a follower complains of stands in its own report."""
    pair.second.runtime.complaints.set("bus", "run", "connection refused")
    pair.listen(60)

    assert pair.failing() == []


def test_a_change_of_leader_repeats_no_failing(pair: Pair) -> None:
    """The next leader knows what stands open, goes on with it, and says its end."""
    for member in pair.members:
        member.runtime.complaints.set("bus", "run", "connection refused")
    pair.listen(60)
    pair.decide()
    pair.hand_over()
    pair.listen(60)
    assert pair.failing() == ["firing"]
    for member in pair.members:
        member.runtime.complaints.set("bus", "run", None)
    pair.listen(75)

    assert pair.failing() == ["firing", "resolved"]


# -------------------------------------------------------------------------------------------------------- what it costs


def test_a_replica_alone_reads_nothing_while_idle(pair: Pair) -> None:
    """Without company the rows are as it wrote them."""
    pair.second.lease.leave()
    alone = pair.first
    alone.look()
    alone.clock.advance(STEP)
    alone.look()
    found: list[str] = []
    listen(alone.store, lambda *given: found.append(given[2]))
    for _ in range(6):
        alone.clock.advance(STEP)
        alone.doctor.tick(alone.clock.now())

    assert found == []


def test_only_the_leader_writes_that_it_listens(pair: Pair) -> None:
    """A follower that hears nothing writes nothing."""
    pair.listen(30)
    found: list[str] = []
    listen(pair.second.store, lambda *given: found.append(given[2]))
    pair.listen(90)

    assert [each for each in found if "source_stat" in each and not each.startswith("SELECT")] == []
