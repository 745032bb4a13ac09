"""Finds what can be found without running: references nobody follows, policies that cannot match, commands that do not exist.

`load_config` refused what cannot be understood; what is found here can be understood and will not work, or not as meant.
An error will certainly fail; a warning may be meant.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from controller import plugins
from controller.config.files import selects
from controller.config.load import collector_paused
from controller.config.never import warn_of_dead_policies
from controller.config.problems import Findings, texts
from controller.config.problems import Path as Steps
from controller.config.records import Config, absolute
from controller.config.shadowed import warn_of_shadowed_policies
from controller.core import template
from controller.core.conditions import Expression
from controller.core.model import Json
from controller.core.on import Absent, AllOf, AnyOf, Leaf, MaxAge, Node, NoEpisode, leaves, traits
from controller.core.policy import ModelSpec
from controller.errors import PluginError, Problem

#: What the kernel takes as the path of a Unix socket.
_MAX_SOCKET_BYTES = 107
#: Finds a program in a PATH, or in that of this process.
Which = Callable[[str, str | None], str | None]
_PARAMETER = re.compile(r"\bparams\.([A-Za-z_]\w*)")


def check(config: Config) -> list[Problem]:
    """Return what is wrong or odd, sorted by place, the warnings of loading among it; an empty list is praise."""
    with collector_paused():
        return _check(config)


def _check(config: Config) -> list[Problem]:
    findings = Findings(config.tree)
    for warning in config.warnings:
        findings.note(warning)
    _check_installation(config, findings)
    _check_sources(config, findings)
    _check_shared(config, findings)
    # Most models are trained by the same program, and every folder of PATH is looked into for it.
    which: Which = cache(lambda program, path: shutil.which(program, path=path))
    _check_channels(config, findings, which)
    for model in config.models.values():
        _check_model(config, model, findings, which)
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


def _check_shared(config: Config, findings: Findings) -> None:
    """Look for policies that are shared with nobody."""
    for name, policy in (findings.value(("policies",)) or {}).items():
        select = policy["select"]
        if any(selects(select, model.labels) for model in config.models.values()):
            continue
        labels = select if isinstance(select, Mapping) else {}
        known = [
            f"label {label!r} has the values: {', '.join(map(repr, values))}"
            for label in labels
            if (values := sorted({model.labels[label] for model in config.models.values() if label in model.labels}))
        ]
        findings.add(
            ("policies", name, "select"),
            "no model has these labels, so nobody has this policy",
            "; ".join(known) or f"no model has a label {next(iter(labels), '')!r}",
            severity="warning",
        )


def _check_sources(config: Config, findings: Findings) -> None:
    listeners = [leaf for model in config.models.values() for leaf in _listeners(model)]
    named = {leaf.source for leaf in listeners}
    for name, source in config.sources.items():
        if name not in named and None not in named:
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


def _listeners(model: ModelSpec) -> Iterator[Leaf | NoEpisode]:
    """Yield whatever of a model asks for events or episodes of a source."""
    for policy in model.policies.values():
        yield from leaves(policy.on)
        yield from (place.node for place in traits(policy.on).places if isinstance(place.node, NoEpisode))
        if policy.ready is not None and policy.ready.unless_open is not None:
            yield policy.ready.unless_open
    if model.watch is not None and model.watch.rollback_on is not None:
        yield model.watch.rollback_on


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


# ------------------------------------------------------------------------------------------------------- people


def _check_channels(config: Config, findings: Findings, which: Which) -> None:
    named = {*config.notify}.union(*(model.notify for model in config.models.values()))
    written: Mapping[str, Any] = config.normal_form.get("notifiers") or {}
    for name, channel in config.notifiers.items():
        path: Steps = ("notifiers", name)
        if name not in named:
            findings.add(path, "nobody is told through it", "name it under `notify`", severity="warning", at_key=True)
        _check_command(config, written[name], "notifiers", channel.type, path, findings, which)


# ------------------------------------------------------------------------------------------------------- models


def _check_model(config: Config, model: ModelSpec, findings: Findings, which: Which) -> None:
    path: Steps = ("models", model.name)
    if not model.policies:
        findings.add(path, "it has no policy, so only a person can start it", severity="warning", at_key=True)
    for policy in model.policies.values():
        warn_of_dead_policies(config, model, policy, findings)
    warn_of_shadowed_policies(model, findings)
    _check_templates(model, (*path, "train"), findings)
    options = model.training.options
    _check_command(config, options, "launchers", model.training.launcher, (*path, "train"), findings, which)
    for position, promoter in enumerate(model.promoters):
        at: Steps = (*path, "promote", position)
        _check_command(config, promoter.options, "promoters", promoter.type, at, findings, which)
    if model.training.concurrency == "forbid" and any(
        True for policy in model.policies.values() for _ in leaves(policy.on)
    ):
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


def _plugin(kind: plugins.Kind, name: str) -> Any:
    try:
        return plugins.load(kind, name)
    except PluginError:
        return None  # it was there when the configuration was loaded; nothing can be said of it now


# ---------------------------------------------------------------------------------------------------- templates


def _check_templates(model: ModelSpec, path: Steps, findings: Findings) -> None:
    """Warn of names that a template reads and some run will not have."""
    without_event = sorted(policy.name for policy in model.policies.values() if _fires_alone(policy.on))
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


def _fires_alone(on: Node) -> bool:
    """Say whether time alone can make it fire, without any event."""
    if isinstance(on, AnyOf):
        return any(map(_fires_alone, on.parts))
    if isinstance(on, AllOf):
        return all(isinstance(part, NoEpisode) or _fires_alone(part) for part in on.parts)
    return isinstance(on, MaxAge) or (isinstance(on, Absent) and on.after is None)


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
    which: Which,
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
    found = which(str(workdir / program) if "/" in program else program, search)
    if found is None:
        findings.add(
            (*path, "command", 0),
            f"there is no program {program!r}",
            f"looked in {workdir}" if "/" in program else "looked in PATH",
        )
