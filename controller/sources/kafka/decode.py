"""Records read into events: CloudEvents in both modes of the Kafka binding, plain JSON by a mapping; what is neither is a dead letter.

Follows the Kafka protocol binding of CloudEvents (cloudevents.io, bindings/kafka-protocol-binding.md): structured mode is told by the
content type, binary mode by headers with the prefix `ce_`, whose values are UTF-8 as they are. A JSON value with the required attributes is
taken for a structured event also without a content type, because many producers send none.
Where a record stood, its key and its other headers are kept among the extensions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controller.core import cloudevents, mapping, strict_json
from controller.core.model import MAX_DEAD_BODY, DeadLetter, Json, NewEvent
from controller.errors import InvalidInput
from controller.sources.kafka.client import Partition, Record
from controller.sources.kafka.options import KafkaOptions

#: CloudEvents type of a record without a value, when such records are events.
TOMBSTONE = "kafka.tombstone"
#: More of a key or of the headers, in characters, is not kept among an event's extensions.
_KEPT = 1024
_MAX_HEADERS = 256
_ATTRIBUTES = ("specversion", "id", "source", "type")


@dataclass(kw_only=True, slots=True)
class Decoded:
    """What some records came to."""

    events: list[NewEvent] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    #: Records without a value that were passed over.
    tombstones: int = 0


class Decoder:
    """Reads records as the options say; `topic_id` gives the id of a topic, None when it is not known."""

    def __init__(self, options: KafkaOptions, topic_id: Callable[[str], str | None]) -> None:
        self._options = options
        self._topic_id = topic_id
        self._mapping = options.mapping
        self._takes_cloudevents = options.format != "json"
        self._max_bytes = options.max_record_bytes

    def decode(self, records: Sequence[Record]) -> Decoded:
        """Return the events and dead letters of these records, in order."""
        decoded = Decoded()
        events = decoded.events
        for record in records:
            try:
                found = self.read(record)
            except InvalidInput as error:
                decoded.dead.append(self.letter(record, error.message))
                continue
            if found is None:
                decoded.tombstones += 1
            elif type(found) is NewEvent:
                events.append(found)
            else:
                events += found  # type: ignore[arg-type]
        return decoded

    def read(self, record: Record, topic_id: str | None = None) -> NewEvent | Sequence[NewEvent] | None:
        """Return what a record says: an event, several, or None for a tombstone that is passed over; raises `InvalidInput`."""
        topic, partition, offset, timestamp, key, value, headers = record
        kept: dict[str, Json] = {"kafkatopic": topic, "kafkapartition": partition, "kafkaoffset": offset}
        if key is not None:
            kept["partitionkey"] = _text(key)[:_KEPT]
        content_type, attributes = _headers(headers, kept) if headers else ("", None)
        if value is not None and len(value) > self._max_bytes:
            raise InvalidInput(f"{len(value):,} bytes, at most {self._max_bytes:,} are taken")
        if attributes and self._takes_cloudevents:
            structured = content_type[:23].lower() == "application/cloudevents"
            if not structured and ("id" in attributes or "type" in attributes or value is None):
                time = None if "time" in attributes else _instant(timestamp)
                return cloudevents.binary(
                    attributes, content_type, value or b"", time=time, extensions=kept, max_bytes=self._max_bytes
                )
        if value is None:
            return self._tombstone(record, kept, topic_id) if self._options.tombstones == "event" else None
        if not value:
            raise InvalidInput("the value is empty")
        if content_type[:23].lower() == "application/cloudevents" and self._takes_cloudevents:
            cloudevents.refuse_format(content_type)
            return self._structured(strict_json.parse(value, max_bytes=self._max_bytes), timestamp, kept)
        body = strict_json.parse(value, max_bytes=self._max_bytes)
        if self._takes_cloudevents and (self._mapping is None or _is_cloudevent(body)):
            if self._mapping is None and not (isinstance(body, dict) and "specversion" in body):
                raise InvalidInput(
                    "JSON that is no CloudEvent"
                    + ("" if self._options.format == "cloudevents" else ", and there is no mapping"),
                    hint="a mapping says how it becomes an event",
                )
            return self._structured(body, timestamp, kept)
        return self._mapped(record, body, kept, topic_id)

    def _structured(self, body: Json, timestamp: int | None, kept: Mapping[str, Json]) -> NewEvent:
        said = isinstance(body, dict) and body.get("time") is not None
        time = None if said else _instant(timestamp)
        return cloudevents.structured(body, time=time, extensions=kept, max_bytes=self._max_bytes)

    def _mapped(self, record: Record, body: Json, kept: dict[str, Json], topic_id: str | None) -> list[NewEvent]:
        assert self._mapping is not None  # noqa: S101 - the options require it
        events = mapping.read(
            self._mapping,
            body=body,
            source=f"/kafka/{record.topic}",
            source_id=self._identity(record, topic_id),
            headers=_texts(record.headers),
            key=None if record.key is None else _text(record.key),
            topic=record.topic,
        )
        return [_completed(event, record.timestamp, kept) for event in events]

    def _tombstone(self, record: Record, kept: dict[str, Json], topic_id: str | None) -> NewEvent:
        key = None if record.key is None else _text(record.key)[:_KEPT]
        return NewEvent(
            source=f"/kafka/{record.topic}",
            source_id=self._identity(record, topic_id),
            type=TOMBSTONE,
            subject=key or None,
            time=_instant(record.timestamp),
            data=None,
            extensions=kept,
        )

    def _identity(self, record: Record, topic_id: str | None = None) -> str:
        """Where a record stands, in a form that no record of a later topic of the same name has."""
        known = topic_id or self._topic_id(record.topic) or record.topic
        return f"{known}/{record.partition}/{record.offset}"

    # ------------------------------------------------------------------------------------------------ dead letters

    def letter(self, record: Record, reason: str) -> DeadLetter:
        """Return a record as a dead letter; a body that is too large is not kept."""
        topic_id = self._topic_id(record.topic)
        place = f"{Partition(record.topic, record.partition)}/{record.offset}"
        value = record.value
        return DeadLetter(
            place=f"{place}/{topic_id}" if topic_id else place,
            reason=reason,
            body=None if value is None or len(value) > self._max_bytes else value[:MAX_DEAD_BODY],
            size=len(value or b""),
            meta={
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": _encoded(record.key),
                "headers": [[_clean(name), _encoded(text)] for name, text in record.headers[:_MAX_HEADERS]],
                "topic_id": topic_id,
                "tombstone": value is None,
            },
        )

    def read_letter(self, letter: DeadLetter) -> Sequence[NewEvent]:
        """Return the events of a dead letter, read with the present options; raises `InvalidInput`."""
        meta = letter.meta
        if not meta.get("tombstone") and (letter.body is None or len(letter.body) < letter.size):
            raise InvalidInput(
                f"of its {letter.size:,} bytes only {len(letter.body or b''):,} were kept, so it cannot be read again",
                hint=f"raise max_record_bytes, and seek {meta['topic']}/{meta['partition']} to {meta['offset']}",
            )
        record = Record(
            topic=meta["topic"],
            partition=meta["partition"],
            offset=meta["offset"],
            timestamp=meta.get("timestamp"),
            key=_decoded(meta.get("key")),
            value=None if meta.get("tombstone") else letter.body,
            headers=[(name, _decoded(text)) for name, text in meta.get("headers") or ()],
        )
        found = self.read(record, meta.get("topic_id"))
        return [] if found is None else [found] if isinstance(found, NewEvent) else found


def _instant(timestamp: int | None) -> datetime | None:
    """Return a record's time; a log can hold any number, and for one that is no instant the time of receipt counts."""
    if timestamp is None or timestamp < 0:
        return None
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _is_cloudevent(body: Json) -> bool:
    return isinstance(body, dict) and all(name in body for name in _ATTRIBUTES)


