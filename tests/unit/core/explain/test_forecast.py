"""When a policy could fire at the earliest: what `decide` itself says, asked at the instants that it names."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.calendar import Calendar
from controller.core.chain import Facts, PolicyState
from controller.core.explain import Forecast, Standing, follow, try_event
from controller.core.explain.forecast import IMAGINED
from controller.core.on import AllOf
from controller.core.policy import Breaker, Budget, Cooldown, Policy, QuietHours, Ready
from tests.factories import (
    NOON,
    at,
    make_active,
    make_champion,
    make_debounce,
    make_event,
    make_facts,
    make_leaf,
    make_max_age,
    make_metric,
    make_pause,
    make_policy,
    minutes,
)
from tests.unit.core.drawn import policies
from tests.unit.core.driver import Driver, hear, look

DAY = minutes(24 * 60)


def standing(
    policy: Policy, state: PolicyState | None, facts: Facts | None = None, *, now: datetime = NOON, **fields: Any
) -> Standing:
    return Standing(policy=policy, key="", state=state, facts=facts or make_facts(), now=now, **fields)


def held(policy: Policy, *, facts: dict[str, Any] | None = None, **event: Any) -> Forecast:
    """Return what comes of one event that a policy holds."""
    known = make_facts(**(facts or {}))
    state = hear(policy, make_event(1, **event), facts=known).state
    return follow(standing(policy, state, known))


@pytest.mark.parametrize(
    "policy, facts, event, fires_at",
    [
        (make_policy(debounce=make_debounce(5)), {}, {}, at(minutes=5)),
        (make_policy(cooldown=Cooldown(after="decision", period=DAY)), {"last_decision_at": NOON}, {}, NOON + DAY),
        (
            make_policy(quiet_hours=QuietHours(between="11:00-13:00", timezone="UTC")),
            {},
            {},
            at(minutes=60),
        ),
        (
            make_policy(debounce=make_debounce(5), quiet_hours=QuietHours(between="12:00-13:00", timezone="UTC")),
            {},
            {},
            at(minutes=60),
        ),
        (
            make_policy(budget=Budget(runs=1, cost=None, per=DAY)),
            {"spent": ((at(minutes=-30), 1.0),)},
            {},
            at(minutes=-30) + DAY,
        ),
        (make_policy(ready=Ready(label_delay=DAY)), {}, {}, NOON + DAY),
    ],
    ids=["debounce", "cooldown", "quiet-hours", "two-holds", "budget", "labels"],
)
def test_what_is_held_fires_at(
    policy: Policy, facts: dict[str, Any], event: dict[str, Any], fires_at: datetime
) -> None:
    """The instant at which the last of its holds ends."""
    forecast = held(policy, facts=facts, **event)

    assert (forecast.outcome, forecast.at) == ("fires", fires_at)
    assert forecast.steps[-1].decision.kind == "FIRE"


@pytest.mark.parametrize(
    "policy, facts, event, waits_for",
    [
        (make_policy(), {"pauses": (make_pause(),)}, {}, "resume"),
        (make_policy(breaker=Breaker(after=1)), {"unhelpful": ("run-1",)}, {}, "resume"),
        (make_policy(ready=Ready(new_rows=10)), {}, {"data": {"rows": 4}}, "rows"),
        (make_policy(debounce=make_debounce(5)), {"pauses": (make_pause(),)}, {}, "resume"),
    ],
    ids=["pause", "breaker", "rows", "debounce-then-pause"],
)
def test_what_waits_has_no_instant(
    policy: Policy, facts: dict[str, Any], event: dict[str, Any], waits_for: str
) -> None:
    """It names what it waits for, and no instant is made up."""
    forecast = held(policy, facts=facts, **event)

    assert (forecast.outcome, forecast.at, forecast.waits_for) == ("waits", None, waits_for)


def test_a_level_fires_when_it_is_old_enough() -> None:
    """Without an event: the age of the champion says when."""
    policy = make_policy(make_max_age(10))
    facts = make_facts(champion=make_champion(promoted_at=NOON - DAY))
    state = look(policy, None, facts=facts).state

    forecast = follow(standing(policy, state, facts))

    assert (forecast.outcome, forecast.at) == ("fires", NOON + 9 * DAY)


def test_without_a_champion_nobody_can_say() -> None:
    """It waits for one."""
    policy = make_policy(make_max_age(10))

    forecast = follow(standing(policy, look(policy, None).state))

    assert (forecast.outcome, forecast.waits_for) == ("waits", "champion")


@pytest.mark.parametrize(
    "on, said",
    [
        (make_leaf(count=3, within=minutes(60)), "1 of 3 within 1h so far"),
        (AllOf(parts=(make_leaf(type="drift", count=1, within=minutes(60)), make_leaf(type="file"))), "file"),
    ],
    ids=["count", "tree"],
)
def test_what_only_counts_needs_an_event(on: Any, said: str) -> None:
    """It says what it has and needs; that it forgets in time is no occasion."""
    policy = make_policy(on)
    state = hear(policy, make_event(1, type="drift")).state

    forecast = follow(standing(policy, state))

    assert forecast.outcome == "needs_event"
    assert said in forecast.text


def test_nothing_is_held() -> None:
    """A policy that remembers nothing waits for an event."""
    assert follow(standing(make_policy(), None)).outcome == "needs_event"


def test_a_policy_that_is_off_is_not_asked() -> None:
    """Neither for what it held nor for an event."""
    policy = make_policy(mode="off")

    assert follow(standing(policy, None)).text == "the policy is off: it is not asked"
    assert try_event(standing(policy, None)).text == "the policy is off: it is not asked"


def test_a_policy_that_observes_says_when_it_would_have_fired() -> None:
    """With the instant, and that it starts nothing."""
    forecast = held(make_policy(debounce=make_debounce(5), mode="observe"))

    assert (forecast.outcome, forecast.at) == ("observes", at(minutes=5))


def test_an_event_is_tried_on_a_copy() -> None:
    """The last event that matched, as if it came again now; what the policy remembers is not touched."""
    policy = make_policy(make_leaf(count=2, within=minutes(60), when="event.data.x > 1"), debounce=make_debounce(5))
    event = make_event(1, data={"x": 2}, received_at=NOON)
    state = hear(policy, event).state
    before = repr(state)

    forecast = try_event(standing(policy, state, now=at(minutes=1), last_event=event))

    assert (forecast.outcome, forecast.at) == ("fires", at(minutes=6))
    assert [step.decision.stage for step in forecast.steps] == ["debounce", "fire"]
    assert repr(state) == before


@pytest.mark.parametrize(
    "policy, outcome",
    [
        (make_policy(), "fires"),
        (make_policy(make_leaf(type="drift.*", source="api", subject="eu-*")), "fires"),
        (make_policy(make_leaf(count=2, within=minutes(5))), "needs_event"),
        (make_policy(make_leaf(by="event.subject")), "unknown"),
        (make_policy(make_leaf(metric=make_metric())), "unknown"),
        (make_policy(ready=Ready(new_rows=10)), "unknown"),
        (make_policy(make_max_age()), "unknown"),
        (
            make_policy(calendars=(Calendar(name="frozen", days=("mon", "tue", "wed", "thu", "fri", "sat", "sun")),)),
            None,
        ),
    ],
    ids=["any", "patterns", "count", "key", "metric", "rows", "age", "never-open"],
)
def test_an_event_that_nobody_has_seen(policy: Policy, outcome: str | None) -> None:
    """One is made of what a plain leaf asks for; what it would say of its data nobody can know."""
    forecast = try_event(standing(policy, None))

    assert outcome is None or forecast.outcome == outcome
    assert outcome is not None or forecast.outcome in ("unknown", "ends")


def test_an_event_that_does_not_match_any_more_is_not_tried() -> None:
    """A policy that was changed asks for other events."""
    policy = make_policy(make_leaf(type="file"))

    forecast = try_event(standing(policy, None, last_event=make_event(1, type="drift")))

    assert forecast.outcome == "unknown"
    assert "does not match any more" in forecast.text


def test_an_imagined_event_has_a_name_of_its_own() -> None:
    """No stored event can be taken for it."""
    forecast = try_event(standing(make_policy(debounce=make_debounce(1)), None, last_event=make_event(7)))

    assert forecast.outcome == "fires"
    assert IMAGINED.startswith("evt-")


def test_what_joins_says_so() -> None:
    """A FIRE that would join a queued run names it."""
    facts = make_facts(active=(make_active("QUEUED", id="run-9"),))
    policy = make_policy(debounce=make_debounce(1))
    state = hear(policy, make_event(1), facts=facts).state

    assert "run-9" in follow(standing(policy, state, facts)).text


@settings(deadline=None, max_examples=150)
@given(policies, st.lists(st.integers(0, 15), max_size=4), st.integers(0, 20))
def test_what_is_foretold_is_what_happens(policy: Policy, gaps: list[int], later: int) -> None:
    """When nothing else happens, it fires at the instant that was named, whenever it was asked."""
    driver = Driver(policy)
    for number, gap in enumerate(gaps):
        driver.hear(make_event(number, received_at=driver.now, time=driver.now))
        driver.now += minutes(gap)
        driver.look()
    driver.now += minutes(later)
    driver.look()
    fired = len(driver.fires)

    forecast = follow(standing(policy, driver.state, driver.facts(), now=driver.now))
    if forecast.outcome == "fires":
        assert forecast.at is not None
        driver.now = forecast.at - timedelta(microseconds=1)
        driver.look()
        assert len(driver.fires) == fired
        driver.now = forecast.at
        driver.look()

    assert (len(driver.fires) > fired) is (forecast.outcome == "fires")
    assert driver.state is None or driver.state.stage is None
