"""Errors as answers: RFC 9457 problem documents, without tracebacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from controller.errors import (
    ConfigError,
    Conflict,
    ControllerError,
    ExpressionError,
    IllegalTransition,
    InvalidInput,
    NotFound,
    NotUnderstood,
    RetryLater,
    StoreBusy,
    Unauthorized,
)
from controller.store.dialect import dump_json
from controller.store.store import StaleTerm

#: The first class that fits gives the status.
_STATUSES: Sequence[tuple[type[ControllerError], int]] = (
    (NotUnderstood, 415),
    (InvalidInput, 400),
    (ExpressionError, 400),
    (Unauthorized, 401),
    (NotFound, 404),
    (Conflict, 409),
    (IllegalTransition, 409),
    (ConfigError, 422),
    (StoreBusy, 503),
    (StaleTerm, 503),
    (RetryLater, 503),
)


#: What a client learns of a fault that we cannot name.
FAULT = "something went wrong here; the daemon's log says what"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def send(self, send: Any) -> None:
        """Send it over ASGI."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Refusal(Exception):
    """A request is answered with a problem, from wherever it was noticed."""

    def __init__(
        self, status: int, detail: str, *, hint: str = "", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = headers


def problem(
    status: int,
    detail: str,
    *,
    hint: str = "",
    headers: Sequence[tuple[bytes, bytes]] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Answer:
    """Return a problem document."""
    title = HTTPStatus(status).phrase
    document = {
        "type": f"urn:retrain:problem:{title.lower().replace(' ', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        "hint": hint,
        **more,
    }
    return Answer(
        status=status,
        body=json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        content_type=b"application/problem+json",
        headers=headers,
    )


def problem_of(error: Refusal | ControllerError) -> Answer:
    """Return the answer to an error that we can name."""
    if isinstance(error, Refusal):
        return problem(error.status, error.detail, hint=error.hint, headers=error.headers)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    headers: list[tuple[bytes, bytes]] = []
    if status == 503:
        wait = getattr(error, "after_seconds", None) or 5.0
        headers.append((b"retry-after", str(max(1, math.ceil(wait))).encode()))
    if isinstance(error, ConfigError):
        listed = [
            {"file": p.file, "line": p.line, "column": p.column, "path": p.path, "message": p.message, "hint": p.hint}
            for p in error.problems
        ]
        detail = f"the configuration has {len(listed)} problems; the one in force stays"
        return problem(status, detail, hint="retrainctl check shows them", more={"problems": listed})
    return problem(status, error.message, hint=error.hint, headers=headers)


def answer(status: int, value: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Return a JSON response."""
    body = dump_json(value).encode("utf-8", "backslashreplace")
    return Answer(status=status, body=body, headers=headers)
