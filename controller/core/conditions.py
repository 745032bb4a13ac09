"""What a policy asks of one event: glob patterns and CEL expressions.

CEL (Common Expression Language, cel.dev) runs in native code without a way to interrupt it, so its cost is bounded when it is loaded:
short source, shallow nesting, and no comprehension over long lists.
Names that do not exist are errors when it is loaded; data that lacks a field is an error when it is evaluated, never a silent false.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from controller.core.model import Champion, Event, Json
from controller.errors import ExpressionError

if TYPE_CHECKING:
    from cel import Context, Program

#: Limits at load (design 5.1), because a running expression cannot be stopped.
MAX_SOURCE_BYTES = 1024
MAX_COMPREHENSION_DEPTH = 2
MAX_PARENTHESES = 64
#: Limit when it runs: a comprehension over a longer list is an error.
MAX_LIST = 1000

#: Functions and macros that the language and its library have; operators come as `_+_` and the like.
FUNCTIONS = frozenset(
    {
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "has",
        "all",
        "exists",
        "exists_one",
        "map",
        "filter",
        "int",
        "uint",
        "double",
        "string",
        "bool",
        "bytes",
        "timestamp",
        "duration",
        "type",
        "dyn",
        "max",
        "min",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)

_COMPREHENSION = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
#: A name and the fields behind it, without a method that is called on them.
_PATH = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*\b(?!\s*\())*")
#: An event that more expressions than this read is converted as a whole.
_SMALL_CONTEXTS = 2

_STRING = re.compile(r"""[rRbB]{0,2}(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob with `*` and `?`, such as `drift.*`; without them an exact word."""

    text: str

    @property
    def literal(self) -> str | None:
        """The exact word it stands for, None when it has a wildcard; what the index of policies is built on."""
        return None if any(sign in self.text for sign in "*?[") else self.text

    def matches(self, value: str | None) -> bool:
        """Say whether the value fits; a missing value fits nothing."""
        if value == self.text and "[" not in value:  # a glob fits itself, but for a set of signs
            return True
        return value is not None and _compiled_glob(self.text)(value) is not None


@lru_cache(maxsize=4096)
def _compiled_glob(text: str) -> Any:
    return re.compile(fnmatch.translate(text)).match


@dataclass(frozen=True, slots=True)
class Expression:
    """A CEL expression that was checked; equal sources share one compiled program."""

    source: str
    #: Names it reads, without those bound by its own comprehensions.
    variables: frozenset[str] = field(default=frozenset(), compare=False)
    _loops: bool = field(default=False, compare=False)
    #: The paths it reads, shortest first; None when that cannot be told from its text.
    _paths: tuple[tuple[str, ...], ...] | None = field(default=None, compare=False)
    #: The comparisons that it consists of; None when it is more than that.
    _comparisons: tuple[_Comparison, ...] | None = field(default=None, compare=False)

    @classmethod
    def load(cls, source: str, *, variables: Sequence[str]) -> Expression:
        """Compile and check an expression that may read `variables`.

        Raises `ExpressionError` for a syntax error, an unknown name, and anything over the limits above.
        """
        _check_cost(source)
        references = _references(source)
        code = _STRING.sub("''", source)
        bound = set(_COMPREHENSION.findall(code))
        used = {name for name in references["variables"] if name not in bound or _is_free(name, code)}
        _refuse_unknown("variable", used, variables)
        named = {name for name in references["functions"] if name[0].isalpha()}
        _refuse_unknown("function", named, sorted(FUNCTIONS))
        paths = None if bound else _paths_read(code, used)
        return cls(source, frozenset(used), bool(bound), paths, _comparisons(source))

    def evaluate(self, scope: Scope) -> Any:
        """Return the expression's value in `scope`; raises `ExpressionError` when the data does not allow it."""
        if self._comparisons is not None:
            answer = _compare_all(self._comparisons, scope.values)
            if answer is not None:
                return answer
        try:
            if self._loops:
                scope.check_lists(self.variables)
            return _program(self.source).execute(scope.context_of(self._paths))
        except KeyError as error:
            raise ExpressionError(f"{self.source!r}: the data has no field {error.args[0]!r}") from error
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            raise ExpressionError(f"{self.source!r}: {_first_sentence(error)}") from error

    def test(self, scope: Scope) -> bool:
        """Return the value of an expression that must be true or false."""
        value = self.evaluate(scope)
        if not isinstance(value, bool):
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
            raise ExpressionError(f"{self.source!r} gave {shown}, which is neither true nor false")
        return value


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A field of the data against a literal: `event.data.share > 0.3`; or one text against another: `event.subject == model.name`."""

    path: tuple[str, ...]
    compare: Callable[[Any, Any], bool]
    #: As a tuple the path of another field.
    literal: float | str | tuple[str, ...]


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_TERM = re.compile(
    r"\s*(?P<path>[a-z]+(?:\.[A-Za-z_]\w*)+)\s*(?P<sign><=|>=|<|>|==|!=)\s*"
    r"(?:(?P<number>-?\d{1,15}(?:\.\d{1,15})?)|'(?P<single>[^'\"\\&]*)'|\"(?P<double>[^'\"\\&]*)\"|(?P<other>[a-z]+(?:\.[A-Za-z_]\w*)+))\s*"
)


def _comparisons(source: str) -> tuple[_Comparison, ...] | None:
    """Return the comparisons of an expression that is nothing but these, joined by `&&`; most policies' `when` is.

    They are answered here, in a tenth of the time that it takes to convert the data for CEL. Whatever is not a number against a number or
    a text against a text (a field that is missing, another type) is left to CEL, and with it every error.
    """
    found = []
    for term in source.split("&&"):
        match = _TERM.fullmatch(term)
        if match is None:
            return None
        number = match["number"]
        text = match["single"] if match["single"] is not None else match["double"]
        if number is None and match["sign"] not in ("==", "!="):
            return None
        literal: float | str | tuple[str, ...] = text if number is None else float(number)
        if match["other"] is not None:
            literal = tuple(match["other"].split("."))
        found.append(_Comparison(tuple(match["path"].split(".")), _COMPARE[match["sign"]], literal))
    return tuple(found)


def _compare_all(comparisons: tuple[_Comparison, ...], values: Mapping[str, Json]) -> bool | None:
    """Return whether all are true; None when only CEL can say."""
    for comparison in comparisons:
        found: Json = values
        for name in comparison.path:
            if type(found) is not dict or name not in found:
                return None
            found = found[name]
        kind = type(found)
        literal: Json = comparison.literal
        if type(literal) is tuple:
            other: Json = values
            for name in literal:
                if type(other) is not dict or name not in other:
                    return None
                other = other[name]
            if type(other) is not str:
                return None
            literal = other
        if kind is int and type(literal) is float:
            try:
                found = float(found)
            except OverflowError:
                return None
        elif kind is not type(literal):
            return None
        if not comparison.compare(found, literal):
            return False
    return True


class Scope:
    """The names an expression may read, converted for CEL once and only when it is needed."""

    __slots__ = ("_contexts", "values")

    def __init__(self, values: Mapping[str, Json]) -> None:
        self.values = values
        self._contexts: dict[tuple[tuple[str, ...], ...] | None, Context] = {}

    def context_of(self, paths: tuple[tuple[str, ...], ...] | None) -> Context:
        """Return the values behind these paths, converted for CEL; everything for None, or when several expressions ask.

        Converting takes ten times as long as running an expression, so only what is read is converted.
        """
        context = self._contexts.get(paths)
        if context is None:
            if len(self._contexts) >= _SMALL_CONTEXTS:
                paths = None
                context = self._contexts.get(None)
            if context is None:
                context = self._contexts[paths] = _convert(self.values, paths)
        return context

    def check_lists(self, names: frozenset[str]) -> None:
        """Raise `ExpressionError` when a value that is read holds a list too long to loop over."""
        for name in names:
            if _longest_list(self.values.get(name)) > MAX_LIST:
                raise ExpressionError(f"{name} holds a list of more than {MAX_LIST} items, too long to loop over")


def _convert(values: Mapping[str, Json], paths: tuple[tuple[str, ...], ...] | None) -> Context:
    from cel import Context  # heavy to import, and not every policy has an expression

    if paths is None:
        return Context(variables={name: as_cel(value) for name, value in values.items()})
    pruned: dict[str, Json] = {}
    for path in paths:
        found: Json = values
        into = pruned
        for name in path[:-1]:
            found = found.get(name)
            if type(found) is not dict and not isinstance(found, Mapping):  # the first is ten times as quick
                into[name] = as_cel(found)
                break
            into = into.setdefault(name, {})
        else:
            if path[-1] in found:
                into[path[-1]] = as_cel(found[path[-1]])
    return Context(variables=pruned)


def _paths_read(code: str, roots: set[str]) -> tuple[tuple[str, ...], ...] | None:
    """Return the paths that an expression without comprehensions reads, such as (event, data, share); `code` is without its strings."""
    found = {tuple(match[0].split(".")) for match in _PATH.finditer(code)}
    paths = sorted((path for path in found if path[0] in roots), key=len)
    if {path[0] for path in paths} != roots:
        return None  # a name is read in a way that this does not see
    # What lies below a path that is read as a whole comes with it.
    kept: list[tuple[str, ...]] = []
    for path in paths:
        if not any(path[: len(shorter)] == shorter for shorter in kept):
            kept.append(path)
    return tuple(kept)


def event_scope(event: Event | None, *, model: str, labels: Mapping[str, str], champion: Champion | None) -> Scope:
    """Return what `when` and `by` may read: `event`, `model`, `champion` (null without one)."""
    return Scope(
        {
            "event": None if event is None else event_values(event),
            "model": {"name": model, "labels": dict(labels)},
            "champion": None if champion is None else champion_values(champion),
        }
    )


def event_values(event: Event) -> dict[str, Json]:
    """Return an event as expressions and templates see it."""
    return {
        "id": event.source_id,
        "origin": event.origin,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "received_at": event.received_at,
        "data": event.data,
        "extensions": dict(event.extensions),
    }


def champion_values(champion: Champion) -> dict[str, Json]:
    """Return a champion as expressions and templates see it."""
    return {
        "version": champion.number,
        "artifact": champion.artifact,
        "metrics": dict(champion.metrics),
        "promoted_at": champion.promoted_at,
    }


def as_cel(value: Json) -> Json:
    """Return JSON with every number a double, as the rules of CEL in this project say (design 5.1)."""
    kind = type(value)
    if kind is float or kind is str or kind is bool or value is None:
        return value
    if isinstance(value, int) and kind is not bool:
        return float(value)
    if isinstance(value, Mapping):
        return {key: as_cel(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_cel(item) for item in value]
    return value


@lru_cache(maxsize=16384)
def _program(source: str) -> Program:
    from cel import compile as compile_cel

    return compile_cel(source)


def _references(source: str) -> Mapping[str, Sequence[str]]:
    try:
        return _program(source).references()
    except ValueError as error:
        raise ExpressionError(f"{source!r} is not CEL: {_explain_syntax(error)}") from error


def _check_cost(source: str) -> None:
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise ExpressionError(f"the expression is longer than {MAX_SOURCE_BYTES} bytes")
    code = _STRING.sub("''", source)
    if _deepest(code, lambda start: code[start] in "([{") > MAX_PARENTHESES:
        raise ExpressionError(f"parentheses are nested deeper than {MAX_PARENTHESES}")
    openings = {match.start() + match[0].index("(") for match in _COMPREHENSION.finditer(code)}
    if _deepest(code, openings.__contains__) > MAX_COMPREHENSION_DEPTH:
        raise ExpressionError(
            f"comprehensions (all, exists, map, filter) are nested deeper than {MAX_COMPREHENSION_DEPTH}"
        )


def _is_free(name: str, code: str) -> bool:
    """Say whether a name is also read outside the comprehensions that bind it; `code` is without the contents of its strings."""
    scopes = [
        range(match.start(), _closing(code, match.start() + match[0].index("(")))
        for match in _COMPREHENSION.finditer(code)
        if match[1] == name
    ]
    places = (match.start() for match in re.finditer(rf"(?<![\w.]){re.escape(name)}\b", code))
    return any(not any(place in scope for scope in scopes) for place in places)


def _closing(code: str, opening: int) -> int:
    """Return where the bracket that opens at `opening` closes."""
    depth = 0
    for position in range(opening, len(code)):
        depth += (code[position] in "([{") - (code[position] in ")]}")
        if depth == 0:
            return position
    return len(code)


def _deepest(code: str, counts: Any) -> int:
    """Return how many counted brackets are open at once, at most."""
    open_brackets: list[bool] = []
    deepest = depth = 0
    for position, sign in enumerate(code):
        if sign in "([{":
            open_brackets.append(bool(counts(position)))
            depth += open_brackets[-1]
            deepest = max(deepest, depth)
        elif sign in ")]}" and open_brackets:
            depth -= open_brackets.pop()
    return deepest


def _refuse_unknown(kind: str, used: set[str], known: Sequence[str]) -> None:
    import difflib

    for name in sorted(used - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ExpressionError(f"unknown {kind} {name!r}", hint=hint)


def _longest_list(value: Json) -> int:
    if isinstance(value, Mapping):
        return max((_longest_list(item) for item in value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(len(value), max((_longest_list(item) for item in value), default=0))
    return 0


_SYNTAX = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")


def _explain_syntax(error: Exception) -> str:
    """Return the parser's first complaint in words, with the place in the expression."""
    found = _SYNTAX.search(str(error))
    if found is None:
        return _first_sentence(error)
    line, column, said = found.groups()
    place = f"column {column}" if line == "1" else f"line {line}, column {column}"
    if "'<EOF>'" in said and "expecting" in said and not said.startswith("extraneous"):
        return f"something is missing at its end ({place})"
    said = (
        said.split(" expecting ", 1)[0]
        .replace("extraneous input", "unexpected")
        .replace("mismatched input", "unexpected")
    )
    said = said.replace("no viable alternative at input", "unexpected").replace(
        "token recognition error at:", "unexpected"
    )
    return f"{said} at {place}"


def _first_sentence(error: Exception) -> str:
    text = str(error).replace("ERROR: <input>:", "at ")
    return text.split("\n", 1)[0].split(". CEL does not", 1)[0].split(". Check that", 1)[0]
