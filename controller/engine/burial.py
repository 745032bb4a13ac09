"""Keeps what sources could not understand, and says so: in the metrics, and in the log without flooding it.

The inbox calls `store` within the transaction that stores a batch's events, and `tell` once that is durable.
A producer that sends nothing but poison gets its rows (up to the quota), but only a few lines of log in a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.core.model import DeadLetter
from controller.engine.runtime import Runtime
from controller.store import Transaction
from controller.store.letters import Buried

#: So many dead letters of a source get a line of their own in each period of so many seconds; the others are counted.
LINES, PERIOD_SECONDS = 10, 60.0
#: Of a reason so much stands in the log.
_LONGEST = 500


@dataclass(slots=True)
class _Told:
    #: Monotonic seconds at which the period began.
    since: float
    lines: int = 0
    #: Dead letters without a line, since the last line.
    untold: int = 0


class Burial:
    """Stores dead letters for the inbox."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._told: dict[str, _Told] = {}

    def store(self, tx: Transaction, letters: Mapping[str, Sequence[DeadLetter]]) -> dict[str, Buried]:
        """Store the dead letters of several sources, in the order of their names."""
        quota = self._runtime.config.dead_letters
        return {
            origin: tx.letters.bury(origin, letters[origin], keep=quota.keep, max_bytes=quota.max_bytes)
            for origin in sorted(letters)
        }

    def tell(self, buried: Mapping[str, Buried]) -> None:
        """Count and log what is durable now."""
        metrics = self._runtime.metrics
        for origin, each in buried.items():
            if each.known:
                metrics.events.labels(origin, "duplicate").inc(each.known)
            if each.new:
                metrics.events.labels(origin, "dead").inc(len(each.new))
            if each.standing is not None:
                metrics.dead_letters.labels(origin, "raw").set(each.standing)
            if each.dropped:
                metrics.dead_letters_dropped.labels(origin).inc(each.dropped)
            for id_, letter in each.new:
                self._line(origin, id_, letter)

    def _line(self, origin: str, id_: str, letter: DeadLetter) -> None:
        now = self._runtime.clock.monotonic()
        told = self._told.get(origin)
        if told is None:
            told = self._told[origin] = _Told(now)
        elif now - told.since >= PERIOD_SECONDS:
            told.since, told.lines = now, 0
        if told.lines >= LINES:
            told.untold += 1
            return
        self._runtime.log.warning(
            "letter.dead",
            source=origin,
            letter_id=id_,
            place=letter.place[:_LONGEST],
            reason=letter.reason[:_LONGEST],
            size=letter.size,
            without_a_line=told.untold,
        )
        told.lines, told.untold = told.lines + 1, 0
