"""How a policy stands for one key: what it remembers, what it would be told now, and what it collected.

`store/account_views.py` fills it in one transaction; the accounts read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.core.chain import Facts, PolicyState
from controller.core.model import Cause, Event, Json, Trace
from controller.core.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a policy stands for one key, with what it would be told now."""

    policy: Policy
    key: str
    #: None: it remembers nothing.
    state: PolicyState | None
    facts: Facts
    now: datetime
    #: When it was last written; None when it remembers nothing.
    updated_at: datetime | None = None
    #: The newest of what it collected, and how many there are.
    causes: Sequence[Cause] = ()
    cause_count: int = 0
    #: The last event that it decided on under this key.
    last_event: Event | None = None


def trace_shape(line: Trace) -> dict[str, Json]:
    """Return a line of a trace as it is stored."""
    return {"stage": line.stage, "outcome": line.outcome, "reason": line.reason, "facts": dict(line.facts)}


def written(at: datetime) -> str:
    """Write an instant as RFC 3339 text."""
    return at.isoformat().replace("+00:00", "Z")
