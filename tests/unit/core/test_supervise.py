"""What is done about a job, for each state it can be in and each thing its launcher can say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.policy import Retries
from controller.core.states import JOB
from controller.core.supervise import Seen, Supervision, after_failure, retry_at, supervise
from tests.factories import NOON, at, make_attempt, make_job, make_training

TRAINING = make_training()  # time-out 1 h, stop grace 10 s, lost grace 20 s, 3 attempts from 30 s
STATES = ("running", "succeeded", "failed", "lost", "unreachable")


def seen(state: str, **fields: Any) -> Seen:
    return Seen(state=state, **fields)


def ask(
    state: str, observation: Seen, *, stop: bool = False, after: float = 60, attempt: int = 1, **job: Any
) -> Supervision:
    """Supervise `after` seconds from the launch of the attempt, at noon."""
    return supervise(
        make_job(state=state, attempt=attempt, **job),
        make_attempt(number=attempt),
        observation,
        TRAINING,
        stop_wanted=stop,
        now=at(seconds=after),
    )


RETRY = {"target": "RETRYABLE", "due_at": at(seconds=90), "look_at": at(seconds=90)}
RUNNING = {
    "goes on": (seen("running"), {}, {"look_at": at(hours=1)}),
    "just before its time-out": (seen("running"), {"after": 3599.9}, {"look_at": at(hours=1)}),
    "at its time-out": (
        seen("running"),
        {"after": 3600},
        {
            "target": "STOPPING",
            "cause": "timed_out",
            "reason": "ran longer than 1h",
            "stop": "term",
            "due_at": at(seconds=3610),
            "look_at": at(seconds=3610),
        },
    ),
    "is to stop": (
        seen("running"),
        {"stop": True},
        {
            "target": "STOPPING",
            "cause": "cancelled",
            "reason": "asked to stop",
            "stop": "term",
            "due_at": at(seconds=70),
            "look_at": at(seconds=70),
        },
    ),
    "is to stop, at its time-out": (
        seen("running"),
        {"stop": True, "after": 3600},
        {
            "target": "STOPPING",
            "cause": "cancelled",
            "reason": "asked to stop",
            "stop": "term",
            "due_at": at(seconds=3610),
            "look_at": at(seconds=3610),
        },
    ),
    "succeeded": (seen("succeeded"), {}, {"target": "SUCCEEDED", "cause": "succeeded"}),
    "succeeded after its time-out": (seen("succeeded"), {"after": 9999}, {"target": "SUCCEEDED", "cause": "succeeded"}),
    "succeeded when it was to stop": (seen("succeeded"), {"stop": True}, {"target": "SUCCEEDED", "cause": "succeeded"}),
    "ended with a bad result": (
        seen("succeeded", result_error="no metrics"),
        {},
        {"target": "FAILED", "cause": "invalid_result", "reason": "invalid result: no metrics"},
    ),
    "failed for the first time": (
        seen("failed", reason="exit code 1"),
        {},
        {**RETRY, "cause": "failed", "reason": "exit code 1; attempt 1 of 3, next in 30s"},
    ),
    "failed for the second time": (
        seen("failed", reason="exit code 1"),
        {"attempt": 2},
        {
            "target": "RETRYABLE",
            "cause": "failed",
            "reason": "exit code 1; attempt 2 of 3, next in 1m",
            "due_at": at(seconds=120),
            "look_at": at(seconds=120),
        },
    ),
    "failed for the last time": (
        seen("failed", reason="exit code 1"),
        {"attempt": 3},
        {"target": "FAILED", "cause": "failed", "reason": "exit code 1; attempt 3 of 3"},
    ),
    "failed when it was to stop": (
        seen("failed", reason="signal 15"),
        {"stop": True},
        {"target": "FAILED", "cause": "failed", "reason": "signal 15"},
    ),
    "is no longer known": (
        seen("lost", reason="no such process"),
        {},
        {
            "target": "LOST",
            "cause": "lost",
            "reason": "no such process",
            "due_at": at(seconds=80),
            "look_at": at(seconds=80),
        },
    ),
    "cannot be reached": (
        seen("unreachable", reason="refused"),
        {},
        {"reason": "refused", "look_at": at(seconds=70)},
    ),
    "cannot be reached just before its time-out": (
        seen("unreachable", reason="refused"),
        {"after": 3595},
        {"reason": "refused", "look_at": at(hours=1)},
    ),
    "cannot be reached at its time-out": (
        seen("unreachable"),
        {"after": 3600},
        {
            "target": "STOPPING",
            "cause": "timed_out",
            "reason": "ran longer than 1h",
            "stop": "term",
            "due_at": at(seconds=3610),
            "look_at": at(seconds=3610),
        },
    ),
}
ENDED = {"target": "TIMED_OUT", "cause": "timed_out", "reason": "ran longer than 1h"}
STOPPING = {
    "ended badly": (seen("failed"), {}, ENDED),
    "ended well": (seen("succeeded"), {}, ENDED),
    "is gone": (seen("lost"), {}, ENDED),
    "still runs": (seen("running"), {}, {"look_at": at(seconds=70)}),
    "cannot be reached": (seen("unreachable"), {}, {"look_at": at(seconds=70)}),
    "still runs at the end of its grace": (
        seen("running"),
        {"after": 70},
        {"stop": "kill", "look_at": at(seconds=75)},
    ),
    "cannot be reached at the end of its grace": (
        seen("unreachable"),
        {"after": 89.9},
        {"stop": "kill", "look_at": at(seconds=94.9)},
    ),
    "cannot be reached for longer than what is lost may take to come back": (
        seen("unreachable", reason="no route"),
        {"after": 90},
        {
            "target": "UNKNOWN",
            "cause": "host_gone",
            "reason": "it was asked to end (ran longer than 1h), and nobody can say whether it did: no route",
        },
    ),
    "still runs, and its grace ends in a year, by a clock that was ahead": (
        seen("running"),
        {"due_at": at(days=365)},
        {"stop": "kill", "look_at": at(seconds=65)},
    ),
    "still runs and had no grace": (
        seen("running"),
        {"due_at": None},
        {"stop": "kill", "look_at": at(seconds=65)},
    ),
}
LOST = {
    "is back": (
        seen("running"),
        {},
        {"target": "RUNNING", "cause": "found", "reason": "its launcher knows it again", "look_at": at(seconds=60)},
    ),
    "is back, and ended well": (
        seen("succeeded"),
        {"after": 99},
        {"target": "RUNNING", "cause": "found", "reason": "its launcher knows it again", "look_at": at(seconds=99)},
    ),
    "is back, and ended badly": (
        seen("failed"),
        {"stop": True},
        {"target": "RUNNING", "cause": "found", "reason": "its launcher knows it again", "look_at": at(seconds=60)},
    ),
    "has grace left": (seen("lost"), {}, {"look_at": at(seconds=80)}),
    "has grace left, though it is to stop": (seen("lost"), {"stop": True}, {"look_at": at(seconds=80)}),
    "cannot be reached, and has grace left": (seen("unreachable"), {}, {"look_at": at(seconds=80)}),
    "is gone at the end of its grace": (
        seen("lost"),
        {"after": 80},
        {
            "target": "RETRYABLE",
            "cause": "lost",
            "reason": "lost; attempt 1 of 3, next in 30s",
            "due_at": at(seconds=110),
            "look_at": at(seconds=110),
        },
    ),
    "is gone, and its grace ends in a year, by a clock that was ahead": (
        seen("lost"),
        {"due_at": at(days=365), "attempt": 3},
        {"target": "FAILED", "cause": "lost", "reason": "lost; attempt 3 of 3"},
    ),
    "is gone and has no attempt left": (
        seen("lost", reason="no such process"),
        {"after": 80, "attempt": 3},
        {"target": "FAILED", "cause": "lost", "reason": "no such process; attempt 3 of 3"},
    ),
    "is gone and was to stop": (
        seen("lost", reason="no such process"),
        {"after": 80, "stop": True},
        {"target": "CANCELLED", "cause": "cancelled", "reason": "no such process"},
    ),
    "cannot be reached at the end of its grace": (
        seen("unreachable", reason="no route"),
        {"after": 80},
        {"target": "UNKNOWN", "cause": "host_gone", "reason": "no route"},
    ),
    "cannot be reached, though it was to stop": (
        seen("unreachable", reason="no route"),
        {"after": 80, "stop": True},
        {"target": "UNKNOWN", "cause": "host_gone", "reason": "no route"},
    ),
}


@pytest.mark.parametrize("observation, asked, expected", RUNNING.values(), ids=RUNNING)
def test_a_running_job(observation: Seen, asked: dict[str, Any], expected: dict[str, Any]) -> None:
    """A running job goes on, ends, is stopped or is missed, as the table says; reaching the time-out is enough."""
    assert ask("RUNNING", observation, **asked) == Supervision(**expected)


@pytest.mark.parametrize("observation, asked, expected", STOPPING.values(), ids=STOPPING)
def test_a_job_that_is_being_stopped(observation: Seen, asked: dict[str, Any], expected: dict[str, Any]) -> None:
    """It ends as what it is stopped for, however it ended; after its grace it is killed, again and again."""
    job = {"cause": "timed_out", "reason": "ran longer than 1h", "due_at": at(seconds=70)}

    assert ask("STOPPING", observation, **job | asked) == Supervision(**expected)


def test_a_job_that_was_cancelled_ends_cancelled() -> None:
    """The cause it was stopped for decides between TIMED_OUT and CANCELLED."""
    ended = ask("STOPPING", seen("failed"), cause="cancelled", reason="asked to stop", due_at=at(seconds=70))

    assert (ended.target, ended.cause, ended.reason) == ("CANCELLED", "cancelled", "asked to stop")


@pytest.mark.parametrize("observation, asked, expected", LOST.values(), ids=LOST)
def test_a_lost_job(observation: Seen, asked: dict[str, Any], expected: dict[str, Any]) -> None:
    """It comes back, or is gone when its grace ends; only what is surely gone is tried again."""
    assert ask("LOST", observation, **{"due_at": at(seconds=80)} | asked) == Supervision(**expected)


@pytest.mark.parametrize("state", ["running", "succeeded", "failed", "lost"])
@pytest.mark.parametrize("stop", [False, True])
def test_a_late_answer_ends_what_is_unknown(state: str, stop: bool) -> None:
    """Whatever the launcher says of it, it is RUNNING, and dealt with as such from then on."""
    assert ask("UNKNOWN", seen(state), stop=stop, after=9999) == Supervision(
        target="RUNNING", cause="late_answer", reason="its launcher answers again", look_at=at(seconds=9999)
    )


def test_no_answer_leaves_it_unknown() -> None:
    """However long it takes: time proves nothing."""
    assert ask("UNKNOWN", seen("unreachable", reason="no route"), after=999_999) == Supervision(reason="no route")


@given(
    st.sampled_from(["RUNNING", "STOPPING", "LOST"]),
    st.sampled_from(STATES),
    st.booleans(),
    st.integers(1, 5),
    st.integers(-100, 10_000),
    st.none() | st.integers(-100, 10_000),
)
def test_every_supervision_is_legal_and_looks_again(
    state: str, observation: str, stop: bool, attempt: int, after: int, due: int | None
) -> None:
    """Whatever is seen, the change is one the table of states knows; without one, a time to look again is named."""
    cause = "cancelled" if state == "STOPPING" else ""
    due_at = None if due is None else at(seconds=due)
    advice = ask(state, seen(observation), stop=stop, after=after, attempt=attempt, due_at=due_at, cause=cause)

    if advice.target is None:
        assert advice.look_at is not None
        assert advice.look_at > at(seconds=after)
    else:
        JOB.check(state, advice.target, advice.cause)
    if advice.target == "RETRYABLE":
        assert observation in ("failed", "lost")
        assert advice.due_at is not None
        assert advice.due_at > at(seconds=after)


@pytest.mark.parametrize(
    "backoff, longest, waits",
    [
        pytest.param(30, 3600, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600], id="doubles up to the longest"),
        pytest.param(0, 3600, [0, 0, 0], id="none at all"),
        pytest.param(90, 60, [60, 60], id="never longer than the longest"),
    ],
)
def test_the_waits_between_attempts(backoff: float, longest: float, waits: list[float]) -> None:
    """The wait before attempt n+1 is backoff x 2^(n-1), at most max_backoff."""
    retries = Retries(attempts=99, backoff=timedelta(seconds=backoff), max_backoff=timedelta(seconds=longest))

    assert [retry_at(n, retries, NOON) for n in range(1, len(waits) + 1)] == [at(seconds=wait) for wait in waits]


def test_the_longest_backoff_there_is_does_not_overflow() -> None:
    """A hundred attempts that begin with a wait of ten years end at the longest wait, not in an error."""
    retries = Retries(attempts=100, backoff=timedelta(days=3660), max_backoff=timedelta(days=3660))

    assert retry_at(99, retries, NOON) == at(days=3660)


def test_a_single_attempt_is_not_counted_in_its_reason() -> None:
    """Without retries the reason is the reason alone."""
    advice = after_failure(make_job(), make_training(attempts=1), cause="failed", reason="exit code 1", now=NOON)

    assert advice == Supervision(target="FAILED", cause="failed", reason="exit code 1")
