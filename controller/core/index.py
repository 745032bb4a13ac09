"""Which policies an event may concern, without asking all of them: the cost follows those that match.

A policy is placed by the words of its `on` that stand fast: its source, and its type.
A type stands fast as a whole (`drift.data`), in its first dotted segment (`alert.*`) or, when a wildcard comes before the dot, not at all.
An event is looked for in the few places where it may fit, and what was found is remembered: most have the origin and type of another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from controller.core.conditions import Pattern
from controller.core.model import Event
from controller.core.on import Leaf
from controller.core.policy import Policy

#: Answers that are remembered, by origin and type; a producer that invents types cannot fill the memory.
REMEMBERED = 4096

#: How much of a type stands fast, and what.
_Word = tuple[Literal["type", "segment", "any"], str]
_ANY: _Word = ("any", "")


class PolicyIndex:
    """Policies by the words of their `on` that stand fast."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        #: By source (None for any) and word.
        self._places: dict[tuple[str | None, _Word], list[Policy]] = defaultdict(list)
        self._found: dict[tuple[str, str], Sequence[Policy]] = {}
        for policy in policies:
            if isinstance(policy.on, Leaf):
                self._places[policy.on.source, _word(policy.on.type)].append(policy)

    def candidates(self, event: Event) -> Sequence[Policy]:
        """Return the policies whose source and type fit the event, in the order of model and name."""
        asked = (event.origin, event.type)
        found = self._found.get(asked)
        if found is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            found = self._found[asked] = self._look_up(*asked)
        return found

    def _look_up(self, origin: str, kind: str) -> Sequence[Policy]:
        words: tuple[_Word, ...] = (("type", kind), ("segment", _segment(kind)), _ANY)
        found = [
            policy
            for source in (origin, None)
            for word in words
            for policy in self._places.get((source, word), ())
            if isinstance(policy.on, Leaf) and (policy.on.type is None or policy.on.type.matches(kind))
        ]
        return tuple(sorted(found, key=lambda policy: (policy.model, policy.name)))


def _word(pattern: Pattern | None) -> _Word:
    """Return how much of a pattern stands fast: all of it, its first segment when no wildcard comes before the dot, or nothing."""
    if pattern is None:
        return _ANY
    if pattern.literal is not None:
        return "type", pattern.literal
    segment, dot, _ = pattern.text.partition(".")
    return ("segment", segment) if dot and Pattern(segment).literal is not None else _ANY


def _segment(kind: str) -> str:
    return kind.partition(".")[0]
