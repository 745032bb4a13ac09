"""The chain: the order in which reasons win, for every pair of stages; and what holds for every policy there can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations, pairwise
from typing import Any

import pytest

from controller.core.calendar import Calendar
from controller.core.chain import Stage
from controller.core.conditions import event_scope
from controller.core.decide import Conclusion, decide, refuse, select
from controller.core.on import Leaf
from controller.core.policy import Breaker, Budget, Cooldown, Ready
from controller.core.stages import CHAIN, SELECTING
from tests.factories import (
    LUNCH,
    NOON,
    at,
    expression,
    make_active,
    make_champion,
    make_debounce,
    make_episode,
    make_event,
    make_facts,
    make_mark,
    make_max_age,
    make_pause,
    make_policy,
    minutes,
)
from tests.unit.core.driver import said

#: The order of the language (design §5): the first stage that does not pass gives the reason.
ORDER = (
    "match",
    "when",
    "episode",
    "count",
    "metric",
    "tree",
    "max_age",
    "ready",
    "debounce",
    "cooldown",
    "quiet_hours",
    "calendars",
    "pause",
    "loop",
    "breaker",
    "budget",
    "mode",
    "concurrency",
)


def test_the_order_of_the_chain_is_part_of_the_language() -> None:
    """The design's order; a press passes over everything but budget and slot."""
    assert tuple(stage.name for stage in CHAIN) == ORDER
    assert [stage.name for stage in SELECTING] == ["match", "when", "episode"]
    assert [stage.name for stage in CHAIN if not stage.person_passes_over] == ["budget", "concurrency"]
    assert all(isinstance(stage, Stage) for stage in CHAIN)


@dataclass(frozen=True)
class Stopper:
    """What makes one stage stop at noon, and what it says; laid together, several stages would stop."""

    kind: str
    words: str
    on: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] = field(default_factory=dict)


STOPPERS: dict[str, Stopper] = {
    "match": Stopper("SKIP", "source is", on={"source": "bus"}),
    "when": Stopper("SKIP", "false", on={"when": expression("event.data.share > 0.5")}),
    "episode": Stopper(
        "SKIP", "not news", event={"extensions": make_mark()}, facts={"episode": make_episode(event_id="evt-0")}
    ),
    "count": Stopper("SKIP", "1 of 2", on={"count": 2, "within": minutes(60)}),
    "ready": Stopper("HOLD", "new rows", policy={"ready": Ready(new_rows=1000)}),
    "debounce": Stopper("HOLD", "quiet for", policy={"debounce": make_debounce(5)}),
    "cooldown": Stopper(
        "HOLD",
        "last launch",
        policy={"cooldown": Cooldown(after="launch", period=minutes(60))},
        facts={"last_launch_at": NOON},
    ),
    "quiet_hours": Stopper("HOLD", "inside 11:00-13:00", policy={"quiet_hours": LUNCH}),
    "calendars": Stopper("HOLD", "closed by 'c'", policy={"calendars": (Calendar(name="c", days=("tue",)),)}),
    "pause": Stopper("HOLD", "ann paused", facts={"pauses": (make_pause(),)}),
    "loop": Stopper("SKIP", "the chain of causes", facts={"depth": 3}),
    "breaker": Stopper("HOLD", "did not help", policy={"breaker": Breaker(after=1)}, facts={"unhelpful": ("run-1",)}),
    "budget": Stopper(
        "HOLD",
        "1 of 1 runs",
        policy={"budget": Budget(runs=1, cost=None, per=timedelta(hours=1))},
        facts={"spent": ((at(minutes=-1), 1.0),)},
    ),
    "mode": Stopper("SKIP", "would have fired", policy={"mode": "observe"}),
    "concurrency": Stopper("SKIP", "forbid", policy={"concurrency": "forbid"}, facts={"active": (make_active(),)}),
}


def conclude(*names: str) -> Conclusion:
    """Decide on an event at noon that these stages would stop, and no other."""
    on: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    event: dict[str, Any] = {"data": {"share": 0.1, "rows": 1.0}}
    for name in names:
        stopper = STOPPERS[name]
        on |= stopper.on
        policy |= stopper.policy
        facts |= stopper.facts
        event |= stopper.event
    made, known = make_policy(Leaf(**on), **policy), make_facts(**facts)
    heard = make_event(**event)
    scope = event_scope(heard, model=made.model, labels={}, champion=None)
    selection = select(made, heard, scope, episode=known.episode)
    if selection.outcome != "pass":
        return Conclusion(decision=refuse(made, selection), state=None, causes="none")  # type: ignore[arg-type]
    return decide(
        made, None, key=selection.key, event=heard, opening=selection.trace, facts=known, now=NOON, scope=scope
    )


def test_nothing_stops_it() -> None:
    assert said(conclude().decision) == ("FIRE", "fire")


@pytest.mark.parametrize("name", STOPPERS)
def test_each_stage_stops_alone(name: str) -> None:
    """It gives its own reason, and every stage before it that was asked has passed."""
    decision = conclude(name).decision

    assert said(decision) == (STOPPERS[name].kind, name)
    assert STOPPERS[name].words in decision.reason
    assert {line.outcome for line in decision.trace[:-1]} <= {"pass"}


PAIRS = list(combinations(STOPPERS, 2))


@pytest.mark.parametrize("first, second", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_of_two_stages_the_first_gives_the_reason(first: str, second: str) -> None:
    """Both would stop: the earlier one wins. The earlier one passes: the later one says so."""
    both, later = conclude(first, second).decision, conclude(second).decision

    assert ORDER.index(first) < ORDER.index(second)
    assert said(both) == (STOPPERS[first].kind, first)
    assert STOPPERS[first].words in both.reason
    assert said(later) == (STOPPERS[second].kind, second)


def test_every_pair_of_neighbours_is_among_them() -> None:
    """But for the conditions of `on`, of which a policy has one, and which have tables of their own."""
    alone = {"metric", "tree", "max_age"}
    names = [stage.name for stage in CHAIN if stage.name not in alone]

    assert set(names) == set(STOPPERS)
    assert set(pairwise(names)) <= set(PAIRS)


LEVELS = [name for name in STOPPERS if ORDER.index(name) > ORDER.index("max_age") and name != "ready"]


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_comes_before_the_stages_behind_it(name: str) -> None:
    """`max_age` gives the reason while there is no champion, and the stage behind it when the champion is too old."""
    stopper = STOPPERS[name]
    policy = make_policy(make_max_age(), **stopper.policy)
    young = decide(policy, None, key="", event=None, facts=make_facts(**stopper.facts), now=NOON).decision
    facts = make_facts(**stopper.facts, champion=make_champion(promoted_at=at(days=-20)))
    old = decide(policy, None, key="", event=None, facts=facts, now=NOON).decision

    assert said(young) == ("HOLD", "max_age")
    assert said(old) == (stopper.kind, name)


def test_a_leaf_of_another_kind_is_left_to_its_own_stage() -> None:
    """A plain leaf leaves no line of `count`."""
    assert [line.stage for line in conclude().decision.trace] == ["match", "concurrency"]
