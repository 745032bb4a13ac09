"""Records with sane defaults, so that a test names only what matters to it.

Instants are offsets from `NOON`: `at(minutes=5)` is five minutes later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.clock import Clock, Ids
from controller.core.chain import ActiveRun, Facts, PolicyState, Question
from controller.core.conditions import Expression, Pattern, event_scope
from controller.core.episode import Episode
from controller.core.gate import Contestant
from controller.core.model import (
    EPISODE,
    EPISODE_EXPIRE,
    EPISODE_STATE,
    Attempt,
    Cause,
    Champion,
    Decision,
    Event,
    Job,
    Json,
    NewEvent,
    Pause,
    Run,
    Version,
)
from controller.core.on import Leaf, MaxAge, Metric, On
from controller.core.policy import Debounce, Gate, Objective, Policy, QuietHours, Retries, Training
from controller.core.replica import Replica
from controller.core.result import Result
from controller.testing import ManualClock, SeededRandom

#: Where the tests' time starts.
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
#: Tuesday noon is inside; it ends at one o'clock.
LUNCH = QuietHours(between="11:00-13:00", timezone="UTC")


def at(instant: datetime = NOON, **offset: float) -> datetime:
    """Return an instant by its offset, as the keywords of `timedelta`."""
    return instant + timedelta(**offset)


def minutes(number: float) -> timedelta:
    """Return a length in minutes."""
    return timedelta(minutes=number)


def make_ids(clock: Clock | None = None, seed: int = 0) -> Ids:
    """Return a maker of ids that gives the same ones for the same seed and clock."""
    return Ids(clock or ManualClock(NOON), SeededRandom(seed))


def make_new_event(number: int = 1, **fields: Any) -> NewEvent:
    """Return an event as a source tells it; `number` makes its identity."""
    return NewEvent(**({"source": "test", "source_id": f"e{number}", "type": "drift"} | fields))


def make_event(number: int = 1, *, time: datetime | None = None, received_at: datetime = NOON, **fields: Any) -> Event:
    """Return a stored event; it happened when it was received unless `time` says otherwise."""
    defaults: dict[str, Any] = {
        "id": f"evt-{number:016d}",
        "origin": "api",
        "source": "test",
        "source_id": f"e{number}",
        "type": "drift",
        "subject": None,
        "time": time or received_at,
        "received_at": received_at,
        "data": {},
        "extensions": {},
    }
    return Event(**(defaults | fields))


def make_mark(key: Json = "k", state: Json = "firing", expire: Json = None) -> dict[str, Json]:
    """Return the extensions that make an event part of an episode; None leaves one out."""
    given = {EPISODE: key, EPISODE_STATE: state, EPISODE_EXPIRE: expire}
    return {name: value for name, value in given.items() if value is not None}


def make_episode(number: int = 1, **fields: Any) -> Episode:
    """Return an open episode of a day, begun and last seen at noon, as event `number` opened it."""
    defaults: dict[str, Any] = {
        "id": f"epi-{number}",
        "origin": "api",
        "key": "k",
        "state": "OPEN",
        "cause": "opened",
        "type": "drift",
        "subject": None,
        "event_id": f"evt-{number:016d}",
        "opened_at": NOON,
        "seen_at": NOON,
        "expires_at": NOON + timedelta(days=1),
        "expires_after_seconds": 86_400,
        "finished_at": None,
    }
    return Episode(**(defaults | fields))


def expression(source: str) -> Expression:
    """Return a loaded expression over what `when` and `by` may read."""
    return Expression.load(source, variables=("event", "model", "champion"))


def make_leaf(
    *,
    type: str | None = None,
    subject: str | None = None,
    when: str | None = None,
    by: str | None = None,
    **fields: Any,
) -> Leaf:
    """Return `on` as a leaf, from plain text."""
    return Leaf(
        type=None if type is None else Pattern(type),
        subject=None if subject is None else Pattern(subject),
        when=None if when is None else expression(when),
        by=None if by is None else expression(by),
        **fields,
    )


def make_metric(agg: Any = "last", *, value: str | None = "event.data.x", **fields: Any) -> Metric:
    """Return a metric over `event.data.x`; without a threshold it is above 10."""
    threshold = {} if {"above", "below"} & fields.keys() else {"above": 10.0}
    return Metric(agg=agg, value=None if value is None else expression(value), **threshold, **fields)


def make_policy(on: On | None = None, **fields: Any) -> Policy:
    """Return a policy; without `on` every event makes it fire."""
    on = Leaf() if on is None else on
    defaults: dict[str, Any] = {"model": "churn", "name": "drift", "version": "v1", "on_hash": f"hash of {on}"}
    return Policy(on=on, **(defaults | fields))


def make_max_age(days: float = 10, again_days: float = 1) -> MaxAge:
    """Return `on: {max_age: …}`."""
    return MaxAge(age=timedelta(days=days), again_after=timedelta(days=again_days))


def make_debounce(quiet: float = 5, max_wait: float | None = None) -> Debounce:
    """Return a debounce, in minutes."""
    return Debounce(quiet=minutes(quiet), max_wait=None if max_wait is None else minutes(max_wait))


def make_facts(**fields: Any) -> Facts:
    """Return facts: no champion, no runs, nothing paused."""
    return Facts(**fields)


def make_active(state: str = "TRAINING", *, id: str = "run-1", policy: str = "drift", key: str = "") -> ActiveRun:
    """Return a run that holds or wants the model's slot."""
    return ActiveRun(id=id, state=state, policy=policy, key=key)


