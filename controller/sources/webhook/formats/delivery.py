"""What a format of a webhook is given, what it returns, and the small readings that formats share.

A format is one module with one function: it gets a `Delivery`, a request whose caller was verified, and returns a `Read`, or raises
`InvalidInput`. It computes only: no clock, no store, no network.
Text that becomes an attribute is bounded and free of control characters here, because a database takes neither everything nor endlessly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from controller.core import strict_json
from controller.core.cloudevents import MAX_ATTRIBUTE
from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput
from controller.ports import Reply, Request

if TYPE_CHECKING:
    from controller.sources.webhook.options import WebhookOptions

#: More alerts, records or events than this are not taken from one request.
MAX_ITEMS = 10_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_JSON_TYPE = re.compile(r"application/(?:[\w.-]+\+)?json", re.IGNORECASE)


class Foreign(InvalidInput):
    """The body is JSON, but not of the shape that the format knows; a mapping may know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One verified request, as a format reads it."""

    #: The source's name in the configuration.
    name: str
    request: Request
    options: WebhookOptions

    def body(self) -> Json:
        """Return the body as strict JSON; raises `InvalidInput`."""
        return strict_json.parse(self.request.body, max_bytes=self.options.max_bytes)

    def digest(self) -> str:
        """Return what names this very body."""
        return f"sha256:{hashlib.sha256(self.request.body).hexdigest()}"

    def said(self, name: str) -> str | None:
        """Return what the query says under a name, else the header `x-retrain-NAME`; None when neither does."""
        try:
            found = parse_qs(self.request.query, max_num_fields=50).get(name)
        except ValueError as error:
            raise InvalidInput(f"the query cannot be read: {error}") from error
        value = found[0] if found else self.request.header(f"x-retrain-{name}")
        return None if value is None or not value.strip() else attribute(name, value.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a delivery holds."""

    events: Sequence[NewEvent] = ()
    #: Answered instead of the receipts; for handshakes, and for what is no event.
    reply: Reply | None = None
    #: Which parts were not understood, and why; the whole body is then kept as a dead letter beside the events.
    unread: str = ""
    #: What a person should know of it; shown by the doctor.
    remark: str = ""
    #: Further facts for the doctor, by name.
    notes: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One format; a line of the registry."""

    read: Callable[[Delivery], Read]
    #: True when a refused sender would drop what it sends for good, or repeat it in vain: what is not understood is then a dead letter.
    keeps: bool
    #: How this sender signs by HMAC, when the configuration does not say.
    dialect: str | None = None
    #: The options that only some formats read, and this one does.
    options: frozenset[str] = frozenset()
    #: Says whether a content type is taken; by default JSON alone.
    takes: Callable[[Request], bool] = field(default=lambda request: is_json(request))


def is_json(request: Request) -> bool:
    """Say whether the body is announced as JSON: never so in a request that a web page can send without asking first."""
    kind = (request.header("content-type") or "").partition(";")[0].strip()
    return _JSON_TYPE.fullmatch(kind) is not None


def ignored(reason: str) -> Read:
    """Return the answer to something that is no event: taken, and not stored."""
    return Read(reply=Reply(status=200, body={"ignored": reason}), remark=f"no event: {reason}")


def attribute(name: str, value: Json) -> str:
    """Return a text fit to be an attribute: control characters are percent-escaped; raises `InvalidInput` when it is none or too long."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name} is {shown(value)}, not a text that says something")
    if len(value) > MAX_ATTRIBUTE:
        raise InvalidInput(f"{name} has {len(value):,} characters, {MAX_ATTRIBUTE:,} are taken")
    return _CONTROL.sub(lambda found: f"%{ord(found[0]):02X}", value) if _CONTROL.search(value) else value


def instant(value: Json) -> datetime | None:
    """Return the instant that an RFC 3339 text names; None for everything else, and for the year 1 by which Go says never."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        found = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if found.year > 1 else None


def number(value: Json) -> float | int | None:
    """Return a JSON number; None for everything else, true and false among it."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def table(value: Json) -> dict[str, Json]:
    """Return an object; an empty one for everything else."""
    return value if isinstance(value, dict) else {}


def listed(name: str, value: Json) -> list[Json]:
    """Return a list of bounded length; raises `InvalidInput`."""
    if not isinstance(value, list):
        raise InvalidInput(f"{name} is {shown(value)}, not a list")
    if len(value) > MAX_ITEMS:
        raise InvalidInput(f"{name} has {len(value):,} items, {MAX_ITEMS:,} are taken")
    return value


def unread_of(problems: Sequence[str]) -> str:
    """Return a few of many problems as one text."""
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def shown(value: object) -> str:
    """Return a value as a message may show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
