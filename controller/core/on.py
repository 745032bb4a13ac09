"""What makes an occasion: the `on` of a policy, as the judgements need it.

A leaf is about events. It is plain (true for its own event only), counts (`count` within `within`), or is a level (`metric`).
`all`, `any`, `not`, `sequence`, `absent` and `max_age` join leaves and facts into a tree. The nodes of a tree have numbers, the root 0 and
then from left to right as they are written: under its number each keeps what it remembers (`core/nodes/`).
What can be said of an `on` without an event is worked out once and kept beside it (`traits`), because every event asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from controller.core.conditions import Expression, Pattern

#: More leaves, or a deeper tree, and nobody understands it any more.
MAX_LEAVES = 32
MAX_DEPTH = 4
#: A level that fired fires again this long after its run ended, if it is still true.
AGAIN_AFTER = timedelta(days=1)

Aggregate = Literal["avg", "sum", "min", "max", "last", "distinct", "rate"]
#: Aggregates of which nothing is known as zero, once it was listened for as long as the window is.
COUNTING: frozenset[Aggregate] = frozenset({"sum", "distinct", "rate"})


class Noted:
    """A record with a place for what is worked out of it once, because every event asks for it; no part of its value."""

    __slots__ = ("_noted",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A value of many events against a threshold: a level, which stays true, and re-arms."""

    agg: Aggregate
    #: CEL over the event that gives a number (anything plain for `distinct`); None counts 1 each, for `rate` and `sum`.
    value: Expression | None = None
    #: Length of the sliding window, in event time; None only for `last`.
    over: timedelta | None = None
    #: True when the value is strictly beyond it; exactly one of the two.
    above: float | None = None
    below: float | None = None
    #: Where it clears, inclusive; None for the threshold itself.
    rearm: float | None = None
    #: True only after it has been beyond for so long, by our clock.
    lasting: timedelta | None = None
    #: Fewer values in the window, and nothing is known.
    min_samples: int = 1
    #: Without a value for so long, by our clock, nothing is known.
    stale_after: timedelta | None = None
    again_after: timedelta = AGAIN_AFTER
    #: What the value is, for people: the name of a statistical test.
    test: str | None = None

    @property
    def threshold(self) -> float:
        """The value that it is compared with."""
        return self.above if self.above is not None else self.below or 0.0

    @property
    def clears_at(self) -> float:
        """The value at which it re-arms."""
        return self.threshold if self.rearm is None else self.rearm


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf(Noted):
    """A node about events: which ones, and how many of them or what value of theirs."""

    #: Name of the configured source; None for any.
    source: str | None = None
    #: Glob over the event's type; None for any.
    type: Pattern | None = None
    #: Glob over the event's subject; None for any, also none.
    subject: Pattern | None = None
    #: CEL over `event`, `model`, `champion`; must give a bool.
    when: Expression | None = None
    #: How many matching events within `within`; 1 without a window.
    count: int = 1
    #: Length of the sliding window, in event time; the older edge is exclusive.
    within: timedelta | None = None
    #: CEL that gives the key; state and counting are per key.
    by: Expression | None = None
    #: Asks for a value of the events instead of their number; then without `count` and `within`.
    metric: Metric | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxAge(Noted):
    """`max_age: 30d`: the champion is that old. A level: it stays true, and re-arms."""

    age: timedelta
    #: Fires again this long after its run ended, if the champion is still that old; a tenth of `age` by default.
    again_after: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class NoEpisode(Noted):
    """`not`: no open episode fits; at least one of the three is given."""

    source: str | None = None
    type: Pattern | None = None
    subject: Pattern | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AllOf(Noted):
    """`all`: every part is true at once."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyOf(Noted):
    """`any`: one part at least is true."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InSequence(Noted):
    """`sequence`: events that fit the steps came in this order, within a window that begins with the first."""

    #: Plain leaves, two at least.
    steps: tuple[Leaf, ...]
    within: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Absent(Noted):
    """`absent`: nothing that fits `expect` came within `within`, while its source is healthy."""

    #: A plain leaf.
    expect: Leaf
    #: From the last that fits `after`, or, without it, from the last that fits `expect` (at first from the day it was configured).
    within: timedelta
    #: A plain leaf; None: each that comes lets the next be expected.
    after: Leaf | None = None
    #: True again this long after it fired; None: only when it is expected anew.
    again_after: timedelta | None = None


