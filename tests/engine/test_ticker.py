"""Timed sources are called when they are due, each on its own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from controller.errors import RetryLater
from controller.ports import PluginOptions
from tests.engine.house import House


class Every:
    """A timed source that wants to be called every so often."""

    class Options(PluginOptions):
        """Options."""

    Options_: ClassVar[type[PluginOptions]] = Options

    def __init__(self, period: timedelta | None, *errors: Exception) -> None:
        self.period = period
        self.errors = list(errors)
        self.polls: list[datetime] = []

    def poll(self, now: datetime) -> datetime | None:
        """Note the call."""
        self.polls.append(now)
        if self.errors:
            raise self.errors.pop(0)
        return None if self.period is None else now + self.period


MINUTE = timedelta(minutes=1)


def test_polled_at_start_and_when_due(house: House) -> None:
    """At once, then at the instants it asks for; the tick says when the next one is."""
    one, never = Every(MINUTE), Every(None)
    house.ticker.use({"one": one, "never": never})
    start = house.now
    assert house.ticker.tick(start).next_at == start + MINUTE

    house.ticker.tick(house.clock.advance(59))
    house.ticker.tick(house.clock.advance(1))

    assert one.polls == [start, start + MINUTE]
    assert never.polls == [start]


def test_a_bad_source_stops_no_other(house: House) -> None:
    """It is complained of, tried again after a backoff, and well again when it succeeds."""
    bad, good = Every(MINUTE, KeyError("a bug"), RetryLater("503")), Every(MINUTE)
    house.ticker.use({"bad": bad, "good": good})
    house.ticker.tick(house.now)
    assert len(good.polls) == 1
    (complaint,) = house.runtime.complaints.all()
    assert complaint.startswith("bad: ")

    for _ in range(4):
        house.ticker.tick(house.clock.advance(MINUTE))

    assert len(good.polls) == 5
    assert len(bad.polls) >= 3
    assert house.runtime.complaints.all() == []


def test_a_new_set_of_sources(house: House) -> None:
    """After a reload what is gone is not polled any more, and what is there is polled at once."""
    old, new = Every(MINUTE), Every(MINUTE)
    house.ticker.use({"old": old})
    house.ticker.tick(house.now)
    house.ticker.use({"new": new})

    house.ticker.tick(house.clock.advance(MINUTE))

    assert (len(old.polls), len(new.polls)) == (1, 1)
