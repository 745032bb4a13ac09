"""Patterns, CEL expressions and templates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import template
from controller.core.conditions import MAX_LIST, Expression, Pattern, Scope, as_cel
from controller.errors import ExpressionError

VARIABLES = ("event", "model", "champion")
LONG = {**dict.fromkeys(("model", "champion")), "event": {"data": {"long": list(range(MAX_LIST + 1))}}}
DATA = {
    "event": {
        "type": "drift.found",
        "data": {"x": 1, "text": "a", "none": None, "items": [1, 2, 3]},
    },
    "model": {"name": "churn", "labels": {"team": "travel"}},
    "champion": None,
}


def load(source: str) -> Expression:
    return Expression.load(source, variables=VARIABLES)


@pytest.mark.parametrize(
    "pattern,value,fits",
    [
        ("drift.*", "drift.found", True),
        ("drift.*", "drift", False),
        ("drift", "drift", True),
        ("drift", "Drift", False),
        ("d?ift", "drift", True),
        ("*", "", True),
        ("*", None, False),
        ("a.b", "axb", False),
        ("a*z", "a\nz", True),
    ],
)
def test_patterns(pattern: str, value: str | None, fits: bool) -> None:
    assert Pattern(pattern).matches(value) is fits


def test_a_pattern_without_wildcards_is_a_literal() -> None:
    assert Pattern("drift.found").literal == "drift.found"
    assert Pattern("drift.*").literal is Pattern("d?").literal is None


@pytest.mark.parametrize(
    "source,value",
    [
        ("event.data.x > 0.5", True),
        ("event.data.x == 1", True),
        ("event.data.x in [1, 2]", True),
        ("event.type.startsWith('drift')", True),
        ("has(event.data.y)", False),
        ("has(event.data.y) && event.data.y > 1", False),
        ("champion == null", True),
        ("champion == null || champion.metrics.auc < 0.6", True),
        ("event.data.none == null", True),
        ("event.data.items.exists(x, x > 2.0)", True),
        ("event.data.items.all(x, event.data.items.exists(y, x == y))", True),
        ("model.labels.team == 'travel' ? true : false", True),
    ],
)
def test_expressions(source: str, value: bool) -> None:
    assert load(source).test(Scope(DATA)) is value


@pytest.mark.parametrize(
    "source,message",
    [
        ("event.data.size >", "'event.data.size >' is not CEL: something is missing at its end (column 18)"),
        ("", "'' is not CEL: something is missing at its end (column 1)"),
        ("event..x", "'event..x' is not CEL: unexpected '..' at column 7"),
        ("event\n== 1 2", "'event\\n== 1 2' is not CEL: unexpected '2' at line 2, column 6"),
        ("evnt.data.x > 1", "unknown variable 'evnt'\n  hint: did you mean 'event'?"),
        ("candidate.x", "unknown variable 'candidate'\n  hint: known: event, model, champion"),
        ("event.all(y, y) && y", "unknown variable 'y'\n  hint: known: event, model, champion"),
        ("event.data.s == '.all(y, ' && y", "unknown variable 'y'\n  hint: known: event, model, champion"),
        ("sise(event.data)", "unknown function 'sise'\n  hint: did you mean 'size'?"),
        ("event.data.frobnicate()", None),
        ("x" * 1025, "the expression is longer than 1024 bytes"),
        ("(" * 65 + "1" + ")" * 65, "parentheses are nested deeper than 64"),
        (
            "event.a.all(x, event.b.all(y, event.c.all(z, true)))",
            "comprehensions (all, exists, map, filter) are nested deeper than 2",
        ),
    ],
)
def test_what_is_refused_at_load(source: str, message: str | None) -> None:
    with pytest.raises(ExpressionError) as refusal:
        load(source)

    if message is not None:
        assert str(refusal.value) == message


@pytest.mark.parametrize(
    "source,message",
    [
        ("event.data.y > 1", "the data has no field 'y'"),
        ("event.data['y'] > 1", "the data has no field 'y'"),
        ("event.data.text > 1", "No such overload"),
        ("event.data.none > 1", "No such overload"),
        ("champion.metrics.auc > 0.1", "No such overload"),
        ("1 / 0 == 1", "division by zero"),
        ("[1][5] == 1", "index out of bounds"),
        ("event.data.text.matches('(')", "not a valid regex"),
        ("int('x') == 1", "string parse error"),
        ("9223372036854775807 + 1 > 0", "overflow"),
        ("event.data", "which is neither true nor false"),
    ],
)
def test_what_the_data_does_not_allow_is_an_error_never_a_false(source: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as refusal:
        load(source).test(Scope(DATA))

    assert len(refusal.value.message) < 300


def test_a_long_list_may_be_measured_but_not_looped_over() -> None:
    assert load("size(event.data.long) > 1000").test(Scope(LONG))
    with pytest.raises(ExpressionError, match="more than 1000 items, too long to loop over"):
        load("event.data.long.all(x, x >= 0.0)").test(Scope(LONG))


def test_a_value_that_is_not_a_boolean_is_shown_shortened() -> None:
    with pytest.raises(ExpressionError) as refusal:
        load("event.data").test(Scope(LONG))

    assert refusal.value.message.endswith("…, which is neither true nor false")


def test_names_bound_by_a_comprehension_are_not_read() -> None:
    assert load("event.data.items.all(x, x > 1.0)").variables == {"event"}
    assert load("model.names.all(event, event == 'a') || event.type == 'x'").variables == {"model", "event"}


def test_equal_sources_are_equal() -> None:
    assert load("event.data.x > 1") == load("event.data.x > 1")
    assert load("event.data.x > 1").variables == {"event"}


def test_numbers_become_doubles_but_booleans_stay() -> None:
    assert as_cel({"a": 1, "b": [True, 2.5, None, "x"]}) == {"a": 1.0, "b": [True, 2.5, None, "x"]}
    assert as_cel(True) is True


@given(st.text(max_size=40) | st.text("event.data()[]'\"&|<>=!+-*/%? 01x,:{}", max_size=40))
def test_any_source_loads_or_is_refused_and_then_runs_or_fails(source: str) -> None:
    try:
        expression = load(source)
    except ExpressionError:
        return
    try:
        expression.test(Scope(DATA))
    except ExpressionError:
        return


# ---------------------------------------------------------------------------------------------------- templates


SCOPE = Scope({"event": {"data": {"path": "a b; rm -rf /", "n": 3}}, "params": {"depth": 4}, "run": {}, "model": {}})


def test_a_template_replaces_a_whole_value() -> None:
    filled = template.fill(["python", "{{ event.data.path }}", {"n": " {{ params.depth }} ", "plain": 1}], SCOPE)

    assert filled == ["python", "a b; rm -rf /", {"n": 4.0, "plain": 1}]


@pytest.mark.parametrize("value", ["x{{ event.data.path }}", "{{ a }}{{ b }}", "{{ event.data.n", "--p={{ params.x }}"])
def test_a_template_is_never_a_fragment(value: str) -> None:
    with pytest.raises(ExpressionError, match="in the middle"):
        list(template.expressions([value]))


def test_a_template_may_read_only_what_a_job_may_know() -> None:
    with pytest.raises(ExpressionError, match="unknown variable 'champion'"):
        list(template.expressions({"a": ["{{ champion.version }}"]}))


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="the data has no field 'nope'"):
        template.fill("{{ event.data.nope }}", SCOPE)


def test_what_has_no_template_stays_as_it_is() -> None:
    value = {"a": [1, None, True, "text } }"], "b": {}}

    assert template.fill(value, SCOPE) == value
    assert list(template.expressions(value)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["a", "x", "2026"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "x"]), inner, max_size=3),
    max_leaves=8,
)
READERS = [
    "event.data.a > 1",
    "event.data.a.b == event.data.x",
    "has(event.data.a) && event.data.a.b > 0",
    "event.data == null || event.data.x == 'a'",
    "size(event.data) > 1",
    "'a' in event.data",
    "event.data['a'] == 1.0",
    "event.subject.startsWith('x') || event.data.b",
    "event.data . a == 1.0",
    "event == null || event.type == 'drift'",
    "event.data.a.exists(x, x == 1.0)",
    "model.labels.a == 'x' && event.data.a == champion.metrics.a",
]


@given(data=JSON, source=st.sampled_from(READERS))
def test_converting_only_what_is_read_changes_nothing(data: Any, source: str) -> None:
    """An expression gives the same value, or the same kind of error, whether it sees the paths it reads or everything."""
    values = {
        "event": {"data": data, "type": "drift", "subject": "xy"},
        "model": {"name": "m", "labels": {"a": "x"}},
        "champion": {"metrics": {"a": 1}},
    }
    expression = Expression.load(source, variables=("event", "model", "champion"))

    def evaluated(scope: Scope) -> object:
        try:
            return expression.evaluate(scope)
        except ExpressionError as error:
            return type(error)

    full = Scope(values)
    full.context_of(None)
    full._contexts = {("x",): full.context_of(None), ("y",): full.context_of(None), None: full.context_of(None)}  # type: ignore[dict-item]

    assert evaluated(Scope(values)) == evaluated(full)


NUMBERS = st.sampled_from(["0.3", "1", "-2.5", "0", "1000000", "0.30000000000000004", "-0.0", "1.0"])
TEXTS = st.sampled_from(["'a'", '"a"', "''", "'x y'"])
TERMS = st.builds(
    "{} {} {}".format,
    st.sampled_from(["event.data.a", "event.data.b.a", "event.subject", "model.name", "champion.metrics.a"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    NUMBERS | TEXTS,
)


@given(
    terms=st.lists(TERMS, min_size=1, max_size=3),
    a=JSON | st.sampled_from([0.3, 1, 1.0, -0.0, 10**30, 2**53 + 1, "a", True]),
    b=JSON | st.fixed_dictionaries({"a": st.sampled_from([1, "a", None])}),
    champion=st.sampled_from([None, {"metrics": {"a": 1}}]),
)
def test_a_comparison_without_cel_is_the_one_that_cel_makes(terms: list[str], a: Any, b: Any, champion: Any) -> None:
    """Expressions that are only comparisons give what CEL gives, whatever the data holds, and its errors where it has some."""
    source = " && ".join(terms)
    values = {"event": {"data": {"a": a, "b": b}, "subject": "a"}, "model": {"name": "x y"}, "champion": champion}
    quick = Expression.load(source, variables=VARIABLES)
    slow = replace(quick, _comparisons=None)

    assert evaluated(quick, values) == evaluated(slow, values)


def evaluated(expression: Expression, values: dict[str, Any]) -> object:
    try:
        return expression.evaluate(Scope(values))
    except ExpressionError as error:
        return error.message
