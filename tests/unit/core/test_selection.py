"""Selection: the key of `by`, expressions that fail on the data, and the quick refusal that agrees with the explained one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.conditions import event_scope
from controller.core.decide import refused_at, select
from tests.factories import make_event, make_leaf, make_mark, make_policy
from tests.unit.core.driver import hear, said

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
