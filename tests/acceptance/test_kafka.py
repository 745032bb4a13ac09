"""A daemon that reads Kafka, killed where it hurts: every record is stored, each once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.harness import Installation
from tests.kafka import KafkaBroker

_COUNT = 400
_POINTS = (
    "transaction.inbox.before_commit:2",
    "transaction.inbox.after_commit:1",
    "transaction.inbox.after_commit:2",
    "transaction.inbox.after_commit:4",
    "plugin.source.kafka.run.before",
)


@pytest.fixture
def there() -> Iterator[Installation]:
    """An empty installation."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-kafka-daemon-"))
    installation = Installation(folder)
    yield installation
    installation.close()
    shutil.rmtree(folder, ignore_errors=True)


def config(broker: KafkaBroker, topic: str, client: str) -> dict[str, Any]:
    return {
        "sources": {
            "stream": {
                "type": "kafka",
                "bootstrap_servers": [broker.address()],
                "topics": [topic],
                "group_id": topic,
                "client": client,
                "max_poll_records": 50,
                "session_timeout": "2s",
                "refresh_every": "1s",
            }
        },
        "models": {
            "churn": {
                "policies": {"data": {"on": {"source": "stream", "type": "never.happens"}}},
                "train": {"command": ["/bin/true"]},
            }
        },
    }


def stored(there: Installation) -> list[str]:
    """The ids of the stored events of the producer, in the order of storing."""
    statement = sa.select(schema.event.c.source_id).where(schema.event.c.origin == "stream").order_by(schema.event.c.id)
    return [row[0] for row in there.rows(statement)]


def produce(broker: KafkaBroker, topic: str, numbers: range) -> None:
    broker.produce_all(
        topic,
        [
            json.dumps({"specversion": "1.0", "id": str(number), "source": "/test", "type": "data.arrived"}).encode()
            for number in numbers
        ],
    )


@pytest.mark.crash
@pytest.mark.timeout(180)
@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
@pytest.mark.parametrize("point", _POINTS)
def test_G01_kill_9_between_the_database_and_the_broker(
    there: Installation, kafka_broker: KafkaBroker, client: str, point: str
) -> None:
    """Killed around the commit of a batch, before its offsets are committed: the next daemon goes on, nothing twice."""
    topic = kafka_broker.create_topic()
    produce(kafka_broker, topic, range(_COUNT))
    there.configure(config(kafka_broker, topic, client))

    there.start(RETRAIN_CRASH=point)
    there.wait(lambda: there.keep_running() or there.crashed, what="the crash")
    behind = kafka_broker.committed(topic, topic) or 0
    there.wait(lambda: there.keep_running() or len(stored(there)) >= _COUNT, what="all records")
    produce(kafka_broker, topic, range(_COUNT, _COUNT + 10))
    there.wait(lambda: len(stored(there)) >= _COUNT + 10, what="the records after it")

    assert behind < _COUNT
    assert stored(there) == [str(number) for number in range(_COUNT + 10)]


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_G01_kill_9_of_daemon_and_broker_under_load(there: Installation, kafka_broker: KafkaBroker) -> None:
    """The daemon is killed again and again, the broker once: what was acknowledged is stored, each once."""
    topic = kafka_broker.create_topic()
    there.configure(config(kafka_broker, topic, "kafka-python"))
    sent = 0
    try:
        for turn in range(4):
            there.start()
            produce(kafka_broker, topic, range(sent, sent + 100))
            sent += 100
            there.wait(lambda least=sent - 60: len(stored(there)) >= least, what="some of the records", seconds=150)
            there.kill()
            if turn == 2:
                kafka_broker.kill()
                kafka_broker.restart()
        there.start()
        there.wait(lambda: len(stored(there)) >= sent, what="all records")
        there.wait_ready()
    finally:
        kafka_broker.restart()

    assert sorted(map(int, stored(there))) == list(range(sent))
    assert there.terminate() == 0
