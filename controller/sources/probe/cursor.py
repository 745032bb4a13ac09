"""What a probe remembers between two looks: one entry in the ledger, written together with the events it led to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from controller.core.model import Json, LedgerEntry
from controller.sources.probe.reading import Sample

LEDGER_KEY = "probe"
#: Values of things that were not seen any more are kept up to this number beyond those that were.
KEPT_ABSENT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the ledger holds of a probe."""

    #: Digest of what was asked: an answer to another question is not compared.
    asked: str
    #: The last nominal instant whose look was concluded; None before the first.
    instant: datetime | None = None
    #: The last emitted value (or the first seen) of each thing, by key.
    values: Mapping[str, Json] = field(default_factory=dict)
    #: What the kind of probe handed on to its next look: an ETag, a watermark.
    cursor: Json = None

    def to_entry(self) -> LedgerEntry:
        """Return what is written to the ledger."""
        value = {
            "asked": self.asked,
            "instant": None if self.instant is None else iso(self.instant),
            "values": dict(self.values),
            "cursor": self.cursor,
        }
        return LedgerEntry(key=LEDGER_KEY, value=value)

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Self:
        """Read what `to_entry` wrote."""
        instant = value["instant"]
        return cls(
            asked=value["asked"],
            instant=None if instant is None else datetime.fromisoformat(instant),
            values=value["values"],
            cursor=value["cursor"],
        )

    def with_values(self, values: Mapping[str, Json], *, seen: Iterable[Sample]) -> Self:
        """Return a memory of these values: everything that was seen, and the newest of what was not."""
        keys = [sample.key for sample in seen]
        absent = [key for key in {**self.values, **values} if key not in set(keys)]
        kept = [*absent[-KEPT_ABSENT:], *keys]
        merged = {**self.values, **values}
        return replace(self, values={key: merged[key] for key in kept if key in merged})


def iso(instant: datetime) -> str:
    """Return an instant as text, in UTC."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
