"""What holds for every policy there can be, whatever happens to it.

Stories are of events, timers, jumps of the clock, pauses, incidents and runs.
The story keeps what the store would keep; facts are worked out from it as `store/policies.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.calendar import Calendar, closed_until
from controller.core.chain import ActiveRun, Facts
from controller.core.model import EMITTED_BY, Event
from controller.core.policy import Breaker, Budget, Policy, Ready
from controller.core.schedule import quiet_until
from controller.core.stages.loop import emitting_run, fewest_behind
from tests.factories import (
    LUNCH,
    at,
    make_debounce,
    make_episode,
    make_event,
    make_leaf,
    make_pause,
    make_policy,
    minutes,
)
from tests.unit.core.drawn import cooldowns, debounces, leaves
from tests.unit.core.driver import Driver, look

TUESDAYS = Calendar(name="tuesdays", days=("tue",))
#: What may end a hold that has no time.
NAMED = {"rows", "episode", "resume"}

readies = st.none() | st.builds(
    Ready,
    new_rows=st.none() | st.integers(1, 30),
    label_delay=st.none() | st.integers(1, 30).map(minutes),
    unless_open=st.just(make_leaf(type="incident")),
)
budgets = st.none() | st.builds(
    lambda runs, by_cost, per: Budget(
        runs=None if by_cost else runs, cost=float(runs) if by_cost else None, per=minutes(per)
    ),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 120),
)
policies = st.builds(
    lambda on, ready, debounce, cooldown, quiet, calendars, breaker, budget, chain, concurrency: make_policy(
        on,
        ready=ready,
        debounce=debounce,
        cooldown=cooldown,
        quiet_hours=quiet,
        calendars=calendars,
        breaker=breaker,
        budget=budget,
        max_chain=chain,
        own_output=chain > 1,
        concurrency=concurrency,
    ),
    leaves,
    readies,
    debounces,
    cooldowns,
    st.none() | st.just(LUNCH),
    st.just(()) | st.just((TUESDAYS,)),
    st.none() | st.builds(Breaker, after=st.integers(1, 3)),
    budgets,
    st.integers(1, 3),
    st.sampled_from(["queue", "replace", "allow"]),
)
#: (what, how much): minutes, rows.
happenings = st.lists(
    st.tuples(
        st.sampled_from(
            ["event", "event", "event", "own", "time", "time", "jump", "pause", "resume", "incident", "end"]
        ),
        st.integers(0, 40),
    ),
    max_size=25,
)


@dataclass
class Story(Driver):
    """A policy and everything around it."""

    spent: list[tuple[Any, float]] = field(default_factory=list)
    unhelpful: list[str] = field(default_factory=list)
    incident: bool = False
    emitters: dict[str, str | None] = field(default_factory=dict)
    driving: Event | None = None
    number: int = 0
    #: `ready` keeps a sum beside the window and the debounce.
    most_bytes: int = 300
    #: Events that an own output made the guard let go together.
    let_go: set[str] = field(default_factory=set)

    def facts(self) -> Facts:
        budget = self.policy.budget
        since = None if budget is None else self.now - budget.per
        names = {self.emitters.get(event_id) for event_id in self.collected}
        if self.driving is not None:
            names = {*names, emitting_run(self.driving)} if self._collects() else {emitting_run(self.driving)}
        known = {name: None if name is None else ("churn", 0) for name in names}
        depth, own_run = fewest_behind(known, "churn")
        return Facts(
            pauses=(make_pause(),) if self.paused else (),
            active=tuple(self.active),
            last_decision_at=self.last_decision_at,
            open_episodes=(make_episode(type="incident"),) if self.incident else (),
            spent=tuple((when, cost) for when, cost in self.spent if since is not None and when > since),
            unhelpful=tuple(self.unhelpful),
            depth=depth,
            own_run=own_run,
        )

    def _collects(self) -> bool:
        return self.state is not None and self.state.held_count > 0

    def happen(self, what: str, much: int) -> None:
        """Let one thing happen, and then every timer that is due."""
        if what in ("event", "own"):
            self.number += 1
            mark = {EMITTED_BY: "run-own"} if what == "own" else {}
            event = make_event(self.number, received_at=self.now, data={"rows": float(much)}, extensions=mark)
            self.emitters[event.id] = emitting_run(event)
            self.driving = event
            self.hear(event)
            self.driving = None
        elif what == "time":
            self.now += minutes(much)
        elif what == "jump":
            self.now += minutes(much - 20)
        elif what == "pause":
            self.paused = True
        elif what == "resume":
            self.unhelpful.clear()
            self.resume()
        elif what == "incident":
            self.incident = not self.incident
            self._wake("episode")
        elif what == "end" and self.active:
            self.active.pop(0)
            if much % 2:
                self.unhelpful.insert(0, f"run-{much}")
        self.look()

    def _wake(self, named: str) -> None:
        if not self.incident and self.state is not None and self.state.waits_for == named:
            self.state = replace(self.state, due_at=self.now, waits_for=None)

    def _write(self, event: Event | None, conclusion: Any) -> None:
        decision = conclusion.decision
        if decision.kind == "HOLD" and decision.waits_for is not None:
            assert decision.waits_for in NAMED
        if decision.kind == "SKIP" and decision.stage == "loop":
            self.let_go |= {*self.collected, *([event.id] if event is not None else [])}
        if decision.kind == "FIRE":
            self._check_fire(decision)
        super()._write(event, conclusion)
        if decision.kind == "FIRE":
            self._start(decision)

    def _check_fire(self, decision: Any) -> None:
        """A FIRE keeps every promise that its policy makes."""
        policy, now = self.policy, self.now
        assert not self.paused
        quiet = policy.quiet_hours
        assert quiet is None or quiet_until(now, between=quiet.between, timezone=quiet.timezone) is None
        assert closed_until(now, policy.calendars) is None
        assert policy.breaker is None or len(self.unhelpful) < policy.breaker.after
        budget = policy.budget
        if budget is not None and decision.joins_run is None:
            limit = budget.runs if budget.runs is not None else budget.cost
            assert len([when for when, _ in self.spent if when > now - budget.per]) + 1 <= (limit or 0)

    def _start(self, decision: Any) -> None:
        if decision.joins_run is None:
            self.spent.append((self.now, 1.0))
            state = "QUEUED" if self.active and self.policy.concurrency == "queue" else "TRAINING"
            self.active = [run for run in self.active if run.id not in decision.replaces]
            self.active.append(ActiveRun(id=f"run-{len(self.fires)}", state=state, policy="drift", key=""))

    def calm_down(self) -> None:
        """End everything that holds, and let time pass until nothing is held."""
        self.incident, self.active = False, []
        self.unhelpful.clear()
        self.resume()
        self._wake("episode")
        for _ in range(60):
            self.look()
            if self.state is None or self.state.stage is None:
                return
            if self.state.waits_for == "rows":
                self.happen("event", 1000)
                continue
            assert self.state.due_at is not None, self.state
            self.now = max(self.now, self.state.due_at)
        raise AssertionError(f"still held: {self.state}")


def tell(policy: Policy, story: list[tuple[str, int]]) -> Story:
    """Let a story happen to a policy; whatever is decided is decided twice, and checked (`Driver`)."""
    told = Story(policy, now=at(minutes=-90))
    for what, much in story:
        told.happen(what, much)
    return told


@settings(max_examples=300, deadline=None)
@given(policy=policies, story=happenings)
def test_whatever_happens_a_decision_keeps_its_promises(policy: Policy, story: list[tuple[str, int]]) -> None:
    """Deciding twice is deciding once; a hold has a time or a named condition; no FIRE breaks a stage's word."""
    told = tell(policy, story)
    told.calm_down()

    assert told.state is None or told.state.stage is None


