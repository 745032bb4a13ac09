"""What a node of a condition is asked, and what it finds.

A node is given what it kept, and a moment: an event, or only the time. It says whether it is true, in words and in numbers, what it keeps,
and when time alone could make it true. Instants are microseconds since 1970, as the state keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controller.core.chain import Facts, clock, from_micros, to_micros
from controller.core.conditions import Scope
from controller.core.model import Event, Json
from controller.core.on import Leaf, Place

#: How far an event's own time may lie behind our receiving it.
LATENESS = timedelta(hours=1)
LATENESS_MICROS = LATENESS // timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """When a condition is judged, and what it may look at."""

    #: The event that drives it; None for a timer.
    event: Event | None
    #: When the event counts as having happened.
    event_at: int
    #: Up to when windows slide: the latest event time or timer so far.
    at: int
    #: … and up to when they had slid before.
    before: int
    #: By our clock.
    now: int
    #: Paths of the leaves that the event fits.
    fits: frozenset[str]
    #: Numbers of the nodes that were true when what is held began to be, and are not asked again.
    latched: frozenset[int]
    #: Whether the policy only observes, so that no run of its own ever ends.
    observes: bool
    #: Whether there is one state for every event, which began when the policy was activated.
    is_keyed: bool
    facts: Facts
    scope: Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a node finds at a moment."""

    place: Place
    kind: str
    #: None: nothing is known, which counts as not true.
    truth: bool | None
    #: What it asks for and what there is, for people.
    text: str
    #: True but for an open episode: it waits for the end of one.
    is_blocked: bool = False
    value: Json = None
    needed: Json = None
    #: Since when it is as it is, where that matters.
    since: int | None = None
    #: When time alone could make it true.
    wakes_at: int | None = None
    #: What else could: `champion`, `run`, `episode`.
    waits_for: str | None = None
    #: What it keeps, and what it keeps when the policy fires now; None for nothing.
    slot: Json = None
    fired: Json = None
    #: From when nothing of what it keeps matters; None: it matters, or there is nothing.
    over_at: int | None = None
    #: Event times of the causes that it keeps.
    keeps: tuple[int, ...] = ()
    #: Whether the event is one that must not be lost: not one more value of a level.
    is_news: bool = False
    #: Whether it was true as an edge, which stays so while the policy holds.
    is_edge: bool = False
    #: What it found of the parts of the node.
    parts: tuple[Finding, ...] = field(default=())

    def shown(self) -> Mapping[str, Json]:
        """Return it as the trace keeps it."""
        line: dict[str, Json] = {
            "path": self.place.path,
            "kind": self.kind,
            "truth": "unknown" if self.truth is None else "true" if self.truth else "false",
            "text": self.text,
        }
        if self.is_blocked:
            line["waits"] = "episode"
        if self.value is not None:
            line["value"] = self.value
        if self.needed is not None:
            line["needed"] = self.needed
        if self.since is not None:
            line["since"] = clock(from_micros(self.since))
        if self.wakes_at is not None and not self.truth:
            line["looks_again_at"] = clock(from_micros(self.wakes_at))
        elif self.waits_for is not None and not self.truth:
            line["waits_for"] = self.waits_for
        return line


def event_time(event: Event) -> datetime:
    """Return when the event counts as having happened."""
    return min(max(event.time, event.received_at - LATENESS), event.received_at)


def tamed(instant: int, now: int) -> int:
    """Return an instant that is kept; one far in the future is of a clock that was set back since, and counts as now."""
    return instant if instant <= now + LATENESS_MICROS else now


def micros(length: timedelta) -> int:
    """Return a length in microseconds."""
    return length // timedelta(microseconds=1)


def ended_since(moment: Moment, fired: int) -> int | None:
    """Return when the run that a level started by firing at `fired` ended; None while it goes on."""
    if moment.observes:
        return fired
    ended_at = moment.facts.last_ended_at
    return None if ended_at is None else to_micros(ended_at)


def named(leaf: Leaf) -> str:
    """Return what people call the events of a leaf."""
    words = [word for word in (leaf.source, leaf.type and leaf.type.text, leaf.subject and leaf.subject.text) if word]
    if not words and leaf.when is not None:
        words.append(leaf.when.source if len(leaf.when.source) <= 40 else f"{leaf.when.source[:39]}…")
    return " ".join(words) or "any event"


def number(value: float) -> str:
    """Write a number for people."""
    return f"{value:.6g}"
