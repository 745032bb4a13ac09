"""What a look brought: samples, and whether one of them is a change.

A value is any JSON of a reasonable size; a number is finite. Several things seen at one look (the series of a vector, the rows of a
table) are told apart by their key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.core.model import Json
from controller.errors import RetryLater

#: A value that is longer, written as JSON, is not carried along.
MAX_VALUE_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One thing that was seen."""

    value: Json
    #: Which of several things; empty when there is but one.
    key: str = ""
    #: What is known about it beside the value.
    labels: Mapping[str, Json] = field(default_factory=dict)
    #: What the event is to carry beside the value, when that is not the labels: a row.
    data: Mapping[str, Json] = field(default_factory=dict)
    #: Identity of its own, for something that is news in itself; None: it is recognised by the instant of the look.
    identity: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What came of looking once."""

    samples: Sequence[Sample]
    #: What to hand to the next look.
    cursor: Json = None
    #: What of the cursor an event shows.
    place: Json = None
    #: There is more to see: look again at once.
    more: bool = False
    #: No samples are an answer like any other.
    may_be_empty: bool = False
    #: Why something that was seen has no value; None when everything has one.
    without_value: str | None = None
    #: What the other side wants people to know.
    warnings: Sequence[str] = ()
    #: What came in, for people.
    payload: bytes = b""


def checked(value: Json, *, what: str) -> Json:
    """Return a value that an event may carry; raises `RetryLater` for one that is too long or not finite."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except ValueError:  # also a lone surrogate
        raise RetryLater(f"{what} holds a number that is not finite, or text that is none") from None
    if "\\u0000" in text:
        raise RetryLater(f"{what} holds the character NUL")
    if size > MAX_VALUE_BYTES:
        raise RetryLater(
            f"{what} has {size:,} bytes, at most {MAX_VALUE_BYTES:,} are taken",
            hint="narrow it down, or watch its digest",
        )
    return value


def has_moved(before: Json, value: Json, *, step: float | None) -> bool:
    """Say whether a value is a change against the one before; raises `RetryLater` for a step between what are no numbers."""
    if step is None:
        return value != before or isinstance(value, bool) != isinstance(before, bool)
    return abs(number(value) - number(before)) >= step


def number(value: Json) -> float:
    """Return a value that must be a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RetryLater(f"the value {value!r:.80} is not a number, and `step` needs one", hint="take `step` out")
    try:
        result = float(value)
    except OverflowError:
        raise RetryLater(f"the value {value!r:.80} is too large") from None
    if not math.isfinite(result):
        raise RetryLater(f"the value {value!r} is not finite")
    return result


def digest(value: Json) -> str:
    """Return 32 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
