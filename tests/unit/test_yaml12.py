"""YAML 1.2 as the configuration reads it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config.yaml12 import MAX_DEPTH, Map, Place, Seq, Word, dotted, parse


def read(text: str) -> Map:
    root, problems = parse(text.encode(), file="f.yaml")
    assert problems == []
    assert root is not None
    return root


def refused(text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    _, problems = parse(content, file="f.yaml")
    return "\n".join(str(problem) for problem in problems)


@pytest.mark.parametrize(
    "text,value",
    [
        ("1", 1),
        ("-3", -3),
        ("+5", 5),
        ("0", 0),
        ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("word", "word"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("! 1", 1),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("22:00-06:00", "22:00-06:00"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("- ", [None]),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = read(f"a: {text}" if text != "- " else "a:\n- ")["a"]

    assert found == value
    assert type(found) in (type(value), Seq)
    assert not isinstance(found, Word)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "No",
        "YES",
        "On",
        "OFF",
        "010",
        "-007",
        "0o10",
        "0b11",
        "1_000",
        "12:30:45",
        "1:30",
        "190:20:30.15",
        "00",
        "01.5",
    ],
)
def test_what_yaml_1_1_reads_otherwise_is_a_flagged_word(text: str) -> None:
    found = read(f"a: {text}")["a"]

    assert found == text
    assert isinstance(found, Word)
    assert not isinstance(read(f"a: '{text}'")["a"], Word)


def test_keys_are_always_text() -> None:
    assert list(read("on: 1\nno: 2\n1: 3\nnull: 4\n010: 5")) == ["on", "no", "1", "null", "010"]


def test_every_value_knows_its_place() -> None:
    root = read("a: 1\nb:\n  - x\n  - {c: 2}\n")

    assert root.key_at("b") == Place("f.yaml", 2, 1)
    assert root["b"].item_at(1) == Place("f.yaml", 4, 5)
    assert root["b"][1].key_at("c") == Place("f.yaml", 4, 6)
    assert root["b"][1].value_at("c") == Place("f.yaml", 4, 9)
    assert root["b"][1].place == Place("f.yaml", 4, 5)


def test_anchors_repeat_a_small_value() -> None:
    assert read("a: &x {c: [1, 2]}\nb: *x\nd: [*x, *x]") == {
        "a": {"c": [1, 2]},
        "b": {"c": [1, 2]},
        "d": [{"c": [1, 2]}, {"c": [1, 2]}],
    }


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert read("") == read("# nothing\n") == read("---\n") == {}


@pytest.mark.parametrize(
    "text,message",
    [
        ("a: 1\na: 2", "f.yaml:2:1: a: key 'a' is given twice; first at f.yaml:1:1"),
        ("a: {b: 1, 'b': 2}", "f.yaml:1:11: a.b: key 'b' is given twice; first at f.yaml:1:5"),
        ("a:\n\tb: 1", "f.yaml:2:1: a tab stands where spaces are expected (indent with spaces)"),
        (
            "a: b: c",
            "f.yaml:1:5: not YAML: mapping values are not allowed in this context "
            "(a second ': ' in one line; quote the value, or indent its keys below)",
        ),
        ("a: &x [*x]", "f.yaml:1:8: alias '*x' refers to what it stands in"),
        ("a: *x", "f.yaml:1:4: alias '*x' has no anchor '&x' before it"),
        (
            "a: !foo 1",
            "f.yaml:1:4: tags such as '!foo' are not read here (take it out; quote a value to make it text)",
        ),
        (
            "a: !!python/object:os.system []",
            "f.yaml:1:4: tags such as '!!python/object:os.system' are not read here "
            "(take it out; quote a value to make it text)",
        ),
        (
            "a: {<<: {b: 1}}",
            "f.yaml:1:5: merge keys ('<<') are not read here (write the keys out, or put them under `defaults`)",
        ),
        ("? [a]\n: b", "f.yaml:1:3: a key must be plain text"),
        ("&k a: 1", "f.yaml:1:1: key 'a' has an anchor (put anchors on values only)"),
        ("a: 1\n---\nb: 1", "f.yaml:2:1: a second document begins here (one file holds one document)"),
        (
            "%YAML 1.1\n---\na: 1",
            "f.yaml:1:1: directives are not read here (take the line with `%` out; files are YAML 1.2)",
        ),
        ("a: .nan", "f.yaml:1:4: a: .nan is not a finite number (quote it to make it text)"),
        ("a: [1, -.inf]", "f.yaml:1:8: a[1]: -.inf is not a finite number (quote it to make it text)"),
        ("a: 1e999", "f.yaml:1:4: a: 1e999 is too large for a number (quote it to make it text)"),
        (
            f"a: 1{'0' * 5000}",
            f"f.yaml:1:4: a: 1{'0' * 39}… has more than 64 bits (quote it to make it text)",
        ),
        ("- a", "f.yaml:1:1: the file is not a mapping of keys to values (it begins with `version: 1`)"),
        ('a: "\\0"', "f.yaml:1:4: text may not contain NUL characters"),
        (
            "a:\n  x: \x01",
            "f.yaml:2:6: character U+0001 is not allowed in YAML (take it out, or write it as an escape in double quotes)",
        ),
        (b"a: 1\nb: \xe9", "f.yaml:2:4: byte 0xe9 is not UTF-8 (save the file as UTF-8)"),
        (
            "a: 'x",
            "f.yaml:1:6: not YAML: found unexpected end of stream while scanning a quoted scalar (a closing quote is missing)",
        ),
        ("?\n: 1", "f.yaml:1:2: a key is missing before ':'"),
    ],
)
def test_what_is_refused_names_its_place(text: str | bytes, message: str) -> None:
    assert refused(text) == message


def test_all_repeated_keys_are_reported_and_the_first_value_stays() -> None:
    root, problems = parse(b"a: 1\na: {x: 1}\nb: 1\nb: [2]", file="f.yaml")

    assert root == {"a": 1, "b": 1}
    assert [problem.line for problem in problems] == [2, 4]


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30)
    )

    assert "alias '*a2' expands to too much" in refused(bomb)


def test_many_small_aliases_are_bounded_too() -> None:
    text = f"a: &a [{', '.join('x' * 90)}]\nb: [{', '.join(['*a'] * 1000)}]"

    assert "expands to too much" in refused(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_is_bounded(opening: str) -> None:
    assert f"nested deeper than {MAX_DEPTH} levels" in refused("a:\n  " + opening * 50_000)


def test_paths_read_as_people_write_them() -> None:
    assert dotted(["models", "churn", "promote", 0, "type"]) == "models.churn.promote[0].type"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\ufffe\uffff")),
    lambda children: st.lists(children) | st.dictionaries(st.text("abcxyz_ ", min_size=1), children),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", min_size=1), json_values))
def test_json_is_yaml(value: dict[str, object]) -> None:
    """Whatever JSON says, it says here too: JSON is a part of YAML 1.2."""
    root, problems = parse(json.dumps(value, ensure_ascii=False).encode(), file="f.yaml")

    assert problems == []
    assert root == value


@given(st.text() | st.text("ab:- \n\t{}[]&*!|>'\"#%@`,?~0.<\\"))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    root, problems = parse(text.encode("utf-8", "surrogatepass"), file="f.yaml")

    assert root is not None or problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
    if root is not None:
        json.dumps(root, allow_nan=False)


@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    root, problems = parse(content, file="f.yaml")

    assert root is not None or problems


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_value(number: float) -> None:
    found = read(f"a: {number!r}")["a"]

    assert math.isclose(float(found), number, rel_tol=0, abs_tol=0) or found == number
