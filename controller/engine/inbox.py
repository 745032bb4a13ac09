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
from datetime import datetime, timedelta

from controller.core.model import LedgerEntry, Receipt
from controller.engine.runtime import Runtime, Ticked
from controller.errors import ControllerError, InvalidInput, StoreBusy
from controller.ports import Batch
from controller.store import Transaction

#: Most events that one transaction stores, beyond a single larger batch.
GROUP = 1000
#: Most events that may wait to be stored; more are refused, and their producers try again.
WAITING = 20_000
#: A store that refused is tried this often while no producer comes back.
PROBE = timedelta(seconds=5)


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
        self._refused = False

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
            return self._probe(now) if self._refused else Ticked()
        try:
            receipts = self._commit(group)
        except StoreBusy as error:
            ticked = self._complain(error, now)  # first, so that whoever is refused finds the reason in /readyz
            self._refuse(group, error)
            return ticked
        except ControllerError as error:
            self._refuse(group, error)
            raise
        except Exception as error:  # noqa: BLE001 - what one batch holds, such as a text that is none, must not spoil the others
            self._one_by_one(group, error)
            return Ticked(worked=len(group), again=bool(self._waiting))
        self._answer(group, receipts)
        return Ticked(worked=len(group), again=bool(self._waiting))

    def _commit(self, group: Sequence[_Waiting]) -> list[list[Receipt]]:
        with self._runtime.store.transaction("inbox", fenced=False) as tx:
            return [self._store(tx, waiting) for waiting in group]

    def _answer(self, group: Sequence[_Waiting], receipts: Sequence[list[Receipt]]) -> None:
        self._well_again()
        self._runtime.bells.ring("evaluator")
        for waiting, answer in zip(group, receipts, strict=True):
            self._count_in(waiting.origin, answer)
            waiting.done.set_result(answer)

    def _one_by_one(self, group: Sequence[_Waiting], error: Exception) -> None:
        if len(group) == 1:
            self._runtime.log.error("inbox.refused", source=group[0].origin, error=repr(error), exc_info=True)
            self._refuse(group, InvalidInput(f"what {group[0].origin!r} sent cannot be stored: {error}"))
            return
        for waiting in group:
            try:
                receipts = self._commit([waiting])
            except ControllerError as refusal:
                self._refuse([waiting], refusal)
            except Exception as refusal:  # noqa: BLE001 - answered to whoever sent it, with this reason
                self._one_by_one([waiting], refusal)
            else:
                self._answer([waiting], receipts)

    def _probe(self, now: datetime) -> Ticked:
        """Find out whether a store that refused is well again, by a write: nobody else may come to try."""
        try:
            with self._runtime.store.transaction("probe", fenced=False) as tx:
                tx.events.remember("", [LedgerEntry(key="@probe", value=now.isoformat())])
        except StoreBusy as error:
            return self._complain(error, now)
        self._well_again()
        return Ticked()

    def _complain(self, error: StoreBusy, now: datetime) -> Ticked:
        self._refused = True
        self._runtime.complaints.set("store", self.name, error.message)
        return Ticked(next_at=now + PROBE)

    def _well_again(self) -> None:
        if self._refused:
            self._refused = False
            self._runtime.complaints.set("store", self.name, None)

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

    def _store(self, tx: Transaction, waiting: _Waiting) -> list[Receipt]:
        spec = self._runtime.config.sources.get(waiting.origin)
        domain = spec.dedup_domain if spec is not None else None
        receipts = tx.events.add(waiting.origin, waiting.batch.events, domain=domain) if waiting.batch.events else []
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
