"""Logs and metrics: structured lines with constant event names, and Prometheus counters.

Logs go to standard error, as text for a terminal or as JSON (`RETRAIN_LOG=json`) with ECS field names for a machine.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_ECS = {
    "event": "message",
    "level": "log.level",
    "timestamp": "@timestamp",
    "error": "error.message",
}


def configure_logs(*, style: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging for this process: `style` is "json" or "text", `level` a name such as "info"."""
    out = stream or sys.stderr
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if style == "json":
        processors += [_as_ecs, structlog.processors.JSONRenderer()]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=24))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


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
