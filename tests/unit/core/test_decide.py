"""What a policy concludes, through the whole chain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import decide as deciding
from controller.core.chain import Answer, Facts, PolicyState, Question, Stage, to_micros
from controller.core.conditions import event_scope
from controller.core.decide import Conclusion, decide, decide_press, policy_removed, refuse, refused_at, select
from controller.core.model import Decision, Event, Trace
from controller.core.policy import Cooldown, Policy, QuietHours
from controller.core.stages import CHAIN
from controller.core.stages.count import event_time
from controller.errors import ExpressionError
from tests.factories import (
    NOON,
    at,
    make_active,
    make_champion,
    make_debounce,
    make_event,
    make_facts,
    make_leaf,
    make_mark,
    make_max_age,
    make_pause,
    make_policy,
    make_state,
    minutes,
    press_data,
)

NOTHING = Facts()
#: Tuesday noon is inside; it ends at one o'clock.
LUNCH = QuietHours(between="11:00-13:00", timezone="UTC")


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


# ------------------------------------------------------------------------------------ who gives the reason

#: What makes each stage stop an event: parts of `on`, of the policy, of the facts; and what the decision says then.
BLOCKERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "match": ({"type": "other"}, {}, {}, "SKIP"),
    "when": ({"when": "event.data.n > 5.0"}, {}, {}, "SKIP"),
    "count": ({"count": 2, "within": minutes(5)}, {}, {}, "SKIP"),
    "debounce": ({}, {"debounce": make_debounce(1)}, {}, "HOLD"),
    "cooldown": (
        {},
        {"cooldown": Cooldown(after="launch", period=minutes(60))},
        {"last_launch_at": at(minutes=-1)},
        "HOLD",
    ),
    "quiet_hours": ({}, {"quiet_hours": LUNCH}, {}, "HOLD"),
    "pause": ({}, {}, {"pauses": (make_pause(),)}, "HOLD"),
    "concurrency": ({}, {"concurrency": "forbid"}, {"active": (make_active(),)}, "SKIP"),
}
LEVEL_BLOCKERS = {
    "max_age": {"champion": make_champion(promoted_at=NOON)},
    **{name: BLOCKERS[name][2] for name in ("debounce", "cooldown", "quiet_hours", "pause", "concurrency")},
}
OLD = {"champion": make_champion(promoted_at=at(days=-20))}


def pairs(stages: Mapping[str, Any]) -> list[Any]:
    return [pytest.param(first, second, id=f"{first} before {second}") for first, second in combinations(stages, 2)]


def blocked_by(*names: str) -> tuple[Policy, Facts]:
    on: dict[str, Any] = {}
    options: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name in names:
        for part, more in zip((on, options, facts), BLOCKERS[name], strict=False):
            part.update(more)
    return make_policy(make_leaf(**on), **options), make_facts(**facts)


@pytest.mark.parametrize("first, second", pairs(BLOCKERS))
def test_the_first_stage_that_does_not_pass_gives_the_reason(first: str, second: str) -> None:
    """Of any two stages that would stop an event, the one that comes earlier in the chain is the reason."""
    policy, facts = blocked_by(first, second)
    decision = hear(policy, make_event(data={"n": 1}), facts=facts).decision

    assert said(decision) == (BLOCKERS[first][3], first)
    assert second not in {line.stage for line in decision.trace}
    assert decision.reason == decision.trace[-1].reason


@pytest.mark.parametrize("first, second", pairs(LEVEL_BLOCKERS))
def test_the_first_stage_gives_the_reason_for_a_level_too(first: str, second: str) -> None:
    """A level goes through the same chain, behind what needs an event."""
    options: dict[str, Any] = {}
    facts: dict[str, Any] = dict(OLD)
    for name in (first, second):
        options |= BLOCKERS[name][1] if name in BLOCKERS else {}
        facts |= LEVEL_BLOCKERS[name]
    decision = look(make_policy(make_max_age(), **options), None, facts=make_facts(**facts)).decision

    assert decision.stage == first


def test_an_event_that_passes_everything_fires() -> None:
    """The trace of a FIRE has a line for each stage that is configured, in order, and all of them passed."""
    policy = make_policy(
        make_leaf(type="drift", when="event.data.n > 0.0", count=1, within=minutes(5)),
        cooldown=Cooldown(after="launch", period=minutes(60)),
        quiet_hours=QuietHours(between="01:00-02:00", timezone="UTC"),
    )
    conclusion = hear(policy, make_event(data={"n": 1}))

    assert said(conclusion.decision) == ("FIRE", "fire")
    assert conclusion.decision.reason == "every stage passed"
    assert [line.stage for line in conclusion.decision.trace] == [
        "match", "when", "count", "cooldown", "quiet_hours", "concurrency",
    ]  # fmt: skip
    assert {line.outcome for line in conclusion.decision.trace} == {"pass"}
    assert conclusion.causes == "take"
    assert conclusion.state == PolicyState(on_hash=policy.on_hash)


def test_a_fire_carries_what_becomes_of_other_runs() -> None:
    """A decision names the run that it joins, and those that it replaces."""
    queued = make_facts(active=(make_active("QUEUED"),))
    training = make_facts(active=(make_active("TRAINING"),))

    assert hear(make_policy(), make_event(), facts=queued).decision.joins_run == "run-1"
    assert hear(make_policy(concurrency="replace"), make_event(), facts=training).decision.replaces == ("run-1",)


# ------------------------------------------------------------------------------------------- selection and keys

KEYS = {
    "a text": ("event.data.k", {"k": "eu"}, "eu"),
    "a number": ("event.data.k", {"k": 3}, "3.0"),
    "a boolean": ("event.data.k", {"k": True}, "True"),
    "an empty text": ("event.data.k", {"k": ""}, ""),
    "a very long text": ("event.data.k", {"k": "x" * 300}, "x" * 256),
}


@pytest.mark.parametrize("by, data, key", KEYS.values(), ids=KEYS)
def test_the_key_of_by(by: str, data: dict[str, Any], key: str) -> None:
    """`by` gives the key, as text of at most 256 characters."""
    policy = make_policy(make_leaf(by=by))
    event = make_event(data=data)

    assert hear(policy, event).decision.key == key


ERRORS = {
    "when fails on the data": ({"when": "event.data.share > 0.3"}, "when", "no field 'share'"),
    "when is neither true nor false": ({"when": "event.type"}, "when", "neither true nor false"),
    "by fails on the data": ({"by": "event.data.region"}, "by", "no field 'region'"),
    "by fails behind a when": ({"when": "true", "by": "event.data.region"}, "by", "no field 'region'"),
    "by gives nothing": ({"by": "event.subject"}, "by", "which is no key"),
    "by gives a list": ({"by": "[1]"}, "by", "which is no key"),
    "by gives an object": ({"by": "event.data"}, "by", "which is no key"),
}


@pytest.mark.parametrize("on, stage, reason", ERRORS.values(), ids=ERRORS)
def test_an_expression_that_fails_is_an_error_with_its_place(on: dict[str, Any], stage: str, reason: str) -> None:
    """Data that an expression cannot work with is an ERROR decision that names the stage, never a silent skip."""
    decision = hear(make_policy(make_leaf(**on)), make_event(data={})).decision

    assert said(decision) == ("ERROR", stage)
    assert reason in decision.reason
    assert decision.trace[-1].outcome == "error"


def with_stage(monkeypatch: pytest.MonkeyPatch, stage: Stage, *, before: str) -> None:
    """Put a stage into the chain, as the file of a new one would."""
    names = [known.name for known in CHAIN]
    chain = (*CHAIN[: names.index(before)], stage, *CHAIN[names.index(before) :])
    monkeypatch.setattr(deciding, "CHAIN", chain)


def failing(question: Question) -> Answer | None:
    raise ExpressionError("no field 'rows'")


def test_a_late_stage_that_fails_keeps_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression deep in the chain that fails is an ERROR too; what was held stays, and its time does not come again."""
    with_stage(monkeypatch, Stage(name="ready", ask=failing), before="debounce")
    held = make_state(make_policy(), stage="ready", held_since=NOON, held_count=2, due_at=NOON)
    heard = hear(make_policy(), make_event(), held)
    looked = look(make_policy(), held)

    assert said(heard.decision) == said(looked.decision) == ("ERROR", "ready")
    assert heard.causes == looked.causes == "none"
    assert heard.state == held
    assert looked.state == replace(held, due_at=None)


