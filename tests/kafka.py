"""A throw-away Apache Kafka broker for the tests.

Problem: the Kafka source must be proved on the real broker, where nobody set one up.
Idea: Maven fetches the server's jars once into a cache folder, and one JVM runs broker and controller (KRaft) in a temporary folder,
with listeners for plain, authenticated and encrypted clients.
A test may kill it and start it again on the same ports; its records stay.

It does not reuse a running broker, and knows nothing of our source.
Called by `tests/conftest.py` and `.ci/run` (`python -m tests.kafka` fetches the jars).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from controller.testing import wait_until

VERSION = "4.1.0"
USER, PASSWORD = "retrain", "open-sesame-9f2c"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL", "CONTROLLER")

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>retrain</groupId><artifactId>test-broker</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
_LOG4J = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


class ServerDidNotStart(Exception):
    """The jars exist, but no broker came up; the message ends with its log."""


class KafkaBroker:
    """One broker; `start()` makes it, `stop()` ends it and removes its folder."""

    def __init__(self, folder: Path, *, jars: Path, ports: dict[str, int]) -> None:
        self.folder = folder
        self.ports = ports
        self.process: subprocess.Popen[bytes] | None = None
        self._jars = jars
        self._producer: Producer | None = None
        self._admin_client: AdminClient | None = None
        self._count = 0

    def address(self, listener: str = "PLAINTEXT") -> str:
        """Return `host:port` of a listener."""
        return f"localhost:{self.ports[listener]}"

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the broker's."""
        return self.folder / "ca.pem"

    # ----------------------------------------------------------------------------------------------- process

    def launch(self) -> None:
        """Start the JVM and wait until it answers."""
        command = [*_java(self._jars, self.folder), "kafka.Kafka", str(self.folder / "server.properties")]
        setpriv = shutil.which("setpriv")
        if setpriv:  # a test run that is killed takes its broker along
            command = [setpriv, "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the broker in order
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """End the broker as `kill -9` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Start the broker again, on the same ports and records, if it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.launch()

    def stop(self) -> None:
        """End the broker and remove its folder; safe to repeat."""
        self.shut_down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def shut_down(self) -> None:
        """End the broker in order; its records stay."""
        process = self.process
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process is None or process.poll() is not None:
                break
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)

    def damage(self, topic: str, old: bytes, new: bytes, *, partition: int = 0) -> None:
        """Replace bytes in the log of a partition, as a broken disk does; the broker is started anew for that."""
        assert len(old) == len(new)
        self.shut_down()
        segment = self.folder / "data" / f"{topic}-{partition}" / "00000000000000000000.log"
        content = segment.read_bytes()
        assert content.count(old) == 1
        segment.write_bytes(content.replace(old, new))
        self.restart()

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        process = self.process
        with contextlib.suppress(AssertionError):
            wait_until(lambda: process.poll() is not None or self._answers(), timeout=START_SECONDS, pause=0.1)
            if process.poll() is None:
                return
        self.kill()
        raise ServerDidNotStart((self.folder / "log").read_text(errors="replace")[-4000:])

    def _answers(self) -> bool:
        with contextlib.suppress(KafkaException, OSError):
            socket.create_connection(("localhost", self.ports["PLAINTEXT"]), timeout=1).close()
            self._admin().list_topics(timeout=5)
            return True
        return False

    # ------------------------------------------------------------------------------------------------ topics

    def new_name(self, prefix: str = "topic") -> str:
        """Return a name that no test had yet."""
        self._count += 1
        return f"{prefix}-{self._count}"

    def create_topic(self, name: str | None = None, *, partitions: int = 1, **config: Any) -> str:
        """Make a topic, wait until every partition has a leader, and return its name."""
        name = name or self.new_name()
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        self._done(self._admin().create_topics([topic]))
        self._wait(lambda: self._partitions(name) == partitions, what=f"the leaders of {name}")
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until it is gone."""
        self._producer = None  # it remembers the topic's partitions
        self._done(self._admin().delete_topics([name], operation_timeout=20))
        self._wait(lambda: self._partitions(name) == 0, what=f"the end of {name}")

    def delete_records(self, topic: str, before: int, *, partition: int = 0) -> None:
        """Let a partition begin at offset `before`, as retention does."""
        self._done(self._admin().delete_records([TopicPartition(topic, partition, before)]))

    def add_partitions(self, topic: str, total: int) -> None:
        """Let a topic have so many partitions."""
        self._producer = None  # it remembers how many there were
        self._done(self._admin().create_partitions([NewPartitions(topic, total)]))
        self._wait(lambda: self._partitions(topic) == total, what=f"{total} partitions of {topic}")

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        """Return the offset that a group committed, None for none."""
        with self._member(group) as consumer:
            offset = consumer.committed([TopicPartition(topic, partition)], timeout=10)[0].offset
        return offset if offset >= 0 else None

    def commit(self, group: str, topic: str, offset: int, *, partition: int = 0) -> None:
        """Commit an offset for a group without members."""
        with self._member(group) as consumer:
            consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)

    def members(self, group: str) -> int:
        """Return how many members a group has."""
        description = self._admin().describe_consumer_groups([group])[group].result(timeout=10)
        return len(description.members)

    # ----------------------------------------------------------------------------------------------- records

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        partition: int = 0,
        timestamp: int | None = None,
    ) -> None:
        """Write one record, and wait until the broker has it."""
        self.produce_all(
            topic,
            [value],
            key=key,
            headers=headers,
            partition=partition,
            **({"timestamp": timestamp} if timestamp else {}),
        )

    def produce_all(self, topic: str, values: Iterable[bytes | None], *, partition: int = 0, **more: Any) -> None:
        """Write records of these values, and wait until the broker has them all."""
        if self._producer is None:
            self._producer = self.producer()
        more = {name: value for name, value in more.items() if value is not None}
        send(self._producer, topic, values, partition=partition, **more)

    def producer(self, **config: Any) -> Producer:
        """Return a producer with more settings, such as `transactional_id` or `compression_type`."""
        settings = {name.replace("_", "."): value for name, value in config.items()}
        return Producer(
            {
                "bootstrap.servers": self.address(),
                "message.max.bytes": 64 << 20,
                "linger.ms": 2,
                "log_level": 2,
                **settings,
            }
        )

    # ----------------------------------------------------------------------------------------------- details

    def _admin(self) -> AdminClient:
        if self._admin_client is None:
            quick = {"reconnect.backoff.max.ms": 200}
            self._admin_client = AdminClient({"bootstrap.servers": self.address(), "log_level": 2, **quick})
        return self._admin_client

    @contextlib.contextmanager
    def _member(self, group: str) -> Any:
        consumer = Consumer({"bootstrap.servers": self.address(), "group.id": group, "log_level": 2})
        try:
            yield consumer
        finally:
            consumer.close()

    def _partitions(self, topic: str) -> int:
        """How many partitions of a topic have a leader."""
        found = self._admin().list_topics(timeout=10).topics.get(topic)
        return 0 if found is None or found.error else sum(each.leader >= 0 for each in found.partitions.values())

    @staticmethod
    def _done(futures: dict[Any, Any]) -> None:
        for future in futures.values():
            future.result(timeout=20)

    @staticmethod
    def _wait(condition: Callable[[], bool], *, what: str) -> None:
        wait_until(condition, timeout=20, pause=0.05, what=what)


