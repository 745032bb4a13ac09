"""A member of a group to which nothing is given says so: a group that is stuck looks like a quiet topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from controller.sources.kafka import reader
from controller.sources.kafka.client import Bounds, Change, Partition, Polled, Settings, Topic, Trouble
from controller.sources.kafka.desk import Desk
from controller.sources.kafka.options import KafkaOptions
from controller.sources.kafka.reader import Reader
from controller.testing import ManualClock, MemoryInbox

DRIFT = Partition("drift", 0)
OPTIONS = KafkaOptions(bootstrap_servers=("localhost:1",), topics=("drift",), group_id="retrain")

Step = Callable[[], Polled]


class Member:
    """A client whose group does what the test's steps say: one step a poll, each a second long."""

    def __init__(self, house: House) -> None:
        self._house = house

    def subscribe(self) -> None:
        pass

    def poll(self, seconds: float, limit: int) -> Polled:
        self._house.clock.advance(1)
        return next(self._house.steps)()

    def begin(self, offsets: Mapping[Partition, int]) -> None:
        pass

    def stop(self, partitions: AbstractSet[Partition]) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        pass

    def committed(self, partitions: object) -> Mapping[Partition, int]:
        return {}

    def bounds(self, partitions: object) -> Mapping[Partition, Bounds]:
        return {DRIFT: Bounds(0, 0)}

    def offsets_at(self, partitions: object, milliseconds: int) -> Mapping[Partition, int]:
        return {}

    def topics(self) -> Mapping[str, Topic]:
        return self._house.topics

    def end(self, partition: Partition) -> int | None:
        return 0

    def close(self) -> None:
        pass


class House:
    """A reader in this thread, and what it complained of at each step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.inbox = MemoryInbox(name="bus", clock=self.clock)
        self.topics: dict[str, Topic] = {"drift": Topic(id="a", partitions=1)}
        self.seen: list[str | None] = []
        self.away_seconds = 0.0
        self._folder = folder
        monkeypatch.setattr(reader, "connect", self._connect)

    def _connect(self, settings: Settings) -> Member:
        if self.away_seconds:
            self.clock.advance(self.away_seconds)
            self.away_seconds = 0
            raise Trouble("no broker can be reached")
        return Member(self)

    def run(self, *steps: Step) -> None:
        """Let the reader poll so often, then end it."""
        run = Reader(OPTIONS, self.inbox.context(self._folder), Desk())

        def last() -> Polled:
            run.halt.set()
            return Polled()

        self.steps = iter([*(self._watched(step) for step in steps), self._watched(last)])
        run.run()
        assert run.error is None

    def _watched(self, step: Step) -> Step:
        def watched() -> Polled:
            self.seen.append(self.inbox.complaints.get("assignment"))
            return step()

        return watched


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def nothing() -> Polled:
    return Polled()


def change(kind: str) -> Step:
    return lambda: Polled(changes=[Change(kind=kind, partitions=frozenset({DRIFT}))])  # type: ignore[arg-type]


def test_a_member_without_partitions_says_so_until_it_has_one(house: House) -> None:
    """After 30 s without a partition the topic and the group are named; a partition ends the complaint."""
    house.run(*[nothing] * 35, change("assigned"), *[nothing] * 2)

    assert house.seen[:30] == [None] * 30
    assert "no partition of drift" in str(house.seen[34])
    assert "group 'retrain' for 30 s" in str(house.seen[34])
    assert house.seen[-1] is None


def test_the_wait_begins_when_the_last_partition_goes(house: House) -> None:
    """A partition that was held for long and then taken away does not count as time without one."""
    house.run(change("assigned"), *[nothing] * 60, change("revoked"), *[nothing] * 28, *[nothing] * 6)

    assert house.seen[:90] == [None] * 90
    assert house.seen[-1] is not None


def test_a_topic_that_is_not_there_is_another_complaint(house: House) -> None:
    """Without a topic there is nothing to be given, and that is complained of already."""
    house.topics = {}
    house.run(*[nothing] * 40)

    assert house.seen == [None] * 41
    assert "no topic 'drift'" in house.inbox.complaints["topics"]


def test_time_without_a_broker_is_no_time_without_partitions(house: House) -> None:
    """After an outage the group gets its 30 s to give us something before anybody is alarmed."""

    def lost() -> Polled:
        house.away_seconds = 300
        raise Trouble("the client failed")

    house.run(change("assigned"), nothing, lost, *[nothing] * 5)

    assert house.seen == [None] * len(house.seen)
