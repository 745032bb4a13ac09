"""What people and programs ask about dead letters: the shapes of `core/letter_shapes.py`, filled in.

Both kinds are shown in one list, in the order in which they came: their ids differ in the prefix only, and what follows it rises with time.
An event that was replayed is an event like any other again, and is not listed. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controller.core.letter_shapes import (
    Kind,
    LetterPage,
    LetterShape,
    LetterSummary,
    Wanted,
)
from controller.core.model import DEAD_LETTER_ID, EVENT_ID, Event
from controller.core.redact import redact, redact_bytes
from controller.core.shapes import ActShape, HistoryShape, StandingShape
from controller.errors import Conflict, NotFound
from controller.store import schema
from controller.store.dialect import dump_json
from controller.store.finding import NEWEST, SHORTEST
from controller.store.letters import Letter
from controller.store.rows import columns
from controller.store.store import Readable, Transaction

#: A filter without an index looks at this many of the newest rows, and says where it stopped.
WINDOW = 20_000
#: Of a body so many characters are shown.
MAX_SHOWN = 16_000
MAX_ACTS = 100

_letter, _event = schema.dead_letter, schema.event
# The states stand in the text, so that the partial indexes on them are used.
_IS_DEAD = _letter.c.state == sa.literal_column("'DEAD'")
_BURIED = _event.c.state == sa.literal_column("'DEAD'")
_GIVEN_UP = sa.and_(_event.c.state == sa.literal_column("'PROCESSED'"), _event.c.error.is_not(None))
_RAW_STATES = {"replayed": ("REPLAYED",), "dropped": ("DROPPED",), "all": ("DEAD", "REPLAYED", "DROPPED")}

_RAW = sa.select(
    *(column for column in _letter.c if column.name not in ("body", "meta", "identity")),
)
_OF_EVENT = sa.select(
    *(column for column in _event.c if column.name not in ("data", "extensions", "identity")),
    sa.func.coalesce(sa.func.length(_event.c.data), 0).label("size"),
)


class LetterViews:
    """Dead letters as people see them. Safe to use from several threads."""

    def __init__(self, store: Readable) -> None:
        self._store = store

    def letters(
        self, *, source: str | None = None, state: Wanted = "dead", limit: int = 50, before: str | None = None
    ) -> LetterPage:
        """Return dead letters, the newest first, of one source or of all, older than the one named `before`."""
        with self._store.reading() as tx:
            return _page(tx, source=source, state=state, limit=limit, before=before)

    def letter(self, name: str) -> LetterShape:
        """Return everything about a dead letter, by its id or the end of it; raises `NotFound` and `Conflict`."""
        with self._store.reading() as tx:
            kind, id_ = find_letter(tx, name)
            return _letter_shape(tx, id_) if kind == "raw" else _event_shape(tx, id_)

    def body(self, name: str) -> tuple[str, bytes]:
        """Return a dead letter's id and its bytes as they came; those of an event are its payload as JSON.

        Raises `NotFound`, and `Conflict` when they are no longer kept.
        """
        with self._store.reading() as tx:
            kind, id_ = find_letter(tx, name)
            if kind == "event":
                return id_, dump_json(_buried(tx, id_).data).encode()
            letter = _get(tx, id_)
        if letter.body is None and (letter.size or letter.state != "DEAD"):
            why = f"it is {letter.state}" if letter.state != "DEAD" else "it was too large"
            raise Conflict(f"the {letter.size:,} bytes of {id_} are not kept: {why}")
        return id_, letter.body or b""

    def standing(self) -> list[StandingShape]:
        """Return how many dead letters of each source wait for a person, by name."""
        with self._store.reading() as tx:
            return standing_of(tx)


# -------------------------------------------------------------------------------------------------------- names


def find_letter(tx: Transaction, text: str) -> tuple[Kind, str]:
    """Return the kind and the id of what `text` stands for: an id, or the end of one that is unique among the newest.

    An event counts when it is dead, or was once. Raises `NotFound`, and `Conflict` when it stands for several.
    """
    text = text.strip()
    prefix = text.partition("-")[0]
    if prefix == EVENT_ID and tx.events.get(text) is not None:
        return "event", text
    if prefix == DEAD_LETTER_ID and tx.execute(sa.select(_letter.c.id).where(_letter.c.id == text)).first():
        return "raw", text
    found = list(_ending(tx, text.lower())) if len(text) >= SHORTEST else []
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(id_ for _, id_ in found[:5])
        raise Conflict(f"{text!r} stands for several dead letters: {shown}", hint="type more of the id")
    raise NotFound(f"no dead letter is called {text!r}", hint="see `retrainctl dead list --state all`")


def _ending(tx: Transaction, text: str) -> Iterator[tuple[Kind, str]]:
    newest = sa.select(_letter.c.id).order_by(_letter.c.id.desc()).limit(NEWEST)
    yield from (("raw", id_) for id_ in tx.execute(newest).scalars() if id_.endswith(text))
    for where in (_BURIED, _GIVEN_UP):
        newest = sa.select(_event.c.id).where(where).order_by(_event.c.id.desc()).limit(NEWEST)
        yield from (("event", id_) for id_ in tx.execute(newest).scalars() if id_.endswith(text))


# -------------------------------------------------------------------------------------------------------- lists


def standing_ids(tx: Transaction, source: str | None, *, after: str | None, until: str, limit: int) -> list[str]:
    """Return dead letters of both kinds that stand, the oldest first, of one source or of all.

    Those after `after` and not after `until`, which are ids of either kind.
    """
    first, last = _when(after) if after else "", _when(until)
    sources = list(tx.letters.standing()) if source is None else [source]
    found: list[str] = []
    for each in sources:
        found += tx.execute(
            sa.select(_letter.c.id)
            .where(_IS_DEAD, _letter.c.origin == each, *_between(_letter, DEAD_LETTER_ID, first, last))
            .order_by(_letter.c.id)
            .limit(limit)
        ).scalars()
    events = sa.select(_event.c.id).where(_BURIED, *_between(_event, EVENT_ID, first, last)).order_by(_event.c.id)
    if source is not None:
        events = events.where(_event.c.origin == source)
    found += tx.execute(events.limit(limit)).scalars()
    return sorted(found, key=_when)[:limit]


def standing_of(tx: Transaction) -> list[StandingShape]:
    """Return how many dead letters of each source wait for a person, by name; those that never had any are left out."""
    raw, events = tx.letters.standing(), tx.letters.buried_events()
    found: list[StandingShape] = []
    for source in sorted({*raw, *events}):
        total = raw.get(source)
        found.append(
            {
                "source": source,
                "raw": total.standing if total else 0,
                "bytes": total.bytes if total else 0,
                "events": events.get(source, 0),
                "overflowed": total.overflowed if total else 0,
                "overflowed_at": _text(total.overflowed_at) if total and total.overflowed_at else None,
            }
        )
    return found


def newest_id(tx: Transaction, source: str | None) -> str | None:
    """Return the newest dead letter of either kind that stands; None when there is none."""
    sources = list(tx.letters.standing()) if source is None else [source]
    found = [
        tx.execute(sa.select(sa.func.max(_letter.c.id)).where(_IS_DEAD, _letter.c.origin == each)).scalar()
        for each in sources
    ]
    events = sa.select(sa.func.max(_event.c.id)).where(_BURIED)
    if source is not None:
        events = events.where(_event.c.origin == source)
    found.append(tx.execute(events).scalar())
    return max((id_ for id_ in found if id_ is not None), key=_when, default=None)


def _between(table: sa.Table, prefix: str, first: str, last: str) -> tuple[Any, Any]:
    return table.c.id > f"{prefix}-{first}", table.c.id <= f"{prefix}-{last}"


def _when(id_: str) -> str:
    """Return the part of an id that rises with time, whatever its kind."""
    return id_.partition("-")[2] or id_


def _page(tx: Transaction, *, source: str | None, state: Wanted, limit: int, before: str | None) -> LetterPage:
    below = _when(before) if before else None
    raw, raw_stopped = _raw_ids(tx, source, state, below, limit + 1)
    events, events_stopped = _event_ids(tx, source, state, below, limit + 1)
    found = sorted([*raw, *events], key=_when, reverse=True)
    following = found[limit - 1] if len(found) > limit else None
    # A search that stopped before it had enough says nothing of what is older: there the page ends.
    stopped = max((id_ for id_ in (raw_stopped, events_stopped) if id_ is not None), key=_when, default=None)
    if stopped is not None and (following is None or _when(stopped) > _when(following)):
        found = [id_ for id_ in found if _when(id_) >= _when(stopped)]
        following = stopped
    return {"items": _summaries(tx, found[:limit]), "next": following}


def _raw_ids(
    tx: Transaction, source: str | None, state: Wanted, below: str | None, limit: int
) -> tuple[list[str], str | None]:
    """Return the newest ids that are wanted, and where the search stopped if it ended before it was through."""
    newest = sa.select(_letter.c.id, _letter.c.origin, _letter.c.state).order_by(_letter.c.id.desc())
    if below is not None:
        newest = newest.where(_letter.c.id < f"{DEAD_LETTER_ID}-{below}")
    if state == "dead":
        sources = list(tx.letters.standing()) if source is None else [source]
        each = [newest.where(_IS_DEAD, _letter.c.origin == name).limit(limit) for name in sources]
        return [row.id for statement in each for row in tx.execute(statement)], None
    states = _RAW_STATES[state]
    window = tx.execute(newest.limit(WINDOW)).all()
    found = [row.id for row in window if row.state in states and source in (None, row.origin)]
    return found[:limit], window[-1].id if len(found) < limit and len(window) == WINDOW else None


def _event_ids(
    tx: Transaction, source: str | None, state: Wanted, below: str | None, limit: int
) -> tuple[list[str], str | None]:
    wanted = {"dead": [_BURIED], "dropped": [_GIVEN_UP], "all": [_BURIED, _GIVEN_UP]}.get(state, [])
    found: list[str] = []
    stopped = []
    for where in wanted:
        newest = sa.select(_event.c.id, _event.c.origin).where(where).order_by(_event.c.id.desc())
        if below is not None:
            newest = newest.where(_event.c.id < f"{EVENT_ID}-{below}")
        window = tx.execute(newest.limit(limit if source is None else WINDOW)).all()
        mine = [row.id for row in window if source in (None, row.origin)]
        found += mine[:limit]
        if source is not None and len(mine) < limit and len(window) == WINDOW:
            stopped.append(window[-1].id)
    return found, max(stopped, default=None)


def _summaries(tx: Transaction, ids: Sequence[str]) -> list[LetterSummary]:
    raw = [id_ for id_ in ids if id_.startswith(DEAD_LETTER_ID)]
    events = [id_ for id_ in ids if id_.startswith(EVENT_ID)]
    rows = {row.id: _of_raw(row) for row in tx.execute(_RAW.where(_letter.c.id.in_(raw)))} if raw else {}
    if events:
        rows |= {row.id: _of_event(row) for row in tx.execute(_OF_EVENT.where(_event.c.id.in_(events)))}
    return [rows[id_] for id_ in ids if id_ in rows]


def _of_raw(row: Any) -> LetterSummary:
    return {
        "id": row.id,
        "kind": "raw",
        "source": row.origin,
        "place": row.place,
        "type": None,
        "state": row.state,
        "error": row.error,
        "size": row.size,
        "received_at": _text(row.received_at),
        "finished_at": None if row.finished_at is None else _text(row.finished_at),
    }


def _of_event(row: Any) -> LetterSummary:
    return {
        "id": row.id,
        "kind": "event",
        "source": row.origin,
        "place": f"{row.source} {row.source_id}",
        "type": row.type,
        "state": _state_of(row),
        "error": row.error or "",
        "size": row.size,
        "received_at": _text(row.received_at),
        "finished_at": None,
    }


def _state_of(event: Any) -> str:
    """Return an event's state as a dead letter: DEAD, or DROPPED when it was given up; its own when it was replayed."""
    return "DROPPED" if event.state == "PROCESSED" and event.error is not None else str(event.state)


