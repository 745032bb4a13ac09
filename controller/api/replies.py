"""What a `/v1` route answers with, and who asked: the same for every router."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from controller.api.problems import Answer, answer


def json_reply(value: Any, status: int = 200) -> Response:
    """Return a value as JSON."""
    return reply(answer(status, value))


def reply(found: Answer) -> Response:
    """Return an answer, which no browser may take for something else than it says."""
    headers = {name.decode(): value.decode() for name, value in found.headers}
    headers["x-content-type-options"] = "nosniff"
    return Response(found.body, found.status, media_type=found.content_type.decode(), headers=headers)


def actor_of(request: Request) -> str:
    """Return who asks: a token's name, or the user at the other end of the socket."""
    actor: str = request.scope["retrain.actor"]
    return actor
