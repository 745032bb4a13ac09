"""The monitor of a replica that does not lead comes back only for what is its own."""

from __future__ import annotations

from collections.abc import Callable

from controller.engine.monitor import Monitor
from tests.engine.house import House
from tests.engine.replicas import Follows

MakeHouse = Callable[..., House]


def test_a_job_that_was_released_is_no_reason_to_come_back(make_house: MakeHouse) -> None:
    """A follower that finds that a local job never began gives it to the leader, and does not ask to be woken for it again and again."""
    house = make_house(model={"train": {"launcher": "local"}})
    house.world.before_start = [OSError("no answer")]
    house.world.finds = [OSError("no answer")] * 9
    house.train()
    assert house.job().state == "LAUNCHING"
    house.world.finds = []
    house.runtime.lease = Follows()
    monitor = Monitor(house.runtime)
    assert monitor.tick(house.now).worked == 1

    house.clock.advance(60)
    ticked = monitor.tick(house.now)

    assert ticked.next_at is None
