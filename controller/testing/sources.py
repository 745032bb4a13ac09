"""What every source promises, and an inbox in memory that takes what it emits."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel, ValidationError

from controller.clock import Clock
from controller.core.model import DeadLetter, Json, NewEvent, Receipt
from controller.errors import StoreBusy
from controller.ports import Batch, Source, SourceContext, StreamSource, TimedSource
from controller.testing.fakes import ManualClock, RecordingLog, SeededRandom, wait_until


class MemoryInbox:
    """An inbox as `ports.py` describes it: a batch is stored as a whole, and an identity once.

    Everything crosses as JSON in UTF-8, as it does on the way to a database. Safe to use from
    several threads.
    """

    def __init__(self, *, name: str = "source", clock: Clock | None = None) -> None:
        self.name = name
        self.clock: Clock = clock or ManualClock()
        self.log = RecordingLog()
        #: What was stored, in order.
        self.events: list[NewEvent] = []
        #: What the source remembers.
        self.ledger: dict[str, Json] = {}
        #: Sizes of the batches that were stored, as (events, ledger entries).
        self.batches: list[tuple[int, int]] = []
        #: Events that were recognised as known.
        self.duplicates: list[NewEvent] = []
        #: The complaints that stand.
        self.complaints: dict[str, str] = {}
        #: So many calls of `emit` are refused from now on.
        self.refusals = 0
        #: What a refused source is told to wait.
        self.refused_for_seconds = 0.01
        #: What could not be understood, by place: the first of each.
        self.dead: dict[str, DeadLetter] = {}
        #: What the source noted last, by name.
        self.notes: dict[str, Json | bytes] = {}
        self._ids: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def context(self, base: Path) -> SourceContext:
        """Return what a source is built with; it emits into this inbox."""
        return SourceContext(
            name=self.name,
            base=base,
            clock=self.clock,
            random=SeededRandom(),
            log=self.log,
            emit=self.emit,
            recall=self.recall,
            complain=self.complain,
            note=self.notes.__setitem__,
        )

    def emit(self, batch: Batch) -> Sequence[Receipt]:
        """Store a batch; refuse it as a whole when a refusal is pending, or when it is not JSON."""
        with self._lock:
            if self.refusals > 0:
                self.refusals -= 1
                raise StoreBusy("the test's store is busy", after_seconds=self.refused_for_seconds)
            ledger = {entry.key: _through_json(entry.value) for entry in batch.ledger}
            for event in batch.events:
                _through_json([event.source, event.source_id, event.type, event.subject, event.data])
                if event.time is not None and event.time.tzinfo is None:
                    raise ValueError(f"{event.source_id}: the time has no zone")
            receipts = [self._store(event) for event in batch.events]
            for key, value in ledger.items():
                _through_json(key)
                if value is None:
                    self.ledger.pop(key, None)
                else:
                    self.ledger[key] = value
            for letter in batch.dead:
                _through_json(letter.meta)
                self.dead.setdefault(letter.place, letter)
            self.batches.append((len(batch.events), len(batch.ledger)))
            return receipts

    def recall(self, prefix: str) -> Mapping[str, Json]:
        """Return what the source remembers under keys with this prefix."""
        with self._lock:
            return {key: _through_json(value) for key, value in self.ledger.items() if key.startswith(prefix)}

    def complain(self, name: str, reason: str | None) -> None:
        """Keep a complaint, or drop it."""
        with self._lock:
            if reason is None:
                self.complaints.pop(name, None)
            else:
                self.complaints[name] = reason

    def _store(self, event: NewEvent) -> Receipt:
        identity = (event.source, event.source_id)
        known = self._ids.get(identity)
        if known is not None:
            self.duplicates.append(event)
            return Receipt(event_id=known, duplicate=True)
        self._ids[identity] = f"evt-{len(self._ids) + 1}"
        self.events.append(event)
        return Receipt(event_id=self._ids[identity], duplicate=False)


def _through_json(value: Json) -> Json:
    return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8"))


def run_until(source: StreamSource, condition: Callable[[], Any], *, timeout: float = 10.0) -> None:
    """Run a streaming source in a thread until the condition holds, then stop it and see that it
    ends within a second.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            source.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="source under test", daemon=True)
    thread.start()
    try:
        wait_until(lambda: condition() or errors, timeout=timeout, what="the source")
    finally:
        stop.set()
        thread.join(timeout=2.0)
    if errors:
        raise errors[0]
    assert not thread.is_alive(), "run() did not end soon after stop was set"


