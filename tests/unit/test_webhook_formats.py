"""What each format makes of what its senders send; the payloads are in tests/data, with where their shape was read."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import EPISODE, EPISODE_EXPIRE, EPISODE_STATE, MAX_DEAD_BODY, TEST_EVENT, NewEvent
from controller.errors import InvalidInput, NotUnderstood
from controller.ports import Request, Taken
from controller.sources.webhook import WebhookSource
from controller.sources.webhook.formats.evidently import polarity
from controller.testing import ManualClock, MemoryInbox
from tests.factories import NOON
from tests.webhooks import content, make_request, make_source, payload, standard_headers


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox(name="hook", clock=ManualClock(NOON))


class Hook:
    """A webhook whose batches are stored, and what came of them."""

    def __init__(self, inbox: MemoryInbox, folder: Path, **said: Any) -> None:
        self.inbox = inbox
        self.source: WebhookSource = make_source(inbox, folder, **said)

    def send(self, name: str, *headers: tuple[str, str], query: str = "") -> Taken:
        return self.post(payload(name), *headers, query=query)

    def post(self, body: Any, *headers: tuple[str, str], query: str = "") -> Taken:
        return self.take(make_request(body, *headers, query=query))

    def take(self, request: Request) -> Taken:
        taken = self.source.take(request)
        self.inbox.emit(taken.batch)
        return taken

    def event(self, name: str, *headers: tuple[str, str], query: str = "") -> NewEvent:
        (event,) = self.send(name, *headers, query=query).batch.events
        return event


@pytest.fixture
def hook(inbox: MemoryInbox, tmp_path: Path) -> Any:
    return lambda **said: Hook(inbox, tmp_path, **said)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------- Alertmanager


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


# ------------------------------------------------------------------------------------------------------ Grafana


def test_grafanas_numbers_arrive(hook: Any) -> None:
    """As Alertmanager's, with the values of the rule's expressions; the zone of the sender is no part of the identity."""
    event = hook(format="grafana").event("grafana/firing")

    assert (event.type, event.subject, event.source) == ("alert.Drift of age", "churn", "/grafana/1")
    assert event.source_id == "c6eadffa33fcdf37/2026-03-05T11:58:00.000000Z/firing"
    assert event.data["values"] == {"B": 44.23943737541908, "C": 1}
    assert event.data["valueString"].startswith("[ var='B'")
    assert event.data["orgId"] == 1
    assert event.extensions[EPISODE_STATE] == "firing"


def test_grafana_without_values(hook: Any) -> None:
    """`values` is null when there was no data; that it is resolved belongs to the episode that fired."""
    grafana = hook(format="grafana")

    assert grafana.event("grafana/values-null").data["values"] is None
    fired, resolved = grafana.event("grafana/firing"), grafana.event("grafana/resolved")
    assert fired.extensions[EPISODE] == resolved.extensions[EPISODE]
    assert resolved.time == utc(2026, 3, 5, 13)


def test_grafanas_test_button_starts_nothing(hook: Any) -> None:
    """It is stored, so that it can be seen to arrive, as a test of the source, on which no policy acts."""
    event = hook(format="grafana").event("grafana/test-button")

    assert (event.type, event.subject, event.extensions) == (TEST_EVENT, None, {})


@pytest.mark.parametrize("body", [{}, {"version": "4", "alerts": []}, {"version": "1"}, {"version": "1", "alerts": {}}])
def test_what_is_not_grafanas_is_kept(hook: Any, inbox: MemoryInbox, body: dict[str, Any]) -> None:
    """Grafana repeats nothing, so nothing of it may be turned away."""
    hook(format="grafana").post(body)

    assert len(inbox.dead) == 1


# -------------------------------------------------------------------------------------------------- CloudEvents

CE = ("content-type", "application/cloudevents+json; charset=utf-8")
CE_BATCH = ("content-type", "application/cloudevents-batch+json")


def test_cloudevents_in_all_three_modes(hook: Any) -> None:
    """Structured, batched (whose type begins like the other's) and binary with percent-encoded and quoted headers."""
    events = hook(format="cloudevents")
    structured = events.event("cloudevents/structured", CE)
    batch = events.send("cloudevents/batch", CE_BATCH).batch.events
    binary = events.post(
        b'{"score": 1}',
        ("ce-specversion", "1.0"),
        ("ce-type", '"a.\\"b"'),
        ("ce-source", "/x"),
        ("ce-id", "1"),
        ("ce-subject", "Gr%C3%BC%C3%9Fe%2520"),
    ).batch.events[0]

    assert (structured.type, structured.subject) == ("com.example.someevent", "churn")
    assert [event.source_id for event in batch] == ["b-0", "b-1", "b-2"]
    assert (binary.type, binary.subject, binary.data) == ('a."b', "Grüße%20", {"score": 1})
    assert events.post(b"[]", CE_BATCH).batch.events == []


@pytest.mark.parametrize(
    "body, headers, expected",
    [
        (payload("cloudevents/both-kinds-of-data"), [CE], "both data and data_base64"),
        (payload("cloudevents/batch-one-bad"), [CE_BATCH], "item 1"),
        (b"{", [CE], "not JSON"),
        (b'{"a": NaN}', [CE], "NaN"),
        (b"x", [("ce-id", "%C0%A0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-specversion", "1.0")], "not UTF-8"),
    ],
    ids=["two kinds of data", "a bad item", "no JSON", "no strict JSON", "no UTF-8"],
)
def test_malformed_cloudevents_are_refused(
    hook: Any, inbox: MemoryInbox, body: bytes, headers: list[tuple[str, str]], expected: str
) -> None:
    """With the reason, and the item; nothing of a batch is taken."""
    with pytest.raises(InvalidInput, match=expected):
        hook(format="cloudevents").post(body, *headers)

    assert not inbox.events
    assert not inbox.dead


@pytest.mark.parametrize("kind", ["application/cloudevents+avro", "application/json", "text/plain"])
def test_what_is_no_cloudevent_is_not_understood(hook: Any, kind: str) -> None:
    """415: an unknown event format, and a body without a single ce- header."""
    with pytest.raises(NotUnderstood):
        hook(format="cloudevents").post(b"{}", ("content-type", kind))


# ---------------------------------------------------------------------------------------------------- Evidently


def test_a_report_says_what_a_score_means(hook: Any) -> None:
    """P-values and distances in one report: each with its method, threshold, polarity, sample size and verdict."""
    event = hook(format="evidently").event("evidently/report", query="model=churn&dataset=2026-03")
    columns = event.data["columns"]

    assert (event.type, event.subject, event.source) == ("drift.report", "churn", "/evidently/churn")
    assert {name: (c["polarity"], c["drifted"]) for name, c in columns.items()} == {
        "age": ("below", True),
        "income": ("above", True),
        "city": ("below", False),
        "tenure": ("above", False),
    }
    assert columns["age"] == {
        "method": "K-S p_value",
        "value": 2.29e-70,
        "threshold": 0.05,
        "polarity": "below",
        "drifted": True,
        "rows": {"current": 2000.0},
    }
    # A share that equals the limit is drift.
    assert (event.data["drifted"], event.data["drifted_share"], event.data["drift_share"]) == (True, 0.5, 0.5)
    assert (event.data["drifted_count"], event.data["drifted_columns"]) == (2.0, ["age", "income"])
    assert event.data["tests"] is None  # none were asked for, which is not the same as none failed
    assert event.data["dataset"] == "2026-03"
    assert event.time is None


def test_tests_are_counted(hook: Any) -> None:
    """Those that failed are named."""
    tests = hook(format="evidently").event("evidently/report-with-tests").data["tests"]

    assert (tests["count"], tests["failed_count"], tests["by_status"]) == (2, 1, {"FAIL": 1, "SUCCESS": 1})
    assert [(test["id"], test["critical"]) for test in tests["failed"]] == [("drift", True)]


def test_early_reports_name_a_metric_by_its_call(hook: Any) -> None:
    """`ValueDrift(column=age,…)` is read where there is no `config`."""
    data = hook(format="evidently").event("evidently/report-without-config").data

    assert data["columns"]["age"]["drifted"] is False
    assert (data["drifted"], data["drift_share"]) == (False, 0.5)


@pytest.mark.parametrize("name", ["legacy-report", "legacy-suite"])
def test_the_old_shapes_are_read_too(hook: Any, name: str) -> None:
    """Their own verdict is taken; rows are beside each number where the report has them."""
    data = hook(format="evidently").event(f"evidently/{name}").data

    assert data["drifted"] is True
    assert {column: (c["polarity"], c["drifted"]) for column, c in data["columns"].items()} == {
        "age": ("below", True),
        "city": ("above", False),
    }
    assert data["drifted_columns"] == ["age"]
    if name == "legacy-report":
        assert data["columns"]["age"]["rows"] == {"current": 500, "reference": 1500}
        assert data["drifted_share"] == 0.5


@pytest.mark.parametrize(
    "method, expected",
    [
        ("K-S p_value", "below"), ("chi-square p_value", "below"), ("Z-test p_value", "below"), ("t_test", "below"),
        ("Anderson-Darling", "below"), ("Mann-Whitney U-rank test", "below"), ("Fisher's Exact test", "below"),
        ("Total-Variation-Distance", "below"), ("empirical_mmd", "below"), ("Cramer-von Mises", "below"), ("g_test", "below"),
        ("Epps-Singleton", "below"), ("Wasserstein distance (normed)", "above"), ("PSI", "above"),
        ("Jensen-Shannon distance", "above"), ("Kullback-Leibler divergence", "above"), ("Energy-distance", "above"),
        ("Hellinger distance", "above"), ("Percentile text content drift", "above"), ("", None), (None, None),
    ],
)  # fmt: skip
def test_polarity_by_method(method: str | None, expected: str | None) -> None:
    """Not every p-value says so in its name."""
    assert polarity(method) == expected


def test_the_model_of_a_report_is_found(hook: Any) -> None:
    """In the query, else in the header, else in the option; else there is none."""
    header = ("x-retrain-model", "by-header")
    reports = hook(format="evidently", model="by-option")

    subjects = [
        reports.event("evidently/report", header, query="model=by%20query").subject,
        reports.event("evidently/report", header).subject,
        reports.event("evidently/report").subject,
        hook(format="evidently").event("evidently/report").subject,
    ]
    assert subjects == ["by query", "by-header", "by-option", None]


def test_a_report_is_known_by_its_bytes_and_time(hook: Any, inbox: MemoryInbox) -> None:
    """Posted twice it is one event; another model or another time makes another."""
    reports = hook(format="evidently")
    for query in ("model=a", "model=a", "model=b", "model=a&time=2026-03-05T12:00:00Z"):
        reports.send("evidently/report", query=query)

    assert len(inbox.events) == 3
    assert inbox.events[-1].time == utc(2026, 3, 5, 12)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"metrics": []}', b'{"metrics": 5}', b'{"tests": [{}]}'])
