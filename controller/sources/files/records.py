"""What the source knows of single paths: sighted, known, found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.core.datasets import Change
from controller.core.model import Json, NewEvent
from controller.sources.files.tree import Stamp


@dataclass(slots=True)
class Sighting:
    """A path that may hold something new, while it settles."""

    stamp: Stamp
    #: By the monotonic clock; when it counts as settled.
    due: float
    #: Completed by its writer as far as we heard: read it even if the stamp is a known one.
    forced: bool
    #: It was not there when the source was first started, so `on_start: ignore` does not mean it.
    news: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What the ledger holds of a path."""

    #: Number of its contents so far; 0 for what `on_start: ignore` passed over.
    generation: int
    stamp: Stamp
    #: None when the content was not digested.
    digest: str | None
    #: Records in it; None where nobody counted: only files of data sets, whose lines are records, are.
    rows: int | None = None

    def to_json(self) -> Json:
        """Return what is stored."""
        stored = {"generation": self.generation, "digest": self.digest, **self.stamp._asdict()}
        return stored if self.rows is None else {**stored, "rows": self.rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Known:
        """Return what `to_json` wrote."""
        stamp = Stamp(value["size"], value["mtime_ns"], value["ctime_ns"], value["inode"])
        return cls(generation=value["generation"], stamp=stamp, digest=value["digest"], rows=value.get("rows"))

    def holds(self, stamp: Stamp, digest: str | None) -> bool:
        """Return whether this is the same content."""
        if self.digest is not None and digest is not None:
            return self.digest == digest
        mine, other = self.stamp, stamp
        return (mine.size, mine.mtime_ns, mine.inode) == (other.size, other.mtime_ns, other.inode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A settled file that the ledger does not hold as it is: an event, or only a new stamp."""

    path: str
    known: Known
    event: NewEvent | None
    #: What it is to its data set.
    change: Change | None = None
