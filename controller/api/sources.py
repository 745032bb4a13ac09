"""The routes under `/v1/sources`: how each source is, a test event through it, another position for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from controller.api.ports import Checkup
from controller.api.replies import actor_of, json_reply
from controller.core.source_shapes import SeekShape, SourceShape, SourceSummary, TestShape
from controller.errors import InvalidInput

_Name = Annotated[str, Path(min_length=1, max_length=300)]
#: What a place to go on from is described by, such as topic, partition and to.
_Where = dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=1000)]]


class SeekBody(BaseModel):
    """Where a source goes on from, and why; which words it takes depends on its type."""

    model_config = ConfigDict(extra="forbid")

    where: Annotated[_Where, Field(min_length=1, max_length=20)]
    reason: Annotated[str, Field(max_length=2000)]


def source_routes(checkup: Checkup) -> APIRouter:
    """Return the routes, below `/v1`."""
    router = APIRouter()

    @router.get("/sources", response_model=list[SourceSummary])
    def sources() -> Response:
        """List the sources, and the API itself."""
        return json_reply(checkup.sources())

    @router.get("/sources/{name}", response_model=SourceShape)
    def source(name: _Name) -> Response:
        """Say everything about a source: what it was last told, how often it is heard, what is wrong, and what to do about it."""
        return json_reply(checkup.source(name))

    @router.post("/sources/{name}/test", response_model=TestShape)
    def test(name: _Name, request: Request) -> Response:
        """Send an event of type `retrain.test` through a source and wait until it is decided; no policy ever acts on it."""
        return json_reply(checkup.test(name, who=actor_of(request)))

    @router.post("/sources/{name}/seek", response_model=SeekShape)
    def seek(name: _Name, request: Request, body: Annotated[SeekBody, Body()]) -> Response:
        """Let a source go on from another position; it is stopped meanwhile."""
        if not body.reason.strip():
            raise InvalidInput("moving a source needs a reason", hint="it is recorded with your name")
        return json_reply(checkup.seek(name, body.where, who=actor_of(request), reason=body.reason))

    return router
