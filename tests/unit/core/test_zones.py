"""A sample of `tests/campaign/zones.py`: crontabs, quiet hours and calendars in zones whose clocks are set in odd ways."""

from __future__ import annotations

import pytest

from controller.core.calendar import Calendar
from tests.campaign import zones

SAMPLE = [
    "UTC",
    "Europe/Berlin",  # back from three to two
    "America/New_York",
    "Africa/Cairo",  # from midnight, and not in every year
    "Asia/Beirut",  # back over midnight
    "America/Havana",  # midnight comes twice
    "Australia/Lord_Howe",  # by half an hour
    "Africa/Casablanca",  # for a month a year, with the moon
    "Antarctica/Troll",  # by two hours
    "Pacific/Apia",
    "Asia/Kathmandu",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_G08_a_zone_agrees_with_the_oracle(name: str) -> None:
    """Around the first and the last change of the clock in ten years, and at random."""
    assert zones.check_zone(zones.Zone(name), step=45, seed=7, changes=1) == []


@pytest.mark.parametrize("what", ["closed_until", "quiet_until"])
def test_the_oracle_finds_an_hour_that_is_wrong(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that ignores the zone agrees in UTC, and nowhere else."""
    honest = getattr(zones, what)

    def in_utc(now, calendars=None, **window):  # type: ignore[no-untyped-def]
        if calendars is not None:
            return honest(now, [Calendar(name=c.name, dates=c.dates, days=c.days) for c in calendars])
        return honest(now, **{**window, "timezone": "UTC"})

    monkeypatch.setattr(zones, what, in_utc)
    check = zones.check_calendars if what == "closed_until" else zones.check_quiet
    found = {
        name: check(zones.Zone(name), at=range(1_600_000_000, 1_601_000_000, 3600)) for name in ("UTC", "Asia/Tokyo")
    }

    assert found["UTC"] == []
    assert found["Asia/Tokyo"]


def test_names_of_the_same_zone_are_tried_once() -> None:
    """Berlin and Paris set their clocks alike in these years; Dublin is another hour."""
    found = zones.distinct(["Europe/Berlin", "Europe/Paris", "Europe/Dublin"])

    assert [zone.name for zone in found] == ["Europe/Berlin", "Europe/Dublin"]
