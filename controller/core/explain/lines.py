"""What an account looks like to people: lines with a depth, a mark and a tone, and the words that all accounts share.

A line is one line of text, whatever stands in it; `wrapped` breaks it for a terminal so that what follows stands under what it belongs to.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from controller.core.model import Json

Tone = Literal["title", "heading", "good", "bad", "wait", "dim", "plain"]
#: Writes an instant (RFC 3339 text) for people.
Instant = Callable[[str], str]

MARKS: Mapping[str, str] = {
    "pass": "✓",
    "skip": "✗",
    "fail": "✗",
    "error": "!",
    "hold": "…",
    "over": "»",
    "note": "•",
    "inconclusive": "?",
    "true": "✓",
    "false": "✗",
    "unknown": "?",
}
TONES: Mapping[str, Tone] = {
    "pass": "good",
    "skip": "bad",
    "fail": "bad",
    "error": "bad",
    "hold": "wait",
    "over": "dim",
    "note": "plain",
    "inconclusive": "wait",
    "true": "good",
    "false": "plain",
    "unknown": "wait",
}
#: What a policy did, by the kind of its decision.
DID: Mapping[str, str] = {
    "FIRE": "fired",
    "HOLD": "held it",
    "SKIP": "let it go",
    "ERROR": "could not decide",
    "UNDECIDED": "has not decided yet",
    "OFF": "is off",
}
#: What ends a hold that has no time.
ENDS: Mapping[str, str] = {
    "rows": "more rows come",
    "episode": "that episode is over",
    "resume": "a person resumes",
    "run": "that run ends",
    "champion": "there is a champion",
}
#: Text that stands further to the right than this is continued no further to the right.
_FURTHEST = 24
_GOOD_ENDS = ("PROMOTED", "SUCCEEDED", "CHAMPION", "APPLIED", "SENT")
_BAD_ENDS = ("FAILED", "TIMED_OUT", "REJECTED", "LOST", "UNKNOWN", "DEAD", "CANCELLED", "SUPERSEDED", "UNDONE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of an account, for people."""

    text: str
    #: How deep it stands.
    indent: int = 0
    #: ✓ ✗ … and the like; empty for none.
    mark: str = ""
    tone: Tone = "plain"
    #: How far the text is continued behind its own beginning, when it is broken.
    hang: int = 0

    def __str__(self) -> str:
        return f"{self._lead()}{self.text}".rstrip()

    def wrapped(self, width: int) -> list[str]:
        """Return it as lines of at most `width` columns; a word that is longer stays whole, so that it can be copied."""
        lead = self._lead()
        rest = " " * (len(lead) + min(self.hang, _FURTHEST))
        if len(lead) + len(self.text) <= width:
            return [str(self)]
        broken = textwrap.wrap(
            self.text,
            max(width, len(rest) + _FURTHEST),
            initial_indent=lead,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return broken or [""]

    def _lead(self) -> str:
        return f"{'  ' * self.indent}{f'{self.mark} ' if self.mark else ''}"


def title(text: str) -> Line:
    """Return the first line of an account."""
    return Line(text=text, tone="title")


def heading(text: str) -> Iterator[Line]:
    """Yield a heading, with an empty line before it."""
    yield Line(text="")
    yield Line(text=text, tone="heading")


def note(text: str, *, indent: int = 1, mark: str = "•", tone: Tone = "plain", hang: int = 0) -> Line:
    """Return a line below a heading."""
    return Line(text=text, indent=indent, mark=mark, tone=tone, hang=hang)


def waiting(text: str, *, indent: int = 1) -> Line:
    """Return a line about something that waits."""
    return Line(text=text, indent=indent, mark=MARKS["hold"], tone="wait")


def faint(text: str, *, indent: int = 1) -> Line:
    """Return a line for whoever wants to know more."""
    return Line(text=text, indent=indent, tone="dim")


def as_written(at: str) -> str:
    """Write an instant as it is stored, to the second."""
    return f"{at[:10]} {at[11:19]}Z"


def until_text(until: str | None, waits_for: str | None, instant: Instant) -> str:
    """Say until when, or until what, something waits."""
    if until is not None:
        return f"until {instant(until)}"
    return f"until {ends_text(waits_for)}" if waits_for else "until more come"


def ends_text(waits_for: str) -> str:
    """Say what ends a hold that has no time; several things may: `champion or run`."""
    return " or ".join(ENDS.get(each, each) for each in waits_for.split(" or "))


def state_tone(state: str) -> Tone:
    """Return the tone of a state of any machine."""
    return "good" if state in _GOOD_ENDS else "bad" if state in _BAD_ENDS else "wait"


def state_mark(state: str) -> str:
    """Return the mark of a state of any machine."""
    return {"good": "✓", "bad": "✗"}.get(state_tone(state), "…")


def keyed(name: str, key: str) -> str:
    """Return a policy's name with the key that is spoken of."""
    return f"{name} [{key}]" if key else name


def values(data: Json, limit: int = 200) -> str:
    """Write a payload in one line, as far as it fits."""
    if data is None or data == {}:
        return ""
    pairs = data.items() if isinstance(data, Mapping) else ()
    text = ", ".join(f"{key}={_scalar(value)}" for key, value in pairs) or _scalar(data)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def some(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scalar(value: Json) -> str:
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)
