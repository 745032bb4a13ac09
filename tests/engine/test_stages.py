"""The stages behind `on`, in a whole installation: what holds, what lets go, who is told, and in which order runs start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.core.model import EMITTED_BY, Run
from tests.engine.house import House

MakeHouse = Callable[..., House]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def policy(**stages: Any) -> dict[str, Any]:
    """Return a model whose only policy has these stages."""
    return {"policies": {"drift": {"on": {"type": "drift"}, **stages}}}


def hear(house: House, **fields: Any) -> None:
    """Send an event of drift, and let happen what happens."""
    house.send(**fields)
    house.settle()


def states(house: House) -> list[str]:
    return [run.state for run in house.runs()]


def last(house: House) -> tuple[str, str]:
    """The last decision: its kind and stage."""
    row = house.decisions()[-1]
    return row.kind, row.stage


def end(house: House, auc: float = 0.7, **result: Any) -> Run:
    """Let the newest training end well; with this metric it passes the first time, and then never again."""
    house.world.succeed("a", auc=auc, champion_auc=auc + (0.1 if house.versions() else -0.1), **result)
    house.settle()
    return house.runs()[-1]


def fail(house: House) -> Run:
    """Let the newest training fail for good."""
    for _ in range(2):
        house.world.fail("a")
        house.settle()
        house.advance(HOUR)
    return house.runs()[-1]


#: A gate that does not compare with the champion.
GOOD_ENOUGH = {"gate": {"objective": None, "require": ["candidate.metrics.auc > 0.5"]}}

# ---------------------------------------------------------------------------------------------------------- budget


def test_a_budget_holds_and_lets_go_by_itself(make_house: MakeHouse) -> None:
    """What comes over the budget is merged into one run, which starts when the first leaves the window."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1h"}))
    hear(house)
    end(house)
    for _ in range(3):
        house.advance(60)
        hear(house)

    assert states(house) == ["PROMOTED"]
    assert {(row.kind, row.stage) for row in house.decisions()[1:]} == {("HOLD", "budget")}

    house.advance(HOUR - timedelta(minutes=3))

    assert states(house) == ["PROMOTED", "TRAINING"]
    assert len(house.causes(house.runs()[-1])) == 3
    assert house.runs()[-1].decided_at == house.runs()[0].decided_at + HOUR


def test_a_run_that_never_started_is_given_back(make_house: MakeHouse) -> None:
    """Cancelled while it waited for its time, it cost nothing, and what the budget held goes on at once."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1d"}, jitter="1h") | {"train": {"concurrency": "allow"}})
    hear(house)
    hear(house)

    assert states(house) == ["QUEUED"]
    assert last(house) == ("HOLD", "budget")

    house.desk.cancel(house.runs()[0].id, who="ann", reason="not now")
    house.settle()

    assert states(house) == ["CANCELLED", "QUEUED"]


def test_a_run_that_was_launched_is_not_given_back(make_house: MakeHouse) -> None:
    """However it ended."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1d"}))
    hear(house)
    fail(house)
    hear(house)

    assert states(house) == ["FAILED"]
    assert last(house) == ("HOLD", "budget")


def test_a_budget_of_units_is_corrected_by_the_result(make_house: MakeHouse) -> None:
    """A run counts with the declared cost until its result says another; then what it holds goes on as soon as there is room."""
    house = make_house(model=policy(budget={"cost": 10, "per": "1d"}) | {"train": {"cost": 6}})
    hear(house)
    running = house.runs()[-1]

    assert running.cost == 6

    end(house, cost=3.5)
    hear(house)

    assert house.runs()[0].cost == 3.5
    assert states(house) == ["PROMOTED", "TRAINING"]

    end(house, auc=0.6, cost=9.0)
    hear(house)

    assert last(house) == ("HOLD", "budget")
    assert "12.5 of 10 units within 1d" in house.decisions()[-1].reason


def test_what_a_budget_holds_goes_on_when_a_result_makes_room(make_house: MakeHouse) -> None:
    """The hold does not wait for the window when the result turns out cheaper."""
    house = make_house(model=policy(budget={"cost": 10, "per": "1d"}) | {"train": {"cost": 6, "concurrency": "allow"}})
    hear(house)
    hear(house)

    assert states(house) == ["TRAINING"]

    end(house, cost=4)

    assert states(house) == ["PROMOTED", "TRAINING"]


BOTH = {
    "churn": {**policy(budget={"runs": 1, "per": "1h", "scope": "label:team"}), "labels": {"team": "a"}},
    "other": {
        "labels": {"team": "a"},
        "policies": {"new": {"on": {"type": "new"}}},
        "train": {"launcher": "scripted", "candidates": {"b": {}}},
        "notify": ["scripted"],
    },
}


