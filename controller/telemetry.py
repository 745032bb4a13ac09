"""Logs and metrics: structured lines with constant event names, and Prometheus counters.

Logs go to standard error, as text for a terminal or as JSON (`RETRAIN_LOG=json`) with ECS field names for a machine.
Whoever reads them may be slow, stopped or gone: no loop ever waits for that. What finds no room is kept for a while, then dropped
and counted.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_ECS = {
    "event": "message",
    "level": "log.level",
    "timestamp": "@timestamp",
    "error": "error.message",
}


#: What a reader that does not read may leave with us; beyond it lines are dropped.
BACKLOG_BYTES = 1 << 20
#: A pipe that says it can be written to takes so much without making us wait (PIPE_BUF).
_PIECE_BYTES = 4096
#: Who waits for a reader looks so often.
_DRAIN_SECONDS = 0.05


class Sink:
    """A descriptor for lines that must never keep their writer waiting.

    A line is written at once where there is room, so that a process that is killed leaves everything it said; where there is none
    it waits here, in order, until the next line or `flush` finds room.
    """

    def __init__(self, descriptor: int, *, tell: Callable[[int], str]) -> None:
        """`tell` makes the line that says how many were dropped; it is written when there is room again."""
        self._descriptor = descriptor
        self._tell = tell
        self._lock = threading.Lock()
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._waiting = bytearray()
        self._untold = 0
        #: Lines dropped since the start.
        self.dropped = 0

    def write(self, text: str) -> int:
        """Write a line, keep it, or drop it; never wait."""
        line = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if len(self._waiting) + len(line) > BACKLOG_BYTES:
                self._drop(1)
            else:
                self._waiting += line
            self._pump()
        return len(text)

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        with self._lock:
            self._pump()

    def drain(self, seconds: float) -> None:
        """Write what waits, for so long as the reader goes on reading within it; for a thread that may wait."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        for _ in range(round(seconds / _DRAIN_SECONDS)):
            self.flush()
            if not self._waiting:
                return
            room.poll(_DRAIN_SECONDS * 1000)

    def _pump(self) -> None:
        while self._waiting and self._room.poll(0):
            try:
                written = os.write(self._descriptor, self._waiting[:_PIECE_BYTES])
            except BlockingIOError:
                return
            except OSError:  # the disk is full, or the reader has gone: nobody will ever have these
                self._drop(max(self._waiting.count(b"\n"), 1))
                self._waiting.clear()
                return
            del self._waiting[:written]
            if not self._waiting and self._untold:
                self._waiting += self._tell(self._untold).encode()
                self._untold = 0

    def _drop(self, count: int) -> None:
        self._untold += count
        self.dropped += count


def configure_logs(*, style: str, level: str = "info", stream: TextIO | None = None) -> Sink | None:
    """Set up logging for this process: `style` is "json" or "text", `level` a name such as "info".

    Returns what standard error is written through; None when a `stream` is given.
    """
    out: Any = stream or Sink(sys.stderr.fileno(), tell=_dropped_as_json if style == "json" else _dropped_as_text)
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if style == "json":
        processors += [_as_ecs, structlog.processors.JSONRenderer()]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty(), pad_event_to=24))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    if stream is not None:
        return None
    # What libraries say goes the same way; on their own they would write to standard error, and wait for it.
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    sink: Sink = out
    return sink


class _Libraries(logging.Handler):
    """Takes the warnings of libraries into our log."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(part=record.name).warning(
            "library.says", text=record.getMessage(), exc_info=record.exc_info or None
        )


def _dropped_as_json(count: int) -> str:
    return json.dumps({"message": "log.lines_dropped", "log.level": "warning", "count": count}) + "\n"


def _dropped_as_text(count: int) -> str:
    return f"[warning] log.lines_dropped count={count}\n"


def logger(name: str) -> Any:
    """Return a structured logger that says which part of the controller speaks."""
    return structlog.get_logger(part=name)


def _as_ecs(log: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del log, method
    return {_ECS.get(name, name): value for name, value in line.items()}


class Metrics:
    """Every metric of the controller, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = self._counter("retrain_events_total", "Events taken in.", "source", "outcome")
        self.decisions = self._counter(
            "retrain_decisions_total", "Decisions of policies.", "model", "policy", "kind", "stage"
        )
        self.jobs = self._counter("retrain_jobs_total", "Changes of state of jobs.", "launcher", "state")
        self.verdicts = self._counter("retrain_verdicts_total", "Verdicts of the gate.", "model", "outcome")
        self.promotions = self._counter("retrain_promotions_total", "Promotions that ended.", "model", "outcome")
        self.outcomes = self._counter(
            "retrain_outcomes_total", "What became of promotions, as far as it was seen.", "model", "outcome"
        )
        self.notifications = self._counter("retrain_notifications_total", "Messages to people.", "channel", "outcome")
        self.dead_letters = Gauge(
            "retrain_dead_letters",
            "Dead letters that wait for a person: raw ones were not understood, events could not be decided.",
            ["source", "kind"],
            registry=self.registry,
        )
        self.dead_letters_dropped = self._counter(
            "retrain_dead_letters_dropped_total", "Dead letters that the quota dropped.", "source"
        )
        self.hooks_refused = self._counter(
            "retrain_hooks_refused_total", "Requests to hooks that were not taken as they came.", "source", "reason"
        )
        self.shed = self._counter(
            "retrain_shed_total", "Requests that were told to come again: too many, or the store was busy.", "what"
        )
        self.log_lines_dropped = self._counter(
            "retrain_log_lines_dropped_total", "Lines of the log that nobody took in time."
        )
        self.callers_refused = self._counter(
            "retrain_callers_refused_total", "Requests to the API by callers who did not prove who they are.", "reason"
        )
        self.source_silent = Gauge(
            "retrain_source_silent",
            "1 while a source with `expect_every` is silent.",
            ["source"],
            registry=self.registry,
        )
        self.source_heard = Gauge(
            "retrain_source_heard_timestamp_seconds",
            "When a source was last heard, in seconds since 1970.",
            ["source"],
            registry=self.registry,
        )
        self.ticks = Histogram(
            "retrain_tick_seconds",
            "How long one tick of a loop took.",
            ["loop"],
            registry=self.registry,
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
        )
        self.loop_age = Gauge(
            "retrain_loop_age_seconds",
            "Time since a loop last finished a tick.",
            ["loop"],
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
