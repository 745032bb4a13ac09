"""The webhook source: a request is verified, read by its format, and becomes a batch; `api/hooks.py` stores it, and then answers.

`take` computes only, on the server's own thread. What is verified and not understood is either refused or kept as a dead letter, whichever
its sender can live with (`formats/__init__.py`); a dead letter has what is needed to read it again, without the caller's proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

from controller.core.model import MAX_DEAD_BODY, DeadLetter, Json, NewEvent
from controller.errors import InvalidInput, NotFound, NotUnderstood
from controller.ports import Batch, Request, SourceContext, Taken
from controller.sources.webhook.formats import FORMATS, generic
from controller.sources.webhook.formats.delivery import Delivery, Foreign, Read, unread_of
from controller.sources.webhook.formats.generic import PROOFS
from controller.sources.webhook.options import WebhookOptions
from controller.sources.webhook.verify import Verifier

#: So much of the last payload is kept for the doctor.
_SHOWN_BYTES = 4096
#: So many types are named in the note about a mapping.
_SHOWN_TYPES = 5


class WebhookSource:
    """One webhook."""

    Options: ClassVar[type[WebhookOptions]] = WebhookOptions

    def __init__(self, options: WebhookOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._format = FORMATS[options.format]
        self._verifier = Verifier(options, context)
        #: The largest body that is read for us.
        self.max_bytes = options.max_bytes

    def take(self, request: Request) -> Taken:
        """Return what a request came to; see `PushSource`.

        Raises `NotFound` for a path below the hook, and `RetryLater` when no secret can be read.
        """
        self._verifier.verify(request)
        if request.path not in ("", "/"):
            raise NotFound(f"there is nothing at {request.path[:80]!r} below this hook")
        self._context.note("payload", request.body[:_SHOWN_BYTES])
        types = sum(name == "content-type" for name, _ in request.headers)
        if types > 1 or not self._format.takes(request):
            raise NotUnderstood(_about_type(request, types), hint="send it once, as Content-Type: application/json")
        try:
            found = self._read(request)
        except NotUnderstood:
            raise
        except InvalidInput as error:
            self._context.note("mapping", f"not understood: {error.message}")
            return Taken(batch=Batch(events=(), dead=[self._letter(request, error)]))
        return self._taken(request, found)

    def read_again(self, letter: DeadLetter) -> Sequence[NewEvent]:
        """Return the events of a dead letter; raises `InvalidInput` when something in it is still not understood."""
        meta = letter.meta
        if letter.body is None:
            raise InvalidInput("there is no body to read")
        request = Request(
            method="POST",
            path="",
            query=str(meta.get("query", "")),
            headers=[(str(name), str(value)) for name, value in meta.get("headers", [])],
            body=letter.body,
            received_at=_received_at(meta) or self._context.clock.now(),
        )
        found = self._read(request)
        if found.unread:
            raise InvalidInput(found.unread)
        return found.events

    # ------------------------------------------------------------------------------------------- reading

    def _read(self, request: Request) -> Read:
        """Return what the format or the mapping reads in a request."""
        mapping = self._options.mapping
        delivery = Delivery(name=self._context.name, request=request, options=self._options)
        if mapping is not None and mapping.items is not None:
            return generic.read(delivery)
        try:
            found = self._format.read(delivery)
        except Foreign:
            if mapping is None:
                raise
            return generic.read(delivery)
        return found if mapping is None or self._options.format == "generic" else self._map(delivery, found)

    def _map(self, delivery: Delivery, found: Read) -> Read:
        """Return what was read as the mapping wants it; an event that it does not fit does not keep the others from being taken."""
        events: list[NewEvent] = []
        problems = [found.unread] if found.unread else []
        for index, event in enumerate(found.events):
            try:
                events += generic.map_again(delivery, event)
            except InvalidInput as error:
                problems.append(f"event {index}: {error.message}")
        if problems and not self._format.keeps:
            raise InvalidInput(unread_of(problems), hint="the mapping is applied to the data of each event")
        return replace(found, events=events, unread=unread_of(problems))

    def _taken(self, request: Request, found: Read) -> Taken:
        self._note(found)
        dead = [self._letter(request, InvalidInput(found.unread))] if found.unread else ()
        return Taken(batch=Batch(events=found.events, dead=dead), reply=found.reply)

    def _note(self, found: Read) -> None:
        parts = []
        if found.events:
            parts.append(_counted(found.events))
        if found.remark:
            parts.append(found.remark)
        if found.unread:
            parts.append(f"not understood: {found.unread}")
        self._context.note("mapping", "; ".join(parts) or "no event")
        for name, value in found.notes.items():
            self._context.note(name, value)
            self._context.log.info("webhook.noted", source=self._context.name, what=name, said=value)

    def _letter(self, request: Request, error: InvalidInput) -> DeadLetter:
        """Return a body that was not understood as a dead letter; raises the error where it is refused, or too large to be kept whole."""
        if not self._format.keeps or len(request.body) > MAX_DEAD_BODY:
            raise error
        delivery = Delivery(name=self._context.name, request=request, options=self._options)
        query = f"?{request.query}" if request.query else ""
        return DeadLetter(
            place=f"{delivery.digest()}{query}",
            reason=error.message,
            body=request.body,
            size=len(request.body),
            meta={
                "format": self._options.format,
                "query": request.query,
                "headers": [[name, value] for name, value in request.headers if name not in PROOFS],
                "received_at": request.received_at.isoformat(),
            },
        )


def _about_type(request: Request, count: int) -> str:
    if count > 1:
        return "there are several Content-Type headers"
    kind = request.header("content-type")
    return "there is no Content-Type" if kind is None else f"Content-Type {kind[:100]!r} is not taken here"


def _counted(events: Sequence[NewEvent]) -> str:
    """Return `3 events: alert.A, alert.B`."""
    types = list(dict.fromkeys(event.type for event in events))
    more = ", …" if len(types) > _SHOWN_TYPES else ""
    count = f"{len(events)} events" if len(events) > 1 else "1 event"
    return f"{count}: {', '.join(types[:_SHOWN_TYPES])}{more}"


def _received_at(meta: Mapping[str, Json]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(meta.get("received_at")))
    except ValueError:
        return None