@settings(max_examples=300, deadline=None)
@given(policy=policies, story=happenings)
def test_no_event_that_passed_is_lost(policy: Policy, story: list[tuple[str, int]]) -> None:
    """Every event that was held is a cause of a run in the end, once; but for what the model's own runs emitted, alone."""
    told = tell(policy, story)
    told.calm_down()
    causes = [event_id for fire in told.fires for event_id in fire]

    assert len(causes) == len(set(causes))
    assert set(told.passing) <= {*causes, *told.let_go}
    assert all(told.emitters[event_id] is not None for event_id in told.let_go)


@settings(max_examples=200, deadline=None)
@given(
    quiet=st.integers(1, 20),
    more=st.none() | st.integers(0, 30),
    gaps=st.lists(st.integers(0, 30), min_size=1, max_size=15),
)
def test_the_last_event_of_a_debounce_is_never_lost(quiet: int, more: int | None, gaps: list[int]) -> None:
    """Whatever the gaps between events, each is in exactly one run, and the last one is in the last run."""
    told = Story(make_policy(debounce=make_debounce(quiet, None if more is None else quiet + more)))
    for gap in gaps:
        told.happen("event", 0)
        told.happen("time", gap)
    told.active = []
    told.calm_down()
    causes = [event_id for fire in told.fires for event_id in fire]

    assert sorted(causes) == [f"evt-{number:016d}" for number in range(1, len(gaps) + 1)]
    assert told.fires[-1][-1] == f"evt-{len(gaps):016d}"


@given(
    late=st.integers(0, 10**6),
    policy=st.builds(
        lambda debounce, cooldown: make_policy(debounce=debounce, cooldown=cooldown), debounces, cooldowns
    ),
)
def test_a_timer_that_is_late_by_hours_decides_as_of_now(late: int, policy: Policy) -> None:
    """What was due long ago is decided once, at once, and the trace says how late when it is over a second."""
    told = Story(policy)
    told.happen("event", 0)
    if told.state is not None and told.state.due_at is not None:
        told.now = told.state.due_at + timedelta(seconds=late)
        decision = look(policy, told.state, facts=told.facts(), now=told.now).decision
        told.look()

        assert ("timer" in [line.stage for line in decision.trace]) is (late > 1)

    assert len(told.fires) == 1
