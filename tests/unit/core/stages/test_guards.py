"""The guards behind the calendars: loop, breaker, budget, mode; and the jitter beside the chain."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.jitter import share_of, start_at
from controller.core.model import EMITTED_BY
from controller.core.policy import Breaker, Budget
from controller.core.stages import breaker, budget, loop, mode
from tests.factories import NOON, at, make_active, make_event, make_facts, make_policy, make_question, minutes

# ------------------------------------------------------------------------------------------------------------ loop

LOOPS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, str]] = {
    # policy, facts, outcome, words
    "from outside": ({}, {}, None, ""),
    "one run behind it": ({}, {"depth": 1}, "pass", "has 1 run, max_chain is 3"),
    "almost too long": ({}, {"depth": 2}, "pass", "has 2 runs, max_chain is 3"),
    "exactly too long": ({}, {"depth": 3}, "skip", "has 3 runs already, max_chain is 3"),
    "a shorter chain is asked": ({"max_chain": 1}, {"depth": 1}, "skip", "max_chain is 1"),
    "own output": ({}, {"depth": 1, "own_run": "run-1"}, "skip", "own output: run-1"),
    "own output is allowed": ({"own_output": True}, {"depth": 1, "own_run": "run-1"}, "pass", "has 1 run"),
    "own output is allowed, but not for ever": (
        {"own_output": True}, {"depth": 3, "own_run": "run-1"}, "skip", "max_chain is 3",
    ),
    "own output and too long": ({}, {"depth": 9, "own_run": "run-1"}, "skip", "own output"),
}  # fmt: skip


@pytest.mark.parametrize("policy, facts, outcome, words", LOOPS.values(), ids=LOOPS)
def test_loop(policy: dict[str, Any], facts: dict[str, Any], outcome: str | None, words: str) -> None:
    """It skips what a chain of too many runs leads to, and what the model's own run emitted."""
    answer = loop.ask(make_question(make_policy(**policy), facts=make_facts(**facts)))

    assert (None if answer is None else answer.outcome) == outcome
    assert answer is None or words in answer.reason


@pytest.mark.parametrize(
    "extensions, run",
    [({}, None), ({EMITTED_BY: "run-1"}, "run-1"), ({EMITTED_BY: ""}, None), ({EMITTED_BY: 5}, None), ({EMITTED_BY: "x" * 65}, None)],
    ids=["no mark", "a run", "empty", "a number", "too long"],
)  # fmt: skip
def test_emitting_run(extensions: dict[str, Any], run: str | None) -> None:
    """An event says by `retrainrun` which run emitted it; what cannot be an id says nothing."""
    assert loop.emitting_run(make_event(extensions=extensions)) == run


BEHIND: dict[str, tuple[dict[str | None, tuple[str, int] | None], tuple[int, str | None]]] = {
    "nothing": ({}, (0, None)),
    "from outside": ({None: None}, (0, None)),
    "a run that nobody knows": ({"run-9": None}, (0, None)),
    "another model's run": ({"run-1": ("other", 0)}, (1, None)),
    "the model's own run": ({"run-1": ("churn", 0)}, (1, "run-1")),
    "the fewest count": ({"run-1": ("other", 2), "run-2": ("other", 0)}, (1, None)),
    "one from outside is enough": ({"run-1": ("churn", 2), None: None}, (0, None)),
    "one of another model is enough": ({"run-1": ("churn", 2), "run-2": ("other", 4)}, (3, None)),
    "several own runs": ({"run-2": ("churn", 1), "run-1": ("churn", 1)}, (2, "run-1")),
}


@pytest.mark.parametrize("emitters, expected", BEHIND.values(), ids=BEHIND)
def test_fewest_behind(emitters: dict[Any, Any], expected: tuple[int, str | None]) -> None:
    """What is held passes by that cause which has the fewest runs behind it."""
    assert loop.fewest_behind(emitters, "churn") == expected


# -------------------------------------------------------------------------------------------------------- the breaker


