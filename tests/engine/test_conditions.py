"""Conditions of several parts in a whole installation: what is kept in the store, and what wakes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.chain import PolicyState
from controller.engine import sitting as sitting_module
from controller.store import schema
from tests.engine.house import House
from tests.factories import make_mark

MakeHouse = Callable[..., House]

HOUR = timedelta(hours=1)


def house_of(make_house: MakeHouse, on: dict[str, Any], **policy: Any) -> House:
    return make_house(model={"policies": {"drift": {"!": True, "on": on, **policy}}})


def told(house: House) -> list[tuple[str, str]]:
    return [(row.kind, row.stage) for row in house.decisions()]


def keys(house: House) -> list[str]:
    """The keys for which the policy remembers something."""
    with house.store.reading() as tx:
        return sorted(tx.execute(sa.select(schema.policy_state.c.key)).scalars())


def state(house: House, key: str = "") -> PolicyState | None:
    with house.store.reading() as tx:
        return tx.policies.state("churn", "drift", key)


def held(house: House, key: str = "") -> list[str]:
    """The types of the events that are collected."""
    with house.store.reading() as tx:
        return [cause.type for cause in tx.policies.collected("churn", "drift", key)]


def end_run(house: House) -> None:
    """Let the training of the newest run end well."""
    house.world.succeed("a", auc=0.7, champion_auc=0.6)
    house.settle()


def test_a_condition_fires_with_every_event_that_led_to_it(make_house: MakeHouse) -> None:
    """Events in the windows and of the steps become the run's causes, in one run; what left a window does not."""
    house = house_of(
        make_house, {"all": [{"type": "a", "count": 2, "within": "10m"}, {"type": "b", "count": 1, "within": "1h"}]}
    )
    house.send("a")
    house.settle()
    house.advance(timedelta(minutes=11))
    for kind in ("b", "a", "a"):
        house.send(kind)
    house.settle()

    assert house.causes(house.run()) == ["b", "a", "a"]
    assert held(house) == []
    assert told(house)[-1] == ("FIRE", "fire")
    assert house.decisions()[0].trace[-1]["facts"]["nodes"][1]["value"] == 1


def test_a_metric_fires_by_the_clock_and_says_why(make_house: MakeHouse) -> None:
    """`for` is over without an event: the run's cause is the event that took it beyond."""
    metric = {"value": "event.data.x", "agg": "avg", "over": "1h", "above": 10, "for": "10m"}
    house = house_of(make_house, {"type": "m", "metric": metric})
    house.send("m", data={"x": 11})
    house.settle()
    house.advance(timedelta(minutes=9))
    assert house.runs() == []
    house.advance(timedelta(minutes=1))

    assert house.causes(house.run()) == ["m"]
    assert house.decisions("FIRE")[0].trace[-2]["stage"] == "metric"


def test_a_level_fires_again_after_its_run_ended(make_house: MakeHouse) -> None:
    """The end of the run wakes the policy, and `again_after` later the level that is still true fires; its cause is the timer."""
    metric = {"value": "event.data.x", "agg": "last", "above": 10, "again_after": "1h"}
    house = house_of(make_house, {"type": "m", "metric": metric})
    house.send("m", data={"x": 11})
    house.settle()
    known = state(house)
    assert known is not None
    assert known.waits_for == "run"
    house.send("m", data={"x": 12})
    house.settle()
    house.advance(timedelta(minutes=30))
    end_run(house)
    house.advance(timedelta(minutes=59))
    assert len(house.runs()) == 1
    house.advance(timedelta(minutes=1))

    assert len(house.runs()) == 2
    assert house.causes(house.runs()[1]) == ["timer.metric"]


def test_an_episode_that_ends_wakes_what_waits_for_it(make_house: MakeHouse) -> None:
    """`not` holds while an episode is open, and fires when it is resolved, with what came meanwhile."""
    house = house_of(make_house, {"all": [{"type": "a"}, {"not": {"type": "incident"}}]})
    house.send("incident", extensions=make_mark("k"))
    house.send("a")
    house.settle()
    assert told(house) == [("HOLD", "tree")]
    house.advance(HOUR)
    house.send("incident", extensions=make_mark("k", "resolved"))
    house.settle()

    assert house.causes(house.run()) == ["a"]


def test_an_episode_that_is_given_up_wakes_too(make_house: MakeHouse) -> None:
    """Without a sign of life it is over as well."""
    house = house_of(make_house, {"all": [{"type": "a"}, {"not": {"type": "incident"}}]})
    house.send("incident", extensions=make_mark("k", expire=3600))
    house.send("a")
    house.settle()
    house.advance(HOUR)

    assert len(house.runs()) == 1


@pytest.mark.parametrize("order", [["a", "incident"], ["incident", "a"]])
def test_within_one_batch_each_event_sees_the_one_before_it(make_house: MakeHouse, order: list[str]) -> None:
    """An episode that opens in the same batch holds what comes behind it, and nothing before."""
    house = house_of(make_house, {"all": [{"type": "a"}, {"not": {"type": "incident"}}]})
    for kind in order:
        house.send(kind, extensions=make_mark("k") if kind == "incident" else None)
    house.settle()

    assert len(house.runs()) == (order[0] == "a")


