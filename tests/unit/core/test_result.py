"""What a job reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.core.result import MAX_RESULT_BYTES, Result, parse_result
from controller.errors import InvalidInput

REFUSED = {
    "nothing": (None, "the job wrote no result"),
    "an empty file": (b"", "not JSON"),
    "no JSON": (b"auc=0.7", "not JSON"),
    "NaN": (b'{"metrics": {"auc": NaN}}', "NaN is not a JSON number"),
    "infinity": (b'{"metrics": {"auc": 1e999}}', "too large"),
    "too much": (b'{"metrics": {"auc": 1}, "report": "' + b"x" * MAX_RESULT_BYTES + b'"}', "bytes of JSON"),
    "an array": (b"[]", "is a JSON array, not an object"),
    "a text": (b'"auc"', "is a JSON string, not an object"),
    "a number": (b"0.7", "is a JSON number, not an object"),
    "null": (b"null", "is a JSON null, not an object"),
    "true": (b"true", "is a JSON boolean, not an object"),
    "an unknown key": (b'{"metrics": {"auc": 1}, "metric": 1}', "unknown key 'metric'"),
    "no metrics": (b"{}", "the result has no metrics"),
    "empty metrics": (b'{"metrics": {}}', "the result has no metrics"),
    "metrics null": (b'{"metrics": null}', "the result has no metrics"),
    "metrics as an array": (b'{"metrics": [0.7]}', "metrics is a JSON array, not an object"),
    "a metric as text": (b'{"metrics": {"auc": "0.7"}}', "metrics.auc is '0.7', not a number"),
    "a metric as a boolean": (b'{"metrics": {"auc": true}}', "metrics.auc is True, not a number"),
    "a metric as null": (b'{"metrics": {"auc": null}}', "metrics.auc is None, not a number"),
    "the champion's metric as text": (
        b'{"metrics": {"auc": 1}, "champion_metrics": {"auc": ""}}',
        "champion_metrics.auc is '', not a number",
    ),
    "the champion's metrics as text": (
        b'{"metrics": {"auc": 1}, "champion_metrics": ""}',
        "champion_metrics is a JSON",
    ),
    "an artifact that is no text": (
        b'{"metrics": {"auc": 1}, "artifact": 7}',
        "artifact is a JSON number, not a string",
    ),
    "data that is no object": (b'{"metrics": {"auc": 1}, "data": "x"}', "data is a JSON string, not an object"),
    "a cost as text": (b'{"metrics": {"auc": 1}, "cost": "3"}', "cost is '3'"),
    "a cost as a boolean": (b'{"metrics": {"auc": 1}, "cost": true}', "cost is True"),
    "a negative cost": (b'{"metrics": {"auc": 1}, "cost": -1}', "cost is -1, not a number of at least 0"),
}


@pytest.mark.parametrize("document, said", REFUSED.values(), ids=REFUSED)
def test_a_result_that_is_not_valid_is_refused_with_its_reason(document: bytes | None, said: str) -> None:
    """A missing, malformed, oversized or non-finite result is a failed job with a clear reason, never a pass."""
    with pytest.raises(InvalidInput) as refused:
        parse_result(document)

    assert said in refused.value.message


FULL: dict[str, Any] = {
    "metrics": {"auc": 0.7, "rows": 100},
    "champion_metrics": {"auc": 0.6},
    "artifact": "model.bin",
    "evaluation": {"digest": "d1", "rows": 10},
    "data": {"rows": 100},
    "code": {"commit": "abc"},
    "slices": [{"name": "young", "auc": 0.6}],
    "report": "report.html",
    "cost": 0,
}


def test_a_full_result_comes_through_whole() -> None:
    """Every key of the contract is read, and metrics become floats."""
    result = parse_result(json.dumps(FULL).encode())

    assert result == Result(**FULL)
    assert all(isinstance(number, float) for number in result.metrics.values())


@pytest.mark.parametrize("absent", [{}, {key: None for key in FULL if key != "metrics"}], ids=["left out", "null"])
def test_metrics_alone_are_enough(absent: dict[str, None]) -> None:
    """Everything but the metrics may be left out, or be null."""
    assert parse_result(json.dumps({"metrics": {"auc": 1}, **absent}).encode()) == Result(metrics={"auc": 1.0})
