"""Reads YAML 1.2 (the core schema) into plain values that remember where they stand.

Why not `yaml.safe_load`: it speaks YAML 1.1, where `on` and `no` are booleans, `010` is eight and `12:30:45` is a number;
it keeps the last of two equal keys, follows merge keys, expands aliases without a limit, and forgets lines and columns.
The idea: take the events of libyaml's parser, build dicts and lists in a loop of our own, and let them carry the places
of their keys and values.
A plain scalar that YAML 1.1 and 1.2 read differently becomes a `Word`: text with a flag. Where a text is wanted it is that text;
where a number or a boolean is wanted the reader of the schema refuses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
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
_COLUMN_BITS = 16
_MAX_COLUMN = (1 << _COLUMN_BITS) - 1
_MARK_BITS = 40
_MARK_MASK = (1 << _MARK_BITS) - 1
_START = (1 << _COLUMN_BITS) | 1

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


class Word(str):
    """Text that YAML 1.1 reads as something else: `no`, `010`, `12:30:45`."""

    __slots__ = ()


class Map(dict[str, Any]):
    """A mapping that remembers its own place, and those of its keys and values."""

    # Ten thousand models have a million places: they are kept as packed integers.
    __slots__ = ("_at", "_files", "file", "mark")

    def __init__(self, file: str, mark: int = 0) -> None:
        super().__init__()
        self.file = file
        self.mark = mark
        self._at: dict[str, int] = {}
        #: Files of keys that came from elsewhere.
        self._files: dict[str, str] | None = None

    @property
    def place(self) -> Place:
        """Where it begins."""
        return place_of(self.file, self.mark)

    def put(self, key: str, value: Any, key_mark: int, value_mark: int) -> None:
        """Set a key with its places, in this mapping's file."""
        self[key] = value
        self._at[key] = key_mark << _MARK_BITS | value_mark

    def take(self, key: str, other: Map) -> None:
        """Set a key as another mapping has it, places and all."""
        self[key] = other[key]
        self._at[key] = other._at[key]
        file = other._file_of(key)
        if file == self.file:
            if self._files is not None:
                self._files.pop(key, None)
        elif self._files is None:
            self._files = {key: file}
        else:
            self._files[key] = file

    def key_at(self, key: str) -> Place:
        """Return where a key stands."""
        return place_of(self._file_of(key), self._at[key] >> _MARK_BITS)

    def value_at(self, key: str) -> Place:
        """Return where a key's value stands."""
        return place_of(self._file_of(key), self._at[key] & _MARK_MASK)

    def _file_of(self, key: str) -> str:
        return self.file if self._files is None else self._files.get(key, self.file)


class Seq(list[Any]):
    """A sequence that remembers its own place, and those of its items."""

    __slots__ = ("file", "mark", "marks")

    def __init__(self, file: str, mark: int = 0) -> None:
        super().__init__()
        self.file = file
        self.mark = mark
        self.marks: list[int] = []

    def item_at(self, index: int) -> Place:
        """Return where an item stands."""
        return place_of(self.file, self.marks[index])


def place_of(file: str, mark: int) -> Place:
    """Unpack a line and a column."""
    return Place(file, mark >> _COLUMN_BITS, mark & _MAX_COLUMN)


def _pack(line: int, column: int) -> int:
    return line << _COLUMN_BITS | min(column, _MAX_COLUMN)


