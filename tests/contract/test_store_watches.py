"""What the store promises of watches and of policies' statistics, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from controller.core.model import Promotion, Run
from controller.core.watch import Signal, Watching, signal_of
from controller.errors import Conflict
from controller.store import Store
from controller.store.statistics import policy_statistics, watch_of
from controller.testing import ManualClock
from tests.contract.store_rows import add_run, history
from tests.factories import (
    NOON,
    at,
    make_attempt,
    make_cause,
    make_decision,
    make_episode,
    make_new_event,
    make_run,
)

SIGNAL = Signal(episodes=("epi-1",), kinds=(("alert", None),), levels=(("drift", "eu"),), asked_by="alert")


def open_watch(store: Store, run: Run, clock: ManualClock) -> Watching:
    """Open a watch of a day after the promotion of a run."""
    with store.transaction("test") as tx:
        model = tx.models.ensure(run.model)
        promotion = Promotion(
            id=f"pro-{run.id}",
            model=run.model,
            version_id="ver-1",
            previous_id=None,
            run_id=run.id,
            kind="promoted",
            state="APPLIED",
            cause="applied",
            epoch=model.epoch,
            actor="controller",
            reason="",
            created_at=clock.now(),
            finished_at=clock.now(),
        )
        until = clock.now() + timedelta(days=1)
        watch_id = tx.watches.add(run, promotion, SIGNAL, until=until, rolls_back=True, needed=2)
        found = tx.watches.lock(watch_id)
    assert found is not None
    return found


def test_a_watch_is_kept_as_it_was_opened(store: Store, clock: ManualClock) -> None:
    """It is due at once, knows its run, its epoch and its signal, and its birth is in the history."""
    run = add_run(store, policy="drift", key="eu")
    watching = open_watch(store, run, clock)
    with store.reading() as tx:
        opened = tx.watches.open()
        of_run = tx.watches.of_run(run.id)
        due = tx.watches.due(NOON, 10)
        next_look = tx.watches.next_look()

    assert opened == [watching] == [of_run]
    assert (watching.state, watching.epoch, watching.policy, watching.key) == ("OPEN", 1, "drift", "eu")
    assert signal_of(watching.signal) == SIGNAL
    assert (due, next_look) == ([watching.id], NOON)
    assert history(store, watching.id) == [("", "OPEN", "promoted", "", "controller", 1)]


def test_a_run_is_watched_once(store: Store, clock: ManualClock) -> None:
    """The database refuses a second watch of a run."""
    run = add_run(store)
    open_watch(store, run, clock)

    with pytest.raises(Conflict):
        open_watch(store, run, clock)


def test_the_outcome_is_written_on_the_run_too(store: Store, clock: ManualClock) -> None:
    """One transition, once: state, cause, reason, finish time, history; and the run's own outcome."""
    run = add_run(store)
    watching = open_watch(store, run, clock)
    clock.advance(60)
    with store.transaction("test") as tx:
        tx.watches.end(watching, "WORSE", cause="worse", reason="alert.slo", rollback_id="pro-9")
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.watches.end(watching, "UNKNOWN", cause="replaced", reason="too late")
    with store.reading() as tx:
        ended, by_rollback, fresh = tx.watches.of_run(run.id), tx.watches.of_rollback("pro-9"), tx.runs.get(run.id)
        shape = watch_of(tx, run.id)

    assert ended is not None
    assert (ended.state, ended.reason, ended.finished_at) == ("WORSE", "alert.slo", at(seconds=60))
    assert by_rollback == ended
    assert fresh is not None
    assert (fresh.outcome, fresh.outcome_reason) == ("WORSE", "alert.slo")
    assert shape is not None
    assert (shape["rollback_id"], shape["rollback_state"]) == ("pro-9", None)


def test_what_is_over_is_left_alone(store: Store, clock: ManualClock) -> None:
    """A watch that ended is neither open nor due, is not woken and takes no more samples."""
    run = add_run(store)
    watching = open_watch(store, run, clock)
    with store.transaction("test") as tx:
        tx.watches.end(watching, "UNKNOWN", cause="replaced", reason="v2 took over")
        tx.watches.set(watching.id, samples=7)
        tx.watches.wake(run.model)
    with store.reading() as tx:
        after = tx.watches.of_run(run.id)

        assert (tx.watches.open(), tx.watches.due(at(days=9), 10), tx.watches.next_look()) == ([], [], None)
    assert after is not None
    assert after.samples == 0


def test_waking_is_for_one_model(store: Store, clock: ManualClock) -> None:
    """Its watches are looked at now, those of others when it was said."""
    mine = open_watch(store, add_run(store, 1), clock)
    other = open_watch(store, add_run(store, 2, model="other"), clock)
    with store.transaction("test") as tx:
        for each in (mine, other):
            tx.watches.set(each.id, look_at=at(hours=5))
    clock.advance(60)
    with store.transaction("test") as tx:
        tx.watches.wake("churn")
        due = tx.watches.due(clock.now(), 10)

    assert due == [mine.id]