@pytest.mark.parametrize(
    "unhelpful, outcome, words",
    [
        ((), "pass", "the last retraining helped, or there is none"),
        (("run-1",), "pass", "1 in a row did not help"),
        (("run-2", "run-1"), "hold", "latest run-2"),
        (("run-4", "run-3", "run-2", "run-1"), "hold", "the last 4 retrainings"),
    ],
    ids=["none", "almost", "exactly", "more"],
)
def test_breaker(unhelpful: tuple[str, ...], outcome: str, words: str) -> None:
    """After so many in a row that did not help it waits for a person, and says which command closes it."""
    policy = make_policy(breaker=Breaker(after=2))
    answer = breaker.ask(make_question(policy, facts=make_facts(unhelpful=unhelpful)))

    assert answer is not None
    assert (answer.outcome, answer.waits_for) == (outcome, "resume" if outcome == "hold" else None)
    assert words in answer.reason
    if outcome == "hold":
        assert "`retrainctl resume churn/drift`" in answer.reason
        assert answer.facts["opened_by"] == "run-2"


# ---------------------------------------------------------------------------------------------------------- budget

HOUR = timedelta(hours=1)


def runs(number: int, **fields: Any) -> Budget:
    return Budget(runs=number, cost=None, per=HOUR, **fields)


def units(number: float) -> Budget:
    return Budget(runs=None, cost=number, per=HOUR)


BUDGETS: dict[str, tuple[Budget, list[tuple[float, float]], float, float | None]] = {
    # budget, (minute, cost) spent, what this one costs, until; now is noon, the window an hour
    "nothing spent": (runs(1), [], 1, None),
    "one is left": (runs(2), [(-30, 1)], 1, None),
    "none is left": (runs(2), [(-30, 1), (-10, 1)], 1, 30),
    "the oldest that must leave, not the oldest": (runs(1), [(-30, 1), (-10, 1)], 1, 50),
    "one leaves now": (runs(1), [(-60, 1)], 1, None),
    "one leaves soon": (runs(1), [(-59.99, 1)], 1, 0.01),
    "runs do not cost": (runs(2), [(-30, 100)], 100, None),
    "a run that cost nothing is a run": (runs(1), [(-30, 0)], 1, 30),
    "units are left": (units(10), [(-30, 4), (-20, 4)], 2, None),
    "too few units are left": (units(10), [(-30, 4), (-20, 4)], 3, 30),
    "two must leave": (units(10), [(-30, 4), (-20, 4)], 7, 40),
    "what cost nothing leaves nothing": (units(10), [(-30, 8), (-20, 0)], 3, 30),
    "sums are rounded": (units(1), [(-minute, 0.1) for minute in range(1, 10)], 0.1, None),
    "dearer than all of it": (units(10), [(-30, 1)], 11, 30),
    "dearer than all of it, and nothing counts": (units(10), [], 11, None),
    "decided in the future, because the clock was set back": (runs(1), [(30, 1)], 1, 90),
}


@pytest.mark.parametrize("limit, spent, cost, until", BUDGETS.values(), ids=BUDGETS)
def test_budget(limit: Budget, spent: list[tuple[float, float]], cost: float, until: float | None) -> None:
    """It holds until the instant when enough has left the window; what was decided exactly `per` ago has left."""
    facts = make_facts(spent=tuple((at(minutes=minute), each) for minute, each in spent))
    answer = budget.ask(make_question(make_policy(budget=limit, cost=cost), facts=facts))

    assert answer is not None
    assert answer.outcome == ("pass" if until is None else "hold")
    assert answer.until == (None if until is None else at(minutes=until))


def test_a_budget_says_what_was_spent() -> None:
    """With the values, whose they are, and when there is enough."""
    facts = make_facts(spent=((at(minutes=-30), 4.0), (at(minutes=-20), 4.5)))
    answer = budget.ask(make_question(make_policy(budget=units(10), cost=3), facts=facts))

    assert answer is not None
    assert answer.reason == (
        "8.5 of 10 units within 1h (model), this one costs 3: enough is left at 2024-03-05 12:30:00Z"
    )


