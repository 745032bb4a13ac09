"""Is there enough to train on: enough new rows, labels that are old enough, no open incident upstream?

Rows are added up over the events that get here, from the first one that is held; the `label_delay` counts from that one too.
What is asked first is what is named first: rows, then labels, then incidents. Each edge is inclusive.
"""

from __future__ import annotations

import math
from datetime import timedelta
from functools import cache
from typing import Any

from controller.core.chain import (
    Answer,
    Question,
    Stage,
    clock,
    from_micros,
    hold_for,
    hold_until,
    passed,
    span,
    to_micros,
)
from controller.core.conditions import Expression
from controller.core.episode import Episode
from controller.core.nodes.state import fits_episode
from controller.core.on import Leaf
from controller.core.policy import Ready
from controller.errors import ExpressionError

#: Where an event says how many rows it brings, when the policy does not say.
ROWS = "event.data.rows"


def ask(question: Question) -> Answer | None:
    """Pass when there is enough; `rows` that cannot be read raise, and become an ERROR decision."""
    ready = question.policy.ready
    if ready is None:
        return None
    slot = _collected(ready, question)
    first, rows = from_micros(slot["first"]), slot["rows"]
    seen: dict[str, Any] = {}
    if ready.new_rows is not None:
        seen |= {"rows": rows, "new_rows": ready.new_rows}
        if rows < ready.new_rows:
            return hold_for("rows", f"{rows:,.0f} of {ready.new_rows:,} new rows", slot=slot, **seen)
    if ready.label_delay is not None:
        labelled_at = first + ready.label_delay
        waited = f"{span(max(question.now - first, timedelta()))} of {span(ready.label_delay)} for labels"
        seen |= {"first": clock(first), "label_delay": span(ready.label_delay)}
        if question.now < labelled_at:
            return hold_until(labelled_at, f"waited {waited}", slot=slot, **seen)
    if ready.unless_open is not None:
        found = open_episode(ready.unless_open, question)
        if found is not None:
            seen |= {"episode": found.key, "since": clock(found.opened_at)}
            return hold_for(
                "episode",
                f"an episode is open: {found.type} from {found.origin}, since {clock(found.opened_at)}",
                slot=slot,
                **seen,
            )
    return passed(_said(ready, rows), slot=slot, **seen)


def open_episode(leaf: Leaf, question: Question) -> Episode | None:
    """Return the oldest open episode that a leaf fits by source, type and subject; None when there is none."""
    facts = question.facts
    fitting = [episode for episode in facts.open_episodes if fits_episode(leaf, episode, facts)]
    return min(fitting, key=lambda episode: (episode.opened_at, episode.key), default=None)


def _collected(ready: Ready, question: Question) -> dict[str, Any]:
    """Return what was seen so far, with this event: when the first came, and the rows of them all."""
    slot = question.slot or {"first": to_micros(question.now), "rows": 0.0}
    if ready.new_rows is None or question.event is None:
        return {"first": slot["first"], "rows": slot["rows"]}
    return {"first": slot["first"], "rows": slot["rows"] + _rows_of(ready.rows or _default_rows(), question)}


@cache
def _default_rows() -> Expression:
    """Return the expression that most policies use; made when it is first asked for, because CEL takes its time to load."""
    return Expression.load(ROWS, variables=("event",))


def _rows_of(expression: Expression, question: Question) -> float:
    value = expression.evaluate(question.scope)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ExpressionError(f"rows: {expression.source!r} gave {value!r}, which is no number of rows")
    return float(value)


def _said(ready: Ready, rows: float) -> str:
    parts = []
    if ready.new_rows is not None:
        parts.append(f"{rows:,.0f} of {ready.new_rows:,} new rows")
    if ready.label_delay is not None:
        parts.append(f"labels are {span(ready.label_delay)} old")
    if ready.unless_open is not None:
        parts.append("no such episode is open")
    return ", ".join(parts)


STAGE = Stage(name="ready", ask=ask, concerns=lambda policy: policy.ready is not None)
