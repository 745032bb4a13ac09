"""`watch`: what is looked at after a promotion, as it is written and as it is kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import models_from_normal_form
from controller.core.conditions import Pattern
from tests.unit.config.texts import BASE, load, problems


def test_a_watch_as_it_is_written(folder: Path) -> None:
    """Its length, the leaf with the model's name for $model, and how many events are needed."""
    leaf = "{source: api, type: 'alert.*', subject: $model, when: event.data.burn > 2}"
    watch = load(BASE + f"    watch: {{for: 24h, rollback_on: {leaf}, min_samples: 3}}\n").models["churn"].watch

    assert watch is not None
    assert (watch.lasting, watch.min_samples) == (timedelta(hours=24), 3)
    assert watch.rollback_on is not None
    assert watch.rollback_on.source == "api"
    assert (watch.rollback_on.type, watch.rollback_on.subject) == (Pattern("alert.*"), Pattern("churn"))
    assert watch.rollback_on.when is not None


def test_without_a_watch(folder: Path) -> None:
    """A model that does not say has none, and its configuration is of the version that it was before there were watches."""
    config = load(BASE)

    assert config.models["churn"].watch is None
    assert "watch" not in config.normal_form["models"]["churn"]


def test_the_normal_form_gives_the_same_watch(folder: Path) -> None:
    """What is kept of a configuration is read back as it was: under `for`, with the length as ISO 8601."""
    config = load(BASE + "    watch: {for: 90m, rollback_on: {type: alert.slo}}\n")
    form = config.normal_form["models"]["churn"]["watch"]

    assert form == {"for": "PT5400S", "rollback_on": {"type": "alert.slo"}, "min_samples": 1}
    assert models_from_normal_form(config.normal_form)["churn"] == config.models["churn"]


def test_defaults_give_a_watch_to_every_model(folder: Path) -> None:
    """A model's own keys win over those of `defaults`."""
    shared = "defaults:\n  watch: {for: 1d, rollback_on: {type: alert.slo, subject: $model}}\n"
    watch = load(shared + BASE + "    watch: {for: 1h}\n").models["churn"].watch

    assert watch is not None
    assert watch.lasting == timedelta(hours=1)
    assert watch.rollback_on is not None
    assert watch.rollback_on.subject == Pattern("churn")


MISTAKES = {
    "every event": ("{for: 1h, rollback_on: {}}", "every event would roll the promotion back"),
    "samples of nothing": ("{for: 1h, min_samples: 2}", "min_samples is of no use without rollback_on"),
    "no samples": ("{for: 1h, rollback_on: {type: a}, min_samples: 0}", "min_samples"),
    "no length": ("{rollback_on: {type: a}}", "'for' is missing"),
    "no time at all": ("{for: 0s}", "it must be longer than 0s"),
    "a window": ("{for: 1h, rollback_on: {type: a, count: 2, within: 1h}}", "unknown key 'count'"),
    "what the controller says": (
        "{for: 1h, rollback_on: {source: controller}}",
        "events of 'controller' never roll back",
    ),
    "an unknown source": ("{for: 1h, rollback_on: {source: nowhere}}", "there is no source 'nowhere'"),
    "an unknown name": ("{for: 1h, rollback_on: {type: a, when: run.id == 'x'}}", "unknown variable 'run'"),
    "our own name of it": ("{lasting: 1h}", "unknown key 'lasting'"),
}


@pytest.mark.parametrize("written, said", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(folder: Path, written: str, said: str) -> None:
    """Each is named with its place and what to write."""
    found = problems(BASE + f"    watch: {written}\n")

    assert any(said in problem for problem in found), found
