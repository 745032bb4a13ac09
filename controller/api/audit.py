"""The routes under `/v1/audit`: who did what, the end of the chain over history, and all of it as lines."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from controller.api.ports import Audit
from controller.api.replies import actor_of, json_reply
from controller.core.audit_shapes import AuditEntry, HeadShape
from controller.core.model import Json

_Filter = Annotated[str | None, Query(max_length=300)]
#: Lines that are sent at once.
_LINES = 200
#: Asking changes nothing, so it is no act.
_ASKING = ("GET", "HEAD", "OPTIONS")
#: Of a path, and of a reason, so many letters are kept.
_LONGEST = 1000


def audit_routes(audit: Audit) -> APIRouter:
    """Return the routes, below `/v1`."""
    router = APIRouter()

    @router.get("/audit", response_model=list[AuditEntry])
    def listed(
        actor: _Filter = None,
        target: _Filter = None,
        verb: _Filter = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        all: bool = False,
    ) -> Response:
        """List what persons did and were refused, the newest first; with `all` every change of state too."""
        return json_reply(
            audit.entries(actor=actor, target=target, verb=verb, since=since, until=until, limit=limit, all=all)
        )

    @router.get("/audit/head", response_model=HeadShape)
    def head() -> Response:
        """Say where the chain over history ends; noted elsewhere, it shows a chain that was cut off or laid anew."""
        return json_reply(audit.head())

    @router.get("/audit/export", response_class=StreamingResponse)
    def export() -> Response:
        """Return the chain with all that it covers as JSON lines, which `retrainctl audit verify --file` reads."""
        headers = {"x-content-type-options": "nosniff"}
        return StreamingResponse(_pieces(audit.lines()), media_type="application/x-ndjson", headers=headers)

    return router


def note_refusals(routes: FastAPI, audit: Audit) -> None:
    """Have every request to do something that these routes refuse leave a row: who asked what, and why it was not done."""
    for kind, handler in list(routes.exception_handlers.items()):
        if kind is not Exception:  # a fault of ours is no refusal
            routes.exception_handlers[kind] = _noting(handler, audit)


def _noting(handler: Any, audit: Audit) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def noting(request: Request, error: Exception) -> Response:
        response: Response = await handler(request, error)
        if request.method not in _ASKING and response.status_code < 500:
            details: dict[str, Json] = {
                "method": request.method,
                "status": response.status_code,
                "from": request.client.host if request.client else "socket",
            }
            path, reason = request.url.path[:_LONGEST], _detail(response)[:_LONGEST]
            await run_in_threadpool(audit.refused, actor_of(request), path, reason=reason, details=details)
        return response

    return noting


def _detail(response: Response) -> str:
    """Return what a problem document says in words."""
    return str(json.loads(bytes(response.body)).get("detail", ""))


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if len(piece) >= _LINES:
            yield ("\n".join(piece) + "\n").encode()
            piece = []
    if piece:
        yield ("\n".join(piece) + "\n").encode()