def _headers(headers: Sequence[tuple[str, bytes | None]], kept: dict[str, Json]) -> tuple[str, dict[str, Json]]:
    """Return the content type and the attributes among the headers, and keep the others; raises `InvalidInput`."""
    attributes: dict[str, Json] = {}
    content_type = ""
    others: dict[str, str] = {}
    for name, raw in headers:
        if raw is None:
            continue  # a header without a value says nothing
        if name[:3] == "ce_":
            if name[3:] in attributes:
                raise InvalidInput(f"the header {name} is there twice")
            try:
                attributes[name[3:]] = raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"the header {name} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}"
                ) from error
        elif name.lower() == "content-type":
            if content_type:
                raise InvalidInput("the header content-type is there twice")
            content_type = raw.decode("latin-1").strip()
        else:
            others[name] = _text(raw)  # of several of one name the last counts
    if others:
        text = json.dumps(others, ensure_ascii=True)
        if len(text) <= _KEPT:
            kept["kafkaheaders"] = text
    return content_type, attributes


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
    return {_clean(name).lower(): _text(raw) for name, raw in headers[:_MAX_HEADERS] if raw is not None}


def _completed(event: NewEvent, timestamp: int | None, kept: Mapping[str, Json]) -> NewEvent:
    return NewEvent(
        source=event.source,
        source_id=event.source_id,
        type=event.type,
        subject=event.subject,
        time=event.time or _instant(timestamp),
        data=event.data,
        extensions={**kept, **event.extensions},
    )


def _text(raw: bytes) -> str:
    """Return bytes as text, as base64 when they are none that a database can store."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode()
    return text if text.isprintable() else base64.b64encode(raw).decode()


def _clean(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _encoded(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _decoded(text: Json) -> bytes | None:
    return None if text is None else base64.b64decode(text)
