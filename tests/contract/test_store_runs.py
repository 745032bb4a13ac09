"""What the store promises of runs, their jobs, attempts and results, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import pytest

from controller.errors import Conflict
from controller.store import Store
from controller.testing import ManualClock
from tests.contract.store_rows import add_run, finish, history
from tests.factories import at, make_attempt, make_cause, make_result, make_run


def test_two_runs_of_one_decision_are_impossible(store: Store) -> None:
    """Uniqueness lives in the database, and reads as a conflict."""
    add_run(store, 1)
    with pytest.raises(Conflict, match="somebody else was faster"):
        add_run(store, 2, decision_id=make_run(1).decision_id)


def test_a_run_has_each_event_as_a_cause_once(store: Store) -> None:
    """Causes keep the order in which they were learned; merging the same event again changes nothing."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.add_causes(run.id, "dec-1", [make_cause(2), make_cause(None, type="timer.max_age")], joins=False)
        tx.runs.add_causes(run.id, "dec-2", [make_cause(2), make_cause(1)], joins=True)
        tx.runs.add_causes(run.id, "dec-3", [], joins=True)
        causes = tx.runs.causes(run.id)

    assert causes == [make_cause(2), make_cause(None, type="timer.max_age"), make_cause(1)]


def test_jobs_attempts_and_results_hang_on_a_run(store: Store, clock: ManualClock) -> None:
    """A job per candidate, an attempt per try, one result; what launchers have is found with its run."""
    run = add_run(store, state="TRAINING")
    with store.transaction("test") as tx:
        jobs = [tx.runs.add_job(run, name, {"depth": 3}) for name in ("boosting", "linear")]
        tx.runs.move_job(jobs[0], "LAUNCHING", cause="launching", attempt=1)
        attempt = make_attempt(id=tx.runs.new_attempt_id(), job_id=jobs[0].id, handle=None)
        tx.runs.add_attempt(attempt)
        tx.runs.set_handle(attempt.id, {"pid": 7})
        launching = tx.runs.get_job(jobs[0].id)
        assert launching is not None
        tx.runs.move_job(launching, "RUNNING", cause="launched", due_at=at(minutes=9))
    with store.reading() as tx:
        (watched,) = tx.runs.watched()
        assert [job.candidate for job in tx.runs.jobs(run.id)] == ["boosting", "linear"]
        assert [job.candidate for job in tx.runs.open_jobs("PENDING")] == ["linear"]
        assert tx.runs.on_launchers() == {"process": 1}
        assert tx.runs.next_due_job() == at(minutes=9)
        assert tx.runs.attempt(jobs[1]) is None
        assert tx.runs.attempt(watched[0]) == watched[1]
        assert tx.runs.attempts(jobs[0].id) == [watched[1]]

    assert (watched[0].state, watched[1].handle, watched[2]) == ("RUNNING", {"pid": 7}, run)
    assert [line[1] for line in history(store, jobs[0].id)] == ["PENDING", "LAUNCHING", "RUNNING"]


def test_an_attempt_has_its_number_once(store: Store) -> None:
    """Two launches of the same attempt cannot both be intended."""
    with store.transaction("test") as tx:
        tx.runs.add_attempt(make_attempt())
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.runs.add_attempt(make_attempt(id="att-2"))


def test_a_result_is_written_once(store: Store) -> None:
    """The first valid result stays, whatever comes after it."""
    run = add_run(store)
    with store.transaction("test") as tx:
        job = tx.runs.add_job(run, "boosting", {})
        tx.runs.add_result(job.id, make_result(0.8, champion=0.7), "d1")
        tx.runs.add_result(job.id, make_result(0.1), "d2")
        results = tx.runs.results(run.id)

    assert results == {job.id: make_result(0.8, champion=0.7)}


def test_open_runs_are_found_by_state(store: Store) -> None:
    """The oldest first; a run that ended is not open."""
    runs = [add_run(store, number) for number in (1, 2, 3)]
    finish(store, runs[1])
    with store.reading() as tx:
        assert [run.id for run in tx.runs.in_state("QUEUED", "TRAINING")] == [runs[0].id, runs[2].id]
        assert tx.runs.get("run-none") is None