# ------------------------------------------------------------------------------------------------- holding

HELD_AT = {
    # stage that held, facts and options that let it through at one o'clock, where it goes on
    "debounce": ("debounce", "debounce"),
    "cooldown": ("cooldown", "cooldown"),
    "quiet_hours": ("quiet_hours", "cooldown"),
    "pause": ("pause", "cooldown"),
    "a stage of another version": ("ready", "debounce"),
}


@pytest.mark.parametrize("stage, goes_on", HELD_AT.values(), ids=HELD_AT)
def test_what_is_held_goes_on_where_it_was_held(stage: str, goes_on: str) -> None:
    """It re-enters at the stage that held it, and behind `cooldown` at `cooldown`, so that later runs count."""
    policy = make_policy(
        make_leaf(when="event.data.n > 0.0"),
        debounce=make_debounce(1),
        cooldown=Cooldown(after="launch", period=minutes(60)),
        quiet_hours=LUNCH,
    )
    slots = {"debounce": {"first": to_micros(NOON), "last": to_micros(NOON)}}
    state = make_state(policy, stage=stage, slots=slots, held_since=NOON, held_count=3, due_at=NOON)
    after_lunch = look(policy, state, now=at(hours=1)).decision
    meanwhile = look(policy, state, now=at(hours=1), facts=make_facts(last_launch_at=at(minutes=30))).decision

    order = ["debounce", "cooldown", "quiet_hours", "concurrency"]
    assert said(after_lunch) == ("FIRE", "fire")
    assert [line.stage for line in after_lunch.trace][1:] == order[order.index(goes_on) :]
    assert after_lunch.trace[0].stage == "held"
    assert "3 held since 2024-03-05 12:00:00Z" in after_lunch.trace[0].reason
    assert said(meanwhile) == ("HOLD", "cooldown")


