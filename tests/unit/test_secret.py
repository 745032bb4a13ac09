"""Secrets are references; their values are read when needed and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from controller.errors import RetryLater
from controller.secret import Secret


class Options(BaseModel):
    token: Secret


def test_a_variable_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret("env:RETRAIN_TEST_TOKEN")
    monkeypatch.setenv("RETRAIN_TEST_TOKEN", "one")
    first = secret.reveal()
    monkeypatch.setenv("RETRAIN_TEST_TOKEN", "two")

    assert (first, secret.reveal()) == ("one", "two")


def test_a_file_is_read_each_time_without_its_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    secret = Secret("file:token", base=tmp_path)
    first = secret.reveal()
    (tmp_path / "token").write_text(" two\r\n")

    assert (first, secret.reveal()) == ("one", " two")


@pytest.mark.parametrize(
    "reference,message",
    [
        ("env:RETRAIN_TEST_NOT_SET", "secret env:RETRAIN_TEST_NOT_SET is not set"),
        ("file:nowhere", "secret file:nowhere cannot be read: No such file or directory"),
        ("file:empty", "secret file:empty is empty"),
        ("file:binary", "secret file:binary is not UTF-8 text"),
    ],
)
def test_a_secret_that_is_not_there_says_so(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    with pytest.raises(RetryLater) as refusal:
        Secret(reference, base=tmp_path).reveal()

    assert refusal.value.message == message


def test_G14_nothing_shows_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TEST_TOKEN", "hunter2")
    options = Options.model_validate({"token": "env:RETRAIN_TEST_TOKEN"})

    assert options.token.reveal() == "hunter2"
    assert repr(options.token) == str(options.token) == "***"
    assert "hunter2" not in repr(options) + options.model_dump_json()
    assert options.model_dump() == {"token": "env:RETRAIN_TEST_TOKEN"}


@pytest.mark.parametrize("value", ["hunter2", "env:", "env:a b", "file:", "", 5, None])
def test_a_secret_in_the_file_is_refused_without_repeating_it(value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        Options.model_validate({"token": value})

    assert refusal.value.errors()[0]["msg"].endswith("a secret is given by reference: env:NAME or file:PATH")


def test_a_relative_file_starts_at_the_base_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")

    options = Options.model_validate({"token": "file:token"}, context={"base": tmp_path})

    assert options.token.reveal() == "x"
    assert options.token == Secret("file:token", base=tmp_path)


def test_a_file_that_everybody_can_read_is_noticed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(0o600)
    secret = Secret("file:token", base=tmp_path)
    private = secret.readable_by_all()
    token.chmod(0o644)

    assert (private, secret.readable_by_all()) == (False, True)
    assert not Secret("env:HOME").readable_by_all()
