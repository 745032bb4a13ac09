"""Is the last decision, launch, success or promotion long enough ago?

`decision` counts this policy and key; the others count every run of the model, whoever asked for it, so that a drift alert does not
retrain what the nightly run renewed an hour ago. The edge is inclusive: exactly `period` later passes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.core.chain import Answer, Facts, Question, Stage, clock, hold_until, passed, span
from controller.core.policy import Cooldown


def ask(question: Question) -> Answer | None:
    """Pass when `period` is over, or `after_failure` when the last run failed."""
    cooldown = question.policy.cooldown
    if cooldown is None:
        return None
    what, since, period = _last(cooldown, question.facts)
    if since is None:
        return passed(f"no {what} yet")
    seen = {"after": what, "since": clock(since), "period": span(period)}
    if question.now >= since + period:
        return passed(f"last {what} {span(question.now - since)} ago, {span(period)} asked", **seen)
    return hold_until(
        since + period,
        f"last {what} {span(question.now - since)} ago, {span(period)} asked",
        **seen,
    )


def _last(cooldown: Cooldown, facts: Facts) -> tuple[str, datetime | None, timedelta]:
    instants = {
        "decision": facts.last_decision_at,
        "launch": facts.last_launch_at,
        "success": facts.last_success_at,
        "promotion": facts.last_promotion_at,
    }
    failed_at, good_at = facts.last_failure_at, facts.last_success_at
    if cooldown.after_failure is not None and failed_at is not None and (good_at is None or failed_at > good_at):
        return "failure", failed_at, cooldown.after_failure
    return cooldown.after, instants[cooldown.after], cooldown.period


STAGE = Stage(name="cooldown", ask=ask, concerns=lambda policy: policy.cooldown is not None)
