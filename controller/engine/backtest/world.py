"""The world of a backtest: what a sitting looks up and writes, in memory, and what becomes of the runs that are decided.

The rows of the store are here dictionaries, and the daemon's other loops a few lines: a queued run starts when its model's slot is free,
it ends as its `Fate` says, an episode expires, a person pauses. What a policy is told of it are the same facts.
Bounded: what is over is kept only as far as a policy may ask for it.
The driver (`driver.py`) moves the time; nothing here reads a clock or a database.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from controller.clock import Ids
from controller.config import Config
from controller.core.chain import ActiveRun
from controller.core.model import Cause, Champion, Decision, Pause, Run
from controller.core.on import traits
from controller.core.past import Change, Fate, PastRun
from controller.core.states import ACTIVE_RUN_STATES, RUN
from controller.engine.backtest.episodes import MemoryEpisodes
from controller.engine.backtest.policies import MemoryPolicies

#: A run holds its model's slot in these states.
_HOLDING = ("TRAINING", "JUDGING", "PROMOTING")
_GOOD = ("PROMOTED", "REJECTED", "SUCCEEDED")
_BAD = ("FAILED", "TIMED_OUT")
#: A run that ends so may never have been launched, and then its budget has it back.
_MAY_GIVE_BACK = ("FAILED", "CANCELLED", "SUPERSEDED", "TIMED_OUT")
#: Runs that ended without having helped, and are remembered for the breaker, for each policy and key.
MOST_UNHELPFUL = 100


class Outcomes(Protocol):
    """Says what becomes of a run."""

    def fate(self, run: Run, causes: Sequence[Cause]) -> Fate:
        """Return the fate of a run that starts."""
        ...


class Witness(Protocol):
    """Hears what happens in the world of a backtest."""

    def decided(
        self, decision: Decision, *, at: datetime, event_id: str | None, run_id: str | None, held_since: datetime | None
    ) -> None:
        """Hear of a decision."""
        ...

    def refused(self, refused: Mapping[tuple[str, str, str], int], *, at: datetime) -> None:
        """Hear how often the first stages of (model, policy, stage) let nothing through."""
        ...

    def added(self, run: Run) -> None:
        """Hear of a run that is queued."""
        ...

    def caused(self, run_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Hear of the causes of a run."""
        ...

    def started(self, run: Run, fate: Fate) -> None:
        """Hear of a run that is launched, and what will become of it."""
        ...

    def ended(self, run: Run) -> None:
        """Hear of a run that has ended."""
        ...


@dataclass(slots=True)
class _Ends:
    """When the runs of a model last were launched, ended well, were promoted, ended badly."""

    launch: datetime | None = None
    success: datetime | None = None
    promotion: datetime | None = None
    failure: datetime | None = None


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """Something that will happen to a run."""

    at: datetime
    number: int
    run_id: str = field(compare=False)
    state: str = field(compare=False)


