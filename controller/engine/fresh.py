"""New events on their way from the inbox to the evaluator: what was just parsed and written need not be read and parsed again.

A saving, never a message: the evaluator asks the store which events wait, and only then looks here for what they hold.
What is missing here (after a restart, on another replica, when there is too much of it) is read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime

from controller.core.model import Event, Json
from controller.store.intake import Prepared

#: Kept at most: so many events, and so many characters of their data as it is stored; the oldest go first.
MOST_EVENTS = 10_000
MOST_TEXT = 16 << 20

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Fresh:
    """Events that were stored and not yet decided on, by id; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, tuple[Event, int]] = {}
        self._text = 0

    def keep(self, prepared: Prepared) -> None:
        """Keep events that were stored; those whose data JSON does not give back as they are are left to the store."""
        kept = []
        for new, row in zip(prepared.events, prepared.rows, strict=True):
            size = len(row[7] or "") + len(row[8])
            if size <= MOST_TEXT and _survives_json(new.data) and _survives_json(new.extensions):
                event = Event(
                    id=row[0],
                    origin=prepared.origin,
                    source=new.source,
                    source_id=new.source_id,
                    type=new.type,
                    subject=new.subject,
                    time=prepared.at if new.time is None else _utc(new.time),
                    received_at=prepared.at,
                    data=new.data,
                    extensions=new.extensions,
                )
                kept.append((row[0], event, size))
        with self._lock:
            for event_id, event, size in kept:
                self._events[event_id] = (event, size)
                self._text += size
            while len(self._events) > MOST_EVENTS or self._text > MOST_TEXT:
                self._forget(next(iter(self._events)))

    def take(self, event_ids: Iterable[str]) -> dict[str, Event]:
        """Return those of these events that are here, and keep them no longer."""
        found = {}
        with self._lock:
            for event_id in event_ids:
                if event_id in self._events:
                    found[event_id] = self._events[event_id][0]
                    self._forget(event_id)
        return found

    def _forget(self, event_id: str) -> None:
        _, size = self._events.pop(event_id)
        self._text -= size


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo is UTC else at.astimezone(UTC)


def _survives_json(value: Json) -> bool:
    """Say whether writing a value as JSON and reading it gives the same value."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        return all(type(key) is str and (type(item) in _SCALARS or _survives_json(item)) for key, item in value.items())
    return kind is list and all(type(item) in _SCALARS or _survives_json(item) for item in value)
