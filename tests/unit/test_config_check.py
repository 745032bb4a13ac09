"""What `check` finds without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import check, load_config, write_initial

BASE = """\
version: 1
sources:
  landing: {type: files, path: landing}
models:
  churn:
    policies:
      new: {on: {source: landing}}
    train: {command: [sh, train.sh]}
"""
WATCHED = "sources:\n  landing: {type: files, path: landing}\n"

CASES = {
    "nothing to say": (BASE, []),
    "no model": (
        "version: 1",
        ["warning retrain.yaml:1:1: models: no model is configured, so nothing will be retrained"],
    ),
    "no policy": (
        "version: 1\nmodels:\n  churn: {train: {command: [sh]}}",
        ["warning retrain.yaml:3:3: models.churn: it has no policy, so only a person can start it"],
    ),
    "a source nobody uses": (
        BASE.replace(WATCHED, WATCHED + "  other: {type: files, path: other}\n"),
        ["warning retrain.yaml:4:3: sources.other: no policy uses source 'other'"],
    ),
    "settings of a launcher in use": (BASE + "launchers: {process: {slots: 1}}", []),
    "a type the source does not emit": (
        BASE.replace("{source: landing}", "{source: landing, type: file.arived}"),
        [
            "error retrain.yaml:7:41: models.churn.policies.new.on.type: it can never match: source 'landing' "
            "does not emit 'file.arived' (it emits: file.arrived; see retrain.yaml:3:3)"
        ],
    ),
    "a program that does not exist": (
        BASE.replace("[sh,", "[no-such-program,"),
        [
            "error retrain.yaml:8:23: models.churn.train.command[0]: there is no program 'no-such-program' (looked in PATH)"
        ],
    ),
    "forbid": (
        BASE.replace("train.sh]", "train.sh], concurrency: forbid"),
        [
            "warning retrain.yaml:8:51: models.churn.train.concurrency: forbid drops the events that come while a run "
            "goes on; what they announce waits for the next one (queue keeps them for a run after it)"
        ],
    ),
    "promotion without a gate": (
        BASE + "    promote: [{type: alias, path: models/x}]",
        [
            "warning retrain.yaml:9:5: models.churn.promote: nothing is asked of a challenger: every result is promoted "
            "(add `gate: {objective: …}` or `gate: {require: […]}`)"
        ],
    ),
    "a template over an event that a level does not have": (
        BASE.replace("new: ", "stale: {on: {max_age: 30d}}\n      new: ").replace(
            "train.sh]", "'{{ event.data.path }}']"
        ),
        [
            "warning retrain.yaml:7:29: models.churn.policies.stale.on.max_age: it never comes: nothing of this model is "
            "promoted, so there is no champion whose age counts (give the model at retrain.yaml:5:3 a promoter: `promote`)",
            "warning retrain.yaml:9:27: models.churn.train.command[1]: policy 'stale' fires without an event, and then "
            "{{ event.data.path }} fails the run (test it: `event != null ? … : …`)",
        ],
    ),
    "a template over a parameter that a candidate lacks": (
        BASE.replace("train.sh]", "'{{ params.depth }}'], candidates: {a: {params: {depth: 1}}, b: }")
        + "    gate: {objective: {metric: auc}}",
        [
            "warning retrain.yaml:8:27: models.churn.train.command[1]: candidate 'b' has no parameter 'depth', and then "
            "{{ params.depth }} fails the run (give it under `params`, or test it with has())"
        ],
    ),
    "watching the state": (
        BASE.replace("path: landing", "path: state/in"),
        [
            "error retrain.yaml:3:32: sources.landing.path: it lies inside state_dir, where the controller writes itself "
            "(watch another folder)"
        ],
    ),
    "watching around the state": (
        BASE.replace("path: landing", "path: ., recursive: true"),
        [
            "warning retrain.yaml:3:32: sources.landing.path: it contains state_dir, so what the controller writes may "
            "become events (watch a folder beside it, or move state_dir)"
        ],
    ),
}


@pytest.mark.parametrize("text,expected", list(CASES.values()), ids=list(CASES))
def test_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("retrain.yaml").write_text(text)

    found = check(load_config("retrain.yaml"))

    assert [f"{problem.severity} {problem}" for problem in found] == expected


def test_a_program_beside_the_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("retrain.yaml").write_text(BASE.replace("[sh, train.sh]", "[./train.sh]"))
    missing = check(load_config("retrain.yaml"))
    Path("train.sh").write_text("#!/bin/sh\n")
    Path("train.sh").chmod(0o755)

    assert [problem.message for problem in missing] == ["there is no program './train.sh'"]
    assert check(load_config("retrain.yaml")) == []


def test_a_socket_path_that_is_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("retrain.yaml").write_text(BASE + f"http: {{socket: /{'x' * 120}}}")

    found = check(load_config("retrain.yaml"))

    assert [(problem.severity, problem.path) for problem in found] == [("error", "http.socket")]


def test_what_init_writes_has_nothing_against_it(tmp_path: Path) -> None:
    write_initial(tmp_path)

    assert check(load_config(tmp_path)) == []
