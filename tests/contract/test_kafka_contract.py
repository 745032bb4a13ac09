"""The Kafka source keeps the promises of `ports.py`, with either client, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.sources.kafka import KafkaSource
from controller.sources.kafka.options import KafkaOptions
from controller.testing import MemoryInbox, SourceContract
from tests.kafka import KafkaBroker


class _KafkaContract(SourceContract):
    client: str

    @pytest.fixture
    def topic(self, kafka_broker: KafkaBroker) -> str:
        return kafka_broker.create_topic()

    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=SystemClock())

    @pytest.fixture
    def make_source(
        self, inbox: MemoryInbox, tmp_path: Path, kafka_broker: KafkaBroker, topic: str
    ) -> Callable[[], KafkaSource]:
        options = KafkaOptions.model_validate(
            {
                "bootstrap_servers": [kafka_broker.address()],
                "topics": [topic],
                "group_id": topic,
                "client": self.client,
            }
        )
        return lambda: KafkaSource(options, inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, kafka_broker: KafkaBroker, topic: str) -> Callable[[], None]:
        numbers = count()

        def occur() -> None:
            event = {"specversion": "1.0", "id": f"{next(numbers)}", "source": "/test", "type": "data.arrived"}
            kafka_broker.produce(topic, json.dumps(event).encode())

        return occur


class TestKafkaPython(_KafkaContract):
    client = "kafka-python"


class TestConfluent(_KafkaContract):
    client = "confluent"
