"""Watches the jobs that launchers have: notices how they end, stops those that should end, reads their results.

A launcher's hint (`watch`) makes it quick; a look at every job at start and then from time to time makes it sure.

Who watches what: a local job only the daemon of the state directory that it runs in, whether that leads or not; what it writes of such a
job is fenced by the job's state and attempt, not by the term. Every other job whoever leads, fenced by the term; and whoever leads says
what becomes of a local job whose daemon is gone: LOST, and after its grace UNKNOWN, until that daemon is back or a person knows.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from controller.core.due import is_due
from controller.core.model import Attempt, Job, Run
from controller.core.result import MAX_RESULT_BYTES, Result, parse_result
from controller.core.supervise import Seen, Supervision, supervise
from controller.engine.finder import Finder, Sought
from controller.engine.owners import gone_for
from controller.engine.runtime import Runtime, Ticked
from controller.engine.training import cancel_waiting, close_training, nobody_knows
from controller.errors import InvalidInput, RetryLater, StoreError
from controller.ports import Handle, Launcher, Observation
from controller.store import Transaction

#: Every job is looked at this often, whatever its launcher hints.
SWEEP = timedelta(seconds=15)


#: A request to end that its launcher did not take is made again after this long.
ASK_AGAIN = timedelta(seconds=5)
#: Where a job lives: in our own state directory, in that of another daemon, or with a launcher that every daemon can ask.
Place = Literal["own", "elsewhere", "far"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was seen of one job, before it is written."""

    job: Job
    attempt: Attempt
    run: Run
    place: Place
    observation: Observation
    supervision: Supervision
    result: Result | None
    digest: str


