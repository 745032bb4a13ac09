"""Any JSON, by a mapping: how a body becomes one event, or several, is what the configuration says in CEL.

Without `id` in the mapping, the body's digest is the identity: the same body is the same event.
Senders differ, and a mapping may be wrong, so what does not fit is kept: it can be replayed when the mapping is mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.core import mapping as mappings
from controller.core.model import EPISODE, EPISODE_EXPIRE, NewEvent
from controller.errors import InvalidInput
from controller.sources.webhook.formats.delivery import Delivery, Format, Read

#: Headers that are the caller's proof, and nobody else's business.
PROOFS = frozenset({"authorization", "proxy-authorization", "cookie"})


def read(delivery: Delivery) -> Read:
    """Return the events that the mapping finds in the body."""
    mapping = delivery.options.mapping
    if mapping is None:  # the options see to it
        raise InvalidInput("there is no mapping")
    events = mappings.read(
        mapping,
        body=delivery.body(),
        source=f"/hooks/{delivery.name}",
        source_id=delivery.digest(),
        headers=readable_headers(delivery),
    )
    return Read(events=with_expiry(delivery, events), remark="" if events else "the mapping accepted nothing")


def map_again(delivery: Delivery, event: NewEvent) -> Sequence[NewEvent]:
    """Return an event that a format has read as the mapping wants it: `body` is the event's data, and what the mapping leaves out stays."""
    mapping = delivery.options.mapping
    if mapping is None:
        return (event,)
    found = mappings.read(
        mapping,
        body=event.data,
        source=event.source,
        source_id=event.source_id,
        headers=readable_headers(delivery),
    )
    mapped = [
        replace(
            each,
            subject=event.subject if mapping.subject is None else each.subject,
            time=event.time if mapping.time is None else each.time,
            extensions={**event.extensions, **each.extensions},
        )
        for each in found
    ]
    return with_expiry(delivery, mapped)


def readable_headers(delivery: Delivery) -> dict[str, str]:
    """Return the headers that a mapping may read."""
    return {name: value for name, value in delivery.request.headers if name not in PROOFS}


def with_expiry(delivery: Delivery, events: Sequence[NewEvent]) -> Sequence[NewEvent]:
    """Return the events, those of episodes with the time after which these are over."""
    if not any(EPISODE in event.extensions for event in events):
        return events
    expire = {EPISODE_EXPIRE: int(delivery.options.expire.total_seconds())}
    return [
        replace(event, extensions={**event.extensions, **expire}) if EPISODE in event.extensions else event
        for event in events
    ]


FORMAT = Format(read=read, keeps=True)
