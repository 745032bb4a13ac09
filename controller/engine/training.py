"""When the jobs of a run have ended: what becomes of the run. Used by every loop that ends jobs."""

from __future__ import annotations

from controller.core import states
from controller.core.model import Job, Run
from controller.core.policy import ModelSpec
from controller.engine.runtime import notify_people
from controller.store import Transaction


def close_training(tx: Transaction, run_id: str, spec: ModelSpec) -> str | None:
    """End a run's TRAINING if all its jobs have ended, and return its new state; None while it goes on."""
    run = tx.runs.lock(run_id)  # two jobs that end at once must not each take the other for open
    if run is None or run.state != "TRAINING":
        return None
    jobs = tx.runs.jobs(run_id)
    if any(job.state not in states.JOB.final for job in jobs):
        return None
    target, cause, reason = _end_of(run, jobs)
    tx.runs.move(run, target, cause=cause, reason=reason)
    if target in ("FAILED", "TIMED_OUT"):
        kind = "timed_out" if target == "TIMED_OUT" else "failed"
        notify_people(tx, spec, kind, f"{run.model}: retraining failed: {reason}", run_id=run_id)
    return target


def nobody_knows(tx: Transaction, spec: ModelSpec, job: Job, *, cause: str, reason: str) -> None:
    """Make a job UNKNOWN, and ask people: it may run, so nothing is started in its place."""
    tx.runs.move_job(job, "UNKNOWN", cause=cause, reason=reason)
    what = "was started" if job.state == "LAUNCHING" else "still runs"
    title = f"{job.model}: nobody knows whether {job.id} {what}: {reason}"
    notify_people(tx, spec, "unknown", title, run_id=job.run_id, job=job.id, candidate=job.candidate)


def cancel_waiting(tx: Transaction, run: Run, *, actor: str) -> None:
    """Cancel the jobs of a run that no launcher has."""
    for job in tx.runs.jobs(run.id):
        if job.state in ("PENDING", "RETRYABLE"):
            tx.runs.move_job(job, "CANCELLED", cause="cancelled", reason=run.reason, actor=actor)


def _end_of(run: Run, jobs: list[Job]) -> tuple[str, str, str]:
    if run.stop_as is not None:
        return run.stop_as, "cancelled" if run.stop_as == "CANCELLED" else "replaced", run.reason
    if any(job.state == "SUCCEEDED" for job in jobs):
        return "JUDGING", "trained", ""
    reasons = "; ".join(f"{job.candidate}: {job.reason or job.state.lower()}" for job in jobs)
    if all(job.state == "TIMED_OUT" for job in jobs):
        return "TIMED_OUT", "timed_out", reasons
    return "FAILED", "training_failed", reasons
