"""Channels to people: `notifiers`, and every `notify` that names them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.config import Config, check, load_config
from controller.core.notices import Bundling
from controller.notifiers.webhook import WebhookOptions
from tests.unit.config.texts import BASE, problems

SLACK = "notifiers: {slack: {type: webhook, url: 'http://localhost:9/in'%s}}\n"


def load(folder: Path, text: str) -> Config:
    (folder / "retrain.yaml").write_text(text)
    return load_config(folder / "retrain.yaml")


def test_a_channel(tmp_path: Path) -> None:
    """Its notifier's options, the kinds that it takes, and how its messages come together."""
    more = ", only: [failed, rolled_back], group: {wait: 1m, repeat: 4h}, template: slack"
    config = load(tmp_path, BASE + "    notify: [log, slack]\n" + SLACK % more)
    channel = config.notifiers["slack"]

    assert config.models["churn"].notify == ("log", "slack")
    assert (channel.type, channel.only) == ("webhook", frozenset({"failed", "rolled_back"}))
    assert channel.grouping == Bundling(wait=timedelta(minutes=1), repeat=timedelta(hours=4))
    assert isinstance(channel.options, WebhookOptions)
    assert channel.options.template == "slack"
    assert config.notify == ("log",)


@pytest.mark.parametrize(
    "written, grouping",
    [
        ("{type: command, command: [true]}", Bundling(wait=timedelta(seconds=30), repeat=timedelta(minutes=5))),
        ("{type: log, level: warning}", None),
        ("{type: log, group: {}}", Bundling(wait=timedelta(seconds=30), repeat=timedelta(minutes=5))),
        (
            "{type: command, command: [true], group: {wait: 0s}}",
            Bundling(wait=timedelta(0), repeat=timedelta(minutes=5)),
        ),
    ],
    ids=["people", "a log", "a log that is to be quiet", "no wait"],
)
def test_what_is_gathered_by_default(tmp_path: Path, written: str, grouping: Any) -> None:
    """People are not disturbed for each message; a log is."""
    config = load(tmp_path, BASE + f"notifiers: {{it: {written.replace('[true]', '[sh]')}}}\n")

    assert config.notifiers["it"].grouping == grouping


def test_a_configuration_without_channels_keeps_its_version(tmp_path: Path) -> None:
    """What does not use them has the normal form that it had."""
    form = load(tmp_path, BASE).normal_form

    assert "notifiers" not in form
    assert "notify" not in form


def test_a_secret_stays_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the normal form, which is kept for ever, and in what is shown."""
    monkeypatch.setenv("SLACK_URL", "https://hooks.slack.com/services/T/B/geheim")
    config = load(tmp_path, BASE + "notifiers: {slack: {type: webhook, url: env:SLACK_URL}}\n")

    assert config.normal_form["notifiers"]["slack"]["url"] == "env:SLACK_URL"
    assert "geheim" not in repr(config)


@pytest.mark.parametrize(
    "text, said",
    [
        (BASE + "    notify: [slak]\n" + SLACK % "", ["there is no channel 'slak' (did you mean 'slack'?)"]),
        (BASE + "notify: [slak]\n" + SLACK % "", ["notify[0]: there is no channel 'slak'"]),
        (BASE + "    notify: [webhook]\n", ["the notifier 'webhook' must be told more"]),
        (BASE + SLACK % ", only: [faild]", ["'faild' is not a kind of message (did you mean 'failed'?)"]),
        (BASE + SLACK % ", only: []", ["notifiers.slack.only"]),
        (BASE + SLACK % ", tempalte: slack", ["unknown key 'tempalte' (did you mean 'template'?)"]),
        (BASE + SLACK % ", template: {a: '{{ event.id }}'}", ["unknown variable 'event'"]),
        (BASE + SLACK % ", template: {a: 'x {{ notification.id }}'}", ["in the middle"]),
        (BASE + SLACK % ", headers: {Webhook-Id: x}", ["is set by the notifier itself"]),
        (BASE + SLACK % ", secret: env:NOBODY", ["secret env:NOBODY is not set"]),
        (BASE + SLACK % ", timeout: 0s", ["more than 0s"]),
        (BASE + "notifiers: {slack: {type: webhok, url: x}}\n", ["unknown notifier 'webhok' (did you mean 'webhook'?"]),
        (BASE + "notifiers: {pager: {type: command}}\n", ["'command' is missing"]),
        (BASE + "notifiers: {pager: {type: command, command: sh}}\n", ["is not a list"]),
        (BASE + "notifiers: {Pager: {type: log}}\n", ["is not a name"]),
    ],
)
def test_mistakes(folder: Path, text: str, said: list[str]) -> None:
    """Each has its place and what to write instead."""
    found = problems(text)

    assert len(found) == len(said), found
    for problem, words in zip(found, said, strict=True):
        assert words in problem


def test_a_key_that_is_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signing secret that is malformed is refused at load, and not shown; so is a URL that is none."""
    monkeypatch.setenv("KEY", "whsec_not/base64!")
    monkeypatch.setenv("URL", "geheim without a scheme")
    found = problems(BASE + "notifiers: {a: {type: webhook, url: env:URL, secret: env:KEY}}\n")

    assert any("secret env:KEY is malformed" in problem for problem in found)
    assert "base64!" not in str(found)
    found = problems(BASE + "notifiers: {a: {type: webhook, url: env:URL}}\n")
    assert any("what env:URL holds is no http or https URL" in problem for problem in found)
    assert "geheim" not in str(found)


def test_what_check_finds(folder: Path) -> None:
    """A program that does not exist will fail, and a channel that nobody names is odd."""
    channels = "notifiers: {pager: {type: command, command: [no-such-program]}, idle: {type: log}}\n"
    found = [str(problem) for problem in check(load(folder, BASE + "    notify: [pager]\n" + channels))]

    assert [line for line in found if "notifiers" in line] == [
        f"{folder}/retrain.yaml:11:46: notifiers.pager.command[0]: there is no program 'no-such-program' (looked in PATH)",
        f"{folder}/retrain.yaml:11:65: notifiers.idle: nobody is told through it (name it under `notify`)",
    ]
