"""Standard Webhooks, and bodies of any shape that a mapping reads.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.errors import InvalidInput
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc
from tests.webhooks import payload, standard_headers


def test_standard_webhooks(hook: Any, inbox: MemoryInbox) -> None:
    """The header names the event, the body its type."""
    webhooks = hook(format="standard-webhooks")
    body = payload("standard-webhooks/event")
    headers = standard_headers(b"unused", body)
    for _ in range(2):
        event = webhooks.event("standard-webhooks/event", *headers)

    assert (event.type, event.source, event.source_id) == ("drift.detected", "/hooks/hook", "msg_1")
    assert (event.data, event.time) == ({"model": "churn", "score": 0.41}, utc(2026, 3, 5, 12))
    assert len(inbox.events) == 1


@pytest.mark.parametrize("body, headers", [(b'{"type": "t"}', []), (b"{}", [("webhook-id", "1")])])
def test_what_is_no_standard_webhook_is_kept(
    hook: Any, inbox: MemoryInbox, body: bytes, headers: list[tuple[str, str]]
) -> None:
    """Its sender would repeat it in vain for days."""
    hook(format="standard-webhooks").post(body, *headers)

    assert len(inbox.dead) == 1


MLFLOW = {
    "type": "'mlflow.' + body.entity + '.' + body.action",
    "subject": "body.data.name",
    "time": "body.timestamp",
    "id": "headers['x-mlflow-delivery-id']",
}


@pytest.mark.parametrize("name, version", [("mlflow-alias", "7"), ("mlflow-alias-deleted", None)])
def test_mlflow_by_a_mapping(hook: Any, name: str, version: str | None) -> None:
    """The registry's events, also the one that names no version."""
    event = hook(format="generic", mapping=MLFLOW).event(f"generic/{name}", ("x-mlflow-delivery-id", "d-7"))

    assert event.type.startswith("mlflow.model_version_alias.")
    assert (event.subject, event.source_id, event.data["data"].get("version")) == ("churn", "d-7", version)
    assert event.time == utc(2026, 3, 5, 12)


def test_metaflow_by_a_mapping(hook: Any) -> None:
    """Its time is in seconds."""
    mapping = {"type": "body.name", "id": "body.payload.id", "time": "body.payload.timestamp", "data": "body.payload"}
    event = hook(format="generic", mapping=mapping).event("generic/metaflow")

    assert (event.type, event.source_id, event.data["rows"]) == ("data.ready", "5e1d1ffa", 1200)
    assert event.time == utc(2026, 3, 5, 12)


def test_several_events_in_one_body(hook: Any) -> None:
    """Each item is an event; without `id` the digest and its place name it."""
    mapping = {"items": "body.alerts", "type": "item.kind", "subject": "item.project"}
    events = hook(format="generic", mapping=mapping).send("generic/mlrun-alerts").batch.events

    assert [event.type for event in events] == ["data-drift-detected", "data-drift-suspected"]
    assert events[0].source_id.startswith("sha256:")
    assert [event.source_id[-2:] for event in events] == ["#0", "#1"]


def test_what_does_not_fit_can_be_read_again_once_the_mapping_is_mended(hook: Any, inbox: MemoryInbox) -> None:
    """A dead letter keeps what the mapping reads: body, headers, query."""
    wrong = hook(format="generic", mapping={"type": "body.nothing"})
    wrong.send("generic/mlflow-alias", ("x-mlflow-delivery-id", "d-7"))
    (letter,) = inbox.dead.values()

    with pytest.raises(InvalidInput, match="the mapping does not fit"):
        wrong.source.read_again(letter)
    (event,) = hook(format="generic", mapping=MLFLOW).source.read_again(letter)
    assert event.source_id == "d-7"
