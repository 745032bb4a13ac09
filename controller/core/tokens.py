"""Bearer tokens: 256 random bits, with a prefix and a checksum so that scanners for leaked secrets know them.

Only the SHA-256 of a token is stored; a token of this entropy needs no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Protocol

PREFIX = "rt_"
_BITS = 256
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class _Random(Protocol):
    def getrandbits(self, bits: int) -> int: ...


def mint(random: _Random) -> str:
    """Return a new token: `rt_`, 52 characters of randomness, 7 of CRC-32 over what is before them."""
    secret = f"{PREFIX}{_base32(random.getrandbits(_BITS), 52)}"
    return f"{secret}{_base32(zlib.crc32(secret.encode()), 7)}"


def digest(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _base32(number: int, characters: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(characters)))