@pytest.mark.parametrize(
    "concurrency, queued, outcome",
    [("queue", "", "pass"), ("queue", "eu", "hold"), ("allow", "", "hold"), ("replace", "", "hold")],
)
def test_what_joins_a_queued_run_is_free(concurrency: Any, queued: str, outcome: str) -> None:
    """It counts already; a run of another key, or one that would be beside it, does not."""
    policy = make_policy(budget=runs(1), concurrency=concurrency)
    facts = make_facts(spent=((at(minutes=-30), 1.0),), active=(make_active("QUEUED", key=queued),))
    answer = budget.ask(make_question(policy, facts=facts))

    assert answer is not None
    assert answer.outcome == outcome


@given(
    limit=st.integers(1, 5),
    spent=st.lists(st.tuples(st.integers(-70, 0), st.floats(0, 3)), max_size=12),
    by_cost=st.booleans(),
    cost=st.floats(0, 5),
)
def test_at_the_instant_of_a_hold_there_is_enough(
    limit: int, spent: list[tuple[int, float]], by_cost: bool, cost: float
) -> None:
    """It passes at that instant and never a second earlier, if nothing else is spent meanwhile."""
    allowed = units(float(limit)) if by_cost else runs(limit)
    policy = make_policy(budget=allowed, cost=cost)
    facts = make_facts(spent=tuple((at(minutes=minute), each) for minute, each in sorted(spent)))
    answer = budget.ask(make_question(policy, facts=facts))

    assert answer is not None
    if answer.until is not None:
        then, before = (
            budget.ask(make_question(policy, facts=facts, now=now))
            for now in (answer.until, answer.until - timedelta(seconds=1))
        )
        assert then is not None
        assert then.outcome == "pass"
        assert before is not None
        assert before.until == answer.until


# ------------------------------------------------------------------------------------------------------------ mode


@pytest.mark.parametrize(
    "how, outcome", [("live", None), ("observe", "would have fired"), ("off", "the policy is off")]
)
def test_mode(how: Any, outcome: str | None) -> None:
    """A policy that observes says what it would have done."""
    answer = mode.ask(make_question(make_policy(mode=how)))

    assert (answer is None) is (outcome is None)
    assert answer is None or (answer.outcome == "skip" and outcome is not None and outcome in answer.reason)


# ---------------------------------------------------------------------------------------------------------- jitter


@given(model=st.text(max_size=80), length=st.integers(1, 10**6))
def test_a_share_is_always_the_same_and_less_than_all(model: str, length: int) -> None:
    """A run starts at or after its decision and before the jitter is over; the same model at the same share."""
    jitter = timedelta(seconds=length)
    start = start_at(model, decided_at=NOON, jitter=jitter)

    assert start is not None
    assert NOON <= start < NOON + jitter
    assert start == start_at(model, decided_at=NOON, jitter=jitter)


def test_models_are_spread_over_the_jitter() -> None:
    """A thousand models leave no tenth of it empty, and fill none twice over."""
    tenths = [int(share_of(f"model-{number}") * 10) for number in range(1000)]

    assert all(50 < tenths.count(tenth) < 200 for tenth in range(10))


def test_without_jitter_a_run_may_start_at_once() -> None:
    assert start_at("churn", decided_at=NOON, jitter=None) is None


def test_known_shares() -> None:
    """The share is part of the language: another one would move every model's start."""
    assert [round(share_of(name), 6) for name in ("churn", "flight-delay")] == [0.882084, 0.254135]


@pytest.mark.parametrize("stage", [loop, breaker, budget, mode], ids=lambda module: module.STAGE.name)
def test_a_stage_that_is_not_configured_says_nothing(stage: Any) -> None:
    """It leaves no line in the explanation."""
    assert stage.ask(make_question(make_policy(), event=make_event(), now=at(minutes=minutes(1).seconds))) is None
