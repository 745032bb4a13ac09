"""Notifications of object stores: S3's own, as MinIO and Ceph speak them too; through SNS; and through EventBridge.

Shapes from Amazon's S3 user guide ("Event message structure", versions 2.1 to 2.3; "EventBridge event message structure"), the SNS
developer guide ("HTTP/HTTPS subscription confirmation JSON format", "Parsing message formats") and MinIO's bucket notifications.

- In S3's own form keys are form-encoded (`+` is a space), in EventBridge's they are not.
- The identity is bucket, key, version and sequencer, so that one object that is announced by two ways, or twice, is one event. Several
  records of one key in a request are put in the order of their sequencers.
- `s3:TestEvent`, and what SNS asks before it sends anything, are answered and not stored. A subscription is confirmed by a person, who
  finds its address in the log (in the doctor's notes its token is masked): an address from outside is not fetched.
- SNS and EventBridge drop what is answered by 400, so what is not understood is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus

from controller.core import strict_json
from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput
from controller.ports import Reply, Request
from controller.sources.webhook.formats.delivery import (
    Delivery,
    Foreign,
    Format,
    Read,
    attribute,
    ignored,
    instant,
    is_json,
    listed,
    shown,
    table,
    unread_of,
)

OBJECT_CREATED, OBJECT_REMOVED, OBJECT_CHANGED = "object.created", "object.removed", "object.changed"
#: The first word of an event's name, and what it means; every other event changes an object without bringing or removing it.
_TYPES = {
    "ObjectCreated": OBJECT_CREATED,
    "ObjectRemoved": OBJECT_REMOVED,
    "LifecycleExpiration": OBJECT_REMOVED,
    "ObjectLifecycle": OBJECT_REMOVED,
    "Object Created": OBJECT_CREATED,
    "Object Deleted": OBJECT_REMOVED,
}
#: What SNS sends beside notifications.
_SNS_REQUESTS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_SNS_HEADER = "x-amz-sns-message-type"


def read(delivery: Delivery) -> Read:
    """Return one event for each object."""
    body = delivery.body()
    if isinstance(body, dict) and body.get("Type") in _SNS_REQUESTS:
        return _sns_request(body)
    if isinstance(body, dict) and body.get("Type") == "Notification" and isinstance(body.get("Message"), str):
        body = strict_json.parse(body["Message"].encode(), max_bytes=delivery.options.max_bytes)
    return _read_message(body)


def _read_message(body: Json) -> Read:
    if not isinstance(body, dict):
        raise Foreign(f"it is {shown(body)}, not a notification of an object store")
    if body.get("Event") == "s3:TestEvent":
        return ignored(f"the test event of bucket {shown(body.get('Bucket'))}")
    if isinstance(body.get("Records"), list):
        return _read_records(listed("Records", body["Records"]))
    if body.get("source") == "aws.s3" and isinstance(body.get("detail"), dict):
        return Read(events=[_of_eventbridge(body, body["detail"])])
    raise Foreign(
        "it is no notification of an object store: there are no Records", hint="another shape needs a `mapping`"
    )


def _sns_request(body: Mapping[str, Json]) -> Read:
    kind = str(body["Type"])
    notes = {"subscription": {"what": kind, "topic": body.get("TopicArn"), "address": body.get("SubscribeURL")}}
    remark = f"SNS asks: {kind} of {shown(body.get('TopicArn'))}; open its address to answer yes"
    return Read(reply=Reply(status=200, body={"noted": kind}), remark=remark, notes=notes)


# ------------------------------------------------------------------------------------------------------- records


def _read_records(records: Sequence[Json]) -> Read:
    events: list[NewEvent] = []
    problems: list[str] = []
    for index, record in enumerate(records):
        try:
            events.append(_of_record(record))
        except InvalidInput as error:
            problems.append(f"record {index}: {error.message}")
    return Read(events=_in_order(events), unread=unread_of(problems))


def _of_record(record: Json) -> NewEvent:
    thing = table(table(record).get("s3"))
    described = table(thing.get("object"))
    if not isinstance(record, dict) or not described:
        raise InvalidInput("it names no object")
    return _event(
        bucket=table(thing.get("bucket")).get("name"),
        key=_decoded(described.get("key")),
        version=described.get("versionId"),
        sequencer=described.get("sequencer"),
        name=str(record.get("eventName")).removeprefix("s3:"),
        stands_in=_request_of(record),
        time=record.get("eventTime"),
        data={
            "size": _size(described.get("size")),
            "etag": described.get("eTag"),
            "content_type": described.get("contentType"),
            "region": record.get("awsRegion"),
            "principal": table(record.get("userIdentity")).get("principalId"),
        },
    )


def _request_of(record: Mapping[str, Json]) -> str:
    """Return what names a record that has no sequencer: the request that caused it."""
    elements = table(record.get("responseElements"))
    return f"{elements.get('x-amz-request-id')}/{elements.get('x-amz-id-2')}/{record.get('eventTime')}"


def _decoded(key: Json) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"object.key is {shown(key)}, not a text")
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"object.key {shown(key)} is not UTF-8 once its encoding is undone") from error


def _size(value: Json) -> Json:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


# --------------------------------------------------------------------------------------------------- EventBridge


def _of_eventbridge(body: Mapping[str, Json], detail: Mapping[str, Json]) -> NewEvent:
    described = table(detail.get("object"))
    key = described.get("key")
    if not isinstance(key, str):
        raise InvalidInput(f"detail.object.key is {shown(key)}, not a text")
    return _event(
        bucket=table(detail.get("bucket")).get("name"),
        key=key,
        version=described.get("version-id"),
        sequencer=described.get("sequencer"),
        name=str(body.get("detail-type")),
        stands_in=str(body.get("id")),
        time=body.get("time"),
        data={
            "size": _size(described.get("size")),
            "etag": described.get("etag"),
            "content_type": None,
            "region": body.get("region"),
            "principal": detail.get("requester"),
        },
    )


# -------------------------------------------------------------------------------------------------------- common


def _event(
    *,
    bucket: Json,
    key: str,
    version: Json,
    sequencer: Json,
    name: str,
    stands_in: str,
    time: Json,
    data: Mapping[str, Json],
) -> NewEvent:
    bucket, path = attribute("bucket.name", bucket), attribute("object.key", key)
    if "\x00" in key:
        raise InvalidInput("object.key holds the character NUL")
    if not isinstance(sequencer, str):
        sequencer = None
    version = version if isinstance(version, str) else None
    number = sequencer or stands_in
    return NewEvent(
        source=f"s3://{bucket}",
        source_id=attribute("the identity of the object", f"{path}/{version or ''}/{number}"),
        type=_TYPES.get(name, _TYPES.get(name.partition(":")[0], OBJECT_CHANGED)),
        subject=attribute("bucket and key", f"{bucket}/{path}"),
        time=instant(time),
        data={"bucket": bucket, "key": key, **data, "version_id": version, "sequencer": sequencer, "event": name[:200]},
    )


def _in_order(events: list[NewEvent]) -> list[NewEvent]:
    """Return the events, those of one key in the order of their sequencers; everything else stays where it was."""
    places: dict[str | None, list[int]] = {}
    for index, event in enumerate(events):
        if event.data["sequencer"] is not None:
            places.setdefault(event.subject, []).append(index)
    ordered = list(events)
    for indexes in places.values():
        if len(indexes) > 1:
            width = max(len(events[index].data["sequencer"]) for index in indexes)
            by_age = sorted((events[index].data["sequencer"].upper().rjust(width, "0"), index) for index in indexes)
            for place, (_, index) in zip(indexes, by_age, strict=True):
                ordered[place] = events[index]
    return ordered


def _takes(request: Request) -> bool:
    """Say whether the content type is taken: SNS sends JSON as text, but never without its own header, which a web page cannot set."""
    return is_json(request) or request.header(_SNS_HEADER) is not None


FORMAT = Format(read=read, keeps=True, takes=_takes)
