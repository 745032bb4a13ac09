"""The legal changes of state: one table, from which everything else is derived.

A row is (from, to, causes). The comment above it says who writes it.
Derived from the table: the guard of `store.transition()`, the CHECK constraints of the schema, the test of all pairs, and
`docs/lifecycle.md`. *Final* is not declared: a state that no row leaves is final.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from controller.errors import IllegalTransition


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One legal change of state."""

    #: The state before.
    origin: str
    #: The state after.
    target: str
    #: The causes that may lead from one to the other; each is a word that history and people see.
    causes: frozenset[str]


@dataclass(frozen=True)
class Machine:
    """All the states of one kind of thing, and the rows between them."""

    #: What the rows of this machine are called: "run", "job", …
    name: str
    #: The state a new row is born in.
    initial: str
    rows: tuple[Row, ...] = field(repr=False)

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Every state, in the order of the table."""
        ordered = {self.initial: None}
        for row in self.rows:
            ordered[row.origin] = None
            ordered[row.target] = None
        return tuple(ordered)

    @cached_property
    def final(self) -> tuple[str, ...]:
        """The states that no row leaves."""
        left = {row.origin for row in self.rows}
        return tuple(state for state in self.states if state not in left)

    @cached_property
    def _causes(self) -> dict[tuple[str, str], frozenset[str]]:
        return {(row.origin, row.target): row.causes for row in self.rows}

    def check(self, origin: str, target: str, cause: str) -> None:
        """Raise `IllegalTransition` unless the table has this row with this cause."""
        causes = self._causes.get((origin, target))
        if causes is None:
            ways = sorted(row.target for row in self.rows if row.origin == origin)
            raise IllegalTransition(
                f"{self.name}: {origin!r} cannot become {target!r}",
                hint=f"from {origin} it can go to: {', '.join(ways) or 'nowhere, it is final'}",
            )
        if cause not in causes:
            raise IllegalTransition(
                f"{self.name}: {origin} → {target} has no cause {cause!r}",
                hint=f"known causes: {', '.join(sorted(causes))}",
            )


def _row(origin: str, target: str, *causes: str) -> Row:
    return Row(origin=origin, target=target, causes=frozenset(causes))


def _machine(name: str, initial: str, rows: Iterable[Row]) -> Machine:
    return Machine(name=name, initial=initial, rows=tuple(rows))


EVENT = _machine(
    "event",
    "PENDING",
    [
        # The evaluator decided on it. No history row: the event's own row is the record.
        _row("PENDING", "PROCESSED", "decided"),
        # The evaluator could not: it is kept whole as a dead letter.
        _row("PENDING", "DEAD", "undecidable"),
        # A person replays it, or gives it up.
        _row("DEAD", "PENDING", "replayed"),
        _row("DEAD", "PROCESSED", "dropped"),
    ],
)

RUN = _machine(
    "run",
    "QUEUED",
    [
        # The dispatcher gives it the model's slot, pins the champion and freezes its causes.
        _row("QUEUED", "TRAINING", "dispatched"),
        # The dispatcher cannot build its command: a name is missing in the events' data.
        _row("QUEUED", "FAILED", "invalid_parameters"),
        # A person cancels it.
        _row("QUEUED", "CANCELLED", "cancelled"),
        # The evaluator: a newer decision takes its place (concurrency: replace).
        _row("QUEUED", "SUPERSEDED", "replaced"),
        # The monitor: its jobs have ended, as many of them well as the gate needs.
        _row("TRAINING", "JUDGING", "trained"),
        # The monitor: its jobs have ended, too few of them well.
        _row("TRAINING", "FAILED", "training_failed"),
        _row("TRAINING", "TIMED_OUT", "timed_out"),
        # The monitor, once the jobs are stopped: a person asked, or a newer decision.
        _row("TRAINING", "CANCELLED", "cancelled"),
        _row("TRAINING", "SUPERSEDED", "replaced"),
        # The gatekeeper: the verdict passed, and nobody needs to be asked.
        _row("JUDGING", "PROMOTING", "passed"),
        # The gatekeeper: passed, but a person decides, or promotion is held after a rollback.
        _row("JUDGING", "AWAITING_APPROVAL", "approval_required", "held"),
        # The gatekeeper: the challenger is not better, the comparison says nothing, or what the same cause made before was rolled back.
        _row("JUDGING", "REJECTED", "gate_failed", "inconclusive", "rolled_back_before"),
        # The gatekeeper: the model has no promoters.
        _row("JUDGING", "SUCCEEDED", "nothing_to_promote"),
        # The gatekeeper: the champion is of a later decision than this run.
        _row("JUDGING", "SUPERSEDED", "newer_champion", "replaced"),
        _row("JUDGING", "CANCELLED", "cancelled"),
        # A person approves; the gatekeeper, when what held it is over.
        _row("AWAITING_APPROVAL", "PROMOTING", "approved", "released"),
        # A person rejects; the gatekeeper, when nobody answered in time.
        _row("AWAITING_APPROVAL", "REJECTED", "rejected", "approval_timed_out"),
        _row("AWAITING_APPROVAL", "SUPERSEDED", "newer_champion"),
        _row("AWAITING_APPROVAL", "CANCELLED", "cancelled"),
        # The gatekeeper: every promoter moved and was read back.
        _row("PROMOTING", "PROMOTED", "promoted"),
        # The gatekeeper: a promoter gave up (the others were undone), or the artifact is not the one that was judged.
        _row("PROMOTING", "FAILED", "promotion_failed", "artifact_changed"),
        # The gatekeeper: another promotion came first.
        _row("PROMOTING", "SUPERSEDED", "newer_champion"),
    ],
)

JOB = _machine(
    "job",
    "PENDING",
    [
        # The dispatcher writes its intent, then calls the launcher.
        _row("PENDING", "LAUNCHING", "launching"),
        _row("PENDING", "CANCELLED", "cancelled"),
        # The dispatcher: the launcher answered, or the job was found there after a crash.
        _row("LAUNCHING", "RUNNING", "launched", "adopted"),
        # The dispatcher: the launcher certainly did not start it.
        _row("LAUNCHING", "RETRYABLE", "launch_failed"),
        _row("LAUNCHING", "FAILED", "launch_failed"),
        _row("LAUNCHING", "CANCELLED", "cancelled"),
        # The dispatcher: it may have been started, and the launcher cannot be searched, or its host does not come back.
        _row("LAUNCHING", "UNKNOWN", "launch_unknown", "host_gone"),
        # The monitor: it ended, and its result is valid.
        _row("RUNNING", "SUCCEEDED", "succeeded"),
        # The monitor: it ended badly and no attempt is left, or its result is not valid, which another attempt would not mend.
        _row("RUNNING", "FAILED", "failed", "invalid_result"),
        # The monitor: it ended badly, and has attempts left.
        _row("RUNNING", "RETRYABLE", "failed"),
        # The monitor: too long, or a person (or a newer decision) stops it.
        _row("RUNNING", "STOPPING", "timed_out", "cancelled"),
        # The monitor: the launcher no longer knows it.
        _row("RUNNING", "LOST", "lost"),
        # The monitor: it is back within the grace period.
        _row("LOST", "RUNNING", "found"),
        _row("LOST", "RETRYABLE", "lost"),
        _row("LOST", "FAILED", "lost"),
        _row("LOST", "CANCELLED", "cancelled"),
        # The monitor: its host does not answer, so nobody can say whether it still runs.
        _row("LOST", "UNKNOWN", "host_gone"),
        # The dispatcher: its next attempt.
        _row("RETRYABLE", "LAUNCHING", "launching"),
        _row("RETRYABLE", "CANCELLED", "cancelled"),
        # The monitor: it is gone now.
        _row("STOPPING", "TIMED_OUT", "timed_out"),
        _row("STOPPING", "CANCELLED", "cancelled"),
        # The monitor: its host, or its launcher, no longer answers, so nobody can say whether it was stopped.
        _row("STOPPING", "UNKNOWN", "host_gone"),
        # A person says what became of it (`runs resolve`), or a late answer does: the launcher knows it after all.
        _row("UNKNOWN", "RUNNING", "resolved", "late_answer"),
        _row("UNKNOWN", "FAILED", "resolved", "late_answer"),
        # The monitor of the host that it was meant for, which is back: it surely never began there.
        _row("UNKNOWN", "RETRYABLE", "late_answer"),
    ],
)

VERSION = _machine(
    "version",
    "CANDIDATE",
    [
        # The gatekeeper: it won and was promoted; a person adopted it; a person overrode the gate.
        _row("CANDIDATE", "CHAMPION", "promoted", "adopted", "override"),
        # The gatekeeper: it did not win.
        _row("CANDIDATE", "REJECTED", "rejected"),
        # The gatekeeper: another version took over.
        _row("CHAMPION", "RETIRED", "replaced"),
        # The gatekeeper: a person, or the watch after a promotion, went back.
        _row("CHAMPION", "ROLLED_BACK", "rolled_back"),
        _row("RETIRED", "CHAMPION", "rollback", "override"),
        _row("ROLLED_BACK", "CHAMPION", "rollback", "override"),
        # A person overrode the gate, by name and with a reason.
        _row("REJECTED", "CHAMPION", "override"),
    ],
)

PROMOTION = _machine(
    "promotion",
    "PENDING",
    [
        # The gatekeeper: every promoter moved and was read back; the champion row moved with this.
        _row("PENDING", "APPLIED", "applied"),
        # The gatekeeper: a promoter gave up; those that had moved went back in reverse.
        _row("PENDING", "FAILED", "promotion_failed", "artifact_changed"),
        # The gatekeeper: another promotion came first.
        _row("PENDING", "SUPERSEDED", "newer_champion"),
    ],
)

STEP = _machine(
    "step",
    "PENDING",
    [
        # The gatekeeper: this promoter points at the version, as read back from it.
        _row("PENDING", "APPLIED", "applied"),
        # The gatekeeper: this promoter gave up.
        _row("PENDING", "FAILED", "gave_up"),
        # The gatekeeper: a later promoter gave up, so this one went back.
        _row("APPLIED", "UNDONE", "undone"),
    ],
)

NOTIFICATION = _machine(
    "notification",
    "PENDING",
    [
        # The outbox: the notifier took it.
        _row("PENDING", "SENT", "sent"),
        # The outbox: the notifier gave up, or nobody took it for too long.
        _row("PENDING", "DEAD", "gave_up"),
        # The outbox: its channel does not take messages of this kind.
        _row("PENDING", "SKIPPED", "not_wanted"),
        # A person has it sent again.
        _row("DEAD", "PENDING", "retried"),
    ],
)

EPISODE = _machine(
    "episode",
    "OPEN",
    [
        # The evaluator: the alert is resolved.
        _row("OPEN", "RESOLVED", "resolved"),
        # The janitor: no sign of life for too long; `resolved` may never come.
        _row("OPEN", "EXPIRED", "expired"),
    ],
)

WATCH = _machine(
    "watch",
    "OPEN",
    [
        # The watcher: the alert that asked for the retraining was resolved, or its metric is back.
        _row("OPEN", "CURED", "cleared"),
        # The watcher: the signal came again, or was still there when the time was over.
        _row("OPEN", "NOT_CURED", "came_back", "still_there"),
        # The watcher: enough events that fit `rollback_on`; the rollback is written with this.
        _row("OPEN", "WORSE", "worse"),
        # The watcher: a person decided, another version took over, the signal has no end that can be seen, or nothing was seen of it.
        _row("OPEN", "UNKNOWN", "person_decided", "replaced", "nothing_to_cure", "not_known"),
    ],
)

DEAD_LETTER = _machine(
    "dead_letter",
    "DEAD",
    [
        # A person has it read again, and now it makes sense: its events are stored.
        _row("DEAD", "REPLAYED", "replayed"),
        # A person gives it up; the inbox, when its source has more of them than are kept.
        _row("DEAD", "DROPPED", "dropped", "quota"),
    ],
)

MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (EVENT, RUN, JOB, VERSION, PROMOTION, STEP, NOTIFICATION, EPISODE, WATCH, DEAD_LETTER)
}

#: A run holds the model's slot in these states; in AWAITING_APPROVAL it waits for a person and holds nothing.
ACTIVE_RUN_STATES = ("QUEUED", "TRAINING", "JUDGING", "PROMOTING")
