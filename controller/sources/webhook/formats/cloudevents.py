"""CloudEvents 1.0 over HTTP: structured, batched and binary mode, as `core/cloudevents.py` reads them.

Its producers follow a specification that says what 400 and 415 mean, so what is malformed is refused; a batch is taken whole or not at all.
"""

from __future__ import annotations

from controller.core import cloudevents
from controller.sources.webhook.formats.delivery import Delivery, Format, Read


def read(delivery: Delivery) -> Read:
    """Return the events of the request."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in delivery.request.headers]
    return Read(events=cloudevents.read(headers, delivery.request.body).events)


FORMAT = Format(read=read, keeps=False, takes=lambda request: True)
