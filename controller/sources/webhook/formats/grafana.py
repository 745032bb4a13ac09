"""Grafana Alerting's webhook (grafana/alerting `receivers/webhook/v1/webhook.go`; documentation of Grafana 11 to 13, "webhook notifier").

As Alertmanager's, with `version` "1", `orgId`, and in each alert the numbers of its expressions (`values`, which may be null).
Its notifier repeats nothing that failed (`Notify` returns false beside the error), so what is not understood is kept.
The alert that the button *Test* sends (alertname TestAlert, instance Grafana) is stored as a test of the source: it can be seen to arrive,
and no policy acts on it.
"""

from __future__ import annotations

from dataclasses import replace

from controller.core.model import TEST_EVENT, NewEvent
from controller.sources.webhook.formats.alerts import read_group
from controller.sources.webhook.formats.delivery import Delivery, Foreign, Format, Read, shown


def read(delivery: Delivery) -> Read:
    """Return one event for each alert of the group."""
    body = delivery.body()
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("alerts"), list)
        or (body.get("version") != "1" and "orgId" not in body)
    ):
        version = body.get("version") if isinstance(body, dict) else None
        raise Foreign(
            f"it is no Grafana webhook: version is {shown(version)}", hint="a custom payload needs a `mapping`"
        )
    organization = body.get("orgId")
    source = f"/grafana/{organization}" if type(organization) is int else "/grafana"
    found = read_group(delivery, body, source=source, more={"orgId": organization, "title": body.get("title")})
    return replace(found, events=[_test(event) or event for event in found.events])


def _test(event: NewEvent) -> NewEvent | None:
    labels = event.data["labels"]
    if labels.get("alertname") != "TestAlert" or labels.get("instance") != "Grafana":
        return None
    return replace(event, type=TEST_EVENT, extensions={})


FORMAT = Format(read=read, keeps=True, dialect="grafana", options=frozenset({"expire"}))
