"""Requests to webhooks, as their senders make them, and sources to send them to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from controller.core.model import Receipt
from controller.ports import Batch, Request
from controller.sources.webhook import WebhookOptions, WebhookSource
from controller.testing import MemoryInbox
from tests.factories import NOON

DATA = Path(__file__).parent / "data"
#: What `make_source` asks of callers unless told otherwise, and `make_request` proves.
TOKEN = "a-token-of-some-length"
JSON = ("content-type", "application/json")


def payload(name: str) -> bytes:
    """Return a payload file's bytes: `alertmanager/firing`."""
    return (DATA / f"{name}.json").read_bytes()


def content(name: str) -> Any:
    """Return a payload file's JSON."""
    return json.loads(payload(name))


def make_options(base: Path, **said: Any) -> WebhookOptions:
    """Return options as they are read from a configuration in the folder `base`, with a bearer token unless told otherwise."""
    if "verify" not in said and "insecure" not in said:
        (base / "token").write_text(TOKEN)
        said["verify"] = {"bearer": "file:token"}
    return WebhookOptions.model_validate_json(json.dumps(said), strict=True, context={"base": base})


def make_source(inbox: MemoryInbox, base: Path, **said: Any) -> WebhookSource:
    """Return a webhook over an inbox's context."""
    return WebhookSource(make_options(base, **said), inbox.context(base))


def make_request(
    body: bytes | Any = b"",
    *headers: tuple[str, str],
    query: str = "",
    path: str = "",
    token: str | None = TOKEN,
    received_at: datetime = NOON,
) -> Request:
    """Return a POST of JSON with the token; headers replace those of the same name. What is not bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [JSON] if token is None else [JSON, ("authorization", f"Bearer {token}")]
    names = {name for name, _ in headers}
    return Request(
        method="POST",
        path=path,
        query=query,
        headers=[*(pair for pair in given if pair[0] not in names), *headers],
        body=raw,
        received_at=received_at,
    )


def mac(secret: str | bytes, *parts: bytes, algorithm: str = "sha256") -> bytes:
    """Return an HMAC over the parts."""
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, b"".join(parts), getattr(hashlib, algorithm)).digest()


def standard_headers(key: bytes, body: bytes, *, identity: str = "msg_1", at: datetime = NOON) -> list[tuple[str, str]]:
    """Return the headers of Standard Webhooks."""
    seconds = str(int(at.timestamp()))
    signature = base64.b64encode(mac(key, f"{identity}.{seconds}.".encode(), body)).decode()
    return [("webhook-id", identity), ("webhook-timestamp", seconds), ("webhook-signature", f"v1,{signature}")]


class Intake:
    """An inbox as `api/hooks.py` sees it, over one in memory; `refusal` is what it answers instead, if anything."""

    def __init__(self, inbox: MemoryInbox) -> None:
        self.inbox = inbox
        self.refusal: Exception | None = None

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        done: Future[list[Receipt]] = Future()
        if self.refusal is not None:
            done.set_exception(self.refusal)
        else:
            done.set_result(list(self.inbox.emit(batch)))
        return done


@dataclass
class Answered:
    """What an ASGI application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any, method: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
) -> Answered:
    """Ask an ASGI application, without a network."""
    path, _, query = path.partition("?")
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answered(
        sent[0]["status"],
        {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]},
        b"".join(message["body"] for message in sent[1:]),
    )
