"""What a job reports when it ends well: one JSON document (design 7).

A document that is missing, malformed, oversized or not finite is a failed job with that reason, never a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.core import strict_json
from controller.core.model import Json
from controller.errors import InvalidInput

MAX_RESULT_BYTES = 1 << 20
_KEYS = (
    "metrics",
    "champion_metrics",
    "artifact",
    "evaluation",
    "data",
    "code",
    "slices",
    "report",
    "cost",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A valid result."""

    #: The candidate's metrics: names to finite numbers; at least one.
    metrics: Mapping[str, float]
    #: The champion's, evaluated on the same data; None when the job did not.
    champion_metrics: Mapping[str, float] | None = None
    #: URI or path of what was trained.
    artifact: str | None = None
    #: Digest and count of the data behind both sets of metrics.
    evaluation: Mapping[str, Json] = field(default_factory=dict)
    #: Identity of the training data: digest, counts.
    data: Mapping[str, Json] = field(default_factory=dict)
    #: Identity of the code: commit or digest.
    code: Mapping[str, Json] = field(default_factory=dict)
    slices: Json = None
    report: Json = None
    #: What it cost, in the units that the model declares.
    cost: float | None = None


def parse_result(document: bytes | None) -> Result:
    """Return the result in a document (None: the job wrote none); raises `InvalidInput` with what is wrong."""
    if document is None:
        raise InvalidInput("the job wrote no result", hint="write the JSON document to the path in RETRAIN_RESULT")
    value = strict_json.parse(document, max_bytes=MAX_RESULT_BYTES)
    if not isinstance(value, dict):
        raise InvalidInput(f"the result is a JSON {_kind(value)}, not an object")
    if unknown := sorted(set(value) - set(_KEYS)):
        raise InvalidInput(f"the result has the unknown key {unknown[0]!r}", hint=f"known: {', '.join(_KEYS)}")
    metrics = _numbers(value, "metrics")
    if not metrics:
        raise InvalidInput("the result has no metrics", hint='write {"metrics": {"auc": 0.71}, …}')
    champion_metrics = _numbers(value, "champion_metrics") if value.get("champion_metrics") is not None else None
    return Result(
        metrics=metrics,
        champion_metrics=champion_metrics,
        artifact=_text(value, "artifact"),
        evaluation=_mapping(value, "evaluation"),
        data=_mapping(value, "data"),
        code=_mapping(value, "code"),
        slices=value.get("slices"),
        report=value.get("report"),
        cost=_cost(value),
    )


def _numbers(value: Mapping[str, Json], name: str) -> dict[str, float]:
    numbers = _mapping(value, name)
    for metric, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InvalidInput(f"{name}.{metric} is {number!r}, not a number")
    return {metric: float(number) for metric, number in numbers.items()}


def _mapping(value: Mapping[str, Json], name: str) -> dict[str, Json]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInput(f"{name} is a JSON {_kind(found)}, not an object")
    return found


def _text(value: Mapping[str, Json], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise InvalidInput(f"{name} is a JSON {_kind(found)}, not a string")
    return found


def _cost(value: Mapping[str, Json]) -> float | None:
    found = value.get("cost")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
        raise InvalidInput(f"cost is {found!r}, not a number of at least 0")
    return float(found)


def _kind(value: Json) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
