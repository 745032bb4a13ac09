"""The loop behind a watch: it outlives crashes and downtime, a tick too many changes nothing, and its rows are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import crash
from controller.core.model import Run
from controller.store.statistics import policy_statistics, watch_of
from tests.engine.house import House
from tests.engine.watching import (
    DAY,
    HOUR,
    MakeHouse,
    champions,
    finish_training,
    fire,
    outcome,
    promotions,
    slo,
    watches,
)
from tests.factories import make_mark

# ----------------------------------------------------------------------------------------------- the flights

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "flights.yaml"


@pytest.fixture
def flights(make_house: MakeHouse) -> House:
    """The flights example, its jobs and its alias played by the test, with a watch."""
    # `on` is a word in our YAML 1.2, and a boolean in that of PyYAML.
    example = yaml.safe_load(FLIGHTS.read_text().replace(" on:", ' "on":'))
    model = example["models"]["flight-delay"]
    changed = {
        "policies": {"!": True, **model["policies"]},
        "train": {"candidates": {"!": True, **model["train"]["candidates"]}},
        "gate": {"!": True, **model["gate"]},
        "watch": {"for": "7d", "rollback_on": {"type": "alert.slo", "when": "event.data.late_share > 0.4"}},
    }
    return make_house(model=changed, sources=example["sources"])


def month(house: House, auc: float, champion: float | None = None) -> Run:
    """Let a month of flights land, and both candidates train on it."""
    house.send("file.arrived", origin="landing", data={"size": 4_000_000})
    house.settle()
    house.advance(1)
    for candidate, less in (("boosting", 0.0), ("linear", 0.05)):
        metrics = {"auc": auc - less, "auc_valid": auc - less, "rows": 27_000}
        told: dict[str, Any] = {} if champion is None else {"champion_metrics": {"auc": champion}}
        house.world.succeed(candidate, metrics=metrics, **told)
        house.settle()
    return house.runs()[-1]


def test_a_month_that_made_the_flights_worse(flights: House) -> None:
    """Two months are promoted; too many late flights roll the second back, and the third month waits for a person."""
    january, february = month(flights, 0.65), month(flights, 0.70, champion=0.65)
    flights.advance(DAY)
    slo(flights, data={"late_share": 0.3})
    serving = flights.world.registries["first"].serves["churn"]
    slo(flights, data={"late_share": 0.5})
    march = month(flights, 0.75, champion=0.65)

    first, _, second, _ = flights.versions()[:4]
    assert [run.state for run in (january, february)] == ["PROMOTED", "PROMOTED"]
    assert serving == second.id
    assert flights.world.registries["first"].serves["churn"] == first.id
    assert outcome(flights, 1) == ("WORSE", "worse")
    assert (march.state, march.cause) == ("AWAITING_APPROVAL", "held")


# ----------------------------------------------------------------------------------------------- crashes


class _Killed(BaseException):
    """The process dies here."""


def _die(name: str) -> None:
    raise _Killed(name)


POINTS = [
    f"transaction.{name}.{when}"
    for name in ("decide", "watch_rollback", "promote_step", "crown")
    for when in ("before_commit", "after_commit")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_rollback_outlives_a_crash(watched: House, point: str) -> None:
    """Killed at any commit between the sample and the champion's change: one rollback, one outcome, one message."""
    watched.send("alert.slo", subject="churn")
    crash.arm(point, _die)
    try:
        with pytest.raises(_Killed):
            watched.settle()
    finally:
        crash.disarm()
    watched.restart()
    watched.settle()

    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]
    assert outcome(watched) == ("WORSE", "worse")
    assert [each[0] for each in promotions(watched)] == ["promoted", "promoted", "rollback"]
    assert watched.mail().count("rolled_back") == 1
    assert watches(watched)[-1].samples == 1


def test_a_watch_that_ended_while_nobody_ran(house: House) -> None:
    """After a downtime of days it is concluded at the start, once the events that waited are decided."""
    fire(house, "a1")
    finish_training(house)
    house.advance(HOUR)
    house.send(extensions=make_mark("a1", "resolved"))
    house.clock.advance(DAY * 3)
    house.restart()
    assert house.watcher.tick(house.now).worked == 0, "the end of the alert waits to be decided"
    house.settle()
    house.advance(10)

    assert outcome(house) == ("CURED", "cleared")


def test_looking_again_changes_nothing(watched: House) -> None:
    """A tick too many concludes nothing, and says when there is something to do."""
    ticked = watched.watcher.tick(watched.now)

    assert (ticked.worked, ticked.next_at) == (0, watches(watched)[-1].until)
    slo(watched)
    assert watched.watcher.tick(watched.now).worked == 0


# ----------------------------------------------------------------------------------------------- what is shown


def test_statistics_of_policies(watched: House) -> None:
    """Fired, promoted, cured, worse and wasted hours follow from the rows; training that was rolled back was wasted."""
    slo(watched)
    watched.train()
    watched.advance(HOUR / 2)
    watched.world.fail("a")
    watched.settle()
    watched.advance(30)
    watched.world.fail("a")
    watched.settle()
    with watched.store.reading() as tx:
        (row,) = policy_statistics(tx, watched.runtime.config.models, model=None, since=None)
        (none,) = policy_statistics(tx, watched.runtime.config.models, model="churn", since=watched.now)
        no_model = policy_statistics(tx, watched.runtime.config.models, model="other", since=None)

    counted = {name: row[name] for name in ("fired", "promoted", "failed", "unknown", "worse", "cured")}
    assert counted == {"fired": 3, "promoted": 2, "failed": 1, "unknown": 1, "worse": 1, "cured": 0}
    assert row["wasted_hours"] == pytest.approx(0.5, abs=0.02)
    assert (none["fired"], none["runs"], none["wasted_hours"]) == (0, 0, 0)
    assert no_model == []


def test_the_page_of_a_run_shows_its_watch(watched: House) -> None:
    """What was seen, the evidence, and the rollback with its state."""
    slo(watched)
    with watched.store.reading() as tx:
        shape = watch_of(tx, watched.runs()[-1].id)

    assert shape is not None
    assert (shape["state"], shape["samples"], shape["rollback_state"]) == ("WORSE", 1, "APPLIED")
    assert [each["type"] for each in shape["evidence"]] == ["alert.slo"]