Node = Leaf | MaxAge | NoEpisode | AllOf | AnyOf | InSequence | Absent
#: What makes an occasion for a policy.
On = Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A node with its place in the tree."""

    number: int
    #: `all[1]`, `any[0].sequence`; empty for the root.
    path: str
    node: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What can be said of an `on` without an event."""

    #: Every node, by its number.
    places: tuple[Place, ...]
    #: Every leaf that events may fit, with its path: also the steps of sequences, and what is expected.
    leaves: tuple[tuple[str, Leaf], ...]
    #: Whether time alone can make it true.
    needs_clock: bool
    #: … also if no event ever comes, so that it is looked at from its first day on.
    begins_by_itself: bool
    #: Whether a part of it stays true after it fired, and must re-arm.
    has_levels: bool
    #: Whether it asks for open episodes.
    asks_for_episodes: bool
    reads_champion: bool
    #: Whether it has a key.
    is_keyed: bool


def traits(on: On) -> Traits:
    """Return what can be said of an `on`; worked out once for each."""
    known: Traits | None = getattr(on, "_noted", None)
    if known is None:
        known = _work_out(on)
        note(on, known)
    return known


def note(record: Noted, what: Any) -> None:
    """Keep beside a record what was worked out of it."""
    object.__setattr__(record, "_noted", what)


def leaves(on: On) -> Iterator[Leaf]:
    """Yield every leaf that an event may fit: also the steps of sequences, and what is expected or awaited."""
    for _, leaf in traits(on).leaves:
        yield leaf


def needs_clock(on: On) -> bool:
    """Say whether time alone can make it true, so that it is looked at without an event."""
    return traits(on).needs_clock


def is_judged(on: On) -> bool:
    """Say whether nodes judge it (`core/nodes/`): a tree, or a leaf with a metric; what else there is has stages of its own."""
    return on.metric is not None if isinstance(on, Leaf) else not isinstance(on, MaxAge)


def _work_out(on: On) -> Traits:
    places = tuple(Place(number=number, path=path, node=node) for number, (path, node) in enumerate(_walk(on, "")))
    found = tuple(leaf for place in places for leaf in _leaves_of(place))
    nodes = [place.node for place in places]
    is_keyed = any(leaf.by is not None for _, leaf in found)
    reads_champion = any(isinstance(node, MaxAge) for node in nodes) or any(
        "champion" in expression.variables for _, leaf in found for expression in _expressions(leaf)
    )
    return Traits(
        places=places,
        leaves=found,
        needs_clock=any(_is_level(node) or isinstance(node, Absent) for node in nodes),
        begins_by_itself=not is_keyed and any(_begins_by_itself(node) for node in nodes),
        has_levels=any(_is_level(node) for node in nodes),
        asks_for_episodes=any(isinstance(node, NoEpisode | Absent) for node in nodes),
        reads_champion=reads_champion,
        is_keyed=is_keyed,
    )


def _is_level(node: Node) -> bool:
    return isinstance(node, MaxAge) or (isinstance(node, Leaf) and node.metric is not None)


def _begins_by_itself(node: Node) -> bool:
    if isinstance(node, Leaf):
        return node.metric is not None and node.metric.below is not None and node.metric.agg in COUNTING
    return isinstance(node, MaxAge) or (isinstance(node, Absent) and node.after is None)


def _walk(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    yield path, node
    if isinstance(node, AllOf | AnyOf):
        word = "all" if isinstance(node, AllOf) else "any"
        for position, part in enumerate(node.parts):
            yield from _walk(part, f"{path}.{word}[{position}]".lstrip("."))


def _leaves_of(place: Place) -> Iterator[tuple[str, Leaf]]:
    node, path = place.node, place.path
    if isinstance(node, Leaf):
        yield path, node
    elif isinstance(node, InSequence):
        for position, step in enumerate(node.steps):
            yield f"{path}.sequence.steps[{position}]".lstrip("."), step
    elif isinstance(node, Absent):
        yield f"{path}.absent.expect".lstrip("."), node.expect
        if node.after is not None:
            yield f"{path}.absent.after".lstrip("."), node.after


def _expressions(leaf: Leaf) -> Iterator[Expression]:
    value = None if leaf.metric is None else leaf.metric.value
    yield from (each for each in (leaf.when, leaf.by, value) if each is not None)
