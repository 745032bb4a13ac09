"""What a case of `retrainctl policy test` says, and whether what happened is what it expects.

A case is given events, and what else there is to know, at instants; it expects that a policy fired, held or skipped, then and for a reason.
Nothing here reads a file or decides: `config/cases.py` reads, `engine/backtest/cases.py` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from controller.core.chain import clock, span
from controller.core.model import Json
from controller.core.past import Change

Outcome = Literal["fired", "merged", "held", "skipped", "error"]
#: So many lines of what happened are shown with a failure.
_MOST_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenEvent:
    """An event that comes."""

    at: datetime
    type: str
    #: Name of the source that takes it in.
    origin: str
    subject: str | None
    data: Json
    #: When it happened; by default when it comes.
    time: datetime
    id: str
    extensions: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenRun:
    """What becomes of a run."""

    length: timedelta
    #: A final state; None: promoted where there are promoters, else succeeded.
    state: str | None
    #: None: as the model declares.
    cost: float | None
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a policy should have concluded."""

    #: Where it stands, as `FILE:LINE:COLUMN`.
    place: str
    outcome: Outcome
    model: str
    policy: str
    at: datetime | None
    #: The stage that gave the reason.
    by: str | None
    key: str | None
    #: Part of the reason, or of a line of the explanation.
    reason: str | None
    #: held: until when.
    until: datetime | None
    #: Exactly so often; None: at least once.
    times: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One case."""

    name: str
    place: str
    start: datetime
    #: When it is over: everything that is due by then is decided.
    until: datetime
    events: Sequence[GivenEvent]
    changes: Sequence[Change]
    #: By model, in the order in which runs start; the last one stands for all that come after it.
    runs: Mapping[str, Sequence[GivenRun]]
    expected: Sequence[Expected]


@dataclass(frozen=True, kw_only=True, slots=True)
class Happened:
    """What a policy concluded."""

    at: datetime
    outcome: Outcome
    model: str
    policy: str
    key: str
    stage: str
    reason: str
    #: The lines of its explanation.
    lines: tuple[str, ...] = ()
    until: datetime | None = None


def judge(case: Case, happened: Sequence[Happened]) -> list[str]:
    """Return what is other than expected, a sentence each with what happened instead; nothing when all is well."""
    return [failure for expected in case.expected if (failure := _judge(case, expected, happened)) is not None]


def _judge(case: Case, expected: Expected, happened: Sequence[Happened]) -> str | None:
    count = sum(_fits(each, expected) for each in happened)
    if count == expected.times or (expected.times is None and count):
        return None
    found = "" if expected.times is None else f", {_times(expected.times)}, but it was so {_times(count)}"
    lines = [f"{expected.place}: expected {_said(case, expected)}{found}"]
    near = [each for each in happened if (each.model, each.policy) == (expected.model, expected.policy)]
    same = [each for each in near if each.at == expected.at]
    lines.append(f"{'at that instant' if same else 'what it concluded'}:" if near else "it concluded nothing at all")
    lines += [f"  {_line(case, each)}" for each in (same or near)[:_MOST_SHOWN]]
    if len(same or near) > _MOST_SHOWN:
        lines.append(f"  and {len(same or near) - _MOST_SHOWN} more")
    return "\n".join(lines)


def _fits(each: Happened, expected: Expected) -> bool:
    return (
        each.outcome == expected.outcome
        and each.model == expected.model
        and each.policy == expected.policy
        and expected.at in (None, each.at)
        and expected.by in (None, each.stage)
        and expected.key in (None, each.key)
        and expected.until in (None, each.until)
        and (expected.reason is None or any(expected.reason in text for text in (each.reason, *each.lines)))
    )


def _said(case: Case, expected: Expected) -> str:
    words = [f"{expected.model}/{expected.policy} {_verb(expected.outcome)}"]
    if expected.at is not None:
        words.append(f"at {_when(case, expected.at)}")
    if expected.by is not None:
        words.append(f"by {expected.by}")
    if expected.key is not None:
        words.append(f"for key {expected.key!r}")
    if expected.until is not None:
        words.append(f"until {_when(case, expected.until)}")
    if expected.reason is not None:
        words.append(f"because of {expected.reason!r}")
    return " ".join(words)


def _line(case: Case, each: Happened) -> str:
    key = f" [{each.key}]" if each.key else ""
    until = "" if each.until is None else f", until {_when(case, each.until)}"
    return f"{_when(case, each.at)} {each.outcome}{key} by {each.stage}: {each.reason}{until}"


def _verb(outcome: Outcome) -> str:
    return {
        "fired": "to have fired",
        "merged": "to have been merged into a queued run",
        "held": "to have held",
        "skipped": "to have skipped",
        "error": "to have failed on the data",
    }[outcome]


def _when(case: Case, at: datetime) -> str:
    return f"+{span(at - case.start)}" if at >= case.start else clock(at)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
