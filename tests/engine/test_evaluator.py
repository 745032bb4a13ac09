"""Decisions: in order, each seeing the effects of the one before, and none lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller.engine import evaluator as evaluator_module
from controller.engine import sitting as sitting_module
from controller.store import bulk, schema
from tests.engine.house import House

MakeHouse = Callable[..., House]


def states(house: House) -> list[str]:
    return [run.state for run in house.runs()]


# ------------------------------------------------------------------------------------------------ order


def test_a_batch_is_decided_in_the_order_of_arrival(house: House) -> None:
    """Events get consecutive places in the order of deciding, and are PROCESSED with it."""
    for number in range(5):
        house.send(id=str(number))

    ticked = house.evaluator.tick(house.now)

    assert ticked.worked == 5
    events = house.events()
    assert [event.source_id for event in events] == list("01234")
    assert [event.state for event in events] == ["PROCESSED"] * 5
    first = events[0].decided_seq
    assert first is not None
    assert [event.decided_seq for event in events] == list(range(first, first + 5))


def test_a_full_batch_asks_for_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch does not take, the next one does."""
    monkeypatch.setattr(evaluator_module, "BATCH", 2)
    for _ in range(3):
        house.send("nobody.cares")

    assert house.evaluator.tick(house.now).again
    assert not house.evaluator.tick(house.now).again
    assert {event.state for event in house.events()} == {"PROCESSED"}


def test_each_decision_sees_the_one_before(house: House) -> None:
    """Three events of one batch: the first makes a run, the others merge into it, because it is queued by then."""
    for _ in range(3):
        house.send()

    house.evaluator.tick(house.now)

    assert states(house) == ["QUEUED"]
    assert len(house.causes(house.run())) == 3
    assert [row.kind for row in house.decisions()] == ["FIRE"] * 3
    assert {row.run_id for row in house.decisions()} == {house.run().id}


def test_refusals_are_counted(make_house: MakeHouse) -> None:
    """An event that does not get past match or `when` is a number, not a row."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift", "when": "event.data.share > 0.3"}}}})
    house.send("other")
    for share in (0.1, 0.2, 0.5):
        house.send(data={"share": share})

    house.evaluator.tick(house.now)

    assert house.tally("when") == 2
    assert [row.kind for row in house.decisions()] == ["FIRE"]


def test_G04_an_expression_that_fails_is_an_error_decision(make_house: MakeHouse) -> None:
    """Never a silent false: the decision says what was missing, and the event is decided."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift", "when": "event.data.share > 0.3"}}}})
    house.send(data={"other": 1})

    house.evaluator.tick(house.now)

    (decision,) = house.decisions()
    assert decision.kind == "ERROR"
    assert "share" in decision.reason
    assert house.events()[0].state == "PROCESSED"


# ------------------------------------------------------------------------------------------- dead letters


def broken_state(house: House, key: str = "") -> None:
    """Make what a policy remembers unreadable, and due."""
    with house.store.transaction("spoil") as tx:
        tx.execute(
            sa.insert(schema.policy_state).values(
                model="churn",
                policy="drift",
                key=key,
                version="x",
                on_hash=house.runtime.config.models["churn"].policies["drift"].on_hash,
                slots={"debounce": "not what debounce wrote"},
                stage="debounce",
                held_since=None,
                held_count=0,
                due_at=house.now,
                waits_for=None,
                updated_at=house.now,
            )
        )


def test_G10_a_poison_event_is_a_dead_letter_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event that cannot be decided stops nobody, and is kept whole with the reason."""
    for number in range(5):
        house.send(id=str(number))
    real = sitting_module.event_scope

    def scope(event: Any, **more: Any) -> Any:
        if event.source_id == "2":
            raise RecursionError("a bug that only this event finds")
        return real(event, **more)

    monkeypatch.setattr(sitting_module, "event_scope", scope)
    house.settle()

    assert [event.state for event in house.events()] == ["PROCESSED", "PROCESSED", "DEAD", "PROCESSED", "PROCESSED"]
    dead = house.events()[2]
    assert "only this event" in (dead.error or "")
    assert house.path(dead.id) == ["DEAD"]
    assert sum(len(house.causes(run)) for run in house.runs()) == 4


def test_a_poison_timer_buries_no_event(make_house: MakeHouse) -> None:
    """A policy's state that cannot be decided is dropped; the events beside it are decided, not blamed."""
    house = make_house(model={"policies": {"drift": {"debounce": {"quiet": "1s"}}}})
    broken_state(house, key="poison")
    for number in range(3):
        house.send(id=str(number))

    house.settle()
    house.advance(1)

    assert {event.state for event in house.events()} == {"PROCESSED"}
    assert sum(len(house.causes(run)) for run in house.runs()) == 3
    with house.store.reading() as tx:
        assert tx.policies.state("churn", "drift", "poison") is None