@pytest.mark.parametrize(
    "scope, team, held",
    [("label:team", "a", True), ("label:team", "b", False), ("all", "b", True), ("model", "a", False)],
)
def test_a_budget_may_be_shared(make_house: MakeHouse, scope: str, team: str, held: bool) -> None:
    """By the models with the same value of a label, or by all."""
    churn = policy(budget={"runs": 1, "per": "1h", "scope": scope})
    house = make_house(models=BOTH | {"churn": PLAIN_CHURN | churn | {"labels": {"team": team}}})
    hear(house, type="new")
    hear(house)

    assert (last(house) == ("HOLD", "budget")) is held


PLAIN_CHURN: dict[str, Any] = {
    "train": {"launcher": "scripted", "candidates": {"a": {}}},
    "gate": {"objective": {"metric": "auc"}},
    "promote": [{"type": "scripted", "name": "first"}],
    "notify": ["scripted"],
}


def test_a_press_waits_for_the_budget_and_force_passes_over_it(make_house: MakeHouse) -> None:
    """Presses that wait become one run with their parameters together; `force` is shown in the trace, and takes them along."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1h"}))
    hear(house)
    end(house)
    house.retrain(a=1, b=1)
    house.retrain(b=2)
    house.settle()

    assert states(house) == ["PROMOTED"]
    assert last(house) == ("HOLD", "budget")

    house.desk.retrain("churn", who="bob", reason="now", params={}, key=None, force=True)
    house.settle()
    run = house.runs()[-1]

    assert (run.policy, run.state, run.actor) == ("manual", "TRAINING", "bob")
    assert run.params == {"a": 1, "b": 2}
    assert house.causes(run) == ["retrain.requested"] * 3
    over = [line for line in house.decisions()[-1].trace if line["outcome"] == "over"]
    assert over[-1]["stage"] == "budget"
    assert over[-1]["reason"] == "bob forces it past the budget"


def test_a_press_that_waits_goes_on_by_itself(make_house: MakeHouse) -> None:
    """Across a restart and a reload, when the budget has room again."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1h"}))
    hear(house)
    end(house)
    house.retrain(a=1)
    house.settle()
    house.restart()
    house.write(notify=None, model={"labels": {"x": "y"}})
    house.desk.reload(who="ann")
    house.settle()

    assert states(house) == ["PROMOTED"]

    house.advance(HOUR)

    assert states(house) == ["PROMOTED", "TRAINING"]
    assert house.runs()[-1].params == {"a": 1}


def test_a_press_that_waits_goes_on_when_its_budget_is_gone(make_house: MakeHouse) -> None:
    """A reload asks it again."""
    house = make_house(model=policy(budget={"runs": 1, "per": "1d"}))
    hear(house)
    end(house)
    house.retrain()
    house.settle()
    house.write(model={"policies": {"drift": {"budget": None}}})
    house.desk.reload(who="ann")
    house.settle()

    assert states(house) == ["PROMOTED", "TRAINING"]


# -------------------------------------------------------------------------------------------------------- the breaker


def test_a_breaker_opens_tells_people_once_and_closes(make_house: MakeHouse) -> None:
    """After two retrainings that did not help it holds what comes; `resume` of the policy lets it go on, and it may open again."""
    house = make_house(model=policy(breaker={"after": 2}))
    hear(house)
    end(house)
    for _ in range(2):
        hear(house)
        end(house, auc=0.6)
    hear(house)
    hear(house)

    assert states(house) == ["PROMOTED", "REJECTED", "REJECTED"]
    assert last(house) == ("HOLD", "breaker")
    assert house.mail().count("breaker_open") == 1
    (message,) = [message for message in house.world.mail if message.kind == "breaker_open"]
    assert message.run_id == house.runs()[-1].id
    assert "`retrainctl resume churn/drift`" in message.title

    house.desk.resume("model", "churn", who="ann", reason="")
    house.settle()
    assert len(house.runs()) == 3

    house.desk.resume("policy", "churn/drift", who="ann", reason="fixed the data")
    house.settle()
    house.advance(60)
    assert states(house)[3:] == ["TRAINING"]

    end(house, auc=0.6)
    hear(house)
    end(house, auc=0.6)
    hear(house)
    assert last(house) == ("HOLD", "breaker")
    assert house.mail().count("breaker_open") == 2


