"""What webhooks say: the forms for Slack, Teams, programs, and the user's own; whatever a message holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.config import load_config
from controller.core.model import Notification
from controller.core.notices import gathered
from controller.errors import GiveUp
from controller.notifiers.webhook.bodies import body_of
from controller.notifiers.webhook.options import WebhookOptions
from controller.testing.notifiers import make_notification

texts = st.text(max_size=400) | st.text(alphabet="<>&!@*_[]()`~|\\\n\0 漂", max_size=3000)
messages = st.builds(
    lambda title, body, lines: replace(
        make_notification(1, gathered=lines), title=title, body=body, model=title[:50] or None
    ),
    texts,
    st.dictionaries(st.text(max_size=20), texts | st.integers() | st.none(), max_size=20),
    st.sampled_from([0, 2, 60, 200]),
)


def said(notification: Notification, form: Any) -> Any:
    body, _ = body_of(notification, form)
    return json.loads(body)


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in texts_of(part)]


def test_slack() -> None:
    """A header, the facts, and where it comes from; `text` is the same sentence for phones."""
    found = said(make_notification(title="churn: v2 <!channel> & more"), "slack")

    assert found["text"] == "churn: v2 &lt;!channel&gt; &amp; more"
    assert [block["type"] for block in found["blocks"]] == ["header", "section", "context"]
    assert found["blocks"][0]["text"]["text"] == "churn: v2 <!channel> & more"
    assert found["blocks"][1]["text"]["text"] == (
        "*model*: churn\n*run*: run-1\n*auc*: 0.72\n*reason*: &lt;b&gt;better&lt;/b&gt; than before"
    )


@given(messages)
def test_slack_takes_it_whatever_it_holds(message: Notification) -> None:
    """No limit of Slack's is passed, nothing in it is markup, and it is never empty."""
    found = said(message, "slack")
    header, *others = found["blocks"]

    assert 0 < len(header["text"]["text"]) <= 150
    assert header["text"]["type"] == "plain_text"
    for block in others:
        written = block["text"]["text"] if block["type"] == "section" else block["elements"][0]["text"]
        assert 0 < len(written) <= 3000
        assert "<" not in written
        assert ">" not in written
    assert "<" not in found["text"]
    assert len(found["blocks"]) <= 50
    assert sum(len(text) for text in texts_of(found)) < 13_000


@given(messages)
def test_teams_takes_it_whatever_it_holds(message: Notification) -> None:
    """A card in the envelope of Workflows, below its limit, in which no text of others is Markdown."""
    body, content_type = body_of(message, "teams")
    found = json.loads(body)
    (attachment,) = found["attachments"]
    card = attachment["content"]

    assert len(body) <= 28 * 1024
    assert (found["type"], content_type) == ("message", "application/json")
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert {run["type"] for block in card["body"] for run in block["inlines"]} == {"TextRun"}


@pytest.mark.parametrize("form", ["slack", "teams"])
def test_a_group_lists_its_messages(form: str) -> None:
    """People see each message of a group, and how many there are beyond what fits."""
    few = gathered([replace(make_notification(number), title=f"title {number}") for number in range(3)])
    shown = " ".join(texts_of(said(few, form)))
    many = " ".join(texts_of(said(make_notification(gathered=200), form)))

    assert all(f"title {number}" in shown for number in range(3))
    assert "more" in many


def test_programs_get_all() -> None:
    """JSON and the CloudEvent carry every message of a group, and the id that it is known by."""
    message = make_notification(gathered=200)
    plain, event = said(message, "json"), said(message, "cloudevents")

    assert (plain["id"], plain["count"], len(plain["messages"])) == ("not-1", 200, 200)
    assert event["data"] == plain
    assert {key: event[key] for key in ("specversion", "id", "source", "type", "subject", "retrainrun")} == {
        "specversion": "1.0",
        "id": "not-1",
        "source": "/retrain-controller",
        "type": "retrain.notification.promoted",
        "subject": "churn",
        "retrainrun": "run-1",
    }
    assert body_of(message, "cloudevents")[1] == "application/cloudevents+json"


def test_the_users_own() -> None:
    """Values are filled in whole, numbers stay whole numbers, and what is missing gives the message up."""
    form = {
        "summary": "{{ notification.title }}",
        "tags": ["retrain", "{{ notification.kind }}"],
        "count": "{{ notification.count }}",
        "auc": "{{ notification.body.auc }}",
    }

    assert said(make_notification(), form) == {
        "summary": "run promoted",
        "tags": ["retrain", "promoted"],
        "count": 1,
        "auc": 0.72,
    }
    with pytest.raises(GiveUp, match=r"the template: .*no field 'f1'"):
        said(make_notification(), {"f1": "{{ notification.body.f1 }}"})


def blocks() -> list[Any]:
    """The YAML of docs/notifications.md, as far as it is channels."""
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(found) >= 4
    return [block.get("notifiers", block) for block in found]


@pytest.mark.parametrize("channels", blocks(), ids=lambda channels: ", ".join(channels))
def test_the_examples_of_the_docs(channels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They load, and their templates fit a message."""
    for name in ("SLACK_URL", "TEAMS_URL", "INCIDENTS_TOKEN"):
        monkeypatch.setenv(name, "https://receiver.example/in")
    (tmp_path / "secrets").mkdir()
    for name in ("slack-url", "smtp"):
        (tmp_path / "secrets" / name).write_text("https://receiver.example/in")
        (tmp_path / "secrets" / name).chmod(0o600)
    config = {"version": 1, "notifiers": channels}
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump(config))
    loaded = load_config(tmp_path / "retrain.yaml")

    assert loaded.notifiers.keys() == channels.keys()
    for channel in loaded.notifiers.values():
        if isinstance(channel.options, WebhookOptions):
            assert json.loads(body_of(make_notification(), channel.options.form())[0])
