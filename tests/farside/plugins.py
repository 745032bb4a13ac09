"""The plugins by which a daemon reaches the far side; they obey `controller/ports.py`, and are found like a stranger's."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from controller.core.model import Notification
from controller.errors import RetryLater
from controller.ports import (
    Handle,
    LauncherContext,
    LogChunk,
    NotifierContext,
    Observation,
    Order,
    PluginOptions,
    PromoterContext,
    PromotionOrder,
)

#: A caller gives up after so many seconds: sooner than what is done late is done.
PATIENCE_SECONDS = 1.5


class _Line:
    """The way to the far side: one connection a request."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and answer; raises `OSError` when none came, and `RetryLater` when nobody was reached."""
        connection = http.client.HTTPConnection(self._host, timeout=PATIENCE_SECONDS)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise RetryLater(f"the far side at {self._host} cannot be reached: {error}") from error
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the far side's answer broke: {error!r}") from error
        finally:
            connection.close()


class FarsideLauncher:
    """Starts jobs at the far side, each by the name of its attempt."""

    class Settings(PluginOptions):
        """Settings."""

        url: str = "http://127.0.0.1:1"
        slots: int | None = None

    class Options(PluginOptions):
        """Options."""

        #: How long the job takes.
        seconds: float = 0.5
        #: What it reports; without it the job fails.
        auc: float | None = 0.7

    searchable: ClassVar[bool] = True
    local: ClassVar[bool] = False
    #: The far side knows a job by its name, and starts each once.
    settle: ClassVar[timedelta] = timedelta(0)

    def __init__(self, settings: Settings, context: LauncherContext) -> None:
        self._slots = settings.slots
        self._line = _Line(settings.url)
        del context

    def slots(self) -> int | None:
        return self._slots

    def launch(self, order: Order) -> Handle:
        self._line.ask("POST", "/jobs", self._wanted(order))  # 409: it is there
        return self._handle(order)

    def find(self, order: Order) -> Handle | None:
        try:
            status, _ = self._line.ask("GET", f"/jobs/{quote(order.attempt_id)}")
        except OSError as error:
            raise RetryLater(f"the far side did not answer: {error}") from error
        return None if status == 404 else self._handle(order)

    def observe(self, handle: Handle) -> Observation:
        try:
            status, found = self._line.ask("GET", f"/jobs/{quote(handle['key'], safe='')}")
        except OSError as error:
            raise RetryLater(f"the far side did not answer: {error}") from error
        if status == 404:
            return Observation(state="lost", reason="the far side knows no such job")
        state, code = found["state"], found["exit_code"]
        ended_at = None if state == "running" else datetime.fromisoformat(found["ends_at"])
        reason = "" if code is None else f"exit code {code}"
        return Observation(state=state, reason=reason, exit_code=code, finished_at=ended_at)

    def stop(self, handle: Handle, *, force: bool) -> None:
        del force
        self._line.ask("DELETE", f"/jobs/{quote(handle['key'], safe='')}")

    def watch(self, handle: Handle, changed: Callable[[], None]) -> None:
        """Give a hint when the job should have ended."""
        timer = threading.Timer(handle["seconds"] + 0.1, changed)
        timer.daemon = True
        timer.start()

    def log(self, handle: Handle, offset: int, limit: int) -> LogChunk:
        text = f"log of {handle['key']}\nhello\n".encode()[offset : offset + limit]
        return LogChunk(data=text, next_offset=offset + len(text))

    def forget(self, handle: Handle) -> None:
        """Keep nothing."""

    @staticmethod
    def _handle(order: Order) -> Handle:
        return {"key": order.attempt_id, "seconds": order.options.seconds}

    @staticmethod
    def _wanted(order: Order) -> dict[str, Any]:
        options: FarsideLauncher.Options = order.options
        result = None
        if options.auc is not None:
            metrics = {"auc": options.auc}
            result = {"metrics": metrics, "champion_metrics": metrics, "artifact": "model"}
        return {
            "name": order.attempt_id,
            "job_id": order.job_id,
            "attempt": order.attempt,
            "seconds": options.seconds,
            "folder": str(order.folder.absolute()),
            "result": result,
        }


class BlindLauncher(FarsideLauncher):
    """One whose target gives jobs numbers, and cannot be searched."""

    searchable: ClassVar[bool] = False

    def launch(self, order: Order) -> Handle:
        _, made = self._line.ask("POST", "/blind", self._wanted(order))
        return {"key": f"#{made['number']}", "seconds": order.options.seconds}

    def find(self, order: Order) -> Handle | None:
        raise AssertionError("nobody searches a launcher that cannot be searched")


class FarsidePromoter:
    """Promotes in the far side's registry."""

    class Options(PluginOptions):
        """Options."""

        url: str

    def __init__(self, options: Options, context: PromoterContext) -> None:
        del context
        self._line = _Line(options.url)

    def promote(self, order: PromotionOrder) -> None:
        self._line.ask("PUT", f"/registry/{quote(order.model)}", {"version": order.target.version_id})

    def current(self, model: str) -> str | None:
        _, found = self._line.ask("GET", f"/registry/{quote(model)}")
        serves: str | None = found["serves"]
        return serves

    def rollback(self, order: PromotionOrder) -> None:
        previous = None if order.previous is None else order.previous.version_id
        self._line.ask("PUT", f"/registry/{quote(order.model)}", {"version": previous})


class FarsideNotifier:
    """Tells the far side."""

    class Options(PluginOptions):
        """Options."""

        url: str

    def __init__(self, options: Options, context: NotifierContext) -> None:
        del context
        self._line = _Line(options.url)

    def send(self, notification: Notification) -> None:
        self._line.ask("POST", "/messages", {"id": notification.id})