def test_a_run_that_helped_closes_the_row(make_house: MakeHouse) -> None:
    """Only retrainings in a row count; one of which nobody knows whether it helped neither counts nor resets."""
    house = make_house(model=policy(breaker={"after": 2}) | GOOD_ENOUGH)
    outcomes = [(0.4, None), (0.6, None), (0.6, "CURED"), (0.4, None), (0.6, "UNKNOWN"), (0.6, "NOT_CURED")]
    held = []
    for auc, outcome in outcomes:
        house.advance(60)
        hear(house)
        run = end(house, auc=auc)
        if outcome is not None:
            with house.store.transaction("test") as tx:
                tx.runs.set(run.id, outcome=outcome)
        held.append(last(house) == ("HOLD", "breaker"))
    hear(house)

    assert held == [False] * 6
    assert last(house) == ("HOLD", "breaker")
    assert "the last 2 retrainings did not help" in house.decisions()[-1].reason


def test_what_was_rolled_back_did_not_help(make_house: MakeHouse) -> None:
    """A rollback counts for the breaker of the policy that asked for the run, also if the run was called cured."""
    house = make_house(model=policy(breaker={"after": 1}) | GOOD_ENOUGH)
    hear(house)
    end(house, auc=0.7)
    house.advance(60)
    hear(house)
    run = end(house, auc=0.8)
    with house.store.transaction("test") as tx:
        tx.runs.set(run.id, outcome="CURED")
    house.desk.rollback("churn", who="ann", reason="worse")
    house.settle()
    hear(house)

    assert last(house) == ("HOLD", "breaker")


def test_a_press_passes_over_an_open_breaker(make_house: MakeHouse) -> None:
    """A person may try again."""
    house = make_house(model=policy(breaker={"after": 1}))
    hear(house)
    fail(house)
    hear(house)
    house.retrain()
    house.settle()

    assert states(house) == ["FAILED", "TRAINING"]


# ------------------------------------------------------------------------------------------------------------ loop


def test_a_model_does_not_retrain_on_its_own_output(make_house: MakeHouse) -> None:
    """An event that a run of the same model emitted is let go, and says which run it was."""
    house = make_house()
    hear(house)
    run = house.runs()[-1]
    end(house)
    house.send(extensions={EMITTED_BY: run.id})
    house.settle()

    assert last(house) == ("SKIP", "loop")
    assert run.id in house.decisions()[-1].reason
    assert len(house.runs()) == 1


def test_a_chain_of_runs_ends(make_house: MakeHouse) -> None:
    """Each run is one deeper than what led to it, until the chain is as long as it may be."""
    house = make_house(model=policy(own_output=True, max_chain=2))
    hear(house)
    for _ in range(3):
        end(house)
        house.send(extensions={EMITTED_BY: house.runs()[-1].id})
        house.settle()

    assert [run.depth for run in house.runs()] == [0, 1]
    assert last(house) == ("SKIP", "loop")
    assert "has 2 runs already, max_chain is 2" in house.decisions()[-1].reason


def test_a_guard_sees_through_a_debounce(make_house: MakeHouse) -> None:
    """Own output that is held and asked again by a timer is still own output; with an event from outside it is not alone."""
    house = make_house(model=policy(debounce={"quiet": "1m"}))
    hear(house)
    house.advance(60)
    run = house.runs()[-1]
    end(house)
    house.send(extensions={EMITTED_BY: run.id})
    house.settle()
    house.advance(60)

    assert last(house) == ("SKIP", "loop")

    house.send(extensions={EMITTED_BY: run.id})
    hear(house)
    house.advance(60)

    assert last(house) == ("FIRE", "fire")
    assert [(run.depth, len(house.causes(run))) for run in house.runs()] == [(0, 1), (1, 2)]


def test_a_run_that_nobody_knows_is_outside(house: House) -> None:
    """A stranger's mark changes nothing."""
    house.send(extensions={EMITTED_BY: "run-of-somebody-else"})
    house.settle()

    assert [run.depth for run in house.runs()] == [0]


# ------------------------------------------------------------------------------------------------ calendars, time

NIGHT = {"quiet_hours": {"between": "22:00-06:00"}}
SUNDAYS = {"sundays": {"days": ["sun"]}}


def go_to(house: House, day: int, hour: int) -> None:
    """Let time pass until an instant of January 2024; the 6th is a Saturday."""
    house.advance(datetime(2024, 1, day, hour, tzinfo=UTC) - house.now)


def test_a_calendar_holds_until_the_next_open_day(make_house: MakeHouse) -> None:
    """In its own time zone, and nothing is lost."""
    calendars = {"sundays": {"timezone": "America/New_York", "days": ["sun"]}}
    house = make_house(model=policy(calendars=["sundays"]), calendars=calendars)
    go_to(house, 7, 6)
    hear(house)
    go_to(house, 7, 12)
    hear(house)

    assert last(house) == ("HOLD", "calendars")
    assert house.decisions()[-1].until == datetime(2024, 1, 8, 5, tzinfo=UTC)

    go_to(house, 8, 5)

    assert len(house.causes(house.run())) == 2


