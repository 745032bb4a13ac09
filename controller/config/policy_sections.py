"""The shape of a policy: `on`, and the stages behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from controller.config.on_sections import OnSection
from controller.config.values import Between, Day, Duration, Section, TimeZone
from controller.core.schedule import always_quiet
from controller.ports import refusal


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


class PolicySection(Section):
    """The rule that says when a model is retrained."""

    on: OnSection = Field(description="What makes an occasion")
    debounce: DebounceSection | None = Field(None, description="Wait until it has been quiet")
    cooldown: CooldownSection | None = Field(None, description="Wait until the last retraining is long enough ago")
    quiet_hours: QuietHoursSection | None = Field(None, description="Hold at these hours")
