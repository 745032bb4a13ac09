"""Local jobs where several daemons share a database: each is watched by the one that has its state directory, and by no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from controller.crash import arm, disarm
from controller.engine.monitor import Monitor
from controller.engine.runtime import Runtime
from tests.engine.house import House
from tests.engine.replicas import follower, show
from tests.engine.test_dispatcher import Killed, die

MakeHouse = Callable[..., House]
MINE, OTHER = "owner-1", "owner-2"


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """Its jobs are local, and it leads."""
    return make_house(model={"train": {"launcher": "local"}})


@pytest.fixture
def first(house: House) -> Iterator[Runtime]:
    """The daemon that has the state directory of the jobs, when it does not lead."""
    runtime = follower(house, MINE)
    yield runtime
    runtime.store.close()


def overtaken(house: House) -> None:
    """Let a daemon with another state directory lead."""
    house.restart(owner=OTHER)


def killed_while_launching(house: House, when: str) -> None:
    """Die around the call of the launcher, and let another daemon lead."""
    house.send()
    house.evaluator.tick(house.now)
    arm(f"plugin.launcher.local.launch.{when}", die)
    try:
        with pytest.raises(Killed):
            house.dispatcher.tick(house.now)
    finally:
        disarm()
    overtaken(house)


def pass_time(house: House, seconds: int, *alive: str) -> None:
    """Let time pass, in which these daemons are seen."""
    for _ in range(seconds):
        for owner in alive:
            show(house, owner)
        house.advance(1)


def test_a_job_of_a_daemon_that_is_there_is_left_to_it(house: House) -> None:
    """The leader neither looks at it nor judges it, however long that takes."""
    house.train()
    overtaken(house)
    pass_time(house, 600, MINE)

    assert house.job().state == "RUNNING"
    assert house.world.job("a").stops == []


def test_G06_its_own_daemon_sees_its_end_without_leading(house: House, first: Runtime) -> None:
    """The result is taken in by the daemon that can read it; the leader goes on from there."""
    house.train()
    overtaken(house)
    show(house, MINE)
    house.settle()
    monitor = Monitor(first)
    monitor.tick(house.now)
    house.world.succeed("a", auc=0.7)
    monitor.tick(house.now)
    assert (house.job().state, house.run().state) == ("SUCCEEDED", "JUDGING")

    house._rung.add("gatekeeper")
    house.settle()

    assert house.run().state == "PROMOTED"


def test_its_own_daemon_stops_it_without_leading(house: House, first: Runtime) -> None:
    """A cancel that was pressed at another daemon reaches the job."""
    house.train()
    overtaken(house)
    show(house, MINE)
    monitor = Monitor(first)
    monitor.tick(house.now)
    house.desk.cancel(house.run().id, who="ann", reason="never mind")
    monitor.tick(house.now)
    monitor.tick(house.now)

    assert house.world.job("a").stops == ["term"]
    assert house.run().state == "CANCELLED"


def test_who_follows_looks_at_nothing_else(make_house: MakeHouse) -> None:
    """A job that any daemon can ask for is the leader's."""
    house = make_house()
    house.train()
    house.world.succeed("a", auc=0.7)
    runtime = follower(house, OTHER)
    Monitor(runtime).tick(house.now)
    runtime.store.close()

    assert house.job().state == "RUNNING"


def test_G05_a_daemon_that_is_gone_and_comes_back(house: House, first: Runtime) -> None:
    """LOST, then UNKNOWN with a message, never started again; when its daemon is back, it goes on by itself."""
    house.train()
    show(house, MINE)
    overtaken(house)
    pass_time(house, 15)
    assert house.job().state == "RUNNING", "it may be a pause"
    pass_time(house, 5)
    assert house.job().state == "LOST"
    pass_time(house, 30)
    assert (house.job().state, house.job().cause, house.mail()) == ("UNKNOWN", "host_gone", ["unknown"])
    pass_time(house, 600)
    assert house.job().state == "UNKNOWN"

    Monitor(first).tick(house.now)
    assert (house.job().state, house.job().cause) == ("RUNNING", "late_answer")
    show(house, MINE)
    house.world.succeed("a", auc=0.7)
    Monitor(first).tick(house.now)
    house._rung.add("gatekeeper")
    house.settle()

    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


