"""The routes under `/v1`: questions to the views, and acts at the desk.

A name in a path is taken as people type it: an id, its last four characters or more, an event's own id (`store/finding.py`).
The views' shapes document the answers; they are sent as they are, since the same code made them and described them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from controller.api.ports import Desk, Health, Logs, Views
from controller.api.problems import FAULT, problem, problem_of
from controller.api.replies import actor_of, json_reply, reply
from controller.api.why import locate, why
from controller.clock import Clock
from controller.core.duration import parse_duration
from controller.core.policy import ModelSpec
from controller.core.shapes import (
    EpisodeShape,
    EventPage,
    EventShape,
    ModelShape,
    ModelSummary,
    RunPage,
    RunShape,
    StatusShape,
)
from controller.core.states import RUN
from controller.core.watch_shapes import PolicyShape
from controller.errors import ControllerError, InvalidInput, NotFound

#: A long poll ends at the latest after this; the client asks again.
MAX_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.15
_MAX_LOG_BYTES = 1 << 20

Json = Any
#: Gives the models of the configuration in force.
Policies = Callable[[], Mapping[str, ModelSpec]]
Name = Annotated[str, Path(min_length=1, max_length=300)]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for the end")]
Limit = Annotated[int, Query(ge=1, le=500)]
Reason = Annotated[str, Field(max_length=2000)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class Waiting:
    """Long polls: they look again and again, and end when the server stops."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closed = False

    def close(self) -> None:
        """End every wait soon."""
        self._closed = True

    async def until(self, done: Callable[[], bool], seconds: float, request: Request) -> None:
        """Return when `done` says so, after `seconds`, or when the client or the server goes."""
        deadline = self._clock.monotonic() + seconds
        while not await run_in_threadpool(done) and not self._closed:
            left = deadline - self._clock.monotonic()
            if left <= 0 or await request.is_disconnected():
                return
            await asyncio.sleep(min(_POLL_SECONDS, left))


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ReasonBody(_Body):
    """Why."""

    reason: Reason = ""


class RetrainBody(ReasonBody):
    """A press of the button."""

    params: dict[str, Json] = {}
    #: Passes over the budget, never over concurrency.
    force: bool = False


class RollbackBody(ReasonBody):
    """Which version to go back to; the one before the champion when left out."""

    to: str | None = None


class AdoptBody(ReasonBody):
    """A champion that was trained elsewhere."""

    artifact: Annotated[str, Field(min_length=1)]
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}


class PromoteBody(_Body):
    """An override of the gate, which needs a reason."""

    target: str
    reason: Reason


class PauseBody(ReasonBody):
    """What is paused or resumed: `all`, a model, or `model/policy`."""

    target: str


class ResolveBody(ReasonBody):
    """What became of an UNKNOWN job: `running` or `failed`."""

    candidate: str | None = None
    as_: Annotated[str, Field(alias="as")]
    #: What its launcher knows it by, for one that runs and never had one.
    handle: dict[str, Json] | None = None


