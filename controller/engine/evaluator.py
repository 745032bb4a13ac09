"""Decides: what the policies conclude of the events and timers that wait, in one order, one transaction a batch.

Each decision sees the effects of the one before it. Decision, run, history and messages are written together, and the events are marked
with them. An event that cannot be decided for a reason of its own becomes a dead letter; the others go on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.config import Config
from controller.core.chain import PolicyState
from controller.core.decide import (
    MANUAL,
    policy_removed,
    state_broken,
)
from controller.core.model import (
    Decision,
    Event,
)
from controller.core.on import needs_clock, traits
from controller.engine.books import Books
from controller.engine.burial import tell_of_dead_letters
from controller.engine.runtime import Runtime, Ticked, notify_people
from controller.engine.sitting import Glance, Sitting, glance_at
from controller.engine.watched import Lookout
from controller.errors import Conflict, StoreError
from controller.store import Transaction

BATCH = 1000
#: From so many events in a batch on, the next one is looked at ahead.
BUSY = 100
#: A level that could not be looked at is looked at again after this long.
AFTER_A_BROKEN_LOOK = timedelta(hours=1)


class Evaluator:
    """The loop that decides."""

    name = "evaluator"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: A batch is decided, or another configuration put in force: never both at once, for then the former would decide under the latter.
        self._deciding = threading.RLock()
        self._is_busy = False
        #: Whether the configuration was put in force since this loop began: whoever begins to lead does that first.
        self._is_in_force = False

    def tick(self, now: datetime) -> Ticked:
        """Decide on a batch of waiting events and due timers."""
        with self._deciding:
            if not self._is_in_force:
                self._put_in_force(
                    self._runtime.config, actor="retraind", counts_from=self._runtime.lease.configured_at
                )
            return self._decide()

    def _decide(self) -> Ticked:
        try:
            ahead = self._look_ahead() if self._is_busy else None
            worked, next_at, again = self._batch(events=BATCH, timers=BATCH, ahead=ahead)
            self._is_busy = worked >= BUSY
        except (StoreError, Conflict):
            raise
        except Exception as error:  # one bad event must not stop the others; it becomes a dead letter
            self._runtime.log.error("evaluator.batch_failed", error=repr(error), exc_info=True)
            worked, next_at, again = self._one_by_one(), None, True
        return Ticked(worked=worked, again=again, next_at=next_at)

    def _look_ahead(self) -> _Ahead:
        """Read the next events, and find out which policies refuse them at once, while others write.

        It costs a snapshot of its own, so it pays only when there is much to do. Nobody else decides, so what is pending stays so.
        """
        config = self._runtime.config
        with self._runtime.store.reading() as tx:
            pending, are_more = tx.events.pending_or_more(BATCH)
        return _Ahead(config, pending, [glance_at(self._runtime, event) for event in pending], are_more)

    def _batch(self, *, events: int, timers: int, ahead: _Ahead | None = None) -> tuple[int, datetime | None, bool]:
        """Decide on so many events and timers; return how many there were, when the next timer is due, and whether there may be more."""
        if ahead is not None and ahead.config is not self._runtime.config:
            ahead = None  # a reload came in between
        # The numbers it takes are fenced by the term themselves, so the transaction need not ask twice.
        with self._runtime.store.transaction("decide", fenced=False) as tx:
            if ahead is None:
                pending, are_more = tx.events.pending_or_more(events) if events else ([], False)
                ahead = _Ahead(self._runtime.config, pending, [glance_at(self._runtime, e) for e in pending], are_more)
            next_at = tx.policies.next_due()
            due = tx.policies.due(tx.now, timers) if timers and next_at is not None and next_at <= tx.now else []
            lookout = Lookout(self._runtime, tx)
            sitting = Sitting(self._runtime, tx, ahead.events, numbers=len(ahead.events) + len(due), lookout=lookout)
            for event, glance in zip(ahead.events, ahead.glances, strict=True):
                sitting.hear(event, glance)
            for model, policy, key in due:
                sitting.look(model, policy, key)
            sitting.close()
            told = self._tell_of_breakers(tx, sitting.opened_breakers)
            if due or sitting.saved_states:
                next_at = tx.policies.next_due()
        # Before the log is written: a job may be waiting for this.
        if sitting.fired:
            self._runtime.bells.ring("dispatcher")
        if sitting.stopped:
            self._runtime.bells.ring("monitor")
        if told:
            self._runtime.bells.ring("outbox")
        if sitting.opened_episodes:
            self._runtime.bells.ring("janitor")
        if lookout.has_news:
            self._runtime.bells.ring("watcher")
        sitting.report()
        return len(ahead.events) + len(due), next_at, ahead.are_more or len(due) >= timers > 0

    def _tell_of_breakers(self, tx: Transaction, opened: Sequence[Decision]) -> int:
        """Tell people of breakers that opened, once for each opening; return of how many."""
        told = 0
        for decision in opened:
            opened_by = str(decision.trace[-1].facts["opened_by"])
            if tx.policies.open_breaker(decision.model, decision.policy, decision.key, opened_by=opened_by):
                spec = self._runtime.config.models[decision.model]
                title = f"{decision.model}/{decision.policy} was stopped: {decision.reason}"
                notify_people(
                    tx, spec, "breaker_open", title, run_id=opened_by, policy=decision.policy, key=decision.key
                )
                told += 1
        return told

    def _one_by_one(self) -> int:
        """Decide the next event alone and the next timer alone; what fails again is buried, so that neither is blamed for the other."""
        worked = 0
        for events, timers, bury in ((1, 0, self._bury_event), (0, 1, self._drop_state)):
            try:
                done, _, _ = self._batch(events=events, timers=timers)
            except (StoreError, Conflict):
                raise
            except Exception as error:  # noqa: BLE001 - the row records it, whatever it was
                bury(error)
                done = 1
            worked += done
        return worked

    def _bury_event(self, error: Exception) -> None:
        with self._runtime.store.transaction("bury") as tx:
            for event in tx.events.pending(1):
                reason = f"{type(error).__name__}: {error}"
                tx.events.mark_dead(event.id, reason=reason)
                tell_of_dead_letters(self._runtime, tx, event.origin, 1, reason=reason)
                self._runtime.log.error("event.dead", event_id=event.id, error=repr(error), exc_info=True)
                self._runtime.metrics.events.labels(event.origin, "dead").inc()
                self._runtime.metrics.dead_letters.labels(event.origin, "event").inc()
        self._runtime.bells.ring("outbox")

    def _drop_state(self, error: Exception) -> None:
        with self._runtime.store.transaction("drop_state") as tx:
            for model, policy, key in tx.policies.due(tx.now, 1):
                state = tx.policies.state(model, policy, key)
                if state is not None:
                    decision = state_broken(model, policy, "", key, state, error)
                    tx.policies.add_decision(decision, seq=tx.policies.take_numbers(1), event_id=None, run_id=None)
                tx.policies.drop_state(model, policy, key)
                self._look_again(tx, model, policy)
                self._runtime.log.error(
                    "policy.state_dropped", model=model, policy=policy, key=key, error=repr(error), exc_info=True
                )

    def _look_again(self, tx: Transaction, model: str, name: str) -> None:
        """Keep a level alive: no event would ever bring it back."""
        spec = self._runtime.config.models.get(model)
        policy = spec.policies.get(name) if spec is not None else None
        if policy is not None and traits(policy.on).begins_by_itself:
            state = PolicyState(on_hash=policy.on_hash, due_at=tx.now + AFTER_A_BROKEN_LOOK)
            tx.policies.save_state(policy, "", state)

    def activate(self, *, actor: str, config: Config | None = None) -> None:
        """Make a configuration (by default the runtime's) the one that decides, and deal with policies that changed or are gone.

        It is kept first: nothing is decided under a configuration that the store does not have.
        """
        self._put_in_force(config or self._runtime.config, actor=actor)

    def _put_in_force(self, config: Config, *, actor: str, counts_from: datetime | None = None) -> None:
        policies = [policy for model in config.models.values() for policy in model.policies.values()]
        with self._deciding:
            # Until it is known to be done it may be done or not, as when the answer to the commit is lost: then ours is put in force again.
            self._is_in_force = False
            with self._runtime.store.transaction("activate") as tx:
                body = config.normal_form
                tx.people.activate(
                    version=config.version, body=body, actor=actor, policies=policies, counts_from=counts_from
                )
                for name in config.models:
                    tx.models.ensure(name)
                settle_states(tx, config)
            if config is not self._runtime.config:
                self._runtime.use(config)
            self._is_in_force = True
        self._runtime.bells.ring(self.name)


def settle_states(tx: Books, config: Config) -> None:
    """Deal with what policies remember when a configuration comes into force: policies that are gone or changed, levels that begin."""
    models = config.models
    for model, name, key, version, state in tx.policies.states():
        policy = models[model].policies.get(name) if model in models else None
        if name == MANUAL and model in models:
            tx.policies.touch(model, name, key)  # what a press waits for may be gone, or may have come
        elif policy is None or policy.mode == "off":
            if state.held_count and state.stage is not None:
                what = "removed" if policy is None else "switched off"
                decision = policy_removed(model, name, version, key, state, what=what)
                seq = tx.policies.take_numbers(1)
                tx.policies.add_decision(decision, seq=seq, event_id=None, run_id=None)
            tx.policies.drop_state(model, name, key)
        elif state.stage is not None or (needs_clock(policy.on) and not key):
            if state.on_hash != policy.on_hash or version != policy.version:
                tx.policies.touch(model, name, key)
        elif state.on_hash != policy.on_hash:
            tx.policies.drop_state(model, name, key)  # a window that was counted under another `on`
    for policy in (policy for spec in models.values() for policy in spec.policies.values()):
        if policy.mode == "off" or not traits(policy.on).begins_by_itself:
            continue
        if tx.policies.state(policy.model, policy.name, "") is None:
            tx.policies.save_state(policy, "", PolicyState(on_hash=policy.on_hash, due_at=tx.now))


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The next events, looked at before the transaction that decides on them."""

    config: Config
    events: Sequence[Event]
    glances: Sequence[Glance]
    #: Whether others may wait behind these.
    are_more: bool
