"""Where a partition is read from: our position, else the group's, else `start`; and what to do when that is no longer there.

Computes only. A position is an entry of the ledger under `topic/partition`; what a person asked for lies under `@seek/topic/partition`,
or `@seek/topic/*`, until the next run has turned it into positions; `@awaited/topic` marks a topic that was not there when we looked first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from controller.core.model import Json, LedgerEntry, NewEvent
from controller.errors import InvalidInput
from controller.sources.kafka.client import Bounds, Partition

SEEK, AWAITED, ALL = "@seek/", "@awaited/", "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The next offset to be read, and of which topic of that name; `topic_id` is None when the broker has no such ids."""

    offset: int
    topic_id: str | None

    @classmethod
    def from_json(cls, value: Json) -> Position:
        """Return what `entry` wrote."""
        return cls(offset=value["offset"], topic_id=value.get("topic_id"))


def entry(partition: Partition, position: Position) -> LedgerEntry:
    """Return what the ledger holds of a position."""
    return LedgerEntry(key=str(partition), value={"offset": position.offset, "topic_id": position.topic_id})


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Records that were not read and are gone."""

    partition: Partition
    topic_id: str | None
    #: The next offset that would have been read, and the one where reading goes on (or could).
    from_offset: int
    to_offset: int
    reason: str

    def event(self, source: str, now: datetime, on_gap: str) -> NewEvent:
        """Return the event that tells of it; the same gap is always the same event."""
        topic = self.topic_id or self.partition.topic
        return NewEvent(
            source=f"/sources/{source}",
            source_id=f"gap/{self.partition}/{topic}/{self.from_offset}-{self.to_offset}",
            type="source.gap",
            subject=source,
            time=now,
            data={
                "topic": self.partition.topic,
                "partition": self.partition.number,
                "topic_id": self.topic_id,
                "from": self.from_offset,
                "to": self.to_offset,
                "reason": self.reason,
                "on_gap": on_gap,
            },
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a partition begins."""

    offset: int
    gap: Gap | None = None
    #: The partition waits for a person, and why.
    halted: str | None = None


def choose(
    partition: Partition,
    *,
    ours: Position | None,
    groups: int | None,
    bounds: Bounds,
    topic_id: str | None,
    start: Literal["earliest", "latest"],
    on_gap: Literal["fail", "earliest", "latest"],
) -> Start:
    """Return where to begin: ours wins over the group's offset, and `start` counts when there is neither."""
    if ours is None and groups is None:
        return Start(offset=bounds.begin if start == "earliest" else bounds.end)
    offset = ours.offset if ours is not None else groups
    assert offset is not None  # noqa: S101 - one of the two is there
    known = ours.topic_id if ours is not None else None
    if known is not None and topic_id is not None and known != topic_id:
        reason = "the topic was deleted and made anew"
    elif bounds.begin <= offset <= bounds.end:
        return Start(offset=offset)
    elif offset > bounds.end and (known is None or topic_id is None):
        reason = "the topic ends before our position: it was made anew, or its log was cut"
    else:
        return _passed_by(partition, offset, bounds, topic_id, on_gap)
    return Start(
        offset=bounds.begin,
        gap=Gap(partition=partition, topic_id=topic_id, from_offset=offset, to_offset=bounds.begin, reason=reason),
    )


def _passed_by(partition: Partition, offset: int, bounds: Bounds, topic_id: str | None, on_gap: str) -> Start:
    behind = offset < bounds.begin
    to = bounds.end if on_gap == "latest" else bounds.begin if behind else min(offset, bounds.end)
    if on_gap == "earliest":
        to = bounds.begin
    why = "retention removed records before they were read" if behind else "the log was cut before our position"
    gap = Gap(partition=partition, topic_id=topic_id, from_offset=offset, to_offset=to, reason=why)
    if on_gap != "fail":
        return Start(offset=to, gap=gap)
    return Start(
        offset=to,
        gap=gap,
        halted=f"{why}: we stood at offset {offset}, the log now holds {bounds.begin} to {bounds.end}; nothing more is read of it "
        f"until somebody says where to go on (`retrainctl sources seek`, or on_gap: earliest)",
    )


# ------------------------------------------------------------------------------------------------------------- seeking


def wanted(where: Mapping[str, str], topics: tuple[str, ...]) -> list[LedgerEntry]:
    """Return the ledger entry of what a person asked for; raises `InvalidInput`."""
    if unknown := sorted(set(where) - {"topic", "partition", "to"}):
        raise InvalidInput(f"{unknown[0]!r} is no part of a position", hint="topic, partition, to")
    topic = where.get("topic") or (topics[0] if len(topics) == 1 else "")
    if topic not in topics:
        raise InvalidInput(
            f"{topic!r} is no topic of this source" if topic else "which topic?", hint=f"topics: {', '.join(topics)}"
        )
    number = where.get("partition", ALL)
    if number != ALL and not (number.isascii() and number.isdigit()):
        raise InvalidInput(f"partition {number!r} is no number", hint="0, 1, …; leave it out for all")
    to = where.get("to", "").strip()
    _target(to)
    return [LedgerEntry(key=f"{SEEK}{topic}/{number if number == ALL else int(number)}", value={"to": to})]


def sought(ledger: Mapping[str, Json], partition: Partition) -> str | None:
    """Return where a person wants this partition to go on, None when nobody asked."""
    for number in (partition.number, ALL):
        found = ledger.get(f"{SEEK}{partition.topic}/{number}")
        if found is not None:
            return str(found["to"])
    return None


def resolve(to: str, bounds: Bounds, at: int | None) -> int:
    """Return the offset that a person meant, within what the partition holds; `at` is the first offset at the instant meant."""
    target = _target(to)
    if target == "earliest":
        return bounds.begin
    if isinstance(target, int):
        return min(max(target, bounds.begin), bounds.end)
    if target == "latest" or at is None:
        return bounds.end
    return min(max(at, bounds.begin), bounds.end)


def instant(to: str) -> int | None:
    """Return the instant that a person meant in milliseconds since 1970; None when it is none."""
    target = _target(to)
    return int(target.timestamp() * 1000) if isinstance(target, datetime) else None


def _target(to: str) -> int | datetime | Literal["earliest", "latest"]:
    if to == "earliest":
        return "earliest"
    if to == "latest":
        return "latest"
    if to.isascii() and to.isdigit() and len(to) < 20:
        return int(to)
    try:
        found = datetime.fromisoformat(to)
        if found.tzinfo is not None and found.timestamp() >= 0:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InvalidInput(
        f"{to!r} is no place in a log", hint="earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z"
    )
