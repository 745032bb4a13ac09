"""Backoff for outward calls; the only place that imports tenacity.

The loops do not wait inside a call: a call that raises `RetryLater` is tried again by a later tick, at the instant computed here, and
the row remembers how often. Only a daemon's first connection to its database waits in place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import tenacity

from controller.clock import Random
from controller.errors import StoreBusy

T = TypeVar("T")


def backoff(
    attempt: int,
    random: Random,
    *,
    first: timedelta = timedelta(seconds=1),
    longest: timedelta = timedelta(minutes=5),
) -> timedelta:
    """Return the wait before attempt `attempt` + 1: a random time in (x/2, x], x = first x 2^(attempt-1), at most `longest`."""
    ceiling: timedelta = min(first * 2 ** min(attempt - 1, 30), longest)
    return ceiling * (1 - random.random() / 2)


def store_backoff(attempt: int, random: Random) -> timedelta:
    """Return the wait before a store that was busy is tried again: short, because everything is to go on soon after the cause is gone."""
    return backoff(attempt, random, first=timedelta(milliseconds=200), longest=timedelta(seconds=2))


def when_store_answers(call: Callable[[], T], *, give_up_after: timedelta, waiting: Callable[[StoreBusy], None]) -> T:
    """Call until the store answers, waiting up to 3 s between calls; `waiting` hears each reason.

    Raises the last `StoreBusy` after `give_up_after`.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreBusy),
        wait=tenacity.wait_exponential(multiplier=0.2, max=2) + tenacity.wait_random(0, 1),
        stop=tenacity.stop_after_delay(give_up_after.total_seconds()),
        before_sleep=lambda state: _tell(state.outcome.exception() if state.outcome else None, waiting),
        reraise=True,
    )
    return retrying(call)


def _tell(error: BaseException | None, waiting: Callable[[StoreBusy], None]) -> None:
    if isinstance(error, StoreBusy):
        waiting(error)