def test_a_promotion_waits_for_the_calendar(make_house: MakeHouse) -> None:
    """A challenger that passes on a closed day waits, is told of, and is promoted when the day is over."""
    house = make_house(model={"hold_promotion": {"calendars": ["sundays"], **NIGHT}}, calendars=SUNDAYS)
    go_to(house, 7, 12)
    hear(house)
    end(house)
    run = house.run()

    assert (run.state, run.cause) == ("AWAITING_APPROVAL", "held")
    assert "closed by calendar 'sundays' (UTC), until 2024-01-08 06:00:00Z" in run.reason
    assert house.mail() == ["held"]

    go_to(house, 8, 5)
    assert house.run().state == "AWAITING_APPROVAL"

    go_to(house, 8, 6)
    assert house.run().state == "PROMOTED"
    assert house.path(run.id)[-3:] == ["AWAITING_APPROVAL", "PROMOTING", "PROMOTED"]


def test_a_person_promotes_on_a_closed_day(make_house: MakeHouse) -> None:
    """Whoever approves knows what day it is."""
    house = make_house(model={"hold_promotion": {"calendars": ["sundays"]}}, calendars=SUNDAYS)
    go_to(house, 7, 12)
    hear(house)
    end(house)
    house.desk.approve(house.run().id, who="ann", reason="it must be today")
    house.settle()

    assert house.run().state == "PROMOTED"


def test_a_freeze_that_is_lifted_lets_promotions_go(make_house: MakeHouse) -> None:
    """A promotion waits by the configuration in force, not by the one that its run was decided under."""
    freeze = {"freeze": {"dates": ["2024-01-01..2024-03-01"]}}
    house = make_house(model={"hold_promotion": {"calendars": ["freeze"]}}, calendars=freeze)
    hear(house)
    end(house)
    assert house.run().state == "AWAITING_APPROVAL"

    house.write(calendars={"freeze": {"dates": ["2024-02-01..2024-03-01"]}})
    house.desk.reload(who="ann")
    house.settle()

    assert house.run().state == "PROMOTED"


def test_a_changed_calendar_is_another_version_of_the_policy(make_house: MakeHouse) -> None:
    """What it holds is asked again at once."""
    house = make_house(model=policy(calendars=["sundays"]), calendars=SUNDAYS)
    go_to(house, 7, 12)
    hear(house)
    before = house.decisions()[-1]
    house.write(calendars={"sundays": {"days": ["sat"]}})
    house.desk.reload(who="ann")
    house.settle()

    assert last(house) == ("FIRE", "fire")
    assert house.decisions()[-1].policy_version != before.policy_version


def test_a_night_of_downtime(make_house: MakeHouse) -> None:
    """What was due while nobody was there is decided at the start, and the trace says how late."""
    house = make_house(model=policy(debounce={"quiet": "5m"}))
    hear(house)
    house.clock.advance(9 * HOUR)
    house.restart()
    house.settle()

    assert states(house) == ["TRAINING"]
    assert "8h55m" in str([line["reason"] for line in house.decisions()[-1].trace])


@pytest.mark.parametrize("jump, started", [(-DAY, False), (timedelta(minutes=4, seconds=59), False), (DAY, True)])
def test_the_clock_jumps(make_house: MakeHouse, jump: timedelta, started: bool) -> None:
    """Set back, what is held waits for its instant; set forward, it is due. Either way it is not lost."""
    house = make_house(model=policy(debounce={"quiet": "5m"}))
    hear(house)
    house.clock.set_now(house.now + jump)
    house.settle()

    assert bool(house.runs()) is started

    house.advance(DAY + HOUR)

    assert len(house.runs()) == 1


# ------------------------------------------------------------------------------------------- jitter, priority, mode


def test_a_run_starts_after_its_share_of_the_jitter(make_house: MakeHouse) -> None:
    """Decided at once, and started 0.882 of an hour later, which is what the name says."""
    house = make_house(model=policy(jitter="1h"))
    hear(house)
    run = house.run()

    assert (run.state, run.reason) == ("QUEUED", "starts at 2024-01-01 00:52:55Z, by the jitter of its policy")
    assert run.not_before is not None
    assert round((run.not_before - run.decided_at) / HOUR, 3) == 0.882

    house.advance(run.not_before - house.now - timedelta(seconds=1))
    assert states(house) == ["QUEUED"]

    house.advance(1)
    assert states(house) == ["TRAINING"]
    assert house.run().reason == ""