def test_an_event_joins_what_is_held_from_the_beginning_of_the_chain() -> None:
    """It is counted to what is held, starts the quiet time anew, and is not counted again for a window."""
    policy = make_policy(make_leaf(count=2, within=minutes(30)), debounce=make_debounce(5))
    first = hear(policy, make_event(1))
    second = hear(policy, make_event(2), first.state)
    third = hear(policy, make_event(3), second.state, now=at(minutes=4))

    assert [said(c.decision) for c in (first, second, third)] == [
        ("SKIP", "count"),
        ("HOLD", "debounce"),
        ("HOLD", "debounce"),
    ]
    assert [c.state.held_count for c in (first, second, third)] == [1, 2, 3]
    assert [c.causes for c in (first, second, third)] == ["collect"] * 3
    assert third.decision.until == third.state.due_at == at(minutes=9)
    assert third.state.held_since == NOON


def test_a_late_event_changes_nothing() -> None:
    """An event behind the window is recorded as late, and what was collected stays."""
    policy = make_policy(make_leaf(count=2, within=minutes(10)))
    first = hear(policy, make_event(1, received_at=at(minutes=30)))
    late = hear(policy, make_event(2, time=NOON, received_at=at(minutes=30)), first.state)

    assert said(late.decision) == ("SKIP", "count")
    assert late.causes == "none"
    assert late.state == first.state


def test_what_left_the_window_is_let_go() -> None:
    """Collected causes from before the window are no cause of a later run."""
    policy = make_policy(make_leaf(count=3, within=minutes(10)))
    state = None
    for number, minute in enumerate((0, 8, 15)):
        conclusion = hear(policy, make_event(number, received_at=at(minutes=minute)), state)
        state = conclusion.state

    assert conclusion.keep_since == at(minutes=8)
    assert conclusion.state.held_count == 2


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_timer_that_finds_nothing_held_fires_nothing(version: str) -> None:
    """A reload looks at every policy that changed; half a window, or none at all, is no occasion."""
    policy = make_policy(make_leaf(count=3, within=minutes(10)))
    half = hear(policy, make_event()).state
    changed = replace(policy, version=version)

    for state in (half, make_state(policy), None):
        conclusion = look(changed, state and replace(state, due_at=NOON))
        assert said(conclusion.decision) == ("SKIP", "held")
        assert conclusion.causes == "none"
        assert conclusion.state == (state or make_state(policy))


