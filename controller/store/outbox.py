"""Rows of messages to people: written with the change they speak of, carried out later.

Which messages are sent together is decided once, and written (`close`) before anything is sent: a group keeps its members and its id, that
of its first member, through every attempt and every restart, so that a receiver may drop what it knows by the id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import sqlalchemy as sa

from controller.core import states
from controller.core.model import NOTIFICATION_ID, Json, Notification
from controller.errors import Conflict, NotFound
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

#: Longer titles and reasons are cut, in characters.
MAX_TITLE, MAX_REASON = 2000, 4000
#: The end of an id that is taken for it has at least so many characters.
_SHORTEST_NAME = 4

_notification = schema.notification
# The state stands in the text, so that the partial index on it is used.
_IS_PENDING = _notification.c.state == sa.literal_column("'PENDING'")
_IS_OPEN = sa.and_(_IS_PENDING, _notification.c.group_id.is_(None))
_IS_CLOSED = sa.and_(_IS_PENDING, _notification.c.group_id.is_not(None))
_INSERT = sa.insert(_notification)
_KIND = (_notification.c.channel, _notification.c.kind, _notification.c.model)
_WAITING = (
    sa.select(*_KIND, sa.func.count().label("count"), sa.func.min(_notification.c.created_at).label("first_at"))
    .where(_IS_OPEN, _notification.c.due_at <= sa.bindparam("now"))
    .group_by(*_KIND)
    .order_by(sa.func.min(_notification.c.id))
)
_NEXT_OPEN = sa.select(sa.func.min(_notification.c.due_at)).where(
    _IS_OPEN, _notification.c.due_at > sa.bindparam("now")
)
_CLOSE = (
    sa.update(_notification)
    .where(_notification.c.id.in_(sa.bindparam("b_ids", expanding=True)), _IS_OPEN)
    .values(group_id=_notification.c.id, closed_at=sa.bindparam("b_now"), due_at=sa.bindparam("b_now"))
)
_CLOSE_TOGETHER = _CLOSE.values(group_id=sa.bindparam("b_group_id"))
# SQLite prepares a statement anew each time that a number is bound in its LIMIT; so it stands in the text.
_SOME = sa.bindparam("some", type_=sa.Integer, literal_execute=True)
_OLDEST = (
    sa.select(_notification.c.id)
    .where(
        _IS_OPEN,
        _notification.c.channel == sa.bindparam("channel"),
        _notification.c.kind == sa.bindparam("kind"),
        _notification.c.due_at <= sa.bindparam("now"),
    )
    .order_by(_notification.c.id)
    .limit(_SOME)
)
_OLDEST_OF_MODEL = _OLDEST.where(_notification.c.model == sa.bindparam("model"))
_OLDEST_OF_NONE = _OLDEST.where(_notification.c.model.is_(None))
_DUE = (
    sa.select(_notification.c.group_id)
    .where(
        _IS_CLOSED,
        _notification.c.channel == sa.bindparam("channel"),
        _notification.c.due_at <= sa.bindparam("now"),
    )
    .group_by(_notification.c.group_id)
    .order_by(sa.func.min(_notification.c.due_at), _notification.c.group_id)
    .limit(_SOME)
)
_MEMBERS = (
    sa.select(_notification)
    .where(_IS_PENDING, _notification.c.group_id.in_(sa.bindparam("groups", expanding=True)))
    .order_by(_notification.c.group_id, _notification.c.id)
)
_DUE_BY_CHANNEL = (
    sa.select(
        sa.func.min(_notification.c.channel).label("channel"),
        sa.func.min(_notification.c.due_at).label("due_at"),
    )
    .where(_IS_CLOSED)
    # By an expression: for groups that come in the order of an index, SQLite would read all messages there ever were.
    .group_by(_notification.c.channel.concat(""))
)


def _is(model: str | None) -> sa.ColumnElement[bool]:
    """Return the comparison with a model that may be none, in a form for which PostgreSQL uses an index."""
    return _notification.c.model.is_(None) if model is None else _notification.c.model == model


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Messages of one channel, kind and model that are due, and of which it is not decided yet with which they are sent."""

    channel: str
    kind: str
    model: str | None
    count: int
    #: When the oldest of them was written.
    first_at: datetime


