"""Prometheus Alertmanager's webhook, version 4 (alertmanager 0.34.0, `notify/webhook/webhook.go` and `template/template.go`).

Alertmanager repeats only what is answered by 5xx, and drops everything else for good (`notify/util.go`), so what is not understood is kept.
It has no test button: an alert made by `amtool alert add` is an ordinary one. Replicas of a cluster send the same alert under their own
`externalURL`; so the event's source is the receiver, and the URL is in the data.
"""

from __future__ import annotations

from controller.sources.webhook.formats.alerts import read_group
from controller.sources.webhook.formats.delivery import Delivery, Foreign, Format, Read, attribute, shown


def read(delivery: Delivery) -> Read:
    """Return one event for each alert of the group."""
    body = delivery.body()
    if not isinstance(body, dict) or body.get("version") != "4" or not isinstance(body.get("alerts"), list):
        version = body.get("version") if isinstance(body, dict) else None
        raise Foreign(
            f"it is no Alertmanager webhook of version '4': version is {shown(version)}",
            hint="a custom payload needs a `mapping`",
        )
    receiver = body.get("receiver") or delivery.name
    return read_group(
        delivery,
        body,
        source=f"/alertmanager/{attribute('receiver', receiver)}",
        more={"notification_reason": body.get("notification_reason")},
    )


FORMAT = Format(read=read, keeps=True, options=frozenset({"expire"}))
