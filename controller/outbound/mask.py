"""Keeps the secrets that a plugin was told out of what it says a server or a program answered."""

from __future__ import annotations

from collections.abc import Iterable

#: What stands where a secret was.
HIDDEN = "***"
#: A shorter text is found everywhere, and hides nothing.
_SHORTEST_SECRET = 4


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets; the longest first, since one may hold another."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text
