"""The routes under `/v1/dead`: dead letters listed, shown, read again, given up.

A letter is named as people type it: its id, or the end of it. What is shown is masked (`core/redact.py`); the bytes as they came are
under `/body`, as a file that no browser shows.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from controller.api.ports import Letters
from controller.api.replies import actor_of, json_reply
from controller.core.letter_shapes import BulkShape, LetterPage, LetterShape, ReplayShape, Wanted
from controller.core.shapes import StandingShape

_Name = Annotated[str, Path(min_length=1, max_length=300)]
_Source = Annotated[str, Field(min_length=1, max_length=300)]
_Reason = Annotated[str, Field(max_length=2000)]
_Id = Annotated[str, Field(max_length=100)]
_Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LetterReason(_Body):
    """Why."""

    reason: _Reason = ""


class LetterDrop(_Body):
    """Why it is given up."""

    reason: _Reason


class _Bulk(_Body):
    #: From the answer before; left out at first.
    after: _Id | None = None
    until: _Id | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 200


class BulkReplay(_Bulk):
    """Which source's dead letters are read again; those of every source when left out."""

    source: _Source | None = None
    reason: _Reason = ""


class BulkDrop(_Bulk):
    """Which source's dead letters are given up, and why."""

    source: _Source
    reason: _Reason


def letter_routes(letters: Letters) -> APIRouter:
    """Return the routes, below `/v1`."""
    router = APIRouter()

    @router.get("/dead", response_model=LetterPage)
    def listed(
        source: Annotated[str | None, Query(max_length=300)] = None,
        state: Wanted = "dead",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        """List dead letters, the newest first: bytes that were not understood, and events that could not be decided."""
        return json_reply(letters.letters(source=source, state=state, limit=limit, before=before))

    @router.get("/dead/standing", response_model=list[StandingShape])
    def standing() -> Response:
        """Say how many dead letters of each source wait for a person, and how many the quota dropped."""
        return json_reply(letters.standing())

    @router.post("/dead/replay", response_model=BulkShape)
    def replay_all(request: Request, body: Annotated[BulkReplay, Body()]) -> Response:
        """Have the dead letters of a source read again, the oldest first; ask again while `next` is given."""
        done = letters.replay_all(
            body.source, after=body.after, until=body.until, limit=body.limit, who=actor_of(request), reason=body.reason
        )
        return json_reply(done)

    @router.post("/dead/drop", response_model=BulkShape)
    def drop_all(request: Request, body: Annotated[BulkDrop, Body()]) -> Response:
        """Give the dead letters of a source up, the oldest first; ask again while `next` is given."""
        done = letters.drop_all(
            body.source, after=body.after, until=body.until, limit=body.limit, who=actor_of(request), reason=body.reason
        )
        return json_reply(done)

    @router.get("/dead/{name}", response_model=LetterShape)
    def letter(name: _Name) -> Response:
        """Say everything about a dead letter; what looks secret is masked."""
        return json_reply(letters.letter(name))

    @router.get("/dead/{name}/body", response_class=Response)
    def body(name: _Name) -> Response:
        """Return the bytes as they came, as a file; nothing is masked."""
        id_, raw = letters.body(name)
        headers = {
            "content-disposition": f'attachment; filename="{id_}.bin"',
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }
        return Response(raw, media_type="application/octet-stream", headers=headers)

    @router.post("/dead/{name}/replay", response_model=ReplayShape)
    def replay(
        name: _Name, request: Request, body: Annotated[LetterReason | None, Body()] = None, key: _Key = None
    ) -> Response:
        """Have a dead letter read, or decided, again; it is still DEAD in the answer when it makes no sense yet."""
        reason = "" if body is None else body.reason
        return json_reply(letters.replay(name, who=actor_of(request), reason=reason, key=key))

    @router.post("/dead/{name}/drop", response_model=ReplayShape)
    def drop(name: _Name, request: Request, body: Annotated[LetterDrop, Body()], key: _Key = None) -> Response:
        """Give a dead letter up; its bytes go, its row stays."""
        return json_reply(letters.drop(name, who=actor_of(request), reason=body.reason, key=key))

    return router
