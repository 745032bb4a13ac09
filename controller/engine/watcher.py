"""Concludes what became of promotions: cured, not cured, worse or unknown; and rolls back what is worse.

It works from rows alone, so a daemon that died in between goes on where it was: the outcome, the run's own and the intent to roll back are
one transaction, and the gatekeeper carries the rollback out like one by hand. Nothing is rolled back after a person decided anything about
the model since the promotion, and nothing because something was not seen.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.core.chain import clock
from controller.core.levels import read_levels
from controller.core.model import Promotion
from controller.core.policy import ModelSpec
from controller.core.watch import Conclusion, Reading, Sight, Watching, conclude, signal_of
from controller.engine.gatekeeper import predecessor
from controller.engine.runtime import Runtime, Ticked, notify_people
from controller.errors import Conflict, StoreError
from controller.store import Transaction

#: Watches that one tick looks at.
BATCH = 100
#: What cannot be concluded now, because a promotion is under way or events wait to be decided, is looked at again after this long.
LATER = timedelta(seconds=5)
#: What cannot be dealt with is tried again after this long.
STUCK = timedelta(seconds=30)
#: Who rolls back.
ACTOR = "controller"


class Watcher:
    """The loop that says whether it helped."""

    name = "watcher"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: Watches that could not be dealt with, and when they are tried again.
        self._stuck: dict[str, datetime] = {}

    def tick(self, now: datetime) -> Ticked:
        """Look at the watches whose time has come."""
        with self._runtime.store.reading() as tx:
            due = tx.watches.due(now, BATCH + len(self._stuck))
        self._stuck = {watch_id: at for watch_id, at in self._stuck.items() if watch_id in due}
        waiting = [watch_id for watch_id in due if self._stuck.get(watch_id, now) <= now]
        ended = sum(self._alone(watch_id, now) for watch_id in waiting)
        if ended:
            self._runtime.watched.forget()
            self._runtime.bells.ring("gatekeeper", "outbox", "evaluator")
        with self._runtime.store.reading() as tx:
            next_at = tx.watches.next_look()
        if self._stuck:
            next_at = max(next_at or now, min(self._stuck.values()))
        return Ticked(worked=ended, again=len(waiting) >= BATCH, next_at=next_at)

    def _alone(self, watch_id: str, now: datetime) -> bool:
        """Look at one watch; one that cannot be dealt with must not stop the others."""
        try:
            ended = self._look(watch_id)
        except (StoreError, Conflict):
            raise
        except Exception as error:
            self._runtime.complaints.set(
                self.name, watch_id, f"{watch_id} cannot be dealt with: {error!r}", code="loop.entity"
            )
            self._runtime.log.error("watcher.stuck", watch_id=watch_id, error=repr(error), exc_info=True)
            self._stuck[watch_id] = now + STUCK
            return False
        self._runtime.complaints.set(self.name, watch_id, None)
        self._stuck.pop(watch_id, None)
        return ended

    def _look(self, watch_id: str) -> bool:
        """Look at one watch, and end it when its outcome is known; return whether it ended."""
        with self._runtime.store.reading() as tx:
            watching = tx.watches.get(watch_id)
            seen = None if watching is None else conclude(watching, self._see(tx, watching), tx.now)
        # A rollback has a name of its own, so that it has crash points of its own.
        name = "watch_rollback" if seen is not None and seen.rolls_back else "watch"
        with self._runtime.store.transaction(name) as tx:
            watching = tx.watches.lock(watch_id)
            if watching is None or watching.state != "OPEN":
                return False
            found = conclude(watching, self._see(tx, watching), tx.now)
            if found.outcome is None:
                tx.watches.set(watching.id, look_at=max(watching.until, tx.now + LATER))
                return False
            if found.rolls_back and tx.models.pending_promotion(watching.model) is not None:
                tx.watches.set(watching.id, look_at=tx.now + LATER)  # the controller's own; it may take over, or fail
                return False
            self._end(tx, watching, found)
        self._runtime.metrics.outcomes.labels(watching.model, str(found.outcome)).inc()
        return True

    def _see(self, tx: Transaction, watching: Watching) -> Sight:
        oldest = tx.events.oldest_pending()
        return Sight(
            person=_person(tx, watching),
            newer=_newer(tx, watching),
            episodes=tx.watches.episodes(signal_of(watching.signal).episodes),
            levels=self._levels(tx, watching),
            is_behind=oldest is not None and oldest <= watching.until,
        )

    def _levels(self, tx: Transaction, watching: Watching) -> list[Reading]:
        levels = signal_of(watching.signal).levels
        run = tx.runs.get(watching.run_id) if levels else None
        if run is None:
            return []
        spec = self._runtime.spec_of(tx, run)
        found: list[Reading] = []
        for name, key in levels:
            if (policy := spec.policies.get(name)) is not None:
                state = tx.policies.state(watching.model, name, key)
                found += read_levels(policy, key, state, since=watching.opened_at, now=tx.now)
        return found

    def _end(self, tx: Transaction, watching: Watching, found: Conclusion) -> None:
        """Write the outcome, and the rollback if it asks for one."""
        spec = self._runtime.config.models.get(watching.model)
        reason, rollback = found.reason, None
        if found.rolls_back:
            rollback, problem = _roll_back(tx, watching, spec, reason)
            reason = f"{reason}; {problem}" if problem else reason
        tx.watches.end(
            watching,
            str(found.outcome),
            cause=found.cause,
            reason=reason,
            rollback_id=None if rollback is None else rollback.id,
        )
        if spec is not None and rollback is None:
            _tell(tx, spec, watching, found, reason)
        self._runtime.log.info(
            "outcome",
            model=watching.model,
            policy=watching.policy,
            run_id=watching.run_id,
            outcome=found.outcome,
            cause=found.cause,
            reason=reason,
            rollback=None if rollback is None else rollback.id,
        )


def _person(tx: Transaction, watching: Watching) -> str:
    """Say what a person decided about the model since the promotion; empty for nothing."""
    promotion = tx.watches.decided_by_a_person(watching)
    if promotion is not None:
        words = {"promoted": "approved", "override": "overrode the gate for", "adopted": "adopted"}
        version = tx.models.version(promotion.version_id)
        number = "another version" if version is None else f"v{version.number}"
        verb = words.get(promotion.kind, "rolled back to")
        return f"{promotion.actor} {verb} {number} {clock(promotion.created_at)}"
    press = tx.watches.pressed(watching)
    if press is not None:
        verb = "resumed" if press["verb"] == "resume" else "paused"
        return f"{press['actor']} {verb} the model {clock(press['at'])}"
    return ""


def _newer(tx: Transaction, watching: Watching) -> str:
    """Say which version took over; empty while the promoted one serves."""
    model = tx.models.get(watching.model)
    if model is None or model.epoch == watching.epoch:
        return ""
    version = tx.models.version(model.champion_id)
    return "another version took over" if version is None else f"v{version.number} took over"


def _roll_back(
    tx: Transaction, watching: Watching, spec: ModelSpec | None, reason: str
) -> tuple[Promotion | None, str]:
    """Write the intent to go back to the champion before; or say why that cannot be done."""
    if spec is None:
        return None, "nothing is rolled back: the model is no longer configured"
    before = predecessor(tx, watching.model)
    if before is None:
        return None, "nothing is rolled back: there was no champion before"
    if not tx.models.is_kept(before.id):
        return None, f"nothing is rolled back: the artifact of v{before.number} was not kept"
    promotion = tx.models.add_promotion(
        tx.models.ensure(watching.model),
        version_id=before.id,
        kind="rollback",
        run_id=None,
        actor=ACTOR,
        reason=reason,
        promoters=[promoter.type for promoter in spec.promoters],
    )
    return promotion, ""


def _tell(tx: Transaction, spec: ModelSpec, watching: Watching, found: Conclusion, reason: str) -> None:
    """Tell people what it came to: when it did not help, and whatever it was when they asked for a watch."""
    if found.outcome == "NOT_CURED":
        kind = "not_cured"
    elif watching.rolls_back and found.cause not in ("person_decided", "replaced"):
        kind = "watch_ended"
    else:
        return  # nobody asked, or whoever decided knows
    version = tx.models.version(watching.version_id)
    number = "?" if version is None else version.number
    notify_people(
        tx,
        spec,
        kind,
        f"{watching.model}: {_WORDS[str(found.outcome)].format(number)}: {reason}",
        run_id=watching.run_id,
        version=version.number if version else None,
        policy=watching.policy,
        outcome=found.outcome,
        outcome_reason=reason,
    )


_WORDS = {
    "CURED": "v{} cured what asked for it",
    "NOT_CURED": "v{} did not cure what asked for it",
    "WORSE": "v{} made things worse, and still serves",
    "UNKNOWN": "the watch of v{} is over",
}
