"""Whether what happened in a case is what it expects."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.casefile import Case, Expected, Happened, judge
from tests.factories import NOON, at


def expected(**fields: Any) -> Expected:
    defaults: dict[str, Any] = {
        "place": "c.yaml:5:9",
        "outcome": "fired",
        "model": "churn",
        "policy": "drift",
        "at": None,
        "by": None,
        "key": None,
        "reason": None,
        "until": None,
        "times": None,
    }
    return Expected(**(defaults | fields))


def happened(minute: float, outcome: Any = "fired", **fields: Any) -> Happened:
    defaults: dict[str, Any] = {
        "at": at(minutes=minute),
        "outcome": outcome,
        "model": "churn",
        "policy": "drift",
        "key": "",
        "stage": "fire" if outcome == "fired" else "debounce",
        "reason": "quiet for 5m",
        "lines": ("'drift' from 'api'", "quiet for 5m"),
    }
    return Happened(**(defaults | fields))


def judged(what: Expected, *found: Happened) -> list[str]:
    case = Case(name="c", place="", start=NOON, until=NOON, events=(), changes=(), runs={}, expected=[what])
    return judge(case, found)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"at": at(minutes=5)},
        {"outcome": "held", "by": "debounce", "until": at(minutes=9)},
        {"reason": "quiet"},
        {"reason": "from 'api'"},
        {"key": "eu", "outcome": "skipped"},
        {"times": 1},
        {"outcome": "merged", "times": 0},
    ],
    ids=["any", "instant", "held", "reason", "line", "key", "once", "never"],
)
def test_what_fits_is_well(fields: dict[str, Any]) -> None:
    """Each thing that is asked must fit one decision, or exactly so many."""
    found = [happened(1, "held", until=at(minutes=9)), happened(5), happened(7, "skipped", key="eu")]

    assert judged(expected(**fields), *found) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"at": at(minutes=6)},
        {"by": "cooldown"},
        {"reason": "cooldown"},
        {"key": "eu"},
        {"outcome": "held", "until": at(minutes=5)},
        {"times": 2},
        {"times": 0},
        {"policy": "other"},
        {"model": "other"},
        {"outcome": "error"},
    ],
    ids=["instant", "stage", "reason", "key", "until", "twice", "never", "policy", "model", "outcome"],
)
def test_what_does_not_fit_is_told(fields: dict[str, Any]) -> None:
    """One sentence, with the place of the expectation."""
    (said,) = judged(expected(**fields), happened(1, "held", until=at(minutes=9)), happened(5))

    assert said.startswith("c.yaml:5:9: expected ")


def test_a_failure_tells_what_happened_instead() -> None:
    """What the policy concluded at that instant, else all that it did; or that it concluded nothing."""
    found = [happened(minute, "held", key="eu", until=at(minutes=9)) for minute in range(10)]

    (all_of_it,) = judged(expected(at=at(minutes=20), reason="x"), *found)
    (at_once,) = judged(expected(at=at(minutes=3), by="count", key="us"), *found)
    (nothing,) = judged(expected(policy="other", times=3), *found)
    (until,) = judged(expected(outcome="held", until=at(minutes=-5)), *found)

    assert "to have fired at +20m because of 'x'" in all_of_it
    assert "and 2 more" in all_of_it
    assert at_once.splitlines()[1:] == [
        "at that instant:",
        "  +3m held [eu] by debounce: quiet for 5m, until +9m",
    ]
    assert "by count for key 'us'" in at_once
    assert nothing.endswith("3 times, but it was so never\nit concluded nothing at all")
    assert "until 2024-03-05 11:55:00Z" in until
