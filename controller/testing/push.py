"""What every source that others call promises (`PushSource`)."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from controller.errors import InvalidInput, Unauthorized
from controller.ports import PushSource, Request, Taken
from controller.testing.sources import MemoryInbox

#: Bodies that nobody means; a source may keep them, refuse them or ignore them, and nothing else.
GARBAGE = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"[[[[[[[[[[[[",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'{"a": 1, "a": 2}',
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b'{"a": "\\u0000"}',
    b"[" * 100_000,
    b"1" * 5_000,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Somebody whom a source knows."""

    #: Builds the source anew.
    make_source: Callable[[], PushSource]
    #: Gives the body of one more occurrence.
    body: Callable[[], bytes]
    #: Makes a request with a body.
    prove: Callable[[bytes], Request]

    def call(self, body: bytes) -> Taken:
        """Return what a source that was built anew makes of a request with this body."""
        return self.make_source().take(self.prove(body))


class PushSourceContract(ABC):
    """The suite for sources that are called: subclass it as `Test…` and override the fixtures."""

    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        """Return an empty inbox; here is what the source notes, and its clock."""
        return MemoryInbox()

    @pytest.fixture
    @abstractmethod
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], PushSource]:
        """Return a function that builds a source over the inbox's context."""

    @pytest.fixture
    @abstractmethod
    def body(self) -> Callable[[], bytes]:
        """Return a function that gives the body of one more occurrence: at least one event."""

    @pytest.fixture
    @abstractmethod
    def prove(self, inbox: MemoryInbox) -> Callable[[bytes], Request]:
        """Return a function that makes a request with this body, by a caller that the source knows."""

    @pytest.fixture
    def caller(
        self, make_source: Callable[[], PushSource], body: Callable[[], bytes], prove: Callable[[bytes], Request]
    ) -> Caller:
        """Return somebody whom the source knows; made of the fixtures above."""
        return Caller(make_source=make_source, body=body, prove=prove)

    @pytest.fixture
    def strip(self) -> Callable[[Request], Request] | None:
        """Return a function that takes the proof out of a request; None for a source that asks for none."""
        return lambda request: replace(
            request, headers=[(name, value) for name, value in request.headers if name == "content-type"]
        )

    def test_options_are_a_closed_model(self, make_source: Callable[[], PushSource]) -> None:
        """The options have a JSON schema, and refuse a key that they do not know."""
        options: type[BaseModel] = make_source().Options

        assert options.model_json_schema()["type"] == "object"
        with pytest.raises(ValidationError, match="no_such_option"):
            options.model_validate({"no_such_option": 1})

    def test_it_only_computes(self, caller: Caller, inbox: MemoryInbox) -> None:
        """Neither building nor taking starts a thread, emits or remembers anything: storing is up to whoever calls `take`."""
        threads = threading.active_count()

        caller.call(caller.body())

        assert threading.active_count() == threads
        assert not inbox.batches
        assert not inbox.ledger

    def test_each_occurrence_is_an_event(self, caller: Caller, inbox: MemoryInbox) -> None:
        """What came is in the batch, with an identity and a type, and can be stored as it is."""
        source = caller.make_source()
        batches = [source.take(caller.prove(caller.body())).batch for _ in range(3)]

        receipts = [receipt for batch in batches for receipt in inbox.emit(batch)]

        assert all(batch.events for batch in batches)
        assert all(event.source and event.source_id and event.type for event in inbox.events)
        assert not any(receipt.duplicate for receipt in receipts)

    def test_a_repetition_is_the_same_event(self, caller: Caller, inbox: MemoryInbox) -> None:
        """The same body has the same identities, also for a source that was built anew: senders repeat what we answered too late."""
        same = caller.body()
        inbox.emit(caller.call(same).batch)

        receipts = inbox.emit(caller.call(same).batch)

        assert all(receipt.duplicate for receipt in receipts)

    def test_who_proves_nothing_is_refused(
        self, caller: Caller, inbox: MemoryInbox, strip: Callable[[Request], Request] | None
    ) -> None:
        """Without its proof a request is `Unauthorized`, whatever its body is, with one and the same message."""
        if strip is None:
            pytest.skip("it asks for no proof")
        source, messages = caller.make_source(), set()
        for tried in (caller.body(), b"", b"{"):
            with pytest.raises(Unauthorized) as caught:
                source.take(strip(caller.prove(tried)))
            messages.add(caught.value.message)

        assert len(messages) == 1
        assert "payload" not in inbox.notes

    @pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
    def test_garbage_is_refused_kept_or_ignored(self, caller: Caller, inbox: MemoryInbox, garbage: bytes) -> None:
        """A body that makes no sense is `InvalidInput`, or a dead letter that can be stored; it is never an accident."""
        taken = take_or_refuse(caller.make_source(), caller.prove(garbage))

        if taken is not None:
            inbox.emit(taken.batch)
            assert taken.batch.events or taken.batch.dead or taken.reply is not None or not garbage.strip(b"[]{}")

    def test_a_dead_letter_can_be_read_again(self, caller: Caller) -> None:
        """Who makes dead letters reads them again, and says `InvalidInput` as long as they make no sense."""
        source = caller.make_source()
        taken = take_or_refuse(source, caller.prove(b'{"nobody": "means this"'))
        if taken is None or not taken.batch.dead:
            pytest.skip("it refuses what it does not understand")

        with pytest.raises(InvalidInput):
            source.read_again(taken.batch.dead[0])  # type: ignore[attr-defined]


def take_or_refuse(source: PushSource, request: Request) -> Taken | None:
    """Return what a request came to; None when it was refused as `InvalidInput`. Every other exception is an accident."""
    try:
        return source.take(request)
    except InvalidInput:
        return None
