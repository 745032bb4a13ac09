"""Which policies are asked about an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import index as index_module
from controller.core.conditions import event_scope
from controller.core.decide import select
from controller.core.index import PolicyIndex
from controller.core.model import Event
from controller.core.on import Leaf, MaxAge
from tests.factories import make_event, make_leaf, make_max_age, make_policy

INDEX = PolicyIndex(
    make_policy(on, model=model, name=name)
    for model, name, on in [
        ("b", "any", make_leaf()),
        ("a", "glob", make_leaf(type="drift.*")),
        ("a", "deep", make_leaf(type="drift.data.?")),
        ("a", "loose", make_leaf(type="*.data")),
        ("a", "exact", make_leaf(type="drift.data")),
        ("a", "landing", make_leaf(source="landing")),
        ("a", "both", make_leaf(source="landing", type="drift.data")),
        ("a", "both-glob", make_leaf(source="landing", type="drift.*")),
        ("c", "level", make_max_age()),
    ]
)
CASES = {
    "by type": (make_event(type="drift.data"), ["a/exact", "a/glob", "a/loose", "b/any"]),
    "by a glob": (make_event(type="drift.data.x"), ["a/deep", "a/glob", "b/any"]),
    "by source": (make_event(origin="landing", type="x"), ["a/landing", "b/any"]),
    "by both": (
        make_event(origin="landing", type="drift.data"),
        ["a/both", "a/both-glob", "a/exact", "a/glob", "a/landing", "a/loose", "b/any"],
    ),
    "by neither": (make_event(type="x"), ["b/any"]),
    "by a segment alone": (make_event(type="drift"), ["b/any"]),
}


def names(event: Event) -> list[str]:
    return [f"{policy.model}/{policy.name}" for policy in INDEX.candidates(event)]


@pytest.mark.parametrize("event, expected", CASES.values(), ids=CASES)
def test_only_policies_that_may_match_are_asked(event: Event, expected: list[str]) -> None:
    """Policies are found by their source and by their type or its pattern; levels never, for no event drives them."""
    assert names(event) == expected


origins = st.sampled_from(["a", "b", "c"])
segments = st.sampled_from(["a", "b", "ab", "*", "?", "[ab]", "a*"])
types = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3).map(".".join)
patterns = st.none() | st.lists(segments, min_size=1, max_size=3).map(".".join)
ons = st.builds(
    lambda source, type_, subject: make_leaf(source=source, type=type_, subject=subject),
    st.none() | origins,
    patterns,
    patterns,
) | st.just(make_max_age())


def fits(on: Leaf | MaxAge, event: Event) -> bool:
    """Say of one policy, without an index, whether source and type fit."""
    if not isinstance(on, Leaf):
        return False
    return on.source in (None, event.origin) and (on.type is None or on.type.matches(event.type))


@given(st.lists(ons, max_size=8), st.lists(st.tuples(origins, types, st.none() | types), min_size=1, max_size=4))
def test_the_index_finds_what_asking_every_policy_finds(
    found: list[Leaf | MaxAge], heard: list[tuple[str, str, str | None]]
) -> None:
    """It finds the policies whose source and type fit, once and in order, also when asked again; none that matches is left out."""
    policies = [make_policy(on, name=f"p{number}") for number, on in enumerate(found)]
    index = PolicyIndex(reversed(policies))
    for origin, type_, subject in [*heard, *heard]:
        event = make_event(origin=origin, type=type_, subject=subject)
        scope = event_scope(event, model="churn", labels={}, champion=None)
        asked = list(index.candidates(event))

        assert asked == [policy for policy in policies if fits(policy.on, event)]
        passing = [p for p in policies if isinstance(p.on, Leaf) and select(p, event, scope).outcome == "pass"]
        assert all(policy in asked for policy in passing)


def test_types_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is bounded, and forgetting changes no answer."""
    monkeypatch.setattr(index_module, "REMEMBERED", 3)
    for number in range(10):
        assert names(make_event(type=f"drift.{number}")) == ["a/glob", "b/any"]

    assert len(INDEX._found) <= 3
