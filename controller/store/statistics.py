"""What came of policies, and of one run's promotion: counted from the rows of runs, decisions and attempts, never from counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controller.core.policy import ModelSpec
from controller.core.watch_shapes import PolicyShape, WatchShape
from controller.store import schema
from controller.store.rows import columns
from controller.store.store import Transaction

_run, _job, _attempt, _decision = schema.run, schema.job, schema.attempt, schema.decision
_watch, _promotion = schema.watch, schema.promotion

#: How a run ended, as it is counted; any other state is a run that goes on.
_ENDS: Mapping[str, str] = {
    "PROMOTED": "promoted",
    "SUCCEEDED": "succeeded",
    "REJECTED": "rejected",
    "FAILED": "failed",
    "TIMED_OUT": "failed",
    "CANCELLED": "dropped",
    "SUPERSEDED": "dropped",
}
#: Training for these ends was for nothing …
_WASTED = ("REJECTED", "FAILED", "TIMED_OUT", "CANCELLED", "SUPERSEDED")
#: … and so it was for a promotion with these outcomes.
_USELESS = ("NOT_CURED", "WORSE")
_MICROSECONDS_PER_HOUR = 3_600_000_000


def policy_statistics(
    tx: Transaction, models: Mapping[str, ModelSpec], *, model: str | None, since: datetime | None
) -> list[PolicyShape]:
    """Return every policy that is configured or did anything, by model and name; of one model, and since an instant, when given.

    A decision counts by when it was made, a run and its training by when it was decided.
    """
    found: dict[tuple[str, str], PolicyShape] = {}
    for spec in models.values():
        for policy in spec.policies.values():
            if model in (None, spec.name):
                found[spec.name, policy.name] = _nothing(spec.name, policy.name, policy.mode)

    def of(row: Any) -> PolicyShape:
        return found.setdefault((row.model, row.policy), _nothing(row.model, row.policy, None))

    for row in tx.execute(_fired(model, since)):
        shape = of(row)
        shape["fired"], shape["last_fired_at"] = row.fired, _text(row.last)
    for row in tx.execute(_ended(model, since)):
        _count(of(row), row)
    for row in tx.execute(_trained(model, since)):
        shape = of(row)
        shape["training_hours"] = _hours(row.trained)
        shape["wasted_hours"] = _hours(row.wasted)
    return [found[name] for name in sorted(found)]


def watch_of(tx: Transaction, run_id: str) -> WatchShape | None:
    """Return the watch after a run's promotion; None when it was not promoted."""
    statement = (
        sa.select(_watch, _promotion.c.state.label("rollback_state"))
        .outerjoin(_promotion, _promotion.c.id == _watch.c.rollback_id)
        .where(_watch.c.run_id == run_id)
    )
    row = tx.execute(statement).first()
    if row is None:
        return None
    values = columns(row)
    shape: Any = {name: _plain(values[name]) for name in WatchShape.__annotations__}
    return shape  # type: ignore[no-any-return]  # its keys are the shape's own


def _fired(model: str | None, since: datetime | None) -> Any:
    statement = sa.select(
        _decision.c.model, _decision.c.policy, sa.func.count().label("fired"), sa.func.max(_decision.c.at).label("last")
    ).where(_decision.c.kind == sa.bindparam(None, "FIRE", literal_execute=True))  # so that the partial index serves
    if model is not None:
        statement = statement.where(_decision.c.model == model)
    if since is not None:
        statement = statement.where(_decision.c.at >= since)
    return statement.group_by(_decision.c.model, _decision.c.policy)


def _ended(model: str | None, since: datetime | None) -> Any:
    statement = sa.select(_run.c.model, _run.c.policy, _run.c.state, _run.c.outcome, sa.func.count().label("runs"))
    return _runs(statement, model, since).group_by(_run.c.model, _run.c.policy, _run.c.state, _run.c.outcome)


def _trained(model: str | None, since: datetime | None) -> Any:
    began, ended = (
        _micros(_attempt.c.started_at, _attempt.c.launched_at),
        _micros(_attempt.c.finished_at, _run.c.finished_at),
    )
    length = sa.case((ended > began, ended - began), else_=0)  # also while it goes on, and when the clock was set back
    is_wasted = sa.or_(_run.c.state.in_(_WASTED), sa.and_(_run.c.state == "PROMOTED", _run.c.outcome.in_(_USELESS)))
    statement = (
        sa.select(
            _run.c.model,
            _run.c.policy,
            sa.func.sum(length).label("trained"),
            sa.func.sum(sa.case((is_wasted, length), else_=0)).label("wasted"),
        )
        .join(_job, _job.c.run_id == _run.c.id)
        .join(_attempt, _attempt.c.job_id == _job.c.id)
    )
    return _runs(statement, model, since).group_by(_run.c.model, _run.c.policy)


def _runs(statement: Any, model: str | None, since: datetime | None) -> Any:
    if model is not None:
        statement = statement.where(_run.c.model == model)
    if since is not None:
        statement = statement.where(_run.c.decided_at >= since)
    return statement


def _micros(*instants: Any) -> Any:
    """Return the first instant that is known, as a number to calculate with."""
    return sa.func.coalesce(*(sa.type_coerce(instant, sa.BigInteger) for instant in instants))


def _count(shape: PolicyShape, row: Any) -> None:
    counted: dict[str, int] = defaultdict(int)
    counted["runs"] = row.runs
    counted[_ENDS.get(row.state, "going")] = row.runs
    if row.state == "PROMOTED" and row.outcome is not None:
        counted[row.outcome.lower()] = row.runs
    for name, number in counted.items():
        shape[name] += number  # type: ignore[literal-required]  # the words of the shape


def _nothing(model: str, policy: str, mode: str | None) -> PolicyShape:
    return {
        "model": model,
        "policy": policy,
        "mode": mode,
        "fired": 0,
        "last_fired_at": None,
        "runs": 0,
        "promoted": 0,
        "succeeded": 0,
        "rejected": 0,
        "failed": 0,
        "dropped": 0,
        "going": 0,
        "cured": 0,
        "not_cured": 0,
        "worse": 0,
        "unknown": 0,
        "training_hours": 0.0,
        "wasted_hours": 0.0,
    }


def _hours(micros: Any) -> float:
    return round(int(micros) / _MICROSECONDS_PER_HOUR, 4)


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, datetime) else value


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
