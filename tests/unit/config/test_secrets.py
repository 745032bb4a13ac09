"""Secrets are given by reference, read late and shown nowhere; and what is a warning, not a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.config.texts import BASE, load, problems


def test_a_store_by_reference_is_read_late_and_shown_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TEST_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("RETRAIN_TEST_PASSWORD", "p@ss/w:rd")

    whole = load(BASE + "store: env:RETRAIN_TEST_URL")
    split = load(BASE + "store: {url: 'postgresql://me@db:5432/x', password: env:RETRAIN_TEST_PASSWORD}")

    assert whole.store.reveal() == "postgresql://me:hunter2@db/x"
    assert split.store.reveal() == "postgresql://me:p%40ss%2Fw%3Ard@db:5432/x"
    for config in (whole, split):
        shown = repr(config) + json.dumps(config.normal_form)
        assert "hunter2" not in shown
        assert "p@ss" not in shown
    assert whole.normal_form["store"] == {"url": "env:RETRAIN_TEST_URL"}
    assert repr(split.store) == "StoreAddress('postgresql://me:***@db:5432/x')"


def test_what_a_secret_holds_is_checked_without_showing_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TEST_URL", "hunter2")

    assert problems(BASE + "store: env:RETRAIN_TEST_URL") == [
        "retrain.yaml:10:8: store: what env:RETRAIN_TEST_URL holds is refused: it is not a database URL; "
        "write sqlite:///state/retrain.db or postgresql://user@host/db"
    ]


def test_a_secret_file_that_everybody_can_read_is_a_warning(folder: Path) -> None:
    Path("password").write_text("x")
    Path("password").chmod(0o644)

    config = load(BASE + "store: {url: 'postgresql://me@db/x', password: file:password}")

    assert [str(warning) for warning in config.warnings] == [
        "retrain.yaml:10:48: store.password: secret file:password can be read by every user of this machine (chmod 600)"
    ]


def test_words_that_were_booleans_once_are_pointed_out(folder: Path) -> None:
    config = load(BASE.replace("train.py]", "train.py], params: {shuffle: no}"))

    assert config.models["churn"].training.candidates[0].params == {"shuffle": "no"}
    assert [str(warning) for warning in config.warnings] == [
        "retrain.yaml:9:61: models.churn.train.params.shuffle: 'no' is a word here, not a boolean "
        "(write false, or quote it)"
    ]
