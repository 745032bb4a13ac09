"""Reads the files of a configuration, puts several into one, and gives each model what it shares with others; every value keeps its place.

What models share is `defaults`, and the policies at the top, which select models by their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.config.problems import sorted_by_place
from controller.config.yaml12 import Map, Place, parse
from controller.errors import ConfigError, Problem

#: All files together; 10,000 policies take about 3 MiB.
MAX_BYTES = 16 * 1024 * 1024

_SUFFIXES = (".yaml", ".yml")
#: Sections whose names may come from several files.
_NAMED_SECTIONS = ("sources", "notifiers", "launchers", "calendars", "defaults", "policies", "models")

#: `select: all` takes every model.
SELECT_ALL = "all"
#: What a model writes in the place of a shared policy that it does not want; null says the same.
SELECT_NONE = "off"


def read_files(path: Path) -> tuple[tuple[Path, ...], Map, list[Problem]]:
    """Return the files, their merged values, and what is wrong; raises `ConfigError` when a file cannot be read to its end."""
    files = _files(path)
    contents = _contents(files)
    roots: list[Map] = []
    problems: list[Problem] = []
    complete = True
    for file, content in contents:
        root, found = parse(content, file=str(file))
        problems += found
        if root is None:
            complete = False
        else:
            roots.append(root)
    if not complete:
        raise ConfigError(sorted_by_place(problems))
    if len(roots) == 1:
        return files, roots[0], problems
    merged, found = _merge_files(roots)
    return files, merged, problems + found


def _files(path: Path) -> tuple[Path, ...]:
    try:
        if not path.is_dir():
            return (path,)
        found = sorted(
            file
            for file in path.iterdir()
            if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    if not found:
        raise _unreadable(
            path,
            "the folder holds no *.yaml file",
            "`retrainctl init` writes a configuration that runs",
        )
    return tuple(found)


def _contents(files: tuple[Path, ...]) -> list[tuple[Path, bytes]]:
    contents = []
    left = MAX_BYTES
    for file in files:
        try:
            with file.open("rb") as stream:
                content = stream.read(left + 1)
        except FileNotFoundError as error:
            raise _unreadable(
                file, "there is no such file", "`retrainctl init` writes a configuration that runs"
            ) from error
        except OSError as error:
            raise _unreadable(file, f"cannot be read: {error.strerror}") from error
        left -= len(content)
        if left < 0:
            raise _unreadable(file, f"the configuration is larger than {MAX_BYTES // 2**20} MiB")
        contents.append((file, content))
    return contents


def _unreadable(file: Path, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(file=str(file), line=1, column=1, path="", message=message, hint=hint)])


def _merge_files(roots: list[Map]) -> tuple[Map, list[Problem]]:
    merged = Map(roots[0].file, roots[0].mark)
    problems: list[Problem] = []
    for root in roots:
        for key, value in root.items():
            known = merged.get(key)
            if key not in merged:
                merged.take(key, root)
                if key in _NAMED_SECTIONS and isinstance(value, Map):
                    merged[key] = _copy(value)
            elif key in _NAMED_SECTIONS and isinstance(known, Map) and isinstance(value, Map):
                for name in value:
                    if name in known:
                        problems.append(_twice(name, f"{key}.{name}", known.key_at(name), value.key_at(name)))
                    else:
                        known.take(name, value)
            elif key != "version" or known != value:
                problems.append(_twice(key, key, merged.key_at(key), root.key_at(key)))
    return merged, problems


def _twice(name: str, path: str, first: Place, second: Place) -> Problem:
    return Problem(
        file=second.file,
        line=second.line,
        column=second.column,
        path=path,
        message=f"{name!r} is given twice; first at {first}",
    )


def _copy(original: Map) -> Map:
    copy = Map(original.file, original.mark)
    for key in original:
        copy.take(key, original)
    return copy


# ------------------------------------------------------------------------------------- defaults, shared policies


def with_defaults(root: Map) -> Map:
    """Return the configuration as each model has it; what has a wrong shape is left for validation.

    `defaults` are laid under each model, the shared policies that select it under its own, and `defaults.policy` under every policy.
    """
    defaults, models, shared = root.get("defaults"), root.get("models"), root.get("policies")
    under_models = _without("policy", defaults) if isinstance(defaults, Map) else None
    under_policies = defaults.get("policy") if isinstance(defaults, Map) else None
    under_policies = under_policies if isinstance(under_policies, Map) else None
    expanded = _copy(root)
    policies = _Shared(root, under_policies)
    if isinstance(shared, Map):
        expanded["policies"] = policies.written
    if isinstance(models, Map):
        expanded["models"] = merged_models = Map(models.file, models.mark)
        for name, model in models.items():
            merged_models.take(name, models)
            if isinstance(model, Map):
                own = model if under_models is None else _merged(under_models, model)
                merged_models[name] = policies.under(own)
    return expanded


def selects(select: Any, labels: Any) -> bool:
    """Say whether a shared policy with this `select` takes a model with these labels, both as written."""
    if select == SELECT_ALL:
        return True
    if not isinstance(select, Mapping) or not select or not isinstance(labels, Mapping):
        return False
    return all(
        key in labels and labels[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in select.items()
    )


class _Shared:
    """The policies that models share, ready to be laid under a model's own."""

    def __init__(self, root: Map, under_policies: Map | None) -> None:
        self._root = root
        self._under = under_policies
        shared = root.get("policies")
        shared = shared if isinstance(shared, Map) else Map(root.file)
        #: As written, with `defaults.policy` under each.
        self.written = _copy(shared)
        #: The same without `select`, one object for all the models that take it as it is.
        self._plain: dict[str, Map] = {}
        for name, policy in shared.items():
            if isinstance(policy, Map):
                self.written[name] = policy if under_policies is None else _laid_over(under_policies, policy)
                self._plain[name] = _without("select", self.written[name])

    def under(self, model: Map) -> Map:
        """Return the model with the policies that it has in the end."""
        own, labels = model.get("policies"), model.get("labels")
        if not isinstance(own, Map | None):
            return model
        taken = [name for name in self._plain if selects(self.written[name].get("select"), labels)]
        if not taken and (own is None or (self._under is None and not self._plain)):
            return model
        expanded = Map(model.file, model.mark) if own is None else Map(own.file, own.mark)
        for name in taken:
            if own is None or name not in own:
                expanded.take(name, self.written)
                expanded[name] = self._plain[name]
        for name in own or ():
            self._add_own(expanded, own, name, self._plain[name] if name in taken else self._under)
        copy = _copy(model)
        if own is None:
            copy.take("policies", self._root)
        copy["policies"] = expanded
        return copy

    def _add_own(self, expanded: Map, own: Any, name: str, under: Map | None) -> None:
        policy = own[name]
        if name in self._plain and (policy is None or (isinstance(policy, str) and policy.lower() == SELECT_NONE)):
            return
        expanded.take(name, own)
        if under is not None and isinstance(policy, Map):
            expanded[name] = _laid_over(under, policy)


def _without(key: str, original: Map) -> Map:
    if key not in original:
        return original
    copy = Map(original.file, original.mark)
    for other in original:
        if other != key:
            copy.take(other, original)
    return copy


def _laid_over(under: Map, over: Map) -> Map:
    """Return both mappings in one, as `_merged` does; a null in `over` takes away what lies under it."""
    merged = Map(over.file, over.mark)
    for key, value in under.items():
        if key not in over:
            merged.take(key, under)
        elif over[key] is not None:
            merged.take(key, over)
            if isinstance(value, Map) and isinstance(over[key], Map):
                merged[key] = _laid_over(value, over[key])
    for key in over:
        if key not in under:
            merged.take(key, over)
    return merged


def _merged(under: Map, over: Map) -> Map:
    """Return both mappings in one; where both have a key, mappings are merged and anything else is taken from `over`."""
    merged = Map(over.file, over.mark)
    for key, value in under.items():
        if key not in over:
            merged.take(key, under)
            continue
        merged.take(key, over)
        if isinstance(value, Map) and isinstance(over[key], Map):
            merged[key] = _merged(value, over[key])
    for key in over:
        if key not in under:
            merged.take(key, over)
    return merged
