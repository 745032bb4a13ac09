"""What people and programs are shown of messages: the JSON that the API answers and `retrainctl notifications -o json` prints."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads these, and wants this one before Python 3.12

Json = Any
#: What is listed.
WantedNotices = Literal["all", "pending", "sent", "dead", "skipped"]


class NoticeShape(TypedDict):
    """A message to people."""

    id: str
    channel: str
    kind: str
    model: str | None
    run_id: str | None
    title: str
    body: dict[str, Json]
    state: str
    cause: str
    #: What the last attempt came to, or why it was skipped.
    reason: str
    attempts: int
    #: The id that it is sent under: of the first of those that are sent together; null until that is decided.
    group_id: str | None
    #: When it is sent, or tried again; while it waits for others, the earliest moment.
    due_at: str
    created_at: str
    finished_at: str | None


class NoticePage(TypedDict):
    """Messages, the newest first; `next` is the `before` of the page that follows."""

    items: list[NoticeShape]
    next: str | None


class NoticeTestShape(TypedDict):
    """What trying a channel came to."""

    channel: str
    #: sent; later: it would be tried again; gave_up: it would be dead.
    outcome: Literal["sent", "later", "gave_up"]
    ok: bool
    #: Why it was not sent.
    reason: str
    hint: str
    seconds: float
    notification_id: str


class NoticeRetryShape(TypedDict):
    """What asking for another attempt came to."""

    #: The id that it is sent under.
    id: str
    channel: str
    state: str
    #: How many messages are sent together.
    count: int
    #: True when the same request was carried out before, under the same Idempotency-Key.
    duplicate: bool
