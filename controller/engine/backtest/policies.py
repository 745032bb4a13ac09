"""What policies hold and remember in a backtest, in memory; the store's counterpart is `controller/store/policies.py`."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from controller.core.chain import Facts, PolicyState, waits_of
from controller.core.model import Cause, Champion, Decision, Event, Pause
from controller.core.on import traits
from controller.core.policy import Budget, Policy
from controller.core.stages.loop import emitting_run, fewest_behind

if TYPE_CHECKING:
    from controller.engine.backtest.world import World

#: A policy's model, its name, and a key.
Place = tuple[str, str, str]
#: The list of what is due is cleared of what is no longer true when it is so much longer than what is remembered.
_STALE = 1000


class MemoryPolicies:
    """States, collected causes and the last decisions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seq = 0
        self._states: dict[Place, PolicyState] = {}
        self._versions: dict[Place, str] = {}
        #: (due at, place), some of which are no longer true.
        self._due: list[tuple[datetime, Place]] = []
        #: Places by what they wait for.
        self._waiting: dict[str, set[Place]] = defaultdict(set)
        #: Places by the stage that holds them.
        self._at_stage: dict[str, set[Place]] = defaultdict(set)
        #: For how many keys each policy remembers something, and when each was written to last.
        self._keys: Counter[tuple[str, str]] = Counter()
        self._touched: dict[Place, datetime] = {}
        self._held: dict[Place, dict[str, Cause]] = {}
        #: The time of the oldest of them; or of one that was let go, which is older.
        self._oldest: dict[Place, datetime] = {}
        self._holders: dict[str, set[Place]] = {}
        self._fired_at: dict[Place, datetime] = {}
        #: The run of the last FIRE.
        self._last_run: dict[Place, str] = {}

    # ---- as the store's rows

    def take_numbers(self, count: int) -> int:
        """Take `count` places in the order of deciding and return the first."""
        first = self._seq + 1
        self._seq += count
        return first

    def state(self, model: str, policy: str, key: str) -> PolicyState | None:
        """Return what a policy remembers for a key; None for nothing yet."""
        return self._states.get((model, policy, key))

    def save_state(self, policy: Policy, key: str, state: PolicyState) -> None:
        """Remember a state; one that remembers nothing is forgotten."""
        place = (policy.model, policy.name, key)
        if state == PolicyState(on_hash=state.on_hash):
            self._forget(place)
            return
        self._versions[place] = policy.version
        self._put(place, state)

    def due(self, now: datetime, limit: int) -> list[Place]:
        """Return the places whose time has come, the longest overdue first."""
        found: list[Place] = []
        kept: dict[tuple[datetime, Place], None] = {}
        while self._due and self._due[0][0] <= now and len(found) < limit:
            entry = heapq.heappop(self._due)
            if self._is_true(entry) and entry not in kept:
                kept[entry] = None
                found.append(entry[1])
        for entry in kept:  # it stays due until it was looked at
            heapq.heappush(self._due, entry)
        return found

    def next_due(self) -> datetime | None:
        """Return when the next state is due."""
        while self._due and not self._is_true(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def wake(self, *, model: str | None, waits_for: Sequence[str], policy: str | None = None) -> int:
        """Make due now what waits for something that just happened; return how many."""
        places = [
            place
            for named in waits_for
            for place in self._waiting.get(named, ())
            if model in (None, place[0]) and policy in (None, place[1])
        ]
        for place in dict.fromkeys(places):
            self._put(place, replace(self._states[place], due_at=self._world.now, waits_for=None))
        return len(places)

    def states(self) -> list[tuple[str, str, str, str, PolicyState]]:
        """Return every state as (model, policy, key, policy version, state)."""
        return [(*place, self._versions.get(place, ""), state) for place, state in sorted(self._states.items())]

    def touch(self, model: str, policy: str, key: str) -> None:
        """Make a state due now."""
        place = (model, policy, key)
        if place in self._states:
            self._put(place, replace(self._states[place], due_at=self._world.now))

    def drop_state(self, model: str, policy: str, key: str) -> None:
        """Forget a state and the causes it collected."""
        self._forget((model, policy, key))
        self.drop_causes(model, policy, key)

    def collect(self, model: str, policy: str, key: str, cause: Cause) -> None:
        """Add an event to the causes collected for a policy and key; the same event is one cause."""
        if cause.event_id is None:
            return
        place = (model, policy, key)
        held = self._held.setdefault(place, {})
        self._oldest[place] = min(self._oldest[place], cause.time) if held else cause.time
        held.setdefault(cause.event_id, cause)
        self._holders.setdefault(cause.event_id, set()).add(place)

    def collected(self, model: str, policy: str, key: str) -> list[Cause]:
        """Return the causes collected for a policy and key, in the order of storing."""
        held = self._held.get((model, policy, key), {})
        return [held[event_id] for event_id in sorted(held)]

    def drop_causes(self, model: str, policy: str, key: str, *, before: datetime | None = None) -> None:
        """Let go of the causes collected for a policy and key, or of those from before an instant."""
        place = (model, policy, key)
        held = self._held.get(place)
        if not held or (before is not None and self._oldest[place] >= before):
            return
        for event_id in [each for each, cause in held.items() if before is None or cause.time < before]:
            self.let_go(model, policy, key, event_id)
        if held:
            self._oldest[place] = min(cause.time for cause in held.values())

    def let_go(self, model: str, policy: str, key: str, event_id: str) -> None:
        """Let go of one cause that was collected for a policy and key."""
        place = (model, policy, key)
        held = self._held.get(place)
        if held is not None and held.pop(event_id, None) is not None:
            if not held:
                del self._held[place], self._oldest[place]
            holders = self._holders[event_id]
            holders.discard(place)
            if not holders:
                del self._holders[event_id]

    def drop_causes_of(self, model: str, policy: str, key: str, instants: Sequence[datetime]) -> None:
        """Let go of the causes collected for a policy and key that are of these instants."""
        held, gone = self._held.get((model, policy, key), {}), set(instants)
        for event_id in [each for each, cause in held.items() if cause.time in gone]:
            self.let_go(model, policy, key, event_id)

    def key_count(self, model: str, policy: str) -> int:
        """Return for how many keys a policy remembers something."""
        return self._keys[model, policy]

    def longest_untouched(self, model: str, policy: str, limit: int) -> list[str]:
        """Return the keys of a policy that hold nothing and were not written to for longest."""
        found = [
            (self._touched[place], place[2])
            for place, state in self._states.items()
            if place[:2] == (model, policy) and state.stage is None
        ]
        return [key for _, key in sorted(found)[:limit]]

    def holds_of(self, event_id: str) -> list[tuple[str, str, str, PolicyState, int]]:
        """Return what holds an event: (model, policy, key, state, how many causes it holds)."""
        found = []
        for place in sorted(self._holders.get(event_id, ())):
            state = self._states.get(place)
            if state is not None and state.stage is not None:
                found.append((*place, state, len(self._held[place])))
        return found

    def add_decision(self, decision: Decision, *, seq: int, event_id: str | None, run_id: str | None) -> str:
        """Take in a decision and return its id."""
        world, place = self._world, (decision.model, decision.policy, decision.key)
        state = self._states.get(place)
        world.witness.decided(
            decision,
            at=world.now,
            event_id=event_id,
            run_id=run_id,
            held_since=None if state is None else state.held_since,
        )
        if decision.kind == "FIRE" and run_id is not None:
            self._fired_at[place] = world.now
            if place[:2] in world.levels:
                self._last_run[place] = run_id
        return f"dec-{seq:09d}"

    def count_refusals(self, refused: Mapping[tuple[str, str, str], int]) -> None:
        """Count what the first stages did not let through."""
        if refused:
            self._world.witness.refused(refused, at=self._world.now)

    def facts(
        self,
        policy: Policy,
        key: str,
        *,
        champion: Champion | None,
        labels: Mapping[str, str],
        pauses: Iterable[Pause],
        event: Event | None = None,
        held: int = 0,
        sharing: Sequence[str] | None = None,
    ) -> Facts:
        """Return what a policy is told about the world; only what it asks for is looked up, as the store does."""
        model, runs = policy.model, self._world.runs
        ends = runs.ends(model)
        cooldown = policy.cooldown
        after = None if cooldown is None else cooldown.after
        asks_failure = cooldown is not None and cooldown.after_failure is not None
        depth, own_run = self._chain(policy, key, event, held)
        ended_at = None
        if traits(policy.on).has_levels:
            ended_at = runs.finished_at(self._last_run.get((model, policy.name, key), ""))
        return Facts(
            champion=champion,
            labels=labels,
            pauses=tuple(pauses),
            active=runs.active(model),
            last_decision_at=self._fired_at.get((model, policy.name, key)) if after == "decision" else None,
            last_launch_at=ends.launch if after == "launch" else None,
            last_success_at=ends.success if after == "success" or asks_failure else None,
            last_promotion_at=ends.promotion if after == "promotion" else None,
            last_failure_at=ends.failure if asks_failure else None,
            last_ended_at=ended_at,
            spent=() if policy.budget is None else self.spent(policy.budget, sharing or (model,)),
            unhelpful=() if policy.breaker is None else runs.unhelpful(model, policy.name, key),
            depth=depth,
            own_run=own_run,
        )

    def spent(self, budget: Budget, models: Sequence[str]) -> Sequence[tuple[datetime, float]]:
        """Return what counts now in a budget that these models share, the oldest first: when each was decided, and its cost."""
        shared = None if budget.scope == "all" else models
        found = self._world.runs.spent(shared, self._world.now - budget.per)
        return found[-budget.runs :] if budget.runs else found

    def look_again(self, stage: str) -> int:
        """Make due now what a stage holds until an instant that may have come nearer; return how many."""
        now = self._world.now
        places = [
            place
            for place in self._at_stage.get(stage, ())
            if (due_at := self._states[place].due_at) is not None and due_at > now
        ]
        for place in places:
            self._put(place, replace(self._states[place], due_at=now))
        return len(places)

    def _chain(self, policy: Policy, key: str, event: Event | None, held: int) -> tuple[int, str | None]:
        """Return how many runs lie behind the cause that has the fewest, and the model's own run when it emitted them all."""
        emitters: set[str | None] = set()
        if event is not None:
            emitters.add(emitting_run(event))
        if held and None not in emitters:
            causes = self._held.get((policy.model, policy.name, key), {}).values()
            emitters |= {cause.emitted_by for cause in causes}
        if not emitters or None in emitters:
            return 0, None
        known = self._world.runs.emitters(run_id for run_id in emitters if run_id is not None)
        return fewest_behind({run_id: known.get(run_id or "") for run_id in emitters}, policy.model)

    # ---- what is its own

    def remember_fire(self, place: Place, at: datetime, run_id: str) -> None:
        """Take in that a policy fired before the backtest begins."""
        known = self._fired_at.get(place)
        if known is None or at > known:
            self._fired_at[place] = at
            self._last_run[place] = run_id

    def _put(self, place: Place, state: PolicyState) -> None:
        self._unlist(place)
        self._keys[place[:2]] += place not in self._states
        self._states[place] = state
        self._touched[place] = self._world.now
        for named in waits_of(state.waits_for):
            self._waiting[named].add(place)
        if state.stage is not None:
            self._at_stage[state.stage].add(place)
        if state.due_at is not None:
            heapq.heappush(self._due, (state.due_at, place))
            if len(self._due) > 2 * len(self._states) + _STALE:
                self._due = [(each.due_at, where) for where, each in self._states.items() if each.due_at is not None]
                heapq.heapify(self._due)

    def _forget(self, place: Place) -> None:
        self._unlist(place)
        self._keys[place[:2]] -= place in self._states
        self._states.pop(place, None)
        self._touched.pop(place, None)
        self._versions.pop(place, None)

    def _unlist(self, place: Place) -> None:
        known = self._states.get(place)
        for named in waits_of(known.waits_for if known is not None else None):
            self._waiting[named].discard(place)
        if known is not None and known.stage is not None:
            self._at_stage[known.stage].discard(place)

    def _is_true(self, entry: tuple[datetime, Place]) -> bool:
        state = self._states.get(entry[1])
        return state is not None and state.due_at == entry[0]
