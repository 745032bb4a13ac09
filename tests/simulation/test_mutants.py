"""Bugs of the peers, planted into the real code, are seen by the oracle that knows none of them."""

from __future__ import annotations

import json

import pytest

from tests.simulation.__main__ import CAUGHT, WITHIN
from tests.simulation.mutants import MUTANTS
from tests.simulation.play import Theatre

_SEEDS: dict[str, int] = json.loads(CAUGHT.read_text())


def test_every_mutant_has_a_seed() -> None:
    """Each of at least 25 is caught by a seed that is not far away."""
    assert len(MUTANTS) >= 25
    assert set(_SEEDS) == set(MUTANTS)
    assert max(_SEEDS.values()) < WITHIN


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(_SEEDS))
def test_a_mutant_is_caught(stage: Theatre, name: str) -> None:
    """An invariant breaks while it is planted, and holds when the same story is played without it."""
    seed = _SEEDS[name]

    with MUTANTS[name].planted():
        planted = stage.play(seed)
    clean = stage.play(seed)

    assert planted.broken, f"{MUTANTS[name].sentence} was not noticed"
    assert not clean.broken, clean.text()
