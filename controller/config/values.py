"""Kinds of values in a configuration: durations, expressions, patterns, time zones, and what a section is.

Each refuses what it does not understand with a sentence that says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from controller.config.nearest import nearest, nearest_or_known
from controller.core.conditions import Expression
from controller.core.duration import parse_duration
from controller.core.model import Json
from controller.core.notices import KINDS
from controller.core.schedule import parse_between, parse_timezone
from controller.errors import ExpressionError
from controller.ports import refusal

#: What `when` and `by` may read.
EVENT_VARIABLES = ("event", "model", "champion")
#: What `ready.rows` may read.
ROWS_VARIABLES = ("event", "model")
#: What `gate.require` may read.
GATE_VARIABLES = ("candidate", "champion", "model", "run")

#: Longer than any of these makes sense, and short enough that no date overflows.
MAX_DURATION = timedelta(days=3660)

_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(?P<port>[0-9]{1,5})")


def read_duration(value: Any) -> timedelta:
    """Return a length of time; the error says what to write."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"{value!r} has no unit", hint=f"write {value}s for seconds, {value}m for minutes")
    if not isinstance(value, str):
        raise refusal(f"{value!r} is not a duration; write 5m or PT5M")
    try:
        length = parse_duration(value)
    except ValueError as error:
        raise refusal(str(error)) from error
    if length > MAX_DURATION:
        raise refusal(f"{value!r} is longer than {MAX_DURATION.days}d")
    return length


def read_positive_duration(value: Any) -> timedelta:
    """Return a length of time that is longer than none."""
    length = read_duration(value)
    if not length:
        raise refusal(f"{value!r} is no time at all; it must be longer than 0s")
    return length


def iso_duration(length: timedelta) -> str:
    """Write a length of time as ISO 8601 in seconds, the same for equal lengths: `PT300S`."""
    seconds, micros = divmod(length // timedelta(microseconds=1), 1_000_000)
    return f"PT{seconds}S" if not micros else f"PT{seconds}.{micros:06d}".rstrip("0") + "S"


_DURATION_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": "^([0-9.]+(ms|s|m|h|d|w))+$|^P",
        "description": "A duration: 30s, 5m, 6h, 7d, or ISO 8601",
    }
)
_AS_ISO = PlainSerializer(iso_duration, return_type=str)

#: A duration of at least 0s.
Span = Annotated[timedelta, PlainValidator(read_duration), _AS_ISO, _DURATION_SCHEMA]
#: A duration longer than 0s.
Duration = Annotated[timedelta, PlainValidator(read_positive_duration), _AS_ISO, _DURATION_SCHEMA]


def _expression_over(variables: tuple[str, ...]) -> Callable[[Any], Expression]:
    def read(value: Any) -> Expression:
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, str):
            raise refusal("a CEL expression is wanted here", hint="write it as text")
        return load_expression(value, variables)

    return read


def load_expression(source: str, variables: tuple[str, ...]) -> Expression:
    """Return the compiled expression; the error names it."""
    try:
        return Expression.load(source, variables=variables)
    except ExpressionError as error:
        where = "" if source in error.message else f" in {source!r}"
        raise refusal(f"{error.message}{where}", hint=error.hint) from error


def _cel_schema(variables: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": f"A CEL expression over {', '.join(variables)}"})


_AS_SOURCE = PlainSerializer(lambda expression: expression.source, return_type=str)
EventExpression = Annotated[
    Expression,
    PlainValidator(_expression_over(EVENT_VARIABLES)),
    _AS_SOURCE,
    _cel_schema(EVENT_VARIABLES),
]
RowsExpression = Annotated[
    Expression,
    PlainValidator(_expression_over(ROWS_VARIABLES)),
    _AS_SOURCE,
    _cel_schema(ROWS_VARIABLES),
]
GateExpression = Annotated[
    Expression,
    PlainValidator(_expression_over(GATE_VARIABLES)),
    _AS_SOURCE,
    _cel_schema(GATE_VARIABLES),
]


def _check_timezone(name: str) -> str:
    try:
        parse_timezone(name)
    except ValueError as error:
        raise refusal(str(error), hint=nearest(name, sorted(available_timezones()))) from error
    return name


def _check_between(text: str) -> str:
    try:
        parse_between(text)
    except ValueError as error:
        raise refusal(str(error)) from error
    return text


def split_listen(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`; raises what a validator raises."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise refusal(f"{text!r} is not host:port; write 127.0.0.1:8080")
    return match["host"].strip("[]"), int(match["port"])


def check_listen(value: Any) -> str:
    """Return the text of a `host:port`."""
    text = value if isinstance(value, str) else repr(value)
    split_listen(text)
    return text


def check_version(value: Any) -> Any:
    """Return the version of the format, if it is the one that this program reads."""
    if value != 1 or isinstance(value, bool):
        raise refusal(f"{value!r} is not a version this program reads", hint="write version: 1")
    return value


def _check_kind(text: str) -> str:
    if text not in KINDS:
        raise refusal(f"{text!r} is not a kind of message", hint=nearest_or_known(text, KINDS))
    return text


def _check_pattern(text: str) -> str:
    if not text:
        raise refusal(
            "the pattern is empty, so it matches nothing",
            hint="leave the key out to match everything",
        )
    return text


TimeZone = Annotated[str, AfterValidator(_check_timezone)]
Between = Annotated[str, AfterValidator(_check_between)]
Glob = Annotated[str, AfterValidator(_check_pattern)]
Text = Annotated[str, Field(min_length=1)]
#: A kind of message to people.
MessageKind = Annotated[str, AfterValidator(_check_kind), WithJsonSchema({"enum": list(KINDS)})]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Params = dict[str, Any]


class Section(BaseModel):
    """A mapping with known keys; another key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginSection(BaseModel):
    """A mapping with known keys, and those of a plugin, which the plugin's `Options` check."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def options(self) -> dict[str, Json]:
        """Return the plugin's own keys as written."""
        return dict(self.__pydantic_extra__ or {})
