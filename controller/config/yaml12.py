"""Reads YAML 1.2 (the core schema) into plain values that remember where they stand.

Why not `yaml.safe_load`: it speaks YAML 1.1, where `on` and `no` are booleans, `010` is eight and `12:30:45` is a number; it keeps the last of
two equal keys, follows merge keys, expands aliases without a limit, and forgets lines and columns.
The idea: take the events of libyaml's parser, build dicts and lists in a loop of our own, and let them carry the places of their keys and values.
A plain scalar that YAML 1.1 and 1.2 read differently becomes a `Word`: text with a flag. Where a text is wanted it is that text;
where a number or a boolean is wanted the reader of the schema refuses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from controller.errors import Problem

MAX_DEPTH = 64
#: One alias may stand for this many nodes …
MAX_ALIAS_NODES = 100
#: … and all aliases of a file together for this many.
MAX_EXPANSION = 10_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT64 = 2**63

_CONSTANTS = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
}
_BOOLEANS_ONCE = frozenset(
    word for base in ("yes", "no", "on", "off") for word in (base, base.capitalize(), base.upper())
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
#: Leading zeros, octal, binary, digits in groups, base 60: a number for one of YAML 1.1 and 1.2, or another number for each.
_DISPUTED = re.compile(
    r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|0o[0-7]+|[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+"
    r"|[-+]?[0-9]+_[0-9_]*(?:\.[0-9_]*)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
)


class Place(NamedTuple):
    """Where something stands in a file."""

    file: str
    #: From 1.
    line: int
    #: From 1.
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


_NOWHERE = Place("", 0, 0)


class Word(str):
    """Text that YAML 1.1 reads as something else: `no`, `010`, `12:30:45`."""

    __slots__ = ()


class Map(dict[str, Any]):
    """A mapping that remembers its own place, and those of its keys and values."""

    __slots__ = ("keys_at", "place", "values_at")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.keys_at: dict[str, Place] = {}
        self.values_at: dict[str, Place] = {}

    def put(self, key: str, value: Any, key_at: Place, value_at: Place) -> None:
        """Set a key with its places."""
        self[key] = value
        self.keys_at[key] = key_at
        self.values_at[key] = value_at

    def take(self, key: str, other: Map) -> None:
        """Set a key as another mapping has it, places and all."""
        self.put(key, other[key], other.keys_at[key], other.values_at[key])


class Seq(list[Any]):
    """A sequence that remembers its own place, and those of its items."""

    __slots__ = ("items_at", "place")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.items_at: list[Place] = []


@dataclass(slots=True)
class _Frame:
    """A collection that is being read."""

    container: Map | Seq
    place: Place
    anchor: str | None
    #: How many nodes there were before it.
    nodes_before: int
    #: Mappings: the key whose value comes next.
    key: str | None = None
    key_at: Place = _NOWHERE
    #: The key was given before: its value is read and dropped.
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias may refer to."""

    value: Any
    nodes: int