# ------------------------------------------------------------------------------------------------ presses


def test_a_press_fires(house: House) -> None:
    """A person's press passes over the policies; the run knows who asked and with which parameters."""
    house.retrain(depth=3)

    house.evaluator.tick(house.now)

    run = house.run()
    assert (run.policy, run.actor, run.params) == ("manual", "ann", {"depth": 3})
    assert house.causes(run) == ["retrain.requested"]


def test_a_press_joins_what_is_queued(house: House) -> None:
    """It waits for the slot like any other; its parameters go with the run that it joins."""
    house.train()
    house.send()
    house.evaluator.tick(house.now)
    house.retrain(depth=3)
    house.evaluator.tick(house.now)

    assert states(house) == ["TRAINING", "QUEUED"]
    assert house.runs()[1].params == {"depth": 3}
    assert house.causes(house.runs()[1]) == ["drift", "retrain.requested"]


def test_a_press_for_a_model_that_is_gone(house: House) -> None:
    """What cannot be done is a decision with that reason, not a dead letter."""
    house.retrain()
    house.write(models={"churn": None, "other": house._plan["models"]["churn"]})
    house.restart()

    house.settle()

    (decision,) = house.decisions()
    assert (decision.kind, decision.model) == ("SKIP", "churn")
    assert "configured" in decision.reason


# -------------------------------------------------------------------------------------------- concurrency


def test_queue_keeps_one_waiting_run_per_key(make_house: MakeHouse) -> None:
    """While one trains, a second waits, and all that comes later merges into it."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift", "by": "event.subject"}}}})
    for subject in ("x", "x", "x", "y"):
        house.send(subject=subject)
        house.settle()

    assert [(run.key, run.state) for run in house.runs()] == [("x", "TRAINING"), ("x", "QUEUED"), ("y", "QUEUED")]
    assert len(house.causes(house.runs()[1])) == 2


def test_causes_freeze_when_the_run_is_dispatched(house: House) -> None:
    """A run that trains takes nothing in any more."""
    run = house.train()
    house.send()
    house.settle()

    assert len(house.causes(run)) == 1
    assert states(house) == ["TRAINING", "QUEUED"]


def test_forbid_skips(make_house: MakeHouse) -> None:
    """What arrives during a run is dropped, with that reason."""
    house = make_house(model={"train": {"concurrency": "forbid"}})
    house.train()
    house.send()
    house.settle()

    assert states(house) == ["TRAINING"]
    assert [(row.kind, row.stage) for row in house.decisions()][1:] == [("SKIP", "concurrency")]


def test_replace_stops_what_goes_on(make_house: MakeHouse) -> None:
    """The newer run takes the place of the one that trains, once its job is gone, and of one that is queued at once."""
    house = make_house(model={"train": {"concurrency": "replace"}})
    house.train()
    house.world.job("a").obeys_term = False
    house.send()
    house.settle()
    house.send()
    house.settle()
    assert states(house) == ["TRAINING", "SUPERSEDED", "QUEUED"]
    assert house.world.job("a").stops == ["term"]

    house.world.fail("a", code=143)
    house.settle()

    assert states(house) == ["SUPERSEDED", "SUPERSEDED", "TRAINING"]
    assert len(house.world.starts) == 2


def test_a_run_that_replaces_others_has_their_causes_too(make_house: MakeHouse) -> None:
    """What the replaced runs were asked for is asked of the one that takes their place: no event is lost."""
    house = make_house(model={"train": {"concurrency": "replace"}})
    for _ in range(3):
        house.send()
        house.settle()

    newest = house.runs()[-1]

    assert len(house.causes(newest)) == 3


def test_allow_runs_side_by_side(make_house: MakeHouse) -> None:
    """Each decision is a run, and they train together."""
    house = make_house(model={"train": {"concurrency": "allow"}})
    for _ in range(3):
        house.send()
        house.settle()

    assert states(house) == ["TRAINING"] * 3


# ------------------------------------------------------------------------------------------------- timers


def test_a_debounced_run_starts_when_it_is_quiet(make_house: MakeHouse) -> None:
    """The timer fires what was held, with all causes, and the tick says when that will be."""
    house = make_house(model={"policies": {"drift": {"debounce": {"quiet": "10s"}}}})
    house.send()
    house.settle()
    house.clock.advance(6)
    house.send()
    ticked = house.evaluator.tick(house.now)
    assert house.runs() == []
    assert ticked.next_at == house.now + timedelta(seconds=10)

    house.advance(9.9)
    assert house.runs() == []
    house.advance(0.1)

    assert len(house.causes(house.run())) == 2


def test_counting_collects_the_causes(make_house: MakeHouse) -> None:
    """The run's causes are the events of the window that made it, not those that left it."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift", "count": 2, "within": "1m"}}}})
    house.send(id="left")
    house.settle()
    house.advance(61)
    house.send(id="one")
    house.settle()
    assert house.runs() == []
    house.send(id="two")
    house.settle()

    with house.store.reading() as tx:
        causes = [cause.event_id for cause in tx.runs.causes(house.run().id)]
    assert [event.id for event in house.events() if event.source_id in ("one", "two")] == causes


