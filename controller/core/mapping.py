"""How a message that is no CloudEvent becomes one: a CEL expression for each attribute.

`body` is the message's JSON, `item` one element of `items` when the message holds several events, `headers` its headers (names in lower
case), `key` and `topic` those of a Kafka record (null elsewhere). An expression that is only a path, such as `body.model.name`, is followed
directly, so that large whole numbers stay exact; every other runs as CEL, where numbers are doubles.
What is left out has a default: the whole body (or item) as `data`, and the identity that the source offers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Values
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from controller.core.conditions import Expression, Scope
from controller.core.model import EPISODE, EPISODE_STATE, Json, NewEvent
from controller.errors import ExpressionError, InvalidInput

#: What the expressions may read.
VARIABLES = ("body", "item", "headers", "key", "topic")
#: The keys of a mapping, and what each is for.
MAPPING_KEYS = {
    "items": "A list within the body: each element is an event of its own, read as `item`",
    "accept": "Must be true; what is not accepted is no event, and only counted",
    "type": "CloudEvents type; required",
    "source": "CloudEvents source: where it happened",
    "id": "CloudEvents id: with the source the identity under which a redelivery is recognised",
    "subject": "CloudEvents subject: what it is about",
    "time": "When it happened: RFC 3339 text, or seconds (or milliseconds) since 1970",
    "data": "The payload; the whole body, or the item, when left out",
    "episode": "Key of the episode that it belongs to, for an alert that fires and resolves",
    "state": "State of the episode: firing or resolved",
}
#: Instants after this many seconds since 1970 (the year 5138) are milliseconds.
_MILLISECONDS_FROM = 100_000_000_000
_PATH = re.compile(r"[a-z]+(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_MAX_ITEMS = 10_000


@dataclass(frozen=True, slots=True)
class _Field:
    """One expression: a path that is followed, or a program that is run."""

    expression: Expression
    path: tuple[str, ...] | None

    def read(self, scope: Scope) -> Json:
        if self.path is None:
            return self.expression.evaluate(scope)
        value: Json = scope.values
        for name in self.path:
            if not isinstance(value, dict) or name not in value:
                raise ExpressionError(f"{self.expression.source!r}: the data has no field {name!r}")
            value = value[name]
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapping:
    """A mapping that was checked; see `MAPPING_KEYS`."""

    type: _Field
    items: _Field | None = None
    accept: _Field | None = None
    source: _Field | None = None
    id: _Field | None = None
    subject: _Field | None = None
    time: _Field | None = None
    data: _Field | None = None
    episode: _Field | None = None
    state: _Field | None = None

    def written(self) -> dict[str, str]:
        """Return the mapping as it is written in a configuration."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value.expression.source for name, value in named if value is not None}


def load_mapping(written: Values[str, str]) -> Mapping:
    """Compile and check a mapping; raises `ExpressionError` for an unknown key, a missing `type`, or a wrong expression."""
    import difflib

    for name in written:
        if name not in MAPPING_KEYS:
            near = difflib.get_close_matches(name, MAPPING_KEYS, n=1)
            raise ExpressionError(
                f"a mapping has no key {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(MAPPING_KEYS)}",
            )
    if "type" not in written:
        raise ExpressionError("a mapping needs `type`", hint="such as {type: \"'data.arrived'\"}")
    if ("episode" in written) != ("state" in written):
        raise ExpressionError("`episode` and `state` go together", hint="an alert has a key, and fires or is resolved")
    return Mapping(**{name: _load(name, source) for name, source in written.items()})


def _load(name: str, source: str) -> _Field:
    try:
        expression = Expression.load(source, variables=VARIABLES)
    except ExpressionError as error:
        where = "" if source in error.message else f" in {source!r}"
        raise ExpressionError(f"{name}: {error.message}{where}", hint=error.hint) from error
    path = tuple(source.split(".")) if _PATH.fullmatch(source) and source.split(".", 1)[0] in VARIABLES else None
    return _Field(expression, path)


def read(
    mapping: Mapping,
    *,
    body: Json,
    source: str,
    source_id: str,
    headers: Values[str, str] | None = None,
    key: Json = None,
    topic: str | None = None,
) -> list[NewEvent]:
    """Return the events of one message, none when nothing in it was accepted.

    `source` and `source_id` stand in where the mapping names none; several items of one message get `#0`, `#1`, … appended.
    Raises `InvalidInput` when the message lacks what the mapping reads, or has it in another form; then none of it is an event.
    """
    values = {"body": body, "item": None, "headers": dict(headers or {}), "key": key, "topic": topic}
    try:
        if mapping.items is None:
            return _one(mapping, values, body, source, source_id)
        items = mapping.items.read(Scope(values))
    except ExpressionError as error:
        raise InvalidInput(f"the mapping does not fit: {error.message}", hint=error.hint) from error
    if not isinstance(items, list):
        raise InvalidInput(f"the mapping does not fit: items is {_shown(items)}, not a list")
    if len(items) > _MAX_ITEMS:
        raise InvalidInput(f"{len(items):,} items in one message, {_MAX_ITEMS:,} are taken")
    events: list[NewEvent] = []
    for index, item in enumerate(items):
        try:
            events += _one(mapping, {**values, "item": item}, item, source, f"{source_id}#{index}")
        except (ExpressionError, InvalidInput) as error:
            raise InvalidInput(f"item {index}: the mapping does not fit: {error.message}", hint=error.hint) from error
    return events


def _one(mapping: Mapping, values: dict[str, Json], data: Json, source: str, source_id: str) -> list[NewEvent]:
    scope = Scope(values)
    if mapping.accept is not None:
        accepted = mapping.accept.read(scope)
        if not isinstance(accepted, bool):
            raise ExpressionError(f"accept gave {_shown(accepted)}, which is neither true nor false")
        if not accepted:
            return []
    type_ = _text("type", mapping.type.read(scope))
    extensions: dict[str, Json] = {}
    if mapping.episode is not None and mapping.state is not None:
        state = _text("state", mapping.state.read(scope))
        if state not in ("firing", "resolved"):
            raise InvalidInput(f"state is {state!r}, neither 'firing' nor 'resolved'")
        extensions = {EPISODE: _text("episode", mapping.episode.read(scope)), EPISODE_STATE: state}
    subject = None if mapping.subject is None else mapping.subject.read(scope)
    return [
        NewEvent(
            type=type_,
            source=source if mapping.source is None else _text("source", mapping.source.read(scope)),
            source_id=source_id if mapping.id is None else _text("id", mapping.id.read(scope)),
            subject=None if subject is None else _text("subject", subject),
            time=None if mapping.time is None else _instant(mapping.time.read(scope)),
            data=data if mapping.data is None else mapping.data.read(scope),
            extensions=extensions,
        )
    ]


def _text(name: str, value: Json) -> str:
    """Return a value as an attribute's text; a whole number is written without a point."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidInput(f"{name} is {_shown(value)}, not a text that says something")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else repr(value)
    text = str(value).strip()
    if not text:
        raise InvalidInput(f"{name} is empty")
    if len(text) > 2048:
        raise InvalidInput(f"{name} has {len(text):,} characters, 2,048 are taken")
    if not text.isprintable():
        raise InvalidInput(f"{name} {text[:80]!r} holds a control character")
    return text


def _instant(value: Json) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) >= _MILLISECONDS_FROM else value, UTC)
        if isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
            return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"time {_shown(value)} is no instant: {error}") from error
    raise InvalidInput(f"time is {_shown(value)}, neither text nor a number")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
