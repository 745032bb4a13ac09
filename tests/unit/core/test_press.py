"""A person's press of the retrain button: it passes over everything but budget and slot, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from controller.core.decide import Conclusion, asked_by, decide_press
from controller.core.model import Trace
from controller.core.policy import Budget
from controller.core.stages import CHAIN
from tests.factories import NOON, at, make_active, make_event, make_facts, make_pause, press_data
from tests.unit.core.driver import said


def press(concurrency: Any = "queue", *, data: Any = None, **facts: Any) -> Conclusion:
    event = make_event(type="retrain.requested", origin="person", data=press_data() if data is None else data)
    return decide_press("churn", concurrency, "c1", event=event, facts=make_facts(**facts), now=NOON)


def test_a_press_passes_over_everything_but_budget_and_slot() -> None:
    """It fires through pauses and cooldowns, and shows who pressed, why, and what was passed over."""
    decision = press(pauses=(make_pause(),), last_launch_at=NOON).decision

    assert said(decision) == ("FIRE", "fire")
    assert (decision.policy, decision.policy_version) == ("manual", "c1")
    assert decision.trace[0].reason == "ann pressed retrain: new labels"
    over = ", ".join(stage.name for stage in CHAIN if stage.name not in ("budget", "concurrency"))
    assert decision.trace[1] == Trace(stage="chain", outcome="over", reason=f"a person passes over {over}")


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


# ---------------------------------------------------------------------------------------------------------- budget

ONE = Budget(runs=1, cost=None, per=timedelta(hours=1))
SPENT = ((at(minutes=-30), 1.0),)


def press_with(
    state: Any = None, *, now: Any = NOON, spent: Any = SPENT, timer: bool = False, **data: Any
) -> Conclusion:
    """Press the button of a model with a budget of one run an hour, or ask again what is held."""
    event = make_event(type="retrain.requested", origin="person", data=press_data() | data)
    return decide_press(
        "churn",
        "queue",
        "c1",
        event=None if timer else event,
        facts=make_facts(spent=spent),
        now=now,
        budget=ONE,
        state=state,
    )


def test_a_press_waits_for_the_budget() -> None:
    """It is held until enough has left, and fires then."""
    held = press_with()
    early = press_with(held.state, now=at(minutes=29), timer=True)
    fired = press_with(held.state, now=at(minutes=30), timer=True)

    assert said(held.decision) == ("HOLD", "budget")
    assert (held.decision.until, held.causes, held.state.held_count) == (at(minutes=30), "collect", 1)
    assert said(early.decision) == ("HOLD", "budget")
    assert said(fired.decision) == ("FIRE", "fire")
    assert (fired.causes, fired.state.slots, fired.state.stage) == ("take", {}, None)
    assert fired.decision.trace[0].reason == "1 pressed since 2024-03-05 12:00:00Z"


def test_presses_that_are_held_become_one() -> None:
    """Their parameters come together, the later one wins; what is retried is remembered."""
    first = press_with(params={"a": 1, "b": 1}, retries="run-7")
    second = press_with(first.state, params={"b": 2}, actor="bob")
    asked = asked_by(second.state, None)

    assert second.state.held_count == 2
    assert asked == {"params": {"a": 1, "b": 2}, "actor": "bob", "retries": ["run-7"], "force": False}


def test_a_press_that_forces_passes_over_the_budget() -> None:
    """It is shown with who did it; what was held goes with it, but the slot is asked."""
    held = press_with(params={"a": 1})
    forced = press_with(held.state, force=True, params={"b": 2})
    last = forced.decision.trace[-2:]

    assert said(forced.decision) == ("FIRE", "fire")
    assert (last[0].stage, last[0].outcome, last[0].reason) == ("budget", "over", "ann forces it past the budget")
    assert last[1].stage == "concurrency"
    assert forced.decision.trace[0].facts == {"params": {"a": 1, "b": 2}}
    assert forced.causes == "take"


def test_force_is_nothing_without_a_budget() -> None:
    """And it never passes over the slot."""
    event = make_event(type="retrain.requested", origin="person", data=press_data() | {"force": True})
    facts = make_facts(active=(make_active("TRAINING"),))
    decision = decide_press("churn", "forbid", "c1", event=event, facts=facts, now=NOON).decision

    assert said(decision) == ("SKIP", "concurrency")
    assert "budget" not in [line.stage for line in decision.trace]