def test_nothing_is_decided_while_paused_and_nothing_is_lost(house: House) -> None:
    """What arrives during a pause fires when a person resumes, with all its causes."""
    house.desk.pause("model", "churn", who="ann", reason="holidays")
    for _ in range(3):
        house.send()
        house.settle()
        house.advance(timedelta(days=1))
    assert house.runs() == []
    assert {row.kind for row in house.decisions()} == {"HOLD"}

    house.desk.resume("model", "churn", who="ann", reason="back")
    house.settle()

    assert len(house.causes(house.run())) == 3


@pytest.mark.parametrize("scope, target", [("all", ""), ("model", "churn"), ("policy", "churn/drift")])
def test_every_pause_can_be_lifted(house: House, scope: str, target: str) -> None:
    """Each scope of a pause holds, and its resume lets go."""
    house.desk.pause(scope, target, who="ann", reason="")
    house.send()
    house.settle()
    assert house.runs() == []

    house.desk.resume(scope, target, who="ann", reason="")
    house.settle()

    assert states(house) == ["TRAINING"]


# ------------------------------------------------------------------------------------------------ max_age


@pytest.fixture
def aging(make_house: MakeHouse) -> House:
    return make_house(
        model={"policies": {"stale": {"on": {"max_age": "10d", "again_after": "1d"}}}},
    )


def test_max_age_waits_for_a_champion(aging: House) -> None:
    """Without a champion it has no age, and nothing fires."""
    aging.settle()
    aging.advance(timedelta(days=30))

    assert aging.runs() == []


def test_max_age_fires_once_and_rearms(aging: House) -> None:
    """An old champion is retrained once; if it stays, again a day after that run ended; a new one starts its own age."""
    aging.champion(auc=0.7)
    aging.advance(timedelta(days=9, hours=23))
    assert len(aging.runs()) == 1
    aging.advance(timedelta(hours=1))
    assert [run.policy for run in aging.runs()] == ["drift", "stale"]
    assert aging.causes(aging.runs()[1]) == ["timer.max_age"]

    aging.advance(timedelta(minutes=30))
    assert len(aging.runs()) == 2, "the run it started goes on"
    aging.world.succeed("a", auc=0.6, champion_auc=0.7)
    aging.settle()
    assert aging.runs()[1].state == "REJECTED"
    aging.advance(timedelta(hours=23, minutes=59))
    assert len(aging.runs()) == 2
    aging.advance(timedelta(minutes=1))
    assert len(aging.runs()) == 3

    aging.world.succeed("a", auc=0.8, champion_auc=0.7)
    aging.settle()
    assert aging.runs()[2].state == "PROMOTED"
    aging.advance(timedelta(days=9, hours=23))
    assert len(aging.runs()) == 3
    aging.advance(timedelta(hours=1))
    assert len(aging.runs()) == 4


