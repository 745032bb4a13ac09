"""A Kafka source in a thread, over an inbox in memory, and what a test says to it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from controller.clock import SystemClock
from controller.core.model import Json
from controller.ports import Batch
from controller.sources.kafka import KafkaSource
from controller.sources.kafka.options import KafkaOptions
from controller.testing import MemoryInbox, wait_until
from tests.kafka import KafkaBroker

CLIENTS = ("kafka-python", "confluent")
#: A shared machine stalls now and then.
PATIENCE = 50.0


def cloud_event(number: int, **more: Any) -> bytes:
    """A structured event with the id `number`."""
    event = {"specversion": "1.0", "id": str(number), "source": "/test", "type": "data.arrived", "data": {"n": number}}
    return json.dumps({**event, **more}).encode()


class House:
    """One topic, one group, one inbox; sources come and go."""

    def __init__(self, broker: KafkaBroker, base: Path, client: str, **options: Any) -> None:
        self.broker = broker
        self.base = base
        self.inbox = MemoryInbox(name="stream", clock=SystemClock())
        name = broker.new_name()
        self.options: dict[str, Any] = {
            "bootstrap_servers": [broker.address()],
            "topics": [name],
            "group_id": name,
            "client": client,
            "refresh_every": "500ms",
            "session_timeout": "3s",
            **options,
        }
        self.topic: str = self.options["topics"][0]
        self.group: str = self.options["group_id"]

    def create(self, **more: Any) -> None:
        """Make the topic."""
        self.broker.create_topic(self.topic, **more)

    def produce(self, *numbers: int, partition: int = 0) -> None:
        """Write structured events with these ids."""
        self.broker.produce_all(self.topic, [cloud_event(number) for number in numbers], partition=partition)

    def source(self, emit: Callable[[Batch], Any] | None = None, **options: Any) -> KafkaSource:
        """Build a source; `emit` stands before the inbox."""
        context = self.inbox.context(self.base)
        if emit is not None:
            from dataclasses import replace

            context = replace(context, emit=emit)
        return KafkaSource(KafkaOptions.model_validate({**self.options, **options}), context)

    @contextlib.contextmanager
    def running(self, source: KafkaSource | None = None, **options: Any) -> Iterator[KafkaSource]:
        """Run a source in a thread; stop it in order at the end, and see that it stopped soon."""
        source = source or self.source(**options)
        stop = threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                source.run(stop)
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield source
        finally:
            stop.set()
            thread.join(5.0)
        assert not thread.is_alive(), "run() did not end soon after stop was set"
        if errors:
            raise errors[0]

    def run_until(self, condition: Callable[[], Any], *, what: str = "the source", **options: Any) -> None:
        """Run a source until the condition holds."""
        with self.running(**options):
            self.wait(condition, what=what)

    def wait(self, condition: Callable[[], Any], *, what: str = "the source") -> Any:
        """Wait until the condition holds."""
        try:
            return wait_until(condition, timeout=PATIENCE, what=what)
        except AssertionError as error:
            error.add_note(f"complaints: {self.inbox.complaints}, last events: {self.ids()[-20:]}")
            raise

    def wait_ids(self, *numbers: int) -> None:
        """Wait until exactly these events are stored, in whatever order."""
        wanted = sorted(map(str, numbers))
        self.wait(lambda: len(self.ids()) >= len(wanted), what=f"{len(wanted)} events")
        assert sorted(self.ids()) == wanted

    def ids(self) -> list[str]:
        """The ids of the stored events that came from producers, in the order of storing."""
        return [event.source_id for event in self.inbox.events if event.type != "source.gap"]

    def gaps(self) -> list[dict[str, Any]]:
        """What the stored `source.gap` events say."""
        return [event.data for event in self.inbox.events if event.type == "source.gap"]

    def position(self, partition: int = 0) -> Json:
        """The stored offset of a partition, None for none."""
        found = self.inbox.ledger.get(f"{self.topic}/{partition}")
        return None if found is None else found["offset"]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The fields of the log's lines of this name."""
        return [fields for _, name, fields in self.inbox.log.lines if name == event]
