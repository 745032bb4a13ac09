"""What decides is the configuration that the store says is in force, also when nobody heard whether it was put in force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller import crash
from controller.errors import StoreBusy
from tests.engine.house import House


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No crash point stays armed."""
    yield
    crash.disarm()


def lose_the_answer(point: str) -> None:
    raise StoreBusy("the connection broke")


def test_G04_a_reload_whose_answer_was_lost_is_taken_back(house: House) -> None:
    """The transaction is durable and its caller was told that nothing is: then the former one is put in force again, and decides."""
    house.write(
        model={"policies": {"drift": {"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "1m"}}}}
    )
    crash.arm("transaction.activate.after_commit", lose_the_answer)
    with pytest.raises(StoreBusy):
        house.desk.reload(who="ann")

    run = house.train()

    assert run.config_version == house.runtime.config.version
    assert house.path("configuration")[-1] == run.config_version
