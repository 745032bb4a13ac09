"""What was known at an instant: what was held by then, and nothing that came later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from controller.core.explain import held_then
from tests.factories import NOON, at
from tests.unit.core.explain.accounts import text


def decision(number: int, kind: str, *, key: str = "", stage: str = "debounce", **fields: Any) -> Any:
    """Return a decision at so many minutes past noon."""
    return {
        "id": f"dec-{number}",
        "kind": kind,
        "model": "churn",
        "policy": "drift",
        "key": key,
        "stage": stage,
        "reason": "quiet for 0s of 5m",
        "trace": [{"stage": stage, "outcome": "hold", "reason": "", "facts": {}}],
        "until": text(at(minutes=number + 5)) if kind == "HOLD" else None,
        "waits_for": None,
        "event_id": f"evt-{number}",
        "at": text(at(minutes=number)),
        **fields,
    }


def let_go(number: int, held: int) -> Any:
    facts = {"let_go": "evt-1", "held": held}
    trace = [{"stage": "episode", "outcome": "skip", "reason": "", "facts": facts}]
    return decision(number, "SKIP", stage="episode", trace=trace)


@pytest.mark.parametrize(
    "decisions, expected",
    [
        ([], []),
        ([decision(1, "HOLD")], [("", 1, 1)]),
        ([decision(1, "HOLD"), decision(2, "HOLD")], [("", 1, 2)]),
        ([decision(1, "HOLD"), decision(2, "HOLD", event_id=None)], [("", 1, 1)]),
        ([decision(1, "HOLD"), decision(2, "FIRE")], []),
        ([decision(1, "HOLD"), decision(2, "SKIP", stage="loop")], []),
        ([decision(1, "HOLD"), decision(2, "FIRE"), decision(3, "HOLD")], [("", 3, 1)]),
        ([decision(1, "HOLD"), decision(2, "HOLD", key="b"), decision(3, "FIRE")], [("b", 2, 1)]),
        ([decision(1, "HOLD"), let_go(2, held=2)], [("", 1, 1)]),
        ([decision(1, "HOLD"), let_go(2, held=1)], []),
        ([decision(1, "HOLD"), decision(2, "ERROR")], [("", 1, 1)]),
        ([decision(1, "HOLD"), decision(2, "SKIP", reason="still so, held at debounce: x")], [("", 1, 1)]),
    ],
    ids=[
        "nothing", "held", "two-events", "looked-at", "fired", "skipped", "held-again", "another-key", "one-let-go",
        "the-last-let-go", "error", "a-level-goes-on",
    ],
)  # fmt: skip
def test_what_was_held(decisions: list[Any], expected: list[tuple[str, int, int]]) -> None:
    """By what each policy last said for each key: since when, and how many events."""
    found = held_then(decisions)

    assert [(held["key"], held["since"], held["count"]) for held in found] == [
        (key, text(at(minutes=since)), count) for key, since, count in expected
    ]


def test_until_is_that_of_the_last_word() -> None:
    """A later hold names a later instant."""
    (held,) = held_then([decision(1, "HOLD"), decision(4, "HOLD")])

    assert held["until"] == text(NOON + timedelta(minutes=9))