def test_a_daemon_that_comes_back_after_its_host_was_rebooted(house: House, first: Runtime) -> None:
    """Its jobs are surely gone: they are tried again as `retries` says."""
    house.train()
    show(house, MINE)
    overtaken(house)
    pass_time(house, 70)
    assert house.job().state == "UNKNOWN"
    house.world.lose("a")
    monitor = Monitor(first)
    monitor.tick(house.now)
    monitor.tick(house.now)
    assert house.job().state == "LOST"
    house.clock.advance(20)
    monitor.tick(house.now)
    assert house.job().state == "RETRYABLE"
    house._rung.add("dispatcher")
    house.settle()
    house.advance(30)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)


def test_G05_a_job_that_was_to_end_on_a_daemon_that_is_gone(house: House) -> None:
    """Nobody can say whether it ended: UNKNOWN, not STOPPING for ever."""
    house.world.obeys_term = False
    house.train()
    house.desk.cancel(house.run().id, who="ann", reason="never mind")
    house.settle()
    assert house.job().state == "STOPPING"
    overtaken(house)
    pass_time(house, 90)

    assert (house.job().state, house.job().cause) == ("UNKNOWN", "host_gone")
    assert house.mail() == ["unknown"]
    assert "asked to end" in house.job().reason


def test_G03_a_launch_that_its_daemon_finds(house: House, first: Runtime) -> None:
    """It was started before its daemon ceased to lead: that daemon finds it, and nobody starts it again."""
    killed_while_launching(house, "after")
    pass_time(house, 60, MINE)
    assert house.job().state == "LAUNCHING"
    Monitor(first).tick(house.now)

    assert (house.job().state, house.job().cause) == ("RUNNING", "adopted")
    assert len(house.world.starts) == 1


def test_G03_a_launch_that_its_daemon_never_made(house: House, first: Runtime) -> None:
    """It says so, and whoever leads makes it, as the same attempt, in its own state directory."""
    killed_while_launching(house, "before")
    show(house, MINE)
    Monitor(first).tick(house.now)
    house._rung.add("dispatcher")
    house.settle()

    assert (house.job().state, house.job().cause, house.job().attempt) == ("RUNNING", "launched", 1)
    assert len(house.world.starts) == 1
    with house.store.reading() as tx:
        (attempt,) = tx.runs.attempts(house.job().id)
    assert attempt.owner == OTHER


def test_G03_a_launch_that_is_being_made_is_not_given_back(house: House, first: Runtime) -> None:
    """It is not there yet, because the call has not come back: too early to say."""
    killed_while_launching(house, "before")
    show(house, MINE)
    with house.store.reading() as tx:
        (attempt,) = tx.runs.attempts(house.job().id)
    first.launching.add(attempt.id)
    Monitor(first).tick(house.now)
    house._rung.add("dispatcher")
    house.settle()

    assert house.job().state == "LAUNCHING"
    assert house.world.starts == []


def test_G03_a_launch_that_is_given_back_while_it_is_made_is_ours(house: House, first: Runtime) -> None:
    """A daemon that follows looks and finds nothing, begins to lead and launches, and only then is it written that nothing was found."""
    house.send()
    house.evaluator.tick(house.now)
    arm("plugin.launcher.local.launch.before", lambda _: Monitor(first).tick(house.now))
    try:
        house.dispatcher.tick(house.now)
    finally:
        disarm()
    pass_time(house, 60, MINE)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 1)
    assert house.path(house.job().id) == ["PENDING", "LAUNCHING", "RUNNING"]
    assert len(house.world.starts) == 1


def test_a_launch_that_was_given_up_for_unknown_and_was_never_made(house: House, first: Runtime) -> None:
    """The host is back and says that it never began: the attempt counts as one that failed."""
    killed_while_launching(house, "before")
    pass_time(house, 60)
    assert (house.job().state, house.job().cause) == ("UNKNOWN", "host_gone")
    Monitor(first).tick(house.now)

    assert (house.job().state, house.job().cause) == ("RETRYABLE", "late_answer")
    show(house, MINE)
    house._rung.add("dispatcher")
    house.settle()
    house.advance(timedelta(seconds=30))
    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)
    assert len(house.world.starts) == 1
