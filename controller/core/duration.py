"""Lengths of time as people write them: `30s`, `5m`, `1h30m`, `7d`, `2w`, or ISO 8601 (`PT5M`,
`P1DT2H`).

Months and years are refused, because they are not lengths; so is everything negative.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache

_MICROSECOND = timedelta(microseconds=1)
#: Microseconds in each unit, in the order in which a text names them.
_UNITS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
_SHORT = re.compile("".join(rf"(?:({_NUMBER}){unit}(?![a-z]))?" for unit in _UNITS), re.ASCII)
_ISO = re.compile(
    rf"P(?:({_NUMBER})W)?(?:({_NUMBER})D)?(T(?=[0-9])(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?",
    re.ASCII,
)
_ISO_UNITS = ("w", "d", None, "h", "m", "s")


def parse_duration(text: str) -> timedelta:
    """Return the length that `text` names; raise ValueError with a sentence for the person who
    wrote it.

    Units may follow each other from the largest to the smallest (`1h30m`), and a number may have
    decimals (`1.5h`).
    """
    stripped = text.strip()
    micros = _read(stripped)
    if micros is None:
        message = f"{text!r} is not a duration; {_hint(stripped)}"
        raise ValueError(message)
    try:
        return timedelta(microseconds=micros)
    except OverflowError:
        message = f"{text!r} is too long a duration"
        raise ValueError(message) from None


@lru_cache(maxsize=4096)  # the same few lengths stand in every explanation
def format_duration(length: timedelta) -> str:
    """Write a length so that `parse_duration` reads it back: `1h30m`, `7d`, `500ms`, `0s`.

    A negative length, which only comes out of a subtraction, gets a leading minus.
    """
    micros = length // _MICROSECOND
    if micros < 0:
        return f"-{format_duration(-length)}"
    if 0 < micros < _UNITS["s"] and micros % _UNITS["ms"] == 0:
        return f"{micros // _UNITS['ms']}ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, micros = divmod(micros, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    seconds, rest = divmod(micros, _UNITS["s"])
    if rest:
        parts.append(f"{seconds}.{rest:06d}".rstrip("0") + "s")
    elif seconds or not parts:
        parts.append(f"{seconds}s")
    return "".join(parts)


def _read(text: str) -> int | None:
    """Return the microseconds, or None when it is not a duration."""
    if match := _SHORT.fullmatch(text):
        numbers = dict(zip(_UNITS, match.groups(), strict=True))
    elif match := _ISO.fullmatch(text):
        pairs = zip(_ISO_UNITS, match.groups(), strict=True)
        numbers = {unit: number for unit, number in pairs if unit is not None}
    else:
        return None
    given = {unit: number for unit, number in numbers.items() if number is not None}
    if not given:
        return None
    return int(sum(Decimal(number) * _UNITS[unit] for unit, number in given.items()))


def _hint(text: str) -> str:
    if re.fullmatch(_NUMBER, text):
        return f"it has no unit; write {text}s for seconds or {text}m for minutes"
    if re.fullmatch(rf"P(?:{_NUMBER}[YMWD])*(?:T.*)?", text) and re.match(r"P[^T]*[YM]", text):
        return "months and years have no fixed length; write days, as in 30d or P30D"
    if text.startswith("-"):
        return "it must not be negative; write 5m or PT5M"
    return "write 5m or PT5M"
