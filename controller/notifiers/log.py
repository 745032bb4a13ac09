"""Tell people through the daemon's own log: one structured line for each notification."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from controller.core.model import Notification
from controller.ports import NotifierContext, PluginOptions


class LogOptions(PluginOptions):
    """Options of the notifier `log`."""

    level: Literal["info", "warning"] = Field("info", description="Severity of the lines.")


class LogNotifier:
    """Writes notifications into the log; it cannot fail."""

    #: A log is read when somebody wants to, so its lines need not be gathered.
    disturbs: ClassVar[bool] = False
    Options: ClassVar[type[LogOptions]] = LogOptions

    def __init__(self, options: LogOptions, context: NotifierContext) -> None:
        self._options = options
        self._context = context

    def send(self, notification: Notification) -> None:
        """Write one line; a repetition carries the same `notification_id`."""
        log = self._context.log
        write = log.warning if self._options.level == "warning" else log.info
        write(
            "notification",
            notification_id=notification.id,
            kind=notification.kind,
            model=notification.model,
            run_id=notification.run_id,
            title=notification.title,
            count=max(len(notification.messages), 1),
            body=dict(notification.body),
        )
