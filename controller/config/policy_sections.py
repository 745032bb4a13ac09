"""The shape of a policy: `on`, and the stages behind it; and of the calendars that stages name."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from controller.config.on_sections import OnSection
from controller.config.values import (
    Between,
    Day,
    Duration,
    Glob,
    RowsExpression,
    Section,
    Text,
    TimeZone,
)
from controller.core.calendar import Calendar, check_date, never_open
from controller.core.schedule import always_quiet
from controller.ports import refusal

#: So many retrainings in a budget, or in a row for a breaker, are looked at; more cannot be asked for.
MAX_BUDGET_RUNS = 10_000
MAX_BREAKER = 100
_SCOPE = re.compile(r"model|all|label:.+")


def _check_date(text: str) -> str:
    try:
        return check_date(text)
    except ValueError as error:
        raise refusal(str(error)) from error


def _check_scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise refusal(f"{text!r} is no scope of a budget", hint="write model, all, or label:team")
    return text


ClosedDay = Annotated[str, AfterValidator(_check_date)]
Scope = Annotated[str, AfterValidator(_check_scope)]


class DebounceSection(Section):
    """Wait until it has been quiet."""

    quiet: Duration = Field(description="Fires when nothing more has come for this long")
    max_wait: Duration | None = Field(None, description="… but waits no longer than this from the first event")

    @model_validator(mode="after")
    def _waits_long_enough(self) -> DebounceSection:
        if self.max_wait is not None and self.max_wait < self.quiet:
            raise refusal(
                "max_wait is shorter than quiet, so quiet would never count",
                hint="make max_wait longer",
            )
        return self


class CooldownSection(Section):
    """Wait until the last retraining is long enough ago."""

    period: Duration = Field(description="How long")
    after: Literal["decision", "launch", "success", "promotion"] = Field("decision", description="Since what")
    after_failure: Duration | None = Field(None, description="Another period when the model's last run failed")


class QuietHoursSection(Section):
    """Hold while the wall clock is inside a window."""

    between: Between = Field(description="22:00-06:00; the start is inside, the end is not")
    timezone: TimeZone = Field("UTC", description="Whose wall clock, such as Europe/Paris")
    days: list[Day] = Field([], description="Days on which the window begins; every day when left out")

    @model_validator(mode="after")
    def _leaves_some_time(self) -> QuietHoursSection:
        if always_quiet(between=self.between, days=self.days):
            raise refusal(
                f"{self.between!r} leaves no time at all",
                hint="make the window shorter, or name days",
            )
        return self


class CalendarSection(Section):
    """Closed days, by name: holidays, freezes."""

    timezone: TimeZone = Field("UTC", description="Whose days, such as Europe/Paris")
    dates: list[ClosedDay] = Field(
        [], description="Closed days: 2026-12-25, 2026-12-20..2027-01-03 (both inside), 12-25 for every year"
    )
    days: list[Day] = Field([], description="Weekdays that are closed")

    @model_validator(mode="after")
    def _closes_some_days(self) -> CalendarSection:
        if not self.dates and not self.days:
            raise refusal("it closes no day", hint="name some under `dates` or `days`")
        if never_open([Calendar(name="", dates=tuple(self.dates), days=tuple(self.days))]):
            raise refusal("it leaves no day open", hint="take a day out")
        return self


class OpenEpisodeSection(Section):
    """Which open episodes are waited for."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the type of the episode's first event")
    subject: Glob | None = Field(None, description="Glob over its subject; $model stands for the model's name")

    @model_validator(mode="after")
    def _names_something(self) -> OpenEpisodeSection:
        if not self.model_fields_set:
            raise refusal("it would wait for every open episode", hint="name a source, a type or a subject")
        return self


