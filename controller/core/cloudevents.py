"""CloudEvents 1.0 read into events: structured, batched and binary mode over HTTP, and the parts that another binding needs.

Follows the HTTP protocol binding and the JSON event format of the CloudEvents specification (cloudevents.io).
What they leave loose is refused here with a reason: attributes of the wrong type, both kinds of data, times without a zone, text that a
database cannot store. A batch is taken whole or not at all, and the refusal names the item.
`datacontenttype` and `dataschema` are kept among the extensions; bytes that are not text stay base64, marked `dataencoding`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.core import strict_json
from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput, NotUnderstood

#: The longest attribute that is taken, in characters.
MAX_ATTRIBUTE = 2048
#: More attributes than this are no event of anybody's.
MAX_ATTRIBUTES = 64

_NAME = re.compile(r"[a-z0-9]{1,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_REFERENCE = re.compile(r"[^\s\x00-\x1f\x7f]+")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REQUIRED = ("id", "source", "specversion", "type")
_JSON_TYPE = re.compile(r"[^;]*[/+]json", re.IGNORECASE)
#: Extensions that need no look at their name.
_USUAL = frozenset({"datacontenttype", "dataschema", "traceparent", "tracestate", "partitionkey", "sequence"})
_NOTHING: Mapping[str, Json] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """What a request held."""

    events: Sequence[NewEvent]
    #: Whether it was a batch, so that the answer is a list.
    batch: bool


def read(headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Received:
    """Return the events of a request; `headers` have lower-case names, and may repeat.

    Raises `NotUnderstood` for a content type that is none of the three modes, `InvalidInput` for everything else.
    """
    types = [value.decode("latin-1").strip() for name, value in headers if name == b"content-type"]
    if len(types) > 1:
        raise NotUnderstood("there are several Content-Type headers")
    kind = types[0] if types else ""
    media = kind.partition(";")[0].strip().lower()
    if media.startswith("application/cloudevents-batch"):
        _refuse_format(media, kind, "application/cloudevents-batch")
        return Received(events=_batch(body), batch=True)
    if media.startswith("application/cloudevents"):
        _refuse_format(media, kind, "application/cloudevents")
        return Received(events=[_structured(strict_json.parse(body))], batch=False)
    return Received(events=[_binary(headers, kind, body)], batch=False)


def structured(
    value: Json,
    *,
    time: datetime | None = None,
    extensions: Mapping[str, Json] = _NOTHING,
    max_bytes: int | None = None,
) -> NewEvent:
    """Return the event of a JSON document in the JSON event format; raises `InvalidInput`.

    `time` and `extensions` stand in for what the event does not say itself; `max_bytes` bounds JSON within `data_base64`.
    """
    return _structured(value, time, extensions, max_bytes)


def binary(
    attributes: Mapping[str, Json],
    content_type: str,
    body: bytes,
    *,
    time: datetime | None = None,
    extensions: Mapping[str, Json] = _NOTHING,
    max_bytes: int | None = None,
) -> NewEvent:
    """Return the event of a message in binary mode, whose attributes were taken out of its headers; raises `InvalidInput`.

    `time` and `extensions` stand in for what the event does not say itself.
    """
    found = dict(attributes)
    if "datacontenttype" in found:
        raise InvalidInput(
            "datacontenttype must not be sent as an attribute", hint="the content type says what the data is"
        )
    if content_type:
        found["datacontenttype"] = content_type
    data, extra = _decoded(body, content_type, max_bytes)
    return _event(found, data, extra, time, extensions)


def refuse_format(content_type: str) -> None:
    """Raise `NotUnderstood` for a structured event in another format than JSON, in another charset than UTF-8, or for a batch."""
    _refuse_format(content_type.partition(";")[0].strip().lower(), content_type, "application/cloudevents")


def _refuse_format(media: str, kind: str, prefix: str) -> None:
    if media not in (prefix, f"{prefix}+json"):
        raise NotUnderstood(f"{media!r} is not understood", hint=f"send {prefix}+json")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", kind, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise NotUnderstood(f"charset {charset[1]!r} is not understood", hint="send UTF-8")


# --------------------------------------------------------------------------------------------- structured, batched


def _batch(body: bytes) -> list[NewEvent]:
    value = strict_json.parse(body)
    if not isinstance(value, list):
        raise InvalidInput("a batch is a JSON array of events")
    events = []
    for index, item in enumerate(value):
        try:
            events.append(_structured(item))
        except InvalidInput as error:
            raise InvalidInput(f"item {index}: {error.message}", hint="nothing of the batch was stored") from error
    return events


def _structured(
    value: Json,
    time: datetime | None = None,
    extensions: Mapping[str, Json] = _NOTHING,
    max_bytes: int | None = None,
) -> NewEvent:
    if not isinstance(value, dict):
        raise InvalidInput("an event is a JSON object")
    attributes = dict(value)
    data = attributes.pop("data", None)
    encoded = attributes.pop("data_base64", None)
    if None in attributes.values():
        attributes = {name: item for name, item in attributes.items() if item is not None}
    extra: Mapping[str, Json] = _NOTHING
    if encoded is not None:
        if data is not None:
            raise InvalidInput("it has both data and data_base64; send one of them")
        data, extra = _decoded(_base64(encoded), str(attributes.get("datacontenttype", "")), max_bytes)
    return _event(attributes, data, extra, time, extensions)


def _base64(text: Json) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"data_base64 is {text!r}, not a string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"data_base64 is not base64: {error}") from error


# ---------------------------------------------------------------------------------------------------------- binary


def _binary(headers: Sequence[tuple[bytes, bytes]], kind: str, body: bytes) -> NewEvent:
    attributes: dict[str, Json] = {}
    for raw, value in headers:
        if not raw.startswith(b"ce-"):
            continue
        name = raw[3:].decode("latin-1")
        if name == "datacontenttype":
            raise InvalidInput("ce-datacontenttype must not be sent", hint="Content-Type says what the data is")
        if name in attributes:
            raise InvalidInput(f"the header ce-{name} is there twice")
        attributes[name] = _header_value(name, value)
    if not attributes:
        raise NotUnderstood(
            f"{kind or 'a request without Content-Type'} is no CloudEvent",
            hint="send application/cloudevents+json, application/cloudevents-batch+json, or ce- headers",
        )
    if kind:
        attributes["datacontenttype"] = kind
    data, extra = _decoded(body, kind)
    return _event(attributes, data, extra)


def _header_value(name: str, raw: bytes) -> str:
    """Undo a double-quoted string, then exactly one round of percent-encoding."""
    text = raw.strip(b" \t")
    if len(text) >= 2 and text.startswith(b'"') and text.endswith(b'"'):
        text = re.sub(rb"\\(.)", rb"\1", text[1:-1])
    try:
        return _PERCENT.sub(lambda found: bytes([int(found[1], 16)]), text).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the header ce-{name} is not UTF-8 once its percent-encoding is undone") from error


def _decoded(body: bytes, kind: str, max_bytes: int | None = None) -> tuple[Json, dict[str, Json]]:
    """Return bytes as JSON, text or base64, whichever their content type allows."""
    if not body:
        return None, {}
    if not kind or _JSON_TYPE.match(kind.partition(";")[0].strip()):
        return strict_json.parse(body, max_bytes=max_bytes or strict_json.MAX_BYTES), {}
    if kind.strip().lower().startswith("text/"):
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{kind} is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from error
        if "\x00" in text:
            raise InvalidInput("text must not hold the character NUL")
        return text, {}
    return base64.b64encode(body).decode(), {"dataencoding": "base64"}


# ------------------------------------------------------------------------------------------------------ attributes


def _event(
    attributes: dict[str, Json],
    data: Json,
    extra: Mapping[str, Json],
    time: datetime | None = None,
    extensions: Mapping[str, Json] = _NOTHING,
) -> NewEvent:
    """Return the event; takes `attributes` apart. `time` and `extensions` stand in for what it does not say itself."""
    for name in _REQUIRED:
        if name not in attributes:
            raise InvalidInput(f"the required attribute {name!r} is missing")
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidInput(f"it has {len(attributes)} attributes, {MAX_ATTRIBUTES} are taken")
    version = attributes.pop("specversion")
    if version != "1.0":
        raise InvalidInput(f"specversion is {version!r}, '1.0' is understood")
    source = _required(attributes, "source")
    # Of what is printable, only the space is no part of a reference.
    if (" " in source or not source.isprintable()) and not _REFERENCE.fullmatch(source):
        raise InvalidInput(f"source {source!r} is no URI reference")
    source_id = _required(attributes, "id")
    type_ = _required(attributes, "type")
    subject = _required(attributes, "subject") if "subject" in attributes else None
    said = attributes.pop("time", None)
    found = _extensions(attributes)
    return NewEvent(
        source=source,
        source_id=source_id,
        type=type_,
        subject=subject,
        time=time if said is None else _time(said),
        data=data,
        extensions={**extensions, **found, **extra} if extensions or extra else found,
    )


def _required(attributes: dict[str, Json], name: str) -> str:
    value = attributes.pop(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name} is {value!r}, not a string that says something")
    if len(value) <= MAX_ATTRIBUTE and value.isprintable():  # which no control character is
        return value
    return _bounded(name, value)


def _bounded(name: str, value: str) -> str:
    if len(value) > MAX_ATTRIBUTE:
        raise InvalidInput(f"{name} has {len(value):,} characters, {MAX_ATTRIBUTE:,} are taken")
    if _CONTROL.search(value):
        raise InvalidInput(f"{name} {value!r} holds a control character")
    return value


def _time(value: Json) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise InvalidInput(f"time is {value!r}, not RFC 3339 with a zone", hint="write 2026-01-31T12:00:00Z")
    try:
        found = datetime.fromisoformat(value.upper())
        return found if found.tzinfo is UTC else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"time {value!r} is no instant: {error}") from error


def _extensions(attributes: dict[str, Json]) -> dict[str, Json]:
    for name, value in attributes.items():
        if name not in _USUAL and not _NAME.fullmatch(name):
            raise InvalidInput(
                f"the attribute name {name[:80]!r} is not allowed",
                hint="lower-case letters and digits; payload goes into data",
            )
        if not isinstance(value, str | int | bool):
            raise InvalidInput(f"the extension {name!r} is {type(value).__name__}, not a string, integer or boolean")
        if isinstance(value, str):
            _bounded(name, value)
    return attributes
