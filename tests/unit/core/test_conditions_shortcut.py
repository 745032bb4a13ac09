"""Comparisons that are answered without CEL: the answer, or the complaint, is the one that CEL has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.conditions import Expression, Scope
from controller.core.model import Json
from controller.errors import ExpressionError

VARIABLES = ("event", "model")
SIGNS = ("<", "<=", ">", ">=", "==", "!=")
#: Also beyond what a double holds: JSON from outside has no such numbers, a plugin might.
HUGE = (2**53 + 1, 2**63, -(2**64), 10**63, 10**400, -(10**400))

WHOLE = st.integers(-(10**15) + 1, 10**15 - 1).map(str)
DECIMAL = st.builds(
    "{}{}.{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**9), st.from_regex(r"[0-9]{1,15}", fullmatch=True)
)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="'\"\\&"), max_size=4)
TEXTS = st.builds("{0}{1}{0}".format, st.sampled_from(["'", '"']), WORDS)
LITERALS = (
    WHOLE | DECIMAL | TEXTS | st.sampled_from(["0", "-0", "0.0", "-0.0", "007", "1", "1.0", "''", "'true'", "'1'"])
)
SPACE = st.sampled_from(["", " ", "  ", "\t", "\n"])
PATHS = st.sampled_from(["event.data.a", "event.data.b", "event.data.b.c", "event.subject", "event.time", "model.name"])
TERMS = st.tuples(SPACE, PATHS, SPACE, st.sampled_from(SIGNS), SPACE, LITERALS, SPACE)


def near(literal: str) -> list[Json]:
    """Return values that a literal might be taken for."""
    if literal[0] in "'\"":
        text = literal[1:-1]
        return [text, f"{text} ", text.upper(), None]
    number = float(literal)
    return [number, int(number), number + 1, -number, literal, bool(number)]


def evaluated(expression: Expression, values: dict[str, Any]) -> object:
    """Return the answer, or what is said when there is none; every other exception is an accident."""
    try:
        answer = expression.evaluate(Scope(values))
    except ExpressionError as error:
        return f"error: {error.message}"
    assert isinstance(answer, bool)
    return answer


@st.composite
def stories(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An expression of comparisons, and data that fits it more or less."""
    terms = draw(st.lists(TERMS, min_size=1, max_size=3))
    close = [value for term in terms for value in near(term[5])]
    some: st.SearchStrategy[Json] = (
        st.sampled_from(close)
        | st.sampled_from(HUGE)
        | st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | WORDS
        | st.just([])
    )
    data = draw(
        st.dictionaries(st.sampled_from(["a", "b"]), some | st.dictionaries(st.just("c"), some), max_size=2) | some
    )
    event = {"data": data, "subject": draw(st.none() | some), "time": datetime(2026, 3, 1, tzinfo=UTC)}
    return "&&".join("".join(term) for term in terms), {"event": event, "model": {"name": draw(WORDS)}}


@settings(max_examples=400)
@given(stories())
def test_the_shortcut_says_what_cel_says(story: tuple[str, dict[str, Any]]) -> None:
    """Whatever is compared with whatever it finds: the same answer, or an error where CEL has one.

    But what CEL cannot be given at all, a number beyond a double, is no error behind a term that is false: in CEL false && error is false.
    """
    source, values = story
    quick = Expression.load(source, variables=VARIABLES)
    slow = replace(quick, _comparisons=None)

    answer, other = evaluated(quick, values), evaluated(slow, values)

    assert answer == other or (answer is False and "too large to convert" in str(other))


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    "found",
    [True, False, 0, 1, -1, 1.0, -0.0, 0.5, "1", "", None, [], {}, {"c": 1}, *HUGE],
    ids=lambda value: f"{type(value).__name__} {str(value)[:8]} {len(str(value))}",
)
def test_types(sign: str, found: Json) -> None:
    """A bool is no number, an int is a double, and what is too large for one is an error and no accident."""
    for literal in ("1", "0.0", "'1'"):
        source = f"event.data.a {sign} {literal}"
        values = {"event": {"data": {"a": found}}, "model": None}
        quick = Expression.load(source, variables=VARIABLES)

        assert evaluated(quick, values) == evaluated(replace(quick, _comparisons=None), values)


@pytest.mark.parametrize(
    "source",
    ["event.data.a > 1 && event.data.gone == 2", "event.data.gone == 2 && event.data.a > 1", "event.data.a.b > 1"],
)
@pytest.mark.parametrize("found", [0, 2, "x", 10**400], ids=["zero", "two", "text", "huge"])
def test_missing_fields(source: str, found: Json) -> None:
    """A field that is not there is an error, unless another comparison has decided already."""
    values = {"event": {"data": {"a": found}}, "model": None}
    quick = Expression.load(source, variables=VARIABLES)

    assert quick._comparisons is not None
    assert evaluated(quick, values) == evaluated(replace(quick, _comparisons=None), values)


@pytest.mark.parametrize(
    "source", ["event.subject == model.name", "model.name != event.data.a", "event.data.a == event.data.b"]
)
@pytest.mark.parametrize("found", ["m", "x", "", None, True, 1, 1.0, [], ["m"], {"c": "m"}], ids=repr)
@pytest.mark.parametrize("name", ["m", "", 1, None], ids=repr)
def test_one_field_against_another(source: str, found: Json, name: Json) -> None:
    """Two texts are compared as CEL compares them; whatever else they are is left to it, also what is missing."""
    for values in (
        {"event": {"subject": found, "data": {"a": found, "b": name}}, "model": {"name": name}},
        {"event": {"subject": found, "data": {"b": name}}, "model": {}},
    ):
        quick = Expression.load(source, variables=VARIABLES)

        assert quick._comparisons is not None
        assert evaluated(quick, values) == evaluated(replace(quick, _comparisons=None), values)
