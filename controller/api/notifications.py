"""The routes under `/v1/notifications` and `/v1/notifiers`: messages listed and sent again, channels tried.

A message is named as people type it: its id, or the end of it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from controller.api.ports import Notices
from controller.api.replies import actor_of, json_reply
from controller.core.notice_shapes import NoticePage, NoticeRetryShape, NoticeTestShape, WantedNotices

_Name = Annotated[str, Path(min_length=1, max_length=300)]
_Filter = Annotated[str | None, Query(max_length=300)]
_Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class NoticeReason(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=2000)] = ""


def notice_routes(notices: Notices) -> APIRouter:
    """Return the routes, below `/v1`."""
    router = APIRouter()

    @router.get("/notifications", response_model=NoticePage)
    def listed(
        state: WantedNotices = "all",
        channel: _Filter = None,
        kind: _Filter = None,
        model: _Filter = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        """List messages to people, the newest first."""
        return json_reply(
            notices.notifications(state=state, channel=channel, kind=kind, model=model, limit=limit, before=before)
        )

    @router.post("/notifications/{name}/retry", response_model=NoticeRetryShape)
    def retry(
        name: _Name, request: Request, body: Annotated[NoticeReason | None, Body()] = None, key: _Key = None
    ) -> Response:
        """Have a dead message sent again, with those it was sent with, under the same id."""
        reason = "" if body is None else body.reason
        return json_reply(notices.retry(name, who=actor_of(request), reason=reason, key=key))

    @router.post("/notifiers/{name}/test", response_model=NoticeTestShape)
    def test(name: _Name, request: Request) -> Response:
        """Send a message through a channel now, and say what came of it."""
        return json_reply(notices.test(name, who=actor_of(request)))

    return router