def test_a_press_does_not_wait_for_the_jitter_of_the_run_that_it_joins(make_house: MakeHouse) -> None:
    """The run starts as soon as the most pressing of those that it is for."""
    house = make_house(model=policy(jitter="1h"))
    hear(house)
    house.retrain()
    house.settle()

    assert states(house) == ["TRAINING"]
    assert len(house.causes(house.run())) == 2


def test_the_run_with_the_higher_priority_goes_first(make_house: MakeHouse) -> None:
    """Of the runs that wait for the same launcher, whichever came first."""
    models = {
        name: PLAIN_CHURN | {"policies": {"p": {"on": {"type": "go"}, "priority": priority}}}
        for name, priority in (("churn", 0), ("first", 10), ("last", -10), ("second", 5))
    }
    house = make_house(models=models, launchers={"scripted": {"slots": 1}})
    house.send("go")
    house.settle()
    order = []
    for _ in models:
        order.append(house.world.jobs[house.world.starts[-1]].order.model)
        end_of = house.world.jobs[house.world.starts[-1]]
        end_of.state, end_of.reason, end_of.exit_code = "failed", "exit code 1", 1
        for changed in end_of.watchers:
            changed()
        house.settle()
        if len(order) < len(models):
            assert len(house.world.starts) == len(order) + 1

    assert order == ["first", "second", "churn", "last"]


def test_a_policy_that_observes_starts_nothing(make_house: MakeHouse) -> None:
    """It says that it would have fired, with the whole chain before it; turned live, it fires."""
    house = make_house(model=policy(mode="observe", priority=3))
    hear(house)
    row = house.decisions()[-1]

    assert house.runs() == []
    assert (row.kind, row.stage) == ("SKIP", "mode")
    assert "would have fired" in row.reason

    house.write(model={"policies": {"drift": {"mode": "live"}}})
    house.desk.reload(who="ann")
    hear(house)

    assert (states(house), house.run().priority) == (["TRAINING"], 3)


def test_a_policy_that_is_off_is_not_asked(make_house: MakeHouse) -> None:
    """No decision, no counter, no timer; a level is not looked at either."""
    off = {"on": {"max_age": "30d"}, "mode": "off"}
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift"}, "mode": "off"}, "stale": off}})
    hear(house)
    house.settle()
    heard = house.events()
    house.advance(60 * DAY)

    assert house.decisions() == []
    assert house.tally("match") == 0
    assert [event.state for event in heard] == ["PROCESSED"]


def test_what_a_policy_held_is_let_go_when_it_is_switched_off(make_house: MakeHouse) -> None:
    """With a decision that says so."""
    house = make_house(model=policy(debounce={"quiet": "5m"}))
    hear(house)
    house.write(model={"policies": {"drift": {"mode": "off"}}})
    house.desk.reload(who="ann")
    house.settle()
    house.advance(DAY)

    assert house.runs() == []
    assert house.decisions()[-1].reason == "policy switched off, 1 held causes are let go"


# ----------------------------------------------------------------------------------------------------------- ready


def test_rows_add_up_until_there_are_enough(make_house: MakeHouse) -> None:
    """Each event brings some, and all of them are causes of the run."""
    house = make_house(model=policy(ready={"new_rows": 100, "label_delay": "1h"}))
    for _ in range(3):
        house.send(data={"rows": 40})
        house.settle()
        house.advance(60)

    assert [(row.stage, row.waits_for) for row in house.decisions()] == [
        ("ready", "rows"), ("ready", "rows"), ("ready", None)
    ]  # fmt: skip

    house.advance(HOUR)

    assert len(house.causes(house.run())) == 3


def test_an_open_episode_holds_until_it_is_over(make_house: MakeHouse) -> None:
    """Resolved, or given up after a day without a sign of life."""
    house = make_house(model=policy(ready={"unless_open": {"type": "incident.*"}}))
    marks = {"episode": "feed", "episodestate": "firing"}
    house.send("incident.feed", extensions=marks)
    house.settle()
    hear(house)

    assert last(house) == ("HOLD", "ready")
    assert "an episode is open: incident.feed from api" in house.decisions()[-1].reason

    house.send("incident.feed", extensions={**marks, "episodestate": "resolved"})
    house.settle()

    assert states(house) == ["TRAINING"]

    end(house)
    house.send("incident.feed", extensions={**marks, "episode": "feed-2"})
    house.settle()
    hear(house)
    assert len(house.runs()) == 1

    house.advance(DAY + HOUR)
    assert len(house.runs()) == 2