# -------------------------------------------------------------------------------------------- changed, removed


def test_what_a_changed_policy_held_goes_on_at_debounce() -> None:
    """With another `on` the state starts anew, but what is held is not lost, and the decision says so."""
    policy = make_policy(make_leaf(type="drift"), debounce=make_debounce(5))
    held = make_state(
        policy, on_hash="old", stage="pause", held_since=at(minutes=-9), held_count=2, slots={"count": [1]}
    )
    conclusion = look(policy, held)
    fired = look(policy, conclusion.state, now=at(minutes=5))

    assert said(conclusion.decision) == ("HOLD", "debounce")
    assert conclusion.decision.trace[0].reason == "policy changed, 2 held causes go on at debounce"
    assert conclusion.state.on_hash == policy.on_hash
    assert conclusion.state.held_since == at(minutes=-9)
    assert "count" not in conclusion.state.slots
    assert said(fired.decision) == ("FIRE", "fire")
    assert fired.causes == "take"


def test_an_event_joins_what_a_changed_policy_held() -> None:
    """An event that comes before the timer finds what is held, and the change is in its trace."""
    policy = make_policy(make_leaf(count=5, within=minutes(5)))
    held = make_state(policy, on_hash="old", stage="pause", held_since=NOON, held_count=2)
    conclusion = hear(policy, make_event(), held)

    assert said(conclusion.decision) == ("FIRE", "fire")
    assert [line.stage for line in conclusion.decision.trace][:3] == ["match", "policy", "count"]


def test_a_changed_policy_that_held_nothing_starts_anew() -> None:
    """What was only counted under another `on` is let go, with a decision *policy changed*."""
    policy = make_policy(make_leaf(count=5, within=minutes(5)))
    counted = make_state(policy, on_hash="old", slots={"count": [1, 2]}, held_count=2, held_since=NOON, due_at=NOON)
    looked = look(policy, counted)
    heard = hear(policy, make_event(), counted)

    assert said(looked.decision) == ("SKIP", "policy")
    assert looked.decision.reason == "policy changed, nothing was held"
    assert (looked.causes, looked.state) == ("drop", make_state(policy))
    assert heard.state.held_count == 1
    assert heard.state.held_since is None


def test_what_was_held_for_a_key_fires_once_when_the_policy_becomes_a_level() -> None:
    """The keys of the old `on` go on as what they were; only the model as a whole is a level."""
    level = make_policy(make_max_age(), debounce=make_debounce(5))
    held = make_state(level, on_hash="old", stage="cooldown", held_since=NOON, held_count=1)
    waiting = look(level, held, key="eu")
    fired = look(level, waiting.state, key="eu", now=at(minutes=5))
    counted = look(level, make_state(level, on_hash="old", held_count=1), key="us")

    assert said(waiting.decision) == ("HOLD", "debounce")
    assert said(fired.decision) == ("FIRE", "fire")
    assert fired.state == make_state(level)
    assert said(counted.decision) == ("SKIP", "policy")


def test_a_policy_that_is_removed_says_what_it_lets_go() -> None:
    """The decision that ends it names how many causes were held."""
    decision = policy_removed("churn", "drift", "v7", "eu", make_state(make_policy(), held_count=3))

    assert said(decision) == ("SKIP", "policy")
    assert (decision.policy_version, decision.key) == ("v7", "eu")
    assert decision.reason == "policy removed, 3 held causes are let go"


# ------------------------------------------------------------------------------------------------------ levels

LEVEL = make_policy(make_max_age(days=10, again_days=1))