def make_question(policy: Policy, **fields: Any) -> Question:
    """Return what a stage of this policy is asked at noon; its scope is made of the event and the facts."""
    event, facts = fields.get("event"), fields.get("facts", Facts())
    scope = event_scope(event, model=policy.model, labels=facts.labels, champion=facts.champion)
    defaults: dict[str, Any] = {
        "key": "",
        "slot": None,
        "event": None,
        "held_at": None,
        "facts": facts,
        "scope": scope,
        "now": NOON,
    }
    return Question(policy=policy, **(defaults | fields))


def make_state(policy: Policy, **fields: Any) -> PolicyState:
    """Return what a policy remembers; its `on` did not change."""
    return PolicyState(**({"on_hash": policy.on_hash} | fields))


def make_pause(scope: str = "model", target: str = "churn", **fields: Any) -> Pause:
    """Return a person's pause."""
    return Pause(**({"scope": scope, "target": target, "actor": "ann", "reason": "migration", "at": NOON} | fields))


def make_champion(**fields: Any) -> Champion:
    """Return the version that serves."""
    defaults: dict[str, Any] = {
        "version_id": "ver-1",
        "number": 3,
        "artifact": "models/3",
        "artifact_digest": None,
        "metrics": {"auc": 0.7},
        "promoted_at": NOON,
        "decided_at": NOON,
    }
    return Champion(**(defaults | fields))


def make_cause(number: int | None = 1, **fields: Any) -> Cause:
    """Return a cause; None as its number makes one without an event."""
    event_id = None if number is None else f"evt-{number:016d}"
    return Cause(
        **({"event_id": event_id, "type": "drift", "origin": "api", "subject": None, "time": NOON} | fields),
    )


def make_decision(**fields: Any) -> Decision:
    """Return a decision to fire."""
    defaults: dict[str, Any] = {
        "kind": "FIRE",
        "model": "churn",
        "policy": "drift",
        "policy_version": "v1",
        "key": "",
        "stage": "fire",
        "reason": "every stage passed",
        "trace": (),
    }
    return Decision(**(defaults | fields))


def make_run(number: int = 1, **fields: Any) -> Run:
    """Return a queued run."""
    defaults: dict[str, Any] = {
        "id": f"run-{number:016d}",
        "model": "churn",
        "policy": "drift",
        "policy_version": "v1",
        "config_version": "c1",
        "key": "",
        "state": "QUEUED",
        "cause": "decided",
        "reason": "",
        "decision_id": f"dec-{number:016d}",
        "decided_at": NOON,
        "params": {},
        "actor": None,
        "traceparent": None,
        "started_at": None,
        "finished_at": None,
        "champion_id": None,
        "epoch": None,
        "stop_as": None,
        "awaiting_since": None,
    }
    return Run(**(defaults | fields))


