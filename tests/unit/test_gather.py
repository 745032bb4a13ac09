"""Requests that come together go to the inbox together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future

import pytest

from controller.api.gather import GROUP, Gatherer
from controller.api.server import Server
from controller.core.model import LedgerEntry, NewEvent, Receipt
from controller.errors import InvalidInput, StoreBusy
from controller.ports import Batch


class SlowInbox:
    """An inbox that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Batch, Future[list[Receipt]]]] = []
        self.full = False

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        if self.full:
            raise StoreBusy("full")
        done: Future[list[Receipt]] = Future()
        self.asked.append((origin, batch, done))
        return done

    def answer(self, number: int) -> None:
        _, batch, done = self.asked[number]
        done.set_result([Receipt(event_id=event.source_id, duplicate=False) for event in batch.events])

    def sizes(self) -> list[int]:
        return [len(batch.events) for _, batch, _ in self.asked]


def batch(*ids: str) -> Batch:
    return Batch(events=[NewEvent(source="/s", source_id=id_, type="t") for id_ in ids])


async def turn(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def ids(receipts: list[Receipt]) -> list[str]:
    return [receipt.event_id for receipt in receipts]


def test_what_waits_goes_together_and_is_answered_apart() -> None:
    """While one group is stored the next gathers, and each caller gets the receipts of its own events."""

    async def story() -> None:
        inbox = SlowInbox()
        gatherer = Gatherer(inbox)
        first = asyncio.create_task(gatherer.put("api", batch("a")))
        await turn()
        others = [asyncio.create_task(gatherer.put("api", batch(*names))) for names in ("bc", "d", "efg")]
        await turn()
        assert inbox.sizes() == [1]

        inbox.answer(0)
        assert ids(await first) == ["a"]
        await turn()
        assert inbox.sizes() == [1, 6]
        inbox.answer(1)
        assert [ids(await other) for other in others] == [["b", "c"], ["d"], ["e", "f", "g"]]

    asyncio.run(story())


def test_origins_do_not_wait_for_each_other() -> None:
    """A group of one source that is being stored does not hold up another source."""

    async def story() -> None:
        inbox = SlowInbox()
        gatherer = Gatherer(inbox)
        tasks = [asyncio.create_task(gatherer.put(origin, batch("a"))) for origin in ("api", "alerts")]
        await turn()
        assert [origin for origin, _, _ in inbox.asked] == ["api", "alerts"]
        inbox.answer(1)
        assert ids(await tasks[1]) == ["a"]
        tasks[0].cancel()

    asyncio.run(story())


def test_only_the_request_that_cannot_be_stored_is_refused() -> None:
    """A group that the store refuses for what it holds is asked for one by one."""

    async def story() -> None:
        inbox = SlowInbox()
        gatherer = Gatherer(inbox)
        tasks = [asyncio.create_task(gatherer.put("api", batch(name))) for name in "abc"]
        await turn()
        assert inbox.sizes() == [3]
        inbox.asked[0][2].set_exception(InvalidInput("one of them is no text"))
        await turn()
        assert inbox.sizes() == [3, 1, 1, 1]
        inbox.answer(1)
        inbox.asked[2][2].set_exception(InvalidInput("it is b"))
        inbox.answer(3)
        assert ids(await tasks[0]) == ["a"]
        with pytest.raises(InvalidInput, match="it is b"):
            await tasks[1]
        assert ids(await tasks[2]) == ["c"]

    asyncio.run(story())


def test_a_busy_store_refuses_all_that_wait_and_the_next_is_asked_again() -> None:
    """Nothing hangs: every caller hears that the store is busy, and a later one is served."""

    async def story() -> None:
        inbox = SlowInbox()
        inbox.full = True
        gatherer = Gatherer(inbox)
        for outcome in await asyncio.gather(*(gatherer.put("api", batch(n)) for n in "ab"), return_exceptions=True):
            assert isinstance(outcome, StoreBusy)
        inbox.full = False
        task = asyncio.create_task(gatherer.put("api", batch("c")))
        await turn()
        inbox.answer(0)
        assert ids(await task) == ["c"]

    asyncio.run(story())


def test_a_caller_that_goes_away_spoils_nothing() -> None:
    """The group is stored all the same, and the others are answered."""

    async def story() -> None:
        inbox = SlowInbox()
        gatherer = Gatherer(inbox)
        gone, stays = (asyncio.create_task(gatherer.put("api", batch(name))) for name in "ab")
        await turn()
        gone.cancel()
        inbox.answer(0)
        assert ids(await stays) == ["b"]

    asyncio.run(story())


def test_groups_are_bounded_and_what_a_source_remembers_goes_alone() -> None:
    """A group has at most so many events; a batch with a ledger is handed over as it is."""

    async def story() -> None:
        inbox = SlowInbox()
        gatherer = Gatherer(inbox)
        large = batch(*(f"{number}" for number in range(GROUP - 1)))
        own = Batch(events=batch("x").events, ledger=[LedgerEntry(key="k", value=1)])
        tasks = [asyncio.create_task(gatherer.put("api", each)) for each in (batch("a"), large, batch("b"), own)]
        await turn()
        for number in range(3):
            inbox.answer(number)
            await turn()
        await asyncio.gather(*tasks)

        assert inbox.sizes() == [GROUP, 1, 1]
        assert inbox.asked[2][1] is own

    asyncio.run(story())


def test_answers_over_tcp_are_sent_without_delay() -> None:
    """asyncio sets TCP_NODELAY only on sockets whose protocol is named; without it an answer in two packets waits 40 ms."""
    listener = Server.__new__(Server)._bind_tcp("127.0.0.1", 0)

    assert listener.proto == socket.IPPROTO_TCP
    listener.close()
