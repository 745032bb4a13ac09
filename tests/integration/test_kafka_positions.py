"""Where a Kafka source reads from: first start, restarts, gaps, topics that come and go, and what a person asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.errors import InvalidInput
from controller.ports import Batch
from controller.testing import run_until
from tests.integration.kafka_house import CLIENTS, House, cloud_event
from tests.kafka import KafkaBroker


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(kafka_broker: KafkaBroker, tmp_path: Path, client: str) -> House:
    """A house whose topic is not there yet."""
    return House(kafka_broker, tmp_path, client)


# ----------------------------------------------------------------------------------------------------- whose offset


def test_the_first_start_reads_from_the_beginning(house: House) -> None:
    """Without any position everything in the log is news, in order."""
    house.create()
    house.produce(*range(3000))

    house.run_until(lambda: len(house.ids()) >= 3000)

    assert house.ids() == [str(number) for number in range(3000)]
    assert house.position() == 3000


def test_start_latest_reads_what_comes_after_and_forgets_nothing_later(house: House) -> None:
    """What is there at the first start is passed over; what comes while we are down is not, and a new partition is read whole."""
    house.create()
    house.produce(1)
    house.run_until(lambda: house.position() == 1, start="latest")
    house.produce(2)

    house.run_until(lambda: house.ids() == ["2"], start="latest")
    house.broker.add_partitions(house.topic, 2)
    house.produce(3, partition=1)

    house.run_until(lambda: house.ids() == ["2", "3"], start="latest")


def test_our_position_wins_over_the_groups(house: House) -> None:
    """Whatever the group's offset says, we go on where our ledger says."""
    house.create()
    house.produce(1, 2)
    house.run_until(lambda: house.position() == 2)
    house.broker.commit(house.group, house.topic, 0)
    house.produce(3)
    house.run_until(lambda: house.position() == 3)
    assert not house.inbox.duplicates
    house.produce(4)
    house.broker.commit(house.group, house.topic, 4)

    house.run_until(lambda: house.ids() == ["1", "2", "3", "4"])


def test_the_groups_offset_counts_when_we_have_none(house: House) -> None:
    """A group that another program served goes on where that one stood."""
    house.create()
    house.produce(1, 2, 3)
    house.broker.commit(house.group, house.topic, 2)

    house.run_until(lambda: house.ids() == ["3"])


def test_the_groups_offset_follows(house: House) -> None:
    """What is stored is committed to the group, for people and their tools to see."""
    house.create()
    house.produce(1, 2, 3)

    house.run_until(lambda: house.position() == 3)

    assert house.broker.committed(house.group, house.topic) == 3


def test_G02_a_crash_between_store_and_commit_repeats_nothing(house: House) -> None:
    """A reader that is gone after the store and before the commit left its position in the store."""
    house.create()
    house.produce(1, 2, 3)

    class Died(Exception):
        pass

    def emit(batch: Batch) -> Any:
        house.inbox.emit(batch)
        if batch.events:
            raise Died

    with pytest.raises(Died):
        run_until(house.source(emit), lambda: False)
    house.produce(4)

    house.run_until(lambda: len(house.ids()) >= 4)

    assert house.ids() == ["1", "2", "3", "4"]
    assert not house.inbox.duplicates


def test_G01_a_crash_before_the_store_loses_nothing(house: House) -> None:
    """What was read and not stored is read again."""
    house.create()
    house.produce(1, 2, 3)

    class Died(Exception):
        pass

    def emit(batch: Batch) -> Any:
        if batch.events:
            raise Died
        return house.inbox.emit(batch)

    with pytest.raises(Died):
        run_until(house.source(emit), lambda: False)
    assert house.ids() == []

    house.run_until(lambda: house.ids() == ["1", "2", "3"])


# ------------------------------------------------------------------------------------------------------------- gaps