def test_the_life_of_a_level() -> None:
    """It waits for a champion, for its age, fires once, is quiet while its run goes on, and re-arms."""
    steps = [
        # facts, day, (kind, stage), due on day, waits for
        ({}, 0, ("HOLD", "max_age"), None, "champion"),
        ({"champion": make_champion()}, 1, ("HOLD", "max_age"), 10, None),
        ({"champion": make_champion()}, 10, ("FIRE", "fire"), None, "run"),
        ({"champion": make_champion()}, 11, ("HOLD", "max_age"), None, "run"),
        ({"champion": make_champion(), "last_ended_at": at(days=12)}, 12, ("HOLD", "max_age"), 13, None),
        ({"champion": make_champion(), "last_ended_at": at(days=12)}, 13, ("FIRE", "fire"), None, "run"),
        ({"champion": make_champion(version_id="ver-2", promoted_at=at(days=14))}, 14, ("HOLD", "max_age"), 24, None),
        ({"champion": make_champion(version_id="ver-2", promoted_at=at(days=14))}, 24, ("FIRE", "fire"), None, "run"),
    ]
    state: PolicyState | None = None
    for facts, day, expected, due, waits_for in steps:
        conclusion = look(LEVEL, state, facts=make_facts(**facts), now=at(days=day))
        state = conclusion.state

        assert said(conclusion.decision) == expected
        assert state.due_at == (None if due is None else at(days=due))
        assert state.waits_for == waits_for


@pytest.mark.parametrize(
    "name, options, later",
    [
        pytest.param("debounce", {"debounce": make_debounce(5)}, at(minutes=5), id="debounce"),
        pytest.param(
            "cooldown", {"cooldown": Cooldown(after="launch", period=minutes(60))}, at(minutes=59), id="cooldown"
        ),
        pytest.param("quiet_hours", {"quiet_hours": LUNCH}, at(hours=1), id="quiet hours"),
        pytest.param("pause", {}, at(minutes=1), id="pause"),
    ],
)
def test_a_level_that_is_held_further_on_still_fires(name: str, options: dict[str, Any], later: datetime) -> None:
    """Passing `max_age` disarms nothing; only the FIRE does."""
    policy = make_policy(make_max_age(), **options)
    facts = make_facts(**OLD | BLOCKERS[name][2])
    held = look(policy, None, facts=facts)
    fired = look(policy, held.state, facts=replace(facts, pauses=()), now=later)

    assert said(held.decision) == ("HOLD", name)
    assert said(fired.decision) == ("FIRE", "fire")
    assert fired.state.slots == {"max_age": {"fired_for": "ver-1"}}


def test_a_level_that_is_forbidden_asks_again_when_the_run_ends() -> None:
    """A SKIP at the slot is not a FIRE: the level stays armed, and waits for the run that holds the slot."""
    policy = replace(LEVEL, concurrency="forbid")
    forbidden = look(policy, None, facts=make_facts(**OLD, active=(make_active(),)))
    fired = look(policy, forbidden.state, facts=make_facts(**OLD))

    assert said(forbidden.decision) == ("SKIP", "concurrency")
    assert forbidden.state == make_state(policy, waits_for="run")
    assert said(fired.decision) == ("FIRE", "fire")


def test_a_level_that_fired_and_is_forbidden_remembers_for_whom_it_fired() -> None:
    """What it remembers outlives a SKIP."""
    policy = replace(LEVEL, concurrency="forbid")
    fired = make_state(policy, slots={"max_age": {"fired_for": "ver-1"}})
    facts = make_facts(**OLD, active=(make_active(),), last_ended_at=at(days=-2))

    assert look(policy, fired, facts=facts).state.slots == fired.slots


# ------------------------------------------------------------------------------------------------------ a press


def press(concurrency: Any = "queue", *, data: Any = None, **facts: Any) -> Conclusion:
    event = make_event(type="retrain.requested", origin="person", data=press_data() if data is None else data)
    return decide_press("churn", concurrency, "c1", event=event, facts=make_facts(**facts), now=NOON)


def test_a_press_passes_over_everything_but_the_slot() -> None:
    """It fires through pauses and cooldowns, and shows who pressed, why, and what was passed over."""
    decision = press(pauses=(make_pause(),), last_launch_at=NOON).decision

    assert said(decision) == ("FIRE", "fire")
    assert (decision.policy, decision.policy_version) == ("manual", "c1")
    assert decision.trace[0].reason == "ann pressed retrain: new labels"
    assert decision.trace[1] == Trace(
        stage="chain",
        outcome="over",
        reason="a person passes over match, when, episode, count, max_age, debounce, cooldown, quiet_hours, pause",
    )


