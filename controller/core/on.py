"""What makes an occasion: the `on` of a policy, as the judgements need it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from controller.core.conditions import Expression, Pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """`on` as a leaf: which events count, and how many of them make an occasion."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxAge:
    """`on: {max_age: 30d}`: the champion is that old. A level: it stays true, and re-arms."""

    age: timedelta
    #: Fires again this long after its run ended, if the champion is still that old; a tenth of `age` by default.
    again_after: timedelta
