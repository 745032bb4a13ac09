"""Who may lead: nobody whose configuration is older than that of a live replica."""

from __future__ import annotations

import pytest

from controller.core.replica import LIVE, is_live, newer_configuration
from tests.factories import NOON, at, make_replica

MINE = make_replica(id="rep-mine", config_version="c1", config_at=NOON)


def test_a_replica_is_gone_when_it_was_not_seen_for_long() -> None:
    assert is_live(make_replica(seen_at=NOON), NOON + LIVE)
    assert not is_live(make_replica(seen_at=NOON), NOON + LIVE + (at(seconds=1) - NOON))


@pytest.mark.parametrize(
    "other, counts",
    [
        pytest.param({"config_version": "c2", "config_at": at(seconds=1)}, True, id="newer"),
        pytest.param({"config_version": "c2", "config_at": at(seconds=-1)}, False, id="older"),
        pytest.param({"config_version": "c1", "config_at": at(seconds=1)}, False, id="the same, loaded later"),
        pytest.param({"config_version": "c2", "config_at": NOON}, True, id="as old, greater name"),
        pytest.param({"config_version": "c0", "config_at": NOON}, False, id="as old, lesser name"),
        pytest.param(
            {"config_version": "c2", "config_at": at(seconds=1), "seen_at": at(hours=-1)}, False, id="newer, gone"
        ),
        pytest.param({"id": "rep-mine", "config_version": "c2", "config_at": at(seconds=1)}, False, id="ourselves"),
    ],
)
def test_the_configuration_that_was_activated_later_counts(other: dict[str, object], counts: bool) -> None:
    rival = make_replica(**{"id": "rep-other", **other})

    assert newer_configuration(MINE, [MINE, rival], NOON) == (rival if counts else None)


def test_of_several_newer_ones_the_newest_is_named() -> None:
    rivals = [make_replica(id=f"rep-{n}", config_version=f"c{n}", config_at=at(seconds=n)) for n in (2, 4, 3)]

    assert newer_configuration(MINE, rivals, NOON) == rivals[1]
