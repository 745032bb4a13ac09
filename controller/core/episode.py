"""An alert from firing to resolved, whatever its repeats: what an event says of its episode, and how the episode goes on with it.

An alert is a level. Its sender repeats it while it fires, and says `resolved` once, or never: it may be gone by then.
So an episode is opened by the first firing event, kept alive by its repeats, ended by `resolved`, and given up by the janitor after a time
without a sign of life. One that ended never opens again: the same alert firing anew has another key.
A producer marks its events by CloudEvents extensions (`EPISODE` and its companions in `model.py`).
Anybody may be the producer, so what is written there is read with care.
Nothing here reads the store; the evaluator, the inbox and `explain.py` call this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from controller.core.model import EPISODE, EPISODE_EXPIRE, EPISODE_STATE, Event, Json
from controller.errors import ExpressionError

#: An episode without a sign of life for this long is given up, unless its events say otherwise.
EXPIRE_SECONDS = 86_400
#: The longest time without a sign of life that an event may ask for.
MAX_EXPIRE_SECONDS = 366 * 86_400
#: A longer key is no key.
MAX_KEY = 256

State = Literal["firing", "resolved"]
_STATES: Mapping[str, State] = {"firing": "firing", "resolved": "resolved"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What an event says of its episode."""

    key: str
    state: State
    #: Seconds without a sign of life after which it is given up.
    expire_seconds: int
    #: What was written there and could not be meant, in a sentence; empty when all is well.
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """What is known of an episode; a row of the store."""

    #: Our own id; empty for one that is not stored yet.
    id: str
    #: The source that its events come from, or the `dedup_domain` that it shares with others; the key is unique within it.
    origin: str
    key: str
    #: OPEN, RESOLVED or EXPIRED.
    state: str
    #: Cause of the last change of state.
    cause: str
    #: Type and subject of the first event that was heard of it.
    type: str
    subject: str | None
    #: The event that opened it, the only one that is news; None for one that was resolved before it was seen firing.
    event_id: str | None
    #: When it began as its producer says, but no later than we heard of it.
    opened_at: datetime
    #: The last sign of life.
    seen_at: datetime
    #: When it is given up; None for one that was never open.
    expires_at: datetime | None
    expires_after_seconds: int
    #: When it was resolved or given up.
    finished_at: datetime | None


def is_marked(extensions: Mapping[str, Json]) -> bool:
    """Say whether an event belongs to an episode, rightly or wrongly marked."""
    return extensions.get(EPISODE) is not None


def read_mark(extensions: Mapping[str, Json]) -> Mark:
    """Return what a marked event says; without a state it is firing, and a time that is none means a day.

    Raises `ExpressionError` for a key or a state that cannot be meant.
    """
    key = extensions.get(EPISODE)
    if isinstance(key, bool) or not isinstance(key, str | int) or not 0 < len(str(key)) <= MAX_KEY or "\0" in str(key):
        raise ExpressionError(f"{EPISODE} is {_shown(key)}, expected a text of 1 to {MAX_KEY} characters")
    seconds, remark = _read_expire(extensions.get(EPISODE_EXPIRE))
    return Mark(key=str(key), state=_read_state(extensions.get(EPISODE_STATE)), expire_seconds=seconds, remark=remark)


def advance(known: Episode | None, mark: Mark, event: Event, *, origin: str, now: datetime) -> Episode:
    """Return an episode as it is after an event of it; `known` is what was known before, None for nothing."""
    began_at = min(event.time, event.received_at)
    if known is None:
        firing = mark.state == "firing"
        return Episode(
            id="",
            origin=origin,
            key=mark.key,
            state="OPEN" if firing else "RESOLVED",
            cause="opened" if firing else "resolved",
            type=event.type,
            subject=event.subject,
            event_id=event.id if firing else None,
            opened_at=began_at,
            seen_at=now,
            expires_at=expiry(now, mark) if firing else None,
            expires_after_seconds=mark.expire_seconds,
            finished_at=None if firing else now,
        )
    if known.state != "OPEN":
        return known
    if mark.state == "resolved":
        return replace(known, state="RESOLVED", cause="resolved", seen_at=now, finished_at=now)
    return replace(known, seen_at=now, expires_at=expiry(now, mark), expires_after_seconds=mark.expire_seconds)


def expiry(now: datetime, mark: Mark) -> datetime:
    """Return when an episode is given up whose last sign of life is of now."""
    return now + timedelta(seconds=mark.expire_seconds)


def _read_state(value: Json) -> State:
    if value is None:
        return "firing"
    state = value.strip().lower() if isinstance(value, str) else ""
    if state in _STATES:
        return _STATES[state]
    raise ExpressionError(f"{EPISODE_STATE} is {_shown(value)}, expected firing or resolved")


def _read_expire(value: Json) -> tuple[int, str]:
    if value is None:
        return EXPIRE_SECONDS, ""
    try:  # a header of a CloudEvent in binary mode is always a text
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 1 <= seconds <= MAX_EXPIRE_SECONDS:
        expected = f"expected seconds from 1 to {MAX_EXPIRE_SECONDS}; a day is assumed"
        return EXPIRE_SECONDS, f"{EPISODE_EXPIRE} is {_shown(value)}, {expected}"
    return int(seconds), ""


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
