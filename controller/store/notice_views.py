"""What people and programs ask about messages to people: the shapes of `core/notice_shapes.py`, filled in. Nothing here writes."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from controller.core.model import Notification
from controller.core.notice_shapes import NoticePage, NoticeShape, WantedNotices
from controller.store import schema
from controller.store.rows import record
from controller.store.store import Readable

_notification = schema.notification


class NoticeViews:
    """Messages as people see them. Safe to use from several threads."""

    def __init__(self, store: Readable) -> None:
        self._store = store

    def notifications(
        self,
        *,
        state: WantedNotices = "all",
        channel: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> NoticePage:
        """Return messages, the newest first, older than the one named `before`."""
        statement = sa.select(_notification).order_by(_notification.c.id.desc()).limit(limit)
        if state != "all":
            statement = statement.where(_notification.c.state == state.upper())
        for column, wanted in (("channel", channel), ("kind", kind), ("model", model)):
            if wanted is not None:
                statement = statement.where(_notification.c[column] == wanted)
        if before is not None:
            statement = statement.where(_notification.c.id < before)
        with self._store.reading() as tx:
            items = [_shape(record(Notification, row)) for row in tx.execute(statement)]
        return {"items": items, "next": items[-1]["id"] if len(items) == limit else None}


def _shape(message: Notification) -> NoticeShape:
    return {
        "id": message.id,
        "channel": message.channel,
        "kind": message.kind,
        "model": message.model,
        "run_id": message.run_id,
        "title": message.title,
        "body": dict(message.body),
        "state": message.state,
        "cause": message.cause,
        "reason": message.reason,
        "attempts": message.attempts,
        "group_id": message.group_id,
        "due_at": _written(message.due_at),
        "created_at": _written(message.created_at),
        "finished_at": None if message.finished_at is None else _written(message.finished_at),
    }


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