def send(producer: Producer, topic: str, values: Iterable[bytes | None], **more: Any) -> None:
    """Write records, and wait until the broker has them all; fails with the first error."""
    errors: list[Any] = []

    def delivered(error: Any, message: Any) -> None:
        del message
        if error is not None:
            errors.append(error)

    for value in values:
        while True:
            try:
                producer.produce(topic, value, on_delivery=delivered, **more)
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(30)
    assert not errors, errors[0]
    assert not left, f"{left} records were not delivered"


# ------------------------------------------------------------------------------------------------------ making one


def missing() -> str | None:
    """Return what this machine lacks to run a broker, None when it has everything."""
    if shutil.which("java") is None:
        return "no Java runtime (java) found"
    if not _cached().is_dir() and shutil.which("mvn") is None:
        return "no Maven (mvn) found to fetch the broker's jars"
    if shutil.which("openssl") is None:
        return "no openssl found to make the broker's certificate"
    return None


def fetch() -> Path:
    """Return the folder of the broker's jars; fetches them once, also when several processes ask at the same time."""
    folder = _cached()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
            work = Path(temporary)
            (work / "pom.xml").write_text(_POM)
            command = ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime"]
            command.append(f"-DoutputDirectory={work / 'jars'}")
            answer = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600, check=False)
            if answer.returncode != 0:
                raise ServerDidNotStart(f"the jars cannot be fetched:\n{(answer.stdout + answer.stderr)[-3000:]}")
            (work / "jars").rename(folder)
    return folder


