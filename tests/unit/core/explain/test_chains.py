"""Whatever stage ends a chain: the reason that is printed is the reason that was decided."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.calendar import Calendar
from controller.core.decide import Conclusion
from controller.core.explain import explain_event, render
from controller.core.explain.configured import configured
from controller.core.model import Event
from controller.core.on import AllOf, MaxAge, NoEpisode
from controller.core.policy import Breaker, Budget, Cooldown, QuietHours, Ready
from controller.core.stages import CHAIN
from tests.factories import (
    NOON,
    at,
    make_active,
    make_champion,
    make_debounce,
    make_episode,
    make_event,
    make_facts,
    make_leaf,
    make_mark,
    make_max_age,
    make_metric,
    make_pause,
    make_policy,
    minutes,
)
from tests.unit.core.drawn import policies
from tests.unit.core.driver import hear, look
from tests.unit.core.explain.accounts import event_shape, event_text, policy_text, shape_of

DAY = minutes(24 * 60)
TREE = AllOf(parts=(make_leaf(type="drift"), make_leaf(type="file", count=1, within=minutes(60))))

#: By stage: a policy, facts and an event that end there.
ENDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "match": (make_policy(make_leaf(type="file")), {}, {}),
    "when": (make_policy(make_leaf(when="event.data.share > 0.3")), {}, {"data": {"share": 0.1}}),
    "episode": (make_policy(), {}, {"extensions": make_mark("k", "resolved")}),
    "count": (make_policy(make_leaf(count=3, within=minutes(60))), {}, {}),
    "metric": (make_policy(make_leaf(metric=make_metric(above=10.0))), {}, {"data": {"x": 3.0}}),
    "tree": (make_policy(TREE), {}, {}),
    "ready": (make_policy(ready=Ready(new_rows=1000)), {}, {"data": {"rows": 4}}),
    "debounce": (make_policy(debounce=make_debounce(5)), {}, {}),
    "cooldown": (
        make_policy(cooldown=Cooldown(after="decision", period=DAY)),
        {"last_decision_at": at(minutes=-10)},
        {},
    ),
    "quiet_hours": (make_policy(quiet_hours=QuietHours(between="11:00-13:00", timezone="UTC")), {}, {}),
    "calendars": (
        make_policy(calendars=(Calendar(name="freeze", days=("mon", "tue", "wed", "thu", "fri", "sat")),)),
        {},
        {},
    ),
    "pause": (make_policy(), {"pauses": (make_pause(),)}, {}),
    "loop": (make_policy(max_chain=1), {"depth": 1}, {}),
    "breaker": (make_policy(breaker=Breaker(after=2)), {"unhelpful": ("run-2", "run-1")}, {}),
    "budget": (make_policy(budget=Budget(runs=1, cost=None, per=DAY)), {"spent": ((at(minutes=-9), 1.0),)}, {}),
    "mode": (make_policy(mode="observe"), {}, {}),
    "concurrency": (make_policy(concurrency="forbid"), {"active": (make_active(),)}, {}),
}


def conclude(stage: str) -> tuple[Event, Conclusion]:
    """Return what is decided where a stage ends the chain."""
    policy, facts, fields = ENDS[stage]
    event = make_event(1, **{"type": "drift", **fields})
    return event, hear(policy, event, facts=make_facts(**facts))


def test_every_stage_of_the_chain_has_its_case() -> None:
    """But `max_age`, which no event drives."""
    assert {*ENDS, "max_age"} == {stage.name for stage in CHAIN}


@pytest.mark.parametrize("stage", ENDS)
def test_the_reason_printed_is_the_reason_decided(stage: str) -> None:
    """The stage that ends the chain is the last line of it, with its mark and the reason that the decision has."""
    event, conclusion = conclude(stage)
    decision = conclusion.decision

    printed = event_text(event, conclusion).splitlines()
    mark = {"HOLD": "…", "SKIP": "✗", "ERROR": "!"}[decision.kind]

    assert decision.stage == stage
    assert any(
        line.lstrip().startswith(f"{mark} {stage} ") and line.endswith(f"  {decision.reason}") for line in printed
    ), printed


@pytest.mark.parametrize("stage", ENDS)
def test_a_policy_prints_it_too(stage: str) -> None:
    """The account of the policy shows the same chain, and what is configured for the stage."""
    _, conclusion = conclude(stage)
    policy = ENDS[stage][0]

    printed = policy_text(policy, [shape_of(conclusion.decision)])
    words = {line["stage"]: line["text"] for line in configured(policy)}

    assert conclusion.decision.reason in printed
    assert words[stage] in printed


def test_an_age_is_printed_as_decided() -> None:
    """A level says how old the champion is."""
    policy = make_policy(make_max_age())
    champion = make_champion(promoted_at=at(minutes=-30))

    conclusion = look(policy, None, facts=make_facts(champion=champion))

    assert conclusion.decision.stage == "max_age"
    assert conclusion.decision.reason in policy_text(policy, [shape_of(conclusion.decision, event_id=None)])


def test_a_tree_shows_every_node() -> None:
    """Each node has a line with its mark: true, not true, or not known."""
    on = AllOf(
        parts=(
            make_leaf(type="drift"),
            make_leaf(type="auc", metric=make_metric(above=10.0)),
            NoEpisode(source="alerts"),
        )
    )
    event = make_event(1, type="drift")
    episode = make_episode(1, origin="alerts")

    printed = event_text(event, hear(make_policy(on), event, facts=make_facts(open_episodes=(episode,))))

    assert "✓ all[0]" in printed
    assert "? all[1]" in printed
    assert "✗ all[2]" in printed
    assert printed.count("all[") >= 3


@settings(deadline=None, max_examples=100)
@given(policies, st.booleans(), st.integers(0, 3))
def test_the_account_of_a_decision_is_its_stored_trace(policy: Any, is_paused: bool, runs: int) -> None:
    """Nothing is added to the trace that was stored, nothing is left out, and each line of it is printed in its order."""
    event = make_event(1, type="drift")
    facts = make_facts(
        pauses=(make_pause(),) if is_paused else (),
        active=tuple(make_active(id=f"run-{number}") for number in range(runs)),
        last_decision_at=NOON,
    )
    decision = shape_of(hear(policy, event, facts=facts).decision, event_id=event.id)

    account = explain_event(event_shape(event, [decision]))
    printed = "\n".join(str(line) for line in render(account))
    places = [printed.find(f"{line['stage']}") for line in decision["trace"]]

    (shown,) = account["policies"]
    assert shown["trace"] == decision["trace"]
    assert (shown["reason"], shown["stage"], shown["kind"]) == (decision["reason"], decision["stage"], decision["kind"])
    assert all(line["reason"] in printed for line in decision["trace"])
    assert -1 not in places


def test_max_age_has_words() -> None:
    """What a level asks for is said."""
    (line,) = [line for line in configured(make_policy(make_max_age())) if line["stage"] == "max_age"]

    assert isinstance(make_max_age(), MaxAge)
    assert line["text"].startswith("the champion is at least 10d old")
