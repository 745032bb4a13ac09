"""Whether a retraining helped: the alert or the metric that asked for it is gone when the watch is over, or it is not."""

from __future__ import annotations

from typing import Any

import pytest

from controller.engine.replay import replay
from controller.testing import ManualClock
from tests.engine.house import House
from tests.engine.watching import (
    DAY,
    HOUR,
    WATCH,
    MakeHouse,
    champions,
    finish_training,
    fire,
    outcome,
    promote,
    slo,
    watches,
)

# ----------------------------------------------------------------------------------------------- did it help?


def test_an_alert_that_is_resolved_was_cured(house: House) -> None:
    """The alert that asked for the retraining ends within a day of the promotion: CURED when the day is over, without any `watch`."""
    fire(house, "a1")
    finish_training(house)
    house.advance(HOUR)
    fire(house, "a1", state="resolved")
    before = outcome(house)
    house.advance(DAY)

    assert before == (None, "promoted")
    assert outcome(house) == ("CURED", "cleared")
    assert "was resolved" in house.runs()[-1].outcome_reason


def test_an_alert_that_still_fires_was_not_cured(house: House) -> None:
    """It is still open when the day is over: NOT_CURED, and people are told."""
    fire(house, "a1")
    finish_training(house)
    for _ in range(24):
        house.advance(HOUR)
        fire(house, "a1")

    assert outcome(house) == ("NOT_CURED", "still_there")
    assert house.mail()[-1] == "not_cured"
    assert house.world.mail[-1].body["outcome"] == "NOT_CURED"


def test_an_alert_that_comes_back_was_not_cured(house: House) -> None:
    """The same alert fires anew: NOT_CURED at once, before the policy is asked about it."""
    fire(house, "a1", subject="eu")
    finish_training(house)
    fire(house, "a1", state="resolved", subject="eu")
    fire(house, "other", subject="us")
    assert house.runs()[0].outcome is None
    fire(house, "a2", subject="eu")

    assert outcome(house, 0) == ("NOT_CURED", "came_back")
    assert house.runs()[0].outcome_reason.endswith(f"({house.events()[-1].id})")


def test_what_came_back_is_still_watched(make_house: MakeHouse) -> None:
    """With `rollback_on` the watch goes on after the signal came back, and what is worse is rolled back."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    fire(house, "a1")
    house.world.succeed("a", auc=0.8, champion_auc=0.7)
    house.settle()
    fire(house, "a1", state="resolved")
    fire(house, "a2")
    between = house.runs()[1].outcome, watches(house)[1].state
    slo(house)

    assert between == ("NOT_CURED", "OPEN")
    assert outcome(house, 1) == ("WORSE", "worse")
    assert champions(house)[:2] == ["CHAMPION", "ROLLED_BACK"]


def test_the_breaker_knows_at_once_that_it_came_back(make_house: MakeHouse) -> None:
    """The event that says that it was not cured is the first one that the breaker stops."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift"}, "breaker": {"after": 1}}}})
    fire(house, "a1")
    finish_training(house)
    fire(house, "a1", state="resolved")
    fire(house, "a2")

    assert outcome(house, 0) == ("NOT_CURED", "came_back")
    assert len(house.runs()) == 1
    assert (house.decisions()[-1].kind, house.decisions()[-1].stage) == ("HOLD", "breaker")
    again = replay(
        house.store, f"sqlite:///{house.folder / 'again.db'}", config=house.runtime.config, clock=ManualClock()
    )
    assert (again.recorded, again.replayed) == (None, None), "what was recorded is decided in the same way"


def test_an_alert_that_flapped_while_it_was_trained(house: House) -> None:
    """It ended and fired anew before the promotion: the new one is the signal that must end."""
    fire(house, "a1")
    fire(house, "a1", state="resolved")
    fire(house, "a2")
    finish_training(house)
    for _ in range(24):
        house.advance(HOUR)
        fire(house, "a2")

    assert outcome(house, 0) == ("NOT_CURED", "still_there")


def test_an_alert_that_was_given_up_is_not_known(house: House) -> None:
    """Nobody said that it was resolved: silence is no cure."""
    fire(house, "a1")
    finish_training(house)
    house.advance(DAY + HOUR)

    assert outcome(house) == ("UNKNOWN", "not_known")


def test_an_edge_has_nothing_to_cure(house: House) -> None:
    """An event that is no alert: UNKNOWN at once, and nobody is told."""
    promote(house, 0.7)

    assert outcome(house) == ("UNKNOWN", "nothing_to_cure")
    assert "drift" in house.runs()[-1].outcome_reason
    assert house.mail() == ["promoted"]


def test_what_was_not_promoted_has_no_outcome(house: House) -> None:
    """A rejected run is not watched."""
    house.champion(auc=0.7)
    house.train()
    house.world.succeed("a", auc=0.6, champion_auc=0.7)
    house.settle()
    house.advance(DAY)

    assert house.runs()[-1].state == "REJECTED"
    assert house.runs()[-1].outcome is None
    assert len(watches(house)) == 1


# ----------------------------------------------------------------------------------------------- levels

SHARE = {"value": "event.data.share", "agg": "last", "above": 0.3, "rearm_below": 0.2}
LEVELS: dict[str, dict[str, Any]] = {
    "alone": {"type": "reading", "metric": SHARE},
    "in a tree": {"all": [{"type": "reading", "metric": SHARE}, {"not": {"type": "alert.upstream"}}]},
}


@pytest.fixture(params=list(LEVELS.values()), ids=list(LEVELS))
def levelled(request: pytest.FixtureRequest, make_house: MakeHouse) -> House:
    """An installation whose champion was promoted because a metric was beyond its threshold."""
    house = make_house(model={"policies": {"!": True, "drift": {"on": request.param}}})
    house.train(type="reading", share=0.5)
    house.advance(60)
    finish_training(house)
    return house


LEVEL_ENDS: dict[str, tuple[list[float], tuple[str, str]]] = {
    "back": ([0.4, 0.1], ("CURED", "cleared")),
    "not back yet": ([0.25], ("NOT_CURED", "still_there")),
    "still beyond": ([0.1, 0.5], ("NOT_CURED", "still_there")),
    "not measured": ([], ("UNKNOWN", "not_known")),
}


@pytest.mark.parametrize("shares, expected", LEVEL_ENDS.values(), ids=LEVEL_ENDS)
def test_a_metric_is_cured_when_it_is_back(levelled: House, shares: list[float], expected: tuple[str, str]) -> None:
    """Its value at the end of a day decides; what was measured before the promotion says nothing."""
    for share in shares:
        levelled.advance(HOUR)
        levelled.send("reading", data={"share": share})
        levelled.settle()
    assert levelled.runs()[0].outcome is None
    levelled.advance(DAY)

    assert outcome(levelled, 0) == expected
