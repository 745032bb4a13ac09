"""JSON as it is accepted from outside."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.strict_json import MAX_BYTES, MAX_DEPTH, parse
from controller.errors import InvalidInput

REFUSED = {
    "a key twice": (b'{"a": 1, "a": 2}', "'a' is there twice"),
    "a key twice, deep inside": (b'[{"x": {"b": 1, "c": 0, "b": 1}}]', "'b' is there twice"),
    "the same key by an escape": (b'{"a": 1, "\\u0061": 2}', "'a' is there twice"),
    "NaN": (b'{"auc": NaN}', "NaN is not a JSON number"),
    "Infinity": (b"[Infinity]", "Infinity is not a JSON number"),
    "-Infinity": (b"-Infinity", "-Infinity is not a JSON number"),
    "a number beyond a double": (b"[1e999]", "1e999 is too large"),
    "a negative one": (b"-1.5e400", "-1.5e400 is too large"),
    "a whole number without end": (b"1" * 65, "65 digits"),
    "NUL by an escape": (b'"a\\u0000b"', "NUL"),
    "NUL as it is": (b'"a\x00b"', "control character"),
    "NUL in a key": (b'{"\\u0000": 1}', "NUL"),
    "half a surrogate pair": (b'["\\ud800"]', "surrogate"),
    "the other half": (b'{"k": ["\\udfff"]}', "surrogate"),
    "an encoded surrogate": (b'"\xed\xa0\x80"', "not UTF-8: byte 1 is 0xed"),
    "no UTF-8": (b'"\xff"', "not UTF-8: byte 1 is 0xff"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "nothing": (b"", "not JSON"),
    "half a document": (b'{"a": ', "not JSON"),
    "two documents": (b"{} {}", "not JSON: Extra data at line 1 column 4"),
    "a trailing comma": (b'{"a": 1,}', "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "one byte too many": (b" " * (MAX_BYTES + 1), "1,048,577 bytes"),
    "too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper than 64"),
    "so deep that Python gives up": (b'{"a":' * 100_000, "deeper than 64"),
}
TAKEN = {
    "as deep as allowed": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "many brackets side by side": b"[" + b"[]," * 200 + b"{}]",
    "brackets in a text": json.dumps(["[{" * 100, '\\"[[[' * 50]).encode(),
    "a whole pair of surrogates": b'"\\ud83d\\ude00"',
    "a text beyond the BMP": '"😀"'.encode(),
    "as long as allowed": b" " * (MAX_BYTES - 1) + b"1",
    "a whole number of 64 digits": b"9" * 64,
    "a tiny number": b"1e-999",
    "an escape that is harmless": b'{"\\u00e9": ["\\n", null, true, 1.5]}',
}

finite = st.floats(allow_nan=False, allow_infinity=False)
storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**63) + 1, 10**63) | finite | storable,
    lambda inner: st.lists(inner) | st.dictionaries(storable, inner),
    max_leaves=20,
)


@pytest.mark.parametrize("document, said", REFUSED.values(), ids=REFUSED)
def test_what_a_database_or_a_person_would_misread_is_refused(document: bytes, said: str) -> None:
    """A document that is not plain, finite JSON is refused with what is wrong with it."""
    with pytest.raises(InvalidInput) as refused:
        parse(document)

    assert said in refused.value.message


@pytest.mark.parametrize("document", TAKEN.values(), ids=TAKEN)
def test_what_is_at_the_limit_is_taken(document: bytes) -> None:
    """The limits themselves are allowed, and nothing is refused for what only looks dangerous."""
    assert parse(document) == json.loads(document)


def test_a_smaller_limit_can_be_asked_for() -> None:
    """The limit of bytes belongs to the caller."""
    assert parse(b"[1]", max_bytes=3) == [1]
    with pytest.raises(InvalidInput, match="at most 2"):
        parse(b"[1]", max_bytes=2)


@given(values, st.booleans())
def test_whatever_json_dumps_writes_of_finite_data_comes_back(value: Any, ascii_only: bool) -> None:
    """Finite data without NUL and lone surrogates survives, whichever way it is escaped."""
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.builds(lambda text, sign: text + sign, storable, st.characters(categories=["Cs"]) | st.just("\x00")))
def test_text_that_a_database_cannot_store_is_never_taken(text: str) -> None:
    """NUL and lone surrogates are refused as values and as keys."""
    for value in ([text], {text: 1}):
        with pytest.raises(InvalidInput):
            parse(json.dumps(value).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(document: bytes) -> None:
    """Whatever comes in, the only exception is the one that says what is wrong."""
    try:
        value = parse(document)
    except InvalidInput:
        return

    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_a_repeated_key_among_very_many_is_found_at_once() -> None:
    """Nobody can keep the daemon busy for minutes with one request of a hundred thousand keys."""
    document = b"{" + b",".join(b'"k%d":0' % number for number in range(80_000)) + b',"k79999":0}'
    began = time.process_time()

    with pytest.raises(InvalidInput, match="'k79999' is there twice"):
        parse(document)
    assert time.process_time() - began < 5
