"""When a probe looks, and what of it becomes an event.

The nominal instants of a probe are the multiples of `every` since 1970; a look begins up to `jitter` after one. At start a probe looks at
once, unless the ledger says that the present instant was concluded. An instant that passed while nobody looked is not made up: a probe
knows only the present.

A *reading* is identified by its nominal instant, so that the same instant is never two events. A *change* compares with the value that was
emitted last; the first value ever seen is only remembered. Events and what is remembered of them are one batch.
A look that fails leaves nothing, and is tried again as `circuit.py` says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from controller.core.model import Json, NewEvent
from controller.errors import ControllerError, RetryLater, StoreBusy
from controller.ports import Batch, SourceContext
from controller.sources.probe.circuit import LONGEST, Circuit
from controller.sources.probe.cursor import LEDGER_KEY, Memory, iso
from controller.sources.probe.options import ProbeOptions
from controller.sources.probe.reading import Look, Sample, checked, digest, has_moved

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Longest wait that the other side may ask for (`Retry-After`).
_LONGEST_ASKED_FOR = timedelta(hours=1)
#: A look that is over its deadline has so much longer to end before its thread counts as hanging.
_TIME_TO_END = timedelta(seconds=10)
_MAX_SUBJECT = 2048
_SHOWN_SAMPLES = 10
_SHOWN_PAYLOAD = 64 << 10


class Probe(ABC):
    """A `TimedSource` that looks at something; each kind says how."""

    Options: ClassVar[type[ProbeOptions]]

    def __init__(self, options: ProbeOptions, context: SourceContext) -> None:
        self.options = options
        self.context = context
        self._circuit = Circuit(options.circuit, options.every)
        self._due: datetime | None = None
        self._report: dict[str, Json] = {}

    # ------------------------------------------------------------------------------------------ what a kind adds

    @abstractmethod
    def look(self, cursor: Json) -> Look:
        """Look once, within `options.deadline`; raises `RetryLater` or `GiveUp` when that fails.

        `cursor` is what the look before handed on, None at first.
        """

    @abstractmethod
    def question(self) -> Json:
        """Return what is asked, without secrets: when it becomes another question, what is remembered is forgotten."""

    @abstractmethod
    def described(self) -> Mapping[str, Json]:
        """Return what an event says about where its value is from, without secrets."""

    def subject_of(self, sample: Sample) -> str | None:
        """Return what a sample is about, when the options give no subject."""
        return None

    def close(self) -> None:
        """End a running look soon; called from another thread when the source goes away."""
        return

    # ------------------------------------------------------------------------------------------------- a source

    @property
    def patience(self) -> timedelta:
        """How long a poll may take."""
        return self.options.deadline + _TIME_TO_END

    def poll(self, now: datetime) -> datetime | None:
        """Look, when it is time to, and emit what came of it; returns when to look next."""
        # A time to wait that is longer than any we set was set by a clock that was wrong.
        longest = max(2 * self.options.every, LONGEST, _LONGEST_ASKED_FOR)
        if self._due is None or not now < self._due <= now + longest:
            self._due = self._look(now)
            self._report = {**self._report, "next_at": iso(self._due), **self._state_of_circuit()}
        return self._due

    def report(self) -> Mapping[str, Json]:
        """Return the last values, the next instant, failures and cursor."""
        return self._report

    def _look(self, now: datetime) -> datetime:
        instant = self._instant(now)
        try:
            memory = self._remember()
        except StoreBusy as busy:
            return self._wait_for_store(busy, now)
        if memory.instant is not None and instant <= memory.instant <= instant + self.options.every:
            return self._next(memory.instant)
        began = self.context.clock.monotonic()
        try:
            look = self.look(memory.cursor)
            took = self.context.clock.monotonic() - began
            batch = self._conclude(look, memory, instant=instant, now=now, took=took)
        except ControllerError as error:
            return self._fail(error, now)
        try:
            if batch is not None:
                self.context.emit(batch)
        except StoreBusy as busy:
            return self._wait_for_store(busy, now)
        self._succeed(look, now)
        return now if look.more else self._next(instant)

    # ------------------------------------------------------------------------------------------------ instants

    def _instant(self, now: datetime) -> datetime:
        """Return the nominal instant that `now` belongs to."""
        return _EPOCH + (now - _EPOCH) // self.options.every * self.options.every

    def _next(self, instant: datetime) -> datetime:
        return instant + self.options.every + self.options.spread * self.context.random.random()

    def _wait_for_store(self, busy: StoreBusy, now: datetime) -> datetime:
        self.context.log.warning("probe.store_busy", source=self.context.name, error=busy.message)
        return now + timedelta(seconds=busy.after_seconds)

    # ---------------------------------------------------------------------------------------------- conclusions

    def _remember(self) -> Memory:
        asked = digest(self.question())
        stored = self.context.recall(LEDGER_KEY).get(LEDGER_KEY)
        memory = None if stored is None else Memory.from_json(stored)
        return memory if memory is not None and memory.asked == asked else Memory(asked=asked)

    def _conclude(self, look: Look, memory: Memory, *, instant: datetime, now: datetime, took: float) -> Batch | None:
        """Return what to store; None when there is nothing to say and nothing new to remember."""
        news = list(self._news(look.samples, memory))
        events = [
            self._event(sample, memory, look=look, instant=instant, now=now, took=took)
            for sample, is_first in news
            if not is_first
        ]
        values = {sample.key: sample.value for sample, _ in news if sample.identity is None}
        seen = [sample for sample in look.samples if sample.identity is None]
        fresh = memory.with_values(values, seen=seen)
        fresh = replace(fresh, cursor=look.cursor, instant=memory.instant if look.more else instant)
        if not events and self.options.emit != "reading" and _same_but_for_instant(fresh, memory):
            return None
        return Batch(events=events, ledger=[fresh.to_entry()])

    def _news(self, samples: Sequence[Sample], memory: Memory) -> Iterator[tuple[Sample, bool]]:
        """Go through what is worth an event, or is the first of its kind and only worth remembering."""
        keys = Counter(sample.key for sample in samples if sample.identity is None)
        for key, times in keys.items():
            if times > 1:
                raise RetryLater(
                    f"{times} values have the same key {key!r:.80}", hint="let the query give each thing one value"
                )
        for sample in samples:
            checked([sample.value, dict(sample.labels), dict(sample.data)], what="the value")
            self._subject(sample)  # also of what is not emitted now: the report shows it
            if self.options.emit != "change" or sample.identity is not None:
                yield sample, False
            elif sample.key not in memory.values:
                yield sample, True
            elif has_moved(memory.values[sample.key], sample.value, step=self.options.step):
                yield sample, False

    def _event(
        self, sample: Sample, memory: Memory, *, look: Look, instant: datetime, now: datetime, took: float
    ) -> NewEvent:
        data: dict[str, Json] = {
            "value": sample.value,
            "previous": memory.values.get(sample.key),
            **sample.data,
            **self.described(),
            "took_seconds": round(took, 6),
        }
        if sample.labels:
            data["labels"] = dict(sample.labels)
        if look.place is not None:
            data["cursor"] = look.place
        if look.warnings:
            data["warnings"] = list(look.warnings)
        at = iso(instant)
        return NewEvent(
            source=f"/probes/{self.context.name}",
            source_id=sample.identity or (f"{at}#{digest(sample.key)}" if sample.key else at),
            type=self.options.type,
            subject=self._subject(sample),
            time=now,
            data=data,
        )

    def _subject(self, sample: Sample) -> str | None:
        subject = self.options.subject or self.subject_of(sample) or None
        if subject is not None and (len(subject) > _MAX_SUBJECT or not subject.isprintable()):
            raise RetryLater(
                f"{subject!r:.80} cannot be a subject", hint="name another label or column, or a `subject`"
            )
        return subject

    def _succeed(self, look: Look, now: datetime) -> None:
        self._circuit.succeed()
        complain = self.context.complain
        complain("look", None)
        complain("circuit", None)
        complain("warnings", f"warned: {'; '.join(look.warnings):.300}" if look.warnings else None)
        is_missed = not look.samples and not look.may_be_empty and self.options.empty == "complain"
        reason = look.without_value or ("the answer is empty" if is_missed else None)
        complain("no data", f"no data: {reason}" if reason else None)
        shown = [self._shown(sample) for sample in look.samples[:_SHOWN_SAMPLES]]
        self._report = {"last_at": iso(now), "last": shown, "samples": len(look.samples), "cursor": look.cursor}
        self.context.note("payload", look.payload[:_SHOWN_PAYLOAD])
        self.context.note("mapping", {"samples": shown})

    def _shown(self, sample: Sample) -> Json:
        return {"value": sample.value, "labels": dict(sample.labels), "subject": self._subject(sample)}

    def _fail(self, error: ControllerError, now: datetime) -> datetime:
        wait = self._circuit.fail(self.context.random)
        if isinstance(error, RetryLater) and error.after_seconds is not None:
            wait = max(wait, min(timedelta(seconds=error.after_seconds), _LONGEST_ASKED_FOR))
        due = now + wait
        hint = f" ({error.hint})" if error.hint else ""
        self.context.complain("look", f"cannot look: {error.message}{hint}")
        if self._circuit.is_open:
            times = self._circuit.failures
            self.context.complain("circuit", f"{times} looks in a row failed; the next is at {iso(due)}")
        self.context.log.warning(
            "probe.failed", source=self.context.name, error=error.message, failures=self._circuit.failures
        )
        return due

    def _state_of_circuit(self) -> dict[str, Json]:
        return {"circuit": "open" if self._circuit.is_open else "closed", "failures": self._circuit.failures}


def _same_but_for_instant(one: Memory, other: Memory) -> bool:
    if other.instant is None or one.cursor != other.cursor or one.values.keys() != other.values.keys():
        return False
    return not any(has_moved(other.values[key], value, step=None) for key, value in one.values.items())
