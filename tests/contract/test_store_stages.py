"""Which facts the store tells the stages behind the calendars: what was spent, what did not help, what lies behind an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.model import EMITTED_BY, Run
from controller.core.policy import Breaker, Budget
from controller.core.result import Result
from controller.store import Store, schema
from controller.testing import ManualClock
from tests.contract.store_rows import add_run
from tests.factories import (
    NOON,
    at,
    make_attempt,
    make_cause,
    make_event,
    make_policy,
    make_run,
    make_state,
)

DAY = timedelta(days=1)


def tell(store: Store, policy: Any, key: str = "", **asked: Any) -> Any:
    with store.reading() as tx:
        return tx.policies.facts(policy, key, champion=None, labels={}, pauses=(), **asked)


def budget(scope: str = "model", *, runs: int | None = 10, cost: float | None = None) -> Budget:
    return Budget(runs=runs, cost=cost, per=DAY, scope=scope)


def launch(store: Store, run: Run, *, handle: Any = None, cause: str = "launched") -> None:
    """Give a run a job with one attempt, which the launcher answered with a handle, or not."""
    with store.transaction("test") as tx:
        job = tx.runs.add_job(run, "a", {})
        tx.runs.add_attempt(make_attempt(id=f"att-{run.id}", job_id=job.id, handle=handle))
        tx.runs.move_job(job, "LAUNCHING", cause="launching", attempt=1)
    with store.transaction("test") as tx:
        job = tx.runs.jobs(run.id)[0]
        if cause == "resolved":
            tx.runs.move_job(job, "UNKNOWN", cause="launch_unknown")
            tx.runs.move_job(tx.runs.jobs(run.id)[0], "FAILED", cause="resolved")
        else:
            tx.runs.move_job(job, "RUNNING" if handle else "FAILED", cause="launched" if handle else "launch_failed")


# ---------------------------------------------------------------------------------------------------------- budget


def test_what_was_spent_is_in_the_window(store: Store) -> None:
    """The newest of (now - per, now], oldest first, with what each costs; other models do not count."""
    for number, minute in enumerate((-1441, -1440, -1439, -60, 0), start=1):
        add_run(store, number, decided_at=at(minutes=minute), cost=float(number), key=str(number))
    add_run(store, 9, model="other", decided_at=NOON)

    told = tell(store, make_policy(budget=budget()))

    assert told.spent == [(at(minutes=-1439), 3.0), (at(minutes=-60), 4.0), (NOON, 5.0)]
    assert tell(store, make_policy(budget=budget(runs=2))).spent == told.spent[1:]
    assert tell(store, make_policy()).spent == ()


@pytest.mark.parametrize(
    "scope, sharing, expected",
    [("model", None, ["churn"]), ("label:team", ["churn", "b"], ["churn", "b"]), ("all", None, ["churn", "b", "c"])],
)
def test_whose_runs_count(store: Store, scope: str, sharing: list[str] | None, expected: list[str]) -> None:
    """Those of the model, of the models with the same value of a label, or of all."""
    for number, model in enumerate(("churn", "b", "c"), start=1):
        add_run(store, number, model=model, decided_at=at(minutes=-number), cost=float(number))
    costs = {"churn": 1.0, "b": 2.0, "c": 3.0}

    told = tell(store, make_policy(budget=budget(scope)), sharing=sharing)

    assert sorted(cost for _, cost in told.spent) == sorted(costs[model] for model in expected)


def test_a_dear_run_counts_behind_any_number_of_cheap_ones(store: Store) -> None:
    """Cheap runs do not push a dear one out of a budget of cost units; what cost nothing is no part of it."""
    dear, cheap = add_run(store, 1, decided_at=at(minutes=-60), cost=90.0), 10_001
    fields = {name: getattr(dear, name) for name in dear.__dataclass_fields__}
    with store.transaction("test") as tx:
        rows = [
            {**fields, "id": f"run-{number}", "decision_id": f"dec-{number}", "decided_at": NOON, "cost": cost}
            for number, cost in enumerate([0.0] + [0.0001] * cheap)
        ]
        tx.execute(sa.insert(schema.run), rows)

    spent = tell(store, make_policy(budget=budget(runs=None, cost=100.0))).spent

    assert spent[0] == (at(minutes=-60), 90.0)
    assert len(spent) == 1 + cheap
    assert all(cost > 0 for _, cost in spent)


LAUNCHES: dict[str, tuple[dict[str, Any] | None, bool]] = {
    "never dispatched": (None, False),
    "the launcher refused": ({}, False),
    "launched": ({"handle": {"pid": 1}}, True),
    "nobody knows, and a person said that it failed": ({"cause": "resolved"}, True),
}


@pytest.mark.parametrize("how, counts", LAUNCHES.values(), ids=LAUNCHES)
def test_a_run_that_ended_without_having_been_launched_is_given_back(
    store: Store, how: dict[str, Any] | None, counts: bool
) -> None:
    """While it goes on it counts; ended, only if something of it was launched, or may have been."""
    run = add_run(store, 1, decided_at=NOON)
    policy = make_policy(budget=budget())
    if how is not None:
        with store.transaction("test") as tx:
            tx.runs.move(run, "TRAINING", cause="dispatched", started_at=NOON)
        launch(store, run, **how)
    before = len(tell(store, policy).spent)
    with store.transaction("test") as tx:
        fresh = tx.runs.get(run.id)
        assert fresh is not None
        tx.runs.move(fresh, "CANCELLED", cause="cancelled")

    assert before == 1
    assert len(tell(store, policy).spent) == counts


def test_results_correct_what_a_run_costs(store: Store) -> None:
    """It counts for the sum of what its jobs say; those that say nothing change nothing."""
    run = add_run(store, 1, cost=5.0)
    with store.transaction("test") as tx:
        jobs = [tx.runs.add_job(run, name, {}) for name in "abc"]
        tx.runs.add_result(jobs[0].id, Result(metrics={"auc": 0.5}), "d")
    costs = []
    for job, cost in zip(jobs[1:], (2.5, 0.25), strict=True):
        with store.transaction("test") as tx:
            tx.runs.add_result(job.id, Result(metrics={"auc": 0.5}, cost=cost), "d")
            costs.append(tx.runs.get(run.id))

    assert [run.cost for run in costs if run is not None] == [2.5, 2.75]


def test_what_a_budget_holds_is_asked_again_when_it_may_have_room(store: Store) -> None:
    """A run that ended badly, or a result with its cost, may make room; nothing else that waits for an instant is touched."""
    policy = make_policy()
    run = add_run(store, 1)
    with store.transaction("test") as tx:
        for key, stage in (("a", "budget"), ("b", "debounce")):
            tx.policies.save_state(policy, key, make_state(policy, stage=stage, due_at=at(hours=1), held_count=1))
        tx.runs.move(run, "CANCELLED", cause="cancelled")

    with store.reading() as tx:
        due = [tx.policies.state("churn", "drift", key) for key in "ab"]
    assert [state.due_at for state in due if state is not None] == [NOON, at(hours=1)]


# -------------------------------------------------------------------------------------------------------- the breaker


def end(store: Store, number: int, state: str, **fields: Any) -> None:
    """Write a run that ended at its number's minute."""
    row = make_run(number, state=state, finished_at=at(minutes=number), **fields)
    with store.transaction("test") as tx:
        tx.runs.add(row)