def test_what_a_signal_is_made_of(store: Store, clock: ManualClock) -> None:
    """The causes with their marks but without their data, who asked, and the open alerts of a kind."""
    run = add_run(store)
    with store.transaction("test") as tx:
        receipt = tx.events.add("api", [make_new_event(data={"large": 1}, extensions={"episode": "k"})])[0]
        tx.runs.add_causes(run.id, "dec-1", [make_cause(None), make_cause(event_id=receipt.event_id)], joins=False)
        tx.policies.add_decision(make_decision(key="eu"), seq=1, event_id=None, run_id=run.id)
        tx.policies.add_decision(make_decision(policy="slow"), seq=2, event_id=None, run_id=run.id)
        tx.policies.add_decision(make_decision(policy="slow"), seq=3, event_id=None, run_id=run.id)
        tx.policies.add_decision(make_decision(policy="held", kind="HOLD"), seq=4, event_id=None, run_id=run.id)
        tx.episodes.begin(
            [
                make_episode(1, key="k", type="a", subject="eu"),
                make_episode(2, key="l", type="a"),
                make_episode(3, key="m", type="a", subject="eu", state="RESOLVED", finished_at=NOON),
            ]
        )
    with store.reading() as tx:
        (cause,) = tx.watches.causes(run.id, 10)

        assert (cause.id, cause.data, cause.extensions) == (receipt.event_id, None, {"episode": "k"})
        assert tx.watches.asked_by(run.id) == [("drift", "eu"), ("slow", "")]
        assert [each.id for each in tx.watches.open_episodes_of("a", "eu", 10)] == ["epi-1"]
        assert [each.id for each in tx.watches.open_episodes_of("a", None, 10)] == ["epi-2"]
        assert [each.id for each in tx.watches.episodes(["epi-3", "epi-1"])] == ["epi-1", "epi-3"]
        assert tx.watches.episodes([]) == []


@pytest.mark.parametrize("target", ["", "churn", "churn/drift"])
def test_presses_that_count(store: Store, clock: ManualClock, target: str) -> None:
    """A pause or resume of everything, of the model or of the policy that asked; only since the promotion, and the first one."""
    run = add_run(store, policy="drift")
    with store.transaction("test") as tx:
        tx.people.add_act(actor="old", verb="pause", target=target, reason="", details={}, response=None)
    clock.advance(60)
    watching = open_watch(store, run, clock)
    for actor, verb, at_what in (
        ("retrainer", "retrain", "churn"),
        ("elsewhere", "pause", "other"),
        ("another", "resume", "churn/other"),
        ("ann", "resume", target),
        ("bob", "pause", target),
    ):
        with store.transaction("test") as tx:
            tx.people.add_act(actor=actor, verb=verb, target=at_what, reason="", details={}, response=None)
    with store.reading() as tx:
        press = tx.watches.pressed(watching)

    assert press is not None
    assert (press["actor"], press["verb"]) == ("ann", "resume")


def test_statistics_count_rows(store: Store, clock: ManualClock) -> None:
    """Runs by end and outcome, decisions by policy, hours of training and those that were wasted; since an instant, and of one model."""
    ends = [
        ("PROMOTED", "CURED"),
        ("PROMOTED", "NOT_CURED"),
        ("PROMOTED", "WORSE"),
        ("PROMOTED", None),
        ("REJECTED", None),
        ("TIMED_OUT", None),
        ("SUCCEEDED", None),
        ("CANCELLED", None),
        ("TRAINING", None),
    ]
    for number, (state, outcome) in enumerate(ends, start=1):
        finished_at = None if state == "TRAINING" else at(hours=9)
        run = make_run(number, state=state, outcome=outcome, finished_at=finished_at, decided_at=at(hours=number))
        with store.transaction("test") as tx:
            tx.runs.add(run)
            job = tx.runs.add_job(run, "a", {})
            tx.runs.add_attempt(
                make_attempt(
                    id=f"att-{number}",
                    job_id=job.id,
                    launched_at=NOON,
                    started_at=at(minutes=30),
                    finished_at=None if state == "TRAINING" else at(minutes=90),
                )
            )
    with store.transaction("test") as tx:
        for seq in (1, 2):
            tx.policies.add_decision(make_decision(), seq=seq, event_id=None, run_id=None)
        tx.policies.add_decision(make_decision(model="other"), seq=3, event_id=None, run_id=None)
        tx.policies.add_decision(make_decision(kind="HOLD"), seq=4, event_id=None, run_id=None)
    with store.reading() as tx:
        both = policy_statistics(tx, {}, model=None, since=None)
        (row,) = policy_statistics(tx, {}, model="churn", since=None)
        (late,) = policy_statistics(tx, {}, model="churn", since=at(hours=5))

    assert [each["model"] for each in both] == ["churn", "other"]
    assert row == {
        "model": "churn", "policy": "drift", "mode": None, "fired": 2, "last_fired_at": "2024-03-05T12:00:00Z",
        "runs": 9, "promoted": 4, "succeeded": 1, "rejected": 1, "failed": 1, "dropped": 1, "going": 1,
        "cured": 1, "not_cured": 1, "worse": 1, "unknown": 0, "training_hours": 8.0, "wasted_hours": 5.0,
    }  # fmt: skip
    assert (late["fired"], late["runs"], late["promoted"], late["wasted_hours"]) == (0, 5, 0, 3.0)
