"""What the text of a `when` says without running it: the comparisons it is joined from.

The index finds policies by an equality that must hold, and `check` finds conditions that contradict themselves; both need to look inside an
expression. This reads comparisons of a field with a literal (or with `model.name`), `in` a list of literals, `has()`, joined by `&&` and
`||`. Whatever else there is becomes `Opaque`, of which nothing is said.
What this module does not do: evaluate anything; `conditions.py` does, and its answer is the one that counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Sign = Literal["<", "<=", ">", ">=", "==", "!="]
Constant = str | float | bool | None
FieldPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelName:
    """Stands for the name of the policy's model, which the text calls `model.name`."""


MODEL_NAME = ModelName()


@dataclass(frozen=True, slots=True)
class Term:
    """A field against a literal: `event.data.share > 0.3`."""

    path: FieldPath
    sign: Sign
    literal: Constant | ModelName


@dataclass(frozen=True, slots=True)
class Has:
    """`has(event.data.share)`."""

    path: FieldPath


@dataclass(frozen=True, slots=True)
class Fixed:
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something of which nothing is said here."""

    text: str


@dataclass(frozen=True, slots=True)
class Every:
    """Parts joined by `&&`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """Parts joined by `||`."""

    parts: tuple[Node, ...]


Node = Term | Has | Fixed | Opaque | Every | Some

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_FIELD = r"(?:event|model|champion)(?:\.[A-Za-z_]\w*)+"
_LITERAL = r"-?\d{1,15}(?:\.\d{1,15})?|'[^']*'|\"[^\"]*\"|true|false|null"
_SIGN = r"<=|>=|<|>|==|!="
_TERM = re.compile(rf"(?P<left>{_FIELD}|{_LITERAL})\s*(?P<sign>{_SIGN})\s*(?P<right>{_FIELD}|{_LITERAL})")
_IN = re.compile(rf"(?P<field>{_FIELD})\s+in\s+\[\s*(?P<items>(?:{_LITERAL})(?:\s*,\s*(?:{_LITERAL}))*)\s*,?\s*\]")
_HAS = re.compile(rf"has\s*\(\s*(?P<field>{_FIELD})\s*\)")
_SIGNS: Mapping[str, Sign] = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "==", "!=": "!="}
_BRACKET_OR_SIGN = re.compile(r"[(\[{]|[)\]}]|\|\||&&|\?")
_MIRRORED: Mapping[Sign, Sign] = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_NAME = "model.name"


@lru_cache(maxsize=16384)
def read_terms(source: str) -> Node:
    """Return what an expression is joined from; `source` was loaded before, so it is CEL."""
    # Escapes, raw and triple-quoted texts are for CEL to read.
    if "\\" in source or "'''" in source or '"""' in source or "//" in source:
        return Opaque(source)
    return _read(source, _QUOTED.sub(lambda text: "'" * len(text[0]), source))


def conjuncts(node: Node) -> tuple[Node, ...]:
    """Return the parts that must all hold; one that stands alone is its own."""
    if isinstance(node, Every):
        return tuple(inner for part in node.parts for inner in conjuncts(part))
    return (node,)


def _read(source: str, code: str) -> Node:
    """Read a part; `code` is the same text with its strings blotted out."""
    source, code = _trimmed(source, code)
    if _split_at(code, "?") != [(0, len(code))]:
        return Opaque(source)
    for sign, joined in (("||", Some), ("&&", Every)):
        spans = _split_at(code, sign)
        if len(spans) > 1:
            return joined(tuple(_read(source[begin:end], code[begin:end]) for begin, end in spans))
    if code.startswith("(") and _closing(code) == len(code) - 1:
        return _read(source[1:-1], code[1:-1])
    return _read_term(source)


def _trimmed(source: str, code: str) -> tuple[str, str]:
    begin, end = len(source) - len(source.lstrip()), len(source.rstrip())
    return source[begin:end], code[begin:end]


def _split_at(code: str, sign: str) -> list[tuple[int, int]]:
    """Return the spans between the places where `sign` stands outside of every bracket."""
    if sign not in code:
        return [(0, len(code))]
    spans, depth, begin = [], 0, 0
    for match in _BRACKET_OR_SIGN.finditer(code):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0 and match[0] == sign:
            spans.append((begin, match.start()))
            begin = match.end()
    return [*spans, (begin, len(code))]


