"""The application behind the server: who asks, how much, and which part answers.

Health, metrics and the taking in of events are plain ASGI; everything else under `/v1` is FastAPI (`routes.py`).
Every request passes here first: the actor is known or it is refused, its body is bounded and strict JSON.
Every error is a problem document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controller.api.auth import Auth
from controller.api.gather import Gatherer
from controller.api.intake import ClientGone, grant, read_body, take_events
from controller.api.letters import letter_routes
from controller.api.notifications import notice_routes
from controller.api.ports import Checkup, Desk, Health, Intake, Letters, Log, Logs, Notices, Views
from controller.api.problems import FAULT, Answer, Refusal, answer, problem, problem_of
from controller.api.routes import Policies, Waiting, make_routes
from controller.api.sources import source_routes
from controller.clock import Clock
from controller.core import strict_json
from controller.errors import ControllerError

#: Any ASGI application.
Asgi = Callable[[Any, Any, Any], Any]

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "DELETE")


def make_app(
    *,
    desk: Desk,
    views: Views,
    inbox: Intake,
    health: Health,
    logs: Logs,
    policies: Policies,
    clock: Clock,
    log: Log,
    registry: Any = None,
    hooks: Asgi | None = None,
    checkup: Checkup | None = None,
    letters: Letters | None = None,
    notices: Notices | None = None,
) -> App:
    """Return the application.

    `policies` gives the models of the configuration in force; `registry` is prometheus_client's (its own default when None);
    `hooks` serves `/hooks/{source}`, and verifies its callers itself; `checkup` answers for `/v1/sources`,
    `letters` for `/v1/dead`, `notices` for `/v1/notifications` and `/v1/notifiers`.
    """
    auth = Auth(views.token, clock=clock, log=log)
    waiting = Waiting(clock)
    routes = make_routes(
        desk, views, logs, health=health, policies=policies, waiting=waiting, tokens_changed=auth.forget
    )
    if checkup is not None:
        routes.include_router(source_routes(checkup), prefix="/v1")
    if letters is not None:
        routes.include_router(letter_routes(letters), prefix="/v1")
    if notices is not None:
        routes.include_router(notice_routes(notices), prefix="/v1")
    return App(routes, inbox, health, auth=auth, waiting=waiting, log=log, registry=registry, hooks=hooks)


class App:
    """The outermost ASGI application; see `make_app`."""

    def __init__(
        self,
        routes: Asgi,
        inbox: Intake,
        health: Health,
        *,
        auth: Auth,
        waiting: Waiting,
        log: Log,
        registry: Any,
        hooks: Asgi | None,
    ) -> None:
        self._routes = routes
        self._inbox = Gatherer(inbox)
        self._health = health
        self._auth = auth
        self._waiting = waiting
        self._log = log
        self._registry = registry
        self._hooks = hooks

    def close(self) -> None:
        """End what waits, so that the server can stop."""
        self._waiting.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = False

        async def sending(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            found = await self._answer(scope, receive, sending)
        except ClientGone:
            return
        except (Refusal, ControllerError) as error:
            found = problem_of(error)
        except Exception as error:  # noqa: BLE001 - the edge: it is logged, and the client gets no traceback
            self._log.error("request.failed", path=scope["path"], method=scope["method"], exc_info=error)
            found = problem(500, FAULT)
        if found is not None and not started:
            await found.send(send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> Answer | None:
        """Return the answer, or None when it was sent already."""
        path, method = scope["path"], scope["method"]
        if path in ("/healthz", "/readyz"):
            return self._say_how(path, method)
        if path.startswith("/hooks/") and self._hooks is not None:
            await self._hooks(scope, receive, send)
            return None
        scope["retrain.actor"] = await self._auth.actor(scope)
        if path == "/v1/events" and method == "POST":
            return await take_events(scope, receive, self._inbox)
        if path == "/v1/events" and method == "OPTIONS":
            return grant(scope)
        if path == "/metrics":
            return await self._metrics(method)
        body = b"" if method in _WITHOUT_BODY else await read_body(scope, receive)
        if body:
            _check_json(scope, body)
        await self._routes(scope, _replay(body, receive), send)
        return None

    def _say_how(self, path: str, method: str) -> Answer:
        if method not in ("GET", "HEAD"):
            raise Refusal(405, f"{method} is not for {path}", headers=[(b"allow", b"GET, HEAD")])
        report = self._health.report()
        if path == "/healthz":
            good = bool(report["live"])
            return answer(200 if good else 503, {"live": good, "loops": report["loops"]})
        good = bool(report["ready"])
        return answer(200 if good else 503, {"ready": good, "reasons": report["reasons"]})

    async def _metrics(self, method: str) -> Answer:
        if method != "GET":
            raise Refusal(405, f"{method} is not for /metrics", headers=[(b"allow", b"GET")])
        from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
        from starlette.concurrency import run_in_threadpool

        text = await run_in_threadpool(generate_latest, self._registry or REGISTRY)
        return Answer(status=200, body=text, content_type=CONTENT_TYPE_LATEST.encode())


def _check_json(scope: Any, body: bytes) -> None:
    """Refuse a body that is not JSON, or not strictly; FastAPI's own parser takes `NaN` and equal keys."""
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "the body must be application/json")
    strict_json.parse(body)


def _replay(body: bytes, receive: Any) -> Any:
    """Return a `receive` that gives the body that was read, then what comes after it."""
    given = False

    async def receive_again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
