"""Rows of what policies concluded, hold and remember."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core.chain import WAITS_OR, ActiveRun, Facts, PolicyState, waits_of
from controller.core.model import DECISION_ID, Cause, Champion, Decision, Event, Pause
from controller.core.on import traits
from controller.core.policy import Budget, Policy
from controller.core.stages.loop import emitting_run, fewest_behind
from controller.core.states import ACTIVE_RUN_STATES
from controller.store import dialect, schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_state = schema.policy_state
_held = schema.held_cause
_decision = schema.decision
_run = schema.run

_PLACE = (
    _state.c.model == sa.bindparam("model"),
    _state.c.policy == sa.bindparam("policy"),
    _state.c.key == sa.bindparam("key"),
)
_GROUP = (
    _held.c.model == sa.bindparam("model"),
    _held.c.policy == sa.bindparam("policy"),
    _held.c.key == sa.bindparam("key"),
)
_STATES = sa.select(_state)
_GET_STATE = _STATES.where(*_PLACE)
_DROP_STATE = sa.delete(_state).where(*_PLACE)
_LOOK_AGAIN = (
    sa.update(_state)
    .where(_state.c.due_at > sa.bindparam("b_now"), _state.c.stage == sa.bindparam("b_stage"))
    .values(due_at=sa.bindparam("b_now"))
)
_COLLECTED = sa.select(_held).where(*_GROUP).order_by(_held.c.event_id)
_DROP_CAUSES = sa.delete(_held).where(*_GROUP)
_DROP_CAUSES_BEFORE = _DROP_CAUSES.where(_held.c.time < sa.bindparam("before"))
_DROP_CAUSES_OF = _DROP_CAUSES.where(
    _held.c.time.in_(sa.bindparam("instants", expanding=True, type_=_held.c.time.type))
)
_LET_GO = _DROP_CAUSES.where(_held.c.event_id == sa.bindparam("event_id"))
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
_COUNT_HELD = sa.select(sa.func.count()).select_from(_held).where(*_GROUP)
_COUNT_KEYS = (
    sa.select(sa.func.count())
    .select_from(_state)
    .where(_state.c.model == sa.bindparam("model"), _state.c.policy == sa.bindparam("policy"))
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
        _decision.c.key == sa.bindparam("key"),
        _decision.c.kind == "FIRE",
    )
    .order_by(_decision.c.at.desc(), _decision.c.id.desc())
    .limit(1)
)

#: Which runs of ours emitted what is held; a cause from outside gives NULL.
_HELD_EMITTERS = sa.select(_held.c.emitted_by).where(*_GROUP).group_by(_held.c.emitted_by).limit(100)
_job = schema.job
_attempt = schema.attempt
#: Whether something of a run was launched, or may have been, which only a person could say.
_LAUNCHED = sa.exists(
    sa.select(1)
    .select_from(_job.join(_attempt, _attempt.c.job_id == _job.c.id))
    .where(_job.c.run_id == _run.c.id, sa.or_(_attempt.c.handle.is_not(None), _job.c.cause == "resolved"))
)
#: Runs that count in a budget, the newest first; one that ended without having been launched is given back.
_COUNTED = (
    sa.select(_run.c.decided_at, _run.c.cost)
    .where(_run.c.decided_at > sa.bindparam("since"), sa.or_(_run.c.finished_at.is_(None), _LAUNCHED))
    .order_by(_run.c.decided_at.desc())
)
_OF_SOME = _run.c.model.in_(sa.bindparam("models", expanding=True))
#: Of a budget of runs, as many as it allows say all; of a budget of cost units, every run that cost anything.
_RUNS_SPENT = _COUNTED.limit(sa.bindparam("most"))
_RUNS_SPENT_BY = _RUNS_SPENT.where(_OF_SOME)
_COST_SPENT = _COUNTED.where(_run.c.cost > 0)
_COST_SPENT_BY = _COST_SPENT.where(_OF_SOME)
_ROLLED_BACK = sa.exists(
    sa.select(1).where(schema.version.c.run_id == _run.c.id, schema.version.c.state == "ROLLED_BACK")
)
#: Runs that say whether retraining helps, the newest first: those that did not help, and those that did.
_TELLING = (
    sa.select(_run.c.id, sa.and_(_run.c.outcome == "CURED", sa.not_(_ROLLED_BACK)).label("helped"))
    .where(
        _run.c.model == sa.bindparam("model"),
        _run.c.policy == sa.bindparam("policy"),
        _run.c.key == sa.bindparam("key"),
        _run.c.finished_at > sa.bindparam("since"),
        sa.or_(
            _run.c.state.in_(("REJECTED", "FAILED", "TIMED_OUT")),
            _run.c.outcome.in_(("CURED", "NOT_CURED", "WORSE")),
            _ROLLED_BACK,
        ),
    )
    .order_by(_run.c.finished_at.desc(), _run.c.id.desc())
    .limit(100)
)
#: So many instants are named in one statement.
_SOME = 500
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

#: What a condition may wait for together, in the order in which it is written.
_COMBINED = ("champion", "episode", "run")

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


@lru_cache(maxsize=2)
def _save_state(name: str) -> Any:
    """Return the statement that writes a state in the place of what was there."""
    insert = dialect.insert(_state, name)
    return insert.on_conflict_do_update(
        index_elements=["model", "policy", "key"],
        set_={column.name: insert.excluded[column.name] for column in _state.c if not column.primary_key},
    )


@lru_cache(maxsize=4)
def _wake(columns: tuple[str, ...]) -> sa.Update:
    """Return the statement that makes due now what waits, of the states with given values in these columns."""
    return (
        sa.update(_state)
        .where(
            _state.c.waits_for.in_(sa.bindparam("b_waits_for", expanding=True)),
            *(_state.c[name] == sa.bindparam(f"b_{name}") for name in columns),
        )
        .values(due_at=sa.bindparam("b_now"), waits_for=None)
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
            self._tx.execute(_DROP_STATE, {"model": policy.model, "policy": policy.name, "key": key})
            return
        row = {
            "model": policy.model,
            "policy": policy.name,
            "key": key,
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
        self._tx.execute(_save_state(self._tx.dialect), row)

    def due(self, now: datetime, limit: int) -> list[tuple[str, str, str]]:
        """Return (model, policy, key) of states whose time has come, the longest overdue first; of equals in the order of their names."""
        statement = (
            sa.select(_state.c.due_at, _state.c.model, _state.c.policy, _state.c.key)
            .where(_state.c.due_at <= now)
            .order_by(_state.c.due_at, _state.c.model, _state.c.policy, _state.c.key)
            .limit(limit)
        )
        # Sorted again, because the two databases sort text differently.
        found = sorted((row.due_at, row.model, row.policy, row.key) for row in self._tx.execute(statement))
        return [(model, policy, key) for _, model, policy, key in found]

    def next_due(self) -> datetime | None:
        """Return when the next state is due."""
        return self._tx.execute(_NEXT_DUE).scalar()

    def wake(self, *, model: str | None, waits_for: Sequence[str], policy: str | None = None) -> int:
        """Make due now what waits for something that just happened; return how many."""
        given = {name: value for name, value in (("model", model), ("policy", policy)) if value is not None}
        parameters = {"b_waits_for": _waits_with(waits_for), "b_now": self._tx.now}
        parameters |= {f"b_{name}": value for name, value in given.items()}
        return self._tx.execute(_wake(tuple(given)), parameters).rowcount

    def states(self) -> list[tuple[str, str, str, str, PolicyState]]:
        """Return every state as (model, policy, key, policy version, state); for a change of configuration."""
        rows = self._tx.execute(_STATES).all()
        return [(row.model, row.policy, row.key, row.version, record(PolicyState, row)) for row in rows]

    def touch(self, model: str, policy: str, key: str) -> None:
        """Make a state due now."""
        mine = (_state.c.model == model, _state.c.policy == policy, _state.c.key == key)
        self._tx.execute(sa.update(_state).where(*mine).values(due_at=self._tx.now))

    def drop_state(self, model: str, policy: str, key: str) -> None:
        """Forget a state and the causes it collected."""
        self._tx.execute(_DROP_STATE, {"model": model, "policy": policy, "key": key})
        self.drop_causes(model, policy, key)

    def collect(self, model: str, policy: str, key: str, cause: Cause) -> None:
        """Add an event to the causes collected for a policy and key; the same event is one cause."""
        if cause.event_id is None:
            return
        row = {"model": model, "policy": policy, "key": key, **_cause_values(cause)}
        self._tx.execute(self._tx.insert_new(_held), row)

    def collected(self, model: str, policy: str, key: str) -> list[Cause]:
        """Return the causes collected for a policy and key, in the order of storing."""
        found = self._tx.execute(_COLLECTED, {"model": model, "policy": policy, "key": key})
        return [record(Cause, row) for row in found]

    def drop_causes(self, model: str, policy: str, key: str, *, before: datetime | None = None) -> None:
        """Let go of the causes collected for a policy and key, or of those from before an instant."""
        group = {"model": model, "policy": policy, "key": key}
        if before is None:
            self._tx.execute(_DROP_CAUSES, group)
        else:
            self._tx.execute(_DROP_CAUSES_BEFORE, {**group, "before": before})

    def drop_causes_of(self, model: str, policy: str, key: str, instants: Sequence[datetime]) -> None:
        """Let go of the causes collected for a policy and key that are of these instants."""
        for start in range(0, len(instants), _SOME):
            some = instants[start : start + _SOME]
            self._tx.execute(_DROP_CAUSES_OF, {"model": model, "policy": policy, "key": key, "instants": some})

    def key_count(self, model: str, policy: str) -> int:
        """Return for how many keys a policy remembers something."""
        return int(self._tx.execute(_COUNT_KEYS, {"model": model, "policy": policy}).scalar_one())

    def longest_untouched(self, model: str, policy: str, limit: int) -> list[str]:
        """Return the keys of a policy that hold nothing and were not written to for longest."""
        statement = (
            sa.select(_state.c.key)
            .where(_state.c.model == model, _state.c.policy == policy, _state.c.stage.is_(None))
            .order_by(_state.c.updated_at, _state.c.key)
            .limit(limit)
        )
        return list(self._tx.execute(statement).scalars())

    def let_go(self, model: str, policy: str, key: str, event_id: str) -> None:
        """Let go of one cause that was collected for a policy and key."""
        self._tx.execute(_LET_GO, {"model": model, "policy": policy, "key": key, "event_id": event_id})

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
        event: Event | None = None,
        held: int = 0,
        sharing: Sequence[str] | None = None,
    ) -> Facts:
        """Return what a policy is told about the world; only what it asks for is looked up.

        `event` drives it, and `held` causes wait for it; `sharing` are the models that share its budget, by default its own.
        """
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
        depth, own_run = self._chain(policy, key, event, held)
        ended_at = None
        if traits(policy.on).has_levels:
            ended_at = self._scalar(_LAST_ENDED, model=model, policy=policy.name, key=key)
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
            spent=() if policy.budget is None else self.spent(policy.budget, sharing or (model,)),
            unhelpful=() if policy.breaker is None else self._unhelpful(policy, key),
            depth=depth,
            own_run=own_run,
        )

    def spent(self, budget: Budget, models: Sequence[str]) -> list[tuple[datetime, float]]:
        """Return what counts now in a budget that these models share, the oldest first: when each was decided, and its cost."""
        parameters: dict[str, Any] = {"since": self._tx.now - budget.per}
        every, some = (_COST_SPENT, _COST_SPENT_BY) if budget.runs is None else (_RUNS_SPENT, _RUNS_SPENT_BY)
        if budget.runs is not None:
            parameters["most"] = budget.runs
        if budget.scope == "all":
            rows = self._tx.execute(every, parameters)
        else:
            rows = self._tx.execute(some, {**parameters, "models": sorted(models)})
        return [(row.decided_at, float(row.cost)) for row in rows][::-1]

    def open_breaker(self, model: str, policy: str, key: str, *, opened_by: str) -> bool:
        """Write that a breaker opened; return whether that was not known."""
        row = {"model": model, "policy": policy, "key": key, "opened_by": opened_by, "opened_at": self._tx.now}
        insert = self._tx.insert_new(schema.breaker).returning(schema.breaker.c.opened_by)
        return self._tx.execute(insert, row).first() is not None

    def look_again(self, stage: str) -> int:
        """Make due now what a stage holds until an instant that may have come nearer; return how many."""
        return self._tx.execute(_LOOK_AGAIN, {"b_now": self._tx.now, "b_stage": stage}).rowcount

    def _unhelpful(self, policy: Policy, key: str) -> list[str]:
        """Return the ended runs of a policy and key that did not help, the newest first, since one that did or a person's word."""
        since = self._tx.people.resumed_at(f"{policy.model}/{policy.name}") or _BEGINNING
        parameters = {"model": policy.model, "policy": policy.name, "key": key, "since": since}
        found: list[str] = []
        for row in self._tx.execute(_TELLING, parameters):
            if row.helped:
                break
            found.append(row.id)
        return found

    def _chain(self, policy: Policy, key: str, event: Event | None, held: int) -> tuple[int, str | None]:
        """Return how many runs lie behind the cause that has the fewest, and the model's own run when it emitted them all."""
        emitters: set[str | None] = set()
        if event is not None:
            emitters.add(emitting_run(event))
        if held and None not in emitters:
            group = {"model": policy.model, "policy": policy.name, "key": key}
            emitters |= set(self._tx.execute(_HELD_EMITTERS, group).scalars())
        if not emitters or None in emitters:
            return 0, None
        known = self._tx.runs.emitters(run_id for run_id in emitters if run_id is not None)
        return fewest_behind({run_id: known.get(run_id or "") for run_id in emitters}, policy.model)

    def _last_finished(self, model: str, finals: Sequence[str]) -> datetime | None:
        found = [self._scalar(_LAST_FINISHED, model=model, state=state) for state in finals]
        return max((at for at in found if at is not None), default=None)

    def _scalar(self, statement: Any, **parameters: Any) -> datetime | None:
        return self._tx.execute(statement, parameters).scalar()


def _waits_with(names: Sequence[str]) -> list[str]:
    """Return everything that a state may wait for in which one of these names stands."""
    combined = (WAITS_OR.join(some) for size in (2, 3) for some in combinations(_COMBINED, size))
    return [*names, *(each for each in combined if set(waits_of(each)) & set(names))]


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
        "emitted_by": cause.emitted_by,
    }