class World:
    """What a sitting looks up and writes, in memory."""

    def __init__(self, config: Config, *, ids: Ids, outcomes: Outcomes, witness: Witness, now: datetime) -> None:
        self.config = config
        self.now = now
        self.ids = ids
        self.witness = witness
        #: Policies with parts that stay true, by model and name: they are told when the run of their last FIRE ended.
        self.levels = frozenset(
            (policy.model, policy.name)
            for spec in config.models.values()
            for policy in spec.policies.values()
            if traits(policy.on).has_levels
        )
        self.policies = MemoryPolicies(self)
        self.runs = MemoryRuns(self, outcomes)
        self.episodes = MemoryEpisodes(self)
        self.events = _Events()
        self.models = _Models()
        self.people = _People()
        #: Recorded acts of persons that are still to come, the next one last.
        self._changes: list[Change] = []

    def expect(self, changes: Iterable[Change]) -> None:
        """Take in what persons will do; changes of before now are done at once."""
        self._changes = sorted(changes, key=lambda change: change.at, reverse=True)
        self._act()

    def next_at(self) -> datetime | None:
        """Return when something happens next without an event."""
        instants = [
            self.policies.next_due(),
            self.runs.next_at(),
            self.episodes.next_expiry(),
            self._changes[-1].at if self._changes else None,
        ]
        return min((at for at in instants if at is not None), default=None)

    def move(self) -> None:
        """Let happen what is due at the present instant, before it is decided: persons act, runs end, episodes are given up."""
        if self._changes and self._changes[-1].at <= self.now:
            self._act()
        self.runs.settle()
        self.episodes.expire()

    def crown(self, model: str, champion: Champion) -> None:
        """Make a version the champion."""
        self.models.champions[model] = champion
        self.models.epochs[model] = self.models.epoch(model) + 1
        self.models.numbers[model] = max(self.models.numbers.get(model, 0), champion.number)
        self.policies.wake(model=model, waits_for=("champion", "run"))

    def pause(self, pause: Pause) -> None:
        """Hold decisions until somebody resumes."""
        self.people.found[pause.target] = pause

    def resume(self, target: str) -> None:
        """Let decisions go on."""
        self.people.found.pop(target, None)
        model, _, policy = target.partition("/")
        self.runs.forgive(model, policy)
        self.policies.wake(model=model or None, policy=policy or None, waits_for=("resume",))

    def _act(self) -> None:
        while self._changes and self._changes[-1].at <= self.now:
            change = self._changes.pop()
            if change.kind == "pause":
                scope = "all" if not change.target else "policy" if "/" in change.target else "model"
                self.pause(
                    Pause(scope=scope, target=change.target, actor=change.actor, reason=change.reason, at=change.at)
                )
            elif change.kind == "resume":
                self.resume(change.target)
            elif change.kind == "champion":
                champion = Champion(
                    version_id=change.version_id,
                    number=change.number,
                    artifact=change.artifact,
                    artifact_digest=None,
                    metrics=change.metrics,
                    promoted_at=change.at,
                    decided_at=None,
                )
                self.crown(change.target, champion)


