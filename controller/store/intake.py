"""Rows of what came in: events, and what sources remember."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.clock import Ids
from controller.core import states
from controller.core.model import EVENT_ID, Event, Json, LedgerEntry, NewEvent, Receipt
from controller.store import bulk, dialect, schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_event = schema.event
_ledger = schema.ledger
_KNOWN = sa.select(_event.c.identity, _event.c.id, _event.c.origin, _event.c.source, _event.c.source_id).where(
    _event.c.identity.in_(sa.bindparam("identities", expanding=True, type_=_event.c.identity.type))
)
_OF_RUN = (
    sa.select(_event)
    .join(schema.run_cause, schema.run_cause.c.event_id == _event.c.id)
    .where(schema.run_cause.c.run_id == sa.bindparam("run_id"))
    .order_by(_event.c.id)
)
# SQLite prepares a statement anew each time that a number is bound in its LIMIT; so it stands in the text.
_OLDEST_PENDING = (
    sa.select(_event.c.received_at)
    .where(_event.c.state == "PENDING")
    .order_by(_event.c.id)
    .limit(sa.literal_column("1", sa.Integer))
)
_FORGET = sa.delete(_ledger).where(_ledger.c.source == sa.bindparam("source"), _ledger.c.key == sa.bindparam("key"))


@lru_cache(maxsize=2)
def _keep(name: str) -> Any:
    """Return the statement that writes entries of the ledger."""
    insert = dialect.insert(_ledger, name)
    return insert.on_conflict_do_update(index_elements=["source", "key"], set_={"value": insert.excluded.value})


def identity_of(origin: str, source: str, source_id: str, salt: int = 0) -> int:
    """Return the 64-bit identity of an event: what makes a redelivery harmless.

    `salt` tells apart two events whose digests are equal though their texts differ.
    """
    parts = (origin, source, source_id) if salt == 0 else (origin, source, source_id, str(salt))
    text = "\x1f".join(parts).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Events as they will be stored: made before the transaction, because on SQLite nobody else writes while one is open."""

    origin: str
    domain: str | None
    events: Sequence[NewEvent]
    #: When they were received.
    at: datetime
    ids: Sequence[str]
    rows: Sequence[bulk.Row]


def prepare(
    origin: str, events: Sequence[NewEvent], *, domain: str | None, ids: Ids, now: datetime, salt: int = 0
) -> Prepared:
    """Return events as they will be stored."""
    made = ids.make_many(EVENT_ID, len(events))
    named = domain or origin
    rows: list[bulk.Row] = [
        (
            id_,
            identity_of(named, event.source, event.source_id, salt),
            event.source,
            event.source_id,
            event.type,
            event.subject,
            bulk.to_stored(event.time or now),
            None if event.data is None else dialect.dump_json(event.data),
            dialect.dump_json(dict(event.extensions)) if event.extensions else "{}",
        )
        for id_, event in zip(made, events, strict=True)
    ]
    return Prepared(origin=origin, domain=domain, events=events, at=now, ids=made, rows=rows)


class EventRows:
    """Events and the ledger, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def add(self, origin: str, events: Sequence[NewEvent], *, domain: str | None = None) -> list[Receipt]:
        """Store events of one source and return a receipt for each, in order; a known identity writes nothing.

        `domain` stands in for the origin in the identity, when several sources share one.
        """
        if not events:
            return []
        return self.insert(prepare(origin, events, domain=domain, ids=self._tx.ids, now=self._tx.now))

    def insert(self, prepared: Prepared, *, salt: int = 0) -> list[Receipt]:
        """Store events that were prepared; see `add`."""
        inserted = bulk.insert_events(self._tx.connection, prepared.origin, prepared.at, prepared.rows)
        if inserted is None:
            return [Receipt(event_id=id_, duplicate=False) for id_ in prepared.ids]
        identities = [row[1] for row in prepared.rows]
        known = self._known([each for id_, each in zip(prepared.ids, identities, strict=True) if id_ not in inserted])
        receipts: list[Receipt | None] = []
        collided = []
        for position, (id_, identity) in enumerate(zip(prepared.ids, identities, strict=True)):
            event = prepared.events[position]
            row = known.get(identity)
            if id_ in inserted:
                receipts.append(Receipt(event_id=id_, duplicate=False))
            elif row is not None and (row.source, row.source_id) == (event.source, event.source_id):
                receipts.append(Receipt(event_id=row.id, duplicate=True))
            else:  # another event has this digest
                collided.append(position)
                receipts.append(None)
        if collided:
            events = [prepared.events[position] for position in collided]
            again = prepare(
                prepared.origin,
                events,
                domain=prepared.domain,
                ids=self._tx.ids,
                now=prepared.at,
                salt=salt + 1,
            )
            for position, receipt in zip(collided, self.insert(again, salt=salt + 1), strict=True):
                receipts[position] = receipt
        return [receipt for receipt in receipts if receipt is not None]

    def _known(self, identities: Sequence[int]) -> dict[int, Any]:
        found = {}
        for start in range(0, len(identities), 500):
            some = identities[start : start + 500]
            for row in self._tx.execute(_KNOWN, {"identities": some}):
                found[row.identity] = row
        return found

    def pending(self, limit: int) -> list[Event]:
        """Return events nobody decided on yet, oldest first; `limit` at most, and no more than may be in memory at once."""
        return self.pending_or_more(limit)[0]

    def pending_or_more(self, limit: int) -> tuple[list[Event], bool]:
        """Return what `pending` does, and whether others may wait behind these."""
        return bulk.pending_events(self._tx.connection, limit)

    def get(self, event_id: str) -> Event | None:
        """Return one event."""
        row = self._tx.execute(sa.select(_event).where(_event.c.id == event_id)).first()
        return None if row is None else record(Event, row)

    def of_run(self, run_id: str) -> list[Event]:
        """Return the events behind a run, oldest first; those that are gone are left out."""
        return [record(Event, row) for row in self._tx.execute(_OF_RUN, {"run_id": run_id})]

    def mark_processed(self, decided: Sequence[tuple[str, int]]) -> None:
        """Write that these events (id, place in the order of deciding) were decided on."""
        if decided:
            bulk.mark_processed(self._tx.connection, decided, self._tx.now)

    def mark_dead(self, event_id: str, *, reason: str) -> None:
        """Make an event a dead letter: kept whole, with the reason."""
        self._tx.transition(
            states.EVENT,
            event_id,
            origin="PENDING",
            target="DEAD",
            cause="undecidable",
            error=reason,
            reason=reason,
        )

    def remember(self, source: str, entries: Sequence[LedgerEntry]) -> None:
        """Write what a source remembers; a value of None forgets."""
        kept = [{"source": source, "key": e.key, "value": e.value} for e in entries if e.value is not None]
        if kept:
            self._tx.execute(_keep(self._tx.dialect), kept)
        for entry in entries:
            if entry.value is None:
                self._tx.execute(_FORGET, {"source": source, "key": entry.key})

    def recall(self, source: str, prefix: str) -> dict[str, Json]:
        """Return what a source remembers under keys with this prefix."""
        statement = sa.select(_ledger.c.key, _ledger.c.value).where(_ledger.c.source == source)
        if prefix:
            statement = statement.where(_ledger.c.key >= prefix, _ledger.c.key < prefix + "\U0010ffff")
        return {row.key: row.value for row in self._tx.execute(statement)}

    def oldest_pending(self) -> datetime | None:
        """Return when the oldest undecided event came in."""
        return self._tx.execute(_OLDEST_PENDING).scalar()
