"""What people see of payloads: laid out, cut, inert on a terminal, and without the secrets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.redact import MASK, MAX_ITEMS, MAX_TEXT, printable, redact, redact_bytes

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"a": [{"DB_PASSWORD": SECRET}]},
        {"apiKey": SECRET, "api_key": SECRET, "x-api-key": SECRET},
        {"credentials": {"user": SECRET, "key": [SECRET]}},
        {"headers": [["Authorization", f"Bearer {SECRET}"], ["X-Hub-Signature-256", f"sha256={SECRET}"]]},
        {"headers": [("cookie", f"session={SECRET}")]},
        {"headers": [{"name": "x-gitlab-token", "value": SECRET}]},
        {"url": f"https://ann:{SECRET}@host/path"},
        {"url": f"https://bucket/key?X-Amz-Signature={SECRET}&x=1"},
        {"log": f"calling with Authorization: Basic {SECRET}"},
        {"text": f"Bearer {SECRET}"},
        {"body": f'{{"token": "{SECRET}"}}'},
        {"key": f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----"},
        {"pin": None, "secret": int("1234567")},
    ],
    ids=lambda value: "/".join(value),
)
def test_G14_what_looks_secret_is_masked_at_any_depth(value: Any) -> None:
    """Neither the value nor a part of it is left."""
    shown = str(redact(value))

    assert SECRET not in shown
    assert "1234567" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "value",
    [
        {"tokenizer": "bert", "author": "ann", "size": 3, "ok": True, "none": None, "list": [1, "two", [3.5]]},
        {"password": None, "token": False},
        ["subject", "churn"],
        "plain text: with = signs",
    ],
    ids=["names that only look alike", "nothing to hide", "a pair", "text"],
)
def test_what_is_not_secret_stays(value: Any) -> None:
    """Masking must not make a letter unreadable."""
    assert redact(value) == value


def test_long_things_are_cut() -> None:
    """Texts, lists and objects end somewhere, and say how much there is."""
    shown = redact({"text": "x" * 10_000, "list": list(range(1000)), "object": {str(n): n for n in range(1000)}})

    assert shown["text"].startswith("x" * MAX_TEXT)
    assert shown["text"].endswith("(10,000 characters)")
    assert shown["list"][-1] == "… (800 more)"
    assert len(shown["object"]) == MAX_ITEMS + 1


@pytest.mark.parametrize(
    "raw, shown",
    [
        (b'{"a":1,"password":"hunter2"}', '{\n  "a": 1,\n  "password": "********"\n}'),
        (b'{"a":1,"password":"hunter2', '{"a":1,"password":"********"'),
        (b'{"password": "hun\\"ter2", "x": NaN}', '{"password": "********", "x": NaN}'),
        (b"token=hunter2&x=1", "token=********&x=1"),
        (b"<password>hunter2</password>", "<password>********</password>"),
        (b"Cookie: a=hunter2; b=hunter2\nX: 1", "Cookie: ********\nX: 1"),
        (b"password: 'hunter2'\nx: 1", "password: '********'\nx: 1"),
        ("grün\r\n".encode(), "grün\n"),
        (b"this is \x1b[31mred\x07 and goes on", "this is \\x1b[31mred\\x07 and goes on"),
        ("a\u202eb".encode(), "a\\u202eb"),
        (b"", ""),
        (b"\x00\x01pwd=hunter2\xff",
         "00000000  00 01 70 77 64 3d 2a 2a  2a 2a 2a 2a 2a 2a        |..pwd=********|"),
    ],
    ids=["json", "cut json", "not strict json", "form", "xml", "headers", "yaml", "text", "escapes", "turned text", "nothing", "bytes"],
)  # fmt: skip
def test_bytes_are_shown_as_what_they_are(raw: bytes, shown: str) -> None:
    """JSON is laid out, text is text, the rest is a hex dump; secrets are masked in each."""
    assert redact_bytes(raw, 1000) == shown


def test_a_cut_says_how_much_there_was() -> None:
    """Text and JSON end at the limit, a sign is never cut in two."""
    assert redact_bytes(b"x" * 1000, 10) == "xxxxxxxxxx\n… (1,000 bytes in all)"
    assert redact_bytes(("é" * 1000).encode(), 9).startswith("é" * 9 + "\n")
    assert redact_bytes(b"[" + b"1," * 500 + b"1]", 20).endswith("… (1,003 bytes in all)")
    assert redact_bytes(b"\x00" * 10_000, 1000).endswith("… (10,000 bytes in all)")


@given(st.binary(max_size=3000))
def test_whatever_came_can_be_shown(raw: bytes) -> None:
    """Nothing that comes in makes showing it fail, or moves a terminal's cursor."""
    shown = redact_bytes(raw, 500)

    assert shown == printable(shown)
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "raw",
    [b"a" * (1 << 20), b"token" * 200_000, b'"token":' * 130_000, b"://" * 340_000, b'token="' * 140_000, b"\\" * (1 << 20),
     b"token={" * 140_000, b"-----BEGIN PRIVATE KEY-----" * 38_000],
    ids=["letters", "names", "keys", "addresses", "open quotes", "backslashes", "open braces", "keys in pem"],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_masking_takes_linear_time(raw: bytes) -> None:
    """No input makes the patterns search for minutes."""
    assert redact_bytes(raw, 1 << 20)
