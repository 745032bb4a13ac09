"""Time that a test moves, chance that a seed fixes, a log that is kept, and waiting for what really takes time."""

from __future__ import annotations

import random  # noqa: TID251 - here the injected one comes from
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.clock import SystemClock

#: Where a manual clock starts, unless the test says otherwise.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `Clock` that stands still until it is moved. Safe to use from several threads."""

    def __init__(self, now: datetime = EPOCH, monotonic: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._monotonic = monotonic

    def now(self) -> datetime:
        """Return the instant it was moved to."""
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        """Return the seconds it was moved to."""
        with self._lock:
            return self._monotonic

    def advance(self, by: timedelta | float) -> datetime:
        """Let time pass, on both clocks; a number means seconds. Returns the new instant."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError(f"time does not pass backwards ({step}); set_now() is what a jumping clock does")
        with self._lock:
            self._now += step
            self._monotonic += step.total_seconds()
            return self._now

    def set_now(self, now: datetime) -> None:
        """Set the clock on the wall, forwards or backwards, as an administrator does; no time passes."""
        if now.tzinfo is None:
            raise ValueError(f"{now!r} has no time zone")
        with self._lock:
            self._now = now.astimezone(UTC)


class SeededRandom(random.Random):
    """A `Random` that gives the same numbers for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)


class RecordingLog:
    """A `Log` that keeps its lines, as (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append(("error", event, fields))


def wait_until(condition: Callable[[], Any], *, timeout: float = 10.0, pause: float = 0.005, what: str = "") -> Any:
    """Return the first true answer of `condition`, asked with pauses between; fail after `timeout` real seconds."""
    clock = SystemClock()
    deadline = clock.monotonic() + timeout
    never = threading.Event()
    while not (answer := condition()):
        if clock.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what or condition}; last answer {answer!r}")
        never.wait(pause)
    return answer
