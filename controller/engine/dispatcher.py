"""Starts runs and launches jobs.

A queued run gets its model's slot, its champion and its jobs in one transaction; the jobs that a launcher has room for are marked
LAUNCHING in the same one, which is the intent that comes before every call. What is found LAUNCHING by a later tick may have been
started: it is looked up first, and launched again only where the launcher is sure that it was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from controller.core.conditions import Scope, event_values
from controller.core.model import Attempt, Champion, Event, Job, Json, Run
from controller.core.policy import ModelSpec
from controller.core.supervise import Supervision, after_failure
from controller.core.template import fill
from controller.engine.runtime import Runtime, Ticked, champion_for_job, notify_people
from controller.engine.training import close_training
from controller.errors import ExpressionError, GiveUp, PluginError, RetryLater
from controller.ports import Handle, Launcher, Order
from controller.store import Transaction
from controller.store.dialect import dump_json

#: Wait before a launch whose outcome is unclear is looked up again.
LOOK_AGAIN = timedelta(seconds=2)
#: A run's slot is held by these states of other runs.
_HOLDING = ("TRAINING", "JUDGING", "PROMOTING")


class Dispatcher:
    """The loop that starts runs and launches jobs."""

    name = "dispatcher"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def tick(self, now: datetime) -> Ticked:
        """Start what may start, launch what is due, and clear up what an earlier process left LAUNCHING."""
        with self._runtime.store.transaction("dispatch") as tx:
            unclear = tx.runs.open_jobs("LAUNCHING")
            started = self._start_runs(tx)
            intents, next_at = self._intend(tx, unclear)
            orders = [(job, attempt, self._prepare(tx, job, attempt)) for job, attempt in intents]
            lookups = [looked_up for job in unclear if (looked_up := self._look_up(tx, job)) is not None]
        launched = 0
        for job, attempt, order in orders:
            launched += self._launch(job, attempt, order, fresh=True)
        for job, attempt, order in lookups:
            launched += self._launch(job, attempt, order, fresh=False)
        if launched < len(orders) + len(lookups):
            next_at = min(filter(None, (next_at, self._runtime.clock.now() + LOOK_AGAIN)))
        if launched:
            self._runtime.bells.ring("monitor")
        return Ticked(worked=started, next_at=next_at)

    # ------------------------------------------------------------------------------------------- runs

    def _start_runs(self, tx: Transaction) -> int:
        queued = tx.runs.in_state("QUEUED")
        if not queued:
            return 0
        busy = {run.model for run in tx.runs.in_state(*_HOLDING)}
        started = 0
        for run in queued:
            try:
                spec = self._runtime.spec_of(tx, run)
            except GiveUp as error:
                tx.runs.move(run, "FAILED", cause="invalid_parameters", reason=error.message)
                continue
            if run.model in busy and spec.training.concurrency != "allow":
                continue
            busy.add(run.model)
            started += 1
            self._start(tx, run, spec)
        return started

    def _start(self, tx: Transaction, run: Run, spec: ModelSpec) -> None:
        """Give a run the slot: pin the champion, freeze the causes, fill in the parameters, make the jobs."""
        model = tx.models.ensure(run.model)
        try:
            filled = self._fill_candidates(tx, run, spec)
        except ExpressionError as error:
            tx.runs.move(run, "FAILED", cause="invalid_parameters", reason=error.message)
            notify_people(tx, spec, "failed", f"{run.model}: {error.message}", run_id=run.id)
            return
        tx.runs.move(
            run,
            "TRAINING",
            cause="dispatched",
            started_at=tx.now,
            champion_id=model.champion_id,
            epoch=model.epoch,
        )
        for candidate, params in filled.items():
            tx.runs.add_job(run, candidate, params)

    def _fill_candidates(self, tx: Transaction, run: Run, spec: ModelSpec) -> dict[str, Mapping[str, Json]]:
        scope = self._scope(tx, run, spec)
        fill(spec.training.options, scope)
        return {
            candidate.name: {**fill(dict(candidate.params), scope), **run.params}
            for candidate in spec.training.candidates
        }

    def _scope(self, tx: Transaction, run: Run, spec: ModelSpec) -> Scope:
        events = self._events(tx, run)
        return Scope(
            {
                "event": event_values(events[-1]) if events else None,
                "events": [event_values(event) for event in events],
                "model": {"name": spec.name, "labels": dict(spec.labels)},
                "run": {"id": run.id, "policy": run.policy, "key": run.key},
                "params": dict(run.params),
            }
        )

    @staticmethod
    def _events(tx: Transaction, run: Run) -> list[Event]:
        ids = [cause.event_id for cause in tx.runs.causes(run.id) if cause.event_id is not None]
        return tx.events.many(ids)

    # ------------------------------------------------------------------------------------------- jobs

    def _intend(self, tx: Transaction, unclear: Sequence[Job]) -> tuple[list[tuple[Job, Attempt]], datetime | None]:
        """Mark the due jobs that a launcher has room for as LAUNCHING, with a new attempt each."""
        waiting = tx.runs.open_jobs("PENDING", "RETRYABLE")
        if not waiting:
            return [], None
        intents: list[tuple[Job, Attempt]] = []
        next_at: datetime | None = None
        runs: dict[str, Run | None] = {}
        used: Counter[str] | None = None
        for job in waiting:
            if job.due_at is not None and job.due_at > tx.now:
                next_at = min(next_at or job.due_at, job.due_at)
                continue
            if job.run_id not in runs:
                runs[job.run_id] = tx.runs.get(job.run_id)
            run = runs[job.run_id]
            if run is None or run.stop_as is not None:
                continue
            launcher = self._runtime.spec_of(tx, run).training.launcher
            if used is None:
                used = self._used_slots(tx)
            if self._is_full(launcher, used):
                continue
            used[launcher] += 1
            intents.append(self._mark_launching(tx, job, launcher))
        return intents, next_at

    def _used_slots(self, tx: Transaction) -> Counter[str]:
        used: Counter[str] = Counter()
        for job in tx.runs.open_jobs("LAUNCHING", "RUNNING", "STOPPING", "LOST", "UNKNOWN"):
            attempt = tx.runs.attempt(job)
            if attempt is not None:
                used[attempt.launcher] += 1
        return used

    def _is_full(self, launcher: str, used: Counter[str]) -> bool:
        slots = self._runtime.launcher(launcher).slots()
        return slots is not None and used[launcher] >= slots

    def _mark_launching(self, tx: Transaction, job: Job, launcher: str) -> tuple[Job, Attempt]:
        number = job.attempt + 1
        nonce = f"{self._runtime.random.getrandbits(64):016x}"
        attempt = Attempt(
            id=tx.runs.new_attempt_id(),
            job_id=job.id,
            number=number,
            nonce=nonce,
            launcher=launcher,
            owner=self._runtime.owner,
            handle=None,
            folder=f"runs/{job.run_id}/{job.candidate}/{number}-{nonce[:8]}",
            launched_at=tx.now,
            started_at=None,
            finished_at=None,
            exit_code=None,
            reason="",
        )
        tx.runs.add_attempt(attempt)
        tx.runs.move_job(job, "LAUNCHING", cause="launching", attempt=number, due_at=None)
        launching = tx.runs.get_job(job.id)
        return launching or job, attempt

    def _look_up(self, tx: Transaction, job: Job) -> tuple[Job, Attempt, _Prepared] | None:
        attempt = tx.runs.attempt(job)
        return None if attempt is None else (job, attempt, self._prepare(tx, job, attempt))

    def _prepare(self, tx: Transaction, job: Job, attempt: Attempt) -> _Prepared:
        """Collect what the order needs; nothing is written to the disk inside a transaction."""
        run = tx.runs.get(job.run_id)
        if run is None:
            raise GiveUp(f"run {job.run_id} of job {job.id} is gone")
        spec = self._runtime.spec_of(tx, run)
        version = tx.models.version(run.champion_id)
        champion = None
        if version is not None:
            champion = Champion(
                version_id=version.id,
                number=version.number,
                artifact=version.artifact,
                artifact_digest=version.artifact_digest,
                metrics=version.metrics,
                promoted_at=version.promoted_at or version.created_at,
                decided_at=None,
            )
        return _Prepared(run, spec, self._events(tx, run), champion, self._scope(tx, run, spec))

    # ------------------------------------------------------------------------------------------- launching

    def _launch(self, job: Job, attempt: Attempt, prepared: _Prepared, *, fresh: bool) -> bool:
        """Launch an attempt, or find it if an earlier process may have launched it; return whether that is settled."""
        runtime = self._runtime
        launcher = runtime.launcher(attempt.launcher)
        try:
            order = self._order(job, attempt, prepared)
            if fresh:
                handle, cause = launcher.launch(order), "launched"
            else:
                handle, cause = self._find_or_launch(launcher, order)
        except (GiveUp, PluginError, ExpressionError) as error:
            self._not_started(job, prepared.spec, error.message, final=True)
            return True
        except (RetryLater, OSError) as error:
            return self._unclear(job, attempt, prepared, launcher, error, fresh=fresh)
        except ValueError as error:
            self._not_started(job, prepared.spec, f"the launcher refuses its options: {error}", final=True)
            return True
        with runtime.store.transaction("launched") as tx:
            tx.runs.set_attempt(attempt.id, handle=dict(handle))
            tx.runs.move_job(job, "RUNNING", cause=cause)
        runtime.metrics.jobs.labels(attempt.launcher, "launched").inc()
        runtime.log.info(
            "job.launched",
            run_id=job.run_id,
            job_id=job.id,
            candidate=job.candidate,
            attempt=attempt.number,
            cause=cause,
        )
        return True

    @staticmethod
    def _find_or_launch(launcher: Launcher, order: Order) -> tuple[Handle, str]:
        handle = launcher.find(order)
        if handle is not None:
            return handle, "adopted"
        return launcher.launch(order), "launched"

    def _unclear(
        self,
        job: Job,
        attempt: Attempt,
        prepared: _Prepared,
        launcher: Launcher,
        error: Exception,
        *,
        fresh: bool,
    ) -> bool:
        """Deal with a call that failed: try again where that is safe, ask a person where nobody can know."""
        self._runtime.log.warning("job.launch_failed", job_id=job.id, run_id=job.run_id, error=str(error))
        if fresh and isinstance(error, RetryLater | OSError) and launcher.searchable:
            self._not_started(job, prepared.spec, str(error), final=False)
            return True
        if not launcher.searchable:
            with self._runtime.store.transaction("launch_unknown") as tx:
                tx.runs.move_job(job, "UNKNOWN", cause="launch_unknown", reason=str(error))
                notify_people(
                    tx,
                    prepared.spec,
                    "unknown",
                    f"{job.model}: nobody knows whether {job.id} was started",
                )
            return True
        return False

    def _not_started(self, job: Job, spec: ModelSpec, reason: str, *, final: bool) -> None:
        step = after_failure(job, spec.training, cause="launch_failed", reason=reason, now=self._runtime.clock.now())
        if final:
            step = Supervision(target="FAILED", cause="launch_failed", reason=reason)
        with self._runtime.store.transaction("launch_failed") as tx:
            tx.runs.move_job(
                job,
                step.target or "FAILED",
                cause=step.cause,
                reason=step.reason,
                due_at=step.due_at,
            )
            close_training(tx, job.run_id, spec)
        self._runtime.metrics.jobs.labels(spec.training.launcher, "launch_failed").inc()
        self._runtime.bells.ring("gatekeeper", self.name)

    def _order(self, job: Job, attempt: Attempt, prepared: _Prepared) -> Order:
        """Write the attempt's files and return what the launcher is asked for; the same for the same attempt."""
        runtime, run, training = self._runtime, prepared.run, prepared.spec.training
        folder = runtime.state_dir / attempt.folder
        artifacts = folder / "artifact"
        artifacts.mkdir(mode=0o700, parents=True, exist_ok=True)
        events = folder / "events.json"
        _write(events, dump_json([_as_cloudevent(event) for event in prepared.events]))
        options = runtime.launcher_options(training, fill(dict(training.options), prepared.scope))
        environment = {
            "RETRAIN_RUN_ID": run.id,
            "RETRAIN_JOB_ID": job.id,
            "RETRAIN_ATTEMPT": str(attempt.number),
            "RETRAIN_MODEL": job.model,
            "RETRAIN_CANDIDATE": job.candidate,
            "RETRAIN_PARAMS": dump_json(dict(job.params)),
            "RETRAIN_EVENTS": str(events),
            "RETRAIN_CHAMPION": champion_for_job(prepared.champion),
            "RETRAIN_ARTIFACT_DIR": str(artifacts),
            "RETRAIN_RESULT": str(folder / "result.json"),
        }
        if run.traceparent is not None:
            environment["TRACEPARENT"] = run.traceparent
        return Order(
            run_id=run.id,
            job_id=job.id,
            attempt_id=attempt.id,
            attempt=attempt.number,
            model=job.model,
            candidate=job.candidate,
            folder=folder,
            environment=environment,
            options=options,
        )


class _Prepared:
    """What an order is made of, read in one transaction."""

    __slots__ = ("champion", "events", "run", "scope", "spec")

    def __init__(
        self,
        run: Run,
        spec: ModelSpec,
        events: Sequence[Event],
        champion: Champion | None,
        scope: Scope,
    ) -> None:
        self.run = run
        self.spec = spec
        self.events = events
        self.champion = champion
        self.scope = scope


def _as_cloudevent(event: Event) -> dict[str, Any]:
    """Return an event as the job gets it: a CloudEvents 1.0 record in JSON."""
    document = {
        "specversion": "1.0",
        "id": event.source_id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "origin": event.origin,
        "data": event.data,
        **event.extensions,
    }
    return {name: value for name, value in document.items() if value is not None}


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
