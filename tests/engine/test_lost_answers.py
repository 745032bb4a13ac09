"""Requests and answers that are lost or late, at launchers and at the store: nothing is started twice, nothing is given up that may run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from controller.config import Config, reload_config
from controller.crash import arm, disarm
from controller.engine.desk import Desk
from controller.errors import GiveUp, RetryLater, StoreBusy
from controller.store.store import StaleTerm
from tests.engine.house import House
from tests.engine.test_dispatcher import crash_at

MakeHouse = Callable[..., House]
#: A commit's request is lost before it, its answer after it.
LOSSES = pytest.mark.parametrize("loss", ["before_commit", "after_commit"], ids=["request", "answer"])
LAUNCHERS = pytest.mark.parametrize("launcher", ["scripted", "nameless", "blind", "local"])


def lost(point: str) -> None:
    raise StoreBusy(f"the connection broke at {point}")


@contextmanager
def losing(name: str, loss: str) -> Iterator[None]:
    """Lose the next commit of this name; the caller gets the error that a broken connection gives."""
    arm(f"transaction.{name}.{loss}", lost)
    try:
        yield
    finally:
        disarm()


def triggered(house: House) -> None:
    """Decide on a retraining; the dispatcher has not seen it yet."""
    house.send()
    house.evaluator.tick(house.now)


# ------------------------------------------------------------------------------------------------- commits


@LAUNCHERS
@LOSSES
@pytest.mark.parametrize("name", ["dispatch", "launched"])
def test_G03_a_lost_commit_of_a_launch(make_house: MakeHouse, name: str, loss: str, launcher: str) -> None:
    """What this process knows, it still knows: the job is started once, and nobody is asked, wherever it can be searched."""
    house = make_house(model={"train": {"launcher": launcher}})
    triggered(house)
    with losing(name, loss), pytest.raises(StoreBusy):
        house.dispatcher.tick(house.now)
    house.settle()

    assert (house.job().state, house.job().cause, house.job().attempt) == ("RUNNING", "launched", 1)
    assert len(house.world.starts) == 1
    assert house.mail() == []
    house.world.succeed("a", auc=0.7)
    house.settle()
    assert house.run().state == "PROMOTED"


@LAUNCHERS
@LOSSES
@pytest.mark.parametrize("error, state", [(RetryLater("no room"), "RETRYABLE"), (GiveUp("never"), "FAILED")])
def test_a_lost_commit_of_a_launch_that_failed(
    make_house: MakeHouse, loss: str, launcher: str, error: Exception, state: str
) -> None:
    """The launcher said that it was not started, and is not asked again what it said already."""
    house = make_house(model={"train": {"launcher": launcher}})
    house.world.before_start = [error, AssertionError("it was asked again")]
    triggered(house)
    with losing("launch_failed", loss), pytest.raises(StoreBusy):
        house.dispatcher.tick(house.now)
    house.settle()

    assert (house.job().state, house.job().attempt) == (state, 1)
    assert house.world.starts == []


@LOSSES
def test_a_lost_commit_of_the_end_of_a_job(house: House, loss: str) -> None:
    """The end is written once, the loops that go on are woken, and the launcher may forget the job."""
    house.train()
    house.world.succeed("a", auc=0.7)
    with losing("observe", loss), pytest.raises(StoreBusy):
        house.monitor.tick(house.now)
    house._rung.add("monitor")  # as its thread looks again after a failure
    house.settle()

    assert house.run().state == "PROMOTED"
    assert house.path(house.job().id)[-2:] == ["RUNNING", "SUCCEEDED"]
    assert house.world.job("a").watchers == []


@LOSSES
@pytest.mark.parametrize("name", ["promote_step", "crown"])
def test_a_lost_commit_of_a_promotion(house: House, name: str, loss: str) -> None:
    """Promoted once in our rows, and what serves is the champion."""
    house.train()
    house.world.succeed("a", auc=0.7)
    with losing(name, loss), pytest.raises(StoreBusy):
        house.settle()
    house._rung.add("gatekeeper")
    house.settle()

    (version,) = house.versions()
    assert (house.run().state, version.state) == ("PROMOTED", "CHAMPION")
    assert house.world.registries["first"].serves == {"churn": version.id}


@LOSSES
def test_a_reload_whose_act_is_lost_is_whole(house: House, loss: str) -> None:
    """The configuration in force and the sources that run are of one version, whatever became of the row of the act."""
    used: list[str] = []

    def read_again() -> Config:
        return reload_config(house.runtime.config)

    desk = Desk(house.runtime, house.evaluator.activate, reload=read_again, reloaded=lambda c: used.append(c.version))
    house.write(model={"labels": {"team": "travel"}})
    with losing("act_reload", loss), pytest.raises(StoreBusy):
        desk.reload(who="ann")

    assert used == [house.runtime.config.version]
    assert desk.reload(who="ann")["version"] == used[0]


# ------------------------------------------------------------------------------------------- calls of a launcher


def test_a_launch_that_cannot_be_repeated_waits_until_it_is_settled(make_house: MakeHouse) -> None:
    """A target that refuses no name: what is not there yet may still come, and is launched again only after its `settle`."""
    house = make_house(model={"train": {"launcher": "nameless"}})
    triggered(house)
    crash_at(house, "plugin.launcher.nameless.launch.before")
    house.settle()
    for _ in range(14):
        house.advance(2)
    assert house.world.starts == []

    house.advance(2)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 1)
    assert len(house.world.starts) == 1


def test_a_launch_that_waited_has_its_whole_time(make_house: MakeHouse) -> None:
    """A job may run for as long as its model says, from when it was launched; not from when that was intended."""
    house = make_house(model={"train": {"launcher": "nameless", "timeout": "1m"}})
    house.world.before_start = [ConnectionResetError("cut off")]
    triggered(house)
    house.settle()
    for _ in range(10):
        house.advance(5)
    started = house.job().state
    house.advance(30)

    assert started == "RUNNING"
    assert house.job().state == "RUNNING"
    house.advance(31)
    assert house.job().state == "TIMED_OUT"


def test_G03_a_launch_that_comes_late_is_adopted(make_house: MakeHouse) -> None:
    """The request was still on its way when the first look-up said that it is not there."""
    house = make_house(model={"train": {"launcher": "nameless"}})
    house.world.before_start = [ConnectionResetError("cut off")]
    house.train()
    late = house.runtime.launcher("nameless")
    with house.store.reading() as tx:
        (attempt,) = tx.runs.attempts(house.job().id)
    house.advance(10)
    assert house.job().state == "LAUNCHING"
    late.launch(_order(house, attempt.id))
    house.advance(10)

    assert (house.job().state, house.job().cause) == ("RUNNING", "adopted")
    for _ in range(30):
        house.advance(2)
    assert house.world.starts == [attempt.id]


def test_G03_an_unclear_attempt_is_not_given_up_for_another(house: House) -> None:
    """A refusal says nothing of the call before it, whose answer was lost: it stays the same attempt, under the same name."""
    house.world.before_start = [ConnectionResetError("cut off"), RetryLater("429"), RetryLater("429")]
    house.train()
    for _ in range(10):
        house.advance(4)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 1)
    assert len(set(house.world.starts)) == len(house.world.starts) == 1


def test_what_cannot_be_looked_up_for_long_is_unknown_until_a_late_answer(house: House) -> None:
    """People are told when patience is over; when the launcher answers at last and has the job, it goes on by itself."""
    house.world.after_start = [ConnectionResetError("cut off")]
    house.world.finds = [RetryLater("down")] * 10_000
    house.train()
    for _ in range(31):
        assert house.job().state == "LAUNCHING"
        house.advance(30)
    assert (house.job().state, house.job().cause, house.mail()) == ("UNKNOWN", "launch_unknown", ["unknown"])

    house.world.finds.clear()
    house.advance(15)

    assert (house.job().state, house.job().cause) == ("RUNNING", "late_answer")
    house.world.succeed("a", auc=0.7)
    house.settle()
    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


def test_what_is_unknown_is_never_launched_again_by_itself(house: House) -> None:
    """Not even where a launcher says, later, that it is not there."""
    house.world.before_start = [ConnectionResetError("cut off")]
    house.world.finds = [RetryLater("down")] * 10_000
    house.train()
    for _ in range(31):
        house.advance(30)
    house.world.finds.clear()
    for _ in range(100):
        house.advance(timedelta(minutes=10))

    assert house.job().state == "UNKNOWN"
    assert house.world.starts == []


def test_the_answer_to_a_leader_of_yesterday_is_not_thrown_away(make_house: MakeHouse) -> None:
    """Its call came back after another had taken over: what nobody else can find out is written, though it decides nothing."""
    house = make_house(model={"train": {"launcher": "blind"}})
    triggered(house)

    def overtaken(point: str) -> None:
        house.store.lead(owner="owner-2", host="test", pid=2)
        house.store.term = old

    old = house.store.term
    arm("plugin.launcher.blind.launch.after", overtaken)
    try:
        with pytest.raises(StaleTerm):
            house.dispatcher.tick(house.now)
    finally:
        disarm()
    house.restart()
    house.settle()

    assert (house.job().state, house.job().cause) == ("RUNNING", "launched")
    assert house.mail() == []
    house.world.succeed("a", auc=0.7)
    house.settle()
    assert house.run().state == "PROMOTED"


def test_an_answer_that_comes_when_others_have_given_up_hope(make_house: MakeHouse) -> None:
    """The next leader had made it UNKNOWN already; the late answer ends that."""
    house = make_house(model={"train": {"launcher": "blind"}})
    triggered(house)
    stopped = house.dispatcher

    def overtaken(point: str) -> None:
        old = house.store
        house._boot("owner-1")
        house.dispatcher.tick(house.now)
        assert house.job().state == "UNKNOWN"
        old.term = former

    former = house.store.term
    arm("plugin.launcher.blind.launch.after", overtaken)
    try:
        with pytest.raises(StaleTerm):
            stopped.tick(house.now)
    finally:
        disarm()

    assert (house.job().state, house.job().cause) == ("RUNNING", "late_answer")
    assert len(house.world.starts) == 1


def test_a_request_to_end_that_was_lost_is_made_again(house: House) -> None:
    """TERM is asked for until the launcher takes it, not only KILL when the grace is over."""
    house.train()
    job = house.world.job("a")
    job.lost_stops = 1
    house.desk.cancel(house.run().id, who="ann", reason="never mind")
    house.settle()
    assert (house.job().state, job.stops) == ("STOPPING", [])

    house.advance(5)

    assert job.stops == ["term"]
    assert house.run().state == "CANCELLED"


# ------------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=3650)], ids=["2 h", "10 y"])
def test_a_retry_planned_by_a_clock_that_was_ahead(house: House, ahead: timedelta) -> None:
    """No wait is longer than the longest of its kind."""
    right = house.now
    house.clock.set_now(right + ahead)
    house.world.before_start = [RetryLater("no room")]
    house.train()
    assert house.job().state == "RETRYABLE"
    house.clock.set_now(right)
    house._rung.add("dispatcher")
    house.settle()

    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)


def test_a_look_planned_by_a_clock_that_was_ahead(house: House) -> None:
    """A job's end is seen by the next sweep, and what runs too long is stopped, counted from when the clock was set right."""
    right = house.now
    house.clock.set_now(right + timedelta(days=3650))
    house.train()
    house.clock.set_now(right)
    house._rung.add("monitor")
    house.settle()
    assert house.job().state == "RUNNING"

    for _ in range(4 * 60 + 2):
        house.advance(15)

    assert house.run().state == "TIMED_OUT"


def test_a_message_postponed_by_a_clock_that_was_ahead(house: House) -> None:
    """It is sent when the clock is right again."""
    right = house.now
    house.clock.set_now(right + timedelta(days=3650))
    house.world.mail_script = [RetryLater("down")]
    house.world.before_start = [GiveUp("never")]
    house.train()
    assert house.mail() == []
    house.clock.set_now(right)
    house._rung.add("outbox")
    house.settle()

    assert house.mail() == ["failed"]


def _order(house: House, attempt_id: str) -> object:
    from controller.engine.orders import order_of, read

    with house.store.reading() as tx:
        run = house.run()
        brief = read(house.runtime, tx, run, tx.events.of_run(run.id))
        (attempt,) = [each for each in tx.runs.attempts(house.job().id) if each.id == attempt_id]
    return order_of(house.runtime, house.job(), attempt, brief)