def test_what_is_no_report_is_refused(hook: Any, inbox: MemoryInbox, body: bytes) -> None:
    """The script that posts it sees why."""
    with pytest.raises(InvalidInput):
        hook(format="evidently").post(body)

    assert not inbox.dead


def test_a_time_that_is_none_is_refused(hook: Any) -> None:
    """Rather than taken for now."""
    with pytest.raises(InvalidInput, match="not an instant"):
        hook(format="evidently").send("evidently/report", query="time=yesterday")


def test_a_large_report_is_taken_where_it_is_allowed(hook: Any) -> None:
    """Two million bytes and three thousand columns: what is too much for an event is counted, not listed."""
    body = copy.deepcopy(content("evidently/report"))
    drift = body["metrics"][1]
    for number in range(3_000):
        body["metrics"].append({**drift, "config": {**drift["config"], "column": f"c{number}"}, "note": "n" * 400})
    (event,) = hook(format="evidently", max_bytes=8 << 20).post(body).batch.events

    assert (len(event.data["columns"]), event.data["truncated"]) == (2_000, True)


# ------------------------------------------------------------------------------------------------------- GitHub

PUSH, DELIVERY = ("x-github-event", "push"), ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")


def test_a_push_is_new_code(hook: Any) -> None:
    """Branch, head, files of all commits, each once."""
    event = hook(format="github").event("github/push", PUSH, DELIVERY)

    assert (event.type, event.subject, event.source) == ("code.pushed", "acme/models", "https://github.com/acme/models")
    assert event.time == utc(2026, 3, 5, 11)
    assert {
        "branch": "main",
        "commit_count": 2,
        "added": ["train/new.py"],
        "modified": ["README.md", "train/fit.py"],
        "removed": ["old.py"],
        "truncated": False,
        "message": "Commit 2",
        "author": "ada",
        "pusher": "ada",
        "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    }.items() <= event.data.items()


def test_a_push_is_known_by_what_was_pushed_when(hook: Any, inbox: MemoryInbox) -> None:
    """A redelivery, and a captured request under another delivery id, are duplicates; going back to an earlier head is news."""
    code = hook(format="github")
    code.send("github/push", PUSH, DELIVERY)
    code.send("github/push", PUSH, DELIVERY)
    code.send("github/push", PUSH, ("x-github-delivery", "another"))
    later = content("github/push")
    later["repository"]["pushed_at"] += 60
    code.post(later, PUSH, DELIVERY)

    assert (len(inbox.events), len(inbox.duplicates)) == (2, 2)


def test_branches_are_chosen_by_globs(hook: Any) -> None:
    """The others are answered well, and are no events; tags are events of their own."""
    code = hook(format="github", branches=["main", "release/*"])
    main = code.send("github/push", PUSH)
    feature = code.send("github/push-new-branch", PUSH)
    tag = code.send("github/push-tag", PUSH)
    everywhere = hook(format="github").send("github/push-new-branch", PUSH)

    assert [event.data["branch"] for event in main.batch.events] == ["main"]
    assert not feature.batch.events
    assert feature.reply is not None
    assert (feature.reply.status, "feature/x" in feature.reply.body["ignored"]) == (200, True)
    assert [(event.type, event.data["tag"]) for event in tag.batch.events] == [("code.tagged", "v1.2")]
    assert [event.data["branch"] for event in everywhere.batch.events] == ["feature/x"]


@pytest.mark.parametrize("name, event", [("ping", "ping"), ("push-deleted", "push"), ("release", "release")])
def test_what_is_no_push_is_answered_and_not_stored(hook: Any, inbox: MemoryInbox, name: str, event: str) -> None:
    """A ping, a branch that is gone, an event that nobody asked for."""
    taken = hook(format="github").send(f"github/{name}", ("x-github-event", event), DELIVERY)

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert not inbox.events
    assert not inbox.dead


def test_other_events_can_be_asked_for(hook: Any, inbox: MemoryInbox) -> None:
    """They are told as GitHub tells them, and known by their delivery."""
    code = hook(format="github", events=["push", "release"])
    for _ in range(2):
        event = code.event("github/release", ("x-github-event", "release"), DELIVERY)

    assert (event.type, event.subject, event.source_id) == ("github.release.published", "acme/models", DELIVERY[1])
    assert event.data["release"]["tag_name"] == "v1.2"
    assert len(inbox.events) == 1


def test_many_files_are_capped(hook: Any) -> None:
    """And it is said."""
    body = content("github/push")
    body["commits"][0]["added"] = [f"f{number}" for number in range(600)]
    (event,) = hook(format="github").post(body, PUSH).batch.events

    assert (len(event.data["added"]), event.data["truncated"]) == (500, True)


@pytest.mark.parametrize("spoil", [{"ref": 5}, {"after": None}, {"repository": None}, {"commits": {}}])
def test_a_spoilt_push_is_kept(hook: Any, inbox: MemoryInbox, spoil: dict[str, Any]) -> None:
    """GitHub would not send it again."""
    hook(format="github").post({**content("github/push"), **spoil}, PUSH)

    assert not inbox.events
    assert len(inbox.dead) == 1


def test_a_form_is_answered_with_what_to_change(hook: Any) -> None:
    """GitHub's own default for the content type is a form."""
    with pytest.raises(NotUnderstood) as caught:
        hook(format="github").post(b"payload=%7B%7D", ("content-type", "application/x-www-form-urlencoded"))

    assert "application/json" in caught.value.hint


# ----------------------------------------------------------------------------------------------- object storage


def test_an_object_is_an_event(hook: Any) -> None:
    """The key is decoded, with a space for each plus."""
    event = hook(format="s3").event("s3/created")

    assert (event.type, event.source) == ("object.created", "s3://landing")
    assert event.subject == "landing/flights/red flower ü.csv"
    assert event.time == utc(2026, 3, 5, 12, 0, 0, 123_000)
    assert {
        "bucket": "landing",
        "key": "flights/red flower ü.csv",
        "size": 1024,
        "etag": "d41d8cd98f00b204e9800998ecf8427e",
        "version_id": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
        "event": "ObjectCreated:Put",
    }.items() <= event.data.items()


def test_one_object_by_three_ways_is_one_event(hook: Any, inbox: MemoryInbox) -> None:
    """By the bucket, through SNS as text, and through EventBridge, which does not encode keys."""
    objects = hook(format="s3")
    objects.send("s3/created")
    objects.send("s3/sns", ("content-type", "text/plain; charset=UTF-8"), ("x-amz-sns-message-type", "Notification"))
    objects.send("s3/eventbridge")

    assert (len(inbox.events), len(inbox.duplicates)) == (1, 2)
    assert {event.data["key"] for event in inbox.duplicates} == {"flights/red flower ü.csv"}


def test_minio_speaks_the_same(hook: Any) -> None:
    """With `s3:` before the event's name."""
    event = hook(format="s3").event("s3/minio")

    assert (event.type, event.subject) == ("object.created", "landing/flights/2026-03.parquet")
    assert event.data["content_type"] == "application/octet-stream"


def test_records_of_one_key_are_put_in_order(hook: Any) -> None:
    """By their sequencers, the shorter one padded; other keys stay where they are."""
    events = hook(format="s3").send("s3/out-of-order").batch.events

    assert [(event.data["key"], event.type) for event in events] == [
        ("a.csv", "object.created"),
        ("b.csv", "object.created"),
        ("a.csv", "object.removed"),
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ObjectRemoved:DeleteMarkerCreated", "object.removed"),
        ("LifecycleExpiration:Delete", "object.removed"),
        ("s3:ObjectRemoved:Delete", "object.removed"),
        ("ObjectCreated:CompleteMultipartUpload", "object.created"),
        ("ObjectTagging:Put", "object.changed"),
        ("ObjectRestore:Completed", "object.changed"),
    ],
)
def test_types_by_the_name_of_the_event(hook: Any, name: str, expected: str) -> None:
    """Created, removed, or something else that happened to it."""
    body = content("s3/created")
    body["Records"][0]["eventName"] = name

    assert [event.type for event in hook(format="s3").post(body).batch.events] == [expected]


