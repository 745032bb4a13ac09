"""Messages to people: at least once, and none holds up another."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from controller.errors import GiveUp, RetryLater
from controller.store import schema
from tests.engine.house import House


def write(house: House, count: int = 1) -> None:
    with house.store.transaction("write") as tx:
        for number in range(count):
            tx.outbox.add(["scripted"], kind=f"kind-{number}", title="hello", model="churn")


def states(house: House) -> list[str]:
    table = schema.notification
    with house.store.reading() as tx:
        return [row.state for row in tx.execute(sa.select(table.c.state).order_by(table.c.id))]


def test_sent(house: House) -> None:
    """Each message is delivered once, in order."""
    write(house, 3)
    house.settle()

    assert house.mail() == ["kind-0", "kind-1", "kind-2"]
    assert states(house) == ["SENT"] * 3


@pytest.mark.parametrize("error", [RetryLater("503"), OSError("no route"), KeyError("a bug")], ids=repr)
def test_tried_again_with_the_same_id(house: House, error: Exception) -> None:
    """A refused message waits for its backoff, while the others go."""
    house.world.mail_script = [error]
    write(house, 2)
    house.settle()
    assert house.mail() == ["kind-1"]
    assert states(house) == ["PENDING", "SENT"]

    house.advance(60)

    assert house.mail() == ["kind-1", "kind-0"]
    assert states(house) == ["SENT", "SENT"]


def test_given_up(house: House) -> None:
    """What the notifier will never take is DEAD at once."""
    house.world.mail_script = [GiveUp("410 gone")]
    write(house)
    house.settle()

    assert states(house) == ["DEAD"]


def test_dead_after_a_day(house: House) -> None:
    """What nobody took for 24 hours is DEAD."""
    house.world.mail_script = [RetryLater("503")] * 1000
    write(house)
    for _ in range(24 * 12 + 2):
        house.advance(timedelta(minutes=5))

    assert states(house) == ["DEAD"]
    assert house.mail() == []
