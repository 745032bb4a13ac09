"""Makes the records of the stages behind `on`, and of what holds promotions, out of their validated sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.config.policy_sections import (
    BudgetSection,
    CalendarSection,
    HoldPromotionSection,
    QuietHoursSection,
    ReadySection,
    StagesSection,
)
from controller.core.calendar import Calendar
from controller.core.conditions import Pattern
from controller.core.model import Json
from controller.core.on import Leaf
from controller.core.policy import (
    DEFAULT_MAX_CHAIN,
    Breaker,
    Budget,
    Cooldown,
    Debounce,
    PromotionHold,
    QuietHours,
    Ready,
)

#: What a retraining counts for when its model does not say.
DEFAULT_COST = 1.0

Calendars = Mapping[str, CalendarSection]


def build_stages(section: StagesSection, calendars: Calendars, *, model: str) -> dict[str, Any]:
    """Return the fields of a `Policy` that its stages give."""
    debounce, cooldown = section.debounce, section.cooldown
    return {
        "ready": None if section.ready is None else _ready(section.ready, model),
        "debounce": None if debounce is None else Debounce(quiet=debounce.quiet, max_wait=debounce.max_wait),
        "cooldown": None
        if cooldown is None
        else Cooldown(after=cooldown.after, period=cooldown.period, after_failure=cooldown.after_failure),
        "quiet_hours": _quiet_hours(section.quiet_hours),
        "calendars": _calendars(section.calendars, calendars),
        "max_chain": section.max_chain or DEFAULT_MAX_CHAIN,
        "own_output": bool(section.own_output),
        "breaker": None if section.breaker is None else Breaker(after=section.breaker.after),
        "budget": None if section.budget is None else _budget(section.budget),
        "mode": section.mode or "live",
        "priority": section.priority or 0,
        "jitter": section.jitter,
    }


def version_parts(section: StagesSection, calendars: Calendars, *, cost: float | None) -> dict[str, Json]:
    """Return what else a policy decides by, as part of its version: its calendars as they are, and what its model costs."""
    parts: dict[str, Json] = {}
    if section.calendars:
        parts["calendars"] = [
            {"name": name, **calendars[name].model_dump(mode="json", exclude_none=True)} for name in section.calendars
        ]
    if cost is not None:
        parts["cost"] = cost
    return parts


def build_promotion_hold(section: HoldPromotionSection | None, calendars: Calendars) -> PromotionHold | None:
    """Return what holds the promotions of a model."""
    if section is None:
        return None
    return PromotionHold(
        quiet_hours=_quiet_hours(section.quiet_hours), calendars=_calendars(section.calendars, calendars)
    )


def _ready(section: ReadySection, model: str) -> Ready:
    leaf = section.unless_open
    return Ready(
        new_rows=section.new_rows,
        rows=section.rows,
        label_delay=section.label_delay,
        unless_open=None
        if leaf is None
        else Leaf(
            source=leaf.source,
            type=None if leaf.type is None else Pattern(leaf.type),
            subject=None if leaf.subject is None else Pattern(leaf.subject.replace("$model", model)),
        ),
    )


def _quiet_hours(section: QuietHoursSection | None) -> QuietHours | None:
    if section is None:
        return None
    return QuietHours(between=section.between, timezone=section.timezone, days=tuple(section.days))


def _calendars(names: Sequence[str] | None, calendars: Calendars) -> tuple[Calendar, ...]:
    return tuple(
        Calendar(
            name=name,
            timezone=calendars[name].timezone,
            dates=tuple(calendars[name].dates),
            days=tuple(calendars[name].days),
        )
        for name in names or ()
    )


def _budget(section: BudgetSection) -> Budget:
    return Budget(runs=section.runs, cost=section.cost, per=section.per, scope=section.scope)
