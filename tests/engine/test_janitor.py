"""Artifacts that nobody needs are let go of, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from controller.engine.janitor import EVERY, Janitor
from tests.engine.house import House
from tests.statements import listen


@pytest.fixture
def full(make_house: Callable[..., House]) -> House:
    """Six versions, v1 to v6: champions v1 and v2, the others rejected; the last two of those are kept."""
    house = make_house(model={"keep_artifacts": 2})
    house.champion(auc=0.7)
    for auc in (0.8, 0.5, 0.5, 0.5, 0.5):
        house.train()
        house.world.succeed("a", auc=auc, champion_auc=0.7)
        house.settle()
    return house


def kept(house: House) -> list[int]:
    return [version.number for version in house.versions() if Path(version.artifact).exists()]


def test_keeps_what_may_be_needed(full: House) -> None:
    """The champion, its predecessor and the newest few; the rest is removed once."""
    assert kept(full) == [1, 2, 3, 4, 5, 6]
    full.advance(EVERY)
    assert kept(full) == [1, 2, 5, 6]

    full.advance(EVERY)

    assert len([line for line in full.log.lines if line[1] == "artifact.removed"]) == 2


def test_an_idle_janitor_does_not_look_through_the_models(full: House) -> None:
    """Between two looks a sweep asks whether anything happened, and what happened is dealt with at the next one."""
    full.advance(EVERY)
    janitor = Janitor(full.runtime)
    janitor.tick(full.clock.now())
    asked: list[str] = []
    listen(full.store, lambda connection, cursor, statement, *more: asked.append(statement))

    full.clock.advance(timedelta(seconds=10))
    janitor.tick(full.clock.now())
    idle, asked[:] = list(asked), []
    full.train()
    full.clock.advance(timedelta(seconds=10))
    janitor.tick(full.clock.now())

    assert not [statement for statement in idle if "FROM version" in statement or "FROM promotion" in statement]
    assert [statement for statement in asked if "FROM version" in statement]


def test_keeps_what_a_second_rollback_would_need(make_house: Callable[..., House]) -> None:
    """After a rollback, the champion before the one it led to is still there."""
    house = make_house(model={"keep_artifacts": 0})
    house.champion(auc=0.6)
    for auc in (0.7, 0.8):
        house.train()
        house.world.succeed("a", auc=auc, champion_auc=auc - 0.1)
        house.settle()
    house.desk.rollback("churn", who="ann", reason="complaints")
    house.settle()

    house.advance(EVERY)

    assert 1 in kept(house)
    assert 2 in kept(house)


def test_never_leaves_the_state_directory(full: House) -> None:
    """An artifact that is named elsewhere, also through a link, is not ours to remove."""
    precious = full.folder / "precious.bin"
    precious.write_text("not ours")
    old = Path(full.versions()[2].artifact)
    old.unlink()
    old.symlink_to(precious)
    full.advance(EVERY)

    assert precious.read_text() == "not ours"
    assert (full.folder / "retrain.db").exists()


def test_an_adopted_artifact_stays(full: House) -> None:
    """What was made elsewhere is never removed."""
    adopted = full.folder / "adopted.bin"
    adopted.write_text("x")
    full.desk.adopt("churn", who="ann", reason="", artifact="adopted.bin", metrics={})
    full.settle()
    for auc in (0.91, 0.92, 0.93, 0.94):
        full.train()
        full.world.succeed("a", auc=auc, champion_auc=0.7)
        full.settle()

    full.advance(EVERY)

    assert adopted.exists()
