"""What came of a backtest: the retrainings that would have started, those that did, and the sums of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controller.core.model import Cause, Decision, Json, Run
from controller.core.past import WASTED, Fate, PastRun

#: The stages that make an occasion; the first of them that passed is why a retraining started.
_OCCASIONS = ("press", "tree", "metric", "count", "max_age", "when", "match", "held")
#: So many types of causes are named.
_MOST_NAMED = 3


@dataclass(slots=True)
class Firing:
    """A retraining that would have started."""

    run_id: str
    model: str
    policy: str
    key: str
    at: datetime
    why: str
    #: How long its first cause was held before.
    held: timedelta
    causes: int = 0
    #: How many causes of which types, when what was held made the occasion; else empty, because `why` says it.
    types: Counter[str] = field(default_factory=Counter)
    #: Later decisions whose causes it took in before it was launched.
    merged: int = 0
    cost: float = 1.0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: How it ended; None while it has not.
    state: str | None = None
    assumed: bool = True
    real_id: str | None = None

    @property
    def length(self) -> timedelta | None:
        """How long it took from its launch to its end."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    @property
    def said(self) -> str:
        """Why it would have started: what made the occasion, or the causes that were held until then."""
        if not self.held or all(kind.startswith("timer.") for kind in self.types):
            return self.why
        named = [f"{count:,} × {kind}" for kind, count in self.types.most_common(_MOST_NAMED)]
        return ", ".join([*named, "…"] if len(self.types) > _MOST_NAMED else named)

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {
            "run": self.run_id,
            "at": _instant(self.at),
            "model": self.model,
            "policy": self.policy,
            "key": self.key,
            "why": self.said,
            "held_seconds": self.held.total_seconds(),
            "causes": self.causes,
            "merged": self.merged,
            "cost": self.cost,
            "started_at": _instant(self.started_at),
            "finished_at": _instant(self.finished_at),
            "outcome": self.state,
            "assumed": self.assumed,
            "real_run": self.real_id,
        }


@dataclass(slots=True)
class Sums:
    """What a policy, or all of them, came to."""

    fired: int = 0
    merged: int = 0
    held: int = 0
    skipped: int = 0
    #: Of the skipped, those that would have fired, had the policy not been in `mode: observe`.
    observed: int = 0
    errors: int = 0
    cost: float = 0.0
    hours: float = 0.0
    promoted: int = 0
    #: Trained well, and there was nothing to promote.
    succeeded: int = 0
    wasted: int = 0
    #: Of the fired, those whose outcome is assumed.
    assumed: int = 0

    def count_end(self, state: str | None, cost: float, length: timedelta | None) -> None:
        """Count a run with its end."""
        self.cost += cost
        self.hours += 0.0 if length is None else length.total_seconds() / 3600
        self.promoted += state == "PROMOTED"
        self.succeeded += state == "SUCCEEDED"
        self.wasted += state in WASTED

    def add(self, other: Sums) -> None:
        """Add others."""
        for name in Sums.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {name: getattr(self, name) for name in Sums.__dataclass_fields__}


