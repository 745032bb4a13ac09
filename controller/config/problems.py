"""Turns what validation refuses into sentences with a place: file, line, column, path, value, expectation, nearest known key."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from controller.config.nearest import nearest_or_known
from controller.config.yaml12 import Map, Place, Seq, Word, dotted
from controller.errors import Problem

#: A path of keys and indices to a value in the configuration.
Path = tuple[str | int, ...]

_TRUE_WORDS = frozenset(["yes", "on", "y"])


@dataclass(slots=True)
class Findings:
    """Collects problems with their places, each once."""

    root: Map
    problems: list[Problem] = field(default_factory=list)
    _seen: set[tuple[str, int, int, str]] = field(default_factory=set)

    def add(
        self,
        path: Path,
        message: str,
        hint: str = "",
        *,
        at_key: bool = False,
        severity: str = "error",
        shown: Path | None = None,
    ) -> None:
        """Note that something is wrong with the value at `path`, or with its key; `shown` is another path to show."""
        written = self._origin(path)
        if shown is not None and shown == path[: len(shown)]:
            shown = written[: len(written) - len(path) + len(shown)]
        path = written
        place = self.place(path, at_key=at_key)
        self.note(
            Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path=dotted(path if shown is None else shown),
                message=message,
                hint=hint,
                severity=severity,
            )
        )

    def _origin(self, path: Path) -> Path:
        """Return where a value was written: where it is, or where models and policies share it."""
        return next((shared for shared in _shared_paths(path) if self.place(shared) == self.place(path)), path)

    def note(self, problem: Problem) -> None:
        """Take in a problem, unless the same was said of the same place."""
        said = (problem.file, problem.line, problem.column, problem.message)
        if said not in self._seen:
            self._seen.add(said)
            self.problems.append(problem)

    def errors(self) -> list[Problem]:
        """Return what refuses the configuration, sorted by place."""
        return sorted_by_place(problem for problem in self.problems if problem.severity == "error")

    def warnings(self) -> list[Problem]:
        """Return what lets it pass, sorted by place."""
        return sorted_by_place(problem for problem in self.problems if problem.severity != "error")

    def place(self, path: Path, *, at_key: bool = False) -> Place:
        """Return where the value at `path` stands, or its key; for what is missing, where it is missing."""
        here: Any = self.root
        place = self.root.place
        for position, step in enumerate(path):
            if isinstance(here, Map) and isinstance(step, str) and step in here:
                last = position == len(path) - 1
                missing_below = position == len(path) - 2 and not _has(here[step], path[-1])
                of_key = (last and at_key) or missing_below
                place = here.key_at(step) if of_key else here.value_at(step)
            elif isinstance(here, Seq) and isinstance(step, int) and step < len(here):
                place = here.item_at(step)
            else:
                return place
            here = here[step]
        return place

    def value(self, path: Path) -> Any:
        """Return the value at `path` as it stands in the file; None when there is none."""
        here: Any = self.root
        for step in path:
            # `_has`, written out: ten thousand models ask a quarter of a million times
            if isinstance(here, dict):
                if step not in here:
                    return None
            elif not (isinstance(here, list) and isinstance(step, int) and step < len(here)):
                return None
            here = here[step]
        return here


def _shared_paths(path: Path) -> Iterator[Path]:
    """Yield the paths under which a value may have been written for others too."""
    if path[:1] == ("models",) and len(path) > 2:
        if path[2] == "policies" and len(path) > 4:
            yield ("policies", *path[3:])
            yield ("defaults", "policy", *path[4:])
        yield ("defaults", *path[2:])
    elif path[:1] == ("policies",) and len(path) > 2:
        yield ("defaults", "policy", *path[2:])


def sorted_by_place(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems in the order in which a person meets them."""
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column, problem.path))


def texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield every text in a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from texts(item, (*path, position))


def report(
    error: ValidationError,
    findings: Findings,
    *,
    model: type[BaseModel],
    base: Path = (),
    also_known: Collection[str] = (),
    ignore: Callable[[str, Path], bool] = lambda kind, path: False,
) -> None:
    """Note everything in a pydantic error; `base` is the path to what was validated against `model`.

    `also_known` are keys that are allowed beside the model's own; `ignore(kind, path)` leaves an error out.
    """
    for details in error.errors(include_url=False, include_input=True):
        relative = _existing(details["loc"], findings, base, missing=details["type"] == "missing")
        path = (*base, *relative)
        if ignore(details["type"], path):
            continue
        if details["type"] == "extra_forbidden":
            known = [*keys_of(model, relative[:-1]), *(also_known if len(relative) == 1 else ())]
            findings.add(
                path,
                f"unknown key {str(path[-1])!r}",
                nearest_or_known(str(path[-1]), known),
                at_key=True,
            )
        elif details["type"] == "missing":
            findings.add(
                path,
                f"{str(path[-1])!r} is missing",
                _not_selected(findings, path) or _description(model, relative),
                shown=path[:-1],
            )
        else:
            message, hint = _sentence(dict(details), findings.value(path))
            if details["type"] in _MAPPING_EXPECTED and (keys := keys_of(model, relative)):
                hint = f"its keys: {', '.join(keys)}"
            findings.add(path, message, hint)


