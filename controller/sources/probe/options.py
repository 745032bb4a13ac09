"""What every probe is told, whatever it asks."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from controller.ports import Duration, PluginOptions, refusal

_SHORTEST = timedelta(seconds=1)
_TIMEOUT = timedelta(seconds=30)


class ProbeOptions(PluginOptions):
    """What every probe is told."""

    every: Duration = Field(description="How often to look; the instants are multiples of it since 1970, in UTC")
    jitter: Duration | None = Field(
        None, description="Each look comes up to so much later, at random; by default a tenth of `every`"
    )
    timeout: Duration | None = Field(
        None, description="A look that takes longer has failed; by default 30s, and never more than `every`"
    )
    emit: Literal["reading", "change"] = Field(
        "reading", description="An event for every look, or only when the value is another one than the last emitted"
    )
    step: float | None = Field(
        None, description="With `emit: change`: how far a number must be from the last emitted one to count as changed"
    )
    event_type: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="CloudEvents type of the events; by default probe.reading or probe.changed",
    )
    subject: str | None = Field(None, min_length=1, max_length=2048, description="CloudEvents subject of the events")
    circuit: int = Field(5, ge=1, description="After so many failures in a row it waits longer, up to 15 minutes")
    empty: Literal["complain", "ignore"] = Field(
        "complain", description="Whether an answer without any value is worth a complaint"
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.every < _SHORTEST:
            raise refusal(f"every {seconds(self.every)} is too often; at least 1s lies between two looks")
        if self.timeout is not None and not timedelta(0) < self.timeout <= self.every:
            raise refusal(
                f"timeout {seconds(self.timeout)} must be more than 0s, and not more than `every` ({seconds(self.every)})"
            )
        if self.jitter is not None and self.jitter >= self.every:
            raise refusal(f"jitter {seconds(self.jitter)} must be less than `every` ({seconds(self.every)})")
        return self

    @model_validator(mode="after")
    def _step_fits(self) -> Self:
        if self.step is None:
            return self
        if self.emit != "change":
            raise refusal("`step` says what a change is, and this probe emits something else", hint="emit: change")
        if not (math.isfinite(self.step) and self.step > 0):
            raise refusal(f"step {self.step!r} must be a number greater than 0")
        return self

    @property
    def deadline(self) -> timedelta:
        """How long a look may take."""
        return min(_TIMEOUT, self.every) if self.timeout is None else self.timeout

    @property
    def spread(self) -> timedelta:
        """How much later than its nominal instant a look may begin."""
        return self.every / 10 if self.jitter is None else self.jitter

    @property
    def type(self) -> str:
        """The type of the events."""
        return self.event_type or {"reading": "probe.reading", "change": "probe.changed"}.get(self.emit, "probe.row")


def seconds(duration: timedelta) -> str:
    """Return a duration as it is written in a configuration."""
    return f"{duration.total_seconds():g}s"
