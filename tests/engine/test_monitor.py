"""Jobs are watched to their end, whatever that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from controller.errors import Conflict, RetryLater
from tests.engine.house import House

MakeHouse = Callable[..., House]


# ---------------------------------------------------------------------------------------------- results


def test_success(house: House) -> None:
    """A job that ends with 0 and a valid result has SUCCEEDED, and its run goes on."""
    run = house.train()
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert house.job().state == "SUCCEEDED"
    with house.store.reading() as tx:
        (result,) = tx.runs.results(run.id).values()
        (attempt,) = tx.runs.attempts(house.job().id)
    assert result.metrics == {"auc": 0.7}
    assert (attempt.exit_code, attempt.finished_at) == (0, house.now)


def linked(path: Path) -> None:
    secret = path.parent / "elsewhere.json"
    secret.write_text('{"metrics": {"auc": 0.99}}')
    path.symlink_to(secret)


@pytest.mark.parametrize(
    "write, reason",
    [
        pytest.param(lambda path: None, "wrote no result", id="missing"),
        pytest.param(lambda path: path.write_text(""), "JSON", id="empty"),
        pytest.param(lambda path: path.write_text('{"metrics": {"auc": NaN}}'), "NaN", id="NaN"),
        pytest.param(lambda path: path.write_text('{"metrics": {"auc": 1e999}}'), "", id="infinite"),
        pytest.param(lambda path: path.write_text('{"metrics": {"auc": "0.7"}}'), "not a number", id="text"),
        pytest.param(lambda path: path.write_text('{"metrics": {}}'), "no metrics", id="no metrics"),
        pytest.param(lambda path: path.write_text('{"metrics": {"auc": 0.7}, "run": "x"}'), "unknown key", id="key"),
        pytest.param(lambda path: path.write_text("auc=0.7"), "JSON", id="not JSON"),
        pytest.param(lambda path: path.write_bytes(b'{"metrics": "' + b"x" * (10 << 20)), "", id="10 MB"),
        pytest.param(linked, "cannot be read", id="link"),
        pytest.param(lambda path: os.mkfifo(path), "", id="FIFO"),
        pytest.param(lambda path: path.mkdir(), "", id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "cannot be read", id="device"),
    ],
)
def test_an_invalid_result_is_a_failed_job(house: House, write: Callable[[Path], object], reason: str) -> None:
    """Never a pass, not tried again (it would be the same), and the reason says what is wrong."""
    house.train()
    write(house.world.job("a").order.folder / "result.json")
    house.world.end("a")
    house.settle()

    assert (house.job().state, house.job().cause) == ("FAILED", "invalid_result")
    assert house.job().reason.startswith("invalid result: ")
    assert reason in house.job().reason
    assert house.run().state == "FAILED"
    assert len(house.world.starts) == 1


def test_an_older_attempts_result_does_not_count(house: House) -> None:
    """Each attempt has a folder of its own, so what an earlier one left is not taken for its result."""
    house.train()
    old = house.world.job("a")
    (old.order.folder / "result.json").write_text('{"metrics": {"auc": 0.99}}')
    house.world.fail("a")
    house.settle()
    house.advance(30)
    house.world.end("a")
    house.settle()

    assert house.world.job("a").order.folder != old.order.folder
    assert house.job().cause == "invalid_result"


# ---------------------------------------------------------------------------------------------- failures


def test_failure_is_retried_and_then_final(house: House) -> None:
    """RETRYABLE with backoff, a new attempt, and FAILED when none is left."""
    house.train()
    house.world.fail("a", code=3)
    house.settle()
    assert house.job().state == "RETRYABLE"
    assert "exit code 3" in house.job().reason
    assert house.job().due_at == house.now + timedelta(seconds=30)

    house.advance(30)
    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)
    house.world.fail("a", code=4)
    house.settle()

    assert house.job().state == "FAILED"
    assert house.run().state == "FAILED"
    assert "exit code 4" in house.run().reason
    assert len(house.world.starts) == 2
    assert house.mail() == ["failed"]


def test_one_good_candidate_is_enough(make_house: MakeHouse) -> None:
    """The run is judged when all its jobs have ended, one of them well."""
    house = make_house(model={"train": {"candidates": {"a": {}, "b": {}}, "retries": {"attempts": 1}}})
    house.train()
    house.world.fail("a")
    house.settle()
    assert house.run().state == "TRAINING"

    house.world.succeed("b", auc=0.7)
    house.settle()

    assert house.run().state == "PROMOTED"


def test_the_end_is_noticed_at_the_launchers_hint(house: House) -> None:
    """The hint wakes the monitor, and the job is looked at before its next look is due."""
    house.train()
    woken: list[str] = []
    house.runtime.bells.hang("monitor", lambda: woken.append("monitor"))
    house.world.succeed("a", auc=0.7)

    assert woken == ["monitor"]
    assert house.monitor.tick(house.now).worked == 1


def test_the_end_is_noticed_without_a_hint(house: House) -> None:
    """A launcher that gives no hint is asked from time to time."""
    house.train()
    house.world.job("a").watchers.clear()
    house.world.succeed("a", auc=0.7)
    house.settle()
    assert house.job().state == "RUNNING"

    house.advance(15)

    assert house.job().state == "SUCCEEDED"


def test_an_end_while_nobody_watched(house: House) -> None:
    """What ended while the daemon was down is noticed by the first look of the next."""
    house.train()
    house.world.succeed("a", auc=0.7)
    house.restart()
    house.settle()

    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


# ----------------------------------------------------------------------------------------------- timeout


def test_timeout_term_kill(house: House) -> None:
    """Too long: TERM, and after the grace KILL; the run has TIMED_OUT."""
    house.world.obeys_term = False
    house.train()
    house.advance(timedelta(minutes=59, seconds=59))
    assert house.job().state == "RUNNING"
    house.advance(1)
    assert (house.job().state, house.job().cause) == ("STOPPING", "timed_out")
    job = house.world.job("a")
    assert job.stops == ["term"]

    house.advance(9.9)
    assert job.stops == ["term"]
    house.advance(0.1)
    house.advance(5)

    assert job.stops == ["term", "kill"]
    assert house.job().state == "TIMED_OUT"
    assert (house.run().state, house.run().cause) == ("TIMED_OUT", "timed_out")
    assert "1h" in house.run().reason


def test_timeout_obeyed(house: House) -> None:
    """A job that ends at TERM is not killed."""
    house.train()
    house.advance(timedelta(hours=1))

    assert house.world.job("a").stops == ["term"]
    assert house.run().state == "TIMED_OUT"


# ------------------------------------------------------------------------------------------------ cancel


def cancel(house: House) -> None:
    house.desk.cancel(house.runs()[-1].id, who="ann", reason="never mind")
    house.settle()


def test_cancel_pending(make_house: MakeHouse) -> None:
    """What no launcher has is cancelled at once; what runs is stopped first."""
    house = make_house(model={"train": {"candidates": {"a": {}, "b": {}}}}, launchers={"scripted": {"slots": 1}})
    house.train()
    assert [job.state for job in house.jobs()] == ["RUNNING", "PENDING"]

    cancel(house)

    assert [job.state for job in house.jobs()] == ["CANCELLED", "CANCELLED"]
    assert (house.run().state, house.run().cause) == ("CANCELLED", "cancelled")
    assert "ann" in house.run().reason
    assert len(house.world.starts) == 1


def test_cancel_running(house: House) -> None:
    """TERM, then KILL for one that does not listen; the slot is free only when it is gone."""
    house.world.obeys_term = False
    house.train()
    cancel(house)
    assert (house.job().state, house.run().state) == ("STOPPING", "TRAINING")
    house.send()
    house.settle()
    assert len(house.world.starts) == 1

    house.advance(10)
    house.advance(5)

    assert [run.state for run in house.runs()] == ["CANCELLED", "TRAINING"]
    assert house.world.job("a", attempt=1).order.run_id == house.runs()[1].id


def test_cancel_retryable(house: House) -> None:
    """A job that waits for its next attempt never gets it."""
    house.train()
    house.world.fail("a")
    house.settle()

    cancel(house)
    house.advance(timedelta(hours=1))

    assert (house.job().state, house.run().state) == ("CANCELLED", "CANCELLED")
    assert len(house.world.starts) == 1


def test_cancel_lost(house: House) -> None:
    """A lost job is given its time to come back, then the run is cancelled."""
    house.train()
    house.world.lose("a")
    house.settle()
    assert house.job().state == "LOST"

    cancel(house)
    house.advance(20)

    assert (house.job().state, house.run().state) == ("CANCELLED", "CANCELLED")


def test_a_cancel_that_comes_too_late_for_the_job(house: House) -> None:
    """The job ended well before it could be stopped: the run is cancelled all the same, and nothing is promoted."""
    house.train()
    house.desk.cancel(house.run().id, who="ann", reason="")
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert house.run().state == "CANCELLED"
    assert house.versions() == []


# ------------------------------------------------------------------------------------- lost and unreachable


def test_lost_and_found(house: House) -> None:
    """Back within its grace period: nothing happened, and nothing was started twice."""
    house.train()
    house.world.lose("a")
    house.settle()
    assert house.job().state == "LOST"
    house.advance(10)
    house.world.job("a").state = "running"
    house.advance(10)
    assert house.job().state == "RUNNING"
    house.world.succeed("a", auc=0.7)
    house.advance(15)

    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


def test_lost_for_good(house: House) -> None:
    """After the grace period it is surely gone, and tried again as `retries` says."""
    house.train()
    house.world.lose("a")
    house.settle()
    house.advance(20)
    assert (house.job().state, house.job().cause) == ("RETRYABLE", "lost")
    house.advance(30)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)


def test_host_gone_is_unknown_until_a_person_says(house: House) -> None:
    """Nobody can say whether it runs: never launched again by itself; it keeps the slot until it is resolved."""
    house.train()
    house.world.lose("a")
    house.settle()
    house.world.job("a").state = "unreachable"
    house.advance(20)
    assert (house.job().state, house.job().cause) == ("UNKNOWN", "host_gone")
    house.advance(timedelta(days=2))
    assert house.job().state == "UNKNOWN"
    assert house.run().state == "TRAINING"

    house.desk.resolve(house.run().id, "a", "running", who="ann", reason="the host is back")
    house.world.succeed("a", auc=0.7)
    house.settle()
    house.advance(15)

    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


def test_unreachable_is_not_lost(house: House) -> None:
    """A launcher that does not answer says nothing of the job: it is neither stopped nor started again."""
    house.train()
    house.world.job("a").broken = RetryLater("connection refused")
    house.advance(timedelta(minutes=30))
    assert house.job().state == "RUNNING"
    house.world.job("a").broken = None
    house.world.succeed("a", auc=0.7)
    house.advance(15)

    assert house.run().state == "PROMOTED"
    assert house.world.jobs[house.world.starts[0]].stops == []


def test_one_job_that_breaks_the_launcher_does_not_hide_the_others(make_house: MakeHouse) -> None:
    """A bug met while looking at one job is treated as a failed look; the others are seen to their end."""
    house = make_house(model={"train": {"candidates": {"a": {}, "b": {}}}})
    house.train()
    house.world.job("a").broken = KeyError("a bug in the launcher")
    house.world.succeed("b", auc=0.7)
    house.advance(15)
    assert [job.state for job in house.jobs()] == ["RUNNING", "SUCCEEDED"]

    house.world.job("a").broken = None
    house.world.succeed("a", auc=0.8)
    house.advance(15)

    assert house.run().state == "PROMOTED"


def test_a_local_job_of_another_host(make_house: MakeHouse) -> None:
    """A daemon with another state directory cannot see it: UNKNOWN after the grace period, not started again."""
    house = make_house(model={"train": {"launcher": "local"}})
    house.train()
    house.restart(owner="owner-2")
    house.settle()
    assert house.job().state == "LOST"
    house.advance(timedelta(minutes=30))
    assert house.job().state == "UNKNOWN"
    assert house.world.job("a").stops == []

    house.restart(owner="owner-1")
    house.desk.resolve(house.run().id, None, "running", who="ann", reason="back on its host")
    house.settle()

    assert house.job().state == "RUNNING"
    assert len(house.world.starts) == 1


def test_what_was_never_seen_cannot_be_resolved_as_running(make_house: MakeHouse) -> None:
    """Without the launcher's answer there is no handle to watch it by."""
    house = make_house(model={"train": {"launcher": "blind"}})
    house.world.after_start = [ConnectionResetError("cut off")]
    house.train()

    with pytest.raises(Conflict, match="handle"):
        house.desk.resolve(house.run().id, None, "running", who="ann", reason="")

    assert house.job().state == "UNKNOWN"
