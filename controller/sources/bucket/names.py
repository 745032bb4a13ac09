"""What objects are called in the ledger and in events."""

from __future__ import annotations

import hashlib
import re

#: Characters of a key that are kept in an event's id.
_ID_LIMIT = 400
_HASH_DIGITS = 24
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
#: What neither a database nor JSON can carry.
_UNFIT = re.compile("[\x00\ud800-\udfff]")


def is_fit(key: str) -> bool:
    """Return whether a key can be carried at all."""
    return _UNFIT.search(key) is None


def shown(key: str) -> str:
    """Return a key on one line: control characters are percent-escaped."""
    return _CONTROL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), key)


def hash_key(key: str) -> str:
    """Return the hash by which the ledger knows a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:_HASH_DIGITS]


def key_number(key: str) -> int:
    """Return the beginning of `hash_key` as a number, to look a key up in memory."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def number_of_hash(hashed: str) -> int:
    """Return the `key_number` that belongs to a `hash_key`."""
    return int(hashed[:16], 16)


def event_id(key: str, mark: str) -> str:
    """Return `key@mark`; a key too long for an index, or not on one line, is told apart by its hash."""
    name = shown(key)
    if len(name) > _ID_LIMIT or name != key:
        name = f"{name[:_ID_LIMIT]}…{hash_key(key)}"
    return f"{name}@{mark}"
