"""What people and programs are shown of watches, outcomes and policies' statistics; see `shapes.py` for what shapes are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from typing_extensions import TypedDict

Json = Any


class EvidenceShape(TypedDict):
    """An event that said that a promotion made things worse."""

    event_id: str
    type: str
    subject: str | None
    time: str


class WatchShape(TypedDict):
    """The watch after a run's promotion."""

    id: str
    #: OPEN, or the outcome.
    state: str
    cause: str
    reason: str
    opened_at: str
    until: str
    finished_at: str | None
    #: Whether events can have the promotion rolled back: so many are needed, so many came, these are the first.
    rolls_back: bool
    needed: int
    samples: int
    evidence: list[EvidenceShape]
    #: How often `rollback_on` could not be evaluated, and why the last time.
    broken: int
    broken_reason: str
    #: The event that said that the signal came back.
    came_back: str | None
    #: The promotion that rolled back, and its state.
    rollback_id: str | None
    rollback_state: str | None


class PolicyShape(TypedDict):
    """A policy, and what came of it."""

    model: str
    policy: str
    #: live, observe or off; null when it is no longer configured, or stands for a person's presses.
    mode: str | None
    #: Decisions to retrain; several may have joined one run.
    fired: int
    last_fired_at: str | None
    #: Runs, by how they ended.
    runs: int
    promoted: int
    #: SUCCEEDED: its model has nothing to promote with.
    succeeded: int
    rejected: int
    #: FAILED or TIMED_OUT.
    failed: int
    #: CANCELLED or SUPERSEDED.
    dropped: int
    #: Not ended yet.
    going: int
    #: Promoted runs, by their outcome; the others are not known yet.
    cured: int
    not_cured: int
    worse: int
    unknown: int
    #: Hours that jobs trained, those of all candidates and attempts added up …
    training_hours: float
    #: … and how many of them for runs that ended without a promotion, or whose promotion did not cure or made worse.
    wasted_hours: float


#: What an outcome is called, its mark, and its tone.
_OUTCOMES: Mapping[str, tuple[str, str, str]] = {
    "CURED": ("it helped", "✓", "good"),
    "NOT_CURED": ("it did not help", "✗", "bad"),
    "WORSE": ("it made things worse", "✗", "bad"),
    "UNKNOWN": ("nobody knows whether it helped", "•", "plain"),
}


def outcome_words(outcome: str) -> str:
    """Say an outcome for people."""
    return _OUTCOMES[outcome][0]


def outcome_lines(run: Mapping[str, Json], instant: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what became of a promoted run as (text, mark, tone), for people; nothing for a run that was not promoted."""
    watch, outcome = run["watch"], run["outcome"]
    if outcome is not None:
        words, mark, tone = _OUTCOMES[outcome]
        yield f"{words} ({outcome}): {run['outcome_reason']}", mark, tone
    if watch is None:
        return
    if watch["state"] == "OPEN":
        needed = f", {watch['samples']} of {watch['needed']} that say worse" if watch["rolls_back"] else ""
        yield f"watched until {instant(watch['until'])}{needed}", "…", "wait"
    if watch["broken"]:
        yield f"rollback_on could not be evaluated {watch['broken']} times: {watch['broken_reason']}", "!", "bad"
    if watch["rollback_id"] is not None:
        state = watch["rollback_state"]
        tone = {"APPLIED": "good", "PENDING": "wait"}.get(str(state), "bad")
        yield f"rolled back by the controller: {watch['rollback_id']} {state}", "→", tone