TELLING: dict[str, tuple[list[tuple[str, str | None]], list[int]]] = {
    # (final state, outcome) of the runs, oldest first; numbers of those that did not help, newest first
    "none": ([], []),
    "what fails": ([("REJECTED", None), ("FAILED", None), ("TIMED_OUT", None)], [3, 2, 1]),
    "what was called off says nothing": ([("FAILED", None), ("CANCELLED", None), ("SUPERSEDED", None)], [1]),
    "nothing to promote says nothing": ([("FAILED", None), ("SUCCEEDED", None)], [1]),
    "promoted, and nobody knows": ([("FAILED", None), ("PROMOTED", None), ("PROMOTED", "UNKNOWN")], [1]),
    "promoted, and not cured": ([("PROMOTED", "NOT_CURED"), ("PROMOTED", "WORSE")], [2, 1]),
    "cured ends the row": ([("FAILED", None), ("PROMOTED", "CURED"), ("REJECTED", None)], [3]),
    "cured last": ([("FAILED", None), ("PROMOTED", "CURED")], []),
}


@pytest.mark.parametrize("runs, expected", TELLING.values(), ids=TELLING)
def test_what_did_not_help(store: Store, runs: list[tuple[str, str | None]], expected: list[int]) -> None:
    """The runs of this policy and key since one that helped."""
    for number, (state, outcome) in enumerate(runs, start=1):
        end(store, number, state, outcome=outcome)
    end(store, 50, "FAILED", key="eu")
    end(store, 51, "FAILED", policy="nightly")
    end(store, 52, "FAILED", model="other")
    add_run(store, 60, state="TRAINING")

    told = tell(store, make_policy(breaker=Breaker(after=2)))

    assert list(told.unhelpful) == [f"run-{number:016d}" for number in expected]
    assert tell(store, make_policy()).unhelpful == ()


