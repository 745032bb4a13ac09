"""Text for a terminal: what came from outside made inert, times and lengths of time as people say them.

Names, reasons and logs come from producers and jobs; what steers a terminal or turns text around is taken out before it is printed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x1b\\|\x07|\Z)|\x1b[@-Z\\^_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.DOTALL
)
#: Marks that turn the direction of text, and others without width that hide something.
_INVISIBLE = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def clean(text: str) -> str:
    """Return text without escape sequences, control characters (but tabs and line breaks), and marks that turn text around."""
    return _INVISIBLE.sub("", _ESCAPES.sub("", text))


def one_line(value: Any) -> str:
    """Return a value as clean text on one line; nothing for None."""
    return "" if value is None else " ".join(clean(str(value)).split())


def parse(at: str) -> datetime:
    """Return the instant in RFC 3339 text."""
    return datetime.fromisoformat(at).astimezone(UTC)


def ago(at: str | None, now: datetime) -> str:
    """Write how long ago, or in how long: `3m ago`, `in 2h`."""
    if at is None:
        return ""
    length = now - parse(at)
    return f"{span(length)} ago" if length >= timedelta(0) else f"in {span(-length)}"


def span(length: timedelta) -> str:
    """Write a length of time in its largest unit: `45s`, `3m`, `2h`, `5d`."""
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= 36 * 3600):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def local(at: str) -> str:
    """Write an instant in the machine's own zone, to the second."""
    return parse(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def counted(number: int, noun: str) -> str:
    """Write how many there are: `1 event`, `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def metrics(values: dict[str, float] | None, limit: int = 3) -> str:
    """Write metrics in a few words."""
    if not values:
        return ""
    shown = [f"{one_line(name)} {_number(number)}" for name, number in list(values.items())[:limit]]
    return ", ".join(shown) + (" …" if len(values) > limit else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
