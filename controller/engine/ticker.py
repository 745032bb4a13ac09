"""Calls the timed sources (schedules, later probes) when they are due."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from controller.engine.runtime import Runtime, Ticked
from controller.errors import ControllerError, StoreBusy
from controller.ports import TimedSource
from controller.retry import backoff

#: Every timed source is called at least this often.
LOOK_AGAIN = timedelta(minutes=5)


class Ticker:
    """The loop that polls."""

    name = "ticker"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sources: Mapping[str, TimedSource] = {}
        self._due: dict[str, datetime] = {}
        self._failures: dict[str, int] = {}

    def use(self, sources: Mapping[str, TimedSource]) -> None:
        """Poll these sources from now on, each of them at once."""
        self._due = {}
        self._sources = dict(sources)
        self._runtime.bells.ring(self.name)

    def tick(self, now: datetime) -> Ticked:
        """Poll what is due; one bad source never stops another."""
        for name, source in self._sources.items():
            due_at = self._due.get(name, now)
            if due_at <= now or due_at > now + LOOK_AGAIN:
                self._poll(name, source, now)
        next_at = min(self._due.values(), default=None)
        return Ticked(next_at=next_at)

    def _poll(self, name: str, source: TimedSource, now: datetime) -> None:
        try:
            next_at = source.poll(now)
        except Exception as error:  # a plugin may raise anything; it is complained of, and tried again
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            reason = error.message if isinstance(error, ControllerError) else repr(error)
            self._runtime.complaints.set(name, "poll", reason)
            self._runtime.log.error(
                "source.failed",
                source=name,
                error=reason,
                exc_info=not isinstance(error, StoreBusy),
            )
            self._due[name] = now + backoff(failures, self._runtime.random)
            return
        self._failures.pop(name, None)
        self._runtime.complaints.set(name, "poll", None)
        # Never further ahead than this: a clock that was far in the future and is set back must not silence a source.
        furthest = now + LOOK_AGAIN
        self._due[name] = min(next_at or furthest, furthest)
