"""The seam between the source and a Kafka client: what a client can do, in our own words.

A client is used by one thread. It starts to deliver a partition only when it is told where (`begin`), so that our position wins;
it never commits by itself, and hands over bytes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from controller.sources.kafka.options import KafkaOptions

#: How long one question to the broker may take.
REQUEST_SECONDS = 5.0
#: A member that does not poll for so long leaves the group; we poll at least every few seconds, also while the store is busy.
MAX_POLL_MS = 60_000


class Partition(NamedTuple):
    """One log of a topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Record(NamedTuple):
    """A record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since 1970; None when the log has none.
    timestamp: int | None
    key: bytes | None
    #: None for a tombstone.
    value: bytes | None
    #: Names may repeat; a value may be missing.
    headers: Sequence[tuple[str, bytes | None]]


class Bounds(NamedTuple):
    """What a partition holds: from its first offset to the one that the next record gets."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A topic as the cluster knows it."""

    #: Tells a topic from a later one of the same name; None when the broker has no such ids.
    id: str | None
    partitions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What the group did to us."""

    kind: Literal["assigned", "revoked"]
    partitions: frozenset[Partition]


@dataclass(frozen=True, kw_only=True, slots=True)
class Polled:
    """What a poll brought."""

    records: Sequence[Record] = ()
    #: In order.
    changes: Sequence[Change] = ()
    #: The position is not in the log (any more); nothing comes from these until they begin anew.
    out_of_range: AbstractSet[Partition] = frozenset()
    #: What lies at the position cannot be read, and why; nothing comes from these until they begin elsewhere.
    broken: Mapping[Partition, str] = field(default_factory=dict)


class Trouble(Exception):
    """The brokers cannot be reached, or refuse us; the text is for people and holds no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a client is made with."""

    options: KafkaOptions
    #: Name of the source, for the broker's own logs.
    name: str
    #: Relative paths of certificates start here.
    base: Path
    #: Revealed once, for this connection.
    password: str | None
    #: Hears why an offset could not be committed.
    uncommitted: Callable[[str], None]

    @property
    def client_id(self) -> str:
        """What the broker's logs call us."""
        return f"retrain-{self.name}"

    @property
    def commit_note(self) -> str:
        """What stands beside the offsets that we commit."""
        return f"retrain:{self.name}"

    @property
    def refresh_ms(self) -> int:
        """How often the library asks anew which topics and brokers there are."""
        return _milliseconds(self.options.refresh_every)

    @property
    def session_ms(self) -> int:
        """A member whose heartbeats are missing for so long is taken for dead."""
        return _milliseconds(self.options.session_timeout)

    @property
    def heartbeat_ms(self) -> int:
        """Wait between two heartbeats: three are missed before the session ends."""
        return min(3000, self.session_ms // 3)

    @property
    def max_poll_ms(self) -> int:
        """A member that does not poll for so long leaves the group; the libraries want at least the session's length."""
        return max(MAX_POLL_MS, self.session_ms)

    def file(self, which: Literal["ca", "cert", "key"]) -> str | None:
        """Return the path of a certificate's file; None when it is not given."""
        tls = self.options.security.tls
        name = getattr(tls, which) if tls is not None else None
        return None if name is None else str(self.base / name)


def _milliseconds(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)


class Client(Protocol):
    """A member of the group; every call but `close` may raise `Trouble`."""

    def subscribe(self) -> None:
        """Join the group for the topics of the options."""
        ...

    def poll(self, seconds: float, limit: int) -> Polled:
        """Wait at most so long for records, keep up the membership, and say what the group did."""
        ...

    def begin(self, offsets: Mapping[Partition, int]) -> None:
        """Let assigned partitions deliver from these offsets on; nothing that was fetched before is delivered."""
        ...

    def stop(self, partitions: AbstractSet[Partition]) -> None:
        """Deliver nothing of these until they begin anew."""
        ...

    def pause(self) -> None:
        """Deliver nothing from now on, and stay a member."""
        ...

    def resume(self) -> None:
        """Go on where `pause` stopped."""
        ...

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        """Tell the group how far we are; a failure goes to `Settings.uncommitted`."""
        ...

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the group's offsets, of those partitions that have one."""
        ...

    def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        """Return what these partitions hold."""
        ...

    def offsets_at(self, partitions: Sequence[Partition], milliseconds: int) -> Mapping[Partition, int]:
        """Return the first offset at or after this time, of those partitions that have one."""
        ...

    def topics(self) -> Mapping[str, Topic]:
        """Return those topics of the options that exist."""
        ...

    def end(self, partition: Partition) -> int | None:
        """Return the end as last heard, without asking."""
        ...

    def close(self) -> None:
        """Leave the group; takes a second at most, and never raises."""
        ...