PRESSES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "queue waits": ("queue", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ()}),
    "queue joins": ("queue", "QUEUED", {"kind": "FIRE", "joins_run": "run-1", "replaces": ()}),
    "forbid": ("forbid", "TRAINING", {"kind": "SKIP", "joins_run": None, "replaces": ()}),
    "replace": ("replace", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ("run-1",)}),
    "allow": ("allow", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ()}),
}


@pytest.mark.parametrize("concurrency, state, expected", PRESSES.values(), ids=PRESSES)
def test_a_press_obeys_the_slot(concurrency: str, state: str, expected: Mapping[str, Any]) -> None:
    """A person waits for the model's slot like any policy."""
    decision = press(concurrency, active=(make_active(state),)).decision

    assert {name: getattr(decision, name) for name in expected} == expected


@pytest.mark.parametrize("data", [{}, [], None, {"reason": ""}], ids=["no fields", "a list", "press", "empty"])
def test_a_press_that_says_little_is_a_press(data: Any) -> None:
    """Who and why are shown as far as they are known."""
    assert "pressed retrain" in press(data=data).decision.trace[0].reason


# -------------------------------------------------------------------------------- whatever happens: properties


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
        assert len(json.dumps(state.slots)) < 200
        assert stored(state) == state
        assert decision.reason
        assert decision.trace


def stored(state: PolicyState) -> PolicyState:
    """Return a state as it comes back from the database."""
    return replace(state, slots=json.loads(json.dumps(state.slots)))


lengths = st.integers(1, 30).map(minutes)
leaves = st.one_of(
    st.just(make_leaf()),
    st.builds(lambda count, within: make_leaf(count=count, within=within), st.integers(1, 4), lengths),
)
debounces = st.none() | st.builds(
    lambda quiet, more: make_debounce(quiet, None if more is None else quiet + more),
    st.integers(1, 20),
    st.none() | st.integers(0, 40),
)
cooldowns = st.none() | st.builds(lambda period: Cooldown(after="decision", period=period), lengths)
policies = st.builds(
    lambda on, debounce, cooldown, quiet, concurrency: make_policy(
        on, debounce=debounce, cooldown=cooldown, quiet_hours=quiet, concurrency=concurrency
    ),
    leaves,
    debounces,
    cooldowns,
    st.none() | st.just(LUNCH),
    st.sampled_from(["queue", "replace", "allow"]),
)
steps = st.one_of(
    st.tuples(st.just("event"), st.integers(-90, 5)),
    st.tuples(st.just("event"), st.just(0)),
    st.tuples(st.just("pass time"), st.integers(0, 40)),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("resume"), st.none()),
    st.tuples(st.just("run"), st.sampled_from(["QUEUED", "TRAINING", "PROMOTING"])),
    st.tuples(st.just("runs end"), st.none()),
    st.tuples(st.just("change"), policies),
)


@given(policies, st.lists(steps, max_size=30), st.booleans())
def test_whatever_comes_every_event_that_passed_is_a_cause_of_exactly_one_fire(
    policy: Policy, story: list[tuple[str, Any]], timers_first: bool
) -> None:
    """No event that passed `on` is lost or taken twice, whatever the order of events, timers, pauses, runs and reloads.

    On the way: the same facts give the same decision, a HOLD has a time to come or a named condition, and the state is small
    and survives being stored.
    """
    driver = Driver(policy)
    for number, (what, value) in enumerate(story):
        if timers_first:
            driver.look()
        match what:
            case "event":
                time = driver.now + timedelta(minutes=value)
                driver.hear(make_event(number, time=time, received_at=driver.now))
            case "pass time":
                driver.now += timedelta(minutes=value)
            case "pause":
                driver.paused = True
            case "resume":
                driver.resume()
            case "run":
                driver.active = [make_active(value)]
            case "runs end":
                driver.active = []
            case "change":
                driver.change(value)
        driver.look()
    driver.let_all_fire()

    taken = [cause for causes in driver.fires for cause in causes]
    assert len(taken) == len(set(taken))
    assert set(driver.passing) <= set(taken)
    assert all(driver.fires)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.none() | st.integers(5, 30))
