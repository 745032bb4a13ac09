"""Where events become durable: group commit.

Sources and the API put batches in from their own threads; one tick stores all that wait in one transaction and then answers them all.
An answer means that the event is on disk; only then does a source acknowledge upstream.

A store that refuses is asked again by the inbox alone, with a write of its own, until it takes one; whoever comes meanwhile is refused at
once. So a database that hangs costs one waiting thread and not one for every producer, and nobody waits for what cannot come.
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
from controller.errors import Conflict, ControllerError, InvalidInput, StoreBusy
from controller.ports import Batch
from controller.retry import backoff
from controller.store import Transaction
from controller.store.intake import Prepared, prepare

#: Most events that one transaction stores, beyond a single larger batch.
GROUP = 2000
#: Most events that may wait to be stored; more are refused, and their producers try again.
WAITING = 20_000
#: A store that refused is tried this often; meanwhile producers are refused without asking it.
PROBE = timedelta(seconds=1)
#: A transaction that others were in the way of is tried again so many times before its producers hear of it.
CONTENDED = 5


@dataclass(slots=True)
class _Waiting:
    origin: str
    batch: Batch
    #: What it counts for: one for each event, and for each dead letter one and another for each KiB of it.
    weight: int
    #: The term that it may be stored in, if it comes from a source that only the leader runs.
    term: int | None = None
    done: Future[list[Receipt]] = field(default_factory=Future)
    #: It is being stored, and can no longer be withdrawn.
    taken: bool = False


class Inbox:
    """The loop that stores events."""

    name = "inbox"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        #: Why the store refused; None while it takes what comes.
        self._refused: StoreBusy | None = None
        #: How often the same group was in the way of others, or they in its.
        self._contended = 0
        #: What came in since the start, by source.
        self.arrivals = Arrivals()
        self._burial = Burial(runtime)

    @property
    def waiting(self) -> int:
        """How many events wait to be stored."""
        return self._count

    def put(self, origin: str, batch: Batch, *, term: int | None = None) -> Future[list[Receipt]]:
        """Hand over a batch of a source; the future answers with its receipts after the commit.

        Whoever waits no longer may cancel the future: a batch that is not being stored yet is withdrawn.
        One that belongs to a `term` is refused with `Conflict` in any other, so that what a former leader still reads does not undo
        what the present one remembered. That is looked up without a lock: within a moment it may go wrong, and then something is
        read once more, and its events are known already.
        Raises `StoreBusy` when too much waits already, or the store refused a moment ago.
        """
        waiting = _Waiting(origin, batch, _weight(batch), term)
        with self._lock:
            if self._refused is not None:
                self.arrivals.refuse(origin, len(batch.events))
                raise StoreBusy(self._refused.message, code=self._refused.code, after_seconds=2)
            if self._waiting and self._count + waiting.weight > WAITING:
                self.arrivals.refuse(origin, len(batch.events))
                raise StoreBusy(f"{self._count} events wait to be stored already", after_seconds=1, code="intake.full")
            self._waiting.append(waiting)
            self._count += waiting.weight
        self._runtime.bells.ring(self.name)
        return waiting.done

    def tick(self, now: datetime) -> Ticked:
        """Store what waits, in one transaction, and answer."""
        group = self._take()
        if not group:
            return self._probe(now) if self._refused is not None else Ticked()
        try:
            self._answer(*self._commit(group))
        except StoreBusy as error:
            if error.code == "store.contended" and self._contended < CONTENDED:
                return self._put_back(group, now)
            ticked = self._complain(error, now)  # first, so that whoever is refused finds the reason in /readyz
            self._refuse(group, error)
            return ticked
        except ControllerError as error:
            self._refuse(group, error)
            raise
        except Exception as error:  # noqa: BLE001 - what one batch holds, such as a text that is none, must not spoil the others
            self._one_by_one(group, error)
        return Ticked(worked=len(group), again=bool(self._waiting))

    def _commit(self, group: Sequence[_Waiting]) -> tuple[Sequence[_Waiting], list[list[Receipt]]]:
        """Store a group; return those of it that were stored, each with its receipts. Those of a former term are refused."""
        now = self._runtime.clock.now()
        prepared = {
            id(waiting): self._prepare(waiting, now) for waiting in group
        }  # before others are kept from writing
        with self._runtime.store.transaction("inbox", fenced=False) as tx:
            kept, stale = _by_term(tx, group)
            receipts = [self._store(tx, waiting, prepared[id(waiting)]) for waiting in kept]
            self._note_repeats(tx, kept, receipts)
            buried = self._burial.store(tx, _dead_letters(kept))
        self._burial.tell(buried)
        for waiting in stale:
            waiting.done.set_exception(Conflict("another replica leads now, and reads this source"))
        return kept, receipts

    def _put_back(self, group: Sequence[_Waiting], now: datetime) -> Ticked:
        """Try a group again after a moment of chance: a deadlock is nobody's fault, and no reason to refuse anybody."""
        self._contended += 1
        with self._lock:
            self._waiting.extendleft(reversed(group))
            self._count += sum(waiting.weight for waiting in group)
        first, longest = timedelta(milliseconds=10), timedelta(milliseconds=200)
        return Ticked(next_at=now + backoff(self._contended, self._runtime.random, first=first, longest=longest))

    def _answer(self, group: Sequence[_Waiting], receipts: Sequence[list[Receipt]]) -> None:
        self._contended = 0
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
                stored = self._commit([waiting])
            except ControllerError as refusal:
                self._refuse([waiting], refusal)
            except Exception as refusal:  # noqa: BLE001 - answered to whoever sent it, with this reason
                self._one_by_one([waiting], refusal)
            else:
                self._answer(*stored)

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
        self._contended = 0
        with self._lock:
            self._refused = error
        self._runtime.complaints.set("store", self.name, error.message, code=error.code)
        return Ticked(next_at=now + PROBE)

    def _well_again(self) -> None:
        if self._refused is not None:
            with self._lock:
                self._refused = None
            self._runtime.complaints.set("store", self.name, None)

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        weight = 0
        with self._lock:
            while self._waiting and (not group or weight + self._waiting[0].weight <= GROUP):
                waiting = self._waiting.popleft()
                self._count -= waiting.weight
                if waiting.taken or waiting.done.set_running_or_notify_cancel():
                    waiting.taken = True
                    group.append(waiting)
                    weight += waiting.weight
        return group

    def _take_all(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        while group := self._take():
            taken += group
        return taken

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
        if self._refused is not None:  # what still waits would only be refused one group after the other
            group = [*group, *self._take_all()]
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


def _by_term(tx: Transaction, group: Sequence[_Waiting]) -> tuple[Sequence[_Waiting], Sequence[_Waiting]]:
    """Split a group into what may be stored and what belongs to a term that is over."""
    if all(waiting.term is None for waiting in group):
        return group, ()
    terms = (None, tx.present_term())
    return [each for each in group if each.term in terms], [each for each in group if each.term not in terms]


def _dead_letters(group: Sequence[_Waiting]) -> dict[str, list[DeadLetter]]:
    """Return what could not be understood, by source."""
    found: dict[str, list[DeadLetter]] = {}
    for waiting in group:
        if waiting.batch.dead:
            found.setdefault(waiting.origin, []).extend(waiting.batch.dead)
    return found