class MemoryRuns:
    """Runs that are active, what a policy may ask of those that ended, and what becomes of them."""

    def __init__(self, world: World, outcomes: Outcomes) -> None:
        self._world = world
        self._outcomes = outcomes
        self._runs: dict[str, Run] = {}
        #: Runs that are not final, by model, oldest first.
        self._open: dict[str, dict[str, None]] = defaultdict(dict)
        self._causes: dict[str, dict[str | None, Cause]] = {}
        self._fates: dict[str, Fate] = {}
        self._due: list[_Due] = []
        self._number = 0
        #: Models with a queued run that may be started.
        self._queued: dict[str, None] = {}
        self._ends: dict[str, _Ends] = defaultdict(_Ends)
        self._finished: dict[str, datetime] = {}
        #: Model and depth of every run.
        self._depths: dict[str, tuple[str, int]] = {}
        #: By model: (decided at, cost, run) of what counts in budgets, oldest first.
        self._spent: dict[str, deque[list[Any]]] = defaultdict(deque)
        self._longest = max(
            (
                policy.budget.per
                for spec in world.config.models.values()
                for policy in spec.policies.values()
                if policy.budget is not None
            ),
            default=timedelta(0),
        )
        self._unhelpful: dict[tuple[str, str, str], deque[str]] = {}
        #: What a run of the record is called here.
        self._called: dict[str, str] = {}

    # ---- as the store's rows

    def new_id(self) -> str:
        """Return an id for a run that is about to be added."""
        self._number += 1
        return f"run-{self._number:06d}"

    def add(self, run: Run) -> None:
        """Take in a new run, QUEUED."""
        self._runs[run.id] = run
        self._open[run.model][run.id] = None
        self._queued[run.model] = None
        self._causes[run.id] = {}
        self._depths[run.id] = (run.model, run.depth)
        self._spend(run.model, run.decided_at, run.cost, run.id)
        if run.not_before is not None and run.not_before > self._world.now:
            self._later(run.not_before, run.id, "QUEUED")
        self._world.witness.added(run)

    def add_causes(self, run_id: str, decision_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Give a run its causes; an event that is there already stays once."""
        del decision_id
        known = self._causes.setdefault(run_id, {})
        new = []
        for cause in causes:
            name = cause.event_id or f"timer {len(known)}"
            if name not in known:
                known[name] = cause
                new.append(cause)
        self._world.witness.caused(run_id, new, joins=joins)

    def causes(self, run_id: str) -> list[Cause]:
        """Return why a run exists, while it is active."""
        return list(self._causes.get(self._called.get(run_id, run_id), {}).values())

    def get(self, run_id: str) -> Run | None:
        """Return a run that has not ended."""
        return self._runs.get(run_id)

    def set(self, run_id: str, **values: Any) -> None:
        """Change columns of a run that are not its state; one that is to stop does so when everything of this instant is decided."""
        run = self._runs.get(run_id)
        if run is None:
            return
        run = self._runs[run_id] = replace(run, **values)
        self._depths[run_id] = (run.model, run.depth)
        self._queued[run.model] = None
        if run.stop_as is not None:
            self._later(self._world.now, run_id, run.stop_as)

    def move(
        self, run: Run, target: str, *, cause: str, reason: str = "", actor: str = "controller", **values: Any
    ) -> None:
        """Change a run's state; a run that leaves the model's slot wakes the policies that wait for it."""
        del actor
        if target in RUN.final:
            values["finished_at"] = self._world.now
        moved = replace(run, state=target, cause=cause, reason=reason or run.reason, **values)
        self._runs[run.id] = moved
        if target in RUN.final:
            self._finish(moved)
        if target not in ACTIVE_RUN_STATES:
            self._queued[run.model] = None
            self._world.policies.wake(model=run.model, waits_for=("run",))
        if target in _MAY_GIVE_BACK:
            self._world.policies.look_again("budget")

    # ---- what policies are told

    def active(self, model: str) -> tuple[ActiveRun, ...]:
        """Return the runs of a model from QUEUED to PROMOTING, oldest first."""
        found = (self._runs[run_id] for run_id in self._open.get(model, ()))
        return tuple(
            ActiveRun(id=run.id, state=run.state, policy=run.policy, key=run.key)
            for run in found
            if run.state in ACTIVE_RUN_STATES
        )

    def ends(self, model: str) -> _Ends:
        """Return when the runs of a model last were launched and ended."""
        return self._ends[model]

    def finished_at(self, run_id: str) -> datetime | None:
        """Return when a run ended."""
        return self._finished.get(run_id)

    def emitters(self, run_ids: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return the model and the depth of those runs that there are; by their names here or in the record."""
        found = {run_id: self._depths.get(self._called.get(run_id, run_id)) for run_id in run_ids}
        return {run_id: known for run_id, known in found.items() if known is not None}

    def spent(self, models: Iterable[str] | None, since: datetime) -> list[tuple[datetime, float]]:
        """Return what counts in a budget of these models, or of all: decided after `since`, oldest first."""
        shared = self._spent if models is None else models
        return sorted((at, cost) for model in shared for at, cost, _ in self._spent.get(model, ()) if at > since)

    def unhelpful(self, model: str, policy: str, key: str) -> tuple[str, ...]:
        """Return the ended runs of a policy and key that did not help, newest first."""
        return tuple(self._unhelpful.get((model, policy, key), ()))

    def forgive(self, model: str, policy: str) -> None:
        """Forget what did not help: a person resumed the policy."""
        for place in [place for place in self._unhelpful if place[:2] == (model, policy)]:
            del self._unhelpful[place]

    # ---- what happens

    def next_at(self) -> datetime | None:
        """Return when something happens to a run next."""
        return self._due[0].at if self._due else None

    def remember(self, past: PastRun) -> None:
        """Take in a run that was decided before the backtest begins; one that goes on holds its slot until it really ended."""
        run = _as_run(past)
        now = self._world.now
        self._depths[run.id] = (run.model, run.depth)
        if past.started_at is not None or past.finished_at is None or past.finished_at > now:
            self._spend(run.model, run.decided_at, run.cost, run.id)
        if past.started_at is not None and past.started_at <= now:
            self._ends[run.model].launch = _later(self._ends[run.model].launch, past.started_at)
        if past.finished_at is not None and past.finished_at <= now:
            self._note_end(replace(run, state=past.state, finished_at=past.finished_at))
            return
        if past.finished_at is None or past.started_at is None:
            return  # it never ended in the record, so nobody knows how long it holds the slot
        state = "TRAINING" if past.awaiting_since is None or past.awaiting_since > now else "AWAITING_APPROVAL"
        self._runs[run.id] = replace(run, state=state, epoch=self._world.models.epoch(run.model))
        self._open[run.model][run.id] = None
        self._fates[run.id] = Fate(
            state=past.state, length=past.finished_at - past.started_at, cost=past.cost, real_id=past.id
        )
        if state == "TRAINING" and past.awaiting_since is not None:
            self._later(past.awaiting_since, run.id, "AWAITING_APPROVAL")
        self._later(past.finished_at, run.id, past.state)

    def settle(self) -> None:
        """Let happen to runs what is due now."""
        while self._due and self._due[0].at <= self._world.now:
            due = heapq.heappop(self._due)
            run = self._runs.get(due.run_id)
            if run is None:
                continue
            if due.state == "QUEUED":
                self._queued[run.model] = None
            elif due.state == "AWAITING_APPROVAL":
                self.move(run, due.state, cause="approval_required", awaiting_since=due.at)
            elif due.state == "PROMOTED" and run.epoch != self._world.models.epoch(run.model):
                self._world.models.number_next(run.model)
                self.move(run, "SUPERSEDED", cause="newer_champion")
            else:
                self.move(run, due.state, cause="ended")

    def start(self) -> bool:
        """Start the queued runs that may, the oldest first, as the dispatcher does; return whether there was any."""
        started = False
        models, self._queued = self._queued, {}
        for model in models:
            spec = self._world.config.models.get(model)
            one_by_one = spec is None or spec.training.concurrency != "allow"
            for run_id in list(self._open.get(model, ())):
                run = self._runs[run_id]
                if run.state != "QUEUED" or (run.not_before is not None and run.not_before > self._world.now):
                    continue
                if one_by_one and any(self._runs[each].state in _HOLDING for each in self._open[model]):
                    break
                self._start(run)
                started = True
        return started

    def _start(self, run: Run) -> None:
        now = self._world.now
        fate = self._fates[run.id] = self._outcomes.fate(run, list(self._causes[run.id].values()))
        epoch = self._world.models.epoch(run.model)
        started = replace(run, state="TRAINING", cause="dispatched", started_at=now, epoch=epoch)
        self._runs[run.id] = started
        self._ends[run.model].launch = now
        if fate.real_id is not None:
            self._called[fate.real_id] = run.id
        if fate.until_asked is not None:
            self._later(now + fate.until_asked, run.id, "AWAITING_APPROVAL")
        self._later(now + fate.length, run.id, fate.state)
        self._world.witness.started(started, fate)

    def _finish(self, run: Run) -> None:
        fate = self._fates.pop(run.id, None)
        self._runs.pop(run.id, None)
        self._open[run.model].pop(run.id, None)
        self._causes.pop(run.id, None)
        if fate is not None and run.state == fate.state:
            is_dearer = fate.cost != run.cost
            run = replace(run, cost=fate.cost, outcome=fate.outcome)
            if is_dearer:
                self._correct(run)
                self._world.policies.look_again("budget")
        elif run.started_at is None:
            self._give_back(run)
        self._note_end(run)
        self._world.witness.ended(run)
        if run.state == "PROMOTED":
            self._promote(run, fate)
        elif run.state in ("REJECTED", "SUCCEEDED") and run.started_at is not None:
            self._world.models.number_next(run.model)

    def _note_end(self, run: Run) -> None:
        at, ends = run.finished_at or self._world.now, self._ends[run.model]
        self._finished[run.id] = at
        if run.state in _GOOD:
            ends.success = _later(ends.success, at)
        if run.state == "PROMOTED":
            ends.promotion = _later(ends.promotion, at)
        if run.state in _BAD:
            ends.failure = _later(ends.failure, at)
        place = (run.model, run.policy, run.key)
        if run.outcome == "CURED":
            self._unhelpful.pop(place, None)
        elif run.state in ("REJECTED", *_BAD) or run.outcome in ("NOT_CURED", "WORSE"):
            self._unhelpful.setdefault(place, deque(maxlen=MOST_UNHELPFUL)).appendleft(run.id)

    def _promote(self, run: Run, fate: Fate | None) -> None:
        before = self._world.models.champion(run.model)
        metrics = fate.metrics if fate is not None and fate.metrics is not None else (before.metrics if before else {})
        champion = Champion(
            version_id=f"version of {run.id}",
            number=self._world.models.number_next(run.model),
            artifact=f"artifact of {run.id}",
            artifact_digest=None,
            metrics=metrics,
            promoted_at=self._world.now,
            decided_at=run.decided_at,
        )
        self._world.crown(run.model, champion)

    def _later(self, at: datetime, run_id: str, state: str) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(at, self._number, run_id, state))

    def _spend(self, model: str, at: datetime, cost: float, run_id: str) -> None:
        if not self._longest:
            return
        spent = self._spent[model]
        spent.append([at, cost, run_id])
        while spent and spent[0][0] <= self._world.now - self._longest:
            spent.popleft()

    def _correct(self, run: Run) -> None:
        for entry in self._spent.get(run.model, ()):
            if entry[2] == run.id:
                entry[1] = run.cost

    def _give_back(self, run: Run) -> None:
        spent = self._spent.get(run.model)
        if spent is not None:
            self._spent[run.model] = deque(entry for entry in spent if entry[2] != run.id)


