"""The fast client: confluent-kafka, over librdkafka; an extra to install (`retrain-controller[confluent]`).

A new assignment is answered with an empty one, and given to librdkafka only when the source says where its partitions begin: a partition
that failed at its offset cannot be moved by a seek, but by being assigned anew.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from controller.sources.kafka.client import (
    REQUEST_SECONDS,
    Bounds,
    Change,
    Partition,
    Polled,
    Record,
    Settings,
    Topic,
    Trouble,
)
from controller.sources.kafka.reach import diagnose, tls_context

# The library names its own codes with an underscore: they are public all the same.
# ruff: noqa: SLF001

#: Why a member is refused for good, until somebody changes something.
_REFUSALS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.GROUP_MAX_SIZE_REACHED,
        KafkaError._FATAL,
    }
)
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION})
_BROKEN = frozenset(
    {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED, KafkaError.INVALID_MSG}
)
_CLOSE_SECONDS = 0.6
_UNREACHABLE = frozenset({KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})


class ConfluentClient:
    """A consumer of confluent-kafka."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = settings.options
        self._changes: list[Change] = []
        self._owned: set[Partition] = set()
        #: What is delivered, and the next offset of each.
        self._at: dict[Partition, int] = {}
        self._paused = False
        self._refusal = ""
        self._admin: AdminClient | None = None
        tls_context(settings)  # tells which file is wrong, which librdkafka does not
        self._logger = logging.getLogger("kafka.confluent")
        self._logger.propagate = False
        self._logger.addHandler(
            logging.NullHandler()
        )  # its lines are not ours, and what matters comes back as an error
        config = {
            **self._common(),
            "group.id": self._options.group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "range,roundrobin",
            "allow.auto.create.topics": False,
            "session.timeout.ms": settings.session_ms,
            "heartbeat.interval.ms": settings.heartbeat_ms,
            "max.poll.interval.ms": settings.max_poll_ms,
            "check.crcs": True,
            # Bounds what lies in memory.
            "queued.max.messages.kbytes": 16 << 10,
            "fetch.max.bytes": max(16 << 20, self._options.max_record_bytes),
            "fetch.error.backoff.ms": 200,
            "on_commit": self._on_commit,
        }
        if self._options.instance_id is not None:
            config["group.instance.id"] = self._options.instance_id
        try:
            self._consumer = Consumer(config, logger=self._logger)
        except KafkaException as error:
            raise Trouble(f"the client refuses its settings: {_text(error)}") from error

    def _common(self) -> dict[str, Any]:
        """Return what the consumer and the admin client are both told."""
        security = self._options.security
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self._options.bootstrap_servers),
            "client.id": self._settings.client_id,
            "security.protocol": security.protocol,
            "socket.timeout.ms": 10_000,
            "socket.keepalive.enable": True,
            "reconnect.backoff.ms": 200,
            "reconnect.backoff.max.ms": 2000,
            "topic.metadata.refresh.interval.ms": self._settings.refresh_ms,
            "metadata.max.age.ms": max(self._settings.refresh_ms * 3, 1000),
            "topic.metadata.propagation.max.ms": 0,
            "error_cb": self._on_error,
        }
        files = {
            "ssl.ca.location": self._settings.file("ca"),
            "ssl.certificate.location": self._settings.file("cert"),
            "ssl.key.location": self._settings.file("key"),
        }
        config |= {key: path for key, path in files.items() if path is not None}
        if security.sasl is not None:
            config["sasl.mechanism"] = security.sasl.mechanism
            config["sasl.username"] = security.sasl.username
            config["sasl.password"] = self._settings.password
        return config

    def subscribe(self) -> None:
        self._consumer.subscribe(
            list(self._options.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    # ---------------------------------------------------------------------------------------- callbacks, within a poll

    def _on_assign(self, consumer: Consumer, theirs: Sequence[TopicPartition]) -> None:
        partitions = frozenset(Partition(each.topic, each.partition) for each in theirs)
        self._owned |= partitions
        self._changes.append(Change(kind="assigned", partitions=partitions))
        consumer.assign([])

    def _on_revoke(self, consumer: Consumer, theirs: Sequence[TopicPartition]) -> None:
        del theirs  # only what was given to librdkafka; all that the group gave goes
        self._changes.append(Change(kind="revoked", partitions=frozenset(self._owned)))
        self._owned.clear()
        self._at.clear()
        self._paused = False
        consumer.unassign()

    def _on_commit(self, error: KafkaError | None, theirs: Sequence[TopicPartition]) -> None:
        reasons = [str(each.error) for each in theirs if each.error is not None]
        if error is not None or reasons:
            self._settings.uncommitted(error.str() if error is not None else reasons[0])

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or error.code() in _REFUSALS:
            self._refusal = error.str()

    # ----------------------------------------------------------------------------------------------------- records

    def poll(self, seconds: float, limit: int) -> Polled:
        records: list[Record] = []
        out_of_range: set[Partition] = set()
        broken: dict[Partition, str] = {}
        try:
            # `consume` waits for all that it was asked for: first one by `poll`, then what is there already.
            first: Any = self._consumer.poll(seconds)
            messages: list[Any] = [first] if first is not None else []
            if first is not None and limit > 1:
                messages += self._consumer.consume(limit - 1, timeout=0)
        except KafkaException as error:
            raise Trouble(f"the client failed: {_text(error)}") from error
        for message in messages:
            if broken and Partition(message.topic() or "", message.partition()) in broken:
                continue  # the library goes on behind what it could not read: that would pass it over
            failure = message.error()
            if failure is not None:
                self._failed(message, failure, out_of_range, broken)
                continue
            records.append(
                Record(
                    message.topic(),
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    message.headers() or (),
                )
            )
        self._advance(records)
        changes, self._changes = self._changes, []
        if out_of_range or broken:
            self.stop({*out_of_range, *broken})
        return Polled(records=records, changes=changes, out_of_range=out_of_range, broken=broken)

    def _advance(self, records: Sequence[Record]) -> None:
        for (topic, number), offset in {record[:2]: record[2] for record in records}.items():
            partition = Partition(topic, number)
            if partition in self._at:
                self._at[partition] = offset + 1

    def _failed(
        self, message: Any, error: KafkaError, out_of_range: set[Partition], broken: dict[Partition, str]
    ) -> None:
        code = error.code()
        partition = Partition(message.topic() or "", message.partition() if message.partition() is not None else -1)
        if code in _OUT_OF_RANGE and partition in self._at:
            out_of_range.add(partition)
        elif code in _BROKEN and partition in self._at:
            broken[partition] = f"what lies at offset {message.offset()} cannot be read: {error.str()}"
        elif code in _REFUSALS or error.fatal():
            raise Trouble(f"the broker refuses us: {error.str()}")
        # Everything else, such as a topic that is not there yet, goes on by itself.

    def stop(self, partitions: AbstractSet[Partition]) -> None:
        for partition in partitions:
            self._at.pop(partition, None)
        self._assign()

    def begin(self, offsets: Mapping[Partition, int]) -> None:
        self._at |= {partition: offset for partition, offset in offsets.items() if partition in self._owned}
        self._assign()

    def _assign(self) -> None:
        try:
            self._consumer.assign([TopicPartition(*each, offset) for each, offset in self._at.items()])
            if self._paused:
                self._paused = False
                self.pause()
        except KafkaException as error:
            raise Trouble(f"the client failed: {_text(error)}") from error

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            with contextlib.suppress(KafkaException):
                self._consumer.pause([TopicPartition(*each) for each in self._at])

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            with contextlib.suppress(KafkaException):
                self._consumer.resume([TopicPartition(*each) for each in self._at])

    # ----------------------------------------------------------------------------------------------------- offsets

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        note = self._settings.commit_note
        theirs = [TopicPartition(each.topic, each.number, offset, note) for each, offset in offsets.items()]
        try:
            if wait:
                self._consumer.commit(offsets=theirs, asynchronous=False)
            else:
                self._consumer.commit(offsets=theirs, asynchronous=True)
        except KafkaException as error:
            self._settings.uncommitted(_text(error))

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        with self._asking():
            found = self._consumer.committed([TopicPartition(*each) for each in partitions], timeout=REQUEST_SECONDS)
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        return {Partition(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        bounds = {}
        with self._asking():
            for each in partitions:
                found = self._consumer.get_watermark_offsets(TopicPartition(*each), timeout=REQUEST_SECONDS)
                if found is None:  # so it says that the time was over
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                bounds[each] = Bounds(*found)
        return bounds

    def offsets_at(self, partitions: Sequence[Partition], milliseconds: int) -> Mapping[Partition, int]:
        asked = [TopicPartition(*each, milliseconds) for each in partitions]
        with self._asking():
            found = self._consumer.offsets_for_times(asked, timeout=REQUEST_SECONDS)
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        return {Partition(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def topics(self) -> Mapping[str, Topic]:
        found = {}
        with self._asking():
            if self._admin is None:
                self._admin = AdminClient(self._common(), logger=self._logger)
            asked = self._admin.describe_topics(
                TopicCollection(list(self._options.topics)), request_timeout=REQUEST_SECONDS
            )
            for name, future in asked.items():
                try:
                    answer = future.result()
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
                else:
                    found[name] = Topic(id=_written(answer.topic_id), partitions=len(answer.partitions))
        return found

    def end(self, partition: Partition) -> int | None:
        try:
            end: int = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)[1]
        except (KafkaException, TypeError):
            return None
        return end if end >= 0 else None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            self._consumer_errors()
            if self._refusal:
                raise Trouble(f"no broker can be used: {self._refusal}") from error
            code = error.args[0].code()
            if code in _UNREACHABLE:
                raise Trouble(diagnose(self._settings)) from error
            raise Trouble(f"the broker cannot answer now: {_text(error)}") from error

    def _consumer_errors(self) -> None:
        """Let the admin client say why it failed: its reasons wait for somebody to ask."""
        if self._admin is not None:
            self._admin.poll(0)

    def close(self) -> None:
        # Without a broker the library's own close waits for one: then it ends by itself once there is one.
        closing = threading.Thread(target=self._leave, name=f"kafka-{self._settings.name}-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _leave(self) -> None:
        try:
            self._consumer.close()
        except Exception as error:  # noqa: BLE001 - it must not keep the source from ending
            self._settings.uncommitted(f"not closed in order: {error!r}")


def _text(error: KafkaException) -> str:
    return str(error.args[0].str())


def _written(topic_id: Any) -> str | None:
    """Return a topic's id as Kafka's own tools write it; None for none."""
    text = str(topic_id) if topic_id is not None else ""
    return text.replace("+", "-").replace("/", "_").rstrip("=") or None