# ------------------------------------------------------------------------------- a changed configuration


def test_a_removed_policy_lets_go_of_what_it_held(make_house: MakeHouse) -> None:
    """The decision says so, and the causes are gone."""
    house = make_house(model={"policies": {"drift": {"debounce": {"quiet": "1h"}}}})
    house.send()
    house.settle()

    house.write(model={"policies": {"drift": None, "other": {"on": {"type": "other"}}}})
    house.desk.reload(who="ann")
    house.advance(timedelta(hours=2))

    assert house.runs() == []
    assert [(row.kind, row.stage) for row in house.decisions()] == [("HOLD", "debounce"), ("SKIP", "policy")]
    assert "removed" in house.decisions()[-1].reason


def test_a_changed_policy_goes_on_at_debounce_with_what_it_held(make_house: MakeHouse) -> None:
    """Another `on` starts the state anew, but what is held re-enters the new chain."""
    house = make_house(model={"policies": {"drift": {"debounce": {"quiet": "1h"}}}})
    house.send()
    house.settle()

    house.write(model={"policies": {"drift": {"on": {"type": "drift*"}, "debounce": {"quiet": "10s"}}}})
    house.desk.reload(who="ann")
    house.settle()
    assert house.runs() == []
    house.advance(10)

    assert len(house.causes(house.run())) == 1
    assert any("policy changed" in line["reason"] for row in house.decisions() for line in row.trace)


def test_the_same_on_keeps_its_window(make_house: MakeHouse) -> None:
    """A change elsewhere in the policy does not reset what was counted."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift", "count": 2, "within": "1h"}}}})
    house.send()
    house.settle()

    house.write(model={"policies": {"drift": {"cooldown": {"period": "1m"}}}})
    house.desk.reload(who="ann")
    house.send()
    house.settle()

    assert len(house.causes(house.run())) == 2


def test_max_age_rearms_when_its_run_was_another_policys(make_house: MakeHouse) -> None:
    """It fired into a run that was queued already; when that one ended without a new champion, it fires again."""
    house = make_house(
        model={
            "policies": {
                "drift": {"on": {"type": "drift"}},
                "stale": {"on": {"max_age": "10d", "again_after": "1d"}},
            },
            "train": {"timeout": "1d"},
        }
    )
    house.champion(auc=0.7)
    house.advance(timedelta(days=9, hours=23, minutes=59))
    house.send()
    house.settle()
    house.send()
    house.settle()
    house.advance(timedelta(minutes=1))
    assert [run.policy for run in house.runs()] == ["drift", "drift", "drift"]
    assert house.causes(house.runs()[2]) == ["drift", "timer.max_age"]
    for _ in range(2):
        house.world.succeed("a", auc=0.6, champion_auc=0.7)
        house.settle()
    assert [run.state for run in house.runs()] == ["PROMOTED", "REJECTED", "REJECTED"]

    house.advance(timedelta(days=1))

    assert [run.policy for run in house.runs()] == ["drift", "drift", "drift", "stale"]


def test_events_too_large_to_be_read_together_are_decided_in_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into memory at once waits for the next tick, which is asked for; none is passed over."""
    monkeypatch.setattr(bulk, "MOST_DATA", 150)
    for number in range(5):
        house.send(id=str(number), data={"share": 0.9, "padding": "x" * 40})
    worked = []

    again = True
    while again:
        ticked = house.evaluator.tick(house.now)
        again = ticked.again
        worked.append(ticked.worked)

    assert worked == [2, 2, 1]


def test_long_data_are_read_whole(house: House) -> None:
    """Data that are read one by one are those that were sent."""
    text = "é" * bulk.LONG_DATA
    house.send(data={"share": 0.9, "text": text})

    with house.store.reading() as tx:
        (event,) = tx.events.pending(10)

    assert event.data == {"share": 0.9, "text": text}
