"""`POST /v1/events`: CloudEvents into the inbox, as plain ASGI because events come by the thousand.

202 is answered only after the commit. A batch is stored whole or not at all.
"""

from __future__ import annotations

from typing import Any

from controller.api.gather import Gatherer
from controller.api.problems import Answer, Refusal, answer
from controller.core import cloudevents
from controller.core.strict_json import MAX_BYTES
from controller.errors import StoreBusy
from controller.ports import Batch

#: The origin of events that come by the API.
API_ORIGIN = "api"


#: Bytes of bodies that may be in the making or in work at once; parsed, they are several times as much.
ROOM_BYTES = 64 << 20


class ClientGone(Exception):
    """The client went away before its request was complete."""


class Room:
    """How much of the memory the bodies of all requests may take together."""

    def __init__(self, size: int = ROOM_BYTES) -> None:
        self._size = size
        self.taken = 0

    def take(self, size: int) -> None:
        """Take so many bytes; raises `StoreBusy` when there is no room for them."""
        if self.taken + size > self._size:
            raise StoreBusy("too much is being sent at once", after_seconds=1, code="intake.full")
        self.taken += size

    def give_back(self, size: int) -> None:
        """Let others have so many bytes."""
        self.taken -= size


class Held:
    """What one request takes of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def add(self, size: int) -> None:
        """Take so much more; raises `StoreBusy`."""
        self._room.take(size)
        self._size += size

    def release(self) -> None:
        """Give everything back."""
        self._room.give_back(self._size)
        self._size = 0


async def read_body(scope: dict[str, Any], receive: Any, *, limit: int = MAX_BYTES) -> bytes:
    """Return a request's whole body; refuses one that is too long (413) or compressed (415), the first before it is read.

    Raises `StoreBusy` when the bodies of all requests together are too much.
    """
    held: Held | None = scope.get("retrain.held")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_long(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Refusal(
                415, f"content-encoding {value.decode('latin-1')!r} is not taken", hint="send it uncompressed"
            )
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        size += len(message["body"])
        if size > limit:
            raise _too_long(limit)
        if held is not None:
            held.add(len(message["body"]))
        parts.append(message["body"])
        if not message["more_body"]:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(limit: int) -> Refusal:
    return Refusal(413, f"at most {limit:,} bytes are taken", headers=[(b"connection", b"close")])


async def take_events(scope: dict[str, Any], receive: Any, inbox: Gatherer) -> Answer:
    """Return the answer to events that were posted."""
    body = await read_body(scope, receive)
    received = cloudevents.read(scope["headers"], body)
    if not received.events:
        return answer(202, [])
    receipts = await inbox.put(API_ORIGIN, Batch(events=received.events))
    listed = [{"event_id": receipt.event_id, "duplicate": receipt.duplicate} for receipt in receipts]
    return answer(202, listed if received.batch else listed[0])


def grant(scope: dict[str, Any]) -> Answer:
    """Answer the OPTIONS request by which a producer of web hooks asks for consent."""
    origins = [value for name, value in scope["headers"] if name == b"webhook-request-origin"]
    if not origins:
        return Answer(status=204, body=b"", headers=[(b"allow", b"GET, POST, OPTIONS")])
    headers = [(b"webhook-allowed-origin", origins[0]), (b"webhook-allowed-rate", b"*"), (b"allow", b"POST, OPTIONS")]
    return Answer(status=200, body=b"", headers=headers)
