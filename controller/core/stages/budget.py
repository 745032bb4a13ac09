"""Is there enough left to spend?

A retraining counts from its decision until `per` later: the window is (now - per, now], so one that was decided exactly `per` ago has
left. What joins a queued run is free, because that run counts already.
Over the budget it holds until the instant when enough has left; whatever comes meanwhile is merged into the one that then starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controller.core.chain import Answer, Question, Stage, clock, hold_until, passed, span
from controller.core.policy import Budget

#: So much over the limit is the rounding of sums.
_ROUNDING = 1e-9


def ask(question: Question) -> Answer | None:
    """Pass when this retraining fits into the budget."""
    budget, policy = question.policy.budget, question.policy
    if budget is None:
        return None
    if policy.concurrency == "queue":
        queued = [run.id for run in question.facts.active if run.state == "QUEUED" and run.key == question.key]
        if queued:
            return passed(f"joins {queued[0]}, which counts already")
    spent = [(at, cost) for at, cost in question.facts.spent if at > question.now - budget.per]
    amount = _units(budget, spent)
    wanted = 1.0 if budget.runs is not None else policy.cost
    limit = limit_of(budget)
    unit = "runs" if budget.runs is not None else "units"
    said = f"{amount:g} of {limit:g} {unit} within {span(budget.per)} ({budget.scope})"
    seen = {"spent": amount, "limit": limit, "unit": unit, "per": span(budget.per), "scope": budget.scope}
    until = free_at(budget, spent, wanted)
    if until is None:
        return passed(said, **seen)
    more = "" if budget.runs is not None else f", this one costs {wanted:g}"
    return hold_until(until, f"{said}{more}: enough is left at {clock(until)}", **seen)


def limit_of(budget: Budget) -> float:
    """Return how much a budget allows, in its own unit."""
    return float(budget.runs if budget.runs is not None else budget.cost or 0.0)


def free_at(budget: Budget, spent: Sequence[tuple[datetime, float]], wanted: float) -> datetime | None:
    """Return when enough has left the window for `wanted` more; None when it fits now.

    `spent` is what counts now, in any order.
    A retraining that is dearer than the whole budget waits until nothing else counts.
    """
    room = limit_of(budget) - wanted + _ROUNDING
    kept = 0.0
    for at, cost in sorted(spent, reverse=True):
        unit = 1.0 if budget.runs is not None else cost
        kept += unit
        if unit > 0 and kept > room:
            return at + budget.per
    return None


def _units(budget: Budget, spent: Sequence[tuple[datetime, float]]) -> float:
    return float(len(spent)) if budget.runs is not None else round(sum(cost for _, cost in spent), 9)


STAGE = Stage(name="budget", ask=ask, person_passes_over=False, concerns=lambda policy: policy.budget is not None)
