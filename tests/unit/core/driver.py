"""Policies decided on as the evaluator does it: one event, one timer, or a whole story with a state that is kept.

`hear` and `look` make one decision; `Driver` keeps what the store would keep between them, and checks what holds of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from controller.core.chain import Facts, PolicyState
from controller.core.conditions import event_scope
from controller.core.decide import Conclusion, decide, refuse, select
from controller.core.model import Decision, Event
from controller.core.policy import Policy
from controller.core.stages.count import event_time
from tests.factories import NOON, make_facts, make_pause

NOTHING = Facts()


def hear(
    policy: Policy, event: Event, state: PolicyState | None = None, *, facts: Facts = NOTHING, now: datetime = NOON
) -> Conclusion:
    """Select, then decide on an event, as the evaluator does."""
    scope = event_scope(event, model=policy.model, labels=facts.labels, champion=facts.champion)
    selection = select(policy, event, scope)
    if selection.outcome != "pass":
        decision = refuse(policy, selection)
        return Conclusion(decision=decision, state=state or PolicyState(on_hash=policy.on_hash), causes="none")
    return decide(
        policy, state, key=selection.key, event=event, opening=selection.trace, facts=facts, now=now, scope=scope
    )


def look(
    policy: Policy, state: PolicyState | None, *, facts: Facts = NOTHING, now: datetime = NOON, key: str = ""
) -> Conclusion:
    """Decide on a timer."""
    return decide(policy, state, key=key, event=None, facts=facts, now=now)


def said(decision: Decision) -> tuple[str, str]:
    return decision.kind, decision.stage


def stored(state: PolicyState) -> PolicyState:
    """Return a state as it comes back from the database."""
    return replace(state, slots=json.loads(json.dumps(state.slots)))


@dataclass
class Driver:
    """Drives a policy as `engine/evaluator.py` does: keeps its state as rows would, and the causes it collected."""

    policy: Policy
    now: datetime = NOON
    state: PolicyState | None = None
    collected: dict[str, datetime] = field(default_factory=dict)
    fires: list[list[str]] = field(default_factory=list)
    #: Events that passed `on`: their decision was HOLD or FIRE.
    passing: list[str] = field(default_factory=list)
    paused: bool = False
    active: list[Any] = field(default_factory=list)
    last_decision_at: datetime | None = None
    #: What the stages keep, as it is stored, stays below this.
    most_bytes: int = 200

    def facts(self) -> Facts:
        return make_facts(
            pauses=(make_pause(),) if self.paused else (),
            active=tuple(self.active),
            last_decision_at=self.last_decision_at,
        )

    def hear(self, event: Event) -> None:
        conclusion = hear(self.policy, event, self.state, facts=self.facts(), now=self.now)
        assert conclusion == hear(self.policy, event, self.state, facts=self.facts(), now=self.now)
        if conclusion.decision.kind in ("HOLD", "FIRE"):
            self.passing.append(event.id)
        self._write(event, conclusion)

    def look(self) -> None:
        """Ask the timer if it is due, as often as it is."""
        while self.state is not None and self.state.due_at is not None and self.state.due_at <= self.now:
            conclusion = look(self.policy, self.state, facts=self.facts(), now=self.now)
            assert conclusion == look(self.policy, self.state, facts=self.facts(), now=self.now)
            self._write(None, conclusion)

    def change(self, policy: Policy) -> None:
        """Reload: every state of a policy that changed is due."""
        self.policy = policy
        if self.state is not None:
            self.state = replace(self.state, due_at=self.now)

    def resume(self) -> None:
        self.paused = False
        if self.state is not None and self.state.waits_for == "resume":
            self.state = replace(self.state, due_at=self.now, waits_for=None)

    def let_all_fire(self) -> None:
        """Let time pass until nothing is held."""
        self.resume()
        for _ in range(20):
            self.look()
            if self.state is None or self.state.stage is None:
                return
            assert self.state.due_at is not None
            self.now = max(self.now, self.state.due_at)
        raise AssertionError(f"still held: {self.state}")

    def _write(self, event: Event | None, conclusion: Conclusion) -> None:
        decision, has_collected = conclusion.decision, self.state is not None and self.state.held_count > 0
        self._check(conclusion)
        if decision.kind == "FIRE":
            causes = sorted(self.collected) if has_collected else []
            self.fires.append([*causes, *([event.id] if event is not None else [])])
            self.last_decision_at = self.now
        if conclusion.causes == "collect" and event is not None:
            self.collected[event.id] = event_time(event)
            if conclusion.keep_since is not None:
                self.collected = {key: time for key, time in self.collected.items() if time >= conclusion.keep_since}
        elif has_collected and conclusion.causes in ("take", "drop"):
            self.collected = {}
        empty = conclusion.state == PolicyState(on_hash=conclusion.state.on_hash)
        self.state = None if empty else stored(conclusion.state)

    def _check(self, conclusion: Conclusion) -> None:
        decision, state = conclusion.decision, conclusion.state
        if decision.kind == "HOLD":
            assert (decision.until is None) is (decision.waits_for is not None)
            assert decision.until is None or decision.until > self.now
            assert (state.due_at, state.waits_for) == (decision.until, decision.waits_for)
            assert state.stage == decision.stage
        assert len(json.dumps(state.slots)) < self.most_bytes
        assert stored(state) == state
        assert decision.reason
        assert decision.trace
