"""What files are called in keys and events."""

from __future__ import annotations

import hashlib
import os
import re

#: Characters of a path that are kept in a ledger's key, for people.
_READABLE = 200
#: Characters of a path that are kept in an event's id.
_ID_LIMIT = 400
_HASH_DIGITS = 24
#: What makes a name unfit as it is: undecodable bytes, control characters, and what looks like an
#: escape.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]|%(?=[0-9A-Fa-f]{2})")


def escape_name(name: str) -> str:
    """Return a file's name or path as it stands in keys and events: as it is, unless that cannot be
    carried or undone.
    """
    return _UNFIT.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(match[0]))


def hash_name(path: str) -> str:
    """Return the hash by which the ledger knows a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:_HASH_DIGITS]


def ledger_key(path: str) -> str:
    """Return the key of a path: a hash to find it by, bounded in length, and a readable part for
    people.
    """
    return f"{hash_name(path)}:{escape_name(path)[-_READABLE:]}"


def path_number(path: str) -> int:
    """Return the beginning of `hash_name` as a number, to look a path up in memory."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big")


def number_of_key(key: str) -> int:
    """Return the `path_number` of the path that a ledger's key belongs to."""
    return int(key[:16], 16)


def event_id(path: str, generation: int) -> str:
    """Return `path#generation`; a path too long for an index is cut and told apart by its hash."""
    name = escape_name(path)
    if len(name) > _ID_LIMIT:
        name = f"{name[:_ID_LIMIT]}…{hash_name(path)}"
    return f"{name}#{generation}"
