"""Alertmanager's notifications: one event for each alert, episodes that resolve, and a mapping over it.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import EPISODE, EPISODE_EXPIRE, EPISODE_STATE
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc
from tests.webhooks import content


@pytest.mark.parametrize("name", ["firing", "firing-with-reason"])
def test_an_alert_is_an_event_of_an_episode(hook: Any, name: str) -> None:
    """Type, subject, time and identity come from the alert; the number in its annotation stands beside the text. Old and new servers."""
    event = hook(format="alertmanager", expire="2h").event(f"alertmanager/{name}")

    assert (event.type, event.subject, event.source) == ("alert.FeatureDrift", "churn", "/alertmanager/retrain")
    assert event.source_id == "7f2b6a91c0de4455/2026-03-05T11:58:13.457000Z/firing"
    assert event.time == utc(2026, 3, 5, 11, 58, 13, 457_000)
    assert event.extensions == {
        EPISODE: "7f2b6a91c0de4455/2026-03-05T11:58:13.457000Z",
        EPISODE_STATE: "firing",
        EPISODE_EXPIRE: 7200,
    }
    assert event.data["value"] == 0.3125
    assert event.data["annotations"]["value"] == "0.3125"
    assert "score" not in event.data  # "not a number" is none
    assert event.data["status"] == "firing"
    assert event.data["labels"]["severity"] == "warning"
    assert event.data["receiver"] == "retrain"
    assert event.data["groupKey"] == '{}:{alertname="FeatureDrift"}'
    assert event.data["groupLabels"] == {"alertname": "FeatureDrift"}
    assert event.data["truncated"] == 0
    assert event.data["notification_reason"] == (None if name == "firing" else "first notification")


def test_a_repeat_and_a_second_replica_are_no_news(hook: Any, inbox: MemoryInbox) -> None:
    """The same alert after the repeat interval, from another Alertmanager of the cluster, is a duplicate."""
    alerts = hook(format="alertmanager")

    for name in ("firing", "repeat", "firing-with-reason"):
        alerts.send(f"alertmanager/{name}")

    assert len(inbox.events) == 1
    assert len(inbox.duplicates) == 2


def test_that_it_resolved_is_an_event_of_the_same_episode(hook: Any, inbox: MemoryInbox) -> None:
    """In either order; firing anew later is another episode."""
    alerts = hook(format="alertmanager")
    resolved = alerts.event("alertmanager/resolved")
    fired = alerts.event("alertmanager/firing")
    again = content("alertmanager/firing")
    again["alerts"][0]["startsAt"] = "2026-03-06T01:00:00Z"
    (anew,) = alerts.post(again).batch.events

    assert resolved.extensions[EPISODE] == fired.extensions[EPISODE] != anew.extensions[EPISODE]
    assert resolved.extensions[EPISODE_STATE] == "resolved"
    assert resolved.time == utc(2026, 3, 5, 13, 1, 28, 457_000)
    assert len(inbox.events) == 3


def test_a_group_is_taken_apart(hook: Any, inbox: MemoryInbox) -> None:
    """Firing and resolved alerts of a group go their own ways; that some were cut off is in the data and in the notes."""
    events = hook(format="alertmanager").send("alertmanager/mixed-truncated").batch.events

    assert [(event.type, event.subject, event.data["status"]) for event in events] == [
        ("alert.AccuracyLow", "pricing", "firing"),
        ("alert.FeatureDrift", "churn", "resolved"),
        ("alert.NoModel", None, "firing"),
    ]
    assert [event.data["truncated"] for event in events] == [7, 7, 7]
    assert events[0].data["drift"] == 0.0015
    assert str(inbox.notes["mapping"]).startswith(
        "3 events: alert.AccuracyLow, alert.FeatureDrift, alert.NoModel; 7 more"
    )


def test_ends_at_decides_nothing(hook: Any) -> None:
    """A firing alert whose end lies in the past still fires; a resolved one without an end is over."""
    body = content("alertmanager/firing")
    body["alerts"][0]["endsAt"] = "2020-01-01T00:00:00Z"
    (firing,) = hook(format="alertmanager").post(body).batch.events
    body["alerts"][0] |= {"status": "resolved", "endsAt": "0001-01-01T00:00:00Z"}
    (resolved,) = hook(format="alertmanager").post(body).batch.events

    assert (firing.extensions[EPISODE_STATE], resolved.extensions[EPISODE_STATE]) == ("firing", "resolved")
    assert firing.time == utc(2026, 3, 5, 11, 58, 13, 457_000)
    assert resolved.time is None


def test_an_alert_that_cannot_be_read_does_not_keep_the_others_away(hook: Any, inbox: MemoryInbox) -> None:
    """The good one is an event; the body is kept with the reason."""
    taken = hook(format="alertmanager").send("alertmanager/one-bad-alert")

    assert [event.type for event in taken.batch.events] == ["alert.FeatureDrift"]
    assert [letter.reason for letter in inbox.dead.values()] == ["alert 1: startsAt is 'yesterday', not an instant"]


@pytest.mark.parametrize(
    "spoil",
    [
        {"labels": None},
        {"labels": []},
        {"status": "pending"},
        {"status": ["firing"]},
        {"fingerprint": None},
        {"fingerprint": ""},
        {"fingerprint": "f" * 200},
        {"startsAt": None},
        {"startsAt": "0001-01-01T00:00:00Z"},
        {"startsAt": 5},
        {"labels": {"alertname": {"a": 1}}},
        {"labels": {"alertname": "a" * 3000}},
    ],
    ids=str,
)
def test_a_spoilt_alert_is_kept(hook: Any, inbox: MemoryInbox, spoil: dict[str, Any]) -> None:
    """Nothing is guessed, and nothing is lost."""
    body = content("alertmanager/firing")
    body["alerts"][0] |= spoil

    taken = hook(format="alertmanager").post(body)

    assert not taken.batch.events
    assert len(inbox.dead) == 1


def test_control_characters_in_labels_are_escaped(hook: Any) -> None:
    """A label may hold anything; an attribute may not."""
    body = content("alertmanager/firing")
    body["alerts"][0]["labels"] |= {"alertname": "Drift\nof\tage", "model": "a\x1bb"}
    (event,) = hook(format="alertmanager").post(body).batch.events

    assert (event.type, event.subject) == ("alert.Drift%0Aof%09age", "a%1Bb")


def test_a_custom_payload_goes_to_the_mapping(hook: Any, inbox: MemoryInbox) -> None:
    """What is not version 4 is read by the mapping; without one it is kept, because Alertmanager would drop it for good."""
    mapping = {
        "type": "'alert.' + body.what",
        "subject": "body.who.model",
        "id": "body.key + '/' + body.state",
        "episode": "body.key",
        "state": "body.state",
    }
    event = hook(format="alertmanager", mapping=mapping).event("alertmanager/custom-payload")
    taken = hook(format="alertmanager").send("alertmanager/custom-payload")

    assert (event.type, event.subject, event.source_id) == ("alert.drift", "churn", "churn-drift/firing")
    assert event.extensions == {EPISODE: "churn-drift", EPISODE_STATE: "firing", EPISODE_EXPIRE: 86_400}
    assert not taken.batch.events
    assert "no Alertmanager webhook of version '4'" in taken.batch.dead[0].reason


def test_a_mapping_changes_what_was_read(hook: Any) -> None:
    """Type and subject by other labels; identity, time, data and episode stay those of the alert."""
    mapping = {"type": "'drift.' + body.labels.severity", "subject": "body.receiver + '/' + body.labels.model"}
    plain = hook(format="alertmanager").event("alertmanager/firing")
    event = hook(format="alertmanager", mapping=mapping).event("alertmanager/firing")

    assert (event.type, event.subject) == ("drift.warning", "retrain/churn")
    assert (event.source, event.source_id, event.time) == (plain.source, plain.source_id, plain.time)
    assert (event.data, event.extensions) == (plain.data, plain.extensions)


def test_a_mapping_that_accepts_some(hook: Any) -> None:
    """What it does not accept is no event; an alert that it does not fit is kept, the others are taken."""
    only_firing = {"type": "'alert.' + body.labels.alertname", "accept": "body.status == 'firing'"}
    by_model = {"type": "'alert.' + body.labels.model"}

    firing = hook(format="alertmanager", mapping=only_firing).send("alertmanager/mixed-truncated").batch
    fitting = hook(format="alertmanager", mapping=by_model).send("alertmanager/mixed-truncated").batch

    assert [event.type for event in firing.events] == ["alert.AccuracyLow", "alert.NoModel"]
    assert [event.type for event in fitting.events] == ["alert.pricing", "alert.churn"]
    assert "event 2: the mapping does not fit" in fitting.dead[0].reason


def test_a_mapping_with_items_reads_the_whole_body(hook: Any) -> None:
    """Then the format has no say."""
    mapping = {"items": "body.alerts", "type": "item.labels.alertname", "id": "item.fingerprint"}
    events = hook(format="alertmanager", mapping=mapping).send("alertmanager/mixed-truncated").batch.events

    assert [event.type for event in events] == ["AccuracyLow", "FeatureDrift", "NoModel"]
    assert events[0].extensions == {}
