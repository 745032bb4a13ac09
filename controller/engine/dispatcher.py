"""Starts runs and launches jobs.

A queued run gets its model's slot, its champion and its jobs in one transaction; the jobs that a launcher has room for are marked
LAUNCHING in the same one, which is the intent that comes before every call. What is found LAUNCHING by a later tick may have been
started: it is looked up first, and launched again only where the launcher is sure that it was not.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from controller.core.conditions import Scope, event_values
from controller.core.model import PERSON_ORIGIN, Attempt, Champion, Event, Job, Run
from controller.core.policy import ModelSpec
from controller.core.supervise import Supervision, after_failure
from controller.core.template import fill
from controller.engine.folders import Folders
from controller.engine.runtime import Runtime, Ticked, champion_for_job, champion_of, notify_people
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
        self._folders = Folders(runtime.state_dir)
        #: Attempts whose launch broke in this process, with the reason, until they are looked up.
        self._broken: dict[str, str] = {}

    def tick(self, now: datetime) -> Ticked:
        """Start what may start, launch what is due, and clear up what an earlier process left LAUNCHING."""
        with self._runtime.store.transaction("dispatch") as tx:
            round_ = _Round(self._runtime, tx)
            waits_until = round_.start_runs()
            intents, next_at = round_.intend()
            next_at = min(filter(None, (next_at, waits_until)), default=None)
            orders = [(job, attempt, round_.prepare(job)) for job, attempt in intents]
            lookups = [(job, attempt, round_.prepare(job)) for job, attempt in round_.unclear()]
        settled = sum(self._launch(job, attempt, prepared, fresh=True) for job, attempt, prepared in orders)
        settled += sum(self._launch(job, attempt, prepared, fresh=False) for job, attempt, prepared in lookups)
        if settled < len(orders) + len(lookups):
            again_at = self._runtime.clock.now() + LOOK_AGAIN
            next_at = again_at if next_at is None else min(next_at, again_at)
        if settled:
            self._runtime.bells.ring("monitor")
        if round_.ended:
            self._runtime.bells.ring("evaluator", "outbox")
        with contextlib.suppress(OSError):  # a full disk, say: the launch that needs a folder tells of it
            self._folders.prepare()
        return Ticked(worked=round_.started + settled, next_at=next_at)

    def _launch(self, job: Job, attempt: Attempt, prepared: _Prepared, *, fresh: bool) -> bool:
        """Launch an attempt, or find it if an earlier call may have launched it; return whether that is settled."""
        try:
            launcher = self._runtime.launcher(attempt.launcher)
            order = self._order(job, attempt, prepared)
        except (GiveUp, PluginError, ExpressionError, ValueError) as error:
            if not fresh:
                return self._unknown(job, prepared.spec, str(error))
            return self._not_started(job, prepared.spec, str(error), final=True)
        except OSError as error:
            self._say_failed(job, error)
            return fresh and self._not_started(job, prepared.spec, str(error), final=False)
        if fresh:
            return self._call(launcher, order, job, attempt, prepared)
        return self._look_up(launcher, order, job, attempt, prepared)

    def _call(self, launcher: Launcher, order: Order, job: Job, attempt: Attempt, prepared: _Prepared) -> bool:
        """Start an attempt that certainly was not started."""
        try:
            handle = launcher.launch(order)
        except GiveUp as error:
            return self._not_started(job, prepared.spec, error.message, final=True)
        except RetryLater as error:
            self._say_failed(job, error)
            return self._not_started(job, prepared.spec, error.message, final=False)
        except Exception as error:  # noqa: BLE001 - it may have been started before this broke, so nobody launches it again unseen
            self._say_failed(job, error)
            if not self._can_search(launcher, attempt):
                return self._unknown(job, prepared.spec, str(error))
            self._broken[attempt.id] = f"the launcher broke: {error!r}"
            return False
        return self._running(job, attempt, handle, "launched")

    def _look_up(self, launcher: Launcher, order: Order, job: Job, attempt: Attempt, prepared: _Prepared) -> bool:
        """Find out whether an attempt was started, and start it only if it certainly was not."""
        if not self._can_search(launcher, attempt):
            reason = "nobody was there for the launcher's answer, and it cannot be searched from here"
            return self._unknown(job, prepared.spec, self._broken.pop(attempt.id, reason))
        try:
            handle = launcher.find(order)
        except Exception as error:  # noqa: BLE001 - a search that fails says nothing; it is repeated
            self._say_failed(job, error)
            return False
        broken = self._broken.pop(attempt.id, None)
        if handle is not None:
            return self._running(job, attempt, handle, "adopted")
        if prepared.run.stop_as is not None:
            return self._cancelled(job, prepared)
        if broken is not None:
            return self._not_started(job, prepared.spec, broken, final=False)
        return self._call(launcher, order, job, attempt, prepared)

    def _can_search(self, launcher: Launcher, attempt: Attempt) -> bool:
        return launcher.searchable and not self._runtime.is_elsewhere(launcher, attempt)

    def _say_failed(self, job: Job, error: Exception) -> None:
        expected = isinstance(error, RetryLater | OSError)
        fields = {"job_id": job.id, "run_id": job.run_id, "error": str(error) if expected else repr(error)}
        self._runtime.log.warning("job.launch_failed", **fields, exc_info=not expected)

    # ------------------------------------------------------------------------------------------- outcomes

    def _running(self, job: Job, attempt: Attempt, handle: Handle, cause: str) -> bool:
        runtime = self._runtime
        with runtime.store.transaction("launched") as tx:
            tx.runs.set_handle(attempt.id, handle)
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

    def _unknown(self, job: Job, spec: ModelSpec, reason: str) -> bool:
        """Ask a person where nobody can know."""
        with self._runtime.store.transaction("launch_unknown") as tx:
            tx.runs.move_job(job, "UNKNOWN", cause="launch_unknown", reason=reason)
            notify_people(
                tx, spec, "unknown", f"{job.model}: nobody knows whether {job.id} was started", run_id=job.run_id
            )
        self._runtime.bells.ring("outbox")
        return True

    def _cancelled(self, job: Job, prepared: _Prepared) -> bool:
        with self._runtime.store.transaction("cancel_launch") as tx:
            tx.runs.move_job(job, "CANCELLED", cause="cancelled", reason=prepared.run.reason)
            close_training(tx, job.run_id, prepared.spec)
        self._runtime.bells.ring("evaluator", self.name)
        return True

    def _not_started(self, job: Job, spec: ModelSpec, reason: str, *, final: bool) -> bool:
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
        self._runtime.bells.ring("gatekeeper", "evaluator", "outbox", self.name)
        return True

    def _order(self, job: Job, attempt: Attempt, prepared: _Prepared) -> Order:
        """Write the attempt's files and return what the launcher is asked for; the same for the same attempt."""
        runtime, run, training = self._runtime, prepared.run, prepared.spec.training
        folder = runtime.state_dir / attempt.folder
        artifacts = folder / "artifact"
        self._folders.take(folder)
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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What an order is made of, read in one transaction; nothing is written to the disk inside it."""

    run: Run
    spec: ModelSpec
    events: Sequence[Event]
    champion: Champion | None
    scope: Scope


class _Round:
    """One transaction of dispatching: the open runs and jobs, and what was looked up for them."""

    def __init__(self, runtime: Runtime, tx: Transaction) -> None:
        self._runtime = runtime
        self._tx = tx
        self._runs = {run.id: run for run in tx.runs.in_state("QUEUED", *_HOLDING)}
        self._jobs = tx.runs.open_jobs("PENDING", "RETRYABLE", "LAUNCHING")
        self._events: dict[str, list[Event]] = {}
        self.started = 0
        #: How many runs ended here, because they could not be started.
        self.ended = 0

    def start_runs(self) -> datetime | None:
        """Give queued runs their model's slot, the most pressing first; return when the next one may start that waits for its time."""
        busy = {run.model for run in self._runs.values() if run.state in _HOLDING}
        next_at: datetime | None = None
        for run in sorted((run for run in self._runs.values() if run.state == "QUEUED"), key=_by_priority):
            if run.not_before is not None and run.not_before > self._tx.now:
                next_at = min(next_at or run.not_before, run.not_before)
                continue
            try:
                spec = self._runtime.spec_of(self._tx, run)
                if run.model in busy and spec.training.concurrency != "allow":
                    continue
                self._start(run, spec)
                busy.add(run.model)
            except (GiveUp, ExpressionError) as error:
                self._refuse(run, error.message)
        return next_at

    def _start(self, run: Run, spec: ModelSpec) -> None:
        """Pin the champion, freeze the causes, fill in the parameters, make the jobs."""
        tx = self._tx
        model = tx.models.ensure(run.model)
        scope = self._scope(run, spec)
        fill(spec.training.options, scope)  # what is missing shows now, before anything starts
        candidates = [
            (candidate.name, {**fill(dict(candidate.params), scope), **run.params})
            for candidate in spec.training.candidates
        ]
        pinned: dict[str, Any] = {"started_at": tx.now, "champion_id": model.champion_id, "epoch": model.epoch}
        tx.runs.move(run, "TRAINING", cause="dispatched", **pinned)
        self._runs[run.id] = replace(run, state="TRAINING", cause="dispatched", **pinned)
        self._jobs += [tx.runs.add_job(run, name, params) for name, params in candidates]
        self.started += 1

    def _refuse(self, run: Run, reason: str) -> None:
        self._tx.runs.move(run, "FAILED", cause="invalid_parameters", reason=reason)
        self.ended += 1
        spec = self._runtime.config.models.get(run.model)
        if spec is not None:
            notify_people(self._tx, spec, "failed", f"{run.model}: {reason}", run_id=run.id)

    def intend(self) -> tuple[list[tuple[Job, Attempt]], datetime | None]:
        """Mark the due jobs that a launcher has room for as LAUNCHING, with a new attempt each; say when more are due."""
        intents: list[tuple[Job, Attempt]] = []
        next_at: datetime | None = None
        used: Counter[str] | None = None
        for job in sorted(self._jobs, key=self._job_order):
            run = self._runs.get(job.run_id)
            if job.state == "LAUNCHING" or run is None or run.stop_as is not None:
                continue
            if job.due_at is not None and job.due_at > self._tx.now:
                next_at = min(next_at or job.due_at, job.due_at)
                continue
            launcher = self._runtime.spec_of(self._tx, run).training.launcher
            if used is None:
                used = Counter(self._tx.runs.on_launchers())
            if self._has_room(launcher, used):
                used[launcher] += 1
                intents.append(self._mark_launching(job, launcher))
        return intents, next_at

    def _job_order(self, job: Job) -> tuple[int, str]:
        """Of the jobs that wait for the same launcher, those of the most pressing runs go first, then the oldest."""
        run = self._runs.get(job.run_id)
        return (0 if run is None else -run.priority), job.id

    def _has_room(self, launcher: str, used: Counter[str]) -> bool:
        try:
            slots = self._runtime.launcher(launcher).slots()
        except PluginError:  # the launch will say so, and end this job alone
            return True
        return slots is None or used[launcher] < slots

    def _mark_launching(self, job: Job, launcher: str) -> tuple[Job, Attempt]:
        tx, number = self._tx, job.attempt + 1
        nonce = f"{self._runtime.random.getrandbits(64):016x}"
        attempt = Attempt(
            id=tx.runs.new_attempt_id(),
            job_id=job.id,
            number=number,
            nonce=nonce,
            launcher=launcher,
            owner=self._runtime.owner,
            handle=None,
            folder=f"runs/{job.run_id}-{job.candidate}-{number}-{nonce[:8]}",
            launched_at=tx.now,
            started_at=None,
            finished_at=None,
            exit_code=None,
            reason="",
        )
        tx.runs.add_attempt(attempt)
        tx.runs.move_job(job, "LAUNCHING", cause="launching", attempt=number, due_at=None)
        return replace(job, state="LAUNCHING", cause="launching", attempt=number, due_at=None), attempt

    def unclear(self) -> list[tuple[Job, Attempt]]:
        """Return the jobs that were LAUNCHING before this round: nobody knows yet whether they started."""
        found = []
        for job in self._jobs:
            attempt = self._tx.runs.attempt(job) if job.state == "LAUNCHING" else None
            if attempt is not None:
                found.append((job, attempt))
        return found

    def prepare(self, job: Job) -> _Prepared:
        """Collect what a job's order needs."""
        tx = self._tx
        run = self._runs.get(job.run_id) or tx.runs.get(job.run_id)
        if run is None:
            raise GiveUp(f"run {job.run_id} of job {job.id} is gone")
        spec = self._runtime.spec_of(tx, run)
        version = tx.models.version(run.champion_id)
        champion = None if version is None else champion_of(version)
        return _Prepared(run, spec, self._events_of(run), champion, self._scope(run, spec))

    def _scope(self, run: Run, spec: ModelSpec) -> Scope:
        events = self._events_of(run)
        # A press says that somebody asked, not what there is: its data stands in only when there is nothing else.
        newest = next((event for event in reversed(events) if event.origin != PERSON_ORIGIN), None)
        newest = newest or (events[-1] if events else None)
        return Scope(
            {
                "event": None if newest is None else event_values(newest),
                "events": [event_values(event) for event in events],
                "model": {"name": spec.name, "labels": dict(spec.labels)},
                "run": {"id": run.id, "policy": run.policy, "key": run.key},
                "params": dict(run.params),
            }
        )

    def _events_of(self, run: Run) -> list[Event]:
        if run.id not in self._events:
            self._events[run.id] = self._tx.events.of_run(run.id)
        return self._events[run.id]


def _by_priority(run: Run) -> tuple[int, str]:
    return -run.priority, run.id


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