class OutboxRows:
    """Notifications, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    # ------------------------------------------------------------------------------------------- writing

    def add(
        self,
        channels: Sequence[str],
        *,
        kind: str,
        title: str,
        model: str | None = None,
        run_id: str | None = None,
        body: Mapping[str, Json] | None = None,
        topic: str | None = None,
        due_at: datetime | None = None,
    ) -> None:
        """Write a message for each channel; it is not sent before `due_at`, if that is given."""
        for channel in channels:
            row = {
                "id": self._tx.ids.make(NOTIFICATION_ID),
                "channel": channel,
                "kind": kind,
                "model": model,
                "run_id": run_id,
                "title": title[:MAX_TITLE],
                "body": dict(body or {}),
                "state": "PENDING",
                "cause": "created",
                "attempts": 0,
                "due_at": due_at or self._tx.now,
                "created_at": self._tx.now,
                "finished_at": None,
                "reason": "",
                "topic": topic,
                "group_id": None,
                "closed_at": None,
            }
            self._tx.execute(_INSERT, row)

    def count(
        self,
        channels: Sequence[str],
        *,
        kind: str,
        topic: str,
        title: Callable[[int], str],
        count: int,
        every: timedelta,
        body: Mapping[str, Json],
    ) -> None:
        """Say that something happened `count` times more: at once for the first of its topic, then once in each `every`, added up.

        `title` makes a sentence of the sum, which `body` gets as `count`; the rest of `body` is of the first of those added up.
        """
        for channel in channels:
            if not self._add_up(channel, kind, topic, title, count):
                last = self._last_of(channel, kind, topic, since=self._tx.now - every)
                self.add(
                    [channel],
                    kind=kind,
                    title=title(count),
                    body={**body, "count": count},
                    topic=topic,
                    due_at=None if last is None else last + every,
                )

    def _add_up(self, channel: str, kind: str, topic: str, title: Callable[[int], str], count: int) -> bool:
        """Add to the message that waits; return whether there is one."""
        waits = sa.and_(
            _IS_OPEN,
            _notification.c.channel == channel,
            _notification.c.kind == kind,
            _notification.c.topic == topic,
        )
        statement = sa.select(_notification.c.id, _notification.c.body).where(waits).limit(1).with_for_update()
        row = self._tx.execute(statement).first()
        if row is None:
            return False
        total = int(row.body.get("count", 0)) + count
        done = self._tx.execute(
            sa.update(_notification)
            .where(_notification.c.id == row.id, waits)
            .values(body={**row.body, "count": total}, title=title(total)[:MAX_TITLE])
        )
        return done.rowcount == 1

    def _last_of(self, channel: str, kind: str, topic: str, *, since: datetime) -> datetime | None:
        statement = sa.select(sa.func.max(_notification.c.created_at)).where(
            _notification.c.channel == channel,
            _notification.c.kind == kind,
            _notification.c.model.is_(None),
            _notification.c.created_at > since,
            _notification.c.topic == topic,
        )
        return self._tx.execute(statement).scalar()

    # ------------------------------------------------------------------------------------------- what is sent together

    def waiting(self, now: datetime) -> list[Waiting]:
        """Return the messages that are due and not closed yet, by channel, kind and model, those that wait longest first."""
        return [record(Waiting, row) for row in self._tx.execute(_WAITING, {"now": now})]

    def told_at(self, waiting: Waiting) -> datetime | None:
        """Return when messages like these were last closed, None when none ever were."""
        statement = sa.select(sa.func.max(_notification.c.closed_at)).where(
            _notification.c.channel == waiting.channel,
            _notification.c.kind == waiting.kind,
            _is(waiting.model),
        )
        return self._tx.execute(statement).scalar()

    def close(self, waiting: Waiting, *, together: bool, most: int) -> int:
        """Decide that the oldest of these are sent now, as one or each by itself; return how many they are."""
        chosen = self._oldest(waiting, most)
        if chosen:
            parameters = {"b_ids": chosen, "b_now": self._tx.now}
            if together:
                self._tx.execute(_CLOSE_TOGETHER, {**parameters, "b_group_id": chosen[0]})
            else:
                self._tx.execute(_CLOSE, parameters)
        return len(chosen)

    def skip(self, waiting: Waiting, *, reason: str, most: int) -> int:
        """End the oldest of these without sending them; return how many they were."""
        chosen = self._oldest(waiting, most)
        for id_ in chosen:
            self._tx.transition(
                states.NOTIFICATION, id_, origin="PENDING", target="SKIPPED", cause="not_wanted", reason=reason
            )
        return len(chosen)

    def _oldest(self, waiting: Waiting, most: int) -> list[str]:
        parameters = {"channel": waiting.channel, "kind": waiting.kind, "now": self._tx.now, "some": most}
        if waiting.model is None:
            found = self._tx.execute(_OLDEST_OF_NONE, parameters)
        else:
            found = self._tx.execute(_OLDEST_OF_MODEL, {**parameters, "model": waiting.model})
        return list(found.scalars())

    # ------------------------------------------------------------------------------------------- sending

    def due(self, channel: str, now: datetime, limit: int) -> list[list[Notification]]:
        """Return the groups of a channel whose time has come, oldest first, each with its members in order."""
        order = list(self._tx.execute(_DUE, {"channel": channel, "now": now, "some": limit}).scalars())
        found = [record(Notification, row) for row in self._tx.execute(_MEMBERS, {"groups": order})]
        groups = {key: list(group) for key, group in groupby(found, key=lambda message: message.group_id)}
        return [groups[key] for key in order if key in groups]

    def due_by_channel(self) -> dict[str, datetime]:
        """Return for each channel when the next of its groups is due."""
        return {row.channel: row.due_at for row in self._tx.execute(_DUE_BY_CHANNEL)}

    def next_open(self, now: datetime) -> datetime | None:
        """Return when the next message comes due of which it is not decided yet with which it is sent."""
        return self._tx.execute(_NEXT_OPEN, {"now": now}).scalar()

    def move(self, messages: Sequence[Notification], target: str, *, cause: str, reason: str = "") -> None:
        """End a group: SENT or DEAD."""
        for message in messages:
            self._tx.transition(
                states.NOTIFICATION,
                message.id,
                origin=message.state,
                target=target,
                cause=cause,
                reason=reason[:MAX_REASON],
                attempts=message.attempts + 1,
            )

    def postpone(self, messages: Sequence[Notification], *, until: datetime, reason: str) -> None:
        """Try a group again later."""
        self._tx.execute(
            sa.update(_notification)
            .where(_notification.c.id.in_([message.id for message in messages]), _IS_PENDING)
            .values(attempts=messages[0].attempts + 1, due_at=until, reason=reason[:MAX_REASON])
        )

    def tame(self, now: datetime, *, longest: timedelta) -> int:
        """Make due now what seems to wait for longer than anything does, as a clock that was ahead left it; return how many messages."""
        is_far = sa.and_(_IS_PENDING, _notification.c.due_at > now + longest)
        return self._tx.execute(sa.update(_notification).where(is_far).values(due_at=now)).rowcount

    # ------------------------------------------------------------------------------------------- a person's doing

    def find(self, name: str) -> Notification:
        """Return a message by its id or the end of it; raises `NotFound`, and `Conflict` for a name that stands for several."""
        statement = sa.select(_notification).where(_notification.c.id == name)
        found = list(self._tx.execute(statement))
        if not found and len(name) >= _SHORTEST_NAME:
            ends = _notification.c.id.endswith(name, autoescape=True)
            found = list(self._tx.execute(sa.select(_notification).where(ends).limit(2)))
        if not found:
            raise NotFound(f"there is no notification {name!r}", hint="see `retrainctl notifications`")
        if len(found) > 1:
            raise Conflict(f"{name!r} stands for several notifications", hint="write more of the id")
        return record(Notification, found[0])

    def group(self, message: Notification) -> list[Notification]:
        """Return all that are sent together with a message, itself among them."""
        if message.group_id is None:
            return [message]
        statement = (
            sa.select(_notification).where(_notification.c.group_id == message.group_id).order_by(_notification.c.id)
        )
        return [record(Notification, row) for row in self._tx.execute(statement)]

    def retry(self, messages: Sequence[Notification], *, actor: str, reason: str) -> None:
        """Have a dead group sent again, under the id it had."""
        for message in messages:
            self._tx.transition(
                states.NOTIFICATION,
                message.id,
                origin=message.state,
                target="PENDING",
                cause="retried",
                reason=reason[:MAX_REASON],
                actor=actor,
                attempts=0,
                due_at=self._tx.now,
                group_id=message.group_id or message.id,
                closed_at=self._tx.now,
            )
