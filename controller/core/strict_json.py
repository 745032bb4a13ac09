"""JSON as this project accepts it from outside.

Python's parser keeps the last of two equal keys, takes `NaN` and `1e999`, and lets NUL and lone surrogates through, which a database
cannot store; deep nesting raises `RecursionError`. All of these are refused here, with the reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import NoReturn

from controller.core.model import Json
from controller.errors import InvalidInput

MAX_BYTES = 1 << 20
MAX_DEPTH = 64


def parse(document: bytes, *, max_bytes: int = MAX_BYTES) -> Json:
    """Return the value of a JSON document; raises `InvalidInput` with what is wrong with it."""
    if len(document) > max_bytes:
        raise InvalidInput(f"{len(document):,} bytes of JSON, at most {max_bytes:,} are taken")
    if document.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("JSON must not begin with a byte order mark")
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8: byte {error.start} is {document[error.start]:#04x}") from error
    try:
        value = _DECODER.decode(text)
    except RecursionError:  # the parser's own bound, far beyond ours
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_depth(value)
    if "\\u" in text:
        _refuse_bad_text(value)
    return value


def _refuse_depth(value: Json) -> None:
    """Raise when it is nested too deeply; it goes level by level, because most documents are wide and not deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> InvalidInput:
    return InvalidInput(f"JSON is nested deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise InvalidInput(f"the key {twice!r} is there twice")
    return found


def _constant(word: str) -> NoReturn:
    raise InvalidInput(f"{word} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInput(f"the number {text[:40]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 64:
        raise InvalidInput(f"a number of {len(text)} digits is too long, 64 are taken")
    return int(text)


def _refuse_bad_text(value: Json) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise InvalidInput("JSON must not hold the character NUL")
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise InvalidInput("JSON must not hold half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_bad_text(key)
            _refuse_bad_text(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_bad_text(item)


#: Made once: `json.loads` with hooks would make one for each document.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_constant,
    parse_float=_float,
    parse_int=_int,
)
