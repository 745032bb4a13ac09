"""A policy that changes or goes while it holds: held causes are never lost in silence."""

from __future__ import annotations

from controller.core.decide import policy_removed
from tests.factories import (
    NOON,
    at,
    make_debounce,
    make_event,
    make_leaf,
    make_max_age,
    make_policy,
    make_state,
    minutes,
)
from tests.unit.core.driver import hear, look, said


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
