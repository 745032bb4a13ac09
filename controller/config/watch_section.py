"""The shape of `watch`: what is looked at after a promotion, and its record."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from controller.config.on_sections import AliasedSection
from controller.config.values import Duration, EventExpression, Glob, Section, Text
from controller.core.conditions import Pattern
from controller.core.model import CONTROLLER_ORIGIN
from controller.core.on import Leaf
from controller.core.policy import Watch
from controller.ports import refusal

#: Nobody waits for more signs that a promotion is worse.
MAX_SAMPLES = 10_000


class RollbackLeaf(Section):
    """Which events say that a promotion made things worse."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the event's type, such as alert.slo")
    subject: Glob | None = Field(
        None, description="Glob over the event's subject; $model stands for the name of the model"
    )
    when: EventExpression | None = Field(None, description="CEL over event, model and champion; must be true")

    @model_validator(mode="after")
    def _names_something(self) -> RollbackLeaf:
        if not self.model_fields_set:
            raise refusal(
                "every event would roll the promotion back", hint="name a source, a type, a subject or a `when`"
            )
        if self.source == CONTROLLER_ORIGIN:
            raise refusal(
                f"events of {CONTROLLER_ORIGIN!r} never roll back: that a source is silent or fails is missing data",
                hint="name the source that says how the model does",
            )
        return self


class WatchSection(AliasedSection):
    """What is looked at after a promotion."""

    lasting: Duration = Field(alias="for", description="How long a promotion is watched")
    rollback_on: RollbackLeaf | None = Field(
        None, description="Events that fit say that it is worse, and it is rolled back; nothing is when left out"
    )
    min_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(
        1, description="So many events that fit are needed"
    )

    @model_validator(mode="after")
    def _counts_something(self) -> WatchSection:
        if "min_samples" in self.model_fields_set and self.rollback_on is None and self.min_samples > 1:
            raise refusal("min_samples is of no use without rollback_on", hint="add `rollback_on: {type: …}`")
        return self


def build_watch(section: WatchSection | None, *, model: str) -> Watch | None:
    """Return the record of a model's watch."""
    if section is None:
        return None
    leaf = section.rollback_on
    return Watch(
        lasting=section.lasting,
        rollback_on=None
        if leaf is None
        else Leaf(
            source=leaf.source,
            type=None if leaf.type is None else Pattern(leaf.type),
            subject=None if leaf.subject is None else Pattern(leaf.subject.replace("$model", model)),
            when=leaf.when,
        ),
        min_samples=section.min_samples,
    )