@dataclass(slots=True)
class _Frame:
    """A collection that is being read."""

    container: Map | Seq
    anchor: str | None
    #: How many nodes there were before it.
    nodes_before: int
    #: Mappings: the key whose value comes next.
    key: str | None = None
    key_mark: int = 0
    #: The key was given before: its value is read and dropped.
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias may refer to."""

    value: Any
    nodes: int


class _Refused(Exception):
    """Reading a file cannot go on."""

    def __init__(self, mark: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message
        self.hint = hint


def parse(content: bytes, *, file: str) -> tuple[Map | None, list[Problem]]:
    """Read one document and return it with what is wrong with it; None when it could not be read to its end.

    `file` is the name to show. An empty document is an empty mapping.
    """
    reader = _Reader(file)
    try:
        reader.read(_decode(content))
    except _Refused as refusal:
        reader.problem(refusal.mark, refusal.message, refusal.hint)
        return None, reader.problems
    if reader.root is None:
        return Map(file, _START), reader.problems
    if not isinstance(reader.root, Map):
        reader.problem(
            reader.root_mark,
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
        self.root_mark = _START
        self._file = file
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._expanded = 0
        self._documents = 0

    def problem(self, mark: int, message: str, hint: str = "", *, path: str = "") -> None:
        place = place_of(self._file, mark)
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
        read: dict[type, Callable[[Any], None]] = {
            ScalarEvent: self._read_scalar,
            MappingStartEvent: self._open,
            SequenceStartEvent: self._open,
            MappingEndEvent: self._close,
            SequenceEndEvent: self._close,
            AliasEvent: self._follow,
            DocumentStartEvent: self._begin,
        }
        for event in _events(text):
            if (step := read.get(type(event))) is not None:
                step(event)

    def _begin(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _Refused(_mark_of(event), "a second document begins here", "one file holds one document")
        if event.version not in (None, (1, 2)) or event.tags:
            raise _Refused(
                _mark_of(event),
                "directives are not read here",
                "take the line with `%` out; files are YAML 1.2",
            )

    def _read_scalar(self, event: ScalarEvent) -> None:
        mark = _mark_of(event)
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.container, Map):
            self._read_key(event, frame, mark)
            return
        self._nodes += 1
        self._refuse_tag(event, mark)
        value = self._resolve(event.value, mark) if event.implicit[0] else _clean(event.value, mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1)
        self._deliver(value, mark)

    def _read_key(self, event: ScalarEvent, frame: _Frame, mark: int) -> None:
        key = _clean(event.value, mark)
        self._refuse_tag(event, mark)
        if event.anchor is not None:
            raise _Refused(mark, f"key {key!r} has an anchor", "put anchors on values only")
        if key == "" and event.implicit[0]:
            raise _Refused(mark, "a key is missing before ':'")
        if key == "<<" and event.implicit[0]:
            raise _Refused(
                mark,
                "merge keys ('<<') are not read here",
                "write the keys out, or put them under `defaults`",
            )
        frame.key, frame.key_mark = key, mark
        known = frame.container
        frame.repeated = isinstance(known, Map) and key in known
        if isinstance(known, Map) and key in known:
            self.problem(
                mark,
                f"key {key!r} is given twice; first at {known.key_at(key)}",
                path=self._path(),
            )

    def _open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        mark = _mark_of(event)
        self._refuse_complex_key(mark)
        self._refuse_tag(event, mark)
        if len(self._frames) >= MAX_DEPTH:
            raise _Refused(mark, f"nested deeper than {MAX_DEPTH} levels")
        container = Map(self._file, mark) if isinstance(event, MappingStartEvent) else Seq(self._file, mark)
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)
        self._frames.append(_Frame(container, event.anchor, self._nodes))
        self._nodes += 1

    def _close(self, event: MappingEndEvent | SequenceEndEvent) -> None:
        del event
        frame = self._frames.pop()
        if frame.anchor is not None:
            self._anchors[frame.anchor] = _Anchored(frame.container, self._nodes - frame.nodes_before)
        self._deliver(frame.container, frame.container.mark)

    def _follow(self, event: AliasEvent) -> None:
        mark = _mark_of(event)
        self._refuse_complex_key(mark)
        name: Any = event.anchor
        anchored = self._anchors.get(name)
        if anchored is None:
            inside = any(frame.anchor == name for frame in self._frames)
            raise _Refused(
                mark,
                f"alias '*{name}' refers to what it stands in"
                if inside
                else f"alias '*{name}' has no anchor '&{name}' before it",
            )
        self._nodes += anchored.nodes
        self._expanded += anchored.nodes
        if anchored.nodes > MAX_ALIAS_NODES or self._expanded > MAX_EXPANSION:
            raise _Refused(
                mark,
                f"alias '*{name}' expands to too much: at most {MAX_ALIAS_NODES} values an alias, {MAX_EXPANSION} a file",
                "write it out, or put what models share under `defaults`",
            )
        self._deliver(anchored.value, mark)

    def _deliver(self, value: Any, mark: int) -> None:
        if not self._frames:
            self.root, self.root_mark = value, mark
            return
        frame = self._frames[-1]
        container = frame.container
        if isinstance(container, Seq):
            container.append(value)
            container.marks.append(mark)
            return
        if not frame.repeated:
            container.put(frame.key or "", value, frame.key_mark, mark)
        frame.key = None

    def _refuse_complex_key(self, mark: int) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.container, Map):
            raise _Refused(mark, "a key must be plain text")

    def _refuse_tag(self, event: Any, mark: int) -> None:
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(
                mark,
                f"tags such as {tag!r} are not read here",
                "take it out; quote a value to make it text",
            )

    def _resolve(self, text: str, mark: int) -> Any:
        """Return what a plain scalar stands for."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text in _BOOLEANS_ONCE:
            return Word(text)
        if text[0] in "0123456789+-.":
            return self._resolve_number(text, mark)
        return _clean(text, mark)

    def _resolve_number(self, text: str, mark: int) -> Any:
        if _INT.fullmatch(text) or _HEX.fullmatch(text):
            # Python refuses to read thousands of digits, and no number here needs more than 64 bits.
            number = int(text, 16 if "x" in text else 10) if len(text) <= 20 else _INT64
            if not -_INT64 <= number < _INT64:
                self.problem(
                    mark,
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
                    mark,
                    f"{_shorten(text)} is too large for a number",
                    "quote it to make it text",
                    path=self._path(),
                )
                return Word(text)
            return real
        if _NOT_FINITE.fullmatch(text):
            self.problem(
                mark,
                f"{text} is not a finite number",
                "quote it to make it text",
                path=self._path(),
            )
            return Word(text)
        return Word(text) if _DISPUTED.fullmatch(text) else _clean(text, mark)

    def _path(self) -> str:
        return dotted(
            [len(frame.container) if isinstance(frame.container, Seq) else frame.key for frame in self._frames]
        )


