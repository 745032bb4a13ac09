"""Guesses what a person meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'cooldown'?`; empty when nothing is near."""
    choices = {choice.casefold(): choice for choice in known}
    near = difflib.get_close_matches(name.casefold(), choices, n=1, cutoff=0.6)
    return f"did you mean {choices[near[0]]!r}?" if near else ""


def nearest_or_known(name: str, known: Iterable[str]) -> str:
    """Return the near miss, or what there is to choose from."""
    choices = list(known)
    return nearest(name, choices) or (f"known: {', '.join(choices)}" if choices else "")
