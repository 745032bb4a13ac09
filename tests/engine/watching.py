"""What leads to a watch, and what is seen of it: promotions, alerts, and the rows behind them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from controller.core.model import Run
from controller.core.watch import Watching
from controller.store import schema
from controller.store.rows import record
from tests.engine.house import House
from tests.factories import make_mark

MakeHouse = Callable[..., House]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WATCH = {"for": "24h", "rollback_on": {"type": "alert.slo", "subject": "$model"}}


def promote(house: House, auc: float, **event: Any) -> Run:
    """Let an event lead to a promotion, and return its run."""
    house.send(**event)
    house.settle()
    house.world.succeed("a", auc=auc, champion_auc=auc - 0.1)
    house.settle()
    run = house.runs()[-1]
    assert run.state == "PROMOTED"
    return run


def slo(house: House, **event: Any) -> None:
    """Let an event come that says worse, and everything follow from it."""
    house.send(**{"type": "alert.slo", "subject": "churn", **event})
    house.settle()


def fire(house: House, key: str, *, state: str = "firing", type: str = "drift", **event: Any) -> None:
    """Let an alert fire, or end."""
    house.send(type, extensions=make_mark(key, state), **event)
    house.settle()


def finish_training(house: House) -> None:
    """Let the training end well, and the first run be promoted."""
    house.world.succeed("a", auc=0.7, champion_auc=0.6)
    house.settle()
    assert house.runs()[0].state == "PROMOTED"


def watches(house: House) -> list[Watching]:
    with house.store.reading() as tx:
        return [record(Watching, row) for row in tx.execute(sa.select(schema.watch).order_by(schema.watch.c.id))]


def outcome(house: House, run: int = -1) -> tuple[str | None, str]:
    """The outcome of a run, and the cause that its watch ended with."""
    found = house.runs()[run]
    (watching,) = [each for each in watches(house) if each.run_id == found.id]
    assert (found.outcome or "") in ("", watching.state) or watching.state == "OPEN"
    assert found.outcome is None or found.outcome_reason
    return found.outcome, watching.cause


def champions(house: House) -> list[str]:
    return [version.state for version in house.versions()]


def promotions(house: House) -> list[tuple[str, str, str]]:
    with house.store.reading() as tx:
        return [(each.kind, each.state, each.actor) for each in reversed(tx.models.promotions("churn"))]
