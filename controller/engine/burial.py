"""Keeps what sources could not understand, and says so: in the metrics, and in the log without flooding it.

The inbox calls `store` within the transaction that stores a batch's events, and `tell` once that is durable.
A producer that sends nothing but poison gets its rows (up to the quota), but only a few lines of log in a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from controller.core.model import DeadLetter
from controller.engine.runtime import Runtime
from controller.store import Transaction
from controller.store.letters import Buried

#: So many dead letters of a source get a line of their own in each period of so many seconds; the others are counted.
LINES, PERIOD_SECONDS = 10, 60.0
#: After people were told of a source's dead letters, they are told again of those that came since, together, when this has passed.
TELL_EVERY = timedelta(hours=1)
#: Of a reason so much stands in the log.
_LONGEST = 500


def tell_of_dead_letters(runtime: Runtime, tx: Transaction, origin: str, count: int, *, reason: str) -> None:
    """Tell people of dead letters of a source, in the transaction that made them: the first at once, then their number once in a while."""

    def title(number: int) -> str:
        return f"source {origin}: {'a dead letter' if number == 1 else f'{number:,} dead letters'}"

    body = {"source": origin, "reason": reason[:_LONGEST], "see": f"retrainctl dead list --source {origin}"}
    tx.outbox.count(
        runtime.config.notify,
        kind="dead_letters",
        topic=origin,
        title=title,
        count=count,
        every=TELL_EVERY,
        body=body,
    )


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
        buried = {
            origin: tx.letters.bury(origin, letters[origin], keep=quota.keep, max_bytes=quota.max_bytes)
            for origin in sorted(letters)
        }
        # After all letters, so that two transactions wait for each other in one direction only.
        for origin, each in buried.items():
            if each.new:
                tell_of_dead_letters(self._runtime, tx, origin, len(each.new), reason=each.new[0][1].reason)
        return buried

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
        if any(each.new for each in buried.values()):
            self._runtime.bells.ring("outbox")

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
