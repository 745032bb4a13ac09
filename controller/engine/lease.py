"""Which of the daemons on a database leads: a lease that ends by itself, and a term that rises with each taking.

A lease alone does not give one leader: a process may be stopped for a minute in the middle of a step and go on as if nothing had happened.
So there are two fences. Whatever the leader writes carries its term and fails when another was taken; and it makes no outward call in the
last seconds of its lease, by its own clock that does not jump, counted from before it asked for the renewal. Uniqueness does not rest
on either: constraints of the database and the names of attempts keep even two leaders from starting one job twice.

Who does not lead looks every second whether the lease is free. It waits for what its own loops may still be doing of a former term,
so that nothing begun under one term is ever written under another.
A daemon that was killed and starts again waits for nothing: what its state directory held is its own, because a lock keeps others from it.
Where only one daemon can run (SQLite), the lease is taken once and does not end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core.model import Json
from controller.core.replica import Replica, is_live, newer_configuration, outranks
from controller.engine.runtime import Runtime, Ticked
from controller.errors import StoreBusy, StoreError
from controller.store import Transaction
from controller.store.store import Term

#: For how long a lease is taken, how often it is renewed, and how often others look whether it is free.
TTL = timedelta(seconds=15)
RENEW = timedelta(seconds=5)
LOOK = timedelta(seconds=1)
#: No outward call is made in the last seconds of a lease: it may still be on its way when another leads.
QUIET = timedelta(seconds=3)
#: A replica that was not seen for so long, and did not say goodbye, is forgotten.
FORGET = timedelta(days=1)
#: Looks are up to this much later, so that replicas do not look all at once.
_SPREAD_SECONDS = 0.2


class LeaseUncertain(StoreBusy):
    """The lease was not renewed lately, so another replica may lead soon; nothing is done outside until it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """What the lease asks of its process and tells it."""

    #: Whether the loops come back; a leader whose loops hang gives the lease back.
    is_well: Callable[[], bool]
    #: Whether nothing of a former term is still at work.
    is_free: Callable[[], bool]
    #: What the process says of itself to the others.
    report: Callable[[], Mapping[str, Json]]
    #: Called after the process began or ceased to lead, from whatever thread found out; it returns soon.
    changed: Callable[[], None]