class TokenBody(_Body):
    """A new token; without `expires_in` it is good until it is revoked."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    expires_in: str | None = None


class Acknowledged(BaseModel):
    """An event is stored."""

    event_id: str
    duplicate: bool


def make_routes(
    desk: Desk,
    views: Views,
    logs: Logs,
    *,
    health: Health,
    policies: Policies,
    waiting: Waiting,
    tokens_changed: Callable[[], None],
) -> FastAPI:
    """Return the FastAPI application."""
    app = FastAPI(
        title="Retrain Controller",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"description": "A problem document (RFC 9457)"}},
        exception_handlers={
            ControllerError: _named_problem,
            HTTPException: _http_problem,
            RequestValidationError: _invalid_request,
            Exception: _fault,
        },
    )
    app.include_router(_questions(views, logs, health=health, policies=policies, waiting=waiting), prefix="/v1")
    app.include_router(_acts(desk, views, policies=policies, tokens_changed=tokens_changed), prefix="/v1")
    _document_intake(app)
    return app


# --------------------------------------------------------------------------------------------------- questions


def _questions(views: Views, logs: Logs, *, health: Health, policies: Policies, waiting: Waiting) -> APIRouter:
    router = APIRouter()

    @router.get("/status", response_model=StatusShape)
    def status() -> Response:
        """Say what is happening now."""
        shape = views.status()
        complaints = health.report()["reasons"]
        return json_reply({**shape, "models": views.models(policies()), "complaints": complaints})

    @router.get("/models", response_model=list[ModelSummary])
    def models() -> Response:
        """List the models."""
        return json_reply(views.models(policies()))

    @router.get("/models/{name}", response_model=ModelShape)
    def model(name: Name) -> Response:
        """Say everything about a model."""
        return json_reply(views.model(name, configured=policies()))

    @router.get("/policies", response_model=list[PolicyShape])
    def list_policies(model: str | None = None, since: str | None = None) -> Response:
        """List the policies with what came of them: of one model, and only so far back (`since=30d`)."""
        return json_reply(views.policies(policies(), model=model, since=_so_far_back(since)))

    @router.get("/runs", response_model=RunPage)
    def runs(
        model: str | None = None, state: str | None = None, limit: Limit = 50, before: str | None = None
    ) -> Response:
        """List runs, the newest first."""
        if state is not None and state not in RUN.states:
            raise InvalidInput(f"{state!r} is no state of a run", hint=f"states: {', '.join(RUN.states)}")
        return json_reply(views.runs(model=model, state=state, limit=limit, before=before))

    @router.get("/runs/{name}", response_model=RunShape)
    async def run(name: Name, request: Request, wait: Wait = 0) -> Response:
        """Say everything about a run; with `wait`, when it has ended or the time is over."""
        run_id = await run_in_threadpool(_find, views, name, "run", policies())
        if wait:
            await waiting.until(lambda: views.run_state(run_id) in RUN.final, wait, request)
        return json_reply(await run_in_threadpool(views.run, run_id))

    @router.get("/runs/{name}/log", response_class=Response)
    def run_log(
        name: Name,
        candidate: str | None = None,
        attempt: Annotated[int | None, Query(ge=1)] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MAX_LOG_BYTES)] = _MAX_LOG_BYTES // 4,
    ) -> Response:
        """Return a piece of a job's log as bytes; `X-Next-Offset` is where the next begins, `X-Skipped` counts what the cap cut."""
        run_id = _find(views, name, "run", policies())
        chunk = logs.read(run_id, candidate, attempt, offset, limit)
        headers = {
            "x-next-offset": str(chunk.next_offset),
            "x-skipped": str(chunk.skipped),
            "x-content-type-options": "nosniff",
        }
        return Response(chunk.data, media_type="application/octet-stream", headers=headers)

    @router.get("/events", response_model=EventPage)
    def events(
        origin: str | None = None,
        type: str | None = None,
        state: str | None = None,
        limit: Limit = 50,
        before: str | None = None,
    ) -> Response:
        """List events, the newest first."""
        return json_reply(views.events(origin=origin, type=type, state=state, limit=limit, before=before))

    @router.get("/events/{name:path}", response_model=EventShape)
    async def event(name: Name, request: Request, wait: Wait = 0) -> Response:
        """Say everything about an event; with `wait`, when it is decided or the time is over."""
        event_id = await run_in_threadpool(_find, views, name, "event", policies())
        if wait:
            await waiting.until(lambda: views.event_state(event_id) != "PENDING", wait, request)
        return json_reply(await run_in_threadpool(views.event, event_id))

    @router.get("/episodes", response_model=list[EpisodeShape])
    def episodes(origin: str | None = None, limit: Limit = 200) -> Response:
        """List the open episodes: alerts that fire and are not resolved."""
        return json_reply(views.episodes(origin=origin, limit=limit))

    @router.get("/why/{thing:path}")
    def explain(thing: Name, key: str | None = None, at: AwareDatetime | None = None) -> Response:
        """Explain a run, an event, a model or a policy: of one key, as of an instant in the past."""
        return json_reply(why(views, thing, policies(), key=key, at=None if at is None else at.astimezone(UTC)))

    return router


