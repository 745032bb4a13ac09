"""`retention`: how long what is kept, as it is written and as it counts."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import Retention
from controller.store.pruning import KINDS
from tests.unit.config.texts import BASE, load, problems

DAY = timedelta(days=1)


def test_without_retention(folder: Path) -> None:
    """Events are kept for the window in which a second delivery is known, the rest longer; the configuration's version is as it was."""
    config = load(BASE)

    assert config.retention == Retention()
    assert config.retention.events == config.retention.bodies == 30 * DAY
    assert all(getattr(config.retention, each.name) >= 30 * DAY for each in fields(Retention))
    assert "retention" not in config.normal_form


def test_retention_as_it_is_written(folder: Path) -> None:
    """What is left out keeps its length; bodies follow the events unless they are shorter."""
    retention = load(BASE + "retention: {events: 60d, run_files: 2w}\n").retention

    assert (retention.events, retention.bodies, retention.run_files) == (60 * DAY, 60 * DAY, 14 * DAY)
    assert retention.watches == Retention().watches
    assert load(BASE + "retention: {bodies: 7d}\n").retention.bodies == 7 * DAY


def test_every_kind_of_row_has_its_length() -> None:
    """What is let go of is what can be configured, and the files beside it."""
    assert {each.name for each in fields(Retention)} == {*KINDS, "run_files"}


MISTAKES = {
    "too short": ("{events: 5m}", "5m is too short: an event that comes again after that counts as a new one"),
    "bodies longer": ("{events: 7d, bodies: 8d}", "bodies (8d) cannot be kept longer than events (7d)"),
    "not a length": ("{events: 30}", "30 has no unit"),
    "for ever": ("{runs: 365d}", "unknown key"),
}


@pytest.mark.parametrize("written, said", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(folder: Path, written: str, said: str) -> None:
    """Each is refused with a sentence."""
    assert any(said in str(problem) for problem in problems(BASE + f"retention: {written}\n"))
