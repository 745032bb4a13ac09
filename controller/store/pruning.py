"""What retention lets go of, and the statements that do it: small batches by ids that sort by time, each a transaction of its own.

Every rule stands in the statement that deletes, not in what was read before it: a row is only ever let go of while its rule holds, whoever
else writes meanwhile, and after a crash at any batch the next sweep goes on where this one ended.
What an account of the past is made of has no kind here and is never deleted: decisions, runs and their causes, jobs, attempts, results,
verdicts, versions, promotions, history, acts and configurations.
Called by `engine/pruning.py` for the janitor and `retrainctl db prune`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.clock import floor_id
from controller.core.model import (
    DEAD_LETTER_ID,
    EPISODE_ID,
    EVENT_ID,
    NOTIFICATION_ID,
    PERSON_ORIGIN,
    WATCH_ID,
)
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Store, Transaction

#: Rows that one reading looks at.
PAGE = 2000

_event, _held, _cause, _run = schema.event, schema.held_cause, schema.run_cause, schema.run
_letter, _episode, _notification, _watch = schema.dead_letter, schema.episode, schema.notification, schema.watch
_pruned = schema.pruned

Rule = Callable[[datetime], Sequence[sa.ColumnElement[bool]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Something that is let go of when its time is over."""

    #: As in `retention`.
    name: str
    table: sa.Table
    #: Prefix of its ids; they sort by the time of their making.
    prefix: str
    #: What must be true of a row, beside that it was made before an instant.
    rule: Rule
    #: The column that is emptied; None where the whole row goes.
    column: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What retention let go of so far, of one kind."""

    kind: str
    row_count: int
    #: Of what is older than this, some may be gone.
    cutoff: datetime
    #: When the last batch went.
    at: datetime


def _is(column: sa.Column[Any], word: str) -> sa.ColumnElement[bool]:
    return column == sa.literal_column(f"'{word}'")


def _past_events(cutoff: datetime) -> Sequence[sa.ColumnElement[bool]]:
    """An event that was decided on, that nothing holds or counts, and that no run waits for; a person's press is kept as acts are."""
    held = sa.exists(sa.select(1).where(_held.c.event_id == _event.c.id))
    waited_for = sa.exists(
        sa.select(1)
        .select_from(_cause.join(_run, _run.c.id == _cause.c.run_id))
        .where(_cause.c.event_id == _event.c.id, _run.c.finished_at.is_(None))
    )
    return (
        _is(_event.c.state, "PROCESSED"),
        _event.c.received_at < cutoff,
        _event.c.origin != PERSON_ORIGIN,
        ~held,
        ~waited_for,
    )


def _past_bodies(cutoff: datetime) -> Sequence[sa.ColumnElement[bool]]:
    return (*_past_events(cutoff), _event.c.data.is_not(None))


def _past_episodes(cutoff: datetime) -> Sequence[sa.ColumnElement[bool]]:
    """An episode that ended, and that no open watch looks at."""
    watched = sa.exists(
        sa.select(1).where(
            _is(_watch.c.state, "OPEN"), sa.type_coerce(_watch.c.signal, sa.Text).like("%" + _episode.c.id + "%")
        )
    )
    return (_episode.c.finished_at < cutoff, ~watched)


def _ended(table: sa.Table) -> Rule:
    """Return the rule that only the end counts: a row has an instant there only in a final state."""
    return lambda cutoff: (table.c.finished_at < cutoff,)


#: In the order in which they are gone through.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="bodies", table=_event, prefix=EVENT_ID, rule=_past_bodies, column="data"),
        Kind(name="events", table=_event, prefix=EVENT_ID, rule=_past_events),
        Kind(name="dead_letters", table=_letter, prefix=DEAD_LETTER_ID, rule=_ended(_letter)),
        Kind(name="notifications", table=_notification, prefix=NOTIFICATION_ID, rule=_ended(_notification)),
        Kind(name="watches", table=_watch, prefix=WATCH_ID, rule=_ended(_watch)),
        Kind(name="episodes", table=_episode, prefix=EPISODE_ID, rule=_past_episodes),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows whose time is over, in the order of their ids."""

    ids: Sequence[str]
    #: Behind which row the next batch begins; None when there is none.
    last: str | None


def look(tx: Transaction, kind: Kind, *, after: str, cutoff: datetime, most: int) -> Batch:
    """Return the next rows behind an id that may go, `most` at most, found among the next `PAGE` that were made before `cutoff`."""
    last = _last_of_page(tx, kind, after=after, cutoff=cutoff)
    if last is None:
        return Batch(ids=(), last=None)
    key = kind.table.c.id
    going = sa.select(key).where(key > after, key <= last, *kind.rule(cutoff)).order_by(key).limit(most)
    ids = list(tx.execute(going).scalars())
    return Batch(ids=ids, last=ids[-1] if len(ids) == most else last)


def _last_of_page(tx: Transaction, kind: Kind, *, after: str, cutoff: datetime) -> str | None:
    key = kind.table.c.id
    page = sa.select(key).where(key > after, key < floor_id(kind.prefix, cutoff)).order_by(key).limit(PAGE)
    last: str | None = tx.execute(sa.select(sa.func.max(page.subquery().c.id))).scalar()
    return last


def let_go(tx: Transaction, kind: Kind, ids: Sequence[str], *, cutoff: datetime) -> int:
    """Let go of those of these rows whose time is over still, and return how many."""
    table = kind.table
    where = (table.c.id.in_(ids), *kind.rule(cutoff))
    if kind.column is None:
        done = tx.execute(sa.delete(table).where(*where))
    else:
        done = tx.execute(sa.update(table).where(*where).values({kind.column: None, "pruned_at": tx.now}))
    if done.rowcount:
        _count(tx, kind, done.rowcount, cutoff)
    return done.rowcount


def _count(tx: Transaction, kind: Kind, count: int, cutoff: datetime) -> None:
    """Add to what is gone, so that a record that is no longer whole says so from this batch on."""
    insert = tx.insert(_pruned).values(kind=kind.name, row_count=count, cutoff=cutoff, at=tx.now)
    later = sa.case((_pruned.c.cutoff > insert.excluded.cutoff, _pruned.c.cutoff), else_=insert.excluded.cutoff)
    tx.execute(
        insert.on_conflict_do_update(
            index_elements=["kind"],
            set_={
                "row_count": _pruned.c.row_count + insert.excluded.row_count,
                "cutoff": later,
                "at": insert.excluded.at,
            },
        )
    )


def kept_artifacts(tx: Transaction, run_id: str) -> list[str]:
    """Return the artifacts that are kept of a run, and those that a person adopted, which may lie in any folder."""
    version = schema.version
    of_run = sa.or_(version.c.run_id == run_id, version.c.run_id.is_(None))
    return list(tx.execute(sa.select(version.c.artifact).where(of_run, version.c.artifact_kept)).scalars())


def gone(tx: Transaction) -> dict[str, Pruned]:
    """Return what retention let go of so far, by kind."""
    return {row.kind: record(Pruned, row) for row in tx.execute(sa.select(_pruned))}


def would_go(store: Store, kind: Kind, *, cutoff: datetime) -> int:
    """Return how many rows would go; counted in pages, so that nothing else has to wait for it."""
    key, after, found = kind.table.c.id, "", 0
    while True:
        with store.reading() as tx:
            last = _last_of_page(tx, kind, after=after, cutoff=cutoff)
            if last is None:
                return found
            going = sa.select(sa.func.count()).select_from(kind.table)
            found += int(tx.execute(going.where(key > after, key <= last, *kind.rule(cutoff))).scalar_one())
        after = last