class _Events:
    def mark_processed(self, decided: Sequence[tuple[str, int]]) -> None:
        """Nothing is kept of events."""


class _Models:
    def __init__(self) -> None:
        self.champions: dict[str, Champion] = {}
        #: How often the champion changed.
        self.epochs: dict[str, int] = {}
        #: The number of the newest version.
        self.numbers: dict[str, int] = {}

    def epoch(self, name: str) -> int:
        """Return how often the champion changed."""
        return self.epochs.get(name, 0)

    def number_next(self, name: str) -> int:
        """Return the number of a new version."""
        self.numbers[name] = self.numbers.get(name, 0) + 1
        return self.numbers[name]

    def champion(self, name: str) -> Champion | None:
        """Return the version that serves."""
        return self.champions.get(name)


class _People:
    def __init__(self) -> None:
        self.found: dict[str, Pause] = {}

    def pauses(self) -> list[Pause]:
        """Return every pause, the widest first."""
        widths = {"all": 0, "model": 1}
        return sorted(self.found.values(), key=lambda pause: (widths.get(pause.scope, 2), pause.target))


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None or other > one else one


def _as_run(past: PastRun) -> Run:
    return Run(
        id=past.id,
        model=past.model,
        policy=past.policy,
        policy_version="",
        config_version="",
        key=past.key,
        state=past.state,
        cause="recorded",
        reason="",
        decision_id="",
        decided_at=past.decided_at,
        params={},
        actor=None,
        traceparent=None,
        started_at=past.started_at,
        finished_at=past.finished_at,
        champion_id=None,
        epoch=None,
        stop_as=None,
        awaiting_since=past.awaiting_since,
        cost=past.cost,
        depth=past.depth,
        outcome=past.outcome,
    )
