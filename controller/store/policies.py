"""Rows of what policies concluded, hold and remember."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core.chain import ActiveRun, Facts, PolicyState
from controller.core.model import DECISION_ID, Cause, Champion, Decision, Pause
from controller.core.on import MaxAge
from controller.core.policy import Policy
from controller.core.states import ACTIVE_RUN_STATES
from controller.store import dialect, schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_state = schema.policy_state
_held = schema.held_cause
_decision = schema.decision
_run = schema.run

_GET_STATE = sa.select(_state).where(
    _state.c.model == sa.bindparam("model"),
    _state.c.policy == sa.bindparam("policy"),
    _state.c.key == sa.bindparam("key"),
)
_NEXT_SEQ = (
    sa.update(schema.leader)
    .where(schema.leader.c.id == 1, schema.leader.c.term == sa.bindparam("my_term"))
    .values(decided_seq=schema.leader.c.decided_seq + sa.bindparam("count"))
    .returning(schema.leader.c.decided_seq)
)
_NEXT_DUE = sa.select(sa.func.min(_state.c.due_at)).where(_state.c.due_at.is_not(None))
_HOLDS_OF = (
    sa.select(_state)
    .join(
        _held, sa.and_(_held.c.model == _state.c.model, _held.c.policy == _state.c.policy, _held.c.key == _state.c.key)
    )
    .where(_held.c.event_id == sa.bindparam("event_id"), _state.c.stage.is_not(None))
    .order_by(_state.c.model, _state.c.policy, _state.c.key)
)
_COUNT_HELD = (
    sa.select(sa.func.count())
    .select_from(_held)
    .where(
        _held.c.model == sa.bindparam("model"),
        _held.c.policy == sa.bindparam("policy"),
        _held.c.key == sa.bindparam("key"),
    )
)
_INSERT_DECISION = sa.insert(_decision)
_ACTIVE = (
    sa.select(_run.c.id, _run.c.state, _run.c.policy, _run.c.key)
    .where(
        _run.c.model == sa.bindparam("model"),
        _run.c.finished_at.is_(None),
        _run.c.state.in_(ACTIVE_RUN_STATES),
    )
    .order_by(_run.c.id)
)
_LAST_FIRED = sa.select(sa.func.max(_decision.c.at)).where(
    _decision.c.model == sa.bindparam("model"),
    _decision.c.policy == sa.bindparam("policy"),
    _decision.c.key == sa.bindparam("key"),
    _decision.c.kind == "FIRE",
)
_LAST_LAUNCH = sa.select(sa.func.max(_run.c.started_at)).where(_run.c.model == sa.bindparam("model"))
_LAST_FINISHED = sa.select(sa.func.max(_run.c.finished_at)).where(
    _run.c.model == sa.bindparam("model"), _run.c.state == sa.bindparam("state")
)
#: The run of the policy's last FIRE may be another policy's that it joined, and may wait for a person without being active.
_LAST_ENDED = (
    sa.select(_run.c.finished_at)
    .join(_decision, _decision.c.run_id == _run.c.id)
    .where(
        _decision.c.model == sa.bindparam("model"),
        _decision.c.policy == sa.bindparam("policy"),
        _decision.c.key == "",
        _decision.c.kind == "FIRE",
    )
    .order_by(_decision.c.at.desc(), _decision.c.id.desc())
    .limit(1)
)

#: The final states of a run whose training went well, and of one whose training did not.
_GOOD = ("PROMOTED", "REJECTED", "SUCCEEDED")
_BAD = ("FAILED", "TIMED_OUT")


@lru_cache(maxsize=2)
def _add_to_tally(name: str) -> Any:
    """Return the statement that adds to tallies; built once a database, because building it costs more than running it."""
    insert = dialect.insert(schema.tally, name)
    return insert.on_conflict_do_update(
        index_elements=["model", "policy", "outcome"],
        set_={"count": schema.tally.c.count + insert.excluded.count},
    )


class PolicyRows:
    """Decisions, states and collected causes, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def take_numbers(self, count: int) -> int:
        """Take `count` places in the order of deciding and return the first; raises `StaleTerm` when another leads."""
        last = self._tx.execute(_NEXT_SEQ, {"my_term": self._tx.term, "count": count}).scalar()
        if last is None:
            self._tx.check_term()
            return 0
        return int(last) - count + 1

    def state(self, model: str, policy: str, key: str) -> PolicyState | None:
        """Return what a policy remembers for a key; None for nothing yet."""
        row = self._tx.execute(_GET_STATE, {"model": model, "policy": policy, "key": key}).first()
        return None if row is None else record(PolicyState, row)

    def save_state(self, policy: Policy, key: str, state: PolicyState) -> None:
        """Write what a policy remembers for a key; one that remembers nothing has no row, so that keys do not pile up."""
        if state == PolicyState(on_hash=state.on_hash):
            self._tx.execute(sa.delete(_state).where(*_place(policy.model, policy.name, key)))
            return
        values = {
            "version": policy.version,
            "on_hash": state.on_hash,
            "slots": dict(state.slots),
            "stage": state.stage,
            "held_since": state.held_since,
            "held_count": state.held_count,
            "due_at": state.due_at,
            "waits_for": state.waits_for,
            "updated_at": self._tx.now,
        }
        insert = self._tx.insert(_state).values(model=policy.model, policy=policy.name, key=key, **values)
        self._tx.execute(insert.on_conflict_do_update(index_elements=["model", "policy", "key"], set_=values))

    def due(self, now: datetime, limit: int) -> list[tuple[str, str, str]]:
        """Return (model, policy, key) of states whose time has come, the longest overdue first."""
        statement = (
            sa.select(_state.c.model, _state.c.policy, _state.c.key)
            .where(_state.c.due_at <= now)
            .order_by(_state.c.due_at)
            .limit(limit)
        )
        return [(row.model, row.policy, row.key) for row in self._tx.execute(statement)]

    def next_due(self) -> datetime | None:
        """Return when the next state is due."""
        return self._tx.execute(_NEXT_DUE).scalar()

    def wake(self, *, model: str | None, waits_for: Sequence[str], policy: str | None = None) -> int:
        """Make due now what waits for something that just happened; return how many."""
        statement = sa.update(_state).where(_state.c.waits_for.in_(waits_for))
        if model is not None:
            statement = statement.where(_state.c.model == model)
        if policy is not None:
            statement = statement.where(_state.c.policy == policy)
        return self._tx.execute(statement.values(due_at=self._tx.now, waits_for=None)).rowcount

    def states(self) -> list[tuple[str, str, str, str, PolicyState]]:
        """Return every state as (model, policy, key, policy version, state); for a change of configuration."""
        rows = self._tx.execute(sa.select(_state)).all()
        return [(row.model, row.policy, row.key, row.version, record(PolicyState, row)) for row in rows]

    def touch(self, model: str, policy: str, key: str) -> None:
        """Make a state due now."""
        self._tx.execute(sa.update(_state).where(*_place(model, policy, key)).values(due_at=self._tx.now))

    def drop_state(self, model: str, policy: str, key: str) -> None:
        """Forget a state and the causes it collected."""
        self._tx.execute(sa.delete(_state).where(*_place(model, policy, key)))
        self.drop_causes(model, policy, key)

    def collect(self, model: str, policy: str, key: str, cause: Cause) -> None:
        """Add an event to the causes collected for a policy and key; the same event is one cause."""
        if cause.event_id is None:
            return
        row = {"model": model, "policy": policy, "key": key, **_cause_values(cause)}
        self._tx.execute(self._tx.insert_new(_held), row)

    def collected(self, model: str, policy: str, key: str) -> list[Cause]:
        """Return the causes collected for a policy and key, in the order of storing."""
        statement = sa.select(_held).where(*_group(model, policy, key)).order_by(_held.c.event_id)
        return [record(Cause, row) for row in self._tx.execute(statement)]

    def drop_causes(self, model: str, policy: str, key: str, *, before: datetime | None = None) -> None:
        """Let go of the causes collected for a policy and key, or of those from before an instant."""
        statement = sa.delete(_held).where(*_group(model, policy, key))
        if before is not None:
            statement = statement.where(_held.c.time < before)
        self._tx.execute(statement)

    def let_go(self, model: str, policy: str, key: str, event_id: str) -> None:
        """Let go of one cause that was collected for a policy and key."""
        self._tx.execute(sa.delete(_held).where(*_group(model, policy, key), _held.c.event_id == event_id))

    def holds_of(self, event_id: str) -> list[tuple[str, str, str, PolicyState, int]]:
        """Return what holds an event: (model, policy, key, state, how many causes it holds). A window that only counts holds nothing."""
        rows = self._tx.execute(_HOLDS_OF, {"event_id": event_id}).all()
        return [
            (
                row.model,
                row.policy,
                row.key,
                record(PolicyState, row),
                int(
                    self._tx.execute(
                        _COUNT_HELD, {"model": row.model, "policy": row.policy, "key": row.key}
                    ).scalar_one()
                ),
            )
            for row in rows
        ]

    def add_decision(self, decision: Decision, *, seq: int, event_id: str | None, run_id: str | None) -> str:
        """Write a decision and return its id."""
        decision_id = self._tx.ids.make(DECISION_ID)
        self._tx.execute(
            _INSERT_DECISION,
            {
                "id": decision_id,
                "seq": seq,
                "kind": decision.kind,
                "model": decision.model,
                "policy": decision.policy,
                "policy_version": decision.policy_version,
                "key": decision.key,
                "stage": decision.stage,
                "reason": decision.reason,
                "trace": [trace_values(line) for line in decision.trace],
                "until": decision.until,
                "waits_for": decision.waits_for,
                "event_id": event_id,
                "run_id": run_id,
                "at": self._tx.now,
                "term": self._tx.term,
            },
        )
        return decision_id

    def count_refusals(self, refused: Mapping[tuple[str, str, str], int]) -> None:
        """Add to the tallies of what policies' first stages let not through: (model, policy, stage) → how many."""
        rows = [
            {"model": model, "policy": policy, "outcome": outcome, "count": count}
            for (model, policy, outcome), count in sorted(refused.items())
        ]
        if rows:
            self._tx.execute(_add_to_tally(self._tx.dialect), rows)

    def facts(
        self,
        policy: Policy,
        key: str,
        *,
        champion: Champion | None,
        labels: Mapping[str, str],
        pauses: Iterable[Pause],
    ) -> Facts:
        """Return what a policy is told about the world; only what it asks for is looked up."""
        model = policy.model
        active = [record(ActiveRun, row) for row in self._tx.execute(_ACTIVE, {"model": model})]
        cooldown = policy.cooldown
        decision_at = launch_at = success_at = promotion_at = failure_at = None
        if cooldown is not None:
            if cooldown.after == "decision":
                decision_at = self._scalar(_LAST_FIRED, model=model, policy=policy.name, key=key)
            if cooldown.after == "launch":
                launch_at = self._scalar(_LAST_LAUNCH, model=model)
            if cooldown.after == "promotion":
                promotion_at = self._last_finished(model, ("PROMOTED",))
            if cooldown.after == "success" or cooldown.after_failure is not None:
                success_at = self._last_finished(model, _GOOD)
            if cooldown.after_failure is not None:
                failure_at = self._last_finished(model, _BAD)
        ended_at = None
        if isinstance(policy.on, MaxAge):
            ended_at = self._scalar(_LAST_ENDED, model=model, policy=policy.name)
        return Facts(
            champion=champion,
            labels=labels,
            pauses=tuple(pauses),
            active=tuple(active),
            last_decision_at=decision_at,
            last_launch_at=launch_at,
            last_success_at=success_at,
            last_promotion_at=promotion_at,
            last_failure_at=failure_at,
            last_ended_at=ended_at,
        )

    def _last_finished(self, model: str, finals: Sequence[str]) -> datetime | None:
        found = [self._scalar(_LAST_FINISHED, model=model, state=state) for state in finals]
        return max((at for at in found if at is not None), default=None)

    def _scalar(self, statement: Any, **parameters: Any) -> datetime | None:
        return self._tx.execute(statement, parameters).scalar()


def trace_values(line: Any) -> dict[str, Any]:
    """Return a line of a trace as it is stored."""
    return {
        "stage": line.stage,
        "outcome": line.outcome,
        "reason": line.reason,
        "facts": dict(line.facts),
    }


def _cause_values(cause: Cause) -> dict[str, Any]:
    return {
        "event_id": cause.event_id,
        "type": cause.type,
        "origin": cause.origin,
        "subject": cause.subject,
        "time": cause.time,
    }


def _place(model: str, policy: str, key: str) -> tuple[Any, ...]:
    return (_state.c.model == model, _state.c.policy == policy, _state.c.key == key)


def _group(model: str, policy: str, key: str) -> tuple[Any, ...]:
    return (_held.c.model == model, _held.c.policy == policy, _held.c.key == key)