class SourceContract(ABC):
    """The suite for sources that stream or are timed: subclass it as `Test…` and override the
    fixtures.
    """

    @pytest.fixture
    @abstractmethod
    def inbox(self) -> MemoryInbox:
        """Return an empty inbox, with a `ManualClock` for a timed source and a `SystemClock` for a
        streaming one.
        """

    @pytest.fixture
    @abstractmethod
    def make_source(self, inbox: MemoryInbox) -> Callable[[], Source]:
        """Return a function that builds a source over the inbox; all look at the same world, where
        nothing happened.
        """

    @pytest.fixture
    @abstractmethod
    def occur(self, inbox: MemoryInbox) -> Callable[[], None]:
        """Return a function that makes one more thing happen in the world, which is one event."""

    def drive(self, source: Source, inbox: MemoryInbox, condition: Callable[[], Any]) -> None:
        """Let a source work until the condition holds."""
        if hasattr(source, "run"):
            run_until(cast("StreamSource", source), condition)
            return
        clock = cast("ManualClock", inbox.clock)
        for _ in range(20):
            try:
                due = cast("TimedSource", source).poll(clock.now())
            except StoreBusy:  # the ticker polls it again after a backoff
                due = clock.now() + timedelta(seconds=1)
            if condition():
                return
            assert due is not None, "nothing more to come"
            clock.advance(due - clock.now())
        pytest.fail("polled 20 times in vain")

    def rest(self, source: Source, inbox: MemoryInbox) -> None:
        """Let a source work for a moment in which nothing happens."""
        if hasattr(source, "run"):
            ends_at = inbox.clock.monotonic() + 0.5
            self.drive(source, inbox, lambda: inbox.clock.monotonic() >= ends_at)
        else:
            cast("TimedSource", source).poll(inbox.clock.now())

    def test_options_are_a_closed_model(self, make_source: Callable[[], Source]) -> None:
        """The options have a JSON schema, and refuse a key that they do not know."""
        options: type[BaseModel] = make_source().Options

        assert options.model_json_schema()["type"] == "object"
        with pytest.raises(ValidationError, match="no_such_option"):
            options.model_validate({"no_such_option": 1})

    def test_building_starts_nothing(self, make_source: Callable[[], Source], inbox: MemoryInbox) -> None:
        """A constructor only stores: no thread, nothing emitted, nothing remembered."""
        threads = threading.active_count()

        make_source()

        assert threading.active_count() == threads
        assert not inbox.batches
        assert not inbox.complaints

    def test_each_occurrence_is_one_event(
        self, make_source: Callable[[], Source], inbox: MemoryInbox, occur: Callable[[], None]
    ) -> None:
        """What happens is emitted, with an identity, a type and a time."""
        source = make_source()
        self.rest(source, inbox)

        for count in (1, 2, 3):
            occur()
            self.drive(source, inbox, lambda count=count: len(inbox.events) >= count)  # type: ignore[misc]

        assert len(inbox.events) == 3
        assert len({(event.source, event.source_id) for event in inbox.events}) == 3
        assert all(event.source and event.source_id and event.type for event in inbox.events)
        assert all(event.time is not None for event in inbox.events)
        assert not inbox.duplicates

    def test_a_restart_repeats_nothing(
        self, make_source: Callable[[], Source], inbox: MemoryInbox, occur: Callable[[], None]
    ) -> None:
        """What is durable is remembered: a source built anew does not even try to emit it again."""
        source = make_source()
        self.rest(source, inbox)
        occur()
        self.drive(source, inbox, lambda: inbox.events)

        self.rest(make_source(), inbox)

        assert len(inbox.events) == 1
        assert not inbox.duplicates

    def test_what_happens_while_it_is_down_is_not_lost(
        self, make_source: Callable[[], Source], inbox: MemoryInbox, occur: Callable[[], None]
    ) -> None:
        """A source that was seen before catches up with what happened meanwhile."""
        self.rest(make_source(), inbox)
        occur()

        self.drive(make_source(), inbox, lambda: inbox.events)

        assert len(inbox.events) == 1

    def test_a_lost_ledger_makes_no_second_event(
        self, make_source: Callable[[], Source], inbox: MemoryInbox, occur: Callable[[], None]
    ) -> None:
        """What is emitted again has the identity that it had before."""
        source = make_source()
        self.rest(source, inbox)
        occur()
        self.drive(source, inbox, lambda: inbox.events)
        inbox.ledger.clear()

        self.rest(make_source(), inbox)

        assert len(inbox.events) == 1

    def test_a_busy_store_loses_nothing(
        self, make_source: Callable[[], Source], inbox: MemoryInbox, occur: Callable[[], None]
    ) -> None:
        """A refused batch is tried again, and nothing of it is remembered before."""
        source = make_source()
        self.rest(source, inbox)
        remembered = dict(inbox.ledger)
        inbox.refusals = 2
        occur()

        self.drive(source, inbox, lambda: inbox.refusals < 2)
        assert inbox.events or inbox.ledger == remembered
        self.drive(source, inbox, lambda: inbox.events)

        assert len(inbox.events) == 1
        assert not inbox.duplicates
