"""Timed sources are called when they are due, each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import ClassVar

import pytest

from controller.engine.ticker import PATIENCE, PollThreads, Ticker
from controller.errors import RetryLater, StoreBusy
from controller.ports import PluginOptions
from controller.testing import wait_until
from tests.engine.house import House


class Every:
    """A timed source that wants to be called every so often."""

    class Options(PluginOptions):
        """Options."""

    Options_: ClassVar[type[PluginOptions]] = Options

    def __init__(self, period: timedelta | None, *errors: BaseException) -> None:
        self.period = period
        self.errors = list(errors)
        self.polls: list[datetime] = []

    def poll(self, now: datetime) -> datetime | None:
        """Note the call."""
        self.polls.append(now)
        if self.errors:
            raise self.errors.pop(0)
        return None if self.period is None else now + self.period


class Hanging(Every):
    """Its polls last until they are let go."""

    patience = timedelta(seconds=20)

    def __init__(self, *errors: Exception) -> None:
        super().__init__(timedelta(minutes=1), *errors)
        self.go = threading.Event()
        self.at_once = self.most_at_once = 0
        self.was_closed = False

    def poll(self, now: datetime) -> datetime | None:
        """Hang."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self.go.wait(30)
            return super().poll(now)
        finally:
            self.at_once -= 1

    def close(self) -> None:
        """Say that it was asked to end."""
        self.was_closed = True


class ByHand:
    """Workers that run a poll when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[], None]] = {}

    def begin(self, name: str, poll: Callable[[], None]) -> None:
        """Keep it."""
        assert name not in self.waiting, "two polls of one source at once"
        self.waiting[name] = poll

    def finish(self, name: str) -> None:
        """Run it."""
        self.waiting.pop(name)()


MINUTE = timedelta(minutes=1)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A source whose polls hang until the test has ended."""
    source = Hanging()
    yield source
    source.go.set()


def complaints(house: House) -> list[str]:
    """What is complained of."""
    return house.runtime.complaints.all()


def test_polled_at_start_and_when_due(house: House) -> None:
    """At once, then at the instants it asks for; the tick says when the next one is."""
    one, never = Every(MINUTE), Every(None)
    house.ticker.use({"one": one, "never": never})
    start = house.now
    assert house.ticker.tick(start).next_at == start + MINUTE

    house.ticker.tick(house.clock.advance(59))
    house.ticker.tick(house.clock.advance(1))

    assert one.polls == [start, start + MINUTE]
    assert never.polls == [start]


def test_G10_a_bad_source_stops_no_other(house: House) -> None:
    """It is complained of, tried again after a backoff, and well again when it succeeds."""
    bad, good = Every(MINUTE, KeyError("a bug"), RetryLater("503")), Every(MINUTE)
    house.ticker.use({"bad": bad, "good": good})
    house.ticker.tick(house.now)
    assert len(good.polls) == 1
    (complaint,) = complaints(house)
    assert complaint.startswith("bad: ")

    for _ in range(4):
        house.ticker.tick(house.clock.advance(MINUTE))

    assert len(good.polls) == 5
    assert len(bad.polls) >= 3
    assert complaints(house) == []


def test_G10_a_poll_that_ends_its_thread_is_tried_again(house: House) -> None:
    """What a plugin raises to end its program ends neither its source nor anything else."""
    source = Every(timedelta(minutes=1), SystemExit(3))
    ticker = Ticker(house.runtime)
    ticker.use({"rude": source})

    ticked = ticker.tick(house.now)

    assert house.runtime.complaints.of("rude") == {"poll": "SystemExit(3)"}
    assert ticked.next_at is not None
    house.clock.set_now(ticked.next_at)
    ticker.tick(house.now)
    assert len(source.polls) == 2
    assert house.runtime.complaints.of("rude") == {}


def test_G07_a_store_that_was_busy_is_tried_again_soon(house: House) -> None:
    """However often it was busy, a timed source is polled within two seconds of its return (DB-02)."""
    source = Every(timedelta(minutes=1), *[StoreBusy("it is away", code="store.down")] * 20)
    ticker = Ticker(house.runtime)
    ticker.use({"patient": source})
    waits = []
    for _ in range(20):
        ticked = ticker.tick(house.now)
        assert ticked.next_at is not None
        waits.append(ticked.next_at - house.now)
        house.clock.set_now(ticked.next_at)

    assert max(waits) <= timedelta(seconds=2)
    ticker.tick(house.now)
    assert house.runtime.complaints.of("patient") == {}


def test_a_new_set_of_sources(house: House) -> None:
    """After a reload what is gone is not polled any more, and what is there is polled at once."""
    old, new = Every(MINUTE), Every(MINUTE)
    house.ticker.use({"old": old})
    house.ticker.tick(house.now)
    house.ticker.use({"new": new})

    house.ticker.tick(house.clock.advance(MINUTE))

    assert (len(old.polls), len(new.polls)) == (1, 1)