# ------------------------------------------------------------------------------------------------- single ones


def _get(tx: Transaction, id_: str) -> Letter:
    letter = tx.letters.get(id_)
    if letter is None:
        raise NotFound(f"there is no dead letter {id_!r}")
    return letter


def _buried(tx: Transaction, id_: str) -> Event:
    """Return an event that is a dead letter, or was one."""
    event = tx.events.get(id_)
    if event is None:
        raise NotFound(f"there is no event {id_!r}")
    if event.state != "DEAD" and not _history(tx, id_):
        raise NotFound(
            f"event {id_} is {event.state} and never was a dead letter", hint=f"retrainctl events show {id_}"
        )
    return event


def _letter_shape(tx: Transaction, id_: str) -> LetterShape:
    letter = _get(tx, id_)
    history = _history(tx, id_)
    return {
        **_of_raw(letter),
        "cause": letter.cause,
        "reason": history[-1]["reason"] if history else letter.error,
        "whole": letter.whole,
        "kept": len(letter.body or b""),
        "body": None if letter.body is None else redact_bytes(letter.body, MAX_SHOWN),
        "meta": redact(dict(letter.meta)),
        "acts": _acts(tx, id_),
        "history": history,
    }


def _event_shape(tx: Transaction, id_: str) -> LetterShape:
    event = _buried(tx, id_)
    row = tx.execute(_OF_EVENT.where(_event.c.id == id_)).one()
    history = _history(tx, id_)
    body = dump_json(event.data).encode()
    attributes = {"subject": event.subject, "time": _text(event.time), **event.extensions}
    return {
        **_of_event(row),
        "cause": history[-1]["cause"] if history else "",
        "reason": history[-1]["reason"] if history else event.error or "",
        "whole": True,
        "kept": len(body),
        "body": redact_bytes(body, MAX_SHOWN),
        "meta": redact(attributes),
        "acts": _acts(tx, id_),
        "history": history,
    }


def _acts(tx: Transaction, target: str) -> list[ActShape]:
    act = schema.act
    statement = sa.select(act).where(act.c.target == target).order_by(act.c.id).limit(MAX_ACTS)
    return [_values(row, ActShape) for row in tx.execute(statement)]


def _history(tx: Transaction, entity: str) -> list[HistoryShape]:
    history = schema.history
    statement = sa.select(history).where(history.c.entity == entity).order_by(history.c.seq).limit(MAX_ACTS)
    return [_values(row, HistoryShape) for row in tx.execute(statement)]


def _values(row: Any, shape: Any) -> Any:
    mapping = columns(row)
    found = {name: mapping[name] for name in shape.__annotations__}
    return {name: _text(value) if isinstance(value, datetime) else value for name, value in found.items()}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
