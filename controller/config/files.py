"""Reads the files of a configuration, puts several into one, and lays `defaults` under each model; every value keeps its place."""

from __future__ import annotations

from pathlib import Path

from controller.config.problems import sorted_by_place
from controller.config.yaml12 import Map, Place, parse
from controller.errors import ConfigError, Problem

#: All files together; 10,000 policies take about 3 MiB.
MAX_BYTES = 16 * 1024 * 1024

_SUFFIXES = (".yaml", ".yml")
#: Sections whose names may come from several files.
_NAMED_SECTIONS = ("sources", "launchers", "defaults", "models")


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


# ----------------------------------------------------------------------------------------------------- defaults


def with_defaults(root: Map) -> Map:
    """Return the configuration with `defaults` merged under each model; what has a wrong shape is left for validation."""
    defaults, models = root.get("defaults"), root.get("models")
    if not isinstance(defaults, Map) or not isinstance(models, Map):
        return root
    merged_models = Map(models.file, models.mark)
    for name, model in models.items():
        merged_models.take(name, models)
        if isinstance(model, Map):
            merged_models[name] = _merged(defaults, model)
    merged = _copy(root)
    merged["models"] = merged_models
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