# -------------------------------------------------------------------------------------------------------- acts


def _acts(desk: Desk, views: Views, *, policies: Policies, tokens_changed: Callable[[], None]) -> APIRouter:
    router = APIRouter()

    def run_id(name: str) -> str:
        return _find(views, name, "run", policies())

    @router.post("/models/{name}/retrain", status_code=202, response_model=Acknowledged)
    def retrain(name: Name, request: Request, body: Annotated[RetrainBody, Body()], key: Key = None) -> Response:
        """Press the retrain button; the same Idempotency-Key is the same press."""
        done = desk.retrain(
            name, who=actor_of(request), reason=body.reason, params=body.params, key=key, force=body.force
        )
        return json_reply(done, 202)

    @router.post("/models/{name}/rollback")
    def rollback(name: Name, request: Request, body: Annotated[RollbackBody, Body()], key: Key = None) -> Response:
        """Make the previous champion the champion again."""
        return json_reply(desk.rollback(name, who=actor_of(request), reason=body.reason, to=body.to, key=key))

    @router.post("/models/{name}/adopt")
    def adopt(name: Name, request: Request, body: Annotated[AdoptBody, Body()], key: Key = None) -> Response:
        """Take in a champion that was trained elsewhere."""
        who = actor_of(request)
        return json_reply(
            desk.adopt(name, who=who, reason=body.reason, artifact=body.artifact, metrics=body.metrics, key=key)
        )

    @router.post("/runs/{name}/cancel")
    def cancel(
        name: Name, request: Request, body: Annotated[ReasonBody | None, Body()] = None, key: Key = None
    ) -> Response:
        """Stop a run."""
        return json_reply(desk.cancel(run_id(name), who=actor_of(request), reason=_reason(body), key=key))

    @router.post("/runs/{name}/retry", status_code=202)
    def retry(
        name: Name, request: Request, body: Annotated[ReasonBody | None, Body()] = None, key: Key = None
    ) -> Response:
        """Start a new run with the same causes and parameters."""
        return json_reply(desk.retry(run_id(name), who=actor_of(request), reason=_reason(body), key=key), 202)

    @router.post("/runs/{name}/approve")
    def approve(
        name: Name, request: Request, body: Annotated[ReasonBody | None, Body()] = None, key: Key = None
    ) -> Response:
        """Let a run that waits for a person be promoted."""
        return json_reply(desk.approve(run_id(name), who=actor_of(request), reason=_reason(body), key=key))

    @router.post("/runs/{name}/reject")
    def reject(
        name: Name, request: Request, body: Annotated[ReasonBody | None, Body()] = None, key: Key = None
    ) -> Response:
        """Keep a run that waits for a person from being promoted."""
        return json_reply(desk.reject(run_id(name), who=actor_of(request), reason=_reason(body), key=key))

    @router.post("/runs/{name}/resolve")
    def resolve(name: Name, request: Request, body: Annotated[ResolveBody, Body()], key: Key = None) -> Response:
        """Say what became of a job that is UNKNOWN."""
        if body.as_ not in ("running", "failed"):
            raise InvalidInput(f"as is {body.as_!r}", hint="write running or failed")
        return json_reply(
            desk.resolve(
                run_id(name),
                body.candidate,
                body.as_,
                who=actor_of(request),
                reason=body.reason,
                handle=body.handle,
                key=key,
            )
        )

    @router.post("/promote", status_code=202)
    def promote(request: Request, body: Annotated[PromoteBody, Body()], key: Key = None) -> Response:
        """Make a run's challenger, or a version, the champion over the gate's head."""
        if not body.reason.strip():
            raise InvalidInput("an override needs a reason", hint="it is recorded with your name")
        found = locate(views, body.target, policies())
        if found.kind not in ("run", "version"):
            raise InvalidInput(f"{body.target!r} is a {found.kind}, not a run or a version")
        return json_reply(desk.promote(found.id, who=actor_of(request), reason=body.reason, key=key), 202)

    @router.post("/pause")
    def pause(request: Request, body: Annotated[PauseBody, Body()], key: Key = None) -> Response:
        """Hold all decisions of everything, a model or a policy."""
        scope, target = _scope(body.target)
        return json_reply(desk.pause(scope, target, who=actor_of(request), reason=body.reason, key=key))

    @router.post("/resume")
    def resume(request: Request, body: Annotated[PauseBody, Body()], key: Key = None) -> Response:
        """End a pause; what was held goes on."""
        scope, target = _scope(body.target)
        return json_reply(desk.resume(scope, target, who=actor_of(request), reason=body.reason, key=key))

    @router.post("/reload")
    def reload(request: Request) -> Response:
        """Load the configuration anew, all or nothing."""
        return json_reply(desk.reload(who=actor_of(request)))

    @router.get("/tokens")
    def list_tokens() -> Response:
        """List the tokens, without their secrets."""
        return json_reply(desk.list_tokens())

    @router.post("/tokens", status_code=201)
    def create_token(request: Request, body: Annotated[TokenBody, Body()]) -> Response:
        """Make a token; the answer has the secret, this once."""
        expires_in = _expiry(body.expires_in)
        return json_reply(desk.create_token(body.name, who=actor_of(request), expires_in=expires_in), 201)

    @router.delete("/tokens/{name}")
    def revoke_token(name: Name, request: Request) -> Response:
        """Revoke a token, at once."""
        done = desk.revoke_token(name, who=actor_of(request))
        tokens_changed()
        return json_reply(done)

    return router


