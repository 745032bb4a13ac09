"""Versions and the normal form: they change with what is decided and with nothing else; and what a reload takes or refuses."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import models_from_normal_form, policy_from_normal_form, reload_config
from controller.config.values import iso_duration
from controller.core.duration import parse_duration
from controller.errors import ConfigError
from tests.unit.config.texts import BASE, ON, load, on

# ------------------------------------------------------------------------------------------------------------- versions


def test_the_version_does_not_depend_on_how_it_is_written(folder: Path) -> None:
    one = load(BASE + "    approve: {timeout: 2d, required: false}\n")
    two = load(
        "models:\n  churn: {train: {command: [python3, train.py], timeout: 1440m}, approve: {timeout: PT48H},"
        " policies: {drift: {on: {count: 1, type: 'drift.*'}}}}\n"
        "sources: {landing: {path: landing, type: files}}\nversion: 1\n"
    )

    assert one.version == two.version
    assert len(one.version) == 16


def test_a_policy_s_versions_change_with_what_it_decides(folder: Path) -> None:
    plain = load(BASE).models["churn"].policies["drift"]
    cooled = load(on(ON + "\n        cooldown: {period: 5m}")).models["churn"].policies["drift"]
    other = load(on("on: {type: other}")).models["churn"].policies["drift"]
    replacing = load(BASE.replace("train.py]", "train.py], concurrency: replace")).models["churn"].policies["drift"]
    unrelated = load(BASE + "    keep_artifacts: 1").models["churn"].policies["drift"]

    assert plain.version == unrelated.version
    assert len({plain.version, cooled.version, other.version, replacing.version}) == 4
    assert plain.on_hash == cooled.on_hash == replacing.on_hash != other.on_hash


def test_hashes_stay_the_same_between_releases(folder: Path) -> None:
    """State in the database is keyed by these: a release that changes them resets every policy."""
    policy = load(BASE).models["churn"].policies["drift"]

    assert (policy.on_hash, policy.version) == ("a36c499bd8ec53c2", "228f3128312e487a")


def test_an_old_model_is_rebuilt_from_the_normal_form_alone(folder: Path) -> None:
    config = load(BASE.replace("train.py]", "train.py], params: {none: null, nested: {a: null}}"))
    stored = json.loads(json.dumps(config.normal_form))
    Path("retrain.yaml").unlink()

    assert models_from_normal_form(stored) == config.models
    assert models_from_normal_form(stored, only=["churn"]) == config.models
    assert models_from_normal_form(stored, only=[]) == {}
    assert policy_from_normal_form("churn", "drift", stored) == config.models["churn"].policies["drift"]
    with pytest.raises(KeyError):
        policy_from_normal_form("churn", "gone", stored)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3660)))
def test_a_duration_in_a_normal_form_reads_back(length: timedelta) -> None:
    assert parse_duration(iso_duration(length)) == length


# --------------------------------------------------------------------------------------------------------------- reload


def test_a_reload_takes_the_new_configuration_as_a_whole(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE.replace("drift.*", "other.*"))

    new = reload_config(old)

    assert new.version != old.version


def test_a_broken_reload_leaves_the_old_one_alone(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE + "nonsense")

    with pytest.raises(ConfigError):
        reload_config(old)

    assert old.models["churn"].policies


def test_what_needs_a_restart_is_refused_by_a_reload(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE + "store: sqlite:///other.db\nstate_dir: elsewhere\nhttp: {listen: 'a:1'}\n")

    with pytest.raises(ConfigError) as refusal:
        reload_config(old)

    assert [str(problem) for problem in refusal.value.problems] == [
        "retrain.yaml:10:1: store: store has changed, which needs a restart (restart the daemon, or change it back)",
        "retrain.yaml:11:1: state_dir: state_dir has changed, which needs a restart "
        "(restart the daemon, or change it back)",
        "retrain.yaml:12:1: http: http has changed, which needs a restart (restart the daemon, or change it back)",
    ]


def test_replicas_that_differ_only_in_their_own_places_have_the_same_version(folder: Path) -> None:
    """Where a replica listens and keeps its files is its own; what it decides by is what counts."""
    one = load(BASE)
    two = load("state_dir: elsewhere\nruns_dir: shared/runs\nhttp: {listen: 127.0.0.1:8099}\n" + BASE)

    assert one.version == two.version
    assert (two.runs_dir.name, two.runs_dir.parent.name) == ("runs", "shared")
