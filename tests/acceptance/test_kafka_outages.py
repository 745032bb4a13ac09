"""A daemon that reads Kafka while its database is away: it pauses and keeps its place, and goes on where it was."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import postgres
from tests.acceptance.harness import Installation
from tests.acceptance.test_kafka import config, produce, stored
from tests.conftest import missing_server
from tests.kafka import KafkaBroker
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(150)]

#: Seconds that the database is away: several times as long as the broker lets a silent consumer be; an answer is waited for 12 s.
KILLED, FROZEN = 7.0, 14.0
#: Everything works again so soon after the cause is gone.
BACK_WITHIN = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own: they end it and freeze it."""
    programs = postgres.find_programs()
    if programs is None:
        missing_server("no PostgreSQL server programs (postgres, initdb) found")
    found = postgres.start(programs)
    yield found
    found.stop()


@pytest.fixture
def there(server: PostgresServer) -> Iterator[Installation]:
    """An empty installation on PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-kafka-outage-"))
    installation = Installation(folder, server.create_database())
    yield installation
    installation.close()
    shutil.rmtree(folder, ignore_errors=True)


def killed(server: PostgresServer) -> tuple[Callable[[], None], Callable[[], None]]:
    """The server's process dies, and is started again."""
    return server.crash, server.restart


def frozen(server: PostgresServer) -> tuple[Callable[[], None], Callable[[], None]]:
    """The server takes connections and questions, and does not answer."""
    return partial(server.freeze, frozen=True), partial(server.freeze, frozen=False)


@pytest.mark.parametrize(
    "client, manner, away",
    [("kafka-python", killed, KILLED), ("confluent", killed, KILLED), ("confluent", frozen, FROZEN)],
)
def test_G01_G15_a_topic_is_read_on_after_an_outage_of_the_database(
    there: Installation,
    server: PostgresServer,
    kafka_broker: KafkaBroker,
    manner: Callable[[PostgresServer], tuple[Callable[[], None], Callable[[], None]]],
    client: str,
    away: float,
) -> None:
    """Nothing is acknowledged to the broker that is not stored, the consumer stays in its group, and all is stored, in order, each once."""
    begin, end = manner(server)
    topic = kafka_broker.create_topic()
    there.configure(config(kafka_broker, topic, client))
    there.start()
    there.wait_ready()
    produce(kafka_broker, topic, range(100))
    there.wait(lambda: kafka_broker.committed(topic, topic) == 100, what="the records before it")
    begin()
    began = time.monotonic()
    sent = 100
    while time.monotonic() - began < away:
        produce(kafka_broker, topic, range(sent, sent + 20))
        sent += 20
        there.wait(lambda: there.ask("GET", "/healthz").status == 200, what="life")
        there.wait(lambda at=began + (sent - 100) / 40: time.monotonic() > at, what="the next records")
    behind, members = kafka_broker.committed(topic, topic), kafka_broker.members(topic)
    reasons = there.ready()["reasons"]
    end()
    ended = time.monotonic()
    there.wait(lambda: len(stored(there)) >= sent, what="all records")
    back_after = time.monotonic() - ended
    there.wait(lambda: kafka_broker.committed(topic, topic) == sent, what="the place in the topic")
    there.wait(lambda: there.ready()["ready"], what="readiness", seconds=BACK_WITHIN)

    assert sent > 250
    assert behind == 100
    assert members == 1
    assert any("store" in reason or "database" in reason for reason in reasons), reasons
    assert back_after < BACK_WITHIN, f"it took {back_after:.1f} s"
    assert stored(there) == [str(number) for number in range(sent)]
