"""The shape of `retention`: how long what nobody needs any longer is kept, and its record.

Decisions, runs and their causes, attempts, versions, promotions, verdicts, history and acts are kept for ever and have no key here:
they are what an account of the past is made of.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from controller.config.records import Retention
from controller.config.values import Duration, Section
from controller.core.duration import format_duration
from controller.ports import refusal

_DEFAULT = Retention()
#: No sender that we know of tries again after more than three days (GitHub); this is for those who know theirs.
SHORTEST_EVENTS = timedelta(hours=1)


def _check_events(length: timedelta) -> timedelta:
    if length < SHORTEST_EVENTS:
        raise refusal(
            f"{format_duration(length)} is too short: an event that comes again after that counts as a new one",
            hint="write 1h or more, and no less than the longest time in which any sender tries again",
        )
    return length


class RetentionSection(Section):
    """How long what nobody needs any longer is kept."""

    events: Annotated[Duration, AfterValidator(_check_events)] = Field(
        _DEFAULT.events,
        description="Events that were decided on. For so long one that comes again is known to be the same",
    )
    bodies: Duration | None = Field(None, description="The data of such events; as long as the events when left out")
    dead_letters: Duration = Field(
        _DEFAULT.dead_letters, description="Dead letters that were replayed or dropped; those that wait stay"
    )
    episodes: Duration = Field(
        _DEFAULT.episodes, description="Alerts that ended. For so long a late repeat of one is known to be old"
    )
    notifications: Duration = Field(_DEFAULT.notifications, description="Messages that were sent or not wanted")
    watches: Duration = Field(_DEFAULT.watches, description="Watches after promotions that came to an end")
    run_files: Duration = Field(
        _DEFAULT.run_files,
        description="Logs and files of the attempts of runs that ended; artifacts are kept by keep_artifacts",
    )

    @model_validator(mode="after")
    def _bodies_go_first(self) -> RetentionSection:
        if self.bodies is not None and self.bodies > self.events:
            raise refusal(
                f"bodies ({format_duration(self.bodies)}) cannot be kept longer than events ({format_duration(self.events)})",
                hint="leave `bodies` out, or keep the events as long",
            )
        return self


def build_retention(section: RetentionSection | None) -> Retention:
    """Return the record of how long what is kept."""
    if section is None:
        return Retention()
    return Retention(
        events=section.events,
        bodies=section.events if section.bodies is None else section.bodies,
        dead_letters=section.dead_letters,
        episodes=section.episodes,
        notifications=section.notifications,
        watches=section.watches,
        run_files=section.run_files,
    )
