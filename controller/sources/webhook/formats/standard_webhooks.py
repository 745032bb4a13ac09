"""Standard Webhooks (standardwebhooks.com, `spec/standard-webhooks.md`): `{type, timestamp, data}`, named by the header `webhook-id`.

Its senders repeat for days whatever is not answered by 2xx, and then switch the endpoint off; a body that cannot be read does not get
better by that, so it is kept. MLflow signs in the same manner under other names: format `generic` with `dialect: mlflow`.
"""

from __future__ import annotations

from controller.core.model import NewEvent
from controller.errors import InvalidInput
from controller.sources.webhook.formats.delivery import Delivery, Foreign, Format, Read, attribute, instant


def read(delivery: Delivery) -> Read:
    """Return the one event of the request."""
    identity = delivery.request.header("webhook-id")
    if identity is None:
        raise InvalidInput("the header webhook-id is missing")
    body = delivery.body()
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise Foreign("it is no Standard Webhook: the body has no `type`", hint="another shape needs a `mapping`")
    event = NewEvent(
        source=f"/hooks/{delivery.name}",
        source_id=attribute("webhook-id", identity),
        type=attribute("type", body["type"]),
        time=instant(body.get("timestamp")),
        data=body.get("data", body),
    )
    return Read(events=[event])


FORMAT = Format(read=read, keeps=True, dialect="standard-webhooks")
