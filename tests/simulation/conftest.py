"""A theatre for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.play import Theatre, theatre


@pytest.fixture(scope="module")
def stage() -> Iterator[Theatre]:
    """Where stories are played."""
    with theatre() as opened:
        yield opened
