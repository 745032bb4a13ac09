"""Finds what can be found without running: references nobody follows, policies that cannot match, commands that do not exist.

`load_config` refused what cannot be understood; what is found here can be understood and will not work, or not as meant.
An error will certainly fail; a warning may be meant.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from controller import plugins
from controller.config.problems import Findings, texts
from controller.config.problems import Path as Steps
from controller.config.records import Config, absolute
from controller.core import template
from controller.core.conditions import Expression, Pattern
from controller.core.model import Json
from controller.core.on import Leaf, MaxAge
from controller.core.policy import ModelSpec, Policy
from controller.errors import PluginError, Problem

#: What the kernel takes as the path of a Unix socket.
_MAX_SOCKET_BYTES = 107
_PARAMETER = re.compile(r"\bparams\.([A-Za-z_]\w*)")


def check(config: Config) -> list[Problem]:
    """Return what is wrong or odd, sorted by place, the warnings of loading among it; an empty list is praise."""
    findings = Findings(config.tree)
    for warning in config.warnings:
        findings.note(warning)
    _check_installation(config, findings)
    _check_sources(config, findings)
    for model in config.models.values():
        _check_model(config, model, findings)
    return [*findings.errors(), *findings.warnings()]


# ------------------------------------------------------------------------------------------------- installation


def _check_installation(config: Config, findings: Findings) -> None:
    if not config.models:
        findings.add(
            ("models",),
            "no model is configured, so nothing will be retrained",
            severity="warning",
            at_key=True,
        )
    length = len(os.fsencode(config.http.socket))
    if length > _MAX_SOCKET_BYTES:
        findings.add(
            ("http", "socket"),
            f"the socket's path {str(config.http.socket)!r} has {length} bytes; the kernel takes {_MAX_SOCKET_BYTES}",
            "give `http: {socket: …}` a shorter path",
        )
    used = {model.training.launcher for model in config.models.values()}
    for name in findings.value(("launchers",)) or ():
        if name not in used:
            findings.add(
                ("launchers", name),
                f"no model uses launcher {name!r}",
                severity="warning",
                at_key=True,
            )


def _check_sources(config: Config, findings: Findings) -> None:
    leaves = [policy.on for model in config.models.values() for policy in model.policies.values()]
    named = {on.source for on in leaves if isinstance(on, Leaf)}
    for name, source in config.sources.items():
        if name not in named and not _open_to_all(leaves):
            findings.add(
                ("sources", name),
                f"no policy uses source {name!r}",
                severity="warning",
                at_key=True,
            )
        if hasattr(source.options, "verify") and getattr(source.options, "insecure", False):
            findings.add(
                ("sources", name, "insecure"),
                f"whoever reaches /hooks/{name} can post events",
                "give it a verifier: `verify`",
                severity="warning",
            )
        watched = getattr(source.options, "path", None)
        if isinstance(watched, str | Path):
            _check_watched_folder(config, name, absolute(config.base, watched), findings)


def _open_to_all(leaves: list[Leaf | MaxAge]) -> bool:
    """Say whether some policy takes events of any source."""
    return any(isinstance(on, Leaf) and on.source is None for on in leaves)


def _check_watched_folder(config: Config, name: str, watched: Path, findings: Findings) -> None:
    path: Steps = ("sources", name, "path")
    if watched == config.state_dir or config.state_dir in watched.parents:
        findings.add(
            path,
            "it lies inside state_dir, where the controller writes itself",
            "watch another folder",
        )
    elif watched in config.state_dir.parents and getattr(config.sources[name].options, "recursive", True):
        findings.add(
            path,
            "it contains state_dir, so what the controller writes may become events",
            "watch a folder beside it, or move state_dir",
            severity="warning",
        )


# ------------------------------------------------------------------------------------------------------- models


def _check_model(config: Config, model: ModelSpec, findings: Findings) -> None:
    path: Steps = ("models", model.name)
    if not model.policies:
        findings.add(path, "it has no policy, so only a person can start it", severity="warning", at_key=True)
    for policy in model.policies.values():
        _check_policy(config, policy, (*path, "policies", policy.name), findings)
    _check_templates(model, (*path, "train"), findings)
    options = model.training.options
    _check_command(config, options, "launchers", model.training.launcher, (*path, "train"), findings)
    for position, promoter in enumerate(model.promoters):
        at: Steps = (*path, "promote", position)
        _check_command(config, promoter.options, "promoters", promoter.type, at, findings)
    if model.training.concurrency == "forbid" and any(isinstance(on, Leaf) for on in _leaves(model)):
        findings.add(
            (*path, "train", "concurrency"),
            "forbid drops the events that come while a run goes on; what they announce waits for the next one",
            "queue keeps them for a run after it",
            severity="warning",
        )
    if model.promoters and model.gate.objective is None and not model.gate.require:
        findings.add(
            (*path, "promote"),
            "nothing is asked of a challenger: every result is promoted",
            "add `gate: {objective: …}` or `gate: {require: […]}`",
            at_key=True,
            severity="warning",
        )


def _leaves(model: ModelSpec) -> list[Leaf | MaxAge]:
    return [policy.on for policy in model.policies.values()]


def _check_policy(config: Config, policy: Policy, path: Steps, findings: Findings) -> None:
    on = policy.on
    if not isinstance(on, Leaf):
        return
    emitted = _emitted_types(config, on)
    if on.type is None or on.type.literal is None or emitted is None:
        return
    if not any(pattern.matches(on.type.literal) for pattern in emitted):
        findings.add(
            (*path, "on", "type"),
            f"it can never match: source {on.source!r} does not emit {on.type.text!r}",
            f"it emits: {', '.join(pattern.text for pattern in emitted)}",
        )


def _emitted_types(config: Config, on: Leaf) -> list[Pattern] | None:
    """Return the types that the policy's source emits; None when nobody can say.

    A source that emits one type of event has it in its options.
    """
    if on.source is None or on.source not in config.sources:
        return None
    options = config.sources[on.source].options
    emitted = getattr(options, "event_type", None)
    return [Pattern(emitted)] if isinstance(emitted, str) else None


def _plugin(kind: plugins.Kind, name: str) -> Any:
    try:
        return plugins.load(kind, name)
    except PluginError:
        return None  # it was there when the configuration was loaded; nothing can be said of it now


# ---------------------------------------------------------------------------------------------------- templates


def _check_templates(model: ModelSpec, path: Steps, findings: Findings) -> None:
    """Warn of names that a template reads and some run will not have."""
    without_event = sorted(policy.name for policy in model.policies.values() if isinstance(policy.on, MaxAge))
    for steps, expression in _expressions(findings, path):
        optional = "has(" in expression.source
        if "event" in expression.variables and without_event and "event !=" not in expression.source:
            findings.add(
                steps,
                f"policy {without_event[0]!r} fires without an event, and then {{{{ {expression.source} }}}} fails the run",
                "test it: `event != null ? … : …`",
                severity="warning",
            )
        for name in _PARAMETER.findall(expression.source):
            lacking = [candidate.name for candidate in model.training.candidates if name not in candidate.params]
            if lacking and not optional:
                findings.add(
                    steps,
                    f"candidate {lacking[0]!r} has no parameter {name!r}, and then {{{{ {expression.source} }}}} fails the run",
                    "give it under `params`, or test it with has()",
                    severity="warning",
                )


def _expressions(findings: Findings, path: Steps) -> Iterator[tuple[Steps, Expression]]:
    for steps, text in texts(findings.value(path), path):
        for expression in template.expressions(text):
            yield steps, expression


# ----------------------------------------------------------------------------------------------------- commands


def _check_command(
    config: Config,
    options: Mapping[str, Json],
    kind: plugins.Kind,
    plugin_name: str,
    path: Steps,
    findings: Findings,
) -> None:
    """Look for the program that a plugin on this machine would start."""
    command = options.get("command")
    if not isinstance(command, list) or not command or not isinstance(command[0], str) or "{{" in command[0]:
        return
    if kind == "launchers" and not getattr(_plugin(kind, plugin_name), "local", False):
        return
    program = command[0]
    env = options.get("env")
    search = env.get("PATH") if isinstance(env, dict) else None
    workdir = config.base / str(options.get("workdir") or "")
    found = shutil.which(str(workdir / program) if "/" in program else program, path=search)
    if found is None:
        findings.add(
            (*path, "command", 0),
            f"there is no program {program!r}",
            f"looked in {workdir}" if "/" in program else "looked in PATH",
        )
