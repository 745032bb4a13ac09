"""Rows of runs: their causes, jobs, attempts, results and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core import states
from controller.core.gate import Line, Verdict
from controller.core.model import ATTEMPT_ID, JOB_ID, RUN_ID, Attempt, Cause, Job, Json, Run
from controller.core.result import Result
from controller.store import schema
from controller.store.rows import columns, record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_run = schema.run
_job = schema.job
_attempt = schema.attempt
_cause = schema.run_cause
# Built once: building a statement costs as much as running it.
_RUN = sa.select(_run).where(_run.c.id == sa.bindparam("run_id"))
_LOCK_RUN = _RUN.with_for_update()  # SQLite has one writer anyway
_OPEN_RUNS = (
    sa.select(_run)
    .where(_run.c.finished_at.is_(None), _run.c.state.in_(sa.bindparam("states", expanding=True)))
    .order_by(_run.c.id)
)
_OPEN_JOBS = (
    sa.select(_job)
    .where(_job.c.finished_at.is_(None), _job.c.state.in_(sa.bindparam("states", expanding=True)))
    .order_by(_job.c.id)
)
_JOB = sa.select(_job).where(_job.c.id == sa.bindparam("job_id"))
_LOCK_JOB = _JOB.with_for_update()
_JOBS_OF_RUN = sa.select(_job).where(_job.c.run_id == sa.bindparam("run_id")).order_by(_job.c.id)
_CAUSES = sa.select(_cause).where(_cause.c.run_id == sa.bindparam("run_id")).order_by(_cause.c.position)
_LAST_CAUSE = sa.select(sa.func.coalesce(sa.func.max(_cause.c.position), 0)).where(
    _cause.c.run_id == sa.bindparam("run_id")
)
_EMITTERS = sa.select(_run.c.id, _run.c.model, _run.c.depth).where(
    _run.c.id.in_(sa.bindparam("run_ids", expanding=True))
)
_INSERT_RUN = sa.insert(_run)
_INSERT_JOB = sa.insert(_job)
_INSERT_ATTEMPT = sa.insert(_attempt)
_INSERT_VERDICT = sa.insert(schema.verdict)
_ATTEMPT = sa.select(_attempt).where(
    _attempt.c.job_id == sa.bindparam("job_id"), _attempt.c.number == sa.bindparam("number")
)
_RESULTS = (
    sa.select(schema.result)
    .join(_job, _job.c.id == schema.result.c.job_id)
    .where(_job.c.run_id == sa.bindparam("run_id"))
)
_SET_HANDLE = (
    sa.update(_attempt).where(_attempt.c.id == sa.bindparam("attempt_id")).values(handle=sa.bindparam("handle"))
)
_SET_STARTED = _SET_HANDLE.values(owner=sa.bindparam("owner"), launched_at=sa.bindparam("launched_at"))
#: In these states a launcher has a job, or may have it.
_WITH_LAUNCHERS = ("LAUNCHING", "RUNNING", "STOPPING", "LOST", "UNKNOWN")
_ON_LAUNCHERS = (
    sa.select(_attempt.c.launcher, sa.func.count().label("jobs"))
    .join(_job, sa.and_(_attempt.c.job_id == _job.c.id, _attempt.c.number == _job.c.attempt))
    .where(
        _job.c.finished_at.is_(None),
        _job.c.state.in_(_WITH_LAUNCHERS),
    )
    .group_by(_attempt.c.launcher)
)
_WATCHED = (
    sa.select(_job, _attempt, _run)
    .join(
        _attempt,
        sa.and_(_attempt.c.job_id == _job.c.id, _attempt.c.number == _job.c.attempt),
    )
    .join(_run, _run.c.id == _job.c.run_id)
    .where(_job.c.finished_at.is_(None), _job.c.state.in_(_WITH_LAUNCHERS))
    .order_by(_job.c.id)
    .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
)


#: A run that ends so may never have been launched, and then its budget has it back.
_MAY_GIVE_BACK = ("FAILED", "CANCELLED", "SUPERSEDED", "TIMED_OUT")


class RunRows:
    """Runs and what hangs on them, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def new_id(self) -> str:
        """Return an id for a run that is about to be added; its decision needs it first."""
        return self._tx.ids.make(RUN_ID)

    def add(self, run: Run) -> None:
        """Write a new run, QUEUED."""
        row = {name: getattr(run, name) for name in Run.__dataclass_fields__}
        self._tx.execute(_INSERT_RUN, row)
        self._tx.record("run", run.id, "", run.state, run.cause, run.reason, run.actor or "controller")

    def add_causes(self, run_id: str, decision_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Give a run its causes, or append them to one that it `joins`; an event that is there already stays once."""
        last = self._tx.execute(_LAST_CAUSE, {"run_id": run_id}).scalar_one() if joins else 0
        rows = [
            {
                "run_id": run_id,
                "position": last + offset,
                "decision_id": decision_id,
                "event_id": cause.event_id,
                "type": cause.type,
                "origin": cause.origin,
                "subject": cause.subject,
                "time": cause.time,
                "emitted_by": cause.emitted_by,
            }
            for offset, cause in enumerate(causes, start=1)
        ]
        if rows:
            self._tx.execute(self._tx.insert_new(_cause), rows)

    def causes(self, run_id: str) -> list[Cause]:
        """Return why a run exists, in the order in which it was learned."""
        return [record(Cause, row) for row in self._tx.execute(_CAUSES, {"run_id": run_id})]

    def emitters(self, run_ids: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return the model and the depth of those runs that there are, by id."""
        rows = self._tx.execute(_EMITTERS, {"run_ids": sorted(run_ids)})
        return {row.id: (row.model, int(row.depth)) for row in rows}

    def lock(self, run_id: str) -> Run | None:
        """Return one run as it is now, and keep others from changing it until this transaction ends."""
        row = self._tx.execute(_LOCK_RUN, {"run_id": run_id}).first()
        return None if row is None else record(Run, row)

    def get(self, run_id: str) -> Run | None:
        """Return one run."""
        row = self._tx.execute(_RUN, {"run_id": run_id}).first()
        return None if row is None else record(Run, row)

    def in_state(self, *wanted: str) -> list[Run]:
        """Return the open runs in these states, oldest first."""
        return [record(Run, row) for row in self._tx.execute(_OPEN_RUNS, {"states": wanted})]

    def move(
        self,
        run: Run,
        target: str,
        *,
        cause: str,
        reason: str = "",
        actor: str = "controller",
        **values: Any,
    ) -> None:
        """Change a run's state; a run that leaves the model's slot wakes the policies that wait for it."""
        self._tx.transition(
            states.RUN,
            run.id,
            origin=run.state,
            target=target,
            cause=cause,
            reason=reason,
            actor=actor,
            **values,
        )
        if target not in states.ACTIVE_RUN_STATES:
            self._tx.policies.wake(model=run.model, waits_for=("run",))
        if target in _MAY_GIVE_BACK:
            self._tx.policies.look_again("budget")

    def set(self, run_id: str, **values: Any) -> None:
        """Change columns of a run that are not its state."""
        self._tx.execute(_set_statement(_run, tuple(values)), {**values, "b_id": run_id})

    def add_job(self, run: Run, candidate: str, params: Mapping[str, Json]) -> Job:
        """Write a new job, PENDING, and return it."""
        job = Job(
            id=self._tx.ids.make(JOB_ID),
            run_id=run.id,
            model=run.model,
            candidate=candidate,
            state="PENDING",
            cause="created",
            reason="",
            params=dict(params),
            attempt=0,
            due_at=None,
            created_at=self._tx.now,
            finished_at=None,
        )
        self._tx.execute(_INSERT_JOB, {name: getattr(job, name) for name in Job.__dataclass_fields__})
        self._tx.record("job", job.id, "", job.state, job.cause, "", "controller")
        return job

    def jobs(self, run_id: str) -> list[Job]:
        """Return a run's jobs, in the order of its candidates."""
        return [record(Job, row) for row in self._tx.execute(_JOBS_OF_RUN, {"run_id": run_id})]

    def open_jobs(self, *wanted: str) -> list[Job]:
        """Return the jobs in these states, oldest first."""
        return [record(Job, row) for row in self._tx.execute(_OPEN_JOBS, {"states": wanted})]

    def get_job(self, job_id: str) -> Job | None:
        """Return one job."""
        row = self._tx.execute(_JOB, {"job_id": job_id}).first()
        return None if row is None else record(Job, row)

    def lock_job(self, job_id: str) -> Job | None:
        """Return one job as it is now, and keep others from changing it until this transaction ends."""
        row = self._tx.execute(_LOCK_JOB, {"job_id": job_id}).first()
        return None if row is None else record(Job, row)

    def move_job(
        self,
        job: Job,
        target: str,
        *,
        cause: str,
        reason: str = "",
        actor: str = "controller",
        **values: Any,
    ) -> None:
        """Change a job's state."""
        self._tx.transition(
            states.JOB,
            job.id,
            origin=job.state,
            target=target,
            cause=cause,
            reason=reason,
            actor=actor,
            **values,
        )

    def add_attempt(self, attempt: Attempt) -> None:
        """Write a new attempt: the intent that comes before the launch."""
        self._tx.execute(_INSERT_ATTEMPT, {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__})

    def new_attempt_id(self) -> str:
        """Return an id for an attempt."""
        return self._tx.ids.make(ATTEMPT_ID)

    def attempt(self, job: Job) -> Attempt | None:
        """Return a job's present attempt; None before the first."""
        row = self._tx.execute(_ATTEMPT, {"job_id": job.id, "number": job.attempt}).first()
        return None if row is None else record(Attempt, row)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return every attempt at a job, in order."""
        statement = sa.select(_attempt).where(_attempt.c.job_id == job_id).order_by(_attempt.c.number)
        return [record(Attempt, row) for row in self._tx.execute(statement)]

    def set_attempt(self, attempt_id: str, **values: Any) -> None:
        """Change columns of an attempt."""
        self._tx.execute(_set_statement(_attempt, tuple(values)), {**values, "b_id": attempt_id})

    def set_handle(self, attempt_id: str, handle: Mapping[str, Json]) -> None:
        """Write what the launcher knows an attempt by."""
        self._tx.execute(_SET_HANDLE, {"attempt_id": attempt_id, "handle": dict(handle)})

    def set_started(self, attempt_id: str, handle: Mapping[str, Json], *, owner: str, launched_at: datetime) -> None:
        """Write what the launcher knows an attempt by, whose it is, and since when its time counts."""
        values = {"handle": dict(handle), "owner": owner, "launched_at": launched_at}
        self._tx.execute(_SET_STARTED, {"attempt_id": attempt_id, **values})

    def on_launchers(self) -> dict[str, int]:
        """Return how many jobs each launcher has."""
        return {row.launcher: row.jobs for row in self._tx.execute(_ON_LAUNCHERS)}

    def watched(self) -> list[tuple[Job, Attempt, Run]]:
        """Return every job that a launcher has, or may have, with its present attempt and its run."""
        return [
            (_split(Job, row, "job"), _split(Attempt, row, "attempt"), _split(Run, row, "run"))
            for row in self._tx.execute(_WATCHED)
        ]

    def add_result(self, job_id: str, result: Result, digest: str) -> None:
        """Write a job's valid result, once."""
        document = {
            name: getattr(result, name) for name in Result.__dataclass_fields__ if getattr(result, name) is not None
        }
        row = {
            "job_id": job_id,
            "document": document,
            "digest": digest,
            "received_at": self._tx.now,
        }
        self._tx.execute(self._tx.insert_new(schema.result), row)
        if result.cost is not None:
            self._correct_cost(job_id)

    def _correct_cost(self, job_id: str) -> None:
        """Let a run count for what its results say: the sum of those that say something."""
        job = self.get_job(job_id)
        if job is not None:
            costs = [result.cost for result in self.results(job.run_id).values() if result.cost is not None]
            self.set(job.run_id, cost=float(sum(costs)))
            self._tx.policies.look_again("budget")

    def results(self, run_id: str) -> dict[str, Result]:
        """Return the results of a run's jobs, by job id."""
        return {row.job_id: Result(**row.document) for row in self._tx.execute(_RESULTS, {"run_id": run_id})}

    def add_verdict(self, run_id: str, verdict: Verdict, champion_id: str | None) -> None:
        """Write what the gate said, once."""
        row = {
            "run_id": run_id,
            "outcome": verdict.outcome,
            "challenger": verdict.challenger,
            "reason": verdict.reason,
            "lines": [_line_values(line) for line in verdict.lines],
            "champion_id": champion_id,
            "at": self._tx.now,
        }
        self._tx.execute(_INSERT_VERDICT, row)

    def verdict(self, run_id: str) -> Verdict | None:
        """Return what the gate said of a run."""
        row = self._tx.execute(sa.select(schema.verdict).where(schema.verdict.c.run_id == run_id)).first()
        if row is None:
            return None
        lines = tuple(Line(**line) for line in row.lines)
        return Verdict(outcome=row.outcome, challenger=row.challenger, reason=row.reason, lines=lines)

    def next_due_job(self) -> datetime | None:
        """Return when the next job's `due_at` is."""
        statement = sa.select(sa.func.min(_job.c.due_at)).where(_job.c.finished_at.is_(None))
        return self._tx.execute(statement).scalar()


@lru_cache(maxsize=64)
def _set_statement(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    """Return the update of these columns of one row."""
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("b_id"))
        .values({column: sa.bindparam(column) for column in columns})
    )


def _split(cls: type[Any], row: Any, table: str) -> Any:
    mapping = columns(row)
    return cls(**{name: mapping[f"{table}_{name}"] for name in cls.__dataclass_fields__})


def _line_values(line: Line) -> dict[str, Any]:
    return {
        "candidate": line.candidate,
        "rule": line.rule,
        "outcome": line.outcome,
        "text": line.text,
        "values": dict(line.values),
    }