class Lease:
    """The loop that takes, holds and gives back the lease of one process."""

    name = "lease"

    def __init__(self, runtime: Runtime, me: Replica, process: Process, *, ttl: timedelta | None = TTL) -> None:
        """Without `ttl` the lease does not end: `seize` takes it, and the loop has nothing to do."""
        self._runtime = runtime
        self._process = process
        self._ttl = ttl
        self._me = me
        self._term: int | None = None
        self._has_retired = False
        #: Whether a former process of our state directory has been dealt with.
        self._has_succeeded = False
        #: Why a write of ours was refused, until the loop has dealt with it.
        self._lost: str | None = None
        #: Monotonic seconds from which the lease counts: before the last renewal was asked for.
        self._counts_from = 0.0
        #: Monotonic seconds at which the others were told last that we are here.
        self._shown: float | None = None
        #: When the configuration was loaded that no replica had activated yet, or a person loaded here; None: when it was activated counts.
        self._loaded_at: datetime | None = None
        self._loads_anew = False
        self._has_company = False
        self._configured_at: datetime | None = None
        #: The replica whose configuration is newer than ours, as it was seen last while we followed.
        self._newer: Replica | None = None
        #: The last holder that was seen, for people.
        self.holder = ""

    # ------------------------------------------------------------------------------------------------ what is asked

    @property
    def replica_id(self) -> str:
        """The id of this process among the replicas."""
        return self._me.id

    @property
    def leads(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return self._term is not None and self._lost is None

    @property
    def is_contested(self) -> bool:
        """Whether another replica may ever lead instead."""
        return self._ttl is not None

    @property
    def has_company(self) -> bool:
        """Whether another replica was alive when this one looked last."""
        return self._has_company

    @property
    def configured_at(self) -> datetime | None:
        """Since when the configuration that we began to lead with counts; None: from then on.

        It keeps its rank while a replica with a newer one may come back, because it did not say goodbye.
        """
        return self._configured_at

    def check(self) -> None:
        """Raise `LeaseUncertain` unless an outward call may be made now."""
        if not self.leads:
            raise LeaseUncertain("this replica does not lead any more")
        if self._ttl is not None:
            held = self._runtime.clock.monotonic() - self._counts_from
            if held > (self._ttl - QUIET).total_seconds():
                raise LeaseUncertain(f"the lease was renewed {held:.0f} s ago, and another replica may lead soon")

    def lose(self, reason: str) -> None:
        """Cease to lead; the loop deals with the rest."""
        self._lost = reason
        self._runtime.bells.ring(self.name)

    # ------------------------------------------------------------------------------------------------ the loop

    def seize(self) -> None:
        """Take the lease for good, where only one daemon can run; raises `StoreBusy`."""
        me, store = self._me, self._runtime.store
        term = store.lead(owner=me.owner, host=me.host, pid=me.pid, replica=me.id).number
        with store.transaction("show", fenced=False) as tx:
            for other in tx.replicas.all():
                tx.replicas.leave(other.id)
            self._show(tx, tx.database_now())
        self._begin(term, self._runtime.clock.monotonic())

    def tick(self, now: datetime) -> Ticked:
        """Renew the lease, or take it if it is free."""
        if self._ttl is None or self._has_retired:
            return Ticked()
        lost, self._lost = self._lost, None
        if lost is not None and self._term is not None:
            self._cease(lost)
        try:
            wait = self._look() if self._term is None else self._renew()
        except StoreBusy as error:
            self._runtime.complaints.set("store", self.name, error.message, code=error.code)
            wait = LOOK
        else:
            self._runtime.complaints.set("store", self.name, None)
        return Ticked(next_at=now + wait)

    def give_back(self) -> None:
        """Let another lead at once, and never lead again; for the end of the process, so it never raises."""
        self._has_retired = True
        term, self._term = self._term, None
        if term is not None and self._ttl is not None:
            self._say_at_the_end("give_back", lambda tx: tx.replicas.give_back(self._me.id, term))
            self._runtime.bells.ring_everywhere(self.name)

    def leave(self) -> None:
        """Say goodbye to the other replicas; the last that a process does with the store, so it never raises."""
        self._say_at_the_end("leave", lambda tx: tx.replicas.leave(self._me.id))

    def _say_at_the_end(self, name: str, say: Callable[[Transaction], object]) -> None:
        try:
            with self._runtime.store.transaction(name, fenced=False, reserved=True) as tx:
                say(tx)
        except StoreError as error:  # then the others find out by themselves
            self._runtime.log.warning("lease.not_given_back", error=error.message)

    def configured(self, *, anew: bool) -> None:
        """Hear of another configuration of this replica; `anew`: a person asked for it, so it counts from now."""
        self._loads_anew, self._shown = anew, None
        self._runtime.bells.ring(self.name)

    # ------------------------------------------------------------------------------------------------ leading

    def _renew(self) -> timedelta:
        """Hold the lease for another while; give it back when another should lead."""
        term, began = self._term or 0, self._runtime.clock.monotonic()
        reason = None if self._process.is_well() else "a part of it does not come back"
        with self._runtime.store.transaction("renew", fenced=False, reserved=True) as tx:
            now = tx.database_now()
            me = self._show(tx, now)
            newer = newer_configuration(me, self._others(tx, now), now)
            if newer is not None:
                reason = f"replica {newer.id} on {newer.host} has a newer configuration, {newer.config_version}"
            if reason is not None:
                tx.replicas.give_back(me.id, term)
            elif not tx.replicas.renew(me.id, term, ttl=self._ttl or TTL, now=now):
                reason = "another replica leads"
        if reason is not None:
            self._cease(reason)
            return LOOK
        self._counts_from = began
        return RENEW

    def _cease(self, reason: str) -> None:
        self._runtime.log.warning("lease.lost", term=self._term, replica=self._me.id, reason=reason)
        self._term = None
        self._runtime.store.term = None
        self._process.changed()

    # ------------------------------------------------------------------------------------------------ following

    def _look(self) -> timedelta:
        """Take the lease if it is free and ours to take; return when to look again."""
        began = self._runtime.clock.monotonic()
        wait = LOOK + timedelta(seconds=self._runtime.random.random() * _SPREAD_SECONDS)
        with self._runtime.store.transaction("seek", fenced=False, reserved=True) as tx:
            now = tx.database_now()
            if not self._has_succeeded:
                self._succeed(tx)
            is_due = self._shown is None or began - self._shown >= RENEW.total_seconds()
            me = self._show(tx, now) if is_due else self._me
            holding = tx.replicas.holding()
            if holding is not None and holding.replica == me.id:
                tx.replicas.give_back(me.id, holding.term)  # the answer to our taking it was lost, or we were stopped
                holding = replace(holding, replica=None)
            is_over = holding is None or holding.is_over(now)
            newer = newer_configuration(me, self._others(tx, now), now) if is_over or is_due else self._newer
            may_take = is_over and newer is None and self._process.is_free() and self._process.is_well()
            term = tx.replicas.take(me, ttl=self._ttl or TTL, now=now) if may_take else None
            if term is not None:
                is_outranked = any(outranks(each, me) for each in tx.replicas.all())
                self._configured_at = me.config_at if is_outranked else None
            self._has_company = self._has_company or not is_over
        self._has_succeeded = True
        self.holder = "" if holding is None or is_over else f"pid {holding.pid} on {holding.host}"
        self._newer = newer
        self._complain_of(newer)
        if term is None:
            return wait
        self._begin(term, began)
        return RENEW

    def _succeed(self, tx: Transaction) -> None:
        """Give back what a former process of our state directory still holds: it is dead, or we would not have its lock."""
        me, holding = self._me, tx.replicas.holding()
        if holding is not None and holding.owner == me.owner and holding.replica not in (None, me.id):
            tx.replicas.give_back(holding.replica, holding.term)
        for other in tx.replicas.all():
            if other.owner == me.owner and other.id != me.id:
                tx.replicas.leave(other.id)

    def _begin(self, term: int, began: float) -> None:
        runtime = self._runtime
        self._counts_from = began
        runtime.store.term = Term(number=term, owner=self._me.owner)
        runtime.watched.forget()
        self._term = term
        runtime.log.info("lease.taken", term=term, replica=self._me.id)
        self._process.changed()

    def _others(self, tx: Transaction, now: datetime) -> list[Replica]:
        """Return the other replicas that were seen lately; those that were not for a day are forgotten."""
        everyone = tx.replicas.all()
        if any(now - each.seen_at > FORGET for each in everyone):
            tx.replicas.forget(now - FORGET)
        others = [each for each in everyone if each.id != self._me.id and is_live(each, now)]
        self._has_company = bool(others)
        return others

    def _complain_of(self, newer: Replica | None) -> None:
        reason = None
        if newer is not None:
            reason = (
                f"replica {newer.id} on {newer.host} has a newer configuration ({newer.config_version}), "
                "so this one takes events in and decides nothing"
            )
        self._runtime.complaints.set(self.name, "configuration", reason, code="config.older")

    def _show(self, tx: Transaction, now: datetime) -> Replica:
        """Write that we are here, with how new our configuration is."""
        version = self._runtime.config.version
        if self._loads_anew:
            self._loads_anew, self._loaded_at = False, now
        elif version != self._me.config_version:
            self._loaded_at = None
        activated_at = tx.replicas.configured_at(version)
        if activated_at is None and self._loaded_at is None:
            self._loaded_at = now
        known = [at for at in (activated_at, self._loaded_at) if at is not None]
        self._me = replace(
            self._me, config_version=version, config_at=max(known), seen_at=now, report=self._process.report()
        )
        tx.replicas.show(self._me)
        self._shown = self._runtime.clock.monotonic()
        return self._me
