"""The default client: kafka-python, pure Python.

Its callbacks run on a thread of its own that must not be blocked: they only note what the group did and keep new partitions silent
(paused, at offset 0) until the source says where they begin; otherwise the group's committed offset would win.
Its heartbeats go on in the background, whatever we do.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID  # noqa: TID251 - only the form in which the broker's ids come

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, TopicPartition, errors
from kafka.net.compat import KafkaNetClient
from kafka.structs import MemberState, OffsetAndMetadata

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
from controller.sources.kafka.reach import answering, diagnose, tls_context, unreachable

_REQUEST_MS = int(REQUEST_SECONDS * 1000)
_REFUSALS = (
    errors.SaslAuthenticationFailedError,
    errors.AuthorizationError,
    errors.FencedInstanceIdError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidGroupIdError,
    errors.InconsistentGroupProtocolError,
    errors.GroupMaxSizeReachedError,
)


#: How the library names the batch that it could not read.
_PARTITION = re.compile(r"TopicPartition\(topic='([^']+)', partition=(\d+)\) at offset (\d+)")


class PythonClient:
    """A consumer of kafka-python."""

    def __init__(self, settings: Settings) -> None:
        # Its lines are not ours, some hold the configuration, and what matters comes back as an error.
        library = logging.getLogger("kafka")
        library.setLevel(logging.WARNING)
        library.propagate = False
        if not library.handlers:
            library.addHandler(logging.NullHandler())
        self._settings = settings
        self._options = settings.options
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        self._active: set[Partition] = set()
        self._owned: frozenset[Partition] = frozenset()
        self._admin: Any = None
        #: What the library made inside: a constructor of its that fails leaves a thread behind.
        self._connections: list[Any] = []
        # The library tries for long, leaves sockets open, and does not say why.
        if (reason := unreachable(settings)) is not None:
            raise Trouble(reason)
        options = settings.options
        try:
            self._consumer = KafkaConsumer(
                **self._common(),
                group_id=options.group_id,
                group_instance_id=options.instance_id,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                session_timeout_ms=settings.session_ms,
                heartbeat_interval_ms=settings.heartbeat_ms,
                max_poll_interval_ms=settings.max_poll_ms,
                max_poll_records=options.max_poll_records,
                # Bounds what lies in memory: a batch may be inflated many times when it is read.
                fetch_max_bytes=16 << 20,
                fetch_max_wait_ms=500,
                metrics_enabled=False,
            )
        except errors.KafkaConfigurationError as error:
            self._disconnect()
            raise Trouble(f"the client refuses its settings: {error}") from error
        except (errors.KafkaError, OSError) as error:
            self._disconnect()
            raise Trouble(diagnose(settings)) from error

    def _connection(self, **config: Any) -> Any:
        connection = KafkaNetClient(**config)
        self._connections.append(connection)
        return connection

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()

    def _common(self) -> dict[str, Any]:
        """Return what the consumer and the admin client are both told."""
        security = self._options.security
        config: dict[str, Any] = {
            "bootstrap_servers": answering(self._settings),
            "client_id": self._settings.client_id,
            "kafka_client": self._connection,
            "bootstrap_timeout_ms": _REQUEST_MS if len(self._options.bootstrap_servers) == 1 else 6 * _REQUEST_MS,
            "request_timeout_ms": _REQUEST_MS,
            "reconnect_backoff_ms": 100,
            "reconnect_backoff_max_ms": 2000,
            "metadata_max_age_ms": self._settings.refresh_ms,
            "security_protocol": security.protocol,
            "ssl_context": tls_context(self._settings),
        }
        if security.sasl is not None:
            config["sasl_mechanism"] = security.sasl.mechanism
            config["sasl_plain_username"] = security.sasl.username
            config["sasl_plain_password"] = self._settings.password
        return config

    def subscribe(self) -> None:
        self._consumer.subscribe(topics=list(self._options.topics), listener=_Listener(self))

    # ---------------------------------------------------------------------------------------- rebalances, on its thread

    def revoked(self, partitions: frozenset[Partition]) -> None:
        """Note that partitions were taken away (called by the library)."""
        with self._lock:
            self._active -= partitions
            self._owned -= partitions
            self._changes.append(Change(kind="revoked", partitions=partitions))

    def assigned(self, partitions: frozenset[Partition]) -> None:
        """Note that partitions are ours, and keep them silent (called by the library)."""
        theirs = [TopicPartition(*partition) for partition in partitions]
        self._consumer.pause(*theirs)
        for each in theirs:
            self._consumer.seek(each, 0)
        with self._lock:
            self._owned |= partitions
            self._changes.append(Change(kind="assigned", partitions=partitions))

    # ----------------------------------------------------------------------------------------------------- records

    def poll(self, seconds: float, limit: int) -> Polled:
        records: list[Record] = []
        out_of_range: frozenset[Partition] = frozenset()
        broken: dict[Partition, str] = {}
        try:
            found = self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=limit)
        except errors.OffsetOutOfRangeError as error:
            out_of_range = self._silence(error.args[0])
        except errors.LogTruncationError as error:
            out_of_range = self._silence(error.divergent_offsets)
        except (errors.CorruptRecordError, errors.UnsupportedCodecError, ValueError, AssertionError) as error:
            broken = self._broken(error)
        except _REFUSALS as error:
            raise Trouble(f"the broker refuses us: {error}") from error
        except errors.KafkaError as error:
            if not error.retriable:
                raise Trouble(f"the client failed: {error}") from error
        else:
            for batch in found.values():
                records += [
                    Record(each.topic, each.partition, each.offset, each.timestamp, each.key, each.value, each.headers)
                    for each in batch
                ]
        self._finish_joining()
        with self._lock:
            changes, self._changes = self._changes, []
        return Polled(records=records, changes=changes, out_of_range=out_of_range, broken=broken)

    def _finish_joining(self) -> None:
        """Keep the library at a join that was under way when its poll ended.

        kafka-python 3.0 forgets such a join when new partitions were its only reason (`need_rejoin` compares with a snapshot that the join
        itself has brought up to date), and then neither reads nor sends heartbeats any more.
        """
        if self._consumer.group_metadata().state == MemberState.REBALANCING:
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001 - nothing public does that without leaving the group

    def _silence(self, theirs: Any) -> frozenset[Partition]:
        partitions = frozenset(Partition(*each) for each in theirs) & self._owned
        self._consumer.pause(*(TopicPartition(*each) for each in partitions))
        with self._lock:
            self._active -= partitions
        return partitions

    def _broken(self, error: Exception) -> dict[Partition, str]:
        """Silence the partition whose next batch cannot be read: polled again, kafka-python 3.0 would loop forever over it."""
        named = _PARTITION.search(str(error))
        partition = Partition(named[1], int(named[2])) if named is not None else None
        if partition is None or partition not in self._owned:
            raise Trouble(f"a batch cannot be read: {error}") from error
        self._silence([partition])
        return {partition: f"what lies at offset {named[3] if named else '?'} cannot be read: {error}"}

    def stop(self, partitions: AbstractSet[Partition]) -> None:
        with contextlib.suppress(errors.IllegalStateError, KeyError):
            self._silence(partitions)

    def begin(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            theirs = TopicPartition(*partition)
            with contextlib.suppress(
                errors.IllegalStateError, ValueError, KeyError
            ):  # taken away meanwhile: the next poll tells
                self._consumer.seek(theirs, offset)
                self._consumer.resume(theirs)
                with self._lock:
                    if partition in self._owned:
                        self._active.add(partition)

    def pause(self) -> None:
        with self._lock:
            active = list(self._active)
        with contextlib.suppress(errors.IllegalStateError, KeyError):
            self._consumer.pause(*(TopicPartition(*each) for each in active))

    def resume(self) -> None:
        with self._lock:
            active = list(self._active)
        with contextlib.suppress(errors.IllegalStateError, KeyError):
            self._consumer.resume(*(TopicPartition(*each) for each in active))

    # ----------------------------------------------------------------------------------------------------- offsets

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        note = self._settings.commit_note
        theirs = {TopicPartition(*each): OffsetAndMetadata(offset, note, -1) for each, offset in offsets.items()}
        try:
            if wait:
                self._consumer.commit(theirs, timeout_ms=500)
            else:
                self._consumer.commit_async(theirs, callback=self._committed)
        except errors.KafkaError as error:
            self._settings.uncommitted(str(error))

    def _committed(self, offsets: Any, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._settings.uncommitted(str(answer))

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        found = {}
        with self._asking():
            for partition in partitions:
                offset = self._consumer.committed(TopicPartition(*partition), timeout_ms=_REQUEST_MS)
                if offset is not None and offset >= 0:
                    found[partition] = offset
        return found

    def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        theirs = [TopicPartition(*each) for each in partitions]
        with self._asking():
            begins = self._consumer.beginning_offsets(theirs, timeout_ms=_REQUEST_MS)
            ends = self._consumer.end_offsets(theirs, timeout_ms=_REQUEST_MS)
        return {Partition(*each): Bounds(begins[each], ends[each]) for each in theirs}

    def offsets_at(self, partitions: Sequence[Partition], milliseconds: int) -> Mapping[Partition, int]:
        asked = {TopicPartition(*each): milliseconds for each in partitions}
        with self._asking():
            found = self._consumer.offsets_for_times(asked, timeout_ms=_REQUEST_MS)
        return {Partition(*each): answer.offset for each, answer in found.items() if answer is not None}

    def topics(self) -> Mapping[str, Topic]:
        with self._asking():
            if self._admin is None:
                self._admin = KafkaAdminClient(**self._common())
            described = self._admin.describe_topics(list(self._options.topics))
        return {
            each["name"]: Topic(id=_written(each.get("topic_id")), partitions=len(each["partitions"]))
            for each in described
            if each["error_code"] == 0
        }

    def end(self, partition: Partition) -> int | None:
        try:
            end: int | None = self._consumer.highwater(TopicPartition(*partition))
        except (errors.IllegalStateError, KeyError):
            return None
        return end

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except _REFUSALS as error:
            raise Trouble(f"the broker refuses us: {error}") from error
        except errors.KafkaError as error:
            if isinstance(error, errors.KafkaTimeoutError | errors.KafkaConnectionError | errors.NodeNotReadyError):
                raise Trouble(diagnose(self._settings)) from error
            raise Trouble(f"the broker cannot answer now: {error}") from error
        except OSError as error:
            raise Trouble(diagnose(self._settings)) from error

    def close(self) -> None:
        for end in (lambda: self._consumer.close(autocommit=False, timeout_ms=400), self._disconnect):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - a broker that is gone makes it raise all kinds of things
                self._settings.uncommitted(f"not closed in order: {error!r}")


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hears what the group does."""

    def __init__(self, client: PythonClient) -> None:
        self._client = client

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._client.revoked(frozenset(Partition(*each) for each in revoked))

    def on_partitions_lost(self, lost: Any) -> None:
        self.on_partitions_revoked(lost)

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._client.assigned(frozenset(Partition(*each) for each in assigned))


def _written(topic_id: str | UUID | None) -> str | None:
    """Return a topic's id as Kafka's own tools write it; None for none."""
    if topic_id is None:
        return None
    return base64.urlsafe_b64encode(UUID(str(topic_id)).bytes).decode().rstrip("=")
