"""What became of a promotion: did it cure the signal that asked for it, or did it make things worse?

A watch is opened with the champion's change and looks at three things until it is over: events that fit `rollback_on`,
the signal that asked for the retraining (an alert that fires, a metric that is beyond its threshold), and what people do meanwhile.
`conclude` works the outcome out of what was seen, with a reason; it reads no clock and no store.
What it never does: take silence for bad news, or go past a person's decision.
`engine/watched.py` opens watches and counts, `engine/watcher.py` asks here and carries out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.core.chain import clock
from controller.core.episode import Episode
from controller.core.model import Event, Json

#: How long the signal is looked at when the model has no `watch`; nothing is rolled back then.
DEFAULT_LASTING = timedelta(hours=24)
#: So many events are named as evidence; the number counts them all.
MAX_EVIDENCE = 10

Outcome = Literal["CURED", "NOT_CURED", "WORSE", "UNKNOWN"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """What asked for a retraining, as far as it can be seen to end."""

    #: Ids of the episodes behind the run's causes, and of those of the same type and subject that were open at the promotion.
    episodes: Sequence[str] = ()
    #: Their types and subjects: another one of the same, opened later, means that the signal came back.
    kinds: Sequence[tuple[str, str | None]] = ()
    #: (policy, key) of the levels that fired.
    levels: Sequence[tuple[str, str]] = ()
    #: In words, for a signal that nobody can see the end of: `file.arrived`.
    asked_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching:
    """One watch after a promotion; a row of the store."""

    id: str
    model: str
    #: The run that was promoted, its policy and key.
    run_id: str
    policy: str
    key: str
    promotion_id: str
    #: The version that was promoted.
    version_id: str
    #: The model's epoch since that promotion; another one means that another version took over.
    epoch: int
    #: OPEN, or the outcome.
    state: str
    #: Cause of the last change of state.
    cause: str
    #: A sentence with values behind the outcome; empty while it is open.
    reason: str
    #: See `Signal`; as stored.
    signal: Mapping[str, Json]
    #: Whether the model had a `rollback_on` when the run was decided.
    rolls_back: bool
    #: So many events that fit `rollback_on` mean worse …
    needed: int
    #: … and so many have come.
    samples: int
    #: The first of them: event_id, type, subject, time.
    evidence: Sequence[Mapping[str, Json]]
    #: How often `rollback_on` could not be evaluated, and what was said the last time; such an event never counts.
    broken: int
    broken_reason: str
    #: The event that opened an episode of the same type and subject again; None while none did.
    came_back: str | None
    #: When the watcher looks at it next.
    look_at: datetime
    opened_at: datetime
    until: datetime
    #: The promotion that rolls back; None when nothing was rolled back.
    rollback_id: str | None
    #: When the outcome was known.
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a level stands that asked for the retraining."""

    policy: str
    key: str
    #: `unknown` when nothing was measured since the promotion, or the policy is another one by now.
    stands: Literal["cleared", "beyond", "unknown"]
    #: A sentence with values.
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What is seen when a watch is looked at."""

    #: What a person decided for the model since the promotion, in a sentence; empty for nothing.
    person: str = ""
    #: Which version took over, in a sentence; empty while the promoted one serves.
    newer: str = ""
    #: The signal's episodes as they are now.
    episodes: Sequence[Episode] = ()
    levels: Sequence[Reading] = ()
    #: Whether events wait to be decided that came before the watch was over.
    is_behind: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """What a look comes to."""

    #: None: nothing can be said yet.
    outcome: Outcome | None
    #: A word for the history; see the table of states.
    cause: str = ""
    reason: str = ""
    #: Whether the promotion is to be rolled back.
    rolls_back: bool = False


NOTHING_YET = Conclusion(outcome=None)


def signal_of(stored: Mapping[str, Json]) -> Signal:
    """Return a signal as it was stored."""
    return Signal(
        episodes=tuple(stored.get("episodes", ())),
        kinds=tuple((kind, subject) for kind, subject in stored.get("kinds", ())),
        levels=tuple((policy, key) for policy, key in stored.get("levels", ())),
        asked_by=str(stored.get("asked_by", "")),
    )


def is_about(watching_from: datetime, until: datetime, at: datetime) -> bool:
    """Say whether something of this instant is about the promoted version: both ends are inside."""
    return watching_from <= at <= until


def came_back(kind: str, subject: str | None, event_id: str) -> str:
    """Say that the signal came back, and which event said so."""
    return f"it came back after the promotion: {_named(kind, subject)} ({event_id})"


def evidence_of(event: Event) -> dict[str, Json]:
    """Return what is kept of an event that says worse."""
    return {"event_id": event.id, "type": event.type, "subject": event.subject, "time": event.time}


def conclude(watching: Watching, sight: Sight, now: datetime) -> Conclusion:
    """Return the outcome of a watch as far as it can be told at `now`.

    The order is the rule: what is proven goes before what is missing, and a person's decision before a rollback.
    """
    signal = signal_of(watching.signal)
    is_worse = watching.rolls_back and watching.samples >= watching.needed
    if sight.person:
        return (
            _unknown("person_decided", sight.person) if not watching.came_back else _not_cured(watching, sight.person)
        )
    if is_worse:
        told = _worse(watching)
        if sight.newer:
            return Conclusion(
                outcome="WORSE", cause="worse", reason=f"{told}; {sight.newer}, so nothing is rolled back"
            )
        return Conclusion(outcome="WORSE", cause="worse", reason=told, rolls_back=True)
    if watching.came_back and (sight.newer or not watching.rolls_back or now >= watching.until):
        return _not_cured(watching, sight.newer)
    if sight.newer:
        return _unknown("replaced", f"{sight.newer} before the watch was over")
    if not watching.rolls_back and not signal.episodes and not signal.levels:
        return _unknown("nothing_to_cure", _nothing_to_cure(signal))
    if now < watching.until or sight.is_behind:
        return NOTHING_YET
    return _at_the_end(watching, signal, sight, now)


def _at_the_end(watching: Watching, signal: Signal, sight: Sight, now: datetime) -> Conclusion:
    """Conclude when the time is over: what is still bad first, then what is not known, then what ended."""
    still = [episode for episode in sight.episodes if episode.state == "OPEN" and not _is_given_up(episode, now)]
    if still:
        first = still[0]
        return Conclusion(
            outcome="NOT_CURED",
            cause="still_there",
            reason=f"{_named(first.type, first.subject)} still fires, since {clock(first.opened_at)}{_more(len(still))}",
        )
    beyond = [reading for reading in sight.levels if reading.stands == "beyond"]
    if beyond:
        return Conclusion(
            outcome="NOT_CURED", cause="still_there", reason=f"still beyond: {beyond[0].text}{_more(len(beyond))}"
        )
    unmeasured = [reading for reading in sight.levels if reading.stands == "unknown"]
    if unmeasured:
        return _unknown("not_known", unmeasured[0].text)
    ended = [episode for episode in sight.episodes if _ended_within(watching, episode)]
    if ended:
        last = max(ended, key=lambda episode: episode.finished_at or episode.seen_at)
        reason = f"{_named(last.type, last.subject)} was resolved {clock(last.finished_at or last.seen_at)}"
        return Conclusion(outcome="CURED", cause="cleared", reason=f"{reason}{_more(len(ended))}")
    if sight.levels:
        return Conclusion(
            outcome="CURED", cause="cleared", reason=f"cleared: {sight.levels[0].text}{_more(len(sight.levels))}"
        )
    if signal.episodes:
        return _unknown("not_known", _why_not_known(sight.episodes, now))
    return _unknown("nothing_to_cure", f"{_nothing_to_cure(signal)}; nothing that fits rollback_on came too often")


def _ended_within(watching: Watching, episode: Episode) -> bool:
    """Only an episode that is said to be resolved after the promotion was cured by it; one that was given up was not."""
    finished_at = episode.finished_at
    return episode.state == "RESOLVED" and finished_at is not None and finished_at >= watching.opened_at


def _is_given_up(episode: Episode, now: datetime) -> bool:
    """Also one that the janitor has not come to yet."""
    is_over = episode.expires_at is not None and episode.expires_at <= now
    return episode.state == "EXPIRED" or (episode.state == "OPEN" and is_over)


def _why_not_known(episodes: Sequence[Episode], now: datetime) -> str:
    given_up = [episode for episode in episodes if _is_given_up(episode, now)]
    if given_up:
        first = given_up[0]
        return (
            f"{_named(first.type, first.subject)} was given up without a sign of life; nobody said that it was resolved"
        )
    if episodes:
        first = episodes[0]
        at = f" {clock(first.finished_at)}" if first.finished_at else ""
        return f"{_named(first.type, first.subject)} was resolved{at}, before the promotion"
    return "nothing is known of the alert that asked for it"


def _worse(watching: Watching) -> str:
    named = ", ".join(
        f"{_named(str(each['type']), each['subject'])} ({each['event_id']})" for each in watching.evidence[:3]
    )
    needed = f" ({watching.needed} needed)" if watching.needed > 1 else ""
    count = f"{watching.samples} event{'s' if watching.samples > 1 else ''}"
    return f"{count} that fit rollback_on since the promotion{needed}: {named}"


def _not_cured(watching: Watching, then: str) -> Conclusion:
    reason = f"the signal came back after the promotion ({watching.came_back})"
    return Conclusion(outcome="NOT_CURED", cause="came_back", reason=f"{reason}; then {then}" if then else reason)


def _nothing_to_cure(signal: Signal) -> str:
    return f"nothing to cure: {signal.asked_by or 'what asked for it'} is no alert and no level that could end"


def _unknown(cause: str, reason: str) -> Conclusion:
    return Conclusion(outcome="UNKNOWN", cause=cause, reason=reason)


def _named(kind: str, subject: str | None) -> str:
    return f"{kind} about {subject}" if subject else kind


def _more(count: int) -> str:
    return f", and {count - 1} more" if count > 1 else ""