def start() -> KafkaBroker:
    """Start a broker without topics, or raise `ServerDidNotStart` with its log."""
    jars = fetch()
    folder = Path(tempfile.mkdtemp(prefix="retrain-kafka-"))
    broker: KafkaBroker | None = None
    try:
        _make_certificates(folder)
        (folder / "log4j2.properties").write_text(_LOG4J)
        for attempt in range(3):  # another program may take a free port first
            broker = KafkaBroker(folder, jars=jars, ports=_free_ports())
            _write_properties(broker)
            if attempt == 0:
                _format(jars, folder)
            try:
                broker.launch()
            except ServerDidNotStart:
                if attempt == 2:
                    raise
            else:
                return broker
        raise AssertionError("unreachable")
    except BaseException:
        if broker is not None:
            broker.kill()
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _cached() -> Path:
    base = os.environ.get("RETRAIN_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "retrain-tests" / f"kafka-{VERSION}"


def _java(jars: Path, folder: Path) -> list[str]:
    return [
        "java",
        "-Xms64m",
        "-Xmx384m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        "-cp",
        f"{jars}/*",
    ]


def _format(jars: Path, folder: Path) -> None:
    command = [*_java(jars, folder), "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk"]
    command += ["-c", str(folder / "server.properties")]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ServerDidNotStart(answer.stdout + answer.stderr)


def _write_properties(broker: KafkaBroker) -> None:
    folder, ports = broker.folder, broker.ports
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    public = [name for name in _LISTENERS if name != "CONTROLLER"]
    settings: dict[str, Any] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@localhost:{ports['CONTROLLER']}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(f"{name}://localhost:{ports[name]}" for name in _LISTENERS),
        "advertised.listeners": ",".join(f"{name}://localhost:{ports[name]}" for name in public),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in _LISTENERS
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": jaas,
        "connection.failed.authentication.delay.ms": 50,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": folder / "broker.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": folder / "ca.pem",
        "log.dirs": folder / "data",
        # Tests write records with old timestamps, which must not be swept away meanwhile.
        "log.retention.ms": -1,
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "message.max.bytes": 64 << 20,
        "log.cleaner.enable": "false",
        "file.delete.delay.ms": 100,
        "num.network.threads": 2,
        "num.io.threads": 2,
        "num.replica.fetchers": 1,
        "num.recovery.threads.per.data.dir": 1,
        "background.threads": 2,
    }
    (folder / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def _make_certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)

    new = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=retrain test authority")
    openssl("req", *new[:-2], "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "broker.crt"),
    )
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", "broker.key", "-out", "broker.pk8")
    parts = [(folder / name).read_text() for name in ("broker.pk8", "broker.crt", "ca.pem")]
    (folder / "broker.pem").write_text("".join(parts))


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in _LISTENERS]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: int(probe.getsockname()[1]) for name, probe in zip(_LISTENERS, probes, strict=True)}


if __name__ == "__main__":
    print(f"the broker's jars are in {fetch()}")  # noqa: T201 - told to whoever prepares a machine
