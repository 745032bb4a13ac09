"""What people may see of what came in: the words without the secrets.

Dead letters and last payloads are shown on terminals, in tickets and in chats, and producers put passwords into headers, addresses and
bodies. Masked are the values of names that look secret, at any depth and also in text that is no valid JSON; credentials in addresses;
`Bearer …` wherever it stands; private keys in PEM. Long values are cut, and signs that would move a terminal's cursor are written as
escapes.

It is a habit of good manners and no guarantee: a secret under an innocent name stays visible. The bytes themselves are never changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from controller.core import strict_json
from controller.core.model import Json
from controller.errors import InvalidInput

#: What stands in place of a secret.
MASK = "********"
#: Longer texts are cut in `redact`.
MAX_TEXT = 2000
#: Of longer lists and objects the rest is counted.
MAX_ITEMS = 200
#: Bytes of a hex dump, at most.
MAX_DUMP = 512
_MAX_DEPTH = 64

_NAMES = (
    r"authorization|cookie|token(?!i[sz])|passw(?:or)?d|passphrase|pwd|secret|signature|credential|bearer|jwt"
    r"|(?:api|access|private|signing|account|shared)[-_. ]?key|session[-_. ]?id|x-amz-security"
)
_SECRET_NAME = re.compile(rf"{_NAMES}|^auth$|^sig$", re.IGNORECASE)
#: `name = value` in any notation: JSON (also broken, also escaped within a string), headers, forms, YAML, XML.
#: What may stand before the value is bounded, so that the search takes linear time on whatever comes in.
_ASSIGNED = re.compile(
    rf"(?P<name>(?:(?P<line>authorization|cookie)|{_NAMES}|[?&]sig(?==))[\w.-]{{0,40}}\\{{0,3}}[\"']?[ \t]{{0,8}}[:=>][ \t\r\n]{{0,8}})"
    r"(?P<value>\"(?:[^\"\\]|\\.)*+\"?|'[^'\n]*+'?|\\{1,3}[\"'][^\"'\\]*+|[{\[][^}\]]*+|(?(line)[^\r\n]++|"
    r"(?:(?:bearer|basic|digest)\s{1,4})?[^\s,;&<}\]]++))",
    re.IGNORECASE | re.DOTALL,
)
_SCHEME = re.compile(r"(?P<name>\b(?:bearer|basic)\s{1,4})(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE)
_ADDRESS = re.compile(r"(?P<name>://)(?P<value>[^\s/@\"'<>]{1,400})(?=@)")
_PEM = re.compile(r"(?P<name>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(?P<value>[^-]*+)")
_PATTERNS = (_PEM, _ADDRESS, _ASSIGNED, _SCHEME)


def redact(value: Json) -> Json:
    """Return a JSON value as people may see it: secrets masked at any depth, long texts and lists cut.

    Besides objects it knows headers as pairs (`["authorization", "…"]`) and as `{"name": …, "value": …}`.
    """
    return _redact(value, 0)


def redact_bytes(raw: bytes, limit: int) -> str:
    """Return bytes as people may see them, at most about `limit` characters: JSON laid out, text as text, else a hex dump."""
    try:
        shown, whole = json.dumps(redact(strict_json.parse(raw)), indent=2, ensure_ascii=False), True
    except InvalidInput:
        text = _text(raw[: 2 * limit])
        if text is None:
            return _dump(raw[: min(limit // 4, MAX_DUMP)], len(raw))
        shown, whole = _mask(text), len(raw) <= 2 * limit
    if whole and len(shown) <= limit:
        return printable(shown)
    return f"{printable(shown[:limit])}\n… ({len(raw):,} bytes in all)"


def printable(text: str) -> str:
    """Return text in which what is no visible sign, a tab or the end of a line is written as an escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign in "\n\t" or sign.isprintable() else _escape(sign) for sign in text)


def _redact(value: Json, depth: int) -> Json:
    if isinstance(value, str):
        shown = _mask(value[: 2 * MAX_TEXT])  # masked first: a cut must not part a secret from what tells it
        return shown if len(value) <= MAX_TEXT else f"{shown[:MAX_TEXT]}… ({len(value):,} characters)"
    if not isinstance(value, Mapping | Sequence) or isinstance(value, bytes):
        return value
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return _redact_object(value, depth)
    if len(value) == 2 and _is_secret(value[0]) and isinstance(value[1], str):
        return [value[0], MASK]
    shown_items = [_redact(item, depth + 1) for item in value[:MAX_ITEMS]]
    return shown_items if len(value) <= MAX_ITEMS else [*shown_items, f"… ({len(value) - MAX_ITEMS:,} more)"]


def _redact_object(value: Mapping[str, Json], depth: int) -> dict[str, Json]:
    named = next((value[word] for word in ("name", "key", "Name", "Key") if word in value), None)
    shown: dict[str, Json] = {}
    for name, item in list(value.items())[:MAX_ITEMS]:
        secret = _is_secret(name) or (name in ("value", "Value") and _is_secret(named))
        shown[name] = MASK if secret and not (item is None or isinstance(item, bool)) else _redact(item, depth + 1)
    if len(value) > MAX_ITEMS:
        shown["…"] = f"{len(value) - MAX_ITEMS:,} more"
    return shown


def _is_secret(name: Json) -> bool:
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def _mask(text: str, *, same_length: bool = False) -> str:
    def masked(match: re.Match[str]) -> str:
        return match["name"] + ("*" * len(match["value"]) if same_length else _quoted(match["value"]))

    for pattern in _PATTERNS:
        text = pattern.sub(masked, text)
    return text


def _quoted(value: str) -> str:
    quote = value[0] if value[:1] in ("'", '"') else ""
    return f"{quote}{MASK}{quote}"


def _text(raw: bytes) -> str | None:
    """Return bytes as text, None when they are none; a sign that the end cuts in two is left out."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if error.start < len(raw) - 3 or error.reason != "unexpected end of data":
            return None
        text = raw[: error.start].decode()
        if not text:
            return None
    odd = sum(1 for sign in text if sign < " " and sign not in "\t\r\n")
    return text.replace("\r\n", "\n") if odd * 10 <= len(text) else None


def _dump(raw: bytes, size: int) -> str:
    """Return a hex dump as `hexdump -C` writes it; the masks keep each byte's place."""
    raw = _mask(raw.decode("latin-1"), same_length=True).encode("latin-1")
    lines = []
    for start in range(0, len(raw), 16):
        row = raw[start : start + 16]
        signs = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{signs}|")
    if len(raw) < size:
        lines.append(f"… ({size:,} bytes in all)")
    return "\n".join(lines)


def _escape(sign: str) -> str:
    number = ord(sign)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
