"""Tells people: carries the outbox out, at least once, with a stable id."""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.core.model import Notification
from controller.engine.runtime import Runtime, Ticked
from controller.errors import GiveUp, PluginError, RetryLater
from controller.retry import backoff

BATCH = 50
#: A message that nobody took for this long is given up on.
PATIENCE = timedelta(hours=24)


class Outbox:
    """The loop that sends."""

    name = "outbox"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def tick(self, now: datetime) -> Ticked:
        """Send what is due."""
        with self._runtime.store.reading() as tx:
            due = tx.outbox.due(now, BATCH)
        for notification in due:
            self._send(notification, now)
        with self._runtime.store.reading() as tx:
            next_at = tx.outbox.next_due()
        return Ticked(worked=len(due), again=len(due) >= BATCH, next_at=next_at)

    def _send(self, notification: Notification, now: datetime) -> None:
        runtime = self._runtime
        try:
            runtime.notifier(notification.channel).send(notification)
        except (GiveUp, PluginError) as error:
            self._end(notification, "DEAD", "gave_up", error.message)
        except Exception as error:  # also a plugin's bug: one message must not hold up the others
            if not isinstance(error, RetryLater | OSError):
                runtime.log.error("notifier.broke", channel=notification.channel, error=repr(error), exc_info=True)
            if now - notification.created_at < PATIENCE:
                wait = backoff(notification.attempts + 1, runtime.random)
                with runtime.store.transaction("postpone") as tx:
                    tx.outbox.postpone(notification, until=now + wait)
                return
            self._end(notification, "DEAD", "gave_up", str(error) or repr(error))
        else:
            self._end(notification, "SENT", "sent", "")

    def _end(self, notification: Notification, target: str, cause: str, reason: str) -> None:
        with self._runtime.store.transaction("sent") as tx:
            tx.outbox.move(notification, target, cause=cause, reason=reason)
        self._runtime.metrics.notifications.labels(notification.channel, target.lower()).inc()
        if reason:
            self._runtime.log.error("notification.dead", notification_id=notification.id, error=reason)
