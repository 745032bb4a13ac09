"""Bugs of the peers, planted into the real code, are seen by the oracle that knows none of them."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import WITHIN, read_caught
from tests.simulation.mutants import MUTANTS
from tests.simulation.play import Theatre

_SEEDS = read_caught()


def test_every_mutant_has_seeds() -> None:
    """Each of at least 25 is caught by seeds that are not far away."""
    assert len(MUTANTS) >= 25
    assert set(_SEEDS) == set(MUTANTS)
    assert all(seeds and max(seeds) < WITHIN for seeds in _SEEDS.values())


def _catches(stage: Theatre, name: str, seed: int) -> bool:
    """Say whether an invariant breaks while a mutant is planted, and holds when the same story is played without it."""
    with MUTANTS[name].planted():
        planted = stage.play(seed)
    return bool(planted.broken) and not stage.play(seed).broken


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", sorted(_SEEDS))
def test_a_mutant_is_caught(stage: Theatre, name: str) -> None:
    """By one of its seeds: a change of the code may let one of them tell another story, but not all."""
    assert any(_catches(stage, name, seed) for seed in _SEEDS[name]), (
        f"{MUTANTS[name].sentence} was not noticed; look again: .venv/bin/python -m tests.simulation --mutants {name}"
    )
