"""What people are shown of the daemons on a database: who leads, which there are, and how far deciding is behind.

Instants of replicas are the database's, so they are compared with its clock and not with that of whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controller.core.replica import Holding, Replica, is_live
from controller.core.shapes import LagShape, LeaderShape, ReplicaShape
from controller.store import schema
from controller.store.store import Transaction

_event, _state = schema.event, schema.policy_state
#: Written into the statements, so that the partial index on it is used.
_PENDING: sa.ColumnClause[str] = sa.literal_column("'PENDING'")


def leader_of(tx: Transaction) -> LeaderShape | None:
    """Return who leads, or led last; None before the first."""
    holding, now = tx.replicas.holding(), tx.database_now()
    if holding is None:
        return None
    return {
        "term": holding.term,
        "owner": holding.owner,
        "host": holding.host,
        "pid": holding.pid,
        "since": _text(holding.since),
        "replica": holding.replica,
        "expires_at": None if holding.expires_at is None else _text(holding.expires_at),
        "ends_in_seconds": None if holding.expires_at is None else _seconds(holding.expires_at, now),
        "is_over": holding.is_over(now),
    }


def replicas_of(tx: Transaction, in_force: str | None) -> list[ReplicaShape]:
    """Return every daemon that said it is there and did not say goodbye, the oldest first."""
    holding, now = tx.replicas.holding(), tx.database_now()
    return [_replica(each, holding, in_force, now) for each in tx.replicas.all()]


def in_force(tx: Transaction) -> str | None:
    """Return the version of the configuration that was activated last; None before the first."""
    table = schema.config_version
    version: str | None = tx.execute(
        sa.select(table.c.version).order_by(table.c.activated_at.desc(), table.c.version).limit(1)
    ).scalar()
    return version


def lag_of(tx: Transaction) -> LagShape:
    """Return how far deciding is behind."""
    oldest = sa.select(_event.c.received_at).where(_event.c.state == _PENDING).order_by(_event.c.id).limit(1)
    due = _state.c.due_at <= tx.now
    timers = tx.execute(
        sa.select(sa.func.count().label("number"), sa.func.min(_state.c.due_at).label("first")).where(due)
    ).one()
    return {
        "events_seconds": _since(tx.execute(oldest).scalar(), tx.now),
        "timers": timers.number,
        "timers_seconds": _since(timers.first, tx.now),
    }


def _replica(replica: Replica, holding: Holding | None, in_force: str | None, now: datetime) -> ReplicaShape:
    holds = holding is not None and holding.replica == replica.id
    leads = holds and holding is not None and not holding.is_over(now)
    lasts = leads and holding is not None and holding.expires_at is None
    gone = not lasts and not is_live(replica, now)
    return {
        "id": replica.id,
        "owner": replica.owner,
        "host": replica.host,
        "pid": replica.pid,
        "program": replica.program,
        "address": replica.address,
        "config_version": replica.config_version,
        "is_in_force": replica.config_version == in_force,
        "leads": leads,
        "ready": None if gone else bool(replica.report.get("ready")),
        "reasons": [str(reason) for reason in _list(replica.report.get("reasons"))],
        "waiting": int(replica.report.get("waiting") or 0),
        "started_at": _text(replica.started_at),
        "seen_at": _text(replica.seen_at),
        "seen_seconds_ago": None if lasts else max(_seconds(now, replica.seen_at), 0.0),
        "is_gone": gone,
    }


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _since(at: datetime | None, now: datetime) -> float:
    return 0.0 if at is None else max(_seconds(now, at), 0.0)


def _seconds(later: datetime, earlier: datetime) -> float:
    return round((later - earlier).total_seconds(), 3)


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