class _Refused(Exception):
    """Reading a file cannot go on."""

    def __init__(self, place: Place, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.message = message
        self.hint = hint


def parse(content: bytes, *, file: str) -> tuple[Map | None, list[Problem]]:
    """Read one document and return it with what is wrong with it; None when it could not be read to its end.

    `file` is the name to show. An empty document is an empty mapping.
    """
    reader = _Reader(file)
    try:
        reader.read(_decode(content, file))
    except _Refused as refusal:
        reader.problem(refusal.place, refusal.message, refusal.hint)
        return None, reader.problems
    if reader.root is None:
        return Map(Place(file, 1, 1)), reader.problems
    if not isinstance(reader.root, Map):
        reader.problem(
            reader.root_at,
            "the file is not a mapping of keys to values",
            "it begins with `version: 1`",
        )
        return None, reader.problems
    return reader.root, reader.problems


class _Reader:
    """Builds the values of one document out of the parser's events."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.root: Any = None
        self.root_at = Place(file, 1, 1)
        self._file = file
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._expanded = 0
        self._documents = 0

    def problem(self, place: Place, message: str, hint: str = "", *, path: str = "") -> None:
        self.problems.append(
            Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path=path,
                message=message,
                hint=hint,
            )
        )

    def read(self, text: str) -> None:
        for event in _events(text, self._file):
            kind = type(event)
            if kind is ScalarEvent:
                self._read_scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._follow(event)
            elif kind is DocumentStartEvent:
                self._begin(event)

    def _begin(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _Refused(self._at(event), "a second document begins here", "one file holds one document")
        if event.version not in (None, (1, 2)) or event.tags:
            raise _Refused(
                self._at(event),
                "directives are not read here",
                "take the line with `%` out; files are YAML 1.2",
            )

    def _read_scalar(self, event: ScalarEvent) -> None:
        place = self._at(event)
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.container, Map):
            self._read_key(event, frame, place)
            return
        self._nodes += 1
        self._refuse_tag(event, place)
        value = self._resolve(event.value, place) if event.implicit[0] else _clean(event.value, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1)
        self._deliver(value, place)

    def _read_key(self, event: ScalarEvent, frame: _Frame, place: Place) -> None:
        key = _clean(event.value, place)
        self._refuse_tag(event, place)
        if event.anchor is not None:
            raise _Refused(place, f"key {key!r} has an anchor", "put anchors on values only")
        if key == "" and event.implicit[0]:
            raise _Refused(place, "a key is missing before ':'")
        if key == "<<" and event.implicit[0]:
            raise _Refused(
                place,
                "merge keys ('<<') are not read here",
                "write the keys out, or put them under `defaults`",
            )
        frame.key, frame.key_at = key, place
        known = frame.container
        frame.repeated = isinstance(known, Map) and key in known
        if isinstance(known, Map) and key in known:
            self.problem(
                place,
                f"key {key!r} is given twice; first at {known.keys_at[key]}",
                path=self._path(),
            )

    def _open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        place = self._at(event)
        self._refuse_complex_key(place)
        self._refuse_tag(event, place)
        if len(self._frames) >= MAX_DEPTH:
            raise _Refused(place, f"nested deeper than {MAX_DEPTH} levels")
        container = Map(place) if isinstance(event, MappingStartEvent) else Seq(place)
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)
        self._frames.append(_Frame(container, place, event.anchor, self._nodes))
        self._nodes += 1

    def _close(self) -> None:
        frame = self._frames.pop()
        if frame.anchor is not None:
            self._anchors[frame.anchor] = _Anchored(frame.container, self._nodes - frame.nodes_before)
        self._deliver(frame.container, frame.place)

    def _follow(self, event: AliasEvent) -> None:
        place = self._at(event)
        self._refuse_complex_key(place)
        name: Any = event.anchor
        anchored = self._anchors.get(name)
        if anchored is None:
            inside = any(frame.anchor == name for frame in self._frames)
            raise _Refused(
                place,
                f"alias '*{name}' refers to what it stands in"
                if inside
                else f"alias '*{name}' has no anchor '&{name}' before it",
            )
        self._nodes += anchored.nodes
        self._expanded += anchored.nodes
        if anchored.nodes > MAX_ALIAS_NODES or self._expanded > MAX_EXPANSION:
            raise _Refused(
                place,
                f"alias '*{name}' expands to too much: at most {MAX_ALIAS_NODES} values an alias, {MAX_EXPANSION} a file",
                "write it out, or put what models share under `defaults`",
            )
        self._deliver(anchored.value, place)

    def _deliver(self, value: Any, place: Place) -> None:
        if not self._frames:
            self.root, self.root_at = value, place
            return
        frame = self._frames[-1]
        container = frame.container
        if isinstance(container, Seq):
            container.append(value)
            container.items_at.append(place)
            return
        if not frame.repeated:
            container.put(frame.key or "", value, frame.key_at, place)
        frame.key = None

    def _refuse_complex_key(self, place: Place) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.container, Map):
            raise _Refused(place, "a key must be plain text")

    def _refuse_tag(self, event: Any, place: Place) -> None:
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(
                place,
                f"tags such as {tag!r} are not read here",
                "take it out; quote a value to make it text",
            )

    def _resolve(self, text: str, place: Place) -> Any:
        """Return what a plain scalar stands for."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text in _BOOLEANS_ONCE:
            return Word(text)
        if text[0] in "0123456789+-.":
            return self._resolve_number(text, place)
        return _clean(text, place)

    def _resolve_number(self, text: str, place: Place) -> Any:
        if _INT.fullmatch(text) or _HEX.fullmatch(text):
            # Python refuses to read thousands of digits, and no number here needs more than 64 bits.
            number = int(text, 16 if "x" in text else 10) if len(text) <= 20 else _INT64
            if not -_INT64 <= number < _INT64:
                self.problem(
                    place,
                    f"{_shorten(text)} has more than 64 bits",
                    "quote it to make it text",
                    path=self._path(),
                )
                return Word(text)
            return number
        if _FLOAT.fullmatch(text):
            real = float(text)
            if math.isinf(real):
                self.problem(
                    place,
                    f"{_shorten(text)} is too large for a number",
                    "quote it to make it text",
                    path=self._path(),
                )
                return Word(text)
            return real
        if _NOT_FINITE.fullmatch(text):
            self.problem(
                place,
                f"{text} is not a finite number",
                "quote it to make it text",
                path=self._path(),
            )
            return Word(text)
        return Word(text) if _DISPUTED.fullmatch(text) else _clean(text, place)

    def _path(self) -> str:
        return dotted(
            [len(frame.container) if isinstance(frame.container, Seq) else frame.key for frame in self._frames]
        )

    def _at(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self._file, mark.line + 1, mark.column + 1)


def dotted(path: Any) -> str:
    """Write a path of keys and indices as people read it: `models.churn.promote[0].type`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _decode(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_of(content[: error.start].decode("utf-8", "replace"), file)
        raise _Refused(place, f"byte 0x{content[error.start]:02x} is not UTF-8", "save the file as UTF-8") from error


def _events(text: str, file: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.reader.ReaderError as error:
        character: Any = error.character
        shown = f"U+{character:04X}" if isinstance(character, int) else repr(character)
        place = _place_of(text[: error.position], file)
        raise _Refused(
            place,
            f"character {shown} is not allowed in YAML",
            "take it out, or write it as an escape in double quotes",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark is not None else Place(file, 1, 1)
        message, hint = _explain_syntax(error, text, place)
        raise _Refused(place, message, hint) from error


def _explain_syntax(error: yaml.MarkedYAMLError, text: str, place: Place) -> tuple[str, str]:
    """Return libyaml's complaint in words, with what is usually meant."""
    said = " ".join(part for part in (error.problem, error.context) if part)
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: max(place.column, len(line) - len(line.lstrip()))]:
        return "a tab stands where spaces are expected", "indent with spaces"
    hints = {
        "mapping values are not allowed": "a second ': ' in one line; quote the value, or indent its keys below",
        "cannot start any token": "quote a value that begins with a sign such as @, ` or %",
        "did not find expected key": "look at the indentation of this line and the one before",
        "did not find expected '-'": "look at the indentation of this line and the one before",
        "could not find expected ':'": "a key needs ': ' behind it",
        "did not find expected ','": "a bracket or a comma is missing before this place",
        "unexpected end of stream": "a closing quote is missing",
        "unknown escape character": "use single quotes for text with backslashes",
        "did not find expected <document start>": "something stands behind the end of the document",
    }
    hint = next((hint for sign, hint in hints.items() if sign in said), "")
    return f"not YAML: {said}", hint


def _place_of(before: str, file: str) -> Place:
    line = before.count("\n") + 1
    return Place(file, line, len(before) - (before.rfind("\n") + 1) + 1)


def _clean(text: str, place: Place) -> str:
    """Return text that a database and JSON can carry."""
    if "\x00" in text:
        raise _Refused(place, "text may not contain NUL characters")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _Refused(place, "text contains half of a surrogate pair")
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
