"""The stages behind `on` in a configuration: what they become, what changes their version, and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import Config, models_from_normal_form, policy_from_normal_form
from controller.core.calendar import Calendar
from controller.core.conditions import Pattern
from controller.core.on import Leaf
from controller.core.policy import Breaker, Budget, Policy, PromotionHold, QuietHours
from tests.unit.config.texts import BASE, ON, load, on, problems

CALENDARS = 'calendars:\n  holidays: {timezone: Europe/Paris, dates: ["12-25"], days: [sun]}\n'
POLICY = "models.churn.policies.drift"
FULL = (
    ON
    + """
        ready: {new_rows: 5000, rows: event.data.n, label_delay: 6h, unless_open: {type: "incident.*", subject: "$model"}}
        calendars: [holidays]
        max_chain: 2
        own_output: true
        breaker: {after: 3}
        budget: {cost: 10, per: 7d, scope: "label:team"}
        mode: observe
        priority: 5
        jitter: 30m"""
)
MODEL = """
    labels: {team: travel}
    hold_promotion: {quiet_hours: {between: "22:00-06:00"}, calendars: [holidays]}
"""


def full() -> Config:
    config: Config = load(on(FULL).replace("train.py]", "train.py], cost: 2.5") + MODEL + CALENDARS)
    return config


def drift(config: Config) -> Policy:
    return config.models["churn"].policies["drift"]


def test_every_stage_becomes_its_record(folder: Path) -> None:
    """With `$model` in the subject of an episode, and the calendar as it is."""
    config = full()
    policy, model = drift(config), config.models["churn"]
    holidays = Calendar(name="holidays", timezone="Europe/Paris", dates=("12-25",), days=("sun",))

    assert policy.ready is not None
    assert (policy.ready.new_rows, policy.ready.label_delay) == (5000, timedelta(hours=6))
    assert policy.ready.rows is not None
    assert policy.ready.rows.source == "event.data.n"
    assert policy.ready.unless_open == Leaf(type=Pattern("incident.*"), subject=Pattern("churn"))
    assert policy.calendars == (holidays,)
    assert (policy.max_chain, policy.own_output, policy.breaker) == (2, True, Breaker(after=3))
    assert policy.budget == Budget(runs=None, cost=10, per=timedelta(days=7), scope="label:team")
    assert (policy.mode, policy.priority, policy.jitter, policy.cost) == ("observe", 5, timedelta(minutes=30), 2.5)
    assert model.hold_promotion == PromotionHold(
        quiet_hours=QuietHours(between="22:00-06:00", timezone="UTC"), calendars=(holidays,)
    )
    assert model.training.cost == 2.5


def test_what_is_not_written_means_what_the_record_says(folder: Path) -> None:
    """And leaves no trace in the normal form, so that older configurations keep their versions."""
    config = load(BASE)
    policy = drift(config)
    plain = Policy(model="churn", name="drift", on=policy.on, version=policy.version, on_hash=policy.on_hash)

    assert policy == plain
    assert set(config.normal_form["models"]["churn"]["policies"]["drift"]) == {"on"}
    assert "calendars" not in config.normal_form
    assert "cost" not in config.normal_form["models"]["churn"]["train"]


def test_the_normal_form_gives_the_same_records(folder: Path) -> None:
    """All of them, with the calendars that they name."""
    config = full()
    stored = json.loads(json.dumps(config.normal_form))

    assert models_from_normal_form(stored) == config.models
    assert policy_from_normal_form("churn", "drift", stored) == drift(config)


CHANGES = {
    "a day of the calendar": ('dates: ["12-25"]', 'dates: ["12-26"]', True),
    "the calendar's zone": ("Europe/Paris", "Europe/Berlin", True),
    "the cost of the model": ("cost: 2.5", "cost: 3.5", True),
    "a stage": ("max_chain: 2", "max_chain: 1", True),
    "when promotions wait": ("22:00-06:00", "21:00-06:00", False),
}


@pytest.mark.parametrize("before, after, changes", CHANGES.values(), ids=CHANGES)
def test_what_is_part_of_a_policy_s_version(folder: Path, before: str, after: str, changes: bool) -> None:
    """What it decides by: the calendar as it is, not its name alone."""
    text = on(FULL).replace("train.py]", "train.py], cost: 2.5") + MODEL + CALENDARS
    one, two = load(text), load(text.replace(before, after))

    assert text.count(before) == 1
    assert (drift(one).version != drift(two).version) is changes
    assert drift(one).on_hash == drift(two).on_hash
    assert one.version != two.version


def test_a_calendar_that_nobody_names_changes_no_policy(folder: Path) -> None:
    assert drift(load(BASE)).version == drift(load(BASE + CALENDARS)).version


def stage(text: str) -> str:
    return on(f"{ON}\n        {text}")


REFUSED = {
    "an unknown calendar": (
        stage("calendars: [holiday]") + CALENDARS,
        f"retrain.yaml:9:21: {POLICY}.calendars[0]: there is no calendar 'holiday' (did you mean 'holidays'?)",
    ),
    "no calendars at all": (
        stage("calendars: [x]"),
        f"retrain.yaml:9:21: {POLICY}.calendars[0]: there is no calendar 'x'",
    ),
    "an unknown calendar of promotions": (
        BASE + "    hold_promotion: {calendars: [holiday]}\n" + CALENDARS,
        "retrain.yaml:10:34: models.churn.hold_promotion.calendars[0]: there is no calendar 'holiday' "
        "(did you mean 'holidays'?)",
    ),
    "a calendar without days": (
        BASE + "calendars: {a: {timezone: UTC}}",
        "retrain.yaml:10:16: calendars.a: it closes no day (name some under `dates` or `days`)",
    ),
    "a calendar without an open day": (
        BASE + 'calendars: {a: {dates: ["01-01..12-31"]}}',
        "retrain.yaml:10:16: calendars.a: it leaves no day open (take a day out)",
    ),
    "calendars without an open day together": (
        stage("calendars: [a, b]") + "calendars: {a: {days: [mon, tue, wed, thu]}, b: {days: [fri, sat, sun]}}",
        f"retrain.yaml:9:20: {POLICY}.calendars: together they leave no day open (take one out)",
    ),
    "a date that is none": (
        BASE + 'calendars: {a: {dates: ["2026-02-30"]}}',
        "retrain.yaml:10:25: calendars.a.dates[0]: '2026-02-30' names a day that no calendar has",
    ),
    "a zone that is none": (
        BASE + "calendars: {a: {timezone: Europe/Pari, days: [sun]}}",
        "retrain.yaml:10:27: calendars.a.timezone: 'Europe/Pari' is not a time zone; write an IANA name such as "
        "Europe/Berlin or UTC (did you mean 'Europe/Paris'?)",
    ),
    "a budget of both": (
        stage("budget: {runs: 1, cost: 2, per: 1d}"),
        f"retrain.yaml:9:17: {POLICY}.budget: it counts either runs or cost (give one of `runs` and `cost`)",
    ),
    "a budget of nothing": (
        stage("budget: {per: 1d}"),
        f"retrain.yaml:9:17: {POLICY}.budget: it counts either runs or cost (give one of `runs` and `cost`)",
    ),
    "a budget of no runs": (
        stage("budget: {runs: 0, per: 1d}"),
        f"retrain.yaml:9:24: {POLICY}.budget.runs: 0 is not at least 1",
    ),
    "a budget that nothing fits into": (
        stage("budget: {cost: 0.5, per: 1d}"),
        f"retrain.yaml:9:24: {POLICY}.budget.cost: a retraining of 'churn' costs 1, and the budget is 0.5: it would never "
        "start (see `train: {cost: …}`)",
    ),
    "a budget of another scope": (
        stage("budget: {runs: 1, per: 1d, scope: team}"),
        f"retrain.yaml:9:43: {POLICY}.budget.scope: 'team' is no scope of a budget (write model, all, or label:team)",
    ),
    "a budget by a label that is not there": (
        stage('budget: {runs: 1, per: 1d, scope: "label:tem"}').replace("train:", "labels: {team: a}\n    train:"),
        f"retrain.yaml:9:43: {POLICY}.budget.scope: model 'churn' has no label 'tem' (did you mean 'team'?)",
    ),
    "a breaker of none": (
        stage("breaker: {after: 0}"),
        f"retrain.yaml:9:26: {POLICY}.breaker.after: 0 is not at least 1",
    ),
    "ready for nothing": (
        stage("ready: {}"),
        f"retrain.yaml:9:16: {POLICY}.ready: it asks for nothing (give new_rows, label_delay or unless_open)",
    ),
    "rows of nothing": (
        stage("ready: {rows: event.data.n, label_delay: 1h}"),
        f"retrain.yaml:9:16: {POLICY}.ready: rows is of no use without new_rows",
    ),
    "rows by a name that there is not": (
        stage("ready: {new_rows: 1, rows: champion.metrics.n}"),
        f"retrain.yaml:9:36: {POLICY}.ready.rows: ",
    ),
    "every open episode": (
        stage("ready: {unless_open: {}}"),
        f"retrain.yaml:9:30: {POLICY}.ready.unless_open: it would wait for every open episode "
        "(name a source, a type or a subject)",
    ),
    "an episode of an unknown source": (
        stage("ready: {unless_open: {source: landin}}"),
        f"retrain.yaml:9:39: {POLICY}.ready.unless_open.source: there is no source 'landin' (did you mean 'landing'?)",
    ),
    "rows of an age": (
        on("on: {max_age: 30d}\n        ready: {new_rows: 5}"),
        f"retrain.yaml:8:9: {POLICY}: max_age needs no event, so no rows come with it and no labels follow it "
        "(keep `unless_open` alone, or listen to events)",
    ),
    "rows of a count": (
        on("on: {type: a, count: 3, within: 1h}\n        ready: {new_rows: 5}"),
        f"retrain.yaml:8:9: {POLICY}: new_rows would count only the rows of the event that makes the count full "
        "(listen to each event without `count`; the rows add up while it is held)",
    ),
    "another mode": (stage("mode: dry"), f"retrain.yaml:9:15: {POLICY}.mode: 'dry' is not 'live', 'observe' or 'off'"),
    "too high a priority": (stage("priority: 5000"), f"retrain.yaml:9:19: {POLICY}.priority: 5000 is not at most 1000"),
    "a hold of nothing": (
        BASE + "    hold_promotion: {}",
        "retrain.yaml:10:21: models.churn.hold_promotion: it names no time (give quiet_hours or calendars)",
    ),
    "a cost below nothing": (
        BASE.replace("train.py]", "train.py], cost: -1"),
        "retrain.yaml:9:49: models.churn.train.cost: -1 is not at least 0",
    ),
}


@pytest.mark.parametrize("text, expected", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(folder: Path, text: str, expected: str) -> None:
    """Each mistake is named with its place and what to write instead."""
    (said,) = problems(text)

    assert said.startswith(expected)


def test_defaults_may_hold_promotions_and_stages(folder: Path) -> None:
    """What all models share is laid under each of them."""
    shared = (
        "defaults: {policy: {budget: {runs: 2, per: 1d}, mode: observe}, hold_promotion: {calendars: [holidays]}}\n"
    )
    config = load(BASE + shared + CALENDARS)

    assert drift(config).budget == Budget(runs=2, cost=None, per=timedelta(days=1))
    assert drift(config).mode == "observe"
    assert config.models["churn"].hold_promotion is not None