def test_a_poll_that_hangs_holds_up_nobody(house: House, hanging: Hanging) -> None:
    """The others are polled on time; it is complained of once its patience is over, and not polled a second time meanwhile."""
    ticker, good = Ticker(house.runtime, workers=PollThreads()), Every(MINUTE)
    ticker.use({"bad": hanging, "good": good})
    start = house.now
    ticker.tick(start)
    wait_until(lambda: good.polls and hanging.at_once)
    assert complaints(house) == []
    assert ticker.tick(start).next_at == start + hanging.patience

    ticker.tick(house.clock.advance(hanging.patience))
    assert complaints(house) == ["bad: a poll has not come back for 20 s"]
    ticker.tick(house.clock.advance(MINUTE))
    wait_until(lambda: len(good.polls) == 2)
    hanging.go.set()
    wait_until(lambda: hanging.polls)
    wait_until(lambda: complaints(house) == [])
    ticker.tick(house.clock.advance(MINUTE))
    wait_until(lambda: len(hanging.polls) == 2)

    assert hanging.most_at_once == 1


def test_a_source_that_was_replaced_while_it_was_polled(house: House) -> None:
    """What the old one comes to says nothing about the new one, which is polled when that has ended."""
    workers = ByHand()
    ticker, old, new = Ticker(house.runtime, workers=workers), Every(MINUTE, KeyError("old")), Every(MINUTE)
    ticker.use({"probe": old})
    ticker.tick(house.now)
    ticker.use({"probe": new})
    ticker.tick(house.now)
    assert (old.polls, new.polls) == ([], [])

    workers.finish("probe")
    assert complaints(house) == []
    assert ticker.tick(house.now).next_at == house.now + PATIENCE
    workers.finish("probe")

    assert (old.polls, new.polls) == ([house.now], [house.now])
    assert ticker.tick(house.now).next_at == house.now + MINUTE


def test_a_reload_does_not_begin_a_second_poll(house: House) -> None:
    """A source that stays and is being polled is left to it, and goes on from its answer."""
    workers, source = ByHand(), Every(MINUTE)
    ticker = Ticker(house.runtime, workers=workers)
    ticker.use({"probe": source})
    ticker.tick(house.now)

    ticker.use({"probe": source})
    ticker.tick(house.now)
    workers.finish("probe")

    assert ticker.tick(house.now).next_at == house.now + MINUTE
    assert source.polls == [house.now]


def test_letting_go_waits_for_the_running_poll(house: House, hanging: Hanging) -> None:
    """A source that is changed is asked to end; one that does not is left alone, and its successor is polled at once."""
    ticker, new = Ticker(house.runtime, workers=PollThreads()), Every(MINUTE)
    ticker.use({"probe": hanging})
    ticker.tick(house.now)
    wait_until(lambda: hanging.at_once)

    assert not ticker.let_go("probe", timeout=0.05)
    assert hanging.was_closed
    ticker.use({"probe": new})
    ticker.tick(house.now)
    wait_until(lambda: new.polls)
    wait_until(lambda: ticker.let_go("probe", timeout=0.05))
    house.clock.advance(PATIENCE)
    ticker.tick(house.now)

    assert complaints(house) == []


def test_stopping_waits_no_longer_than_it_is_told(house: House, hanging: Hanging) -> None:
    """Running polls are asked to end, a hanging one is left behind, and nothing is begun any more."""
    ticker, good = Ticker(house.runtime, workers=PollThreads()), Every(MINUTE)
    ticker.use({"bad": hanging, "good": good})
    ticker.tick(house.now)
    wait_until(lambda: hanging.at_once and good.polls)

    assert not ticker.stop(timeout=0.05)
    assert hanging.was_closed
    ticker.tick(house.clock.advance(MINUTE))
    hanging.errors.append(KeyError("too late"))
    hanging.go.set()

    assert ticker.stop(timeout=5)
    assert len(good.polls) == 1
    assert complaints(house) == ["bad: a poll has not come back for 20 s"]


def test_a_machine_without_threads_to_spare(house: House) -> None:
    """A poll that cannot be begun is complained of, and tried again."""

    class Exhausted(ByHand):
        def begin(self, name: str, poll: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

    ticker = Ticker(house.runtime, workers=Exhausted())
    ticker.use({"probe": Every(MINUTE)})

    next_at = ticker.tick(house.now).next_at

    assert next_at is not None
    assert house.now < next_at <= house.now + timedelta(seconds=1)
    assert complaints(house) == ['probe: RuntimeError("can\'t start new thread")']
