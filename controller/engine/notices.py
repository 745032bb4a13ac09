"""What people do with messages: look at them, have dead ones sent again, and try a channel.

A channel is tried past the outbox, by the daemon that would use it, with the options that are in force: what it says is what a real message
would come to.
"""

from __future__ import annotations

from typing import Literal

from controller.core.model import NOTIFICATION_ID, Json, Notification
from controller.core.notice_shapes import NoticePage, NoticeRetryShape, NoticeTestShape, WantedNotices
from controller.engine.acts import Acts
from controller.engine.runtime import Runtime
from controller.errors import Conflict, ControllerError, GiveUp, NotFound, PluginError, RetryLater
from controller.plugins import names
from controller.store import Transaction
from controller.store.notice_views import NoticeViews

_Word = Literal["sent", "later", "gave_up"]


class Notices:
    """Messages, as people see and steer them. Safe to use from several threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._acts = Acts(runtime)
        self._views = NoticeViews(runtime.store.asking())

    def notifications(
        self,
        *,
        state: WantedNotices,
        channel: str | None,
        kind: str | None,
        model: str | None,
        limit: int,
        before: str | None,
    ) -> NoticePage:
        """Return messages, the newest first."""
        return self._views.notifications(
            state=state, channel=channel, kind=kind, model=model, limit=limit, before=before
        )

    def retry(self, name: str, *, who: str, reason: str, key: str | None = None) -> NoticeRetryShape:
        """Have a dead message sent again, with those it was sent with, under the same id.

        Raises `NotFound`, and `Conflict` for one that is not DEAD.
        """
        with self._runtime.store.reading() as tx:
            id_ = tx.outbox.find(name).id

        def act(tx: Transaction) -> dict[str, Json]:
            message = tx.outbox.find(id_)
            if message.state != "DEAD":
                raise Conflict(f"notification {id_} is {message.state}; only a dead one is sent again")
            group = tx.outbox.group(message)
            tx.outbox.retry(group, actor=who, reason=reason)
            return {
                "id": message.group_id or message.id,
                "channel": message.channel,
                "state": "PENDING",
                "count": len(group),
            }

        done = self._acts.once(
            act, "notification.retry", id_, who=who, reason=reason, details={}, key=key, ring=("outbox",)
        )
        return {
            "id": done["id"],
            "channel": done["channel"],
            "state": done["state"],
            "count": done["count"],
            "duplicate": bool(done.get("duplicate")),
        }

    def test(self, channel: str, *, who: str) -> NoticeTestShape:
        """Send a message through a channel now, and say what came of it; raises `NotFound` for one that is not configured."""
        runtime = self._runtime
        configured = runtime.config.notifiers
        if channel not in configured and channel not in names("notifiers"):
            known = ", ".join(sorted(configured)) or "only log, which needs no options"
            raise NotFound(f"there is no channel {channel!r}", hint=f"configured: {known}")
        message = self._message(channel, who)
        began = runtime.clock.monotonic()
        outcome, failure = self._send(channel, message)
        found: NoticeTestShape = {
            "channel": channel,
            "outcome": outcome,
            "ok": failure is None,
            "reason": "" if failure is None else getattr(failure, "message", "") or repr(failure),
            "hint": failure.hint if isinstance(failure, ControllerError) else "",
            "seconds": round(runtime.clock.monotonic() - began, 3),
            "notification_id": message.id,
        }
        self._acts.once(
            lambda _: dict(found),
            "notify.test",
            channel,
            who=who,
            reason="",
            details={"notification_id": message.id},
            key=None,
            ring=(),
        )
        return found

    def _send(self, channel: str, message: Notification) -> tuple[_Word, Exception | None]:
        try:
            self._runtime.notifier(channel).send(message)
        except (GiveUp, PluginError) as error:
            return "gave_up", error
        except Exception as error:  # also a plugin's bug, which the caller is to see
            if not isinstance(error, RetryLater | OSError):
                self._runtime.log.error("notifier.broke", channel=channel, error=repr(error), exc_info=True)
            return "later", error
        return "sent", None

    def _message(self, channel: str, who: str) -> Notification:
        now = self._runtime.clock.now()
        id_ = self._runtime.ids.make(NOTIFICATION_ID)
        return Notification(
            id=id_,
            channel=channel,
            kind="test",
            model=None,
            run_id=None,
            title=f"{who} tries the channel {channel!r}: if you can read this, it works",
            body={"actor": who},
            state="PENDING",
            cause="created",
            attempts=0,
            due_at=now,
            created_at=now,
            finished_at=None,
            group_id=id_,
            closed_at=now,
        )
