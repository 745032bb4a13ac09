"""Events as lines of a file: JSONL of CloudEvents in structured mode, and CSV.

A line that was exported carries two extensions of ours: when we received it, and which source took it in. Reading them back, a backtest
decides what the daemon decided; without them an event counts as received when it happened, by the API.
CSV has the columns time, type, subject, source, id and data (JSON), or `data.share` and the like for single values.
Nothing here opens a file: lines come in, records go out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.core import cloudevents, strict_json
from controller.core.model import EVENT_ID, Event, Json, NewEvent
from controller.errors import ControllerError, InvalidInput

#: CloudEvents extensions of an exported line: when it was received, and the source that took it in.
RECEIVED, ORIGIN = "retrainreceived", "retrainorigin"
#: The origin of an event whose line names none.
DEFAULT_ORIGIN = "api"
#: A `source` for lines of CSV that name none.
_DEFAULT_SOURCE = "/csv"
_COLUMNS = ("time", "type", "subject", "source", "id", "data", "origin", "received")


@dataclass(frozen=True, kw_only=True, slots=True)
class FiledEvent:
    """An event of a file."""

    #: Of the file, from 1.
    line: int
    event: NewEvent
    origin: str
    received_at: datetime | None

    @property
    def at(self) -> datetime | None:
        """When it counts as received."""
        return self.received_at or self.event.time


def to_line(event: Event) -> dict[str, Json]:
    """Return an event as a CloudEvent in structured mode, with what an import must know of us."""
    document = {
        "specversion": "1.0",
        "id": event.source_id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": _instant(event.time),
        **event.extensions,
        RECEIVED: _instant(event.received_at),
        ORIGIN: event.origin,
        "data": event.data,
    }
    return {name: value for name, value in document.items() if value is not None}


def read_jsonl(lines: Iterable[bytes], *, name: str) -> Iterator[FiledEvent]:
    """Yield the events of JSONL; empty lines are passed over. Raises `InvalidInput` that names file and line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _filed(cloudevents.structured(strict_json.parse(line)), number)
        except ControllerError as error:
            raise InvalidInput(f"{name}:{number}: {error.message}", hint=error.hint) from error


def read_csv(lines: Iterable[str], *, name: str) -> Iterator[FiledEvent]:
    """Yield the events of CSV with a header. Raises `InvalidInput` that names file and line."""
    reader = csv.reader(lines, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        _check_header(header, name)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise InvalidInput(f"it has {len(row)} columns, the header has {len(header)}")
            cells = {column: cell for column, cell in zip(header, row, strict=True) if cell != ""}
            yield _filed(_from_cells(cells, reader.line_num), reader.line_num)
    except csv.Error as error:
        raise InvalidInput(f"{name}:{reader.line_num}: it is not CSV: {error}") from error
    except ControllerError as error:
        if error.message.startswith(f"{name}:"):
            raise
        raise InvalidInput(f"{name}:{reader.line_num}: {error.message}", hint=error.hint) from error


def stored(filed: FiledEvent, number: int) -> Event:
    """Return an event of a file as if it were stored, for a backtest; raises `InvalidInput` for one without a time."""
    if filed.at is None:
        raise InvalidInput(
            f"line {filed.line}: the event has no time", hint="a backtest needs to know when it happened"
        )
    event = filed.event
    return Event(
        id=f"{EVENT_ID}-{number:016d}",
        origin=filed.origin,
        source=event.source,
        source_id=event.source_id,
        type=event.type,
        subject=event.subject,
        time=event.time or filed.at,
        received_at=filed.at,
        data=event.data,
        extensions=event.extensions,
    )


def _filed(event: NewEvent, line: int) -> FiledEvent:
    extensions = dict(event.extensions)
    received, origin = extensions.pop(RECEIVED, None), extensions.pop(ORIGIN, DEFAULT_ORIGIN)
    return FiledEvent(
        line=line,
        event=NewEvent(
            source=event.source,
            source_id=event.source_id,
            type=event.type,
            subject=event.subject,
            time=event.time,
            data=event.data,
            extensions=extensions,
        ),
        origin=str(origin),
        received_at=None if received is None else _read_instant(received),
    )


def _check_header(header: list[str], name: str) -> None:
    if not header:
        raise InvalidInput(f"{name}:1: the file is empty", hint="the first line names the columns: time,type,subject,…")
    unknown = [column for column in header if column not in _COLUMNS and not column.startswith("data.")]
    if unknown:
        raise InvalidInput(
            f"{name}:1: unknown column {unknown[0]!r}", hint=f"known: {', '.join(_COLUMNS)}, and data.NAME for a value"
        )
    if len(set(header)) < len(header):
        raise InvalidInput(f"{name}:1: a column is there twice")
    for needed in ("time", "type"):
        if needed not in header:
            raise InvalidInput(f"{name}:1: the column {needed!r} is missing")


def _from_cells(cells: Mapping[str, str], line: int) -> NewEvent:
    data: Json = strict_json.parse(cells["data"].encode()) if "data" in cells else None
    single = {column.removeprefix("data."): cell for column, cell in cells.items() if column.startswith("data.")}
    if single:
        if data is not None and not isinstance(data, dict):
            raise InvalidInput(
                f"data is {type(data).__name__}, so the columns {', '.join(single)} cannot be put into it"
            )
        data = dict(data or {})
        for path, cell in single.items():
            _put(data, path.split("."), _value(cell))
    document: dict[str, Json] = {
        "specversion": "1.0",
        "id": cells.get("id", f"line-{line}"),
        "source": cells.get("source", _DEFAULT_SOURCE),
        "type": cells.get("type"),
        "subject": cells.get("subject"),
        "time": cells.get("time"),
        "data": data,
        RECEIVED: cells.get("received"),
        ORIGIN: cells.get("origin"),
    }
    return cloudevents.structured({name: value for name, value in document.items() if value is not None})


def _put(data: dict[str, Json], path: list[str], value: Json) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise InvalidInput(f"data.{'.'.join(path)} lies in a value that is no object")
    data[path[-1]] = value


def _value(cell: str) -> Json:
    """Return a cell that is JSON as that, any other as text."""
    try:
        return strict_json.parse(cell.encode())
    except InvalidInput:
        return cell


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_instant(value: Json) -> datetime:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidInput(f"{RECEIVED} is {value!r}, not an instant", hint="write 2026-01-31T12:00:00Z") from error
    if at.tzinfo is None:
        raise InvalidInput(f"{RECEIVED} is {value!r}, which has no zone", hint="write 2026-01-31T12:00:00Z")
    return at.astimezone(UTC)