class ReadySection(Section):
    """Wait until there is enough to train on."""

    new_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="So many rows must have come with the events that are held"
    )
    rows: RowsExpression | None = Field(
        None, description="CEL that gives the rows of an event; event.data.rows when left out"
    )
    label_delay: Duration | None = Field(
        None, description="Labels come so long after the data, counted from the first event that is held"
    )
    unless_open: OpenEpisodeSection | None = Field(None, description="Wait while such an episode is open")

    @model_validator(mode="after")
    def _asks_for_something(self) -> ReadySection:
        if self.rows is not None and self.new_rows is None:
            raise refusal("rows is of no use without new_rows")
        if self.new_rows is None and self.label_delay is None and self.unless_open is None:
            raise refusal("it asks for nothing", hint="give new_rows, label_delay or unless_open")
        return self


class BreakerSection(Section):
    """Stop after retrainings that did not help, until a person resumes."""

    after: Annotated[int, Field(ge=1, le=MAX_BREAKER)] = Field(
        description="So many in a row that were rejected, failed, rolled back, or did not cure the signal"
    )


class BudgetSection(Section):
    """At most so many retrainings, or so much cost, within a sliding window."""

    runs: Annotated[int, Field(ge=1, le=MAX_BUDGET_RUNS)] | None = Field(None, description="So many retrainings")
    cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="So many units of `train.cost`, corrected by what the results say"
    )
    per: Duration = Field(description="Length of the window; a retraining counts from its decision")
    scope: Scope = Field(
        "model", description="Whose retrainings count: model, all, or label:NAME (models with the same value share)"
    )

    @model_validator(mode="after")
    def _counts_one_thing(self) -> BudgetSection:
        if (self.runs is None) is (self.cost is None):
            raise refusal("it counts either runs or cost", hint="give one of `runs` and `cost`")
        return self


class HoldPromotionSection(Section):
    """When promotions wait, however good the challenger is."""

    quiet_hours: QuietHoursSection | None = Field(None, description="Promotions wait at these hours")
    calendars: list[Text] | None = Field(None, description="Promotions wait on days that one of these calendars closes")

    @model_validator(mode="after")
    def _names_some_time(self) -> HoldPromotionSection:
        if self.quiet_hours is None and not self.calendars:
            raise refusal("it names no time", hint="give quiet_hours or calendars")
        return self


class StagesSection(Section):
    """The stages behind `on`; alone, what `defaults.policy` lays under every policy."""

    ready: ReadySection | None = Field(None, description="Wait until there is enough to train on")
    debounce: DebounceSection | None = Field(None, description="Wait until it has been quiet")
    cooldown: CooldownSection | None = Field(None, description="Wait until the last retraining is long enough ago")
    quiet_hours: QuietHoursSection | None = Field(None, description="Hold at these hours")
    calendars: list[Text] | None = Field(None, description="Hold on days that one of these calendars closes")
    max_chain: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Retrainings that cause each other end after so many; 3 when left out"
    )
    own_output: bool | None = Field(
        None, description="Whether what a run of the same model emitted may start another one; no when left out"
    )
    breaker: BreakerSection | None = Field(None, description="Stop after retrainings that did not help")
    budget: BudgetSection | None = Field(None, description="Hold when too much was spent")
    mode: Literal["live", "observe", "off"] | None = Field(
        None, description="observe decides and records, and starts nothing; off is not asked; live when left out"
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        None, description="Of the runs that wait for the same launcher, the higher goes first; 0 when left out"
    )
    jitter: Duration | None = Field(
        None, description="Runs start up to so much later, by a share that comes from the model's name"
    )


class PolicySection(StagesSection):
    """The rule that says when a model is retrained."""

    on: OnSection = Field(description="What makes an occasion")

    @model_validator(mode="after")
    def _can_become_ready(self) -> PolicySection:
        ready = self.ready
        if ready is None:
            return self
        if self.on.max_age is not None and (ready.new_rows is not None or ready.label_delay is not None):
            raise refusal(
                "max_age needs no event, so no rows come with it and no labels follow it",
                hint="keep `unless_open` alone, or listen to events",
            )
        if ready.new_rows is not None and (self.on.count or 1) > 1:
            raise refusal(
                "new_rows would count only the rows of the event that makes the count full",
                hint="listen to each event without `count`; the rows add up while it is held",
            )
        return self
