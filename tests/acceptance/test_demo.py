"""The flights demo comes to the same end, whatever happens to the daemon on the way."""

from __future__ import annotations

import random

import pytest

from tests.campaign.demo_kills import compare, play


@pytest.mark.timeout(900)
def test_G03_kills_of_the_daemon_change_nothing(tmp_path):
    """A daemon that is killed again and again during the demo trains each month once and ends with the same table."""
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    calm = play(tmp_path / "calm", months=3, kills=0, seed=seed)
    wild = play(tmp_path / "wild", months=3, kills=8, seed=seed, pace=calm.seconds / 12)

    assert compare(calm, wild, kills=8) == []
    assert {row["state"] for row in calm.table} >= {"PROMOTED", "REJECTED"}
