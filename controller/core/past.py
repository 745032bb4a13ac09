"""What is known of runs that really happened, and what is assumed of those that did not.

In a backtest a run that really happened keeps its outcome, its length and its cost; any other is given what is usual for its model, and the
report says *assumed*. Usual is the median of the length and of the cost of the runs that were launched and ended, and the most frequent
of the final states that say something of the training: whoever was cancelled or replaced says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

#: The final states that say something of the training, in the order that decides between equals.
TELLING = ("PROMOTED", "REJECTED", "SUCCEEDED", "FAILED", "TIMED_OUT")
#: The states in which a run was of no use.
WASTED = ("REJECTED", "FAILED", "TIMED_OUT")
#: Assumed of a model without a history.
UNKNOWN_LENGTH = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRun:
    """A run that really happened."""

    id: str
    model: str
    policy: str
    key: str
    #: Final, or where it stands now.
    state: str
    decided_at: datetime
    started_at: datetime | None
    #: When it left the slot to wait for a person.
    awaiting_since: datetime | None
    finished_at: datetime | None
    cost: float
    depth: int
    #: Whether it helped, one of `OUTCOMES`.
    outcome: str | None
    #: How many events led to it.
    cause_count: int = 0
    #: Metrics of the version that it made champion.
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> timedelta | None:
        """How long it took from its launch to its end; None when it was not launched or has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """What is usual for the runs of a model."""

    length: timedelta
    cost: float
    state: str
    #: Of so many runs; 0 when nothing is known.
    runs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What becomes of a run in a backtest."""

    state: str
    #: From its launch to its end.
    length: timedelta
    cost: float
    #: From its launch to the moment in which it leaves the slot to wait for a person; None when it does not.
    until_asked: timedelta | None = None
    outcome: str | None = None
    #: Metrics of the version that it makes champion; None: those of the champion before it.
    metrics: Mapping[str, float] | None = None
    #: The run that really happened; None for one that is assumed.
    real_id: str | None = None


def usual_of(runs: Iterable[PastRun], *, promotes: bool, cost: float) -> Usual:
    """Return what is usual for the runs of a model.

    For one without a history: `promotes` says whether it has promoters, `cost` is what its runs declare.
    """
    lengths, costs, states = [], [], Counter[str]()
    for run in runs:
        if run.length is None or run.state not in TELLING:
            continue
        lengths.append(run.length.total_seconds())
        costs.append(run.cost)
        states[run.state] += 1
    if not lengths:
        return Usual(length=UNKNOWN_LENGTH, cost=cost, state="PROMOTED" if promotes else "SUCCEEDED", runs=0)
    return Usual(
        length=timedelta(seconds=median(lengths)),
        cost=float(median(costs)),
        state=max(TELLING, key=lambda state: (states[state], -TELLING.index(state))),
        runs=len(lengths),
    )


def assumed(usual: Usual) -> Fate:
    """Return the fate of a run that did not happen."""
    return Fate(state=usual.state, length=usual.length, cost=usual.cost)


def fate_of(run: PastRun, usual: Usual) -> Fate:
    """Return the fate of a run that really happened; one that goes on, or was never launched, ends as its model's usually do."""
    if run.length is None or run.started_at is None:
        return assumed(usual)
    asked = run.awaiting_since
    return Fate(
        state=run.state,
        length=run.length,
        cost=run.cost,
        until_asked=None if asked is None or asked < run.started_at else asked - run.started_at,
        outcome=run.outcome,
        metrics=run.metrics or None,
        real_id=run.id,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Something that changed the world beside events and runs, as it is recorded: the act of a person."""

    at: datetime
    #: pause, resume, champion.
    kind: str
    #: Empty for all, a model, `model/policy`.
    target: str
    actor: str = ""
    reason: str = ""
    #: champion: the version that serves from then on.
    version_id: str = ""
    number: int = 0
    artifact: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