def test_what_is_expected_and_does_not_come(make_house: MakeHouse) -> None:
    """It counts from the activation, and a restart changes nothing; its cause is the timer."""
    house = house_of(make_house, {"absent": {"expect": {"type": "a"}, "within": "1h"}})
    house.settle()
    house.advance(timedelta(minutes=30))
    house.restart()
    house.settle()
    house.advance(timedelta(minutes=30))

    assert house.causes(house.run()) == ["timer.tree"]


def test_a_champion_that_gets_too_old_in_a_tree(make_house: MakeHouse) -> None:
    """A promotion wakes the condition, which had no champion to look at."""
    house = make_house(
        model={
            "policies": {
                "old": {"on": {"all": [{"max_age": "10d"}, {"not": {"type": "incident"}}]}},
            }
        }
    )
    house.settle()
    house.champion()
    house.advance(timedelta(days=10))

    assert [house.causes(run) for run in house.runs()] == [["drift"], ["timer.tree"]]


def test_keys_expire_and_are_counted(make_house: MakeHouse) -> None:
    """An hour after its window is over nothing is left of a key, and that is no decision."""
    house = house_of(make_house, {"type": "a", "count": 3, "within": "10m", "by": "event.subject"})
    for subject in ("eu", "us"):
        house.send("a", subject=subject)
    house.settle()
    assert keys(house) == ["eu", "us"]
    house.advance(timedelta(minutes=71))

    assert keys(house) == []
    assert (held(house, "eu"), len(house.decisions())) == ([], 2)
    assert house.tally("key expired") == 2


def test_a_level_that_was_forbidden_is_asked_again(make_house: MakeHouse) -> None:
    """`forbid` drops an occasion, but a level stays true: it fires when the run that stood in its way has ended."""
    metric = {"value": "event.data.x", "agg": "last", "above": 10}
    policies = {"drift": {"!": True, "on": {"type": "m", "metric": metric}}, "other": {"on": {"type": "other"}}}
    house = make_house(model={"policies": policies, "train": {"concurrency": "forbid"}})
    house.send("other")
    house.send("m", data={"x": 11})
    house.settle()
    assert told(house)[-1] == ("SKIP", "concurrency")
    house.advance(timedelta(minutes=1))
    end_run(house)

    assert [run.policy for run in house.runs()] == ["other", "drift"]


def test_too_many_keys(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that were longest untouched are let go of, some at once; what holds something stays, and it is counted."""
    monkeypatch.setattr(sitting_module, "MAX_KEYS", 5)
    monkeypatch.setattr(sitting_module, "ROOM", 2)
    house = house_of(
        make_house, {"type": "a", "count": 2, "within": "1h", "by": "event.subject"}, debounce={"quiet": "2h"}
    )
    for subject in ["k0", "k0", "k1", "k2", "k3", "k4", "k1", "k5"]:
        house.send("a", subject=subject)
        house.settle()
        house.advance(timedelta(seconds=1))

    # k0 and k1 are held.
    assert keys(house) == ["k0", "k1", "k4", "k5"]
    assert house.tally("key forgotten") == 2


def test_a_changed_condition_begins_anew_and_keeps_what_is_held(make_house: MakeHouse) -> None:
    """What was counted under another condition is gone; what is held goes on at debounce."""
    house = house_of(make_house, {"all": [{"type": "a"}, {"not": {"type": "incident"}}]})
    house.send("incident", extensions=make_mark("k"))
    house.send("a")
    house.settle()
    house.write(model={"policies": {"drift": {"!": True, "on": {"any": [{"type": "a"}, {"type": "b"}]}}}})
    house.desk.reload(who="ann")
    house.settle()

    assert house.causes(house.run()) == ["a"]


def test_a_value_that_is_no_number_is_an_error_decision(make_house: MakeHouse) -> None:
    """It is shown and counted, and the next value is taken."""
    metric = {"value": "event.data.x", "agg": "last", "above": 10}
    house = house_of(make_house, {"type": "m", "metric": metric})
    house.send("m", data={"x": "high"})
    house.send("m", data={"x": 11})
    house.settle()

    assert told(house) == [("ERROR", "metric"), ("FIRE", "fire")]


def test_a_hold_that_is_over_leaves_what_still_counts(make_house: MakeHouse) -> None:
    """A level that clears lets go of what is held; events that are still in a window remain collected, and lead to a later run."""
    metric = {"value": "event.data.x", "agg": "last", "above": 10}
    on = {"all": [{"type": "a", "count": 2, "within": "1h"}, {"type": "m", "metric": metric}, {"type": "b"}]}
    house = house_of(make_house, on, debounce={"quiet": "10m"})
    for kind in ("m", "a", "a", "b"):
        house.send(kind, data={"x": 11})
        house.settle()
        house.advance(timedelta(seconds=1))
    assert held(house) == ["m", "a", "a", "b"]
    house.send("m", data={"x": 3})
    house.settle()
    assert held(house) == ["a", "a"]
    house.send("m", data={"x": 12})
    house.send("b")
    house.settle()
    house.advance(timedelta(minutes=10))

    assert house.causes(house.run()) == ["a", "a", "m", "b"]


def test_a_busy_level_collects_one_cause(make_house: MakeHouse) -> None:
    """However many values come while it is true and not yet acted upon, the run's cause is the one that took it beyond."""
    metric = {"value": "event.data.x", "agg": "last", "above": 10, "for": "10m"}
    house = house_of(make_house, {"type": "m", "metric": metric})
    for number in range(50):
        house.send("m", data={"x": 11 + number})
    house.settle()

    assert held(house) == ["m"]
    assert len(house.decisions()) == 50
