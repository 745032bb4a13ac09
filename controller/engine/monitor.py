"""Watches the jobs that launchers have: notices how they end, stops those that should end, reads their results.

A launcher's hint (`watch`) makes it quick; a look at every job at start and then from time to time makes it sure.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from controller.core.model import Attempt, Job, Run
from controller.core.result import MAX_RESULT_BYTES, Result, parse_result
from controller.core.supervise import Seen, Supervision, supervise
from controller.engine.runtime import Runtime, Ticked
from controller.engine.training import cancel_waiting, close_training
from controller.errors import InvalidInput, RetryLater, StoreError
from controller.ports import Launcher, Observation
from controller.store import Transaction

#: Every job is looked at this often, whatever its launcher hints.
SWEEP = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was seen of one job, before it is written."""

    job: Job
    attempt: Attempt
    run: Run
    observation: Observation
    supervision: Supervision
    result: Result | None
    digest: str


class Monitor:
    """The loop that watches jobs."""

    name = "monitor"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        #: When each attempt is looked at next; an attempt that is missing was never looked at by this process.
        self._look_at: dict[str, datetime] = {}

    def tick(self, now: datetime) -> Ticked:
        """Look at the jobs that may have changed, and write what became of them."""
        with self._runtime.store.reading() as tx:
            watched = tx.runs.watched()
            stopping = [run for run in tx.runs.in_state("TRAINING") if run.stop_as is not None]
        worked = self._cancel_waiting(stopping) if stopping else 0
        changed = self._take_changed()
        known = {attempt.id for _, attempt, _ in watched}
        for gone in set(self._look_at) - known:
            del self._look_at[gone]
        for job, attempt, run in watched:
            if attempt.handle is None:
                continue
            try:
                self._watch(attempt)
                if self._wants_a_look(job, attempt, run, changed, now):
                    worked += self._look(job, attempt, run)
            except StoreError:
                with self._lock:  # what was hinted at is looked at by the next tick, not by the next sweep
                    self._changed |= changed
                self._look_at.pop(attempt.id, None)
                raise
            except Exception as error:  # one job that cannot be looked at must not hide the others
                self._look_at[attempt.id] = now + SWEEP
                self._runtime.log.error("job.look_failed", job_id=job.id, error=repr(error), exc_info=True)
        next_at = min(self._look_at.values(), default=None)
        return Ticked(worked=worked, next_at=next_at)

    def _wants_a_look(self, job: Job, attempt: Attempt, run: Run, changed: set[str], now: datetime) -> bool:
        if attempt.id in changed or self._look_at.get(attempt.id, now) <= now:
            return True
        return run.stop_as is not None and job.state == "RUNNING"

    def _watch(self, attempt: Attempt) -> None:
        """Ask the launcher for a hint when this attempt ends; the first time this process sees it."""
        if attempt.id in self._look_at or attempt.handle is None:
            return
        attempt_id = attempt.id

        def changed() -> None:
            with self._lock:
                self._changed.add(attempt_id)
            self._runtime.bells.ring(self.name)

        launcher = self._runtime.launcher(attempt.launcher)
        if self._runtime.is_elsewhere(launcher, attempt):
            return
        try:
            launcher.watch(attempt.handle, changed)
        except Exception as error:  # noqa: BLE001 - without the hint, the sweep sees the end
            self._runtime.log.warning("job.not_watched", attempt_id=attempt.id, error=repr(error))

    def _take_changed(self) -> set[str]:
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def _cancel_waiting(self, runs: list[Run]) -> int:
        """Cancel the jobs of stopped runs that no launcher has yet."""
        done = 0
        with self._runtime.store.transaction("cancel") as tx:
            for run in runs:
                fresh = tx.runs.get(run.id)
                if fresh is None or fresh.state != "TRAINING":
                    continue
                cancel_waiting(tx, fresh, actor="controller")
                done += close_training(tx, run.id, self._runtime.spec_of(tx, fresh)) is not None
        if done:
            self._runtime.bells.ring("dispatcher", "evaluator")
        return done

    def _look(self, job: Job, attempt: Attempt, run: Run) -> int:
        """Look at one job, write what follows, and do what is to be done; return 1 when its state changed."""
        runtime = self._runtime
        launcher = runtime.launcher(attempt.launcher)
        outcome = self._observe(launcher, job, attempt, run)
        supervision = outcome.supervision
        now = runtime.clock.now()
        is_first = attempt.id not in self._look_at
        self._look_at[attempt.id] = min(supervision.look_at or now + SWEEP, now + SWEEP)
        if supervision.target is not None:
            with runtime.store.transaction("observe") as tx:
                self._write(tx, outcome)
            self._tell(outcome)
        if supervision.stop is not None and attempt.handle is not None:
            self._stop(launcher, attempt, force=supervision.stop == "kill")
        elif job.state == "STOPPING" and is_first and supervision.target is None:
            # An earlier process may have died between writing that it stops the job and asking it to end.
            self._stop(launcher, attempt, force=False)
        return int(supervision.target is not None)

    def _observe(self, launcher: Launcher, job: Job, attempt: Attempt, run: Run) -> _Outcome:
        observation, result, digest, error = self._seen(launcher, job, attempt)
        seen = Seen(state=observation.state, reason=observation.reason, result_error=error)
        with self._runtime.store.reading() as tx:
            training = self._runtime.spec_of(tx, run).training
        supervision = supervise(
            job,
            attempt,
            seen,
            training,
            stop_wanted=run.stop_as is not None,
            now=self._runtime.clock.now(),
        )
        return _Outcome(job, attempt, run, observation, supervision, result, digest)

    def _seen(
        self, launcher: Launcher, job: Job, attempt: Attempt
    ) -> tuple[Observation, Result | None, str, str | None]:
        if self._runtime.is_elsewhere(launcher, attempt):
            reason = f"it runs on another host or in another state directory (owner {attempt.owner})"
            return Observation(state="lost" if job.state == "RUNNING" else "unreachable", reason=reason), None, "", None
        try:
            observation = launcher.observe(attempt.handle or {})
        except (RetryLater, OSError) as error:
            return Observation(state="unreachable", reason=str(error)), None, "", None
        except Exception as error:  # a plugin's bug is a failed look, never a failed job
            self._runtime.log.error("job.look_failed", job_id=job.id, error=repr(error), exc_info=True)
            return Observation(state="unreachable", reason=f"the launcher broke: {error!r}"), None, "", None
        if observation.state != "succeeded":
            return observation, None, "", None
        try:
            document = read_result(self._runtime.state_dir / attempt.folder / "result.json")
            result = parse_result(document)
        except InvalidInput as error:
            return observation, None, "", error.message
        except OSError as error:
            return observation, None, "", f"the result cannot be read: {error.strerror}"
        digest = hashlib.sha256(document or b"").hexdigest()
        return observation, result, digest, None

    def _write(self, tx: Transaction, outcome: _Outcome) -> None:
        job, supervision, observation = outcome.job, outcome.supervision, outcome.observation
        target = supervision.target or job.state
        tx.runs.move_job(
            job,
            target,
            cause=supervision.cause,
            reason=supervision.reason,
            due_at=supervision.due_at,
        )
        if observation.state in ("succeeded", "failed", "lost") and target not in (
            "LOST",
            "RUNNING",
        ):
            tx.runs.set_attempt(
                outcome.attempt.id,
                started_at=observation.started_at,
                finished_at=observation.finished_at or tx.now,
                exit_code=observation.exit_code,
                reason=supervision.reason or observation.reason,
            )
        if target == "SUCCEEDED" and outcome.result is not None:
            tx.runs.add_result(job.id, outcome.result, outcome.digest)
        close_training(tx, job.run_id, self._runtime.spec_of(tx, outcome.run))

    def _tell(self, outcome: _Outcome) -> None:
        job, supervision = outcome.job, outcome.supervision
        self._runtime.metrics.jobs.labels(outcome.attempt.launcher, (supervision.target or "").lower()).inc()
        self._runtime.log.info(
            "job.state",
            run_id=job.run_id,
            job_id=job.id,
            candidate=job.candidate,
            origin=job.state,
            target=supervision.target,
            cause=supervision.cause,
            reason=supervision.reason,
        )
        if supervision.target not in ("RUNNING", "STOPPING", "LOST"):
            self._look_at.pop(outcome.attempt.id, None)
            if outcome.attempt.handle is not None:
                self._runtime.launcher(outcome.attempt.launcher).forget(outcome.attempt.handle)
        self._runtime.bells.ring("gatekeeper", "dispatcher", "evaluator", "outbox")

    def _stop(self, launcher: Launcher, attempt: Attempt, *, force: bool) -> None:
        if self._runtime.is_elsewhere(launcher, attempt):
            return
        try:
            launcher.stop(attempt.handle or {}, force=force)
        except Exception as error:  # noqa: BLE001 - it is asked again when its grace is over
            self._runtime.log.warning("job.stop_failed", attempt_id=attempt.id, force=force, error=repr(error))


def read_result(path: Path) -> bytes | None:
    """Return a result document, at most a little more than its limit; None when there is none.

    A link is not followed, and what is not a regular file is not opened for long: a job may leave anything there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_RESULT_BYTES + 1)
