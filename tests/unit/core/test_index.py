"""Which policies are asked about an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.conditions import event_scope
from controller.core.decide import select
from controller.core.index import PolicyIndex
from controller.core.model import Event
from controller.core.policy import Leaf, MaxAge
from tests.factories import make_event, make_leaf, make_max_age, make_policy

INDEX = PolicyIndex(
    make_policy(on, model=model, name=name)
    for model, name, on in [
        ("b", "any", make_leaf()),
        ("a", "glob", make_leaf(type="drift.*")),
        ("a", "exact", make_leaf(type="drift.data")),
        ("a", "landing", make_leaf(source="landing")),
        ("a", "both", make_leaf(source="landing", type="drift.data")),
        ("c", "level", make_max_age()),
    ]
)
CASES = {
    "by type": (make_event(type="drift.data"), ["a/exact", "a/glob", "b/any"]),
    "by source": (make_event(origin="landing", type="x"), ["a/both", "a/glob", "a/landing", "b/any"]),
    "by both": (make_event(origin="landing", type="drift.data"), ["a/both", "a/exact", "a/glob", "a/landing", "b/any"]),
    "by neither": (make_event(type="x"), ["a/glob", "b/any"]),
}


def names(event: Event) -> list[str]:
    return [f"{policy.model}/{policy.name}" for policy in INDEX.candidates(event)]


@pytest.mark.parametrize("event, expected", CASES.values(), ids=CASES)
def test_only_policies_that_may_match_are_asked(event: Event, expected: list[str]) -> None:
    """Policies are found by their exact source or type, the rest are always asked; levels never, for no event drives them."""
    assert names(event) == expected


words = st.sampled_from(["a", "b", "c"])
patterns = st.none() | st.sampled_from(["a", "b", "*", "?", "[ab]", "a*"])
ons = st.builds(
    lambda source, type_, subject: make_leaf(source=source, type=type_, subject=subject),
    st.none() | words,
    patterns,
    patterns,
) | st.just(make_max_age())


@given(st.lists(ons, max_size=8), words, words, st.none() | words)
def test_the_index_leaves_out_no_policy_that_matches(
    found: list[Leaf | MaxAge], origin: str, type_: str, subject: str | None
) -> None:
    """Whatever matches by asking every policy is among those that the index finds, once and in order."""
    policies = [make_policy(on, name=f"p{number}") for number, on in enumerate(found)]
    event = make_event(origin=origin, type=type_, subject=subject)
    scope = event_scope(event, model="churn", labels={}, champion=None)
    matching = [
        policy.name
        for policy in policies
        if isinstance(policy.on, Leaf) and select(policy, event, scope).outcome == "pass"
    ]
    asked = [policy.name for policy in PolicyIndex(policies).candidates(event)]

    assert set(matching) <= set(asked)
    assert asked == sorted(set(asked))