def test_without_a_sequencer_the_request_stands_in(hook: Any, inbox: MemoryInbox) -> None:
    """S3 gives one only for what is created and deleted."""
    body = content("s3/created")
    del body["Records"][0]["s3"]["object"]["sequencer"]
    objects = hook(format="s3")
    objects.post(body)
    body["Records"][0]["responseElements"]["x-amz-request-id"] = "ANOTHER"
    objects.post(body)
    objects.post(body)

    assert (len(inbox.events), len(inbox.duplicates)) == (2, 1)


def test_the_test_event_is_answered(hook: Any, inbox: MemoryInbox) -> None:
    """And is no event."""
    taken = hook(format="s3").send("s3/test-event")

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert not inbox.events
    assert not inbox.dead


def test_a_subscription_is_shown_and_not_fetched(hook: Any, inbox: MemoryInbox) -> None:
    """Its address is in the notes and in the log, for a person."""
    sns = [("content-type", "text/plain; charset=UTF-8"), ("x-amz-sns-message-type", "SubscriptionConfirmation")]

    taken = hook(format="s3").send("s3/sns-subscription", *sns)

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert inbox.notes["subscription"]["address"].startswith("https://sns.eu-central-1.amazonaws.com/?Action=Confirm")  # type: ignore[index,call-overload]
    assert inbox.log.lines[0][1] == "webhook.noted"
    assert not inbox.events


