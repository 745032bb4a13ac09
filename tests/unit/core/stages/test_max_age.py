"""`max_age` through the chain: a level waits, fires once for a champion, is quiet while its run goes on, and re-arms."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.chain import PolicyState
from controller.core.policy import Cooldown
from tests.factories import (
    LUNCH,
    NOON,
    at,
    make_active,
    make_champion,
    make_debounce,
    make_facts,
    make_max_age,
    make_pause,
    make_policy,
    make_state,
    minutes,
)
from tests.unit.core.drawn import cooldowns, debounces
from tests.unit.core.driver import look, said, stored

LEVEL = make_policy(make_max_age(days=10, again_days=1))
OLD = {"champion": make_champion(promoted_at=at(days=-20))}


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
    "name, options, blocking, later",
    [
        pytest.param("debounce", {"debounce": make_debounce(5)}, {}, at(minutes=5), id="debounce"),
        pytest.param(
            "cooldown",
            {"cooldown": Cooldown(after="launch", period=minutes(60))},
            {"last_launch_at": at(minutes=-1)},
            at(minutes=59),
            id="cooldown",
        ),
        pytest.param("quiet_hours", {"quiet_hours": LUNCH}, {}, at(hours=1), id="quiet hours"),
        pytest.param("pause", {}, {"pauses": (make_pause(),)}, at(minutes=1), id="pause"),
    ],
)
def test_a_level_that_is_held_further_on_still_fires(
    name: str, options: dict[str, Any], blocking: dict[str, Any], later: datetime
) -> None:
    """Passing `max_age` disarms nothing; only the FIRE does."""
    policy = make_policy(make_max_age(), **options)
    facts = make_facts(**OLD | blocking)
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


def test_a_level_that_only_observes_re_arms_by_time() -> None:
    """No run of its own ever ends, so `again_after` counts from when it would have fired."""
    policy = replace(LEVEL, mode="observe")
    facts = make_facts(**OLD)
    first = look(policy, None, facts=facts)
    early = look(policy, first.state, facts=facts, now=at(hours=23))
    again = look(policy, early.state, facts=facts, now=at(days=1))

    assert said(first.decision) == ("SKIP", "mode")
    assert (first.state.due_at, first.state.waits_for) == (at(days=1), None)
    assert (*said(early.decision), early.decision.until) == ("HOLD", "max_age", at(days=1))
    assert early.decision.reason == "it would have fired for this champion; again 1d after that"
    assert said(again.decision) == ("SKIP", "mode")


def test_a_level_that_observed_fires_when_it_becomes_live() -> None:
    """What it would have done disarms only the policy that observes: nothing was retrained."""
    facts = make_facts(**OLD)
    observed = look(replace(LEVEL, mode="observe"), None, facts=facts)

    assert said(look(LEVEL, stored(observed.state), facts=facts, now=at(minutes=1)).decision) == ("FIRE", "fire")


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