def test_the_last_event_of_a_debounce_is_never_lost(gaps: list[int], max_wait: int | None) -> None:
    """However events follow each other, each is in one FIRE, and no FIRE is later than `quiet` or `max_wait` allow."""
    driver = Driver(make_policy(debounce=make_debounce(5, max_wait)))
    for number, gap in enumerate(gaps):
        end = driver.now + timedelta(minutes=gap)
        while driver.state is not None and driver.state.due_at is not None and driver.state.due_at <= end:
            driver.now = driver.state.due_at
            driver.look()
        driver.now = end
        driver.hear(make_event(number, received_at=end))
        if driver.state is not None:
            assert driver.state.due_at is not None
            assert driver.state.due_at <= end + minutes(5)
    driver.let_all_fire()

    assert sorted(cause for causes in driver.fires for cause in causes) == [
        f"evt-{number:016d}" for number in range(len(gaps))
    ]


ages = st.integers(0, 30)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.none() | st.sampled_from(["ver-1", "ver-2"]),
            st.none() | ages,
            st.sampled_from([(), (make_active(),)]),
            st.booleans(),
        ),
        max_size=20,
    ),
    st.sampled_from(["queue", "forbid"]),
    debounces,
    cooldowns,
)
def test_a_level_never_fires_twice_for_one_champion_without_an_end_between(
    story: list[tuple[int, str | None, int | None, tuple[Any, ...], bool]],
    concurrency: Any,
    debounce: Any,
    cooldown: Any,
) -> None:
    """Whatever is looked at and when, a level fires again for the same champion only after `again_after` its run's end."""
    policy = replace(LEVEL, concurrency=concurrency, debounce=debounce, cooldown=cooldown)
    now, state, fired_for = NOON, None, None
    for days, champion, ended, active, is_paused in story:
        now += timedelta(days=days)
        facts = make_facts(
            champion=None if champion is None else make_champion(version_id=champion),
            last_ended_at=None if ended is None else at(now, days=-ended),
            active=active,
            pauses=(make_pause(),) if is_paused else (),
        )
        conclusion = look(policy, state, facts=facts, now=now)
        assert conclusion == look(policy, state, facts=facts, now=now)
        state = stored(conclusion.state)

        assert (state.due_at is None) is (state.waits_for is not None)
        assert state.due_at is None or state.due_at > now
        if conclusion.decision.kind == "FIRE":
            assert champion is not None
            assert champion != fired_for or (ended is not None and ended >= 1)
            fired_for = champion


@given(
    origin=st.sampled_from(["api", "bus"]),
    kind=st.sampled_from(["drift.data", "data.new", "retrain.test"]),
    data=st.sampled_from([{}, {"share": 0.1}, {"share": 0.9}, {"share": "x"}, None]),
    marked=st.booleans(),
    on=st.sampled_from(
        [
            make_leaf(type="drift.*", when="event.data.share > 0.3"),
            make_leaf(source="bus"),
            make_leaf(subject="a*", when="event.subject == 'ab'"),
            make_leaf(when="event.data.share < 0.5", by="event.data.share"),
        ]
    ),
)
def test_the_quick_refusal_is_the_one_that_is_explained(origin, kind, data, marked, on):
    """What ends at the first stages ends at the same stage with and without an explanation; anything else is left to `select`."""
    event = make_event(origin=origin, type=kind, subject="ab", data=data, extensions=make_mark() if marked else {})
    policy = make_policy(on)
    scope = event_scope(event, model="churn", labels={}, champion=None)

    selection = select(policy, event, scope)
    refused = refused_at(policy, event, scope)

    assert refused in (None, selection.trace[-1].stage if selection.trace else None)
    if selection.outcome == "skip" and selection.trace[-1].stage in ("match", "when"):
        assert refused == selection.trace[-1].stage
    elif selection.outcome != "skip":
        assert refused is None
