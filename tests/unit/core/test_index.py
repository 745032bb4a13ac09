"""Which policies are asked about an event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import index as index_module
from controller.core.conditions import Pattern, event_scope
from controller.core.decide import select
from controller.core.index import PolicyIndex
from controller.core.model import Event, Json
from controller.core.on import Absent, AllOf, AnyOf, InSequence, Leaf, MaxAge, NoEpisode
from tests.factories import make_event, make_leaf, make_max_age, make_policy, minutes

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


FOUND = {
    "by a literal subject": (make_leaf(type="drift", subject="m-{}"), {"subject": "m-3"}),
    "by the event's subject in `when`": (make_leaf(type="drift", when="event.subject == 'm-{}'"), {"subject": "m-3"}),
    "by a field": (make_leaf(type="drift", when="event.data.model == 'm-{}'"), {"data": {"model": "m-3"}}),
    "by a number": (make_leaf(type="drift", when="event.data.tenant == {}"), {"data": {"tenant": 3}}),
    "by the model's name": (make_leaf(type="drift", when="event.subject == model.name"), {"subject": "m-3"}),
    "by the model's name on the left": (make_leaf(when="model.name == event.data.for"), {"data": {"for": "m-3"}}),
    "by one term of several": (
        make_leaf(when="event.data.share > 0.3 && size(event.data.rows) > 1 && (event.data.model == 'm-{}')"),
        {"data": {"model": "m-3"}},
    ),
    "by the word that fewest share": (
        make_leaf(when="event.data.env == 'prod' && event.data.model == 'm-{}'"),
        {"data": {"model": "m-3", "env": "prod"}},
    ),
    "by a list of words": (make_leaf(when="event.data.model in ['m-{}', 'x-{}']"), {"data": {"model": "x-3"}}),
    "by alternatives": (
        make_leaf(when="event.data.model == 'm-{}' || event.data.model == 'x-{}'"),
        {"data": {"model": "x-3"}},
    ),
    "by leading segments": (make_leaf(type="drift.m-{}.*"), {"type": "drift.m-3.data"}),
    "by source": (make_leaf(source="s-{}"), {"origin": "s-3"}),
    "by a field that is tested, when it is missing": (
        make_leaf(when="has(event.data.model) && event.data.model == 'm-{}'"),
        {"data": {"model": "m-3"}},
    ),
}


def numbered(on: Leaf, number: int) -> Leaf:
    """Return a leaf with a number in the place of every `{}`."""

    def fill(text: str | None) -> str | None:
        return None if text is None else text.replace("{}", str(number))

    return make_leaf(
        source=fill(on.source),
        type=fill(None if on.type is None else on.type.text),
        subject=fill(None if on.subject is None else on.subject.text),
        when=fill(None if on.when is None else on.when.source),
    )


@pytest.mark.parametrize("on, fields", FOUND.values(), ids=FOUND)
def test_one_of_many_is_found_alone(on: Leaf, fields: dict[str, Any]) -> None:
    """Whatever tells policies apart, the one that an event concerns is found without asking the others."""
    index = PolicyIndex(make_policy(numbered(on, number), model=f"m-{number}") for number in range(50))

    found = index.candidates(make_event(**fields))

    assert [policy.model for policy in found] == ["m-3"]


NOT_A_WORD: dict[str, tuple[Json, int]] = {
    "a missing field is an error of each policy": ({}, 5),
    "so is data without fields": ("text", 5),
    "null is no word": ({"model": None}, 0),
    "nor is true": ({"model": True}, 0),
    "nor a list": ({"model": ["m-1"]}, 0),
    "a number beyond doubles is for each to judge": ({"model": 10**400}, 5),
}


@pytest.mark.parametrize("data, expected", NOT_A_WORD.values(), ids=NOT_A_WORD)
def test_a_field_that_cannot_be_looked_up(data: Json, expected: int) -> None:
    """What equals no word concerns nobody; what would be an error of a policy is brought before it."""
    index = PolicyIndex(
        make_policy(make_leaf(when=f"event.data.model == 'm-{number}'"), model=f"m-{number}") for number in range(5)
    )

    assert len(index.candidates(make_event(data=data))) == expected


def test_every_leaf_of_a_tree_leads_to_its_policy() -> None:
    """Events of all parts of a tree find the policy, once, also when several leaves fit; facts without events find nobody."""
    tree = AnyOf(
        parts=(
            make_leaf(type="a"),
            AllOf(parts=(make_leaf(type="b"), NoEpisode(type=Pattern("alert")))),
            InSequence(steps=(make_leaf(type="c"), make_leaf(type="d", subject="x")), within=minutes(5)),
            Absent(expect=make_leaf(type="e"), within=minutes(5), after=make_leaf(type="f")),
            make_leaf(type="?"),
            make_max_age(),
        )
    )
    index = PolicyIndex([make_policy(tree), make_policy(make_max_age(), name="level")])

    found = {kind: len(index.candidates(make_event(type=kind))) for kind in ("a", "b", "c", "d", "e", "f", "alert")}

    assert found == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "alert": 0}


def test_a_policy_that_is_off_is_not_asked() -> None:
    """`mode: off` leaves a policy out of the index."""
    assert not PolicyIndex([make_policy(make_leaf(), mode="off")]).candidates(make_event())


origins = st.sampled_from(["a", "b", "c"])
segments = st.sampled_from(["a", "b", "ab", "*", "?", "[ab]", "a*"])
types = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3).map(".".join)
patterns = st.none() | st.lists(segments, min_size=1, max_size=3).map(".".join)
words = st.sampled_from(["'a'", "'b'", "1", "1.5", "true", "null", "model.name"])
fields = st.sampled_from(
    ["event.data.k", "event.data.n.k", "event.subject", "event.type", "event.extensions.x", "event.data"]
)
equalities = st.builds("{} == {}".format, fields, words) | st.builds("{1} == {0}".format, fields, words)
terms = (
    equalities
    | st.builds("{} in [{}, {}]".format, fields, words.filter("model.name".__ne__), words.filter("model.name".__ne__))
    | st.sampled_from(
        [
            "has(event.data.k)",
            "event.data.n.k > 0.0",
            "size(event.data.k) > 0",
            "event.data.exists(x, x == 'a')",
            "false",
        ]
    )
)
joined = st.lists(terms, min_size=1, max_size=3).map(" && ".join)
whens = (
    st.none()
    | joined
    | st.builds("({}) || ({})".format, joined, joined)
    | st.builds("({}) && {}".format, joined, terms)
)
ons = st.builds(
    lambda source, type_, subject, when: make_leaf(source=source, type=type_, subject=subject, when=when),
    st.none() | origins,
    patterns,
    patterns,
    whens,
) | st.just(make_max_age())
values = st.sampled_from(["a", "b", "churn", "", 1, 1.0, 1.5, 0, True, None, 2**60, [], ["a"], {"k": "a"}, {"k": 1.5}])
bodies = st.dictionaries(st.sampled_from(["k", "n"]), values) | values
events = st.builds(
    lambda origin, type_, subject, data, x: make_event(
        origin=origin, type=type_, subject=subject, data=data, extensions={} if x is None else {"x": x}
    ),
    origins,
    types,
    st.none() | types | st.just("churn"),
    bodies,
    st.none() | st.sampled_from(["a", "b"]),
)


def fits(on: Leaf | MaxAge, event: Event) -> bool:
    """Say of one policy, without an index, whether source and type fit."""
    if not isinstance(on, Leaf):
        return False
    return on.source in (None, event.origin) and (on.type is None or on.type.matches(event.type))


@settings(max_examples=400)
@given(st.lists(ons, max_size=8), st.lists(events, min_size=1, max_size=4))
def test_the_index_leaves_out_only_what_refuses(found: list[Leaf | MaxAge], heard: list[Event]) -> None:
    """Whoever is left out would have refused the event, without an error; who is found is found once, in order, also when asked again."""
    policies = [make_policy(on, name=f"p{number}") for number, on in enumerate(found)]
    index = PolicyIndex(reversed(policies))
    for event in [*heard, *heard]:
        scope = event_scope(event, model="churn", labels={}, champion=None)
        asked = list(index.candidates(event))

        assert asked == [policy for policy in policies if policy in asked]
        assert all(fits(policy.on, event) for policy in asked)
        for policy in policies:
            if isinstance(policy.on, Leaf) and policy not in asked:
                assert select(policy, event, scope).outcome == "skip"


def test_types_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is bounded, in answers and in what they hold, and forgetting changes no answer."""
    monkeypatch.setattr(index_module, "REMEMBERED", 3)
    for number in range(10):
        assert names(make_event(type=f"drift.{number}")) == ["a/glob", "b/any"]
    assert len(INDEX._found) <= 3

    monkeypatch.setattr(index_module, "REMEMBERED_PLACES", 20)
    index = PolicyIndex(make_policy(make_leaf(type=f"*{number}*"), name=f"p{number:02}") for number in range(12))
    for number in range(100):
        assert [policy.name for policy in index.candidates(make_event(type=f"x{number:02}"))]
        assert sum(len(answer.places) for answer in index._found.values()) <= 20
