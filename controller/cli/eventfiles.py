"""Opens files of events: JSONL or CSV, in the order of time whatever the order of their lines.

Sorting takes a first reading to see whether it is needed; what is out of order is sorted in pieces on disk, so that memory stays flat.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO

from controller.cli.exits import Exit, Failure
from controller.core.eventfile import FiledEvent, read_csv, read_jsonl, stored, to_line
from controller.core.model import Event
from controller.errors import InvalidInput

#: Events that are sorted in memory at once.
PIECE = 20_000
#: So many identities are remembered to leave out what is there twice, as the inbox would.
REMEMBERED = 200_000


def read(path: Path) -> Iterator[FiledEvent]:
    """Yield the events of a file as they stand in it; raises `Failure` when it cannot be read, `InvalidInput` for a bad line."""
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as text:
                yield from read_csv(text, name=str(path))
        else:
            with path.open("rb") as lines:
                yield from read_jsonl(lines, name=str(path))
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: byte {error.start} is not UTF-8") from error


def span(path: Path) -> tuple[datetime, datetime, bool]:
    """Return when the first and the last event of a file happened, and whether its lines are in order.

    Raises `Failure` for a file without events.
    """
    first: datetime | None = None
    last: datetime | None = None
    before: datetime | None = None
    is_sorted = True
    for filed in read(path):
        at = _at(filed, path)
        is_sorted = is_sorted and (before is None or at >= before)
        first = at if first is None else min(first, at)
        last = at if last is None else max(last, at)
        before = at
    if first is None or last is None:
        raise Failure(Exit.USAGE, f"{path} holds no events")
    return first, last, is_sorted


def events(path: Path, *, is_sorted: bool) -> Iterator[Event]:
    """Yield the events of a file in the order of time, each identity once."""
    known: dict[tuple[str, str, str], None] = {}
    number = 0
    for filed in read(path) if is_sorted else _sorted(path):
        identity = (filed.origin, filed.event.source, filed.event.source_id)
        if identity in known:
            continue
        known[identity] = None
        if len(known) > REMEMBERED:
            del known[next(iter(known))]
        number += 1
        yield stored(filed, number)


def _sorted(path: Path) -> Iterator[FiledEvent]:
    with ExitStack() as stack:
        pieces: list[Iterator[FiledEvent]] = []
        lines = read(path)
        while piece := list(islice(lines, PIECE)):
            piece.sort(key=lambda filed: _at(filed, path))
            file = stack.enter_context(tempfile.TemporaryFile())
            for filed in piece:
                file.write(json.dumps(to_line(stored(filed, filed.line))).encode() + b"\n")
            file.seek(0)
            pieces.append(_again(file, path))
        yield from heapq.merge(*pieces, key=lambda filed: _at(filed, path))


def _again(file: IO[bytes], path: Path) -> Iterator[FiledEvent]:
    yield from read_jsonl(file, name=str(path))


def _at(filed: FiledEvent, path: Path) -> datetime:
    if filed.at is None:
        raise InvalidInput(
            f"{path}:{filed.line}: the event has no time", hint="a backtest needs to know when it happened"
        )
    return filed.at
