"""What the bodies of Alertmanager and of Grafana have in common: a group of alerts, each firing or resolved.

Each alert is an event of its own, in an episode from firing to resolved. Its identity is fingerprint, start and status, so that repeats,
and a second Alertmanager of the same cluster, are duplicates. Whether an alert is over is said by its `status` alone: `endsAt` may lie in
the future, or in the year 1, while it fires.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from controller.core.model import EPISODE, EPISODE_EXPIRE, EPISODE_STATE, Json, NewEvent
from controller.errors import InvalidInput
from controller.sources.webhook.formats.delivery import (
    Delivery,
    Read,
    attribute,
    instant,
    listed,
    shown,
    table,
    unread_of,
)

#: Annotations that carry a number as text: Alertmanager has no other place for the score of a drift.
NUMBERS = ("value", "score", "drift")
_MAX_FINGERPRINT = 128
_NUMBER = re.compile(r"[+-]?\d{1,64}(?:\.\d{1,64})?(?:[eE][+-]?\d{1,2})?")


def read_group(delivery: Delivery, body: Mapping[str, Json], *, source: str, more: Mapping[str, Json]) -> Read:
    """Return the events of a group; `more` is added to the data of each.

    Alerts that cannot be read do not keep the others from being taken.
    """
    truncated = body.get("truncatedAlerts")
    truncated = truncated if isinstance(truncated, int) and not isinstance(truncated, bool) else 0
    group = {
        "receiver": body.get("receiver"),
        "groupKey": body.get("groupKey"),
        "groupLabels": table(body.get("groupLabels")),
        "externalURL": body.get("externalURL"),
        "truncated": truncated,
        **more,
    }
    expire = int(delivery.options.expire.total_seconds())
    events: list[NewEvent] = []
    problems: list[str] = []
    for index, alert in enumerate(listed("alerts", body.get("alerts"))):
        try:
            events.append(_event(alert, group, source=source, expire=expire))
        except InvalidInput as error:
            problems.append(f"alert {index}: {error.message}")
    remark = f"{truncated} more alerts were cut off by the sender (max_alerts)" if truncated > 0 else ""
    return Read(events=events, unread=unread_of(problems), remark=remark)


def _event(alert: Json, group: Mapping[str, Json], *, source: str, expire: int) -> NewEvent:
    if not isinstance(alert, dict):
        raise InvalidInput(f"it is {shown(alert)}, not an object")
    status = alert.get("status")
    if status not in ("firing", "resolved"):
        raise InvalidInput(f"status is {shown(status)}, neither 'firing' nor 'resolved'")
    labels, annotations = alert.get("labels"), table(alert.get("annotations"))
    if not isinstance(labels, dict):
        raise InvalidInput(f"labels is {shown(labels)}, not an object")
    fingerprint = attribute("fingerprint", alert.get("fingerprint"))
    if len(fingerprint) > _MAX_FINGERPRINT:
        raise InvalidInput(f"fingerprint has {len(fingerprint):,} characters, {_MAX_FINGERPRINT} are taken")
    starts_at = instant(alert.get("startsAt"))
    if starts_at is None:
        raise InvalidInput(f"startsAt is {shown(alert.get('startsAt'))}, not an instant")
    key = f"{fingerprint}/{_written(starts_at)}"
    name, model = labels.get("alertname"), labels.get("model")
    return NewEvent(
        source=source,
        source_id=f"{key}/{status}",
        type=f"alert.{attribute('the label alertname', name)}" if name else "alert",
        subject=attribute("the label model", model) if model else None,
        time=starts_at if status == "firing" else instant(alert.get("endsAt")),
        data={
            "status": status,
            "labels": labels,
            "annotations": annotations,
            **_numbers(annotations),
            "fingerprint": fingerprint,
            "startsAt": alert.get("startsAt"),
            "endsAt": alert.get("endsAt"),
            "generatorURL": alert.get("generatorURL"),
            **{
                field: alert[field] for field in ("values", "valueString", "dashboardURL", "panelURL") if field in alert
            },
            **group,
        },
        extensions={EPISODE: key, EPISODE_STATE: status, EPISODE_EXPIRE: expire},
    )


def _written(instant_: datetime) -> str:
    """Return one text for one instant, in whatever zone its sender lives."""
    return instant_.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _numbers(annotations: Mapping[str, Json]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name in NUMBERS:
        text = annotations.get(name)
        if isinstance(text, str) and _NUMBER.fullmatch(text.strip()):
            found[name] = float(text)
    return found
