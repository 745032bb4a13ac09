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

from controller.core.episode import Mark
from controller.core.model import DeadLetter, LedgerEntry, Receipt
from controller.engine.arrivals import Arrivals
from controller.engine.burial import Burial
from controller.engine.episodes import Name, domain_of, signs_of_life
from controller.engine.runtime import Runtime, Ticked
from controller.errors import ControllerError, InvalidInput, StoreBusy
from controller.ports import Batch
from controller.store import Transaction
from controller.store.intake import Prepared, prepare

#: Most events that one transaction stores, beyond a single larger batch.
GROUP = 2000
#: Most events that may wait to be stored; more are refused, and their producers try again.
WAITING = 20_000
#: A store that refused is tried this often while no producer comes back.
PROBE = timedelta(seconds=5)


@dataclass(slots=True)
class _Waiting:
    origin: str
    batch: Batch
    #: What it counts for: one for each event, and for each dead letter one and another for each KiB of it.
    weight: int
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
        #: What came in since the start, by source.
        self.arrivals = Arrivals()
        self._burial = Burial(runtime)

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        """Hand over a batch of a source; the future answers with its receipts after the commit.

        Raises `StoreBusy` when too much waits already.
        """
        waiting = _Waiting(origin, batch, _weight(batch))
        with self._lock:
            if self._waiting and self._count + waiting.weight > WAITING:
                self.arrivals.refuse(origin, len(batch.events))
                raise StoreBusy(f"{self._count} events wait to be stored already", after_seconds=1)
            self._waiting.append(waiting)
            self._count += waiting.weight
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
        now = self._runtime.clock.now()
        prepared = [self._prepare(waiting, now) for waiting in group]  # before others are kept from writing
        with self._runtime.store.transaction("inbox", fenced=False) as tx:
            receipts = [self._store(tx, *each) for each in zip(group, prepared, strict=True)]
            self._note_repeats(tx, group, receipts)
            buried = self._burial.store(tx, _dead_letters(group))
        self._burial.tell(buried)
        return receipts

    def _answer(self, group: Sequence[_Waiting], receipts: Sequence[list[Receipt]]) -> None:
        self._well_again()
        self._runtime.bells.ring("evaluator")
        at, monotonic = self._runtime.clock.now().timestamp(), self._runtime.clock.monotonic()
        for waiting, answer in zip(group, receipts, strict=True):
            self._count_in(waiting, answer, at, monotonic)
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
        weight = 0
        with self._lock:
            while self._waiting and (not group or weight + self._waiting[0].weight <= GROUP):
                waiting = self._waiting.popleft()
                group.append(waiting)
                weight += waiting.weight
            self._count -= weight
        return group

    def _prepare(self, waiting: _Waiting, now: datetime) -> Prepared | None:
        if not waiting.batch.events:
            return None
        spec = self._runtime.config.sources.get(waiting.origin)
        domain = spec.dedup_domain if spec is not None else None
        return prepare(waiting.origin, waiting.batch.events, domain=domain, ids=self._runtime.ids, now=now)

    @staticmethod
    def _store(tx: Transaction, waiting: _Waiting, prepared: Prepared | None) -> list[Receipt]:
        receipts = [] if prepared is None else tx.events.insert(prepared)
        if waiting.batch.ledger:
            tx.events.remember(waiting.origin, waiting.batch.ledger)
        return receipts

    def _note_repeats(self, tx: Transaction, group: Sequence[_Waiting], receipts: Sequence[list[Receipt]]) -> None:
        """Keep alive the episodes of alerts that are repeated; after the events, so that no two replicas wait for each other."""
        signs: dict[Name, Mark] = {}
        for waiting, answer in zip(group, receipts, strict=True):
            repeats = [e for e, receipt in zip(waiting.batch.events, answer, strict=True) if receipt.duplicate]
            if repeats:
                signs |= signs_of_life(repeats, domain=domain_of(self._runtime.config, waiting.origin))
        if signs:
            tx.episodes.alive(signs)

    def _refuse(self, group: Sequence[_Waiting], error: ControllerError) -> None:
        for waiting in group:
            self.arrivals.refuse(waiting.origin, len(waiting.batch.events))
            waiting.done.set_exception(error)

    def _count_in(self, waiting: _Waiting, receipts: Sequence[Receipt], at: float, monotonic: float) -> None:
        origin, batch = waiting.origin, waiting.batch
        duplicates = sum(receipt.duplicate for receipt in receipts)
        self.arrivals.count(
            origin, batch.events, receipts, duplicates=duplicates, dead=len(batch.dead), at=at, monotonic=monotonic
        )
        self._runtime.metrics.events.labels(origin, "stored").inc(len(receipts) - duplicates)
        if duplicates:
            self._runtime.metrics.events.labels(origin, "duplicate").inc(duplicates)


def _weight(batch: Batch) -> int:
    return len(batch.events) + sum(1 + (len(letter.body or b"") >> 10) for letter in batch.dead)


def _dead_letters(group: Sequence[_Waiting]) -> dict[str, list[DeadLetter]]:
    """Return what could not be understood, by source."""
    found: dict[str, list[DeadLetter]] = {}
    for waiting in group:
        if waiting.batch.dead:
            found.setdefault(waiting.origin, []).extend(waiting.batch.dead)
    return found
