"""What to do about a job, given what its launcher says of it.

`supervise` takes what we stored (`Job`, `Attempt`) and what was seen (`Observation`) and returns what to write and what to call;
the monitor carries it out. A job that might be running is never launched again: only one that ended, or is surely gone, is retried.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.core.due import is_due
from controller.core.duration import format_duration
from controller.core.model import Attempt, Job
from controller.core.policy import Retries, Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of an attempt now: the launcher's observation, and the result if it ended well."""

    state: Literal["running", "succeeded", "failed", "lost", "unreachable"]
    #: How it ended, in a sentence.
    reason: str = ""
    #: Set when it ended well but its result is not valid.
    result_error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervision:
    """What to do: a change of state, a call to the launcher, and when to look again."""

    #: The job's new state; None leaves it.
    target: str | None = None
    cause: str = ""
    reason: str = ""
    #: Becomes the job's `due_at`.
    due_at: datetime | None = None
    #: Ask the job to end, or end it.
    stop: Literal["term", "kill"] | None = None
    #: When to look again at the latest; None: only when something changes.
    look_at: datetime | None = None


def supervise(
    job: Job, attempt: Attempt, seen: Seen, training: Training, *, stop_wanted: bool, now: datetime
) -> Supervision:
    """Return what to do about a job that is RUNNING, STOPPING or LOST, or UNKNOWN with a handle it can be asked for by."""
    if job.state == "STOPPING":
        return _stopping(job, seen, training, now)
    if job.state == "UNKNOWN":
        return _unknown(seen, now)
    if job.state == "LOST":
        return _lost(job, seen, training, stop_wanted=stop_wanted, now=now)
    return _running(job, attempt, seen, training, stop_wanted=stop_wanted, now=now)


def retry_at(attempt: int, retries: Retries, now: datetime) -> datetime:
    """Return when attempt `attempt` + 1 is due: now + backoff x 2^(attempt-1), at most `max_backoff`."""
    longest = retries.max_backoff.total_seconds()
    seconds = min(retries.backoff.total_seconds() * 2.0 ** (attempt - 1), longest)
    return now + timedelta(seconds=seconds)


def after_failure(job: Job, training: Training, *, cause: str, reason: str, now: datetime) -> Supervision:
    """Return what follows an attempt that surely ended badly, or surely never began."""
    retries = training.retries
    if job.attempt < retries.attempts:
        due_at = retry_at(job.attempt, retries, now)
        wait = format_duration(due_at - now)
        return Supervision(
            target="RETRYABLE",
            cause=cause,
            reason=f"{reason}; attempt {job.attempt} of {retries.attempts}, next in {wait}",
            due_at=due_at,
            look_at=due_at,
        )
    tries = f"; attempt {job.attempt} of {retries.attempts}" if retries.attempts > 1 else ""
    return Supervision(target="FAILED", cause=cause, reason=f"{reason}{tries}")


def _running(
    job: Job, attempt: Attempt, seen: Seen, training: Training, *, stop_wanted: bool, now: datetime
) -> Supervision:
    if seen.state == "succeeded":
        if seen.result_error is None:
            return Supervision(target="SUCCEEDED", cause="succeeded")
        return Supervision(target="FAILED", cause="invalid_result", reason=f"invalid result: {seen.result_error}")
    if seen.state == "failed":
        if stop_wanted:
            return Supervision(target="FAILED", cause="failed", reason=seen.reason)
        return after_failure(job, training, cause="failed", reason=seen.reason, now=now)
    if seen.state == "lost":
        due_at = now + training.lost_grace
        return Supervision(target="LOST", cause="lost", reason=seen.reason, due_at=due_at, look_at=due_at)
    deadline = attempt.launched_at + training.timeout
    if stop_wanted:
        return _ask_to_stop("cancelled", "asked to stop", training, now)
    if now >= deadline:
        return _ask_to_stop("timed_out", f"ran longer than {format_duration(training.timeout)}", training, now)
    if seen.state == "unreachable":
        return Supervision(reason=seen.reason, look_at=min(deadline, now + timedelta(seconds=10)))
    return Supervision(look_at=deadline)


def _ask_to_stop(cause: str, reason: str, training: Training, now: datetime) -> Supervision:
    due_at = now + training.stop_grace
    return Supervision(target="STOPPING", cause=cause, reason=reason, due_at=due_at, stop="term", look_at=due_at)


def _stopping(job: Job, seen: Seen, training: Training, now: datetime) -> Supervision:
    if seen.state in ("succeeded", "failed", "lost"):
        target = "TIMED_OUT" if job.cause == "timed_out" else "CANCELLED"
        return Supervision(target=target, cause=job.cause, reason=job.reason)
    due_at = job.due_at or now
    if not is_due(due_at, now, longest=training.stop_grace):
        return Supervision(look_at=due_at)
    if seen.state == "unreachable" and is_due(
        due_at + training.lost_grace, now, longest=training.stop_grace + training.lost_grace
    ):
        why = f"it was asked to end ({job.reason}), and nobody can say whether it did: {seen.reason}"
        return Supervision(target="UNKNOWN", cause="host_gone", reason=why)
    return Supervision(stop="kill", look_at=now + timedelta(seconds=5))


def _unknown(seen: Seen, now: datetime) -> Supervision:
    """Any answer ends it, since a job that is RUNNING is dealt with whatever it came to; no answer leaves it."""
    if seen.state == "unreachable":
        return Supervision(reason=seen.reason)
    return Supervision(target="RUNNING", cause="late_answer", reason="its launcher answers again", look_at=now)


def _lost(job: Job, seen: Seen, training: Training, *, stop_wanted: bool, now: datetime) -> Supervision:
    if seen.state in ("running", "succeeded", "failed"):
        return Supervision(target="RUNNING", cause="found", reason="its launcher knows it again", look_at=now)
    if job.due_at is not None and not is_due(job.due_at, now, longest=training.lost_grace):
        return Supervision(look_at=job.due_at)
    if seen.state == "unreachable":
        return Supervision(target="UNKNOWN", cause="host_gone", reason=seen.reason)
    if stop_wanted:
        return Supervision(target="CANCELLED", cause="cancelled", reason=seen.reason)
    return after_failure(job, training, cause="lost", reason=seen.reason or "lost", now=now)
