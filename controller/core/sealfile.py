"""The chain over history as lines of a file: what `retrainctl audit export` writes and `audit verify --file` reads.

Each line is one JSON object. The first names the format. Then come the acts from before the chain (`before`), each link (`link`) with its
rows behind it (`row`, with the `act` that it stands for), `unsealed` with the rows that no link covers yet, and `end` with their counts.
Values are as the database holds them and as they are hashed; `docs/audit.md` describes them.
Nothing here opens a file: items come in and lines go out, or the other way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from controller.core.seal import ACT, ROW, Before, Entry, Item, Link, Raw, Tail
from controller.errors import InvalidInput

FORMAT = "retrain-audit-1"
_LINK = ("number", "last_seq", "count", "term", "at", "digest", "marks")
#: How bytes are written, which JSON does not have; in a row only a stranger can have left some.
_HEX = "hex"


def to_lines(items: Iterable[Item]) -> Iterator[str]:
    """Yield the lines of a chain, without line breaks."""
    yield _line({"format": FORMAT})
    links = rows = 0
    for item in items:
        links += isinstance(item, Link)
        rows += isinstance(item, Entry)
        yield _line(_document(item))
    yield _line({"end": {"links": links, "rows": rows}})


def from_lines(lines: Iterable[bytes], *, name: str) -> Iterator[Item]:
    """Yield the items of a file. Raises `InvalidInput` for a line that makes no sense, and for a file that ends in the middle."""
    links = rows = 0
    ended = False
    for number, line in enumerate(lines, 1):
        place = f"{name}:{number}"
        if ended:
            raise InvalidInput(f"{place}: there is more after the end")
        document = _parsed(line, place)
        if number == 1:
            if document != {"format": FORMAT}:
                raise InvalidInput(
                    f"{place}: this is no export of the audit", hint=f'the first line is {{"format":"{FORMAT}"}}'
                )
            continue
        if "end" in document:
            if document["end"] != {"links": links, "rows": rows}:
                raise InvalidInput(
                    f"{place}: the file should have {document['end']}, and has {links} links and {rows} rows"
                )
            ended = True
            continue
        item = _item(document, place)
        links += isinstance(item, Link)
        rows += isinstance(item, Entry)
        yield item
    if not ended:
        raise InvalidInput(f"{name} ends in the middle", hint='its last line should begin with {"end"; export it again')


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def _document(item: Item) -> dict[str, Any]:
    match item:
        case Before():
            return {"before": _named(ACT, item.act)}
        case Link():
            values = [getattr(item, name) for name in _LINK[:-1]]
            return {"link": {**_named(_LINK, [*values, ""]), "marks": item.marks.hex()}}
        case Entry():
            act = {} if item.act is None else {"act": _named(ACT, item.act)}
            return {"row": _named(ROW, item.row), **act}
        case Tail():
            return {"unsealed": True}


def _named(names: Sequence[str], values: Sequence[Raw]) -> dict[str, Any]:
    return {
        name: {_HEX: value.hex()} if isinstance(value, bytes) else value
        for name, value in zip(names, values, strict=True)
    }


def _item(document: Mapping[str, Any], place: str) -> Item:
    match document:
        case {"row": row, "act": act, **others} if not others:
            return Entry(_values(ROW, row, place), _values(ACT, act, place))
        case {"row": row, **others} if not others:
            return Entry(_values(ROW, row, place))
        case {"link": link, **others} if not others:
            return _link(_values(_LINK, link, place), place)
        case {"before": act, **others} if not others:
            return Before(_values(ACT, act, place))
        case {"unsealed": True, **others} if not others:
            return Tail()
        case _:
            raise InvalidInput(f"{place}: neither a row nor a link: {', '.join(document) or 'nothing'}")


def _link(values: Sequence[Raw], place: str) -> Link:
    number, last_seq, count, term, at, digest, marks = values
    wholes = (number, last_seq, count, term, at)
    if not all(isinstance(whole, int) for whole in wholes) or not isinstance(digest, str) or not isinstance(marks, str):
        raise InvalidInput(f"{place}: the link has a value of another kind than a link has")
    try:
        found = bytes.fromhex(marks)
    except ValueError as error:
        raise InvalidInput(f"{place}: the link's marks are not hexadecimal") from error
    given: dict[str, Any] = dict(zip(_LINK, [*wholes, digest, found], strict=True))
    return Link(**given)


def _values(names: Sequence[str], found: Any, place: str) -> tuple[Raw, ...]:
    if not isinstance(found, dict) or set(found) != set(names):
        raise InvalidInput(f"{place}: it should have {', '.join(names)}, and nothing else")
    return tuple(_value(found[name], place) for name in names)


def _value(value: Any, place: str) -> Raw:
    match value:
        case bool() | list():
            raise InvalidInput(f"{place}: {value!r} is neither text nor a number")
        case {"hex": str(text), **others} if not others:
            try:
                return bytes.fromhex(text)
            except ValueError as error:
                raise InvalidInput(f"{place}: {text!r} is not hexadecimal") from error
        case dict():
            raise InvalidInput(f"{place}: {value!r} is neither text nor a number")
        case _:
            found: Raw = value
            return found


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"{place} is not a JSON object")
    return document
