"""Makes the JSON Schema of a configuration, so that editors complete and check it.

It is assembled from the sections of `schema.py` and the `Options` of the plugins that are installed; `retrainctl schema` prints it.
It is a little kinder than the loader: it knows no CEL, no names of sources, and takes a template wherever one may stand.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from controller import plugins
from controller.config.files import SELECT_NONE
from controller.config.schema import ConfigSection
from controller.errors import PluginError

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = "#/$defs/{model}"
_TEMPLATE = {"type": "string", "pattern": r"^\s*\{\{"}
_NAMES = {"pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the schema (draft 2020-12), with the options of every installed plugin that can be imported."""
    schema = ConfigSection.model_json_schema(ref_template=_REFERENCES)
    definitions: Schema = schema["$defs"]
    _open_candidates(definitions)
    _open_policies(definitions)
    _add_plugins(definitions, "sources", "SourceSection")
    _add_plugins(definitions, "promoters", "PromoteSection")
    _add_plugins(definitions, "notifiers", "NotifierSection")
    _add_launchers(schema, definitions)
    for owner, key in (
        (schema, "sources"),
        (schema, "models"),
        (schema, "policies"),
        (definitions["ModelSection"], "policies"),
    ):
        owner["properties"][key]["propertyNames"] = _NAMES
    schema["properties"]["notifiers"]["anyOf"][0]["propertyNames"] = _NAMES
    schema["properties"]["store"]["anyOf"].insert(0, {"type": "string", "description": "The database's URL"})
    return {"$schema": _DIALECT, **schema, "title": "Retrain Controller configuration"}


def _open_candidates(definitions: Schema) -> None:
    """Let a candidate without a value stand for one without parameters."""
    candidates = definitions["TrainSection"]["properties"]["candidates"]
    candidates["additionalProperties"] = {"anyOf": [candidates["additionalProperties"], {"type": "null"}]}
    candidates["propertyNames"] = _NAMES


def _open_policies(definitions: Schema) -> None:
    """Let a model say of a shared policy only what is different, or that it does not want it."""
    own = definitions["PolicySection"]
    own["required"] = [key for key in own.get("required", ()) if key != "on"]
    policies = definitions["ModelSection"]["properties"]["policies"]
    policies["additionalProperties"] = {
        "anyOf": [policies["additionalProperties"], {"enum": [SELECT_NONE, None], "description": "Not this one"}]
    }


def _add_plugins(definitions: Schema, kind: plugins.Kind, section: str) -> None:
    """Say for each `type` which other keys there are."""
    definition = definitions[section]
    shared = definition["properties"]
    known = plugins.names(kind)
    definition["properties"] = {**shared, "type": {**shared["type"], "enum": list(known)}}
    definition.pop("additionalProperties", None)
    definition["allOf"] = []
    for name in known:
        options = _options_schema(kind, name, "Options", definitions)
        if options is None:
            continue
        options["properties"] = {**options["properties"], "type": {"const": name}}
        definitions[f"{kind}.{name}"] = options
        definition["allOf"].append(_when("type", name, {"$ref": f"#/$defs/{kind}.{name}"}))


def _add_launchers(schema: Schema, definitions: Schema) -> None:
    """Say which keys each launcher adds to `train`, and which settings it has."""
    train = definitions["TrainSection"]
    shared = train["properties"]
    settings: Schema = {}
    every: Schema = {}
    rules = []
    for name in plugins.names("launchers"):
        options = _options_schema("launchers", name, "Options", definitions)
        if options is not None:
            own = {
                key: {"anyOf": [value, _TEMPLATE]} for key, value in options["properties"].items() if key not in shared
            }
            every.update(own)
            definitions[f"train.{name}"] = _closed({**shared, **own})
            rules.append(_when("launcher", name, {"$ref": f"#/$defs/train.{name}"}))
        its_settings = _options_schema("launchers", name, "Settings", definitions)
        settings[name] = its_settings if its_settings is not None else {"type": "object"}
    definitions["train.any"] = _closed({**shared, **every})
    rules.append({"if": {"not": {"required": ["launcher"]}}, "then": {"$ref": "#/$defs/train.any"}})
    train.pop("additionalProperties", None)
    shared["launcher"] = {**shared["launcher"], "enum": list(plugins.names("launchers"))}
    train["allOf"] = rules
    schema["properties"]["launchers"] = {
        "description": schema["properties"]["launchers"]["description"],
        **_closed(settings),
    }


def _options_schema(kind: plugins.Kind, name: str, attribute: str, definitions: Schema) -> Schema | None:
    """Return the schema of a plugin's options, its own definitions moved to ours; None when it has none to offer."""
    try:
        model: type[BaseModel] = getattr(plugins.load(kind, name), attribute)
        template = f"#/$defs/{kind}.{name}.{{model}}"
        schema = model.model_json_schema(ref_template=template)
    except (PluginError, AttributeError, PydanticInvalidForJsonSchema):
        return None  # a plugin without its client is not in the way of the others
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[f"{kind}.{name}.{inner}"] = definition
    schema.setdefault("properties", {})
    return schema


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _when(key: str, value: str, then: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}
