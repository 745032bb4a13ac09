"""Rows of messages to people: written with the change they speak of, carried out later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from controller.core import states
from controller.core.model import NOTIFICATION_ID, Json, Notification
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_notification = schema.notification


class OutboxRows:
    """Notifications, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def add(
        self,
        channels: Sequence[str],
        *,
        kind: str,
        title: str,
        model: str | None = None,
        run_id: str | None = None,
        body: Mapping[str, Json] | None = None,
    ) -> None:
        """Write a message for each channel."""
        for channel in channels:
            row = {
                "id": self._tx.ids.make(NOTIFICATION_ID),
                "channel": channel,
                "kind": kind,
                "model": model,
                "run_id": run_id,
                "title": title,
                "body": dict(body or {}),
                "state": "PENDING",
                "cause": "created",
                "attempts": 0,
                "due_at": self._tx.now,
                "created_at": self._tx.now,
                "finished_at": None,
            }
            self._tx.execute(sa.insert(_notification), row)

    def due(self, now: datetime, limit: int) -> list[Notification]:
        """Return messages whose time has come, oldest first."""
        statement = (
            sa.select(_notification)
            .where(_notification.c.state == "PENDING", _notification.c.due_at <= now)
            .order_by(_notification.c.due_at, _notification.c.id)
            .limit(limit)
        )
        return [record(Notification, row) for row in self._tx.execute(statement)]

    def next_due(self) -> datetime | None:
        """Return when the next message is due."""
        statement = sa.select(sa.func.min(_notification.c.due_at)).where(_notification.c.state == "PENDING")
        return self._tx.execute(statement).scalar()

    def move(self, notification: Notification, target: str, *, cause: str, reason: str = "") -> None:
        """End a message: SENT or DEAD."""
        self._tx.transition(
            states.NOTIFICATION,
            notification.id,
            origin=notification.state,
            target=target,
            cause=cause,
            reason=reason,
            attempts=notification.attempts + 1,
        )

    def postpone(self, notification: Notification, *, until: datetime) -> None:
        """Try a message again later."""
        self._tx.execute(
            sa.update(_notification)
            .where(_notification.c.id == notification.id, _notification.c.state == "PENDING")
            .values(attempts=notification.attempts + 1, due_at=until)
        )