def _closing(code: str) -> int:
    """Return where the bracket that the text begins with is closed."""
    depth = 0
    for match in _BRACKET_OR_SIGN.finditer(code):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        if depth == 0:
            return match.start()
    return -1


def _read_term(source: str) -> Node:
    if source in ("true", "false"):
        return Fixed(source == "true")
    if (match := _HAS.fullmatch(source)) is not None:
        return Has(tuple(match["field"].split(".")))
    if (match := _IN.fullmatch(source)) is not None:
        path = tuple(match["field"].split("."))
        return Some(tuple(Term(path, "==", _constant(item)) for item in re.findall(_LITERAL, match["items"])))
    match = _TERM.fullmatch(source)
    if match is None:
        return Opaque(source)
    left, right, sign = match["left"], match["right"], _SIGNS[match["sign"]]
    if left == _NAME or not re.fullmatch(_FIELD, left):
        left, right, sign = right, left, _MIRRORED[sign]
    if left == _NAME or not re.fullmatch(_FIELD, left):
        return Opaque(source)  # a literal with another one
    path = tuple(left.split("."))
    if right == _NAME:
        return Term(path, sign, MODEL_NAME)
    return Opaque(source) if re.fullmatch(_FIELD, right) else Term(path, sign, _constant(right))


def _constant(text: str) -> Constant:
    if text[0] in "'\"":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    return None if text == "null" else float(text)


# ----------------------------------------------------------------------------------------------- contradictions


def contradiction(node: Node, known: Sequence[Term] = (), *, model: str) -> str | None:
    """Return why an expression can never be true, as words; None when it may be, as far as this can see.

    `known` holds of every event that is looked at, whatever the expression says.
    """
    if isinstance(node, Some):
        reasons = [contradiction(part, known, model=model) for part in node.parts]
        found = [reason for reason in reasons if reason is not None]
        return None if len(found) < len(reasons) else "; ".join(dict.fromkeys(found))
    parts = conjuncts(node)
    if any(part == Fixed(value=False) for part in parts):
        return "it is false"
    terms = [*known, *(part for part in parts if isinstance(part, Term))]
    for position, second in enumerate(terms):
        for first in terms[:position]:
            if first.path == second.path and _exclude(_named(first, model), _named(second, model)):
                return f"{_shown(first)} and {_shown(second)} exclude each other"
    held = [*known, *terms]
    inner = (contradiction(part, held, model=model) for part in parts if isinstance(part, Some))
    return next((reason for reason in inner if reason is not None), None)


def _named(term: Term, model: str) -> Term:
    return Term(term.path, term.sign, model) if isinstance(term.literal, ModelName) else term


def _exclude(first: Term, second: Term) -> bool:
    """Say whether no value fulfils both."""
    if first.sign == "==":
        return not _holds(first.literal, second)
    if second.sign == "==":
        return not _holds(second.literal, first)
    if "!=" in (first.sign, second.sign):
        return False
    if isinstance(first.literal, str) is not isinstance(second.literal, str):
        return True  # what is ordered among texts is not ordered among numbers
    lower, upper = (first, second) if first.sign in (">", ">=") else (second, first)
    if lower.sign not in (">", ">=") or upper.sign not in ("<", "<="):
        return False
    if lower.literal == upper.literal:
        return lower.sign == ">" or upper.sign == "<"
    return _is_less(upper.literal, lower.literal)


def _holds(value: Constant | ModelName, term: Term) -> bool:
    other, sign = term.literal, term.sign
    same = type(value) is type(other)
    if sign in ("==", "!="):
        return (same and value == other) is (sign == "==")
    if isinstance(value, bool) or value is None:
        return value is not None or other is None
    if not same:
        return False
    if value == other:
        return sign in ("<=", ">=")
    return _is_less(value, other) is (sign in ("<", "<="))


def _is_less(one: Constant | ModelName, other: Constant | ModelName) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one < other
    return isinstance(one, float) and isinstance(other, float) and one < other


def _shown(term: Term) -> str:
    literal = "model.name" if isinstance(term.literal, ModelName) else _literal(term.literal)
    return f"{'.'.join(term.path)} {term.sign} {literal}"


def _literal(value: Constant) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else f"{value:g}"