# ----------------------------------------------------------------------------------------------------- details


def _reason(body: ReasonBody | None) -> str:
    return "" if body is None else body.reason


def _find(views: Views, name: str, kind: str, models: Mapping[str, ModelSpec]) -> str:
    found = locate(views, name, models)
    if found.kind != kind:
        raise NotFound(f"{name!r} is a {found.kind}, not a{'n' if kind == 'event' else ''} {kind}")
    return found.id


def _scope(target: str) -> tuple[str, str]:
    """Return scope and target of a pause as the desk takes them."""
    if target == "all":
        return "all", ""
    return ("policy" if "/" in target else "model"), target


def _so_far_back(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"since is {text!r}, not a duration", hint="write 30d or 12h") from error


def _expiry(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        length = parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"expires_in is {text!r}, not a duration", hint="write 90d or 12h") from error
    if length <= timedelta(0):
        raise InvalidInput(f"expires_in is {text!r}, which is over already", hint="write 90d or 12h")
    return length


async def _named_problem(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, ControllerError):
        raise error
    return reply(problem_of(error))


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    details = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return reply(problem(error.status_code, details.get(error.status_code, str(error.detail)), headers=headers))


async def _fault(request: Request, error: Exception) -> Response:
    """Answer to a fault of ours; it is raised on, and logged in `app.py`."""
    del request, error
    return reply(problem(500, FAULT))


async def _invalid_request(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
    return reply(problem(422, "; ".join(wrong)))


def _document_intake(app: FastAPI) -> None:
    """Add `POST /v1/events`, which `intake.py` serves, to the API's documentation."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        modes = ("application/cloudevents+json", "application/cloudevents-batch+json", "application/json")
        document["paths"].setdefault("/v1/events", {})["post"] = {
            "summary": "Take in CloudEvents 1.0: structured, batched, or binary (with ce- headers)",
            "requestBody": {"required": True, "content": {mode: {} for mode in modes}},
            "responses": {
                "202": {"description": "Stored; a batch is answered with a list"},
                "503": {"description": "Cannot be stored now; nothing was, try again after Retry-After"},
            },
        }
        return document

    app.openapi = openapi  # type: ignore[method-assign]
