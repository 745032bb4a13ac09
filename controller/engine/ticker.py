"""Calls the timed sources (schedules, probes) when they are due.

A poll may take long: a probe waits for somebody else's server. So each poll gets a thread of its own, and neither the schedules nor the
other probes wait for it; a source is never polled twice at once. A poll that hangs is complained of after its deadline, holds up nobody,
and does not keep the daemon from ending.
Where there are no threads (tests, the simulator), polls run in place, one after the other.

Beside its shape a timed source may have `patience` (a timedelta: how long a poll of it may take) and `close()` (end a running poll soon).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from controller.engine.runtime import Runtime, Ticked
from controller.errors import ControllerError, StoreBusy
from controller.ports import TimedSource
from controller.retry import backoff, store_backoff

#: Every timed source is called at least this often.
LOOK_AGAIN = timedelta(minutes=5)
#: A poll that takes longer is complained of, unless its source says how long it may take.
PATIENCE = timedelta(minutes=1)


class Workers(Protocol):
    """Runs polls; it is asked for one of each name at a time."""

    def begin(self, name: str, poll: Callable[[], None]) -> None:
        """Run `poll` now or soon; it raises nothing."""
        ...


class InPlace:
    """Runs each poll where it is asked for, before it returns."""

    def begin(self, name: str, poll: Callable[[], None]) -> None:
        """Run it."""
        poll()


class PollThreads:
    """Runs each poll in a thread of its own, which does not keep the process alive."""

    def begin(self, name: str, poll: Callable[[], None]) -> None:
        """Start its thread."""
        threading.Thread(target=poll, name=f"poll-{name}", daemon=True).start()


@dataclass(slots=True, eq=False)
class _Poll:
    """A poll that runs."""

    source: TimedSource
    #: Monotonic seconds after which it is complained of.
    deadline: float
    patience: timedelta
    #: It was complained of.
    is_late: bool = False


class Ticker:
    """The loop that polls."""

    name = "ticker"

    def __init__(self, runtime: Runtime, *, workers: Workers | None = None) -> None:
        self._runtime = runtime
        self._workers: Workers = workers or InPlace()
        #: Guards everything below; told when a poll ends.
        self._changed = threading.Condition(threading.RLock())
        self._sources: Mapping[str, TimedSource] = {}
        self._due: dict[str, datetime] = {}
        self._failures: dict[str, int] = {}
        self._running: dict[str, _Poll] = {}
        self._stopped = False

    def use(self, sources: Mapping[str, TimedSource]) -> None:
        """Poll these sources from now on, each of them at once; one that is being polled, when that has ended."""
        with self._changed:
            self._due = {}
            self._sources = dict(sources)
            self._failures = {name: count for name, count in self._failures.items() if name in sources}
        self._runtime.bells.ring(self.name)

    def let_go(self, name: str, *, timeout: float) -> bool:
        """Poll this source no more, and return whether its running poll ended within `timeout` seconds.

        One that did not end is on its own: what it still emits is stored, but nothing waits for it any more.
        """
        with self._changed:
            poll = self._running.get(name)
            self._sources = {other: each for other, each in self._sources.items() if other != name}
            self._due.pop(name, None)
            self._failures.pop(name, None)
            if poll is not None:
                self._close(name, poll.source)
            ended = self._changed.wait_for(lambda: name not in self._running, timeout)
            self._running.pop(name, None)
            return ended

    def stop(self, *, timeout: float) -> bool:
        """Begin no poll any more, and return whether the running ones ended within `timeout` seconds."""
        with self._changed:
            self._stopped = True
            for name, poll in self._running.items():
                self._close(name, poll.source)
            return self._changed.wait_for(lambda: not self._running, timeout)

    def tick(self, now: datetime) -> Ticked:
        """Poll what is due, and complain of polls that do not come back; one bad source never stops another."""
        for name, source in list(self._sources.items()):
            poll = self._claim(name, source, now)
            if poll is not None:
                self._begin(name, poll, now)
        with self._changed:
            monotonic = self._runtime.clock.monotonic()
            late_at = [self._watch(name, poll, monotonic) for name, poll in self._running.items()]
            due = [at for name, at in self._due.items() if name not in self._running]
            instants = [*due, *(now + timedelta(seconds=wait) for wait in late_at if wait is not None)]
        return Ticked(next_at=min(instants, default=None))

    # ------------------------------------------------------------------------------------------------ a poll

    def _claim(self, name: str, source: TimedSource, now: datetime) -> _Poll | None:
        """Return a new poll of this source when it is due and nobody polls it."""
        with self._changed:
            due_at = self._due.get(name, now)
            is_due = due_at <= now or due_at > now + LOOK_AGAIN
            if self._stopped or name in self._running or not is_due or self._sources.get(name) is not source:
                return None
            patience = getattr(source, "patience", PATIENCE)
            deadline = self._runtime.clock.monotonic() + patience.total_seconds()
            poll = self._running[name] = _Poll(source, deadline, patience)
            return poll

    def _begin(self, name: str, poll: _Poll, now: datetime) -> None:
        try:
            self._workers.begin(name, lambda: self._run(name, poll, now))
        except RuntimeError as error:  # no thread can be started: tried again like a poll that failed
            self._end(name, poll, now, due_at=self._fail(name, poll, error, now))

    def _run(self, name: str, poll: _Poll, now: datetime) -> None:
        # Never further ahead than this: a clock that was far in the future and is set back must not silence a source.
        furthest = now + LOOK_AGAIN
        try:
            next_at = poll.source.poll(now)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, also what ends a thread; it is tried again
            due_at = self._fail(name, poll, error, now)
        else:
            due_at = min(next_at or furthest, furthest)
            self._succeed(name, poll)
        self._end(name, poll, now, due_at=due_at)

    def _succeed(self, name: str, poll: _Poll) -> None:
        with self._changed:
            if self._counts(name, poll):
                self._failures.pop(name, None)
                self._runtime.complaints.set(name, "poll", None)

    def _fail(self, name: str, poll: _Poll, error: BaseException, now: datetime) -> datetime:
        """Complain, unless the source is gone or the daemon ends; return when to try again."""
        with self._changed:
            if not self._counts(name, poll) or self._stopped:
                return now
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            reason = error.message if isinstance(error, ControllerError) else repr(error)
            self._runtime.complaints.set(name, "poll", reason)
            is_busy = isinstance(error, StoreBusy)
            self._runtime.log.error("source.failed", source=name, error=reason, exc_info=not is_busy)
            wait = store_backoff if is_busy else backoff
            return now + wait(failures, self._runtime.random)

    def _end(self, name: str, poll: _Poll, now: datetime, *, due_at: datetime) -> None:
        with self._changed:
            if self._running.get(name) is poll:
                del self._running[name]
                if self._counts(name, poll):
                    self._due[name] = due_at
                self._changed.notify_all()
        self._runtime.bells.ring(self.name)

    def _counts(self, name: str, poll: _Poll) -> bool:
        """Say whether a poll's outcome is still of interest: its source was not let go or replaced meanwhile."""
        return self._sources.get(name) is poll.source

    # ------------------------------------------------------------------------------------------ a poll that hangs

    def _watch(self, name: str, poll: _Poll, monotonic: float) -> float | None:
        """Complain of a poll past its deadline; return how many seconds are left until then, None when that has been done."""
        if poll.is_late:
            return None
        if monotonic < poll.deadline:
            return poll.deadline - monotonic
        poll.is_late = True
        reason = f"a poll has not come back for {poll.patience.total_seconds():g} s"
        if self._counts(name, poll):
            self._runtime.complaints.set(name, "poll", reason)
        self._runtime.log.warning("source.slow_poll", source=name, seconds=poll.patience.total_seconds())
        return None

    def _close(self, name: str, source: TimedSource) -> None:
        close = getattr(source, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:  # a plugin may raise anything, and the others must end too
            self._runtime.log.error("source.close_failed", source=name, error=repr(error), exc_info=True)
