"""Which policies an event may concern, without asking all of them: the cost follows those that match.

Each leaf of a policy's `on`, also within a tree, is placed by the words in it that stand fast.
First by its source and its type: the type as a whole (`drift.data`), by its leading segments (`alert.*`, `alert.slo.*`) or, when a
wildcard comes first, not at all.
Then, among the leaves with the same source and type, by one more thing that must hold: a subject without wildcards, or an equality in its
`when` (`event.data.model == 'churn'`, `event.subject == model.name`); of several the one that fewest others share.
A field that the event lacks is an error of the policy, and no answer, so then all who look at that field are asked.

What is remembered is where to look for an origin and type, which most events have in common with another, and never who was found.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from controller.core.conditions import Pattern
from controller.core.model import Event, Json
from controller.core.on import Leaf, leaves
from controller.core.policy import Policy
from controller.core.terms import FieldPath, Has, ModelName, Node, Some, Term, conjuncts, read_terms

#: Origins and types that are remembered; a producer that invents types cannot fill the memory …
REMEMBERED = 4096
#: … nor can many policies that fit the same type, for so many places are remembered in all.
REMEMBERED_PLACES = 65_536
#: A few policies that nothing further tells apart are remembered as they are.
_FEW = 16

_LOOP = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")

#: How much of a type stands fast, and what.
_Word = tuple[Literal["type", "leading", "any"], str]
_ANY: _Word = ("any", "")
#: Attributes of an event that an expression reads, by the name it has there; its instants are no text.
_ATTRIBUTES = {
    "id": "source_id",
    "origin": "origin",
    "source": "source",
    "type": "type",
    "subject": "subject",
    "data": "data",
    "extensions": "extensions",
}


@dataclass(frozen=True, slots=True)
class _Key:
    """Something beside source and type that must hold: a field of the event has one of these values."""

    path: FieldPath
    values: frozenset[str | float]
    #: Whether the expression also tests with `has()` that the field is there.
    is_tested: bool = False


class _Nothing:
    """Stands for what an event has no value for."""


#: The field is not there, though what it would stand in is.
_ABSENT = _Nothing()
#: It could not be there: what it would stand in is missing too, or has no fields.
_NOWHERE = _Nothing()


@dataclass(slots=True)
class _Field:
    """Leaves that ask one field for a value; by their policies' numbers."""

    by_value: dict[str | float, list[int]] = field(default_factory=lambda: defaultdict(list))
    all: list[int] = field(default_factory=list)
    #: Those that do not test with `has()` whether the field is there.
    untested: list[int] = field(default_factory=list)

    def find(self, value: Json) -> Sequence[int]:
        """Return those to be asked about a value; all of them about what cannot be looked up."""
        kind = type(value)
        if kind is str or kind is float:
            return self.by_value.get(value, ())
        if kind is int and abs(value) < 1 << 53:
            return self.by_value.get(float(value), ())
        if value is None or kind is bool or kind is dict or kind is list:
            return ()  # equal to no text and to no number
        return self.untested if value is _ABSENT else self.all


@dataclass(slots=True)
class _Place:
    """The leaves with the same source and type."""

    type: Pattern | None
    #: Those that ask for nothing else that stands fast.
    always: list[int] = field(default_factory=list)
    fields: dict[FieldPath, _Field] = field(default_factory=dict)

    def find(self, event: Event) -> Iterator[Sequence[int]]:
        """Yield the numbers of the policies that the event may concern, each time in order."""
        if self.always:
            yield self.always
        for path, found in self.fields.items():
            if numbers := found.find(_value(event, path)):
                yield numbers