@pytest.mark.parametrize("on_gap, ids", [("earliest", ["1", "5", "6"]), ("latest", ["1", "7"]), ("fail", ["1"])])
def test_G12_retention_that_passed_us_by_is_told(house: House, on_gap: str, ids: list[str]) -> None:
    """Records that are gone are a `source.gap` event with both offsets; then it goes on as `on_gap` says, or waits for a person."""
    house.create()
    house.produce(1)
    house.run_until(lambda: house.position() == 1)
    house.produce(2, 3, 4, 5, 6)
    house.broker.delete_records(house.topic, 4)
    to = 6 if on_gap == "latest" else 4

    for _ in range(2):  # a restart tells the same gap, which is the same event
        with house.running(on_gap=on_gap) as source:
            house.wait(lambda: len(house.gaps()) == 1 and source.report().get("assigned"))
            if on_gap == "latest":
                house.wait(lambda: house.position() in (6, 7))
                house.produce(*([7] if "7" not in house.ids() else []))
            house.wait(lambda: house.ids() == ids)
            if on_gap == "fail":
                reason = house.wait(lambda: house.inbox.complaints.get(f"partition {house.topic}/0"))
                assert "we stood at offset 1" in reason
                assert house.position() == 1

    (gap,) = house.gaps()
    assert (gap["topic"], gap["partition"], gap["from"], gap["to"]) == (house.topic, 0, 1, to)
    assert gap["on_gap"] == on_gap
    assert "retention" in gap["reason"]


def test_a_halted_partition_stops_only_itself_and_a_seek_resolves_it(house: House) -> None:
    """The other partition goes on; after the seek the source is well, and the complaint is gone."""
    house.create(partitions=2)
    house.produce(1)
    house.run_until(lambda: house.ids() == ["1"] and house.position(1) == 0)
    house.produce(2, 3)
    house.broker.delete_records(house.topic, 2)
    with house.running() as source:
        house.wait(lambda: source.report().get("halted"))
        house.produce(10, partition=1)
        house.wait(lambda: house.ids() == ["1", "10"])
    _remember(house, house.source().seek({"topic": house.topic, "partition": "0", "to": "earliest"}))
    house.inbox.complaints.clear()  # as the controller does when it stops a source to seek

    with house.running() as source:
        house.wait_ids(1, 10, 3)
        assert not house.inbox.complaints

    assert len(house.gaps()) == 1
    assert not [key for key in house.inbox.ledger if key.startswith("@seek")]


def test_G12_offset_out_of_range_while_running(house: House) -> None:
    """The log is cut while the reader is blocked by its store: the gap is told with the offsets."""
    house.create()
    cut = []

    def emit(batch: Batch) -> Any:
        receipts = house.inbox.emit(batch)
        if batch.events and not cut:
            cut.append(True)
            house.broker.produce_all(
                house.topic, [cloud_event(number, data="x" * 900_000) for number in range(100, 160)]
            )
            house.broker.delete_records(house.topic, 61)
            house.produce(7)
        return receipts

    with house.running(house.source(emit, on_gap="earliest", max_poll_records=1)):
        house.wait(lambda: house.position() == 0)
        house.produce(1)
        house.wait(lambda: "7" in house.ids())

    (gap,) = house.gaps()
    assert gap["to"] == 61
    assert gap["from"] == 1 + len([each for each in house.ids() if each not in ("1", "7")])


# ------------------------------------------------------------------------------------------ topics that come and go


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_topic_that_is_created_later(house: House, start: str) -> None:
    """An unknown topic is waited for with a complaint, and read from its beginning once it is there."""
    with house.running(start=start):
        reason = house.wait(lambda: house.inbox.complaints.get("topics"))
        assert house.topic in reason
        if start == "latest":
            house.wait(lambda: f"@awaited/{house.topic}" in house.inbox.ledger)
        house.create()
        house.produce(1, 2)
        house.wait(lambda: house.ids() == ["1", "2"])
        house.wait(lambda: "topics" not in house.inbox.complaints)

    assert f"@awaited/{house.topic}" not in house.inbox.ledger