@pytest.mark.parametrize("key", ["%FF", "a%00b", None, 5, "", "k" * 3000])
def test_a_key_that_is_none_is_kept(hook: Any, inbox: MemoryInbox, key: Any) -> None:
    """A database could not store it, or nobody could find it."""
    body = content("s3/created")
    body["Records"][0]["s3"]["object"]["key"] = key
    hook(format="s3").post(body)

    assert not inbox.events
    assert len(inbox.dead) == 1


def test_text_without_sns_is_not_taken(hook: Any) -> None:
    """A web page may send text to anybody without asking; it cannot set SNS' header."""
    with pytest.raises(NotUnderstood):
        hook(format="s3").send("s3/created", ("content-type", "text/plain"))


# -------------------------------------------------------------------------------------- Standard Webhooks, generic


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


# ------------------------------------------------------------------------------------------------------ all alike


def test_what_is_kept_is_known_again(hook: Any, inbox: MemoryInbox) -> None:
    """The same body that nobody understands is one dead letter, however often it comes."""
    alerts = hook(format="alertmanager")
    for _ in range(3):
        alerts.post(b"nonsense")

    assert [letter.body for letter in inbox.dead.values()] == [b"nonsense"]
    assert str(inbox.notes["mapping"]).startswith("not understood: not JSON")


