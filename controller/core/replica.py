"""Several daemons on one database: which of them are alive, and whose configuration counts.

One of them leads. Any may, but for those whose configuration is older than that of another that is alive.
Of two configurations the later one counts: from when it was first loaded, or when a person loaded it again. A replica that decides by an
older one, because every replica that had the newer one died, does not make it newer; when they said goodbye, it does: they were taken back.
So a new configuration takes over as soon as one replica has it, and a replica that was forgotten by a deployment decides nothing.
Instants here are the database's: the replicas' own clocks may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controller.core.model import Json

#: A replica that was not seen for so long counts as gone.
LIVE = timedelta(seconds=15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """One process on the database."""

    id: str
    #: The id of its state directory.
    owner: str
    host: str
    pid: int
    #: The version of its program.
    program: str
    config_version: str
    #: How new its configuration is.
    config_at: datetime
    #: Where its API listens.
    address: str
    started_at: datetime
    seen_at: datetime
    #: What it says of itself.
    report: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """Who holds the lease, as the database knows it."""

    term: int
    #: None: it was given back.
    replica: str | None
    owner: str
    host: str
    pid: int
    since: datetime
    #: None: it does not end by itself.
    expires_at: datetime | None

    def is_over(self, now: datetime) -> bool:
        """Say whether anybody may take it."""
        return self.replica is None or (self.expires_at is not None and self.expires_at <= now)


def is_live(replica: Replica, now: datetime) -> bool:
    """Say whether a replica was seen lately."""
    return now - replica.seen_at <= LIVE


def newer_configuration(mine: Replica, others: Iterable[Replica], now: datetime) -> Replica | None:
    """Return a live replica whose configuration counts before ours; None when we may lead."""
    rivals = [other for other in others if is_live(other, now) and outranks(other, mine)]
    return max(rivals, key=lambda other: (other.config_at, other.config_version), default=None)


def outranks(other: Replica, mine: Replica) -> bool:
    """Say whether another replica's configuration counts before ours."""
    rank, our_rank = (other.config_at, other.config_version), (mine.config_at, mine.config_version)
    return other.id != mine.id and other.config_version != mine.config_version and rank > our_rank
