"""What a stage of the chain is: the question it is asked and the answer it gives.

A stage is one pure function in a file of its own under `stages/`; `stages/__init__.py` lists them in the order of the language.
A stage that its policy does not configure answers None, and leaves no line in the explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from controller.core.conditions import Scope
from controller.core.duration import format_duration
from controller.core.episode import Episode
from controller.core.model import Champion, Event, Json, Pause
from controller.core.policy import Policy

#: Joins the names of what a condition waits for.
WAITS_OR = " or "
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveRun:
    """A run that holds or wants the model's slot (QUEUED to PROMOTING)."""

    id: str
    state: str
    policy: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a policy is told about the world beside the event; read in the transaction that decides."""

    champion: Champion | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Pauses that concern this policy, the widest first.
    pauses: Sequence[Pause] = ()
    #: Runs of the model from QUEUED to PROMOTING, oldest first.
    active: Sequence[ActiveRun] = ()
    #: When this policy last fired for this key.
    last_decision_at: datetime | None = None
    #: When a run of the model was last launched, ended well, was promoted, ended badly.
    last_launch_at: datetime | None = None
    last_success_at: datetime | None = None
    last_promotion_at: datetime | None = None
    last_failure_at: datetime | None = None
    #: When the run of this policy's last FIRE ended; None while there is none, or it goes on.
    last_ended_at: datetime | None = None
    #: Episodes that are open now, when the policy asks for any.
    open_episodes: Sequence[Episode] = ()
    #: The `dedup_domain` of each source that has one: its episodes have that as their origin.
    domains: Mapping[str, str] = field(default_factory=dict)
    #: Retrainings that count in the policy's budget: when each was decided and what it costs, oldest first.
    spent: Sequence[tuple[datetime, float]] = ()
    #: Ended runs of this policy and key, newest first, that did not help, since one that helped or a person's `resume`.
    unhelpful: Sequence[str] = ()
    #: How many runs lie behind the event, or behind that cause of all that are held which has the fewest: 0 when it came from outside.
    depth: int = 0
    #: The run of this model that emitted the event, when nothing that is held came from elsewhere.
    own_run: str | None = None
    #: The episode that the event belongs to, as it is after this event; None when it belongs to none, or nothing is known of it.
    episode: Episode | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyState:
    """What a policy remembers for one key between occurrences; bounded, whatever happens.

    The causes it holds are rows of their own (`held_cause`); here is only their number.
    """

    #: Hash of the `on` part it was built under; another one resets it.
    on_hash: str
    #: What each stage keeps for itself, by the stage's name.
    slots: Mapping[str, Json] = field(default_factory=dict)
    #: The stage that holds; None when nothing is held.
    stage: str | None = None
    held_since: datetime | None = None
    #: How many causes have been collected, held or counted.
    held_count: int = 0
    #: When to look again without an event; None when only an event or what is named in `waits_for` can change anything.
    due_at: datetime | None = None
    #: What ends a hold that has no time: `rows`, `episode`, `resume`, `champion`, `run`.
    waits_for: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a stage is asked."""

    policy: Policy
    key: str
    #: What this stage kept in the policy's state; None at first.
    slot: Json
    #: The event that drives it; None for a timer.
    event: Event | None
    #: The stage that holds what the policy collected so far; None when nothing is held.
    held_at: str | None
    facts: Facts
    scope: Scope
    now: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """What a stage keeps when nothing is held, and when to look again without an event."""

    slot: Json
    due_at: datetime | None = None
    waits_for: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Aftermath:
    """What becomes of what a condition collected and kept."""

    #: skip: the event stays collected, because it counts towards a later occasion.
    collects: bool = False
    #: skip: what is left as it is: `nothing` (the policy begins anew), the `causes` collected so far, or a whole `hold`.
    keeps: Literal["nothing", "causes", "hold"] = "nothing"
    #: skip that keeps causes: how many there are now.
    count: int = 0
    #: Collected causes of these instants no longer matter; or all from before an instant.
    lets_go: Sequence[datetime] = ()
    keeps_since: datetime | None = None
    #: skip that ends a hold: all but the causes of these instants.
    keeps_only: Sequence[datetime] | None = None
    #: skip: nothing of what was kept matters any more; it is forgotten, which is counted and not written down.
    is_over: bool = False
    #: What is kept when the chain ends behind this stage without a FIRE, and with one; None leaves nothing, or what it remembers.
    rest: Rest | None = None
    fired: Rest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a stage says."""

    outcome: Literal["pass", "hold", "skip"]
    #: A sentence for people, with the values seen.
    reason: str
    facts: Mapping[str, Json] = field(default_factory=dict)
    #: hold: when to ask again.
    until: datetime | None = None
    #: hold without a time: what ends it.
    waits_for: str | None = None
    #: What the stage keeps from now on; None leaves it as it is, and what is empty is nothing.
    slot: Json = None
    #: What becomes of what was collected and kept; None for a stage that asks nothing about that.
    after: Aftermath | None = None
    #: pass of the last stage: the queued run that takes the causes in.
    joins_run: str | None = None
    #: pass of the last stage: the runs that are replaced.
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One link of the chain."""

    name: str
    ask: Callable[[Question], Answer | None]
    #: Whether `ask` would pass or leave no line, without its explanation: most events end at the first stages, and nobody asks why.
    #: None when only `ask` can say. Raises what `ask` raises.
    admits: Callable[[Policy, Event, Scope], bool] | None = None
    #: Whether a person's press passes over it.
    person_passes_over: bool = True
    #: Whether what it keeps outlives a FIRE or a SKIP; a window starts anew, a level must remember that it fired.
    remembers: bool = False
    #: Whether a policy has it at all; None when only `ask` can say.
    concerns: Callable[[Policy], bool] | None = None


def waits_of(waits_for: str | None) -> tuple[str, ...]:
    """Return what ends a wait, each by its name: a condition may wait for the first of several (`champion or run`)."""
    return () if waits_for is None else tuple(waits_for.split(WAITS_OR))


def passed(reason: str, *, slot: Json = None, **facts: Json) -> Answer:
    """Answer that the next stage may be asked."""
    return Answer(outcome="pass", reason=reason, facts=facts, slot=slot)


def hold_until(until: datetime, reason: str, *, slot: Json = None, **facts: Json) -> Answer:
    """Answer that it must wait until an instant."""
    return Answer(outcome="hold", reason=reason, until=until, facts=facts, slot=slot)


def hold_for(named: str, reason: str, *, slot: Json = None, **facts: Json) -> Answer:
    """Answer that it must wait for something without a known time."""
    return Answer(outcome="hold", reason=reason, waits_for=named, facts=facts, slot=slot)


def skipped(reason: str, *, slot: Json = None, **facts: Json) -> Answer:
    """Answer that this occurrence ends here."""
    return Answer(outcome="skip", reason=reason, facts=facts, slot=slot)


def to_micros(at: datetime) -> int:
    """Return an instant as microseconds since 1970, which is how slots keep it."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """Return the instant that `to_micros` wrote."""
    return _EPOCH + timedelta(microseconds=value)


def clock(at: datetime) -> str:
    """Write an instant for people, to the second, in UTC."""
    return f"{at.isoformat(' ', 'seconds')[:19]}Z"


def span(length: timedelta) -> str:
    """Write a length of time for people."""
    return format_duration(length)
