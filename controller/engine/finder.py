"""Finds jobs of which nobody knows whether they were started, for the monitor.

Two kinds come here: a job that is UNKNOWN and that its launcher may know after all (its answer is late), and, on a replica that does not
lead, a local job that is LAUNCHING in its own state directory, because nobody else can find it there.
A job that is found is RUNNING. One that is surely not there is given back to whoever leads, if it was LAUNCHING; if it was UNKNOWN only
the host that it was meant for may say so, and then it counts as an attempt that failed. Nothing is launched here.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model import Attempt, Job, Run
from controller.core.supervise import after_failure
from controller.engine.orders import order_of, read
from controller.engine.owners import RELEASED
from controller.engine.runtime import Runtime
from controller.engine.training import close_training
from controller.errors import ControllerError, ExpressionError, GiveUp, PluginError
from controller.ports import Handle, Launcher
from controller.store import Transaction


@dataclass(frozen=True, slots=True)
class Sought:
    """A job without a handle."""

    job: Job
    attempt: Attempt
    run: Run
    #: Whether it is a local job of our own state directory: then what is not there was never started.
    is_own: bool


class Finder:
    """Looks for jobs, and writes what it found."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def look(self, launcher: Launcher, sought: Sought) -> bool:
        """Look for a job; return whether its state, or whose it is, changed."""
        if not launcher.searchable or sought.attempt.id in self._runtime.launching:
            return False
        try:
            with self._runtime.store.reading() as tx:
                brief = read(self._runtime, tx, sought.run, tx.events.of_run(sought.run.id))
            order = order_of(self._runtime, sought.job, sought.attempt, brief)
            handle = launcher.find(order)
        except (GiveUp, PluginError, ExpressionError, ValueError) as error:
            return self._not_found(sought, str(error))
        except Exception as error:  # noqa: BLE001 - a search that fails says nothing; it is repeated
            return self._not_found(sought, error.message if isinstance(error, ControllerError) else repr(error))
        if handle is None and not sought.is_own:
            return False
        if handle is None and sought.attempt.id in self._runtime.launching:  # its call began while we looked
            return False
        return self._write(sought, handle)

    def _not_found(self, sought: Sought, reason: str) -> bool:
        self._runtime.log.warning("job.look_failed", job_id=sought.job.id, run_id=sought.job.run_id, error=reason)
        return False

    def _write(self, sought: Sought, handle: Handle | None) -> bool:
        """Write what is known, if the job is still where it was: it is fenced by its state, its attempt and its owner."""
        job, attempt = sought.job, sought.attempt
        with self._runtime.store.transaction("found", fenced=not sought.is_own) as tx:
            fresh = tx.runs.lock_job(job.id)
            if fresh is None or (fresh.state, fresh.attempt) != (job.state, job.attempt):
                return False
            if handle is not None:
                tx.runs.set_handle(attempt.id, handle)
                cause = "late_answer" if job.state == "UNKNOWN" else "adopted"
                tx.runs.move_job(fresh, "RUNNING", cause=cause, reason="it was started after all")
            elif job.state == "LAUNCHING":
                tx.runs.set_attempt(attempt.id, owner=RELEASED)
            else:
                self._never_began(tx, fresh, sought.run)
        self._runtime.log.info(
            "job.found" if handle is not None else "job.not_started", run_id=job.run_id, job_id=job.id, origin=job.state
        )
        self._runtime.bells.ring("monitor", "dispatcher", "gatekeeper", "outbox")
        return True

    def _never_began(self, tx: Transaction, job: Job, run: Run) -> None:
        spec = self._runtime.spec_of(tx, run)
        reason = "its host is back, and it was never started there"
        step = after_failure(job, spec.training, cause="late_answer", reason=reason, now=tx.now)
        if run.stop_as is not None:
            tx.runs.move_job(job, "FAILED", cause="late_answer", reason=reason)
        else:
            target = step.target or "FAILED"
            tx.runs.move_job(job, target, cause="late_answer", reason=step.reason, due_at=step.due_at)
        close_training(tx, job.run_id, spec)
