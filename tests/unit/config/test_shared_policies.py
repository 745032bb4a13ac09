"""Policies that models share: chosen by label, laid under a model's own, and never in the way of a place in a file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import Config, check, json_schema, load_config, models_from_normal_form
from controller.config.yaml12 import parse
from controller.errors import ConfigError
from tests.unit.config.texts import load, problems
from tests.unit.test_config_schema import violations

BASE = """\
version: 1
sources:
  landing: {type: files, path: landing}
policies:
  drift:
    select: {team: travel}
    on: {type: "drift.*", subject: $model}
    cooldown: {period: 6h}
models:
  fares:
    labels: {team: travel}
    train: {command: [x]}
  seats:
    labels: {team: travel, tier: gold}
    train: {command: [x]}
  fraud:
    labels: {team: risk}
    policies: {own: {on: {source: landing}}}
    train: {command: [x]}
"""


def policies(config: Config) -> dict[str, list[str]]:
    """Return the names of each model's policies."""
    return {name: sorted(model.policies) for name, model in config.models.items()}


def with_own(text: str) -> str:
    """Return the base with policies of the model `seats` itself."""
    return BASE.replace("tier: gold}\n", f"tier: gold}}\n    policies: {text}\n")


# ------------------------------------------------------------------------------------------------------------ selecting

SELECT = {
    "a label": ("{team: travel}", ["fares", "seats"]),
    "two labels": ("{team: travel, tier: gold}", ["seats"]),
    "one of several values": ("{team: [travel, risk]}", ["fares", "fraud", "seats"]),
    "a label that some lack": ("{tier: gold}", ["seats"]),
    "a value that none has": ("{team: nobody}", []),
    "all": ("all", ["fares", "fraud", "seats"]),
}


@pytest.mark.parametrize("select, expected", SELECT.values(), ids=SELECT)
def test_a_shared_policy_belongs_to_the_models_whose_labels_fit(folder: Path, select: str, expected: list[str]) -> None:
    """All labels of `select` must fit; `all` takes every model."""
    config = load(BASE.replace("{team: travel}\n    on", f"{select}\n    on"))

    assert sorted(name for name, model in config.models.items() if "drift" in model.policies) == expected


def test_labels_from_defaults_count(folder: Path) -> None:
    """A label that a model has by default is a label."""
    config = load(BASE.replace("team: risk", "tier: lead") + "defaults: {labels: {team: travel}}\n")

    assert policies(config) == {"fares": ["drift"], "seats": ["drift"], "fraud": ["drift", "own"]}


REFUSED = {
    "no label": (
        "{}",
        "retrain.yaml:6:13: policies.drift.select: it names no label (write {team: travel}, or `select: all`",
    ),
    "a word": ("travel", "retrain.yaml:6:13: policies.drift.select: 'travel' is not a choice of models"),
    "a number": ("{team: 3}", "retrain.yaml:6:13: policies.drift.select: label 'team': a label's value is a text"),
    "an empty list": (
        "{team: []}",
        "retrain.yaml:6:13: policies.drift.select: label 'team': a label's value is a text",
    ),
}


@pytest.mark.parametrize("select, expected", REFUSED.values(), ids=REFUSED)
def test_a_choice_that_says_nothing_is_refused(folder: Path, select: str, expected: str) -> None:
    """An empty choice would be every model by accident; nothing is guessed."""
    (said,) = problems(BASE.replace("{team: travel}\n    on", f"{select}\n    on"))

    assert said.startswith(expected)


def test_a_shared_policy_says_whom_it_selects(folder: Path) -> None:
    """Without `select` it is refused where it stands."""
    (said,) = problems(BASE.replace("    select: {team: travel}\n", ""))

    assert said.startswith("retrain.yaml:5:3: policies.drift: 'select' is missing")


# ----------------------------------------------------------------------------------------------------------- laid over


def test_a_model_lays_its_own_keys_over_the_shared_policy(folder: Path) -> None:
    """Mappings are merged, anything else is taken from the model; others keep the shared policy."""
    config = load(with_own("{drift: {cooldown: {after: promotion}, on: {type: drift.data}, debounce: {quiet: 5m}}}"))
    own, shared = config.models["seats"].policies["drift"], config.models["fares"].policies["drift"]

    assert own.cooldown is not None
    assert shared.cooldown is not None
    assert (own.cooldown.period, own.cooldown.after) == (timedelta(hours=6), "promotion")
    assert own.on.type.text == "drift.data"
    assert own.on.subject.text == "seats"
    assert own.debounce is not None
    assert shared.cooldown.after == "decision"
    assert shared.debounce is None
    assert shared.on.type.text == "drift.*"


@pytest.mark.parametrize("nothing", ["off", "null", "~", "", "'off'", "Off"])
def test_a_model_takes_a_shared_policy_away(folder: Path, nothing: str) -> None:
    """`off` or null in the place of a shared policy: this model does not have it."""
    config = load(with_own(f"{{drift: {nothing}}}"))

    assert policies(config) == {"fares": ["drift"], "seats": [], "fraud": ["own"]}


