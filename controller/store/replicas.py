"""Rows of the daemons on this database, and of the lease by which one of them leads.

Every instant here is the database's: replicas whose clocks differ agree on when a lease ends.
A lease is taken and renewed by compare-and-set on its row, so of two that try one succeeds; the term that comes with it fences the loser.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core.replica import Holding, Replica
from controller.store import dialect, schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_leader = schema.leader
_replica = schema.replica
_config = schema.config_version
_COLUMNS = [field.name for field in fields(Replica)]
#: Built once: building a statement costs more than running it.
_ALL = sa.select(_replica).order_by(_replica.c.id)
_HOLDING = sa.select(_leader)
_COUNTS_FROM = sa.select(sa.func.coalesce(_config.c.counts_from, _config.c.activated_at)).where(
    _config.c.version == sa.bindparam("version")
)


@lru_cache(maxsize=2)
def _show(name: str) -> Any:
    """Return the statement that writes that a replica is there."""
    insert = dialect.insert(_replica, name)
    kept = ("id", "started_at")
    return insert.on_conflict_do_update(
        index_elements=["id"], set_={column: insert.excluded[column] for column in _COLUMNS if column not in kept}
    )


class ReplicaRows:
    """The daemons and the lease, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def all(self) -> list[Replica]:
        """Return every replica that said it is there and did not say goodbye, the oldest first."""
        return [record(Replica, row) for row in self._tx.execute(_ALL)]

    def of_owner(self, owner: str) -> Replica | None:
        """Return the replica that was seen last with this state directory."""
        statement = sa.select(_replica).where(_replica.c.owner == owner).order_by(_replica.c.seen_at.desc()).limit(1)
        row = self._tx.execute(statement).first()
        return None if row is None else record(Replica, row)

    def show(self, replica: Replica) -> None:
        """Write that a replica is there, and how it is."""
        self._tx.execute(_show(self._tx.dialect), {name: getattr(replica, name) for name in _COLUMNS})

    def leave(self, replica_id: str) -> None:
        """Forget a replica that ends, or was gone for long."""
        self._tx.execute(sa.delete(_replica).where(_replica.c.id == replica_id))

    def configured_at(self, version: str) -> datetime | None:
        """Return since when a configuration counts; None for one that was never activated."""
        at: datetime | None = self._tx.execute(_COUNTS_FROM, {"version": version}).scalar()
        return at

    def forget(self, before: datetime) -> int:
        """Forget the replicas that were not seen since `before`, and return how many there were."""
        return self._tx.execute(sa.delete(_replica).where(_replica.c.seen_at < before)).rowcount

    # ------------------------------------------------------------------------------------------------ the lease

    def leading(self) -> Replica | None:
        """Return the replica that leads; None while nobody does."""
        holding = self.holding()
        if holding is None or holding.is_over(self._tx.database_now()):
            return None
        row = self._tx.execute(sa.select(_replica).where(_replica.c.id == holding.replica)).first()
        return None if row is None else record(Replica, row)

    def holding(self) -> Holding | None:
        """Return who holds the lease; None before the first."""
        row = self._tx.execute(_HOLDING).first()
        return None if row is None else record(Holding, row)

    def take(self, replica: Replica, *, ttl: timedelta, now: datetime) -> int | None:
        """Take the lease if it is free, and return the new term; None when somebody holds it."""
        free = sa.or_(_leader.c.replica.is_(None), _leader.c.expires_at <= now)
        return self._take(replica.id, replica.owner, replica.host, replica.pid, expires_at=now + ttl, where=free)

    def take_over(self, replica_id: str, *, owner: str, host: str, pid: int) -> int:
        """Take the lease from whoever has it, for good, and return the new term; for where only one daemon can run."""
        return int(self._take(replica_id, owner, host, pid, expires_at=None, where=None) or 0)

    def _take(
        self, replica_id: str, owner: str, host: str, pid: int, *, expires_at: datetime | None, where: Any
    ) -> int | None:
        values = {
            "owner": owner,
            "host": host,
            "pid": pid,
            "since": self._tx.now,
            "replica": replica_id,
            "expires_at": expires_at,
        }
        statement = self._tx.insert(_leader).values(id=1, term=1, decided_seq=0, **values)
        statement = statement.on_conflict_do_update(
            index_elements=["id"], set_={"term": _leader.c.term + 1, **values}, where=where
        ).returning(_leader.c.term)
        term: int | None = self._tx.execute(statement).scalar()
        return term

    def renew(self, replica_id: str, term: int, *, ttl: timedelta, now: datetime) -> bool:
        """Hold the lease for another while; return False when another has taken it.

        One that ended and that nobody took is renewed all the same: its term is still the last.
        """
        return self._set(replica_id, term, expires_at=now + ttl)

    def give_back(self, replica_id: str, term: int) -> bool:
        """Let whoever comes take the lease at once; return False when it was not ours any more."""
        return self._set(replica_id, term, replica=None)

    def _set(self, replica_id: str, term: int, **values: Any) -> bool:
        statement = sa.update(_leader).where(_leader.c.term == term, _leader.c.replica == replica_id).values(values)
        return self._tx.execute(statement).rowcount == 1
