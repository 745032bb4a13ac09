"""What people and programs ask about the audit: the shapes of `core/audit_shapes.py`, filled in. Nothing here writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from controller.clock import floor_id
from controller.core.audit_shapes import AuditEntry, HeadShape
from controller.core.model import ACT_ID
from controller.core.seal import ACT_MACHINE, CHAIN_MACHINE
from controller.store import schema
from controller.store.store import Store, Transaction

#: Of changes of state so many are looked at, the newest of those that are meant, before any other filter.
WINDOW = 100_000
#: Replicas' clocks differ, and an id is made a moment before its row's time.
_SLACK = timedelta(hours=1)
#: Rows of history that stand for something that is shown otherwise.
_OTHERWISE = (ACT_MACHINE, CHAIN_MACHINE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_act, _history = schema.act, schema.history
_FROM = (
    sa.select(_history.c.seq, _history.c.at)
    .where(_history.c.seq >= sa.bindparam("seq"))
    .order_by(_history.c.seq)
    .limit(1)
)


class AuditViews:
    """The audit as people see it. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def entries(
        self,
        *,
        actor: str | None = None,
        target: str | None = None,
        verb: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        all: bool = False,
    ) -> list[AuditEntry]:
        """Return what persons did and were refused, the newest first; with `all` every change of state too."""
        with self._store.reading() as tx:
            found = [(row.at, _of_act(row)) for row in tx.execute(_acts(actor, target, verb, since, until, limit))]
            if all:
                rows = tx.execute(_transitions(tx, actor, target, verb, since, until, limit))
                found += [(row.at, _of_transition(row)) for row in rows]
        found.sort(key=lambda each: each[0], reverse=True)
        return [entry for _, entry in found[:limit]]

    def head(self) -> HeadShape:
        """Return the end of the chain."""
        with self._store.reading() as tx:
            head, last = tx.seals.head(), tx.seals.last_seq()
        if head is None:
            return {"head": None, "last_seq": 0, "sealed_at": None, "unsealed": last}
        return {
            "head": head.head,
            "last_seq": head.last_seq,
            "sealed_at": _text(_EPOCH + timedelta(microseconds=head.at)),
            "unsealed": max(last - head.last_seq, 0),
        }


def _acts(
    actor: str | None, target: str | None, verb: str | None, since: datetime | None, until: datetime | None, limit: int
) -> sa.Select[Any]:
    statement = sa.select(_act).order_by(_act.c.id.desc()).limit(limit)
    for column, wanted in ((_act.c.actor, actor), (_act.c.target, target), (_act.c.verb, verb)):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if since is not None:  # ids sort by time, so a span of it is a range of the primary key
        statement = statement.where(_act.c.id > floor_id(ACT_ID, since - _SLACK), _act.c.at >= since)
    if until is not None:
        statement = statement.where(_act.c.id < floor_id(ACT_ID, until + _SLACK), _act.c.at < until)
    return statement


def _transitions(
    tx: Transaction,
    actor: str | None,
    target: str | None,
    verb: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> sa.Select[Any]:
    """Return the changes of state that are meant; of one thing by the index, of others the newest within the span of time."""
    statement = sa.select(_history).order_by(_history.c.seq.desc())
    if target is not None:
        statement = statement.where(_history.c.entity == target)
    else:
        first = 0 if since is None else _first_from(tx, since - _SLACK)
        end = tx.seals.last_seq() + 1 if until is None else _first_from(tx, until + _SLACK)
        span = (_history.c.seq >= first, _history.c.seq < end)
        window = sa.select(_history.c.seq).where(*span).order_by(_history.c.seq.desc()).limit(WINDOW).subquery()
        oldest = tx.execute(sa.select(sa.func.min(window.c.seq))).scalar()
        statement = statement.where(*span, _history.c.seq >= (oldest or 0))
    for column, wanted in ((_history.c.actor, actor), (_history.c.cause, verb)):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if since is not None:
        statement = statement.where(_history.c.at >= since)
    if until is not None:
        statement = statement.where(_history.c.at < until)
    return statement.where(_history.c.machine.not_in(_OTHERWISE)).limit(limit)


def _first_from(tx: Transaction, at: datetime) -> int:
    """Return the number of the first row from an instant on, by halving.

    There is no index by time, and none is needed: numbers follow it, but for a moment.
    """
    low, high = 0, tx.seals.last_seq() + 1
    while low < high:
        middle = (low + high) // 2
        row = tx.execute(_FROM, {"seq": middle}).first()
        if row is None or row.at >= at:
            high = middle
        else:
            low = int(row.seq) + 1
    return low


def _of_act(row: Any) -> AuditEntry:
    return {
        "kind": "act",
        "id": row.id,
        "at": _text(row.at),
        "actor": row.actor,
        "verb": row.verb,
        "target": row.target,
        "reason": row.reason,
        "details": row.details,
    }


def _of_transition(row: Any) -> AuditEntry:
    return {
        "kind": "transition",
        "id": str(row.seq),
        "at": _text(row.at),
        "actor": row.actor,
        "verb": row.cause,
        "target": row.entity,
        "reason": row.reason,
        "details": {"machine": row.machine, "from": row.origin, "to": row.target},
    }


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