def test_a_null_takes_a_stage_away(folder: Path) -> None:
    """Null in the place of a stage takes it out of the shared policy and of the defaults."""
    defaults = "defaults: {policy: {debounce: {quiet: 5m}}}\n"
    config = load(with_own("{drift: {cooldown: ~, debounce: ~}}") + defaults)

    own, shared = config.models["seats"].policies["drift"], config.models["fares"].policies["drift"]
    assert own.cooldown is None
    assert own.debounce is None
    assert shared.cooldown is not None
    assert shared.debounce is not None


def test_what_is_taken_away_from_nobody_is_refused(folder: Path) -> None:
    """`off` in the place of a policy that nobody shares is a mistake, with its place."""
    (said,) = problems(with_own("{drfit: off}"))

    assert said.startswith("retrain.yaml:15:23: models.seats.policies.drfit: 'off' is not a mapping of keys to values")


def test_a_model_that_is_not_selected_may_say_so(folder: Path) -> None:
    """Taking away what a model would not have had changes nothing."""
    assert policies(load(BASE.replace("own: {on: {source: landing}}", "drift: off")))["fraud"] == []


def test_defaults_lie_under_every_policy(folder: Path) -> None:
    """A model's own key wins over the shared policy's, and that over `defaults.policy`."""
    config = load(BASE + "defaults: {policy: {cooldown: {period: 1h, after: launch}, debounce: {quiet: 1m}}}\n")
    shared, own = config.models["fares"].policies["drift"], config.models["fraud"].policies["own"]

    assert shared.cooldown is not None
    assert own.cooldown is not None
    assert (shared.cooldown.period, shared.cooldown.after) == (timedelta(hours=6), "launch")
    assert (own.cooldown.period, own.cooldown.after) == (timedelta(hours=1), "launch")
    assert shared.debounce == own.debounce is not None


def test_several_files_may_share_policies(folder: Path) -> None:
    """Shared policies come from any file of a folder; a name that two files give is refused."""
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text(BASE)
    Path("conf/b.yaml").write_text("policies: {stale: {select: all, on: {max_age: 30d}}}\n")
    config = load_config("conf")
    Path("conf/c.yaml").write_text("policies: {stale: {select: all, on: {max_age: 3d}}}\n")

    assert policies(config) == {"fares": ["drift", "stale"], "seats": ["drift", "stale"], "fraud": ["own", "stale"]}
    with pytest.raises(
        ConfigError, match=r"c\.yaml:1:12: policies\.stale: 'stale' is given twice; first at conf/b\.yaml"
    ):
        load_config("conf")


def test_the_model_s_name_stands_in_a_subject(folder: Path) -> None:
    """`$model` in a subject is the name of the model, also within other text, in shared and in own policies."""
    own = BASE.replace("{source: landing}", "{source: landing, subject: 'data/$model/*'}")
    config = load(own)

    assert config.models["fares"].policies["drift"].on.subject.text == "fares"
    assert config.models["fraud"].policies["own"].on.subject.text == "data/fraud/*"


# -------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {
    "in the shared policy, once for all models": (
        BASE.replace("period: 6h", "period: 6 hours"),
        ["retrain.yaml:8:24: policies.drift.cooldown.period: '6 hours' is not a duration; write 5m or PT5M"],
    ),
    "in an override": (
        with_own("{drift: {cooldown: {period: 6 hours}}}"),
        [
            "retrain.yaml:15:43: models.seats.policies.drift.cooldown.period: '6 hours' is not a duration; write 5m or PT5M"
        ],
    ),
    "in the defaults of policies, once for all": (
        BASE + "defaults: {policy: {debounce: {quiet: 0s}}}\n",
        ["retrain.yaml:20:39: defaults.policy.debounce.quiet: '0s' is no time at all; it must be longer than 0s"],
    ),
    "a key that is unknown in a shared policy": (
        BASE.replace("cooldown:", "cooldwon:"),
        ["retrain.yaml:8:5: policies.drift.cooldwon: unknown key 'cooldwon' (did you mean 'cooldown'?)"],
    ),
    "a key that is missing in a shared policy": (
        BASE.replace("period: 6h", "after: launch"),
        ["retrain.yaml:8:5: policies.drift.cooldown: 'period' is missing (How long)"],
    ),
    "a shared policy that nobody has": (
        BASE.replace("{team: travel}\n    on", "{team: nobody}\n    on").replace("period: 6h", "period: 6 hours"),
        ["retrain.yaml:8:24: policies.drift.cooldown.period: '6 hours' is not a duration; write 5m or PT5M"],
    ),
    "an override of a shared policy that does not select the model": (
        BASE.replace("policies: {own: {on: {source: landing}}}", "policies: {drift: {mode: observe}}"),
        [
            "retrain.yaml:18:16: models.fraud.policies.drift: 'on' is missing (the shared policy 'drift' does not select "
            "this model; give it labels that fit `select`, or `on`)"
        ],
    ),
    "`on` in the defaults": (
        BASE + "defaults: {policy: {on: {type: x}}}\n",
        ["retrain.yaml:20:21: defaults.policy.on: unknown key 'on'"],
    ),
    "a source that is not there": (
        BASE.replace('type: "drift.*"', "source: landign"),
        ["retrain.yaml:7:18: policies.drift.on.source: there is no source 'landign' (did you mean 'landing'?)"],
    ),
    "a source that is not there, in an override": (
        with_own("{drift: {on: {source: landign}}}"),
        [
            "retrain.yaml:15:37: models.seats.policies.drift.on.source: there is no source 'landign' "
            "(did you mean 'landing'?)"
        ],
    ),
    "`select` of a model's own policy": (
        with_own("{drift: {select: all}}"),
        ["retrain.yaml:15:24: models.seats.policies.drift.select: unknown key 'select'"],
    ),
    "a name that is reserved": (
        BASE.replace("  drift:\n", "  manual:\n"),
        ["retrain.yaml:5:3: policies.manual: 'manual' is reserved (choose another name)"],
    ),
}