def _mark_of(event: Any) -> int:
    mark = event.start_mark
    # As `_pack` does it, written out: it is asked of every key and value.
    line: int = mark.line + 1
    column: int = mark.column + 1
    return line << _COLUMN_BITS | (column if column < _MAX_COLUMN else _MAX_COLUMN)


def dotted(path: Any) -> str:
    """Write a path of keys and indices as people read it: `models.churn.promote[0].type`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _mark_after(content[: error.start].decode("utf-8", "replace"))
        raise _Refused(mark, f"byte 0x{content[error.start]:02x} is not UTF-8", "save the file as UTF-8") from error


def _events(text: str) -> Iterator[Any]:
    try:
        loader = _LOADER(text)
        while (event := loader.get_event()) is not None:
            yield event
    except yaml.reader.ReaderError as error:
        character: Any = error.character
        shown = f"U+{character:04X}" if isinstance(character, int) else repr(character)
        raise _Refused(
            _mark_after(text[: error.position]),
            f"character {shown} is not allowed in YAML",
            "take it out, or write it as an escape in double quotes",
        ) from error
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        line, column = (where.line + 1, where.column + 1) if where is not None else (1, 1)
        message, hint = _explain_syntax(error, text, line, column)
        raise _Refused(_pack(line, column), message, hint) from error


def _explain_syntax(error: yaml.MarkedYAMLError, text: str, line_number: int, column: int) -> tuple[str, str]:
    """Return libyaml's complaint in words, with what is usually meant."""
    said = " ".join(part for part in (error.problem, error.context) if part)
    lines = text.split("\n")
    line = lines[line_number - 1] if line_number <= len(lines) else ""
    if "\t" in line[: max(column, len(line) - len(line.lstrip()))]:
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


def _mark_after(before: str) -> int:
    return _pack(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _clean(text: str, mark: int) -> str:
    """Return text that a database and JSON can carry."""
    if "\x00" in text:
        raise _Refused(mark, "text may not contain NUL characters")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _Refused(mark, "text contains half of a surrogate pair")
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