class PolicyIndex:
    """Policies by the words of their `on` that stand fast."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        #: In the order of model and name; their places here are their numbers.
        self._policies = sorted(
            (policy for policy in policies if policy.mode != "off"), key=lambda policy: (policy.model, policy.name)
        )
        #: By source (None for any) and word.
        self._places: dict[tuple[str | None, _Word], list[_Place]] = defaultdict(list)
        self._found: dict[tuple[str, str], _Answer] = {}
        self._remembered_places = 0
        self._build()

    def candidates(self, event: Event) -> Sequence[Policy]:
        """Return the policies that the event may concern, in the order of model and name; one that is left out would refuse it."""
        asked = (event.origin, event.type)
        answer = self._found.get(asked)
        if answer is None:
            answer = self._remember(asked, self._look_up(*asked))
        if answer.policies is not None:
            return answer.policies
        found = [numbers for place in answer.places for numbers in place.find(event)]
        if not found:
            return ()
        numbers = found[0] if len(found) == 1 else sorted({number for some in found for number in some})
        return [self._policies[number] for number in numbers]

    def _build(self) -> None:
        placed = [
            (number, leaf, _keys(leaf, policy.model))
            for number, policy in enumerate(self._policies)
            for leaf in leaves(policy.on)
        ]
        shared = Counter(
            (leaf.source, leaf.type, key.path, value)
            for _, leaf, keys in placed
            for key in keys
            for value in key.values
        )
        places: dict[tuple[str | None, Pattern | None], _Place] = {}
        for number, leaf, keys in placed:
            what = (leaf.source, leaf.type)
            place = places.get(what)
            if place is None:
                place = places[what] = _Place(leaf.type)
                self._places[leaf.source, _word(leaf.type)].append(place)
            best = min(
                keys, key=lambda key: max(shared[(*what, key.path, value)] for value in key.values), default=None
            )
            _put(place, number, best)

    def _look_up(self, origin: str, kind: str) -> list[_Place]:
        words: list[_Word] = [("type", kind), _ANY, *(("leading", text) for text in _leading(kind))]
        return [
            place
            for source in (origin, None)
            for word in words
            for place in self._places.get((source, word), ())
            if place.type is None or place.type.matches(kind)
        ]

    def _remember(self, asked: tuple[str, str], places: list[_Place]) -> _Answer:
        if len(self._found) >= REMEMBERED or self._remembered_places + len(places) > REMEMBERED_PLACES:
            self._found.clear()
            self._remembered_places = 0
        answer = self._found[asked] = _Answer(tuple(places), self._few(places))
        self._remembered_places += len(places)
        return answer

    def _few(self, places: list[_Place]) -> tuple[Policy, ...] | None:
        if any(place.fields for place in places) or sum(len(place.always) for place in places) > _FEW:
            return None
        return tuple(self._policies[number] for number in sorted({n for place in places for n in place.always}))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where to look for policies that an origin and type may concern."""

    places: tuple[_Place, ...]
    #: Those found there, when they are few and nothing further tells them apart.
    policies: tuple[Policy, ...] | None


def _put(place: _Place, number: int, key: _Key | None) -> None:
    """Place a policy once; its number is the highest so far, so that each list stays in order."""
    if key is None:
        _append(place.always, number)
        return
    found = place.fields.setdefault(key.path, _Field())
    for value in key.values:
        _append(found.by_value[value], number)
    _append(found.all, number)
    if not key.is_tested:
        _append(found.untested, number)


def _append(numbers: list[int], number: int) -> None:
    if not numbers or numbers[-1] != number:
        numbers.append(number)


def _keys(leaf: Leaf, model: str) -> list[_Key]:
    """Return what must hold of an event for this leaf, as far as it can be looked up."""
    keys = []
    if leaf.subject is not None and leaf.subject.literal is not None:
        keys.append(_Key(("subject",), frozenset({leaf.subject.literal})))
    if leaf.when is None or _LOOP.search(leaf.when.source):
        return keys  # a loop over a list that is too long is an error, whatever else holds
    parts = conjuncts(read_terms(leaf.when.source))
    tested = {part.path for part in parts if isinstance(part, Has)}
    for part in parts:
        asked = _equality(part, model)
        if asked is not None and asked[0][0] == "event" and len(asked[0]) > 1 and asked[0][1] in _ATTRIBUTES:
            keys.append(_Key(asked[0][1:], asked[1], is_tested=asked[0] in tested))
    return keys


def _equality(part: Node, model: str) -> tuple[FieldPath, frozenset[str | float]] | None:
    """Return the field and its possible values, when the part says that it equals one of them."""
    terms = part.parts if isinstance(part, Some) else (part,)
    values: set[str | float] = set()
    paths = set()
    for term in terms:
        if not isinstance(term, Term) or term.sign != "==":
            return None
        value = model if isinstance(term.literal, ModelName) else term.literal
        if isinstance(value, bool) or value is None:
            return None
        values.add(value)
        paths.add(term.path)
    return (paths.pop(), frozenset(values)) if len(paths) == 1 else None


def _value(event: Event, path: FieldPath) -> Json:
    """Return what an expression finds at a path of the event."""
    found: Json = getattr(event, _ATTRIBUTES[path[0]])
    for name in path[1:]:
        if not isinstance(found, Mapping):
            return _NOWHERE
        found = found.get(name, _ABSENT)
    return found


def _word(pattern: Pattern | None) -> _Word:
    """Return how much of a pattern stands fast: all of it, the segments before its first wildcard, or nothing."""
    if pattern is None:
        return _ANY
    if pattern.literal is not None:
        return "type", pattern.literal
    wildcard = min(position for sign in "*?[" if (position := pattern.text.find(sign)) >= 0)
    leading, dot, _ = pattern.text[:wildcard].rpartition(".")
    return ("leading", leading) if dot else _ANY


def _leading(kind: str) -> Iterator[str]:
    """Yield what a pattern for this type may begin with: every run of segments but the whole."""
    position = kind.find(".")
    while position >= 0:
        yield kind[:position]
        position = kind.find(".", position + 1)
