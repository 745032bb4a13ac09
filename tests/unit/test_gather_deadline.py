"""No request waits for ever for a store that does not answer, and what waits is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from controller.api import gather
from controller.api.gather import Gatherer
from controller.api.intake import Held, Room
from controller.core.model import NewEvent, Receipt
from controller.errors import StoreBusy
from controller.ports import Batch


class SilentInbox:
    """An inbox that answers only when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Future[list[Receipt]]] = []

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        self.asked.append(Future())
        return self.asked[-1]


def batch(id_: str) -> Batch:
    return Batch(events=[NewEvent(source="/s", source_id=id_, type="t")])


def refusals(answers: Sequence[list[Receipt] | BaseException]) -> list[str]:
    return [answer.code for answer in answers if isinstance(answer, StoreBusy)]


def test_G15_past_its_deadline_a_request_is_refused_and_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait behind the first are refused too, and the inbox is told that nobody waits for the batch (DB-06)."""
    monkeypatch.setattr(gather, "DEADLINE_SECONDS", 0.05)

    async def story() -> tuple[Sequence[list[Receipt] | BaseException], SilentInbox, list[Receipt]]:
        inbox = SilentInbox()
        gatherer = Gatherer(inbox)
        tasks = [asyncio.create_task(gatherer.put("api", batch(str(number)))) for number in range(3)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        again = asyncio.create_task(gatherer.put("api", batch("again")))
        while len(inbox.asked) < 2:
            await asyncio.sleep(0)
        inbox.asked[1].set_result([Receipt(event_id="again", duplicate=False)])
        return answers, inbox, await again

    answers, inbox, again = asyncio.run(story())

    assert refusals(answers) == ["intake.late"] * 3
    assert inbox.asked[0].cancelled()
    assert [receipt.event_id for receipt in again] == ["again"]


def test_G15_what_is_being_stored_is_not_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are refused all the same; when it comes again it is recognised."""
    monkeypatch.setattr(gather, "DEADLINE_SECONDS", 0.05)

    async def story() -> tuple[Sequence[list[Receipt] | BaseException], bool]:
        inbox = SilentInbox()
        task = asyncio.create_task(Gatherer(inbox).put("api", batch("1")))
        while not inbox.asked:
            await asyncio.sleep(0)
        inbox.asked[0].set_running_or_notify_cancel()
        answers = await asyncio.gather(task, return_exceptions=True)
        return answers, inbox.asked[0].cancelled()

    answers, was_withdrawn = asyncio.run(story())

    assert refusals(answers) == ["intake.late"]
    assert not was_withdrawn


def test_G15_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused at once, and is welcome when the others were answered (WH-17)."""
    monkeypatch.setattr(gather, "WAITING", 2)

    async def story() -> tuple[StoreBusy, int]:
        inbox = SilentInbox()
        gatherer = Gatherer(inbox)
        first = asyncio.create_task(gatherer.put("api", batch("1")))
        second = asyncio.create_task(gatherer.put("hook", batch("2")))
        while len(inbox.asked) < 2:
            await asyncio.sleep(0)
        with pytest.raises(StoreBusy) as refused:
            await gatherer.put("api", batch("3"))
        for asked in inbox.asked:
            asked.set_result([Receipt(event_id="e", duplicate=False)])
        await asyncio.gather(first, second)
        last = asyncio.create_task(gatherer.put("api", batch("3")))
        while len(inbox.asked) < 3:
            await asyncio.sleep(0)
        inbox.asked[2].set_result([Receipt(event_id="e", duplicate=False)])
        return refused.value, len(await last)

    refused, stored = asyncio.run(story())

    assert refused.code == "intake.full"
    assert stored == 1


def test_G15_bodies_together_are_bounded() -> None:
    """What is too much is refused, and what a request held is free again when it ends (WH-17)."""
    room = Room(100)
    first, second = Held(room), Held(room)
    first.add(60)
    second.add(30)

    with pytest.raises(StoreBusy, match="too much"):
        second.add(20)
    first.release()
    second.add(20)

    assert room.taken == 50
    second.release()
    assert room.taken == 0
