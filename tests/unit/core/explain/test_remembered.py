"""What a policy remembers for a key, and how much of its limits is left."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.chain import PolicyState
from controller.core.explain import Standing, key_account, limits
from controller.core.explain.models import limit_lines
from controller.core.on import AllOf
from controller.core.policy import Breaker, Budget, Policy, Ready
from tests.factories import (
    NOON,
    at,
    make_cause,
    make_champion,
    make_debounce,
    make_event,
    make_facts,
    make_leaf,
    make_max_age,
    make_policy,
    minutes,
)
from tests.unit.core.driver import hear

DAY = minutes(24 * 60)


def standing(policy: Policy, state: PolicyState | None = None, **facts: Any) -> Standing:
    return Standing(policy=policy, key="", state=state, facts=make_facts(**facts), now=NOON)


@pytest.mark.parametrize(
    "budget,spent,expected",
    [
        (Budget(runs=4, cost=None, per=DAY), (), (4.0, None, None)),
        (Budget(runs=2, cost=None, per=DAY), ((at(minutes=-9), 5.0),), (1.0, at(minutes=-9) + DAY, None)),
        (
            Budget(runs=1, cost=None, per=DAY),
            ((at(minutes=-9), 5.0),),
            (0.0, at(minutes=-9) + DAY, at(minutes=-9) + DAY),
        ),
        (Budget(runs=None, cost=10.0, per=DAY), ((at(minutes=-9), 4.0),), (6.0, at(minutes=-9) + DAY, None)),
        (Budget(runs=1, cost=None, per=minutes(5)), ((at(minutes=-9), 1.0),), (1.0, None, None)),
    ],
    ids=["untouched", "one-left", "spent", "units", "left-the-window"],
)
def test_what_is_left_of_a_budget(budget: Budget, spent: Any, expected: tuple[Any, ...]) -> None:
    """How much, when the oldest comes back, and when there is enough for a run."""
    found = limits(standing(make_policy(budget=budget), spent=spent))["budget"]

    left, back, enough = expected
    assert found["left"] == left
    assert found["next_back_at"] == (None if back is None else back.isoformat().replace("+00:00", "Z"))
    assert found["enough_at"] == (None if enough is None else enough.isoformat().replace("+00:00", "Z"))


@pytest.mark.parametrize("unhelpful,state", [((), "closed"), (("run-2",), "closed"), (("run-3", "run-2"), "open")])
def test_a_breaker(unhelpful: tuple[str, ...], state: str) -> None:
    """Open or closed, and which runs did not help."""
    found = limits(standing(make_policy(breaker=Breaker(after=2)), unhelpful=unhelpful))

    assert (found["breaker"]["state"], found["breaker"]["unhelpful"]) == (state, len(unhelpful))
    (line,) = [str(line) for line in limit_lines([{"policy": "drift", "key": "eu", **found}], str) if line.indent]
    assert f"drift [eu]  breaker {state}: {len(unhelpful)} in a row did not help, 2 open it" in line


def test_without_limits_nothing_is_said() -> None:
    """A policy without budget and breaker has no line."""
    found = limits(standing(make_policy()))

    assert found == {"budget": None, "breaker": None}
    assert list(limit_lines([{"policy": "drift", "key": "", **found}], str)) == []


@pytest.mark.parametrize(
    "policy,event,facts,words",
    [
        (make_policy(make_leaf(count=3, within=minutes(60))), {}, {}, "count: 1 of 3 within 1h"),
        (make_policy(debounce=make_debounce(5)), {}, {}, "debounce: first event 2"),
        (make_policy(ready=Ready(new_rows=10)), {"data": {"rows": 4}}, {}, "ready: 4 of 10 rows"),
        (make_policy(debounce=make_debounce(5)), {}, {}, "holds 1 cause at debounce"),
    ],
    ids=["count", "debounce", "ready", "held"],
)
def test_what_is_remembered_in_words(policy: Policy, event: Any, facts: Any, words: str) -> None:
    """Counts, instants and sums, as sentences."""
    known = make_facts(**facts)
    state = hear(policy, make_event(1, **event), facts=known).state

    assert any(words in said for said in key_account(standing(policy, state))["words"])


@pytest.mark.parametrize("slots,said", [({}, "armed"), ({"max_age": {"fired_for": "ver-1"}}, "disarmed")])
def test_a_level_is_armed_or_not(slots: Any, said: str) -> None:
    """It fired for this champion, or it did not."""
    policy = make_policy(make_max_age())
    state = PolicyState(on_hash=policy.on_hash, slots=slots, waits_for="run")

    found = key_account(standing(policy, state, champion=make_champion(version_id="ver-1")))

    assert any(f"max_age: {said}" in words for words in found["words"])


def test_what_was_built_under_another_condition_is_said_to_begin_anew() -> None:
    """Its counts mean nothing any more."""
    policy = make_policy(make_leaf(count=3, within=minutes(60)))
    state = PolicyState(on_hash="another", slots={"count": [1, 2]}, held_count=2)

    (_, said) = key_account(standing(policy, state))["words"]

    assert "begins anew" in said


def test_nothing_yet() -> None:
    """A key without a row."""
    found = key_account(standing(make_policy()))

    assert (found["words"], found["nodes"], found["causes"]) == (["nothing yet"], [], [])


def test_causes_are_named() -> None:
    """Those that are collected, with their number."""
    policy = make_policy()
    entry = Standing(
        policy=policy, key="", state=None, facts=make_facts(), now=NOON, causes=[make_cause(1)], cause_count=9
    )

    found = key_account(entry)

    assert [cause["event_id"] for cause in found["causes"]] == [make_cause(1).event_id]
    assert found["cause_count"] == 9


def test_a_tree_is_asked_as_it_is_now() -> None:
    """Its nodes are those that the stage itself would find, without an event."""
    policy = make_policy(AllOf(parts=(make_leaf(type="drift", count=1, within=minutes(60)), make_leaf(type="file"))))
    state = hear(policy, make_event(1, type="drift")).state

    found = key_account(standing(policy, state))["nodes"]

    assert [(node["path"], node["truth"]) for node in found] == [("", "false"), ("all[0]", "true"), ("all[1]", "false")]
