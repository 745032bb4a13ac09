"""Runs `decide()` over a stream of events and its own timers, in memory, exactly as the evaluator does over the inbox.

The walk is the evaluator's own (`sitting.py`); this moves the time. At each instant first happens what is due in the world (a run ends,
a person pauses, an episode is given up), then the events of the instant are decided, then the timers, again until nothing is due.
A daemon that is never down and never busy would decide the same: timers run at the instant for which they are set.
Called by the backtest, by `plan`, and by the cases of `policy test`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any

from controller.clock import Ids
from controller.config import Config
from controller.core.index import PolicyIndex
from controller.core.model import Event
from controller.engine.backtest.world import Outcomes, Witness, World
from controller.engine.evaluator import settle_states
from controller.engine.sitting import Sitting, glance_at
from controller.ports import Log
from controller.telemetry import Metrics

#: So many timers are looked at in one sitting.
BATCH = 1000
#: An instant at which timers are due again and again is a mistake of ours, and is not repeated for ever.
MOST_ROUNDS = 10_000
#: After so many instants without an event it is asked whether to go on.
OFTEN = 1000


class _Stopped(Exception):
    """Somebody does not want to wait for the rest."""


class Driver:
    """Moves the time in the world of a backtest, and decides."""

    def __init__(self, config: Config, *, outcomes: Outcomes, witness: Witness, now: datetime) -> None:
        self._setting = _Setting(config)
        self.world = World(config, ids=_Numbers(), outcomes=outcomes, witness=witness, now=now)
        #: Events that could not be decided for a reason of their own: the daemon would keep them as dead letters.
        self.broken: list[tuple[str, str]] = []
        self.events = 0
        self._instants = 0
        self._goes_on: Callable[[datetime], bool] = lambda at: True

    def begin(self) -> None:
        """Bring the configuration into force, as the daemon's start does; levels are looked at from now on."""
        settle_states(self.world, self._setting.config)

    def hear(self, now: datetime, events: Sequence[Event]) -> None:
        """Decide on the events of one instant, after everything that was due before it; an instant of the past counts as the present."""
        now = max(now, self.world.now)
        self._pass_until(now)
        self._decide(now, events)
        self.events += len(events)

    def finish(self, until: datetime) -> None:
        """Decide what is due up to an instant, this included."""
        self._pass_until(until)
        self._decide(until, ())

    def run(self, events: Iterable[Sequence[Event]], *, until: datetime, goes_on: Callable[[datetime], bool]) -> bool:
        """Decide on pages of events in their order, and on what is due until the end; return whether it came so far.

        `goes_on` hears now and then how far it is, and stops it by answering False.
        """
        self._goes_on = goes_on
        try:
            for page in events:
                for now, group in groupby(page, _received):
                    self.hear(now, list(group))
                if not goes_on(self.world.now):
                    return False
            self.finish(until)
        except _Stopped:
            return False
        return True

    def _pass_until(self, end: datetime) -> None:
        """Let pass what happens before `end`."""
        while (at := self.world.next_at()) is not None and at < end:
            self._decide(max(at, self.world.now), ())
            self._instants += 1
            if self._instants % OFTEN == 0 and not self._goes_on(self.world.now):
                raise _Stopped

    def _decide(self, now: datetime, events: Sequence[Event]) -> None:
        world = self.world
        world.now = now
        world.move()
        for _ in range(MOST_ROUNDS):
            due = world.policies.due(now, BATCH)
            if events or due:
                events = self._sit(events, due)
            world.runs.settle()
            world.runs.start()
            if not events and not world.policies.due(now, 1):
                return
        raise RuntimeError(f"at {now} timers are due again and again: {world.policies.due(now, 10)}")

    def _sit(self, events: Sequence[Event], due: Sequence[tuple[str, str, str]]) -> Sequence[Event]:
        """Decide on events and timers in one sitting; return the events behind one that could not be decided."""
        sitting = Sitting(self._setting, self.world, events, numbers=len(events) + len(due))
        left: Sequence[Event] = ()
        for position, event in enumerate(events):
            try:
                sitting.hear(event, glance_at(self._setting, event))
            except Exception as error:  # noqa: BLE001 - as in the daemon, one bad event must not stop the others
                self.broken.append((event.id, f"{type(error).__name__}: {error}"))
                left = events[position + 1 :]
                break
        else:
            for model, policy, key in due:
                sitting.look(model, policy, key)
        sitting.close()
        return left


def pages_of(events: Iterable[Event], size: int = 1000) -> Iterator[list[Event]]:
    """Yield events in pages; those of one instant stay together as far as a page goes."""
    page: list[Event] = []
    for event in events:
        if len(page) >= size and event.received_at != page[-1].received_at:
            yield page
            page = []
        page.append(event)
    if page:
        yield page


def _received(event: Event) -> datetime:
    return event.received_at


class _Setting:
    """The configuration that decides; nothing is logged or counted in metrics."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.index = PolicyIndex([policy for spec in config.models.values() for policy in spec.policies.values()])
        self.log: Log = _Silence()

    @cached_property
    def metrics(self) -> Metrics:
        """Metrics nobody reads."""
        return Metrics()


class _Silence:
    def debug(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def info(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def warning(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def error(self, event: str, **fields: Any) -> None:
        """Say nothing."""


class _Numbers(Ids):
    """Ids that are only numbers: the same backtest gives the same ids."""

    def __init__(self) -> None:
        self._made = 0

    def make_many(self, kind: str, count: int) -> list[str]:
        """Return so many new ids of `kind`, rising."""
        first = self._made + 1
        self._made += count
        return [f"{kind}-{number:06d}" for number in range(first, self._made + 1)]
