"""What a webhook can be told, and what is refused when the configuration is loaded."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.config import load_config
from controller.config.check import check
from controller.errors import ConfigError
from controller.sources.webhook.dialects import DIALECTS
from controller.sources.webhook.formats import FORMATS
from tests.webhooks import make_options

BEARER: dict[str, Any] = {"bearer": "env:TOKEN"}


def hmac(**said: Any) -> dict[str, Any]:
    return {"hmac": {"secret": "env:S", **said}}


REFUSED = {
    "no verifier": ({"format": "alertmanager", "insecure": False}, "needs a verifier"),
    "insecure together with verify": (
        {"format": "alertmanager", "verify": BEARER, "insecure": True},
        "contradict each other",
    ),
    "an unknown format": ({"format": "alertmangler", "verify": BEARER}, "no format of a webhook"),
    "generic without mapping": ({"format": "generic", "verify": BEARER}, "needs a `mapping`"),
    "a mapping that is none": (
        {"format": "generic", "verify": BEARER, "mapping": {"type": "body."}},
        "type:",
    ),
    "an unknown dialect": ({"format": "generic", "verify": hmac(dialect="githb")}, "is no dialect"),
    "hmac without a dialect": ({"format": "alertmanager", "verify": hmac()}, "needs a `dialect`"),
    "custom without a header": ({"format": "s3", "verify": hmac(dialect="custom")}, "needs `header`"),
    "a header that is none": ({"format": "github", "verify": hmac(header="a b")}, "not the name of a header"),
    "a timestamp that is not signed": (
        {"format": "github", "verify": hmac(timestamp_header="X-Time")},
        "the time is not signed",
    ),
    "a signed timestamp that is nowhere": (
        {"format": "github", "verify": hmac(signed="timestamp.body")},
        "`timestamp_header` is needed",
    ),
    "a signed id that is nowhere": (
        {"format": "github", "verify": hmac(signed="id.timestamp.body", timestamp_header="X-Time")},
        "`id_header` is needed",
    ),
    "an id that is not signed": ({"format": "github", "verify": hmac(id_header="X-Id")}, "the id is not signed"),
    "a tolerance without a time": ({"format": "github", "verify": hmac(tolerance="1m")}, "means nothing here"),
    "an unknown algorithm": ({"format": "github", "verify": hmac(algorithm="md5")}, "sha256"),
    "a secret in the file": ({"format": "github", "verify": {"bearer": "hunter2"}}, "by reference"),
    "two proofs in one": ({"format": "github", "verify": {**BEARER, **hmac()}}, "bearer and hmac"),
    "an empty verifier": ({"format": "github", "verify": {}}, "says nothing"),
    "no verifier in the list": ({"format": "github", "verify": []}, "at least 1"),
    "five secrets": ({"format": "github", "verify": {"bearer": ["env:A"] * 5}}, "at most 4"),
    "a username with a colon": (
        {"format": "github", "verify": {"basic": {"username": "a:b", "password": "env:P"}}},
        "colon",
    ),
    "branches for alerts": ({"format": "grafana", "verify": BEARER, "branches": ["main"]}, "`branches` means nothing"),
    "events for reports": ({"format": "evidently", "verify": BEARER, "events": ["push"]}, "`events` means nothing"),
    "a model for pushes": ({"format": "github", "verify": BEARER, "model": "m"}, "`model` means nothing"),
    "expire without episodes": ({"format": "s3", "verify": BEARER, "expire": "1h"}, "`expire` means nothing"),
    "expire at once": ({"format": "grafana", "verify": BEARER, "expire": "0s"}, "expire is"),
    "a tiny limit": ({"format": "s3", "verify": BEARER, "max_bytes": 10}, "1024"),
    "a larger limit for events": ({"format": "cloudevents", "verify": BEARER, "max_bytes": 2 << 20}, "at most"),
    "an unknown key": ({"format": "s3", "verify": BEARER, "mappings": {}}, "mappings"),
}


@pytest.mark.parametrize("said, expected", REFUSED.values(), ids=REFUSED.keys())
def test_what_makes_no_sense_is_refused_at_load(tmp_path: Path, said: dict[str, Any], expected: str) -> None:
    """A webhook that would be open by mistake, or ignore what it is told, is refused with a sentence."""
    with pytest.raises(ValidationError, match=expected):
        make_options(tmp_path, **said)


ACCEPTED: dict[str, dict[str, Any]] = {
    "insecure": {"format": "alertmanager", "insecure": True},
    "a token": {"format": "alertmanager", "verify": BEARER},
    "a token that is replaced": {"format": "alertmanager", "verify": {"bearer": ["env:NEW", "file:old"]}},
    "several ways": {
        "format": "grafana",
        "verify": [BEARER, hmac(), {"basic": {"username": "a", "password": "env:P"}}],
    },
    "grafana with a time": {"format": "grafana", "verify": hmac(timestamp_header="X-Time", tolerance="1m")},
    "a dialect of another format": {"format": "generic", "verify": hmac(dialect="mlflow"), "mapping": {"type": "'x'"}},
    "one's own": {
        "format": "s3",
        "verify": hmac(
            dialect="custom",
            header="X-Sig",
            algorithm="sha512",
            encoding="base64",
            prefix="s=",
            timestamp_header="X-Time",
            signed="timestamp.body",
            tolerance="30s",
        ),
    },
    "expire with episodes of a mapping": {
        "format": "generic",
        "verify": BEARER,
        "expire": "2h",
        "mapping": {"type": "'x'", "episode": "body.key", "state": "body.state"},
    },
}


@pytest.mark.parametrize("said", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_makes_sense_is_taken(tmp_path: Path, said: dict[str, Any]) -> None:
    """Each way to prove who one is can be configured, alone and with others."""
    options = make_options(tmp_path, **said)

    assert (options.verify is None) == options.insecure


@pytest.mark.parametrize("dialect", [*DIALECTS])
def test_every_dialect_is_complete(tmp_path: Path, dialect: str) -> None:
    """A named dialect needs nothing but a secret."""
    options = make_options(tmp_path, format="s3", verify=hmac(dialect=dialect))

    assert options.verify is not None
    assert options.verify[0].hmac is not None
    assert options.verify[0].hmac.resolved(None).header


def test_defaults_are_those_that_are_documented(tmp_path: Path) -> None:
    """A mebibyte, a day, five minutes, every branch, pushes alone."""
    options = make_options(tmp_path, format="github", verify=hmac())

    assert (options.max_bytes, options.expire) == (1 << 20, timedelta(days=1))
    assert options.verify is not None
    assert options.verify[0].hmac is not None
    assert options.verify[0].hmac.tolerance == timedelta(minutes=5)
    assert (options.branches, options.events) == (("*",), ("push",))


CONFIG = """\
version: 1
sources:
  alerts: {type: webhook, format: alertmanager%s}
"""


def write(folder: Path, more: str) -> Path:
    path = folder / "retrain.yaml"
    path.write_text(CONFIG % more)
    return path


def test_a_configuration_without_a_verifier_says_what_to_write(tmp_path: Path) -> None:
    """The refusal names the source and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, ""))

    problem = caught.value.problems[0]
    assert (problem.path, "bearer" in problem.hint, "insecure: true" in problem.hint) == ("sources.alerts", True, True)


def test_an_insecure_webhook_is_warned_of(tmp_path: Path) -> None:
    """`check` says that anybody can post."""
    warnings = [str(problem) for problem in check(load_config(write(tmp_path, ", insecure: true")))]

    assert any("whoever reaches /hooks/alerts can post events" in warning for warning in warnings)


def test_a_secret_that_is_not_there_is_found_at_load(tmp_path: Path) -> None:
    """The path leads to the secret within the list."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, ", verify: {bearer: ['file:nowhere']}"))

    assert "bearer[0]" in caught.value.problems[0].path


def test_every_format_is_documented() -> None:
    """docs/webhooks.md has a chapter on each format."""
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()

    assert [name for name in FORMATS if f"## {name}\n" not in page] == []
    assert [name for name in DIALECTS if f"`{name}`" not in page] == []