@pytest.mark.parametrize("running", [False, True], ids=["while down", "while running"])
def test_G12_a_topic_that_was_made_anew(house: House, running: bool) -> None:
    """A topic of the same name with another id is read from its beginning, and the gap says so."""
    house.create()
    house.produce(1, 2, 3)
    with house.running():
        house.wait(lambda: house.position() == 3)
        if running:
            house.broker.delete_topic(house.topic)
            house.wait(lambda: "topics" in house.inbox.complaints)
            house.create()
            house.produce(11, 12, 13, 14)
            house.wait(lambda: house.gaps())
            house.wait(lambda: len(house.ids()) == 7)
    if not running:
        house.broker.delete_topic(house.topic)
        house.create()
        house.produce(11, 12, 13, 14)
        house.run_until(lambda: len(house.ids()) == 7)

    (gap,) = house.gaps()
    assert (gap["from"], gap["to"]) == (3, 0)
    assert "made anew" in gap["reason"]
    assert house.ids() == ["1", "2", "3", "11", "12", "13", "14"]


def test_partitions_that_are_added_are_read_whole(house: House) -> None:
    """New partitions are found within the refresh, and nothing of them is passed over."""
    house.create()
    house.produce(1)

    with house.running():
        house.wait(lambda: house.ids() == ["1"])
        house.broker.add_partitions(house.topic, 3)
        house.produce(2, partition=1)
        house.produce(3, partition=2)
        house.wait_ids(1, 2, 3)


def test_several_topics(house: House) -> None:
    """All topics of one source are read; one that is missing does not keep the others."""
    other = house.broker.create_topic()
    house.broker.produce(other, cloud_event(1))

    with house.running(topics=[house.topic, other]):
        house.wait(lambda: house.ids() == ["1"])
        assert house.topic in house.inbox.complaints["topics"]


# ---------------------------------------------------------------------------------------------------------- seeking


def _remember(house: House, entries: Any) -> None:
    house.inbox.emit(Batch(events=(), ledger=entries))


@pytest.mark.parametrize(
    "to, read_again",
    [("earliest", [1, 2, 3, 4]), ("2", [3, 4]), ("latest", []), ("2026-01-01T00:00:01.5Z", [3, 4]), ("99", [])],
)
def test_a_seek_wins_over_our_position(house: House, to: str, read_again: list[int]) -> None:
    """The next run goes on where the person said, once; what was known is recognised."""
    house.create()
    begin = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for number in range(1, 5):
        house.broker.produce(house.topic, cloud_event(number), timestamp=begin + 1000 * (number - 1))
    house.run_until(lambda: house.position() == 4)
    _remember(house, house.source().seek({"to": to}))
    house.produce(5)
    house.inbox.duplicates.clear()

    with house.running():
        house.wait(lambda: not any(key.startswith("@seek") for key in house.inbox.ledger))
        if to in ("latest", "99"):
            house.produce(6)
        house.wait(lambda: str(6 if to in ("latest", "99") else 5) in house.ids())

    assert [int(event.source_id) for event in house.inbox.duplicates] == read_again
    assert not house.gaps()


def test_a_seek_of_one_partition_leaves_the_others(house: House) -> None:
    """Only what was named is read again; a later seek of all of them counts instead."""
    house.create(partitions=2)
    house.produce(1)
    house.produce(2, partition=1)
    house.run_until(lambda: house.position(0) == 1 and house.position(1) == 1)
    _remember(house, house.source().seek({"partition": "1", "to": "earliest"}))

    house.run_until(lambda: [event.source_id for event in house.inbox.duplicates] == ["2"])
    _remember(house, house.source().seek({"partition": "0", "to": "earliest"}))
    _remember(house, house.source().seek({"to": "latest"}))
    house.run_until(lambda: not any(key.startswith("@seek") for key in house.inbox.ledger))

    assert len(house.inbox.duplicates) == 1


@pytest.mark.parametrize(
    "where, reason",
    [
        ({"to": "yesterday"}, "no place in a log"),
        ({"to": ""}, "no place in a log"),
        ({"to": "2026-01-01T00:00:00"}, "no place in a log"),
        ({"topic": "other", "to": "earliest"}, "no topic of this source"),
        ({"partition": "first", "to": "earliest"}, "is no number"),
        ({"offset": "3"}, "no part of a position"),
    ],
)
def test_a_seek_that_makes_no_sense_is_refused(house: House, where: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        house.source().seek(where)
