"""What goes wrong for one of several requests that are stored together stays with that one."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future

import pytest

from controller.api.gather import GROUP, Gatherer
from controller.core.model import DeadLetter, NewEvent, Receipt
from controller.errors import InvalidInput, StoreBusy
from controller.ports import Batch


class Inbox:
    """An inbox that notes what it is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Batch, Future[list[Receipt]]]] = []
        self.refusals: list[Exception] = []

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.asked.append((batch, Future()))
        return self.asked[-1][1]

    def answer(self, number: int) -> None:
        batch, done = self.asked[number]
        done.set_result([Receipt(event_id=event.source_id, duplicate=False) for event in batch.events])

    def refuse(self, number: int, error: Exception) -> None:
        self.asked[number][1].set_exception(error)

    def sizes(self) -> list[int]:
        return [len(batch.events) for batch, _ in self.asked]


def batch(*ids: str) -> Batch:
    return Batch(events=[NewEvent(source="/s", source_id=id_, type="t") for id_ in ids])


def many(count: int, name: str = "m") -> Batch:
    return batch(*(f"{name}{number}" for number in range(count)))


def ids(receipts: list[Receipt]) -> list[str]:
    return [receipt.event_id for receipt in receipts]


async def turn(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def asked_for(gatherer: Gatherer, *batches: Batch) -> list[asyncio.Task[list[Receipt]]]:
    return [asyncio.create_task(gatherer.put("api", each)) for each in batches]


@pytest.mark.parametrize("leaves", ["before it is handed over", "while it is stored", "after it was refused"])
def test_one_of_several_goes_away(leaves: str) -> None:
    """Its neighbours get their own receipts, or their own refusal, and not each other's; what it asked for is stored all the same."""

    async def story() -> None:
        inbox = Inbox()
        a, gone, c = asked_for(Gatherer(inbox), batch("a"), batch("b1", "b2"), batch("c"))
        if leaves == "before it is handed over":
            await asyncio.sleep(0)
            gone.cancel()
        await turn()
        if leaves == "while it is stored":
            gone.cancel()
        assert inbox.sizes() == [4]

        if leaves == "after it was refused":
            inbox.refuse(0, InvalidInput("one of them"))
            await turn()
            gone.cancel()
            assert inbox.sizes() == [4, 1, 2, 1]
            inbox.answer(1)
            inbox.refuse(2, InvalidInput("it is b"))
            inbox.answer(3)
        else:
            inbox.answer(0)

        assert (ids(await a), ids(await c)) == (["a"], ["c"])
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(story())


def test_all_of_a_group_go_away() -> None:
    """Nobody waits for the answer any more, and the next request is served."""

    async def story() -> None:
        inbox = Inbox()
        gatherer = Gatherer(inbox)
        gone = asked_for(gatherer, batch("a"), batch("b"))
        await turn()
        for each in gone:
            each.cancel()
        inbox.answer(0)
        await turn()
        (later,) = asked_for(gatherer, batch("c"))
        await turn()
        inbox.answer(1)

        assert ids(await later) == ["c"]

    asyncio.run(story())


def test_a_request_over_the_limit_goes_alone_and_whole() -> None:
    """It is neither divided nor put with others, and those before and behind it keep their places."""

    async def story() -> None:
        inbox = Inbox()
        tasks = asked_for(Gatherer(inbox), batch("a"), batch("b"), many(GROUP + 1), batch("c"), many(GROUP), batch("d"))
        await turn()
        for number in range(5):
            inbox.answer(number)
            await turn()

        answers = [ids(await task) for task in tasks]
        assert inbox.sizes() == [2, GROUP + 1, 1, GROUP, 1]
        assert [len(each) for each in answers] == [1, 1, GROUP + 1, 1, GROUP, 1]
        assert answers[2][-1] == f"m{GROUP}"

    asyncio.run(story())


def test_a_request_over_the_limit_is_refused_alone() -> None:
    """When the inbox will not have it, its neighbours are stored all the same."""

    async def story() -> None:
        inbox = Inbox()
        gatherer = Gatherer(inbox)
        (small,) = asked_for(gatherer, batch("a"))
        await turn()
        large, behind = asked_for(gatherer, many(GROUP + 1), batch("b"))
        await turn()
        inbox.refusals.append(StoreBusy("too many wait"))
        inbox.answer(0)
        await turn()
        with pytest.raises(StoreBusy, match="too many wait"):
            await large
        inbox.answer(1)

        assert (ids(await small), ids(await behind)) == (["a"], ["b"])

    asyncio.run(story())


def test_a_busy_store_while_each_is_asked_for_alone() -> None:
    """Of a group that is asked for one by one, each has the answer that it got: stored, refused or busy."""

    async def story() -> None:
        inbox = Inbox()
        gatherer = Gatherer(inbox)
        tasks = asked_for(gatherer, batch("a"), batch("b"), batch("c"))
        await turn()
        inbox.refusals.append(StoreBusy("full"))
        inbox.refuse(0, InvalidInput("one of them"))
        await turn()
        inbox.answer(1)
        inbox.refuse(2, InvalidInput("it is c"))

        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in found] == [StoreBusy, list, InvalidInput]

    asyncio.run(story())


def test_a_batch_without_events_has_no_receipts() -> None:
    """What only holds dead letters goes alone, and answers with nothing."""

    async def story() -> None:
        inbox = Inbox()
        dead = Batch(events=(), dead=[DeadLetter(place="p", reason="r", body=b"x", size=1)])
        tasks = asked_for(Gatherer(inbox), batch("a"), dead, batch("b"))
        await turn()
        for number in range(3):
            inbox.answer(number)
            await turn()

        assert [ids(await task) for task in tasks] == [["a"], [], ["b"]]
        assert inbox.asked[1][0] is dead

    asyncio.run(story())


@pytest.mark.parametrize("alone", [False, True], ids=["in a group", "alone"])
def test_a_store_that_answers_after_the_server_is_gone(alone: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The events are stored and nobody is there to hear it: that is no accident to be logged by whoever stored them."""
    inbox = Inbox()

    async def story() -> None:
        tasks = asked_for(Gatherer(inbox), batch("a"), batch("b"))
        await turn()
        if alone:
            inbox.refuse(0, InvalidInput("one of them"))
            await turn()
        for task in tasks:
            task.cancel()

    asyncio.run(story())
    for number, (_, done) in enumerate(inbox.asked):
        if not done.done():
            inbox.answer(number)

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
