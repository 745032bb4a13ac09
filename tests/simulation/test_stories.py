"""What must never happen does not happen in the first five hundred stories; the next are in `test_more_stories.py`, for another worker."""

from __future__ import annotations

import pytest

from tests.simulation.play import Theatre

BLOCK = 100


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, 500, BLOCK))
def test_G01_G02_G03_G04_G05_G08_G09_stories_end_well(stage: Theatre, first: int) -> None:
    """Whatever is killed, stopped, lost, late or repeated: nothing is lost, nothing happens twice, everything ends."""
    reports = [stage.play(seed) for seed in range(first, first + BLOCK)]

    assert [report.text() for report in reports if report.broken] == []
