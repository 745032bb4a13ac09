"""The chain: every stage in the order in which it is asked. The first one that does not pass gives the reason.

To add a stage, write one file beside these and one line here; the order is part of the language.
"""

from __future__ import annotations

from controller.core.chain import Stage
from controller.core.stages import (
    breaker,
    budget,
    calendars,
    concurrency,
    cooldown,
    count,
    debounce,
    episode,
    loop,
    match,
    max_age,
    metric,
    mode,
    pause,
    quiet_hours,
    ready,
    tree,
    when,
)

CHAIN: tuple[Stage, ...] = (
    match.STAGE,
    when.STAGE,
    episode.STAGE,
    count.STAGE,
    metric.STAGE,
    tree.STAGE,
    max_age.STAGE,
    ready.STAGE,
    debounce.STAGE,
    cooldown.STAGE,
    quiet_hours.STAGE,
    calendars.STAGE,
    pause.STAGE,
    loop.STAGE,
    breaker.STAGE,
    budget.STAGE,
    mode.STAGE,
    concurrency.STAGE,
)

#: What is decided from the event (and the episode that it belongs to) alone, before any state is read; a skip here is only counted.
SELECTING: tuple[Stage, ...] = CHAIN[:3]
