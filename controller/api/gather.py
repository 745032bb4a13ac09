"""Takes the events of many requests to the inbox together: one hand-over, one wake-up, one statement for all that wait.

Under load each request alone would cost a lock, a future across threads and a wake-up of both; and since the threads of a Python process
take turns, every wake-up is a wait. While one group is being stored the next one gathers; a request that comes alone waits for nobody.

No request waits for ever: past its deadline it is told to come again, and is withdrawn from the inbox if it is not being stored yet.
An event that was stored all the same is recognised when it comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from controller.api.ports import Intake
from controller.core.model import NewEvent, Receipt
from controller.errors import InvalidInput, StoreBusy
from controller.ports import Batch

#: Events that are handed over together, at most; a single larger request goes as it is.
GROUP = 2000
#: A request that was not stored within so many seconds is told to come again. Senders of webhooks wait for ten seconds, or longer.
DEADLINE_SECONDS = 9.0
#: Requests that may wait here beside those that are being stored; who comes then is told to come again.
WAITING = 10_000


@dataclass(slots=True)
class _Request:
    batch: Batch
    done: asyncio.Future[list[Receipt]]
    #: By the event loop's clock.
    deadline: float


class Gatherer:
    """The inbox, for callers in one event loop."""

    def __init__(self, inbox: Intake) -> None:
        self._inbox = inbox
        self._waiting: dict[str, list[_Request]] = {}
        #: Origins of which a group is being stored.
        self._busy: set[str] = set()
        #: What the inbox has, with those who wait for it.
        self._stored: dict[Future[list[Receipt]], list[_Request]] = {}
        self._count = 0
        #: One timer for all: nearly every request is answered before it would ring.
        self._timer: asyncio.TimerHandle | None = None

    async def put(self, origin: str, batch: Batch) -> list[Receipt]:
        """Return the receipts of a batch once it is durable; raises what the inbox raises, and `StoreBusy` past the deadline."""
        if self._count >= WAITING:
            raise StoreBusy(f"{self._count} requests wait to be stored already", after_seconds=1, code="intake.full")
        loop = asyncio.get_running_loop()
        request = _Request(batch, loop.create_future(), loop.time() + DEADLINE_SECONDS)
        if self._timer is None:
            self._timer = loop.call_at(request.deadline, self._expire, loop)
        self._count += 1
        self._waiting.setdefault(origin, []).append(request)
        if origin not in self._busy:
            self._busy.add(origin)
            loop.call_soon(self._hand_over, loop, origin)
        try:
            return await request.done
        finally:
            self._count -= 1

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those who are past their deadline to come again, and withdraw what nobody waits for any more."""
        now = loop.time()
        late = StoreBusy(f"it could not be stored within {DEADLINE_SECONDS:g} s", code="intake.late")
        groups = [*self._waiting.values(), *self._stored.values()]
        _refuse([each for group in groups for each in group if each.deadline <= now], late)
        for origin, waiting in list(self._waiting.items()):
            self._waiting[origin] = [each for each in waiting if not each.done.done()]
        for stored, group in list(self._stored.items()):
            if all(each.done.done() for each in group):
                stored.cancel()
        deadlines = [each.deadline for group in groups for each in group if not each.done.done()]
        self._timer = loop.call_at(min(deadlines), self._expire, loop) if deadlines else None

    def _hand_over(self, loop: asyncio.AbstractEventLoop, origin: str) -> None:
        group = self._take(origin)
        if not group:
            self._busy.discard(origin)
            return
        try:
            stored = self._inbox.put(origin, _together(group))
        except Exception as error:  # noqa: BLE001 - it is every caller's answer
            _refuse(group, error)
            loop.call_soon(self._hand_over, loop, origin)
            return
        self._stored[stored] = group
        _tell(loop, stored, lambda done: self._answer(loop, origin, group, done))

    def _take(self, origin: str) -> list[_Request]:
        waiting = self._waiting.pop(origin, [])
        count = events = 0
        for request in waiting:
            if count and (events + len(request.batch.events) > GROUP or not _is_plain(request.batch)):
                break
            count, events = count + 1, events + len(request.batch.events)
            if not _is_plain(request.batch):
                break
        if waiting[count:]:
            self._waiting[origin] = waiting[count:]
        return waiting[:count]

    def _answer(
        self, loop: asyncio.AbstractEventLoop, origin: str, group: list[_Request], done: Future[list[Receipt]]
    ) -> None:
        self._stored.pop(done, None)
        error = _error_of(done)
        if error is None:
            start = 0
            receipts = done.result()
            for request in group:
                end = start + len(request.batch.events)
                if not request.done.done():  # its client may have gone away
                    request.done.set_result(receipts[start:end])
                start = end
        elif isinstance(error, InvalidInput) and len(group) > 1:
            # What one of them sent cannot be stored: each is asked for by itself, and only that one is refused.
            for request in group:
                self._alone(loop, origin, request)
        else:
            _refuse(group, error)
        self._hand_over(loop, origin)

    def _alone(self, loop: asyncio.AbstractEventLoop, origin: str, request: _Request) -> None:
        def answer(done: Future[list[Receipt]]) -> None:
            self._stored.pop(done, None)
            if request.done.done():
                return
            error = _error_of(done)
            if error is None:
                request.done.set_result(done.result())
            else:
                request.done.set_exception(error)

        try:
            stored = self._inbox.put(origin, request.batch)
        except Exception as error:  # noqa: BLE001 - it is the caller's answer
            _refuse([request], error)
            return
        self._stored[stored] = [request]
        _tell(loop, stored, answer)


def _tell(
    loop: asyncio.AbstractEventLoop, stored: Future[list[Receipt]], answer: Callable[[Future[list[Receipt]]], None]
) -> None:
    """Have `answer` called in the loop once the store has answered, from whatever thread."""

    def tell(done: Future[list[Receipt]]) -> None:
        # A loop that is closed takes no calls: the server has stopped, and nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(answer, done)

    stored.add_done_callback(tell)


def _error_of(done: Future[list[Receipt]]) -> BaseException | None:
    """Return what went wrong; a batch that was withdrawn has nobody left to hear of it."""
    return StoreBusy("it was withdrawn", code="intake.late") if done.cancelled() else done.exception()


def _is_plain(batch: Batch) -> bool:
    return not batch.ledger and not batch.dead


def _together(group: Sequence[_Request]) -> Batch:
    if len(group) == 1:
        return group[0].batch
    events: list[NewEvent] = []
    for request in group:
        events += request.batch.events
    return Batch(events=events)


def _refuse(group: Sequence[_Request], error: BaseException) -> None:
    for request in group:
        if not request.done.done():
            request.done.set_exception(error)
