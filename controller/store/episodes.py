"""Rows of episodes: alerts from firing to resolved.

Whoever writes several does so in the order of their keys, so that two transactions wait for each other in one direction only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core import states
from controller.core.episode import Episode, Mark, expiry, is_marked, read_mark
from controller.core.model import Event
from controller.errors import ExpressionError
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_episode = schema.episode
#: Written into the statement, so that the planner can use the partial index.
_IS_OPEN = _episode.c.state == sa.bindparam(None, "OPEN", literal_execute=True)
_COLUMNS = tuple(field.name for field in fields(Episode))
#: So many keys are asked for in one statement.
_SOME = 500

#: More open episodes than this are not looked at by a policy.
_MOST_OPEN = 10_000

_INSERT = sa.insert(_episode)
_ALIVE = (
    sa.update(_episode)
    .where(
        _episode.c.key == sa.bindparam("b_key"),
        _episode.c.origin == sa.bindparam("b_origin"),
        _episode.c.state == "OPEN",
    )
    .values(
        seen_at=sa.bindparam("b_seen_at"),
        expires_at=sa.bindparam("b_expires_at"),
        expires_after_seconds=sa.bindparam("b_seconds"),
    )
)
# SQLite prepares a statement anew each time that a number is bound in its LIMIT; so it stands in the text.
_OPEN = (
    sa.select(_episode)
    .where(_IS_OPEN)
    .order_by(_episode.c.opened_at, _episode.c.id)
    .limit(sa.literal_column(str(_MOST_OPEN), sa.Integer))
)
_OPEN_OF = _OPEN.where(_episode.c.origin.in_(sa.bindparam("origins", expanding=True)))
_NEXT_EXPIRY = sa.select(sa.func.min(_episode.c.expires_at)).where(_IS_OPEN)
_DUE = (
    sa.select(_episode)
    .where(_IS_OPEN, _episode.c.expires_at <= sa.bindparam("now"))
    .order_by(_episode.c.expires_at)
    .limit(sa.bindparam("some", type_=sa.Integer))
)


class EpisodeRows:
    """Episodes, within one transaction; one is named by its origin and key."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def known(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Episode]:
        """Return those of the wanted (origin, key) that are known."""
        names = set(wanted)
        keys = sorted({key for _, key in names})
        found = {}
        for start in range(0, len(keys), _SOME):
            for row in self._tx.execute(sa.select(_episode).where(_episode.c.key.in_(keys[start : start + _SOME]))):
                if (row.origin, row.key) in names:
                    found[row.origin, row.key] = record(Episode, row)
        return found

    def begin(self, episodes: Iterable[Episode]) -> None:
        """Write episodes nobody knew of, in the state that they are in, and their births."""
        born = sorted(episodes, key=lambda each: (each.key, each.origin))
        if born:
            self._tx.execute(_INSERT, [{name: getattr(each, name) for name in _COLUMNS} for each in born])
        for each in born:
            reason = f"by {each.event_id}" if each.event_id else "before it was seen firing"
            self._tx.record(states.EPISODE.name, each.id, "", each.state, each.cause, reason, "controller")

    def end(self, episode: Episode, *, target: str, cause: str, reason: str) -> None:
        """Write that an open episode was resolved, or is given up; raises `Conflict` when it is no longer open."""
        seen_at = self._tx.now if target == "RESOLVED" else episode.seen_at
        self._tx.transition(
            states.EPISODE, episode.id, origin="OPEN", target=target, cause=cause, reason=reason, seen_at=seen_at
        )
        self._tx.policies.wake(model=None, waits_for=("episode",))

    def alive(self, signs: Mapping[tuple[str, str], Mark]) -> None:
        """Write the last signs of life of now, by (origin, key); those that are not open, or not known, are left alone."""
        now = self._tx.now
        rows: list[dict[str, Any]] = [
            {
                "b_origin": origin,
                "b_key": key,
                "b_seen_at": now,
                "b_expires_at": expiry(now, mark),
                "b_seconds": mark.expire_seconds,
            }
            for (origin, key), mark in sorted(signs.items(), key=lambda sign: sign[0][::-1])
        ]
        if rows:
            self._tx.execute(_ALIVE, rows)

    def due(self, now: datetime, limit: int) -> list[Episode]:
        """Return open episodes whose time without a sign of life is over, and keep them from moving until this transaction ends.

        On PostgreSQL one that another transaction writes to at this moment is left out: it lives.
        """
        statement = _DUE if self._tx.dialect == "sqlite" else _DUE.with_for_update(skip_locked=True)
        return [record(Episode, row) for row in self._tx.execute(statement, {"now": now, "some": limit})]

    def next_expiry(self) -> datetime | None:
        """Return when the next open episode is given up."""
        return self._tx.execute(_NEXT_EXPIRY).scalar()

    def open(self, origin: str | None = None, *, limit: int | None = None) -> list[Episode]:
        """Return the open episodes, of one origin or of all; those that live longest without another sign come first."""
        statement = sa.select(_episode).where(_IS_OPEN).order_by(_episode.c.expires_at.desc()).limit(limit)
        if origin is not None:
            statement = statement.where(_episode.c.origin == origin)
        return [record(Episode, row) for row in self._tx.execute(statement)]

    def open_of(self, origins: Sequence[str] | None) -> list[Episode]:
        """Return open episodes of these origins, or of all for None, the oldest first; at most as many as anybody would read."""
        rows = self._tx.execute(_OPEN) if origins is None else self._tx.execute(_OPEN_OF, {"origins": origins})
        return [record(Episode, row) for row in rows]

    def of_event(self, event: Event) -> Episode | None:
        """Return the episode that an event belongs to; None for none, or when it was never decided on.

        Which source shares a dedup domain is written in the configuration, not here: without one of the event's own origin
        it is the one that the event opened, or the only one with its key.
        """
        try:
            mark = read_mark(event.extensions) if is_marked(event.extensions) else None
        except ExpressionError:
            return None
        if mark is None:
            return None
        statement = sa.select(_episode).where(_episode.c.key == mark.key).order_by(_episode.c.id).limit(_SOME)
        found = [record(Episode, row) for row in self._tx.execute(statement)]
        mine = [each for each in found if each.origin == event.origin] or [e for e in found if e.event_id == event.id]
        if not mine and len(found) == 1 and event.state == "PROCESSED":
            mine = found
        return mine[0] if mine else None
