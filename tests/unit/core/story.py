"""A policy's conditions told as a story: events, time, episodes, runs that end; with the states of all its keys kept as rows would be.

On the way each decision is made twice, and what must hold of every one is checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from controller.core.chain import PolicyState
from controller.core.conditions import event_scope
from controller.core.decide import Conclusion, decide, refuse, select
from controller.core.episode import Episode
from controller.core.model import Champion, Decision, Event
from controller.core.on import traits
from controller.core.policy import Policy
from controller.core.stages.count import event_time
from tests.factories import NOON, make_episode, make_event, make_facts, make_pause
from tests.unit.core.driver import stored


@dataclass
class Story:
    """Keeps what the store would keep, for every key."""

    policy: Policy
    now: datetime = NOON
    states: dict[str, PolicyState] = field(default_factory=dict)
    collected: dict[str, dict[str, datetime]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    #: (when, key, ids of the events that led to it).
    fires: list[tuple[datetime, str, list[str]]] = field(default_factory=list)
    champion: Champion | None = None
    #: How long the runs take that it starts; None: they do not end by themselves.
    run_length: timedelta | None = timedelta(0)
    ended_at: dict[str, datetime] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list)
    paused: bool = False
    #: The longest state that there was, in bytes.
    largest: int = 0
    number: int = 0

    def begin(self) -> Story:
        """Activate the policy."""
        if traits(self.policy.on).begins_by_itself:
            self.states[""] = PolicyState(on_hash=self.policy.on_hash, due_at=self.now)
            self.look()
        return self

    def send(self, type: str = "drift", *, ago: float = 0, **fields: Any) -> str:
        """Let an event come that happened so many minutes ago; return what was decided."""
        self.number += 1
        time = self.now - timedelta(minutes=ago)
        return self.hear(make_event(self.number, type=type, time=time, received_at=self.now, **fields))

    def hear(self, event: Event) -> str:
        """Select, then decide on an event; return what was decided."""
        scope = event_scope(event, model=self.policy.model, labels={}, champion=self.champion)
        selection = select(self.policy, event, scope)
        if selection.outcome != "pass":
            self.decisions.append(refuse(self.policy, selection))
            return self.said
        state = self.states.get(selection.key)
        facts = self.facts(selection.key)
        first, second = (
            decide(
                self.policy,
                state,
                key=selection.key,
                event=event,
                opening=selection.trace,
                facts=facts,
                now=self.now,
                scope=scope,
            )
            for _ in range(2)
        )
        assert first == second
        self._write(selection.key, event, first)
        return self.said

    def look(self) -> list[str]:
        """Ask every timer that is due, as often as it is; return what was decided."""
        before = len(self.decisions)
        for _ in range(200):
            due = sorted((s.due_at, key) for key, s in self.states.items() if s.due_at and s.due_at <= self.now)
            if not due:
                return [decision.kind for decision in self.decisions[before:]]
            key, state = due[0][1], self.states[due[0][1]]
            first, second = (
                decide(self.policy, state, key=key, event=None, facts=self.facts(key), now=self.now) for _ in range(2)
            )
            assert first == second
            self._write(key, None, first)
        raise AssertionError(f"it does not come to rest: {self.states}")

    def wait(self, **length: float) -> list[str]:
        """Let time pass, and every timer be asked when it is due; return what was decided."""
        until, said = self.now + timedelta(**length), []
        while due := [s.due_at for s in self.states.values() if s.due_at is not None and s.due_at <= until]:
            self.now = max(self.now, min(due))
            said += self.look()
        self.now = until
        return said

    def sleep(self, **length: float) -> list[str]:
        """Let time pass in which no daemon runs."""
        self.now += timedelta(**length)
        return self.look()

    def open(self, **fields: Any) -> None:
        """Let an episode begin."""
        self.episodes.append(make_episode(len(self.episodes) + 1, **({"opened_at": self.now} | fields)))

    def close(self) -> list[str]:
        """Let every episode end."""
        self.episodes.clear()
        return self.wake("episode")

    def crown(self, champion: Champion) -> list[str]:
        """Make a version champion."""
        self.champion = champion
        return self.wake("champion")

    def end_run(self, key: str = "") -> list[str]:
        """Let the run end that the last FIRE of a key started."""
        self.ended_at[key] = self.now
        return self.wake("run")

    def wake(self, named: str) -> list[str]:
        """Make due what waits for something."""
        for key, state in self.states.items():
            if state.waits_for is not None and named in state.waits_for.split(" or "):
                self.states[key] = replace(state, due_at=self.now, waits_for=None)
        return self.look()

    @property
    def said(self) -> str:
        """What was decided last."""
        return self.decisions[-1].kind

    @property
    def reason(self) -> str:
        """Why."""
        return self.decisions[-1].reason

    def facts(self, key: str) -> Any:
        return make_facts(
            champion=self.champion,
            last_ended_at=self.ended_at.get(key),
            open_episodes=tuple(self.episodes),
            pauses=(make_pause(),) if self.paused else (),
        )

    def _write(self, key: str, event: Event | None, conclusion: Conclusion) -> None:
        decision, before = conclusion.decision, self.states.get(key)
        self._check(conclusion)
        self.decisions.append(decision)
        held = self.collected.setdefault(key, {})
        if decision.kind == "FIRE":
            self.fires.append((self.now, key, [*sorted(held), *([event.id] if event is not None else [])]))
            self.ended_at.pop(key, None)
        if conclusion.causes == "collect" and event is not None:
            held[event.id] = event_time(event)
            if conclusion.keep_since is not None:
                held = {id_: time for id_, time in held.items() if time >= conclusion.keep_since}
        elif before is not None and before.held_count > 0 and conclusion.causes in ("take", "drop"):
            held = {}
        keeps = conclusion.keeps_only
        self.collected[key] = {
            id_: time for id_, time in held.items() if time not in conclusion.drops and (keeps is None or time in keeps)
        }
        if conclusion.state == PolicyState(on_hash=conclusion.state.on_hash):
            self.states.pop(key, None)
        else:
            self.states[key] = stored(conclusion.state)
        if decision.kind == "FIRE" and self.run_length == timedelta(0):
            self.ended_at[key] = self.now
            state = self.states.get(key)
            if state is not None and "run" in (state.waits_for or ""):
                self.states[key] = replace(state, due_at=self.now + timedelta(microseconds=1), waits_for=None)

    def _check(self, conclusion: Conclusion) -> None:
        decision, state = conclusion.decision, conclusion.state
        if decision.kind == "HOLD":
            assert (decision.until is None) is (decision.waits_for is not None)
            assert decision.until is None or decision.until > self.now
            assert state.stage == decision.stage
        assert state.due_at is None or state.due_at > self.now
        assert stored(state) == state
        assert decision.reason
        assert decision.trace
        self.largest = max(self.largest, len(json.dumps(state.slots)))
