"""The shape of `on`: what makes an occasion for a policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from controller.config.values import Duration, EventExpression, Glob, Section, Text
from controller.ports import refusal

#: A policy keeps one instant for each event it counts, so the number is bounded.
MAX_COUNT = 10_000


class OnSection(Section):
    """Which events count, or how old the champion may be."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the event's type, such as drift.*")
    subject: Glob | None = Field(None, description="Glob over the event's subject")
    when: EventExpression | None = Field(None, description="CEL over event, model and champion; must be true")
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        None, description="How many matching events within `within`"
    )
    within: Duration | None = Field(None, description="Length of the sliding window, in event time")
    by: EventExpression | None = Field(None, description="CEL that gives a key; everything is counted per key")
    max_age: Duration | None = Field(None, description="Fires when the champion is that old; stands alone")
    again_after: Duration | None = Field(
        None,
        description="With max_age: fires again this long after its run ended; by default a tenth of max_age",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> OnSection:
        given = self.model_fields_set
        if self.max_age is not None:
            if others := sorted(given - {"max_age", "again_after"}):
                raise refusal(
                    f"max_age stands alone, without {', '.join(others)}",
                    hint="make it a policy of its own",
                )
        elif "again_after" in given:
            raise refusal("again_after is of no use without max_age")
        elif not given & {"source", "type", "subject", "when"}:
            raise refusal(
                "it would match every event",
                hint="name a source, a type, a subject or a `when`, or give max_age",
            )
        elif (self.count or 1) > 1 and self.within is None:
            raise refusal(f"count {self.count} needs a window", hint="add `within: 1h`")
        return self
