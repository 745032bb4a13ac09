"""A person's press of the retrain button: it passes over everything but the model's slot, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controller.core.decide import Conclusion, decide_press
from controller.core.model import Trace
from tests.factories import NOON, make_active, make_event, make_facts, make_pause, press_data
from tests.unit.core.driver import said


def press(concurrency: Any = "queue", *, data: Any = None, **facts: Any) -> Conclusion:
    event = make_event(type="retrain.requested", origin="person", data=press_data() if data is None else data)
    return decide_press("churn", concurrency, "c1", event=event, facts=make_facts(**facts), now=NOON)


def test_a_press_passes_over_everything_but_the_slot() -> None:
    """It fires through pauses and cooldowns, and shows who pressed, why, and what was passed over."""
    decision = press(pauses=(make_pause(),), last_launch_at=NOON).decision

    assert said(decision) == ("FIRE", "fire")
    assert (decision.policy, decision.policy_version) == ("manual", "c1")
    assert decision.trace[0].reason == "ann pressed retrain: new labels"
    assert decision.trace[1] == Trace(
        stage="chain",
        outcome="over",
        reason="a person passes over match, when, episode, count, max_age, debounce, cooldown, quiet_hours, pause",
    )


PRESSES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "queue waits": ("queue", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ()}),
    "queue joins": ("queue", "QUEUED", {"kind": "FIRE", "joins_run": "run-1", "replaces": ()}),
    "forbid": ("forbid", "TRAINING", {"kind": "SKIP", "joins_run": None, "replaces": ()}),
    "replace": ("replace", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ("run-1",)}),
    "allow": ("allow", "TRAINING", {"kind": "FIRE", "joins_run": None, "replaces": ()}),
}


@pytest.mark.parametrize("concurrency, state, expected", PRESSES.values(), ids=PRESSES)
def test_a_press_obeys_the_slot(concurrency: str, state: str, expected: Mapping[str, Any]) -> None:
    """A person waits for the model's slot like any policy."""
    decision = press(concurrency, active=(make_active(state),)).decision

    assert {name: getattr(decision, name) for name in expected} == expected


@pytest.mark.parametrize("data", [{}, [], None, {"reason": ""}], ids=["no fields", "a list", "press", "empty"])
def test_a_press_that_says_little_is_a_press(data: Any) -> None:
    """Who and why are shown as far as they are known."""
    assert "pressed retrain" in press(data=data).decision.trace[0].reason
