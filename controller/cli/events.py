"""`retrainctl events export` and `events import`: the history of events as lines of a file.

Export reads the database, with the daemon or without it. Import hands the events to the daemon, which stores each identity once and
decides on what is new, like on any event.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session
from controller.cli.text import counted, local

if TYPE_CHECKING:
    from controller.cli.client import Client
    from controller.core.eventfile import FiledEvent

#: Events that one request carries, and so many bytes of them, unless a single one is larger.
BATCH = 500
MOST_BYTES = 512 * 1024

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]


def events_export(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option(metavar="LENGTH|INSTANT", help="Received from then on: 90d, or 2026-01-31T00:00:00Z.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="LENGTH|INSTANT", help="Received before; by default now.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the source that took them in.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="The events' type.")] = None,
    output: Annotated[
        Literal["jsonl"], typer.Option("--output", "-o", help="One CloudEvent in JSON a line.")
    ] = "jsonl",
) -> None:
    """Write events to standard output, in the order in which they were received."""
    from controller.cli.backtest import instant_of
    from controller.core.eventfile import to_line
    from controller.store.export import Past

    del output  # there is one
    session: Session = ctx.obj
    now = session.now()
    end = now if until is None else instant_of(until, now)
    with contextlib.closing(session.installation.store()) as store:
        store.check_schema()
        past = Past(store)
        begin = past.first_at() if since is None else instant_of(since, now)
        for page in () if begin is None else past.events(begin, end, origin=source, kind=kind):
            for event in page:
                sys.stdout.write(json.dumps(to_line(event), ensure_ascii=True, separators=(",", ":")) + "\n")


def events_import(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of CloudEvents, or CSV (by its suffix).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only read the file, and say what is in it.")] = False,
    output: _Output = None,
) -> None:
    """Hand the events of a file to the daemon; what it knows already is not stored again."""
    from controller.cli import eventfiles

    session: Session = ctx.obj.with_output(output)
    if dry_run:
        found = _look(eventfiles.read(file))
        session.print(found, lambda: _said(found))
        return
    for _ in eventfiles.read(file):  # all of it, before the first is handed over: nothing is taken by halves
        pass
    stored = duplicates = 0
    with session.client() as client:
        for batch in _batches(eventfiles.read(file)):
            for receipt in _send(client, batch):
                stored += not receipt["duplicate"]
                duplicates += receipt["duplicate"]
    done = {"file": str(file), "events": stored + duplicates, "stored": stored, "duplicates": duplicates}
    session.print(done, lambda: [f"{counted(stored, 'event')} stored, {duplicates:,} were there already"])


def _look(lines: Iterable[FiledEvent]) -> dict[str, Any]:
    types: Counter[str] = Counter()
    identities: set[int] = set()
    instants: list[datetime] = []
    for filed in lines:
        types[filed.event.type] += 1
        identities.add(hash((filed.event.source, filed.event.source_id)))
        if filed.at is not None:
            instants = [min([*instants, filed.at]), max([*instants, filed.at])]
    return {
        "events": types.total(),
        "identities": len(identities),
        "types": dict(types.most_common()),
        "first": instants[0].isoformat() if instants else None,
        "last": instants[1].isoformat() if instants else None,
    }


def _said(found: Mapping[str, Any]) -> list[str]:
    twice = found["events"] - found["identities"]
    lines = [counted(found["events"], "event") + (f", {twice:,} of them there twice" if twice else "")]
    if found["first"]:
        lines.append(f"from {local(found['first'])} to {local(found['last'])}")
    return [*lines, *(f"  {count:>9,}  {kind}" for kind, count in found["types"].items()), "nothing was stored"]


def _batches(lines: Iterator[FiledEvent]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    while some := list(islice(lines, BATCH)):
        for filed in some:
            text = json.dumps(_document(filed), separators=(",", ":"))
            if batch and (len(batch) >= BATCH or size + len(text) > MOST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += len(text)
    if batch:
        yield batch


def _document(filed: FiledEvent) -> dict[str, Any]:
    """Return the event as it is sent: what marks it as exported stays behind, because the daemon receives it anew."""
    event = filed.event
    document = {
        "specversion": "1.0",
        "id": event.source_id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": None if event.time is None else event.time.isoformat().replace("+00:00", "Z"),
        **event.extensions,
        "data": event.data,
    }
    return {name: value for name, value in document.items() if value is not None}


def _send(client: Client, batch: Sequence[str]) -> list[dict[str, Any]]:
    headers = {"content-type": "application/cloudevents-batch+json"}
    body = f"[{','.join(batch)}]".encode()
    receipts = client.request("POST", "/v1/events", content=body, headers=headers).json()
    if not isinstance(receipts, list) or len(receipts) != len(batch):
        raise Failure(Exit.FAILED, "the daemon did not answer for every event", hint="import the file again")
    return receipts