def make_job(**fields: Any) -> Job:
    """Return a job whose first attempt runs."""
    defaults: dict[str, Any] = {
        "id": "job-1",
        "run_id": "run-1",
        "model": "churn",
        "candidate": "boosting",
        "state": "RUNNING",
        "cause": "launched",
        "reason": "",
        "params": {},
        "attempt": 1,
        "due_at": None,
        "created_at": NOON,
        "finished_at": None,
    }
    return Job(**(defaults | fields))


def make_attempt(**fields: Any) -> Attempt:
    """Return the first attempt at `make_job()`, launched at noon."""
    defaults: dict[str, Any] = {
        "id": "att-1",
        "job_id": "job-1",
        "number": 1,
        "nonce": "n",
        "launcher": "process",
        "owner": "here",
        "handle": {"pid": 1},
        "folder": "runs/1",
        "launched_at": NOON,
        "started_at": None,
        "finished_at": None,
        "exit_code": None,
        "reason": "",
    }
    return Attempt(**(defaults | fields))


def make_training(*, attempts: int = 3, backoff: float = 30, max_backoff: float = 3600, **fields: Any) -> Training:
    """Return how a model is trained: an hour's time-out, three attempts; backoff in seconds."""
    retries = Retries(attempts=attempts, backoff=timedelta(seconds=backoff), max_backoff=timedelta(seconds=max_backoff))
    defaults: dict[str, Any] = {
        "launcher": "process",
        "candidates": (),
        "options": {},
        "timeout": timedelta(hours=1),
        "retries": retries,
        "stop_grace": timedelta(seconds=10),
        "lost_grace": timedelta(seconds=20),
    }
    return Training(**(defaults | fields))


def make_result(auc: float | None = 0.8, *, champion: float | None = None, **fields: Any) -> Result:
    """Return a valid result with one metric, and the champion's on the same data if it is given."""
    defaults: dict[str, Any] = {
        "metrics": {"rows": 100.0} if auc is None else {"auc": auc},
        "champion_metrics": None if champion is None else {"auc": champion},
        "artifact": "model.bin",
        "evaluation": {"digest": "d1"},
    }
    return Result(**(defaults | fields))


def make_contestant(name: str = "boosting", result: Result | None = None, **fields: Any) -> Contestant:
    """Return a candidate before the gate; without a result it failed to train."""
    failure = "" if result is not None else "exit code 1"
    return Contestant(candidate=name, result=result, **({"failure": failure} | fields))


def make_gate(
    *,
    goal: str = "maximize",
    min_gain: float = 0.0,
    select: str | None = None,
    require: Sequence[str] = (),
    **fields: Any,
) -> Gate:
    """Return a gate with the objective `auc`."""
    names = ("candidate", "champion", "model", "run")
    defaults: dict[str, Any] = {
        "objective": Objective(metric="auc", goal=goal, min_gain=min_gain),
        "select": None if select is None else Objective(metric=select),
        "require": tuple(Expression.load(source, variables=names) for source in require),
    }
    return Gate(**(defaults | fields))


def make_version(**fields: Any) -> Version:
    """Return a version that nobody judged yet."""
    defaults: dict[str, Any] = {
        "id": "ver-1",
        "model": "churn",
        "number": 1,
        "state": "CANDIDATE",
        "run_id": "run-1",
        "job_id": "job-1",
        "candidate": "boosting",
        "artifact": "models/1",
        "artifact_digest": None,
        "metrics": {"auc": 0.7},
        "lineage": {},
        "created_at": NOON,
        "promoted_at": None,
    }
    return Version(**(defaults | fields))


def press_data(
    actor: str = "ann", reason: str = "new labels", params: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the payload of a person's press of the retrain button."""
    return {"actor": actor, "reason": reason, "params": dict(params or {})}


def make_replica(**fields: Any) -> Replica:
    """Return a replica that was seen at noon."""
    given: dict[str, Any] = {
        "id": "rep-1",
        "owner": "owner-1",
        "host": "tower",
        "pid": 1,
        "program": "0.1.0",
        "config_version": "c1",
        "config_at": NOON,
        "address": "127.0.0.1:8080",
        "started_at": NOON,
        "seen_at": NOON,
        "report": {"ready": True},
    }
    return Replica(**{**given, **fields})
