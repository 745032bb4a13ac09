"""The loop that lays the chain, on both databases: at its pace, across restarts and crashes, and with more than one leader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.clock import Ids
from controller.config import load_config
from controller.core.seal import Verdict, examine
from controller.crash import arm, disarm
from controller.engine import sealer
from controller.engine.runtime import Runtime
from controller.engine.sealer import BATCH, Sealer
from controller.store import Store, schema
from controller.store.seals import chain
from controller.store.store import StaleTerm
from controller.telemetry import Metrics
from controller.testing import ManualClock, RecordingLog, SeededRandom

CONFIG = """\
version: 1
models: {churn: {policies: {drift: {on: {type: drift}}}, train: {launcher: process, command: [/bin/true]}}}
"""


class Crash(BaseException):
    """What a crash point raises here instead of ending the process."""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    disarm()


@pytest.fixture
def make_sealer(tmp_path: Path, clock: ManualClock) -> Callable[[Store], Sealer]:
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "retrain.yaml")

    def make(store: Store) -> Sealer:
        random = SeededRandom(1)
        runtime = Runtime(
            config=config,
            store=store,
            clock=clock,
            random=random,
            ids=Ids(clock, random),
            log=RecordingLog(),
            metrics=Metrics(),
            owner="here",
        )
        return Sealer(runtime)

    return make


@pytest.fixture
def loop(make_sealer: Callable[[Store], Sealer], store: Store) -> Sealer:
    return make_sealer(store)


def write(store: Store, count: int = 1, name: str = "run") -> None:
    with store.transaction("test", fenced=False) as tx:
        for number in range(count):
            tx.record("run", f"{name}-{number}", "", "QUEUED", "decided", "", "controller")


def run(loop: Sealer, clock: ManualClock, *, passing: float = 0) -> None:
    """Let so much time pass, with a tick now, whenever the loop wants one, and every ten seconds, as the daemon does."""
    end = clock.now() + timedelta(seconds=passing)
    while clock.now() <= end:
        wanted = loop.tick(clock.now()).next_at
        clock.advance(min(wanted or end, clock.now() + timedelta(seconds=10), end) - clock.now())
        if clock.now() == end and (wanted is None or wanted > end):
            loop.tick(end)
            return


def verify(store: Store) -> Verdict:
    return examine(chain(store))


def test_G13_what_happened_is_sealed(loop: Sealer, store: Store, clock: ManualClock) -> None:
    """The first link comes at once and says what there was before; the next covers what is new, when its time has come."""
    write(store, 3)
    run(loop, clock)
    first = verify(store)
    run(loop, clock, passing=10)
    second = verify(store)

    assert (first.links, first.rows, first.unsealed) == (1, 3, 1)
    assert (second.links, second.rows, second.unsealed, second.findings) == (2, 4, 0, ())


def test_when_nothing_is_new_nothing_is_written(loop: Sealer, store: Store, clock: ManualClock) -> None:
    """An idle installation lays no links."""
    run(loop, clock, passing=60)
    empty = verify(store).links
    write(store)
    for _ in range(10):
        run(loop, clock, passing=60)

    assert (empty, verify(store).links) == (0, 2)


def test_a_link_comes_every_ten_seconds_at_most(loop: Sealer, store: Store, clock: ManualClock) -> None:
    """Unless so many rows wait as one link covers."""
    write(store)
    run(loop, clock, passing=10)
    write(store, BATCH - 1)
    early = loop.tick(clock.now())
    before = verify(store).links
    write(store)
    run(loop, clock)

    assert early.next_at == clock.now() + timedelta(seconds=10)
    assert (before, verify(store).links) == (2, 3)


def test_a_clock_that_was_set_back_does_not_stop_it(loop: Sealer, store: Store, clock: ManualClock) -> None:
    """A link whose time lies ahead is no reason to wait for it."""
    write(store)
    run(loop, clock, passing=10)
    clock.set_now(clock.now() - timedelta(days=1))
    write(store)
    run(loop, clock)

    assert (verify(store).unsealed, verify(store).findings) == (0, ())


def test_a_backlog_is_sealed_in_links_of_bounded_size(loop: Sealer, store: Store, clock: ManualClock) -> None:
    """With a rest between two of them, because others decide and launch meanwhile."""
    write(store, 2 * BATCH + 10)
    first = loop.tick(clock.now())
    run(loop, clock, passing=30)
    with store.reading() as tx:
        counts = list(tx.execute(sa.select(schema.seal.c.count).order_by(schema.seal.c.number)).scalars())

    assert (first.worked, first.next_at) == (BATCH, clock.now() - timedelta(seconds=30) + sealer.REST)
    assert counts == [BATCH, BATCH, 11]


def test_G13_the_chain_goes_on_after_a_restart(
    loop: Sealer, store: Store, clock: ManualClock, make_store: Callable[..., Store], make_sealer: Callable[..., Sealer]
) -> None:
    """A new process with a new term follows the last link."""
    write(store)
    run(loop, clock, passing=10)
    other = make_store(seed=3)
    other.lead(owner="here", host="host", pid=2)
    write(other)
    run(make_sealer(other), clock, passing=20)
    with other.reading() as tx:
        head = tx.seals.head()

    assert (verify(other).findings, verify(other).unsealed) == ((), 0)
    assert head is not None
    assert (head.number, head.term) == (3, 2)


@pytest.mark.parametrize("point, links", [("before_commit", 0), ("after_commit", 1)])
def test_G13_a_crash_about_the_commit_leaves_a_whole_chain(
    loop: Sealer, store: Store, clock: ManualClock, make_sealer: Callable[..., Sealer], point: str, links: int
) -> None:
    """The link is there or it is not, and the next process goes on from what is."""

    def crash(name: str) -> None:
        raise Crash(name)

    write(store, 3)
    arm(f"transaction.seal.{point}", crash)
    with pytest.raises(Crash):
        loop.tick(clock.now())
    left = verify(store)
    run(make_sealer(store), clock, passing=20)

    assert (left.links, left.findings) == (links, ())
    assert (verify(store).rows, verify(store).unsealed, verify(store).findings) == (4, 0, ())


def test_G13_a_former_leader_lays_no_link(
    loop: Sealer, store: Store, clock: ManualClock, make_store: Callable[..., Store]
) -> None:
    """Its term is over, so what it would write is refused."""
    write(store)
    make_store(seed=3).lead(owner="there", host="host", pid=2)

    with pytest.raises(StaleTerm):
        loop.tick(clock.now())
    assert verify(store).links == 0


def test_G13_of_two_leaders_one_lays_the_link(
    loop: Sealer, store: Store, clock: ManualClock, make_store: Callable[..., Store], make_sealer: Callable[..., Sealer]
) -> None:
    """Two that believe to lead in one term seal at once, again and again: no row is sealed twice or left out."""
    other = make_store(seed=3)
    other.term = store.term
    rival = make_sealer(other)
    write(store)

    def tick(one: Sealer) -> None:
        barrier.wait(20)
        one.tick(clock.now())

    for number in range(8):
        write(store, 3, f"run-{number}")
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=tick, args=(each,)) for each in (loop, rival)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        clock.advance(11)
    run(loop, clock, passing=20)

    assert (verify(store).findings, verify(store).unsealed) == ((), 0)
    assert verify(store).rows == 1 + 8 * 3 + 1


def test_G13_a_slow_transaction_is_waited_for(
    loop: Sealer, store: Store, clock: ManualClock, make_store: Callable[..., Store]
) -> None:
    """On PostgreSQL a row with a lower number may commit after others: the chain waits for it, and nobody waits for the chain."""
    if store.dialect == "sqlite":
        pytest.skip("on SQLite one transaction writes at a time")
    slow = make_store(seed=3)
    with slow.transaction("slow", fenced=False) as late:
        late.record("run", "late", "", "QUEUED", "decided", "", "controller")
        late.write_history()
        write(store, 2, "early")
        run(loop, clock, passing=30)
        waiting = verify(store)
        write(store, 1, "later")
    run(loop, clock, passing=30)
    verdict = verify(store)

    assert (waiting.links, waiting.unsealed) == (0, 2)
    assert (verdict.findings, verdict.rows, verdict.unsealed) == ((), 5, 0)


def test_G13_under_steady_writing_the_chain_follows(
    loop: Sealer, store: Store, clock: ManualClock, make_store: Callable[..., Store]
) -> None:
    """Though somebody is always in the middle of a transaction, those who were at one moment end, and what they wrote is sealed."""
    if store.dialect == "sqlite":
        pytest.skip("on SQLite one transaction writes at a time")
    writers = [make_store(seed=seed) for seed in (3, 4)]
    open_ones = [each.transaction("slow", fenced=False) for each in writers]
    inside = [each.__enter__() for each in open_ones]
    for turn in range(6):
        at = turn % 2
        inside[at].record("run", f"run-{turn}", "", "QUEUED", "decided", "", "controller")
        inside[at].write_history()
        loop.tick(clock.now())
        open_ones[at].__exit__(None, None, None)
        open_ones[at] = writers[at].transaction("slow", fenced=False)
        inside[at] = open_ones[at].__enter__()
        inside[1 - at].record("run", f"other-{turn}", "", "QUEUED", "decided", "", "controller")
        inside[1 - at].write_history()
        loop.tick(clock.now())
        clock.advance(11)
    sealed = verify(store)
    for each in open_ones:
        each.__exit__(None, None, None)
    run(loop, clock, passing=30)

    assert sealed.links > 1
    assert (verify(store).findings, verify(store).unsealed) == ((), 0)
