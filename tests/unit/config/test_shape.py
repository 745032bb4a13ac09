"""What comes out of a configuration: every default, everything of its shape, and of any shape a result or a refusal with places."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.config import Config, load_config, models_from_normal_form, plugin_options
from controller.core.on import Leaf, MaxAge
from controller.errors import ConfigError, PluginError
from tests.unit.config.texts import BASE, load

# ------------------------------------------------------------------------------------------------------- what comes out


def test_the_smallest_configuration_has_every_default_filled_in(folder: Path) -> None:
    config = load(BASE)

    model = config.models["churn"]
    assert config.base == folder
    assert config.state_dir == folder / "state"
    assert config.http.listen is None
    assert config.http.socket == folder / "state" / "retrain.sock"
    assert config.store.reveal() == f"sqlite:///{folder}/state/retrain.db"
    assert config.sources["landing"].type == "files"
    assert [candidate.name for candidate in model.training.candidates] == ["default"]
    assert model.training.launcher == "process"
    assert model.training.options == {"command": ["python3", "train.py"]}
    assert model.notify == ("log",)
    assert model.policies["drift"].on == Leaf(type=model.policies["drift"].on.type)
    assert set(config.launchers) == {"process"}
    assert config.warnings == ()


def test_everything_of_the_shape_is_read(folder: Path) -> None:
    config = load("""\
version: 1
store: {url: "postgresql://me@db.example/retrain", password: env:HOME}
state_dir: /var/lib/retrain
http: {listen: "127.0.0.1:0", socket: run/x.sock}
sources:
  landing: {type: files, path: landing, include: ["*.csv"], settle: 2s}
  nightly: {type: cron, schedule: "0 3 * * *", timezone: America/New_York, catch_up: last}
launchers: {process: {slots: 3}}
defaults:
  labels: {team: travel}
  train: {timeout: 1h, retries: {attempts: 5, backoff: 1m}, params: {seed: 7, depth: 2}}
  notify: []
models:
  flight-delay:
    labels: {tier: gold}
    policies:
      drift:
        on: {type: "drift.*", subject: "f*", when: event.data.share > 0.3, count: 3, within: 1h, by: event.subject}
        debounce: {quiet: 5s, max_wait: 1m}
        cooldown: {after: promotion, period: 6h, after_failure: 1h}
        quiet_hours: {between: "22:00-06:00", timezone: America/New_York, days: [mon, tue]}
      stale: {on: {max_age: 30d}}
    train:
      command: [python3, train.py, "{{ params.depth }}", 1e-3, 7]
      candidates: {boosting: {params: {depth: 6}}, linear: }
      concurrency: replace
      retries: {attempts: 2}
    gate:
      select: {metric: auc_valid}
      objective: {metric: auc, goal: maximize, min_gain: 0.002}
      require: [candidate.metrics.auc > 0.6, "champion == null || candidate.metrics.rows >= 10"]
      champion_metrics: stored
      candidates_needed: all
    approve: {required: true, timeout: 2d}
    promote: [{type: alias, path: models/x}]
    keep_artifacts: 9
    after_rollback: resume
""")

    model = config.models["flight-delay"]
    assert config.http.listen == ("127.0.0.1", 0)
    assert config.http.socket == folder / "run" / "x.sock"
    assert str(config.state_dir) == "/var/lib/retrain"
    assert config.launchers["process"].slots == 3
    assert model.labels == {"team": "travel", "tier": "gold"}
    assert model.training.timeout == timedelta(hours=1)
    assert (model.training.retries.attempts, model.training.retries.backoff) == (2, timedelta(minutes=1))
    assert {c.name: c.params for c in model.training.candidates} == {
        "boosting": {"seed": 7, "depth": 6},
        "linear": {"seed": 7, "depth": 2},
    }
    assert model.policies["stale"].on == MaxAge(age=timedelta(days=30), again_after=timedelta(days=3))
    assert model.policies["drift"].concurrency == "replace"
    assert model.policies["drift"].quiet_hours.days == ("mon", "tue")
    assert model.gate.require[0].source == "candidate.metrics.auc > 0.6"
    assert model.approval.required
    assert model.promoters[0].options == {"path": "models/x"}
    assert model.notify == ()
    assert model.after_rollback is None
    assert models_from_normal_form(json.loads(json.dumps(config.normal_form))) == config.models


def test_options_are_read_again_once_templates_are_filled(folder: Path) -> None:
    options = plugin_options("launchers", "process", {"command": ["a", 4.0, "b"]}, base=folder)

    assert options.command == ["a", "4", "b"]
    with pytest.raises(PluginError, match="launcher 'process' refuses its options: command: 5 is not a list"):
        plugin_options("launchers", "process", {"command": 5}, base=folder)


def test_ten_thousand_policies_load(folder: Path) -> None:
    """Each with an expression of its own; the time-out of a test is the bound, the report of the benchmark has the time."""
    policies = "".join(
        f"  m{model}:\n    train: {{command: [sh]}}\n    policies:\n"
        + "".join(
            f"      p{policy}: {{on: {{source: landing, when: event.data.n > {model * 20 + policy}}}, cooldown: {{period: 6h}}}}\n"
            for policy in range(20)
        )
        for model in range(500)
    )

    config = load("version: 1\nsources: {landing: {type: files, path: landing}}\nmodels:\n" + policies)

    assert sum(len(model.policies) for model in config.models.values()) == 10_000


# -------------------------------------------------------------------------------------------------- whatever is written


def loaded_or_refused(name: str) -> Config | ConfigError:
    try:
        return load_config(name)
    except ConfigError as refusal:
        return refusal


KEYS = [
    "on",
    "type",
    "source",
    "when",
    "count",
    "within",
    "by",
    "max_age",
    "debounce",
    "quiet",
    "cooldown",
    "period",
    "train",
    "command",
    "candidates",
    "params",
    "launcher",
    "retries",
    "attempts",
    "policies",
    "gate",
    "objective",
    "metric",
    "require",
    "promote",
    "path",
    "url",
    "password",
    "a",
    "A",
]
yaml_values = st.recursive(
    st.sampled_from(
        ["1", "no", "010", "5m", "~", "x", "'{{ event.x }}'", "env:HOME", "files", "process", "''", "-1", "1.5"]
    ),
    lambda children: (
        st.lists(children, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from(KEYS),
            children,
            max_size=4,
        ).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}")
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections=st.dictionaries(
        st.sampled_from(["sources", "models", "defaults", "launchers", "store", "http", "state_dir", "version"]),
        yaml_values,
    ),
    model=yaml_values,
)
def test_any_shape_is_loaded_or_refused_with_places(folder: Path, sections: dict[str, str], model: str) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in {"version": "1", **sections}.items())
    if "models" not in sections:
        text += f"models: {{churn: {model}}}\n"
    Path("retrain.yaml").write_text(text)

    outcome = loaded_or_refused("retrain.yaml")

    if isinstance(outcome, ConfigError):
        assert outcome.problems
        assert all(problem.line and problem.column and problem.message for problem in outcome.problems)
    else:
        assert models_from_normal_form(json.loads(json.dumps(outcome.normal_form))) == outcome.models


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(BASE)), junk=st.text("{}[]:,-'\"#&*!|>% \n\tabc019.~", max_size=6))
def test_any_slip_of_the_pen_is_loaded_or_refused(folder: Path, position: int, junk: str) -> None:
    Path("retrain.yaml").write_text(BASE[:position] + junk + BASE[position:])

    outcome = loaded_or_refused("retrain.yaml")

    assert not isinstance(outcome, ConfigError) or outcome.problems
