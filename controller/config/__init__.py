"""The configuration: YAML in, records of the core out, and every mistake with its place.

`load_config` reads a file or a folder; `check` finds what can be found without running; `json_schema` feeds editors;
`write_initial` writes a configuration that runs; `models_from_normal_form` rebuilds what an old run was decided under.
"""

from __future__ import annotations

from controller.config.build import models_from_normal_form, policy_from_normal_form
from controller.config.build_policy import version_of
from controller.config.check import check
from controller.config.editors import json_schema
from controller.config.init import write_initial
from controller.config.load import load_config, plugin_options, reload_config
from controller.config.records import Config, Http, NotifierSpec, Quota, Retention, SourceSpec, StoreAddress

__all__ = [
    "Config",
    "Http",
    "NotifierSpec",
    "Quota",
    "Retention",
    "SourceSpec",
    "StoreAddress",
    "check",
    "json_schema",
    "load_config",
    "models_from_normal_form",
    "plugin_options",
    "policy_from_normal_form",
    "reload_config",
    "version_of",
    "write_initial",
]
