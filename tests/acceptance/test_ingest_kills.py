"""Nothing that was acknowledged is lost or doubled, whoever is killed: the short form of the campaign."""

from __future__ import annotations

import random

import pytest

from tests.campaign.ingest_kills import play


@pytest.mark.timeout(300)
def test_G01_what_is_stored_is_what_was_acknowledged(tmp_path, kafka_broker):
    """Producers by every way in, five kills of the daemon and one of the broker: the stored events are the acknowledged ones, each once."""
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails

    outcome = play(tmp_path, kills=5, restarts=1, seed=seed)

    assert outcome.problems == []
    assert outcome.stored == outcome.acknowledged > 100
