"""The application behind the server: who asks, how much, and which part answers.

Health, metrics and the taking in of events are plain ASGI; everything else under `/v1` is FastAPI (`routes.py`).
Every request passes here first: the actor is known or it is refused, its body is bounded and strict JSON.
Every error is a problem document.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from controller.api.audit import audit_routes, note_refusals
from controller.api.auth import Auth
from controller.api.gather import Gatherer
from controller.api.intake import ClientGone, Held, Room, grant, read_body, take_events
from controller.api.letters import letter_routes
from controller.api.notifications import notice_routes
from controller.api.ports import Audit, Checkup, Desk, Health, Intake, Letters, Log, Logs, Notices, Views
from controller.api.problems import FAULT, Answer, Refusal, answer, problem, problem_of
from controller.api.routes import Policies, Waiting, make_routes
from controller.api.sources import source_routes
from controller.clock import Clock
from controller.core import strict_json
from controller.errors import ControllerError, StoreBusy
from controller.store.people import Token

#: Any ASGI application.
Asgi = Callable[[Any, Any, Any], Any]

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "DELETE")
#: Questions, acts and long polls that may be in work at once, each counted for itself: more are told to come again.
MOST_AT_ONCE = {"questions": 64, "acts": 64, "waits": 500}


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
    audit: Audit | None = None,
    refused: Callable[[str], None] = lambda reason: None,
    shed: Callable[[str], None] = lambda what: None,
    find_token: Callable[[str], Token | None] | None = None,
    is_open: bool = True,
) -> App:
    """Return the application.

    `policies` gives the models of the configuration in force; `registry` is prometheus_client's (its own default when None);
    `hooks` serves `/hooks/{source}`, and verifies its callers itself; `checkup` answers for `/v1/sources`,
    `letters` for `/v1/dead`, `notices` for `/v1/notifications` and `/v1/notifiers`,
    `audit` for `/v1/audit`; it is also told of acts that were refused. `refused` hears why a caller was not let in.
    `find_token` looks tokens up where questions must not keep it waiting; the views when None.
    `shed` hears of each request that was turned away because of too many: of what kind it was.
    One that is not open answers only for health, and tells everybody else to come again, until `App.open`.
    """
    auth = Auth(find_token or views.token, clock=clock, log=log, refused=refused)
    waiting = Waiting(clock)
    routes = make_routes(
        desk, views, logs, health=health, policies=policies, waiting=waiting, tokens_changed=auth.forget
    )
    if checkup is not None:
        routes.include_router(source_routes(checkup), prefix="/v1")
    if letters is not None:
        routes.include_router(letter_routes(letters), prefix="/v1")
    if audit is not None:
        routes.include_router(audit_routes(audit), prefix="/v1")
        note_refusals(routes, audit)
    if notices is not None:
        routes.include_router(notice_routes(notices), prefix="/v1")
    app = App(routes, inbox, health, auth=auth, waiting=waiting, log=log, registry=registry, hooks=hooks, shed=shed)
    if is_open:
        app.open()
    return app


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
        shed: Callable[[str], None],
    ) -> None:
        self._routes = routes
        self._inbox = Gatherer(inbox)
        self._health = health
        self._auth = auth
        self._waiting = waiting
        self._log = log
        self._registry = registry
        self._hooks = hooks
        self._shed = shed
        self._room = Room()
        self._at_once = dict.fromkeys(MOST_AT_ONCE, 0)
        self._is_open = False

    def open(self) -> None:
        """Answer everybody from now on."""
        self._is_open = True

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

        held = scope["retrain.held"] = Held(self._room)
        try:
            found = await self._answer(scope, receive, sending)
        except ClientGone:
            return
        except (Refusal, ControllerError) as error:
            if isinstance(error, StoreBusy):
                self._shed("intake" if scope["path"] == "/v1/events" else "api")
            found = problem_of(error)
        except Exception as error:  # noqa: BLE001 - the edge: it is logged, and the client gets no traceback
            self._log.error("request.failed", path=scope["path"], method=scope["method"], exc_info=error)
            found = problem(500, FAULT)
        finally:
            held.release()
        if found is not None and not started:
            await found.send(send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> Answer | None:
        """Return the answer, or None when it was sent already."""
        path, method = scope["path"], scope["method"]
        if path in ("/healthz", "/readyz"):
            return self._say_how(path, method)
        if not self._is_open:
            raise StoreBusy("the controller is starting: its database has not answered yet", code="starting")
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
        with self._turn(_kind_of(scope)):
            await self._routes(scope, _replay(body, receive), send)
        return None

    @contextlib.contextmanager
    def _turn(self, kind: str) -> Iterator[None]:
        """Let so many requests of a kind be in work at once; raises `StoreBusy` for one more."""
        if self._at_once[kind] >= MOST_AT_ONCE[kind]:
            raise StoreBusy(f"{self._at_once[kind]} {kind} are in work already", after_seconds=1, code="api.crowded")
        self._at_once[kind] += 1
        try:
            yield
        finally:
            self._at_once[kind] -= 1

    def _say_how(self, path: str, method: str) -> Answer:
        if method not in ("GET", "HEAD"):
            raise Refusal(405, f"{method} is not for {path}", headers=[(b"allow", b"GET, HEAD")])
        report = self._health.report()
        if path == "/healthz":
            good = bool(report["live"])
            return answer(200 if good else 503, {"live": good, "loops": report["loops"]})
        good = bool(report["ready"])
        # Everything else the report says of readiness goes out as it is: who leads, complaints with their codes.
        told = {name: value for name, value in report.items() if name not in ("live", "ready", "loops")}
        return answer(200 if good else 503, {"ready": good, **told})

    async def _metrics(self, method: str) -> Answer:
        if method != "GET":
            raise Refusal(405, f"{method} is not for /metrics", headers=[(b"allow", b"GET")])
        from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
        from starlette.concurrency import run_in_threadpool

        text = await run_in_threadpool(generate_latest, self._registry or REGISTRY)
        return Answer(status=200, body=text, content_type=CONTENT_TYPE_LATEST.encode())


def _kind_of(scope: Any) -> str:
    if scope["method"] not in _WITHOUT_BODY:
        return "acts"
    return "waits" if b"wait=" in scope["query_string"] else "questions"


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
