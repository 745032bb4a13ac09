"""Where events become durable: group commit.

Sources and the API put batches in from their own threads; one tick stores all that wait in one transaction and then answers them all.
An answer means that the event is on disk; only then does a source acknowledge upstream.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from controller.core.model import Receipt
from controller.engine.runtime import Runtime, Ticked
from controller.errors import ControllerError, StoreBusy
from controller.ports import Batch
from controller.store import Transaction

#: Most events that one transaction stores, beyond a single larger batch.
GROUP = 1000
#: Most events that may wait to be stored; more are refused, and their producers try again.
WAITING = 20_000


@dataclass(slots=True)
class _Waiting:
    origin: str
    batch: Batch
    done: Future[list[Receipt]] = field(default_factory=Future)


class Inbox:
    """The loop that stores events."""

    name = "inbox"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._count = 0

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        """Hand over a batch of a source; the future answers with its receipts after the commit.

        Raises `StoreBusy` when too much waits already.
        """
        waiting = _Waiting(origin, batch)
        with self._lock:
            if self._waiting and self._count + len(batch.events) > WAITING:
                raise StoreBusy(f"{self._count} events wait to be stored already", after_seconds=1)
            self._waiting.append(waiting)
            self._count += len(batch.events)
        self._runtime.bells.ring(self.name)
        return waiting.done

    def tick(self, now: datetime) -> Ticked:
        """Store what waits, in one transaction, and answer."""
        group = self._take()
        if not group:
            return Ticked()
        try:
            with self._runtime.store.transaction("inbox", fenced=False) as tx:
                receipts = [self._store(tx, waiting) for waiting in group]
        except ControllerError as error:
            self._refuse(group, error)
            if isinstance(error, StoreBusy):
                self._runtime.complaints.set("store", "inbox", error.message)
                return Ticked()
            raise
        self._runtime.complaints.set("store", "inbox", None)
        self._runtime.bells.ring("evaluator")
        for waiting, answer in zip(group, receipts, strict=True):
            self._count_in(waiting.origin, answer)
            waiting.done.set_result(answer)
        return Ticked(worked=len(group), again=bool(self._waiting))

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        events = 0
        with self._lock:
            while self._waiting and (not group or events + len(self._waiting[0].batch.events) <= GROUP):
                waiting = self._waiting.popleft()
                group.append(waiting)
                events += len(waiting.batch.events)
            self._count -= events
        return group

    @staticmethod
    def _store(tx: Transaction, waiting: _Waiting) -> list[Receipt]:
        receipts = tx.events.add(waiting.origin, waiting.batch.events) if waiting.batch.events else []
        if waiting.batch.ledger:
            tx.events.remember(waiting.origin, waiting.batch.ledger)
        return receipts

    @staticmethod
    def _refuse(group: Sequence[_Waiting], error: ControllerError) -> None:
        for waiting in group:
            waiting.done.set_exception(error)

    def _count_in(self, origin: str, receipts: Sequence[Receipt]) -> None:
        duplicates = sum(receipt.duplicate for receipt in receipts)
        self._runtime.metrics.events.labels(origin, "stored").inc(len(receipts) - duplicates)
        if duplicates:
            self._runtime.metrics.events.labels(origin, "duplicate").inc(duplicates)