def test_what_is_too_large_to_be_kept_is_refused(hook: Any, inbox: MemoryInbox) -> None:
    """What is answered well is stored whole, or not answered well."""
    body = json.dumps({"what": "x" * MAX_DEAD_BODY}).encode()

    with pytest.raises(InvalidInput):
        hook(format="alertmanager", max_bytes=4 << 20).post(body)

    assert not inbox.dead


@pytest.mark.parametrize("kinds", [[], ["text/plain"], ["multipart/form-data; boundary=x"], ["application/json"] * 2])
def test_content_types_that_are_none_are_refused(inbox: MemoryInbox, tmp_path: Path, kinds: list[str]) -> None:
    """Missing, twice, or one that a web page can send unasked."""
    source = make_source(inbox, tmp_path, format="alertmanager")
    proof = make_request(b"").headers[-1]
    request = Request(
        method="POST",
        path="",
        query="",
        headers=[proof, *(("content-type", kind) for kind in kinds)],
        body=payload("alertmanager/firing"),
        received_at=NOON,
    )

    with pytest.raises(NotUnderstood):
        source.take(request)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json"])
def test_json_under_its_many_names(hook: Any, kind: str) -> None:
    """With a charset, in capitals, as a kind of something."""
    assert hook(format="alertmanager").event("alertmanager/firing", ("content-type", kind))