@pytest.mark.parametrize("text, expected", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_where_it_was_written(folder: Path, text: str, expected: list[str]) -> None:
    """The place is that of the text which holds the bad value: shared policy, override or defaults."""
    assert [said[: len(wanted)] for said, wanted in zip(problems(text), expected, strict=True)] == expected


# ---------------------------------------------------------------------------------------------------------- normal form


def test_the_normal_form_holds_what_each_model_has_in_the_end(folder: Path) -> None:
    """Shared policies leave no trace beside the models, so that a run stays readable by its stored configuration alone."""
    config = load(with_own("{drift: {cooldown: {period: 1h}}}") + "defaults: {policy: {debounce: {quiet: 1m}}}\n")
    stored = json.loads(json.dumps(config.normal_form))

    assert "policies" not in stored
    assert "defaults" not in stored
    assert "select" not in json.dumps(stored)
    assert models_from_normal_form(stored) == config.models


def test_sharing_a_policy_does_not_change_its_version(folder: Path) -> None:
    """The same policy written out for each model is the same configuration."""
    own = "    policies: {drift: {on: {type: 'drift.*', subject: $model}, cooldown: {period: 6h}}}\n"
    shared = BASE[BASE.index("policies:") : BASE.index("models:")]
    written_out = BASE.replace(shared, "").replace("travel}\n", f"travel}}\n{own}").replace("gold}\n", f"gold}}\n{own}")

    assert load(written_out).normal_form == load(BASE).normal_form


# ----------------------------------------------------------------------------------------------------- check and editors


def test_a_shared_policy_that_selects_nobody_is_pointed_out(folder: Path) -> None:
    """It may be meant for a model to come, so it is a warning."""
    config = load(BASE.replace("{team: travel}\n    on", "{team: nobody}\n    on"))
    found = [f"{problem.severity} {problem}" for problem in check(config) if problem.path.startswith("policies")]

    assert found == [
        "warning retrain.yaml:6:13: policies.drift.select: no model has these labels, so nobody has this policy "
        "(label 'team' has the values: 'risk', 'travel')"
    ]


SCHEMA_CASES = {
    "the whole": (BASE, True),
    "an override without `on`": (with_own("{drift: {cooldown: {period: 1h}}}"), True),
    "off": (with_own("{drift: off}"), True),
    "null": (with_own("{drift: }"), True),
    "every model": (BASE.replace("{team: travel}\n    on", "all\n    on"), True),
    "defaults": (BASE + "defaults: {policy: {cooldown: {period: 5m}}}\n", True),
    "no label": (BASE.replace("{team: travel}\n    on", "{}\n    on"), False),
    "no choice": (BASE.replace("    select: {team: travel}\n", ""), False),
    "a word": (BASE.replace("{team: travel}\n    on", "travel\n    on"), False),
    "a shared policy without `on`": (BASE.replace('    on: {type: "drift.*", subject: $model}\n', ""), False),
    "a misspelt key in an override": (with_own("{drift: {cooldwon: {period: 1h}}}"), False),
    "`on` in the defaults": (BASE + "defaults: {policy: {on: {type: x}}}\n", False),
    "another name": (BASE.replace("  drift:\n", "  Drift:\n"), False),
}


@pytest.mark.parametrize("text, fits", SCHEMA_CASES.values(), ids=SCHEMA_CASES)
def test_editors_know_shared_policies(text: str, fits: bool) -> None:
    """The JSON Schema takes what the loader takes."""
    root, _ = parse(text.encode(), file="text")

    assert (list(violations(root, json_schema())) == []) is fits
