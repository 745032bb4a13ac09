"""The stages that hold or end: debounce, cooldown, quiet hours, pause, concurrency."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.chain import ActiveRun, to_micros
from controller.core.policy import Concurrency, Cooldown, QuietHours
from controller.core.stages import concurrency, cooldown, debounce, pause, quiet_hours
from tests.factories import (
    NOON,
    at,
    make_active,
    make_debounce,
    make_event,
    make_facts,
    make_pause,
    make_policy,
    make_question,
    minutes,
)

# -------------------------------------------------------------------------------------------------------- debounce


def slot_of(first: float, last: float) -> dict[str, int]:
    return {"first": to_micros(at(minutes=first)), "last": to_micros(at(minutes=last))}


DEBOUNCES: dict[str, tuple[float | None, tuple[float, float] | None, bool, float, str, float | None, Any]] = {
    # max_wait, (first, last) known, driven by an event, now, outcome, until, (first, last) kept; quiet is 5 minutes
    "the first event": (None, None, True, 0, "hold", 5, (0, 0)),
    "another event starts the quiet time anew": (None, (0, 0), True, 4, "hold", 9, (0, 4)),
    "almost quiet": (None, (0, 4), False, 8.99, "hold", 9, (0, 4)),
    "exactly quiet": (None, (0, 4), False, 9, "pass", None, (0, 4)),
    "long quiet": (None, (0, 4), False, 90, "pass", None, (0, 4)),
    "an event that comes late ends nothing": (None, (0, 4), True, 90, "hold", 95, (0, 90)),
    "max_wait comes before quiet": (7, (0, 4), True, 4, "hold", 7, (0, 4)),
    "quiet comes before max_wait": (70, (0, 4), True, 4, "hold", 9, (0, 4)),
    "almost max_wait": (7, (0, 4), True, 6.99, "hold", 7, (0, 6.99)),
    "exactly max_wait": (7, (0, 6), True, 7, "pass", None, (0, 7)),
    "max_wait at a timer": (7, (0, 6), False, 7, "pass", None, (0, 6)),
    "held by another configuration": (None, None, False, 3, "hold", 8, (3, 3)),
    "the clock was set back": (None, (0, 4), False, -60, "hold", 9, (0, 4)),
}


@pytest.mark.parametrize("max_wait, known, driven, now, outcome, until, kept", DEBOUNCES.values(), ids=DEBOUNCES)
def test_debounce(
    max_wait: float | None,
    known: tuple[float, float] | None,
    driven: bool,
    now: float,
    outcome: str,
    until: float | None,
    kept: tuple[float, float],
) -> None:
    """It passes `quiet` after the last event or `max_wait` after the first; both edges are inclusive."""
    answer = debounce.ask(
        make_question(
            make_policy(debounce=make_debounce(5, max_wait)),
            slot=None if known is None else slot_of(*known),
            event=make_event() if driven else None,
            now=at(minutes=now),
        )
    )

    assert answer is not None
    assert answer.outcome == outcome
    assert answer.until == (None if until is None else at(minutes=until))
    assert answer.slot == slot_of(*kept)


# -------------------------------------------------------------------------------------------------------- cooldown

WITH_FAILURE = {"after_failure": minutes(10)}
COOLDOWNS: dict[str, tuple[str, dict[str, Any], dict[str, float], float, float | None]] = {
    # after, more options, facts in minutes, now, until (None: passes); the period is 60 minutes
    "nothing yet": ("launch", {}, {}, 0, None),
    "almost over": ("launch", {}, {"last_launch_at": 0}, 59.99, 60),
    "exactly over": ("launch", {}, {"last_launch_at": 0}, 60, None),
    "decision": ("decision", {}, {"last_decision_at": 0}, 1, 60),
    "success": ("success", {}, {"last_success_at": 0}, 1, 60),
    "promotion": ("promotion", {}, {"last_promotion_at": 0}, 1, 60),
    "others do not count": ("promotion", {}, {"last_launch_at": 0, "last_success_at": 0, "last_decision_at": 0}, 1, None),
    "a failure without a period of its own": ("launch", {}, {"last_launch_at": 0, "last_failure_at": 5}, 20, 60),
    "a failure has its own period": ("launch", WITH_FAILURE, {"last_launch_at": 0, "last_failure_at": 5}, 6, 15),
    "a failure's period is exactly over": ("launch", WITH_FAILURE, {"last_launch_at": 0, "last_failure_at": 5}, 15, None),
    "a success after the failure": ("launch", WITH_FAILURE, {"last_launch_at": 0, "last_failure_at": 5, "last_success_at": 6}, 20, 60),
    "a failure after the success": ("launch", WITH_FAILURE, {"last_launch_at": 0, "last_failure_at": 6, "last_success_at": 5}, 7, 16),
    "both at once: no failure": ("launch", WITH_FAILURE, {"last_launch_at": 0, "last_failure_at": 5, "last_success_at": 5}, 20, 60),
    "no failure yet": ("launch", WITH_FAILURE, {"last_launch_at": 0}, 20, 60),
    "the clock was set back": ("launch", {}, {"last_launch_at": 0}, -10, 60),
}  # fmt: skip


@pytest.mark.parametrize("after, options, facts, now, until", COOLDOWNS.values(), ids=COOLDOWNS)
def test_cooldown(
    after: Any, options: dict[str, Any], facts: dict[str, float], now: float, until: float | None
) -> None:
    """It holds until `period` after what it counts from; exactly then it passes. A failure may have its own period."""
    policy = make_policy(cooldown=Cooldown(after=after, period=minutes(60), **options))
    seen = make_facts(**{name: at(minutes=instant) for name, instant in facts.items()})
    answer = cooldown.ask(make_question(policy, facts=seen, now=at(minutes=now)))

    assert answer is not None
    assert answer.outcome == ("pass" if until is None else "hold")
    assert answer.until == (None if until is None else at(minutes=until))


# ----------------------------------------------------------------------------------------------- quiet hours, pause

QUIETS: dict[str, tuple[QuietHours, float, float | None]] = {
    # window, now in minutes after Tuesday noon, until
    "before": (QuietHours(between="12:10-13:00", timezone="UTC"), 9.99, None),
    "its start is inside": (QuietHours(between="12:10-13:00", timezone="UTC"), 10, 60),
    "inside": (QuietHours(between="12:10-13:00", timezone="UTC"), 59.99, 60),
    "its end is outside": (QuietHours(between="12:10-13:00", timezone="UTC"), 60, None),
    "over midnight": (QuietHours(between="22:00-06:00", timezone="UTC"), 660, 18 * 60),
    "another zone": (QuietHours(between="07:00-08:00", timezone="America/New_York"), 0, 60),
    "another day": (QuietHours(between="12:00-13:00", timezone="UTC", days=("mon",)), 0, None),
}


@pytest.mark.parametrize("window, now, until", QUIETS.values(), ids=QUIETS)
def test_quiet_hours(window: QuietHours, now: float, until: float | None) -> None:
    """It holds inside the window until its end; the start is inside, the end is not."""
    answer = quiet_hours.ask(make_question(make_policy(quiet_hours=window), now=at(minutes=now)))

    assert answer is not None
    assert answer.outcome == ("pass" if until is None else "hold")
    assert answer.until == (None if until is None else at(minutes=until))


@pytest.mark.parametrize(
    "scope, target, reason, said",
    [
        pytest.param("all", "", "freeze", "ann paused everything at 2024-03-05 12:00:00Z: freeze", id="everything"),
        pytest.param("model", "churn", "", "ann paused churn at 2024-03-05 12:00:00Z: no reason given", id="a model"),
        pytest.param("policy", "churn/drift", "noisy", "ann paused churn/drift", id="a policy"),
    ],
)
def test_pause(scope: str, target: str, reason: str, said: str) -> None:
    """It holds until a person resumes, and names who paused what, when and why."""
    facts = make_facts(pauses=(make_pause(scope, target, reason=reason), make_pause()))
    answer = pause.ask(make_question(make_policy(), facts=facts))

    assert answer is not None
    assert (answer.outcome, answer.waits_for) == ("hold", "resume")
    assert said in answer.reason


# ----------------------------------------------------------------------------------------------------- concurrency

QUEUED, TRAINING = make_active("QUEUED", id="run-2"), make_active("TRAINING", id="run-1")
PROMOTING = make_active("PROMOTING", id="run-0")
SLOTS: dict[str, tuple[Concurrency, list[ActiveRun], str, str | None, tuple[str, ...]]] = {
    # mode, active runs, outcome, joins, replaces
    **{f"{mode}, the slot is free": (mode, [], "pass", None, ()) for mode in ("queue", "forbid", "replace", "allow")},
    "queue behind a run": ("queue", [TRAINING], "pass", None, ()),
    "queue joins the one that waits": ("queue", [TRAINING, QUEUED], "pass", "run-2", ()),
    "queue joins another policy's run": ("queue", [make_active("QUEUED", policy="nightly")], "pass", "run-1", ()),
    "queue does not join another key's run": ("queue", [make_active("QUEUED", key="eu")], "pass", None, ()),
    "queue joins the oldest that waits": ("queue", [QUEUED, make_active("QUEUED", id="run-3")], "pass", "run-2", ()),
    "forbid": ("forbid", [TRAINING], "skip", None, ()),
    "forbid, promoting": ("forbid", [PROMOTING], "skip", None, ()),
    "replace one": ("replace", [TRAINING], "pass", None, ("run-1",)),
    "replace all": ("replace", [TRAINING, QUEUED], "pass", None, ("run-1", "run-2")),
    "replace waits for a promotion": ("replace", [PROMOTING], "pass", None, ()),
    "replace all but a promotion": ("replace", [PROMOTING, QUEUED], "pass", None, ("run-2",)),
    "allow": ("allow", [TRAINING, QUEUED], "pass", None, ()),
}  # fmt: skip


@pytest.mark.parametrize("mode, active, outcome, joins, replaces", SLOTS.values(), ids=SLOTS)
def test_concurrency(
    mode: Concurrency, active: list[ActiveRun], outcome: str, joins: str | None, replaces: tuple[str, ...]
) -> None:
    """queue merges into the run that waits, forbid drops, replace stops what can be stopped, allow does not ask."""
    answer = concurrency.ask(make_question(make_policy(concurrency=mode), facts=make_facts(active=active)))

    assert answer is not None
    assert (answer.outcome, answer.joins_run, answer.replaces) == (outcome, joins, replaces)
    assert not active or any(run.id in answer.reason for run in active)


# ------------------------------------------------------------------------------------------------------- the chain


@pytest.mark.parametrize("stage", [debounce, cooldown, quiet_hours, pause], ids=lambda module: module.STAGE.name)
def test_a_stage_that_is_not_configured_says_nothing(stage: Any) -> None:
    """It leaves no line in the explanation."""
    assert stage.ask(make_question(make_policy(), event=make_event(), now=NOON)) is None