def _not_selected(findings: Findings, path: Path) -> str:
    """Return a hint for a model that overrides a shared policy which does not select it."""
    match path:
        case ("models", _, "policies", str(name), "on") if isinstance(findings.value(("policies", name)), Map):
            return f"the shared policy {name!r} does not select this model; give it labels that fit `select`, or `on`"
    return ""


def keys_of(model: Any, path: Sequence[str | int]) -> list[str]:
    """Return the keys that a pydantic model knows at `path` below it."""
    found = _model_at(model, path)
    return [] if found is None else [info.alias or name for name, info in found.model_fields.items()]


def _model_at(annotation: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the model that validates what lies at `path` below a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return annotation
        for name, info in annotation.model_fields.items():
            if path[0] in (name, info.alias):
                return _model_at(info.annotation, path[1:])
        return None
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    inner = path
    origin = getattr(annotation, "__origin__", None)
    if origin in (dict, list, tuple, set) and path:
        inner, arguments = path[1:], arguments[-1:] if origin is dict else arguments
    for argument in arguments:
        if (found := _model_at(argument, inner)) is not None:
            return found
    return None


def _existing(loc: tuple[str | int, ...], findings: Findings, base: Path, *, missing: bool) -> Path:
    """Return a pydantic location without the steps that are pydantic's own (union branches, `[key]`)."""
    here: Any = findings.value(base)
    kept: list[str | int] = []
    for position, step in enumerate(loc):
        if _has(here, step):
            kept.append(step)
            here = here[step]
        elif missing and position == len(loc) - 1:
            kept.append(step)
    return tuple(kept)


def _has(container: Any, step: str | int) -> bool:
    if isinstance(container, dict):
        return step in container
    return isinstance(container, list) and isinstance(step, int) and step < len(container)


def _description(model: type[BaseModel], path: Path) -> str:
    owner = _model_at(model, path[:-1])
    info = None if owner is None else owner.model_fields.get(str(path[-1]))
    return re.split(r"[.;] ", info.description or "")[0] if info is not None else ""


# ------------------------------------------------------------------------------------------------------ sentences

_MAPPING_EXPECTED = ("model_type", "model_attributes_type")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "path_type": "a path",
    "time_delta_type": "a duration such as 5m",
    "time_delta_parsing": "a duration such as 5m",
    "datetime_type": "a date and time such as 2026-01-31T12:00:00Z",
    "datetime_parsing": "a date and time such as 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "a date and time such as 2026-01-31T12:00:00Z",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
_LENGTHS = {
    "string_too_short": ("min_length", "at least", "character"),
    "string_too_long": ("max_length", "at most", "character"),
    "too_short": ("min_length", "at least", "item"),
    "too_long": ("max_length", "at most", "item"),
}


def _sentence(details: dict[str, Any], raw: Any) -> tuple[str, str]:
    """Return a message and a hint for one of pydantic's errors; `raw` is the value in the file."""
    kind, context = details["type"], details.get("ctx") or {}
    value = details["input"] if raw is None else raw
    if kind == "refused":
        return str(context["message"]), str(context["hint"])
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error") or details["msg"]), ""
    if kind in _EXPECTED:
        return f"{shown(value)} is not {_EXPECTED[kind]}", _typing_hint(kind, value)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{shown(value)} is not {words} {context[name]}", ""
    if kind in _LENGTHS:
        name, words, unit = _LENGTHS[kind]
        number = context[name]
        if number == 1 and not value:
            return f"{shown(value)} is empty", ""
        return f"{shown(value)} has not {words} {number} {unit}{'' if number == 1 else 's'}", ""
    if kind in ("literal_error", "enum"):
        return f"{shown(value)} is not {context['expected']}", ""
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} does not match {context['pattern']}", ""
    message = str(details["msg"])
    return f"{shown(value)}: {message[:1].lower()}{message[1:]}".replace("input should be", "expected"), ""


def _typing_hint(kind: str, value: Any) -> str:
    if kind == "string_type":
        return _text_hint(value)
    if kind.startswith("bool") and isinstance(value, Word):
        return f"{str(value)!r} is a word in YAML 1.2; write {'true' if value.lower() in _TRUE_WORDS else 'false'}"
    if kind.startswith(("int", "float")) and isinstance(value, Word):
        return "YAML 1.1 and 1.2 read it differently; write the number in plain decimal digits"
    if kind.startswith(("int", "float", "bool")) and isinstance(value, str):
        return "take the quotes off" if value.strip().lower() in ("true", "false") or _is_number(value) else ""
    if kind == "list_type" and isinstance(value, str | int | float):
        return f"write [{value}]"
    return ""


def _text_hint(value: Any) -> str:
    if isinstance(value, bool):
        return f"quote it: '{str(value).lower()}'"
    return f"quote it: '{value}'" if isinstance(value, int | float) else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """Write a bad value for people: short, and as YAML has it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…'"