class Account:
    """Hears what happens in a backtest and adds it up; `firings` grows with the retrainings, the rest with the policies."""

    def __init__(self, *, only: str | None = None) -> None:
        """`only` names the model of which it is told."""
        self._only = only
        self.firings: list[Firing] = []
        self._by_run: dict[str, Firing] = {}
        self._sums: dict[tuple[str, str], Sums] = {}
        #: How often each (model, policy, stage) held or skipped.
        self.stages: Counter[tuple[str, str, str, str]] = Counter()

    def decided(
        self, decision: Decision, *, at: datetime, event_id: str | None, run_id: str | None, held_since: datetime | None
    ) -> None:
        """Count a decision."""
        del event_id
        if self._only not in (None, decision.model):
            return
        sums = self._sums_of(decision.model, decision.policy)
        if decision.kind == "HOLD":
            sums.held += 1
        elif decision.kind == "SKIP":
            sums.skipped += 1
            sums.observed += decision.stage == "mode"
        elif decision.kind == "ERROR":
            sums.errors += 1
        elif decision.joins_run is not None:
            sums.merged += 1
            if decision.joins_run in self._by_run:
                self._by_run[decision.joins_run].merged += 1
        elif run_id is not None:
            sums.fired += 1
            held = timedelta(0) if held_since is None else at - held_since
            self._begin(run_id, decision, at, held)
        if decision.kind in ("HOLD", "SKIP", "ERROR"):
            self.stages[decision.model, decision.policy, decision.kind, decision.stage] += 1

    def refused(self, refused: Mapping[tuple[str, str, str], int], *, at: datetime) -> None:
        """Count what the first stages did not let through."""
        del at
        for (model, policy, stage), count in refused.items():
            if self._only in (None, model):
                self._sums_of(model, policy).skipped += count
                self.stages[model, policy, "SKIP", stage] += count

    def added(self, run: Run) -> None:
        """Note what a run is to cost."""
        if run.id in self._by_run:
            self._by_run[run.id].cost = run.cost

    def caused(self, run_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Note how many causes a run has."""
        if run_id in self._by_run:
            firing = self._by_run[run_id]
            firing.causes += len(causes)
            if firing.started_at is None and not joins:
                firing.types.update(cause.type for cause in causes)

    def started(self, run: Run, fate: Fate) -> None:
        """Note that a run is launched."""
        firing = self._by_run.get(run.id)
        if firing is not None:
            firing.started_at = run.started_at
            firing.cost, firing.real_id, firing.assumed = fate.cost, fate.real_id, fate.real_id is None

    def ended(self, run: Run) -> None:
        """Note how a run ended."""
        firing = self._by_run.pop(run.id, None)
        if firing is None:
            return
        firing.state, firing.finished_at = run.state, run.finished_at
        if firing.started_at is None:
            firing.cost, firing.assumed = 0.0, False  # it never began, which is decided, not assumed
        self._close(firing)

    def policies(self) -> dict[tuple[str, str], Sums]:
        """Return the sums by model and policy."""
        found = {place: _copy(sums) for place, sums in sorted(self._sums.items())}
        for firing in self._by_run.values():  # those that go on at the end
            found[firing.model, firing.policy].cost += firing.cost
            found[firing.model, firing.policy].assumed += firing.assumed
        return found

    def total(self) -> Sums:
        """Return the sums of all."""
        total = Sums()
        for sums in self.policies().values():
            total.add(sums)
        return total

    def _begin(self, run_id: str, decision: Decision, at: datetime, held: timedelta) -> None:
        firing = Firing(
            run_id=run_id,
            model=decision.model,
            policy=decision.policy,
            key=decision.key,
            at=at,
            why=why(decision),
            held=held,
        )
        self.firings.append(firing)
        self._by_run[run_id] = firing

    def _close(self, firing: Firing) -> None:
        sums = self._sums_of(firing.model, firing.policy)
        sums.count_end(firing.state, firing.cost, firing.length)
        sums.assumed += firing.assumed

    def _sums_of(self, model: str, policy: str) -> Sums:
        sums = self._sums.get((model, policy))
        if sums is None:
            sums = self._sums[model, policy] = Sums()
        return sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A backtest, next to what happened."""

    since: datetime
    #: As far as it came.
    until: datetime
    #: False when it was cancelled before its end.
    complete: bool
    events: int
    account: Account
    did: Sequence[PastRun]
    #: Events that could not be decided, with the reason.
    broken: Sequence[tuple[str, str]] = ()
    #: What should be known of it.
    notes: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        policies = self.account.policies()
        return {
            "since": _instant(self.since),
            "until": _instant(self.until),
            "complete": self.complete,
            "events": self.events,
            "would": [firing.as_json() for firing in self.account.firings],
            "did": [past_as_json(run) for run in self.did],
            "policies": [
                {
                    "model": model,
                    "policy": policy,
                    **sums.as_json(),
                    "stages": {
                        f"{kind} {stage}": count
                        for (m, p, kind, stage), count in sorted(self.account.stages.items())
                        if (m, p) == (model, policy)
                    },
                }
                for (model, policy), sums in policies.items()
            ],
            "totals": {"would": self.account.total().as_json(), "did": did_sums(self.did).as_json()},
            "broken": [{"event": event, "error": error} for event, error in self.broken],
            "notes": list(self.notes),
        }


def did_sums(runs: Iterable[PastRun]) -> Sums:
    """Return what the runs that really happened came to."""
    sums = Sums()
    for run in runs:
        sums.fired += 1
        cost = run.cost if run.started_at is not None or run.finished_at is None else 0.0
        sums.count_end(run.state, cost, run.length)
    return sums


def past_as_json(run: PastRun) -> dict[str, Json]:
    """Return a run that really happened for programs."""
    return {
        "run": run.id,
        "at": _instant(run.decided_at),
        "model": run.model,
        "policy": run.policy,
        "key": run.key,
        "causes": run.cause_count,
        "cost": run.cost,
        "started_at": _instant(run.started_at),
        "finished_at": _instant(run.finished_at),
        "outcome": run.state,
    }


def why(decision: Decision) -> str:
    """Return the line of a decision that says what made the occasion."""
    lines = {line.stage: line for line in decision.trace if line.outcome == "pass"}
    for stage in _OCCASIONS:
        line = lines.get(stage)
        if line is not None:
            return line.reason
    return decision.reason


def _copy(sums: Sums) -> Sums:
    copy = Sums()
    copy.add(sums)
    return copy


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
