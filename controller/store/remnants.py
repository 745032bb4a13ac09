"""What is left of an event whose row retention let go of: what the decisions on it and the runs behind it keep of it.

An account of such an event is still that of which policies decided, and what came of it; only what it said is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from controller.clock import floor_id, made_at
from controller.core.model import EVENT_ID, Event
from controller.store import pruning, schema

if TYPE_CHECKING:
    from controller.store.store import Transaction

#: In place of a state: there is no row any more.
PRUNED = "PRUNED"

_decision, _cause = schema.decision, schema.run_cause


def remnant(tx: Transaction, event_id: str) -> Event | None:
    """Return what is left of an event that is not here any more; None when nothing is."""
    first = sa.select(_decision).where(_decision.c.event_id == event_id).order_by(_decision.c.id).limit(1)
    decision = tx.execute(first).first()
    cause = tx.execute(sa.select(_cause).where(_cause.c.event_id == event_id).limit(1)).first()
    if decision is None and cause is None:
        return None
    known = pruning.gone(tx).get("events")
    received_at = made_at(event_id)
    return Event(
        id=event_id,
        origin="" if cause is None else cause.origin,
        source="",
        source_id="",
        type="" if cause is None else cause.type,
        subject=None if cause is None else cause.subject,
        time=received_at if cause is None else cause.time,
        received_at=received_at,
        data=None,
        extensions={},
        state=PRUNED,
        decided_seq=None if decision is None else decision.seq,
        decided_at=None if decision is None else decision.at,
        pruned_at=None if known is None else known.at,
    )


def hint_of(tx: Transaction, event_id: str) -> str:
    """Return a hint for whoever looks for an event that is not here; empty when it cannot have been let go of."""
    known = pruning.gone(tx).get("events")
    if known is None or not event_id < floor_id(EVENT_ID, known.cutoff):
        return ""
    return f"events from before {known.cutoff:%Y-%m-%d %H:%M:%SZ} were let go of (`retention: events`), unless a decision names them"