class Monitor:
    """The loop that watches jobs. It is made anew when its process begins or ceases to lead."""

    name = "monitor"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._finder = Finder(runtime)
        #: Not asked again: what began under one term must not go on under another.
        self._leads = runtime.lease.leads
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        #: When each attempt is looked at next; an attempt that is missing was never looked at by this process.
        self._look_at: dict[str, datetime] = {}
        #: Attempts whose end their launcher is to hint at, with how to let go of that.
        self._watching: dict[str, tuple[Launcher, Handle]] = {}
        #: Attempts that are to end, whose launcher did not take the request.
        self._unasked: set[str] = set()
        #: When attempts began that were launched in the future, by a clock that was set back since: when we noticed.
        self._began: dict[str, datetime] = {}

    def tick(self, now: datetime) -> Ticked:
        """Look at the jobs that may have changed, and write what became of them."""
        with self._runtime.store.reading() as tx:
            watched = tx.runs.watched()
            stopping = [run for run in tx.runs.in_state("TRAINING") if run.stop_as is not None] if self._leads else []
        worked = self._cancel_waiting(stopping) if stopping else 0
        changed = self._take_changed()
        worked += self._let_go({attempt.id for _, attempt, _ in watched})
        gone: dict[str, timedelta | None] = {}
        for job, attempt, run in watched:
            try:
                worked += self._attend(job, attempt, run, changed, gone, now)
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

    def _let_go(self, watched: set[str]) -> int:
        """Forget what is not watched any more; return how many jobs ended without our being told, as when a commit's answer was lost."""
        for attempt_id in self._look_at.keys() - watched:
            del self._look_at[attempt_id]
        self._unasked &= watched
        self._began = {attempt_id: at for attempt_id, at in self._began.items() if attempt_id in watched}
        ended = self._watching.keys() - watched
        for attempt_id in ended:
            launcher, handle = self._watching.pop(attempt_id)
            launcher.forget(handle)
        if ended:
            self._runtime.bells.ring(*_WHO_GOES_ON)
        return len(ended)

    def _attend(
        self,
        job: Job,
        attempt: Attempt,
        run: Run,
        changed: set[str],
        gone: dict[str, timedelta | None],
        now: datetime,
    ) -> int:
        """Look at one job if it is ours to look at, and if it is time; return 1 when its state changed."""
        launcher = self._runtime.launcher(attempt.launcher)
        place = self._place(launcher, attempt)
        if place != "own" and not self._leads:
            self._look_at.pop(
                attempt.id, None
            )  # it was ours and was released, or another leads: it is no reason to come back
            return 0
        if attempt.handle is None:
            return self._seek(launcher, job, attempt, run, place, now)
        if place == "elsewhere":
            if job.state == "UNKNOWN":  # its daemon says when it is back, or a person does
                self._look_at.pop(attempt.id, None)
                return 0
            if not self._is_time(attempt, now):
                return 0
            if not self._is_gone(attempt.owner, gone):
                self._look_at[attempt.id] = now + SWEEP
                return 0
            return self._look(launcher, job, attempt, run, place)
        self._watch(launcher, attempt, attempt.handle)
        if self._wants_a_look(job, attempt, run, changed, now):
            return self._look(launcher, job, attempt, run, place)
        return 0

    def _place(self, launcher: Launcher, attempt: Attempt) -> Place:
        if not launcher.local:
            return "far"
        return "own" if attempt.owner == self._runtime.owner else "elsewhere"

    def _is_gone(self, owner: str, gone: dict[str, timedelta | None]) -> bool:
        """Say whether no daemon is there that has this state directory; `gone` is what this tick knows of that already."""
        if owner not in gone:
            with self._runtime.store.reading() as tx:
                gone[owner] = gone_for(tx, owner)
        return gone[owner] is not None

    def _seek(self, launcher: Launcher, job: Job, attempt: Attempt, run: Run, place: Place, now: datetime) -> int:
        """Look for a job without a handle, where nobody else does: the dispatcher clears up what is LAUNCHING and can be found by it."""
        if place == "elsewhere" or (job.state == "LAUNCHING" and self._leads) or not self._is_time(attempt, now):
            return 0
        self._look_at[attempt.id] = now + SWEEP
        return int(self._finder.look(launcher, Sought(job, attempt, run, is_own=place == "own")))

    def _is_time(self, attempt: Attempt, now: datetime) -> bool:
        look_at = self._look_at.get(attempt.id)
        return look_at is None or is_due(look_at, now, longest=SWEEP)

    def _wants_a_look(self, job: Job, attempt: Attempt, run: Run, changed: set[str], now: datetime) -> bool:
        if attempt.id in changed or self._is_time(attempt, now):
            return True
        return run.stop_as is not None and job.state == "RUNNING"

    def _watch(self, launcher: Launcher, attempt: Attempt, handle: Handle) -> None:
        """Ask the launcher for a hint when this attempt ends; the first time this process sees it."""
        if attempt.id in self._watching:
            return
        attempt_id = attempt.id

        def changed() -> None:
            with self._lock:
                self._changed.add(attempt_id)
            self._runtime.bells.ring(self.name)

        self._watching[attempt_id] = launcher, handle
        try:
            launcher.watch(handle, changed)
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

    def _look(self, launcher: Launcher, job: Job, attempt: Attempt, run: Run, place: Place) -> int:
        """Look at one job, write what follows, and do what is to be done; return 1 when its state changed."""
        runtime = self._runtime
        outcome = self._observe(launcher, job, attempt, run, place)
        supervision = outcome.supervision
        now = runtime.clock.now()
        is_first = attempt.id not in self._look_at
        self._look_at[attempt.id] = min(supervision.look_at or now + SWEEP, now + SWEEP)
        if supervision.target is not None:
            with runtime.store.transaction("observe", fenced=place != "own") as tx:
                is_written = self._write(tx, outcome)
            if not is_written:
                return 0
            self._tell(outcome)
        if supervision.stop is not None:
            self._stop(launcher, attempt, place, force=supervision.stop == "kill")
        elif job.state == "STOPPING" and supervision.target is None and (is_first or attempt.id in self._unasked):
            # An earlier process may have died between writing that it stops the job and asking it to end.
            self._stop(launcher, attempt, place, force=False)
        return int(supervision.target is not None)

    def _observe(self, launcher: Launcher, job: Job, attempt: Attempt, run: Run, place: Place) -> _Outcome:
        observation, result, digest, error = self._seen(launcher, job, attempt, place)
        seen = Seen(state=observation.state, reason=observation.reason, result_error=error)
        with self._runtime.store.reading() as tx:
            training = self._runtime.spec_of(tx, run).training
        now = self._runtime.clock.now()
        if attempt.launched_at > now:
            attempt = replace(attempt, launched_at=self._began.setdefault(attempt.id, now))
        supervision = supervise(job, attempt, seen, training, stop_wanted=run.stop_as is not None, now=now)
        return _Outcome(job, attempt, run, place, observation, supervision, result, digest)

    def _seen(
        self, launcher: Launcher, job: Job, attempt: Attempt, place: Place
    ) -> tuple[Observation, Result | None, str, str | None]:
        if place == "elsewhere":
            reason = (
                f"it runs on another host or in another state directory (owner {attempt.owner}), whose daemon is gone"
            )
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
            document = read_result(self._runtime.folder_of(attempt) / "result.json")
            result = parse_result(document)
        except InvalidInput as error:
            return observation, None, "", error.message
        except OSError as error:
            return observation, None, "", f"the result cannot be read: {error.strerror}"
        digest = hashlib.sha256(document or b"").hexdigest()
        return observation, result, digest, None

    def _write(self, tx: Transaction, outcome: _Outcome) -> bool:
        """Write what was seen of a job, if it is still where it was; return whether it is."""
        supervision, observation = outcome.supervision, outcome.observation
        job = tx.runs.lock_job(outcome.job.id)
        if job is None or (job.state, job.attempt) != (outcome.job.state, outcome.job.attempt):
            return False
        target = supervision.target or job.state
        spec = self._runtime.spec_of(tx, outcome.run)
        if target == "UNKNOWN":
            nobody_knows(tx, spec, job, cause=supervision.cause, reason=supervision.reason)
        else:
            tx.runs.move_job(job, target, cause=supervision.cause, reason=supervision.reason, due_at=supervision.due_at)
        if observation.state in ("succeeded", "failed", "lost") and target not in ("LOST", "RUNNING"):
            tx.runs.set_attempt(
                outcome.attempt.id,
                started_at=observation.started_at,
                finished_at=observation.finished_at or tx.now,
                exit_code=observation.exit_code,
                reason=supervision.reason or observation.reason,
            )
        if target == "SUCCEEDED" and outcome.result is not None:
            tx.runs.add_result(job.id, outcome.result, outcome.digest)
        close_training(tx, job.run_id, spec)
        return True

    def _tell(self, outcome: _Outcome) -> None:
        job, supervision, attempt_id = outcome.job, outcome.supervision, outcome.attempt.id
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
        if supervision.target not in ("RUNNING", "STOPPING", "LOST", "UNKNOWN"):
            self._look_at.pop(attempt_id, None)
            if attempt_id in self._watching:
                launcher, handle = self._watching.pop(attempt_id)
                launcher.forget(handle)
        self._runtime.bells.ring(*_WHO_GOES_ON)

    def _stop(self, launcher: Launcher, attempt: Attempt, place: Place, *, force: bool) -> None:
        if place == "elsewhere":
            return
        if place == "far":
            self._runtime.lease.check()
        self._unasked.discard(attempt.id)
        try:
            launcher.stop(attempt.handle or {}, force=force)
        except Exception as error:  # noqa: BLE001 - it is asked again
            self._runtime.log.warning("job.stop_failed", attempt_id=attempt.id, force=force, error=repr(error))
            self._unasked.add(attempt.id)
            again_at = self._runtime.clock.now() + ASK_AGAIN
            self._look_at[attempt.id] = min(self._look_at.get(attempt.id, again_at), again_at)


#: The loops that go on when a job's state has changed.
_WHO_GOES_ON = ("gatekeeper", "dispatcher", "evaluator", "outbox")


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
