"""The JSON Schema that editors use agrees with the loader where it can."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.config import json_schema
from controller.config.yaml12 import parse

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = json_schema()
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}


def violations(value: Any, schema: Any, path: str = "") -> Iterator[str]:
    """Yield what a value breaks, by the keywords of draft 2020-12 that our schema uses."""
    if schema is True:
        return
    if "$ref" in schema:
        yield from violations(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], path)
    if (wanted := schema.get("type")) is not None:
        fits = isinstance(value, TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
        if not fits:
            yield f"{path}: not {wanted}"
            return
    if "const" in schema and value != schema["const"]:
        yield f"{path}: not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: not one of {schema['enum']}"
    if "anyOf" in schema and all(any(True for _ in violations(value, one, path)) for one in schema["anyOf"]):
        yield f"{path}: fits none"
    for one in schema.get("allOf", ()):
        yield from violations(value, one, path)
    if "not" in schema and not any(True for _ in violations(value, schema["not"], path)):
        yield f"{path}: fits what it must not"
    if "if" in schema:
        holds = not any(True for _ in violations(value, schema["if"], path))
        yield from violations(value, schema.get("then" if holds else "else", True), path)
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: does not match"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: out of bounds"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", True), f"{path}[{index}]")
    if isinstance(value, dict):
        if len(value) < schema.get("minProperties", 0):
            yield f"{path}: too few keys"
        properties = schema.get("properties", {})
        for key in schema.get("required", ()):
            if key not in value:
                yield f"{path}: {key} is missing"
        for key, item in value.items():
            if "propertyNames" in schema:
                yield from violations(key, schema["propertyNames"], f"{path}.{key}")
            if key in properties:
                yield from violations(item, properties[key], f"{path}.{key}")
            elif (rest := schema.get("additionalProperties", True)) is False:
                yield f"{path}: unknown key {key}"
            else:
                yield from violations(item, rest, f"{path}.{key}")


def shipped_configurations() -> list[Path]:
    found = [
        file
        for folder in ("configs", "examples", "deploy")
        for file in sorted((REPOSITORY / folder).rglob("*.yaml"))
        if "\nmodels:" in file.read_text() and "\napiVersion:" not in f"\n{file.read_text()}"
    ]
    return [*found, REPOSITORY / "controller/config/initial/retrain.yaml"]


@pytest.mark.parametrize("file", shipped_configurations(), ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_shipped_configuration_fits(file: Path) -> None:
    root, _ = parse(file.read_bytes(), file=str(file))

    assert list(violations(root, SCHEMA)) == []


GOOD = """
version: 1
sources: {landing: {type: files, path: landing}}
models:
  churn:
    policies: {new: {on: {source: landing}, cooldown: {period: 5m}}}
    train: {command: [sh], candidates: {a: }}
    promote: [{type: alias, path: x}]
"""


@pytest.mark.parametrize(
    "right,wrong",
    [
        ("sources:", "sorces:"),
        ("path: landing", "pth: landing"),
        ("type: files", "type: fiels"),
        ("policies:", "polices:"),
        ("cooldown:", "cooldwon:"),
        ("period: 5m", "period: 5 minuts"),
        ("period: 5m", "period: 5"),
        ("command:", "comand:"),
        ("command: [sh]", "command: sh"),
        ("promote:", "promot:"),
        ("type: alias", "type: alais"),
        ("path: x", "pth: x"),
        ("version: 1", "version: 2"),
        ("churn:", "Churn:"),
    ],
)
def test_a_misspelt_word_is_refused(right: str, wrong: str) -> None:
    good, _ = parse(GOOD.encode(), file="good")
    bad, _ = parse(GOOD.replace(right, wrong, 1).encode(), file="bad")

    assert list(violations(good, SCHEMA)) == []
    assert list(violations(bad, SCHEMA)) != []


def test_the_schema_is_json_with_a_description_for_each_section() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all("description" in entry or "$ref" in entry for entry in SCHEMA["properties"].values())
    references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(SCHEMA)))
    assert references <= set(SCHEMA["$defs"])
