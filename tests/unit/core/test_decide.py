"""The walk of the chain: who gives the reason, what a FIRE carries, where what is held goes on, and that no event is lost.

What single stages bring about through the chain is in `stages/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import decide as deciding
from controller.core.chain import Answer, Facts, PolicyState, Question, Stage, to_micros
from controller.core.policy import Cooldown, Policy, QuietHours
from controller.core.stages import CHAIN
from controller.errors import ExpressionError
from tests.factories import (
    LUNCH,
    NOON,
    at,
    make_active,
    make_champion,
    make_debounce,
    make_event,
    make_facts,
    make_leaf,
    make_max_age,
    make_pause,
    make_policy,
    make_state,
    minutes,
)
from tests.unit.core.drawn import policies
from tests.unit.core.driver import Driver, hear, look, said

# ------------------------------------------------------------------------------------------------- who gives the reason

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


# -------------------------------------------------------------------------------------------------------------- holding


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


HELD_AT = {
    # stage that held, facts and options that let it through at one o'clock, where it goes on
    "debounce": ("debounce", "debounce"),
    "cooldown": ("cooldown", "cooldown"),
    "quiet_hours": ("quiet_hours", "cooldown"),
    "pause": ("pause", "cooldown"),
    "a stage of another version": ("of_old", "debounce"),
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
    state = make_state(policy, stage=stage, slots=slots, held_since=NOON, held_count=3, due_at=at(hours=1))
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


# ----------------------------------------------------------------------------------------------------- whatever happens

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