def test_what_was_rolled_back_did_not_help(store: Store) -> None:
    """Whatever was said of it before."""
    for number in (1, 2):
        end(store, number, "PROMOTED", outcome="CURED")
    with store.transaction("test") as tx:
        version = tx.models.add_version(
            "churn", artifact="m", artifact_digest=None, metrics={}, lineage={}, run_id="run-0000000000000002"
        )
        tx.models.move_version(version, "CHAMPION", cause="promoted")
    with store.transaction("test") as tx:
        champion = tx.models.version(version.id)
        assert champion is not None
        tx.models.move_version(champion, "ROLLED_BACK", cause="rolled_back")

    assert tell(store, make_policy(breaker=Breaker(after=2))).unhelpful == ["run-0000000000000002"]


@pytest.mark.parametrize(
    "target, verb, counted",
    [("churn/drift", "resume", []), ("churn/drift", "pause", [1]), ("churn", "resume", [1]), ("", "resume", [1])],
)
def test_a_person_resumes_exactly_this_policy(
    store: Store, clock: ManualClock, target: str, verb: str, counted: list[int]
) -> None:
    """To lift another pause is not to say that the cause is mended."""
    end(store, 1, "FAILED")
    clock.set_now(at(minutes=5))
    with store.transaction("test") as tx:
        tx.people.add_act(actor="ann", verb=verb, target=target, reason="", details={}, response={})
    breaker = make_policy(breaker=Breaker(after=1))

    assert list(tell(store, breaker).unhelpful) == [f"run-{number:016d}" for number in counted]

    end(store, 6, "FAILED")
    assert tell(store, breaker).unhelpful[0] == "run-0000000000000006"


def test_a_breaker_is_told_once(store: Store) -> None:
    """For each key and each run that opened it."""
    with store.transaction("test") as tx:
        told = [
            tx.policies.open_breaker("churn", "drift", key, opened_by=run)
            for key, run in (("", "run-1"), ("", "run-1"), ("eu", "run-1"), ("", "run-2"), ("", "run-1"))
        ]

    assert told == [True, False, True, True, False]


# ------------------------------------------------------------------------------------------------------------ loop


def test_what_lies_behind_an_event(store: Store) -> None:
    """The runs behind the event that drives it, or behind the one of all that are held which has the fewest."""
    add_run(store, 1, depth=0)
    add_run(store, 2, depth=4, model="other", key="x")
    policy = make_policy()
    own, deep = (make_event(extensions={EMITTED_BY: f"run-{number:016d}"}) for number in (1, 2))

    def behind(**asked: Any) -> tuple[int, str | None]:
        told = tell(store, policy, **asked)
        return told.depth, told.own_run

    def hold(number: int, emitted_by: str | None) -> None:
        with store.transaction("test") as tx:
            tx.policies.collect("churn", "drift", "", make_cause(number, emitted_by=emitted_by))

    assert behind(event=make_event()) == (0, None)
    assert behind(event=own) == (1, "run-0000000000000001")
    assert behind(event=deep) == (5, None)
    assert behind() == (0, None)

    hold(1, "run-0000000000000002")
    assert behind(held=1) == (5, None)
    assert behind(event=own, held=1) == (1, None)

    hold(2, None)
    assert behind(held=2) == (0, None)
    assert behind(event=own, held=2) == (0, None)


def test_causes_remember_who_emitted_them(store: Store) -> None:
    """While they are held, and as causes of a run."""
    cause = make_cause(1, emitted_by="run-7")
    run = add_run(store, 1)
    with store.transaction("test") as tx:
        tx.policies.collect("churn", "drift", "", cause)
        held = tx.policies.collected("churn", "drift", "")
        tx.runs.add_causes(run.id, "dec-1", held, joins=False)
        known = tx.runs.causes(run.id)

    assert held == known == [cause]
