"""Finds plugins by name and imports only those that a configuration names.

Sources, launchers, promoters and notifiers register under entry-point groups, ours in the same way as a stranger's.
In a source tree that is not installed, or was installed before a plugin was added, our own entry points are read
from `pyproject.toml` beside the package.
What this module does not do: validate options (`config/`), build or run plugins (`engine/`, `daemon.py`).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from controller.crash import crash_point
from controller.errors import PluginError

Kind = Literal["sources", "launchers", "promoters", "notifiers"]

#: The kinds of plugins; each has the entry-point group `controller.<kind>`.
KINDS: tuple[Kind, ...] = ("sources", "launchers", "promoters", "notifiers")

_DISTRIBUTION = "retrain-controller"
_PROJECT_FILE = Path(__file__).resolve().parent.parent / "pyproject.toml"

_P = TypeVar("_P")


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of all plugins of this kind, sorted, without importing any."""
    return tuple(sorted(_found(kind)))


def load(kind: Kind, name: str) -> Any:
    """Import the plugin and return its class.

    Raises `PluginError` when there is none of this name, when two distributions claim it, or when its import fails.
    """
    point = _entry_point(kind, name)
    try:
        return point.load()
    except Exception as error:  # a stranger's module can raise anything
        raise PluginError(
            f"{_singular(kind)} {name!r} ({origin(kind, name)}) cannot be imported: {type(error).__name__}: {error}",
            hint="install what it needs, or take it out of the configuration",
        ) from error


def origin(kind: Kind, name: str) -> str:
    """Return who provides a plugin: `retrain-controller 0.1.0`, or the module's name when no distribution says so."""
    point = _entry_point(kind, name)
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def guarded(plugin: _P, label: str) -> _P:
    """Return a stand-in for `plugin` whose method calls pass the crash points `plugin.<label>.<method>.before` and `.after`.

    Everything else, attributes and classes among them, is passed through.
    """
    return cast(_P, _Guarded(plugin, label))


class _Guarded:
    def __init__(self, plugin: object, label: str) -> None:
        self._plugin = plugin
        self._label = label

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._plugin, name)
        if name.startswith("_") or isinstance(value, type) or not callable(value):
            return value
        call = _between_crash_points(value, f"plugin.{self._label}.{name}")
        self.__dict__[name] = call  # the next call finds it without asking here
        return call

    def __repr__(self) -> str:
        return f"<guarded {self._label}: {self._plugin!r}>"


def _between_crash_points(method: Callable[..., Any], point: str) -> Callable[..., Any]:
    before, after = f"{point}.before", f"{point}.after"

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        crash_point(before)
        answer = method(*args, **kwargs)
        crash_point(after)
        return answer

    return call


def _entry_point(kind: Kind, name: str) -> EntryPoint:
    found = _found(kind)
    if name not in found:
        raise _unknown(kind, name, tuple(sorted(found)))
    points = found[name]
    if len(points) > 1:
        claims = ", ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise PluginError(
            f"{_singular(kind)} {name!r} is provided by several distributions: {claims}",
            hint="uninstall all but one",
        )
    return points[0]


def _unknown(kind: Kind, name: str, known: tuple[str, ...]) -> PluginError:
    if not known:
        return PluginError(
            f"unknown {_singular(kind)} {name!r}; none is installed",
            hint="install the controller itself, with `pip install .` in its folder",
        )
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return PluginError(f"unknown {_singular(kind)} {name!r}", hint=f"{suggestion}known: {', '.join(known)}")


@functools.cache
def _found(kind: Kind) -> dict[str, tuple[EntryPoint, ...]]:
    """Return each name's entry points: one, unless distributions quarrel."""
    group = f"controller.{kind}"
    found: dict[str, dict[str, EntryPoint]] = {}
    ours = _declared_in_source_tree(group)
    for point in entry_points(group=group):
        if ours and point.dist is not None and point.dist.name.replace("_", "-").lower() == _DISTRIBUTION:
            continue  # an older installation of this very tree
        found.setdefault(point.name, {})[point.value] = point
    for point in ours:
        found.setdefault(point.name, {})[point.value] = point
    return {name: tuple(points.values()) for name, points in found.items()}


def _declared_in_source_tree(group: str) -> list[EntryPoint]:
    project = _source_project()
    declared = project.get("entry-points", {}).get(group, {})
    return [EntryPoint(name=name, value=value, group=group) for name, value in declared.items()]


@functools.cache
def _source_project() -> dict[str, Any]:
    """Return the `project` table of the source tree we run from; empty when this is an installed package."""
    try:
        text = _PROJECT_FILE.read_text(encoding="utf-8")
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return {}
    import tomllib  # only a source tree pays for it

    project: dict[str, Any] = tomllib.loads(text).get("project", {})
    return project if project.get("name") == _DISTRIBUTION else {}


def _singular(kind: Kind) -> str:
    return kind.removesuffix("s")
