"""Starts runs and launches jobs.

A queued run gets its model's slot, its champion and its jobs in one transaction; the jobs that a launcher has room for are marked
LAUNCHING in the same one, which is the intent that comes before every call. What is found LAUNCHING by a later tick may have been
started: it is looked up, and if it is not there it is launched again under the same name, which a launcher starts once.

What a launcher said is kept until it is written, so that a store that is away for a moment makes nothing unclear; and an intent whose
launcher was never called is known to be nowhere. Both are forgotten with the term.
An attempt whose call broke is never given up for another one while it might still come: see `SETTLE` and `PATIENCE`.
A job of another host is that host's to find (`finder.py`); when it does not come back, nobody knows, and a person is asked.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from controller.core.due import is_due
from controller.core.model import Attempt, Event, Job, Run
from controller.core.policy import ModelSpec
from controller.core.supervise import Supervision, after_failure
from controller.core.template import fill
from controller.engine.folders import Folders
from controller.engine.orders import Brief, lay_out, order_of, read, scope_of
from controller.engine.owners import NEVER_SEEN, RELEASED, gone_for
from controller.engine.rooms import Rooms
from controller.engine.runtime import Runtime, Ticked, notify_people
from controller.engine.training import close_training, nobody_knows
from controller.errors import Conflict, ExpressionError, GiveUp, PluginError, RetryLater
from controller.ports import Handle, Launcher, Order
from controller.store import Transaction
from controller.store.store import StaleTerm

#: Wait before a launch whose outcome is unclear is looked up again; it doubles with each call that broke, up to the longest.
LOOK_AGAIN, LOOK_AGAIN_LONGEST = timedelta(seconds=2), timedelta(seconds=30)
#: A look-up that says "not there" is believed this long after the last call that may be on its way, unless the launcher says otherwise
#: (`settle`): only then is the attempt launched again. No launcher says otherwise about giving an attempt up.
SETTLE = timedelta(seconds=30)
#: What is still unclear after this long is given up: a person is asked, or it has failed where it is surely not there.
PATIENCE = timedelta(minutes=15)
#: A run's slot is held by these states of other runs.
_HOLDING = ("TRAINING", "JUDGING", "PROMOTING")


@dataclass(frozen=True, slots=True)
class _Task:
    """An attempt that is LAUNCHING, and what is known of it before anybody is asked."""

    job: Job
    attempt: Attempt
    brief: Brief
    #: Whether it is a job of another host.
    is_elsewhere: bool = False
    #: For how long that host was not seen; None: it is there.
    gone_for: timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What is known of an attempt and not yet written."""

    #: RUNNING, UNKNOWN, CANCELLED; FAILED: it was not started and another attempt cannot help; RETRYABLE: it was not started.
    target: str
    cause: str
    reason: str = ""
    handle: Handle | None = None
    #: When its launcher was called, if the answer to that call is known: its time counts from here, else from the intent.
    called_at: datetime | None = None
    #: Whether its launcher can be searched, so that somebody else would find it.
    searchable: bool = True


@dataclass(slots=True)
class _Unclear:
    """An attempt that may have been started."""

    #: Monotonic seconds since which that is so.
    first: float
    #: Monotonic seconds of the last moment at which a call may have been sent.
    last: float
    #: Calls of ours that broke.
    broken: int = 0
    reason: str = "nobody was there for the launcher's answer"


class Dispatcher:
    """The loop that starts runs and launches jobs. It lives as long as a term."""

    name = "dispatcher"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._folders = Folders(runtime.spare_folders)
        #: Attempts that we wrote as intents, and whose launcher was not called: they certainly were not started.
        self._uncalled: set[str] = set()
        self._said: dict[str, _Said] = {}
        self._unclear: dict[str, _Unclear] = {}
        self._rooms = Rooms(runtime, self.name)

    def tick(self, now: datetime) -> Ticked:
        """Start what may start, launch what is due, and clear up what an earlier tick or process left LAUNCHING."""
        self._rooms.ask()
        with self._runtime.store.transaction("dispatch") as tx:
            round_ = _Round(self._runtime, tx, self._rooms.jobs)
            waits_until = round_.start_runs()
            intents, next_at = round_.intend()
            next_at = min(filter(None, (next_at, waits_until)), default=None)
            unclear, released = round_.unclear()
            self._keep({task.attempt.id for task in unclear})
            # Before the commit: if its answer is lost, they are known to be nowhere all the same.
            self._uncalled |= {task.attempt.id for task in (*intents, *released)}
        waits = [self._alone(task) for task in (*intents, *released, *unclear)]
        settled = waits.count(None)
        if settled < len(waits):
            again_at = self._runtime.clock.now() + min(wait for wait in waits if wait is not None)
            next_at = again_at if next_at is None else min(next_at, again_at)
        if settled:
            self._runtime.bells.ring("monitor")
        if round_.ended:
            self._runtime.bells.ring("evaluator", "outbox")
        with contextlib.suppress(OSError):  # a full disk, say: the launch that needs a folder tells of it
            self._folders.prepare()
        self._rooms.ask(round_.unasked)
        if self._rooms.are_guessed:
            again_at = self._runtime.clock.now() + LOOK_AGAIN
            next_at = again_at if next_at is None else min(next_at, again_at)
        return Ticked(worked=round_.started + settled, next_at=next_at, again=bool(round_.unasked))

    def _keep(self, launching: set[str]) -> None:
        """Forget what is no longer LAUNCHING."""
        self._uncalled &= launching
        self._said = {attempt_id: said for attempt_id, said in self._said.items() if attempt_id in launching}
        self._unclear = {
            attempt_id: unclear for attempt_id, unclear in self._unclear.items() if attempt_id in launching
        }

    def _alone(self, task: _Task) -> timedelta | None:
        """Take one attempt further; return when to look again, None when it is settled. One that moved on holds up nobody."""
        attempt_id = task.attempt.id
        said = self._said.get(attempt_id) or self._ask(task)
        if said is None:
            unclear = self._unclear.get(attempt_id)
            return min(LOOK_AGAIN * (1 << min(unclear.broken if unclear else 0, 10)), LOOK_AGAIN_LONGEST)
        self._said[attempt_id] = said
        with contextlib.suppress(Conflict):  # a person, or the host it is of, was faster
            self._write(task, said)
        del self._said[attempt_id]
        self._unclear.pop(attempt_id, None)
        return None

    # ------------------------------------------------------------------------------------------- asking

    def _ask(self, task: _Task) -> _Said | None:
        """Launch an attempt, or find it if an earlier call may have launched it; None: it is still unclear."""
        job, attempt = task.job, task.attempt
        is_fresh = attempt.id in self._uncalled
        if task.is_elsewhere:
            return self._missed(task)
        if attempt.id in self._runtime.launching:  # a call that was begun in a former term of ours has not come back
            return None
        try:
            launcher = self._runtime.launcher(attempt.launcher)
            order = order_of(self._runtime, job, attempt, task.brief)
        except (GiveUp, PluginError, ExpressionError, ValueError) as error:
            if is_fresh:
                return _not_started(str(error), final=True)
            return _Said(target="UNKNOWN", cause="launch_unknown", reason=str(error))
        if not is_fresh:
            return self._look_up(launcher, order, task)
        if task.brief.run.stop_as is not None:
            return _Said(target="CANCELLED", cause="cancelled", reason=task.brief.run.reason)
        return self._call(launcher, order, task)

    def _missed(self, task: _Task) -> _Said | None:
        """Leave a job of another host to it, unless it is gone for longer than a lost job may take to come back."""
        unclear = self._note_unclear(task.attempt)
        monotonic = self._runtime.clock.monotonic()
        if task.gone_for is None:
            unclear.first = monotonic
            return None
        # Of one that said goodbye, or was never seen, it counts from when we noticed.
        waited = timedelta(seconds=monotonic - unclear.first)
        if (waited if task.gone_for == NEVER_SEEN else task.gone_for) < task.brief.spec.training.lost_grace:
            return None
        reason = f"the host that was to start it does not come back (owner {task.attempt.owner})"
        return _Said(target="UNKNOWN", cause="host_gone", reason=reason)

    def _call(self, launcher: Launcher, order: Order, task: _Task) -> _Said | None:
        """Start an attempt that is not there."""
        runtime, attempt_id = self._runtime, task.attempt.id
        try:
            lay_out(order, task.brief, self._folders)
        except OSError as error:
            self._say_failed(task.job, error)
            return None if attempt_id in self._unclear else _not_started(str(error))
        runtime.lease.check()
        called_at = runtime.clock.now()
        runtime.launching.add(attempt_id)
        self._uncalled.discard(attempt_id)
        try:
            handle = launcher.launch(order)
        except GiveUp as error:
            return _not_started(error.message, final=True)
        except RetryLater as error:
            self._say_failed(task.job, error)
            # Of an attempt that an earlier call may have started, this says nothing.
            return None if self._broke(task.attempt, error.message) else _not_started(error.message)
        except Exception as error:  # noqa: BLE001 - it may have been started before this broke, so nobody launches it again unseen
            self._say_failed(task.job, error)
            if not launcher.searchable:
                return _Said(target="UNKNOWN", cause="launch_unknown", reason=str(error))
            self._note_unclear(task.attempt)
            self._broke(task.attempt, f"the launcher broke: {error!r}")
            return None
        finally:
            runtime.launching.discard(attempt_id)
        return _Said(
            target="RUNNING", cause="launched", handle=handle, called_at=called_at, searchable=launcher.searchable
        )

    def _look_up(self, launcher: Launcher, order: Order, task: _Task) -> _Said | None:
        """Find out whether an attempt was started, and start it only if it certainly was not."""
        if not launcher.searchable:
            reason = "nobody was there for the launcher's answer, and it cannot be searched"
            return _Said(target="UNKNOWN", cause="launch_unknown", reason=reason)
        unclear = self._note_unclear(task.attempt)
        monotonic = self._runtime.clock.monotonic()
        is_late = monotonic - unclear.first > PATIENCE.total_seconds()
        try:
            handle = launcher.find(order)
        except Exception as error:  # noqa: BLE001 - a search that fails says nothing; it is repeated
            self._say_failed(task.job, error)
            reason = f"{unclear.reason}, and for {PATIENCE} it could not be looked up: {error}"
            return _Said(target="UNKNOWN", cause="launch_unknown", reason=reason) if is_late else None
        if handle is not None:
            return _Said(target="RUNNING", cause="adopted", handle=handle)
        relaunch, give_up = _settle(launcher)
        waited = monotonic - unclear.last
        if task.brief.run.stop_as is not None or is_late:
            if waited < give_up.total_seconds():
                return None
            if task.brief.run.stop_as is not None:
                return _Said(target="CANCELLED", cause="cancelled", reason=task.brief.run.reason)
            return _not_started(unclear.reason, final=True)
        return None if waited < relaunch.total_seconds() else self._call(launcher, order, task)

    def _note_unclear(self, attempt: Attempt) -> _Unclear:
        monotonic = self._runtime.clock.monotonic()
        return self._unclear.setdefault(attempt.id, _Unclear(first=monotonic, last=monotonic))

    def _broke(self, attempt: Attempt, reason: str) -> bool:
        """Note a call that broke; return whether the attempt is unclear."""
        unclear = self._unclear.get(attempt.id)
        if unclear is None:
            return False
        unclear.last, unclear.reason = self._runtime.clock.monotonic(), reason
        unclear.broken += 1
        return True

    def _say_failed(self, job: Job, error: Exception) -> None:
        expected = isinstance(error, RetryLater | OSError)
        fields = {"job_id": job.id, "run_id": job.run_id, "error": str(error) if expected else repr(error)}
        self._runtime.log.warning("job.launch_failed", **fields, exc_info=not expected)

    # ------------------------------------------------------------------------------------------- writing

    def _write(self, task: _Task, said: _Said) -> None:
        if said.target == "RUNNING":
            self._running(task, said)
        elif said.target == "UNKNOWN":
            self._unknown(task, said)
        elif said.target == "CANCELLED":
            self._cancelled(task, said)
        else:
            self._failed(task, said)

    def _running(self, task: _Task, said: _Said) -> None:
        runtime, job, attempt = self._runtime, task.job, task.attempt
        try:
            with runtime.store.transaction("launched") as tx:
                # With its owner: as a follower this process may have looked before it led, and released it when the call had begun.
                launched_at = said.called_at or attempt.launched_at
                tx.runs.set_started(attempt.id, said.handle or {}, owner=attempt.owner, launched_at=launched_at)
                tx.runs.move_job(job, "RUNNING", cause=said.cause)
        except StaleTerm:
            if not said.searchable:  # whoever leads now cannot find out; we know
                self._answer_late(job, attempt, said)
            raise
        runtime.metrics.jobs.labels(attempt.launcher, "launched").inc()
        runtime.log.info(
            "job.launched",
            run_id=job.run_id,
            job_id=job.id,
            candidate=job.candidate,
            attempt=attempt.number,
            cause=said.cause,
        )

    def _answer_late(self, job: Job, attempt: Attempt, said: _Said) -> None:
        """Write the handle of a job that was started in our term, after it: not a decision, but what is known."""
        with self._runtime.store.transaction("late_answer", fenced=False) as tx:
            fresh = tx.runs.lock_job(job.id)
            if fresh is None or fresh.attempt != attempt.number or fresh.state not in ("LAUNCHING", "UNKNOWN"):
                return
            tx.runs.set_handle(attempt.id, said.handle or {})
            tx.runs.move_job(fresh, "RUNNING", cause="late_answer" if fresh.state == "UNKNOWN" else said.cause)

    def _unknown(self, task: _Task, said: _Said) -> None:
        """Ask a person where nobody can know."""
        with self._runtime.store.transaction("launch_unknown") as tx:
            nobody_knows(tx, task.brief.spec, task.job, cause=said.cause, reason=said.reason)
        self._runtime.metrics.jobs.labels(task.attempt.launcher, "unknown").inc()
        self._runtime.bells.ring("outbox")

    def _cancelled(self, task: _Task, said: _Said) -> None:
        with self._runtime.store.transaction("cancel_launch") as tx:
            tx.runs.move_job(task.job, "CANCELLED", cause=said.cause, reason=said.reason)
            close_training(tx, task.job.run_id, task.brief.spec)
        self._runtime.bells.ring("evaluator", self.name)

    def _failed(self, task: _Task, said: _Said) -> None:
        job, spec = task.job, task.brief.spec
        step = Supervision(target="FAILED", cause=said.cause, reason=said.reason)
        if said.target == "RETRYABLE":
            now = self._runtime.clock.now()
            step = after_failure(job, spec.training, cause=said.cause, reason=said.reason, now=now)
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


def _not_started(reason: str, *, final: bool = False) -> _Said:
    return _Said(target="FAILED" if final else "RETRYABLE", cause="launch_failed", reason=reason)


def _settle(launcher: Launcher) -> tuple[timedelta, timedelta]:
    """Return how long after a call an attempt that is not there may be launched again, and may be given up."""
    if launcher.local:
        return timedelta(0), timedelta(0)
    relaunch: timedelta = getattr(launcher, "settle", SETTLE)
    return relaunch, max(relaunch, SETTLE)


class _Round:
    """One transaction of dispatching: the open runs and jobs, and what was looked up for them."""

    def __init__(self, runtime: Runtime, tx: Transaction, rooms: Mapping[str, int | None]) -> None:
        """`rooms`: how many jobs a launcher takes at once, None without limit, of those that were asked."""
        self._runtime = runtime
        self._tx = tx
        self._rooms = rooms
        #: Launchers that have to be asked first; their jobs wait for the next round.
        self.unasked: set[str] = set()
        self._runs = {run.id: run for run in tx.runs.in_state("QUEUED", *_HOLDING)}
        self._jobs = tx.runs.open_jobs("PENDING", "RETRYABLE", "LAUNCHING")
        self._events: dict[str, list[Event]] = {}
        self._briefs: dict[str, Brief] = {}
        self.started = 0
        #: How many runs ended here, because they could not be started.
        self.ended = 0

    def start_runs(self) -> datetime | None:
        """Give queued runs their model's slot, the most pressing first; return when the next one may start that waits for its time."""
        busy = {run.model for run in self._runs.values() if run.state in _HOLDING}
        next_at: datetime | None = None
        for run in sorted((run for run in self._runs.values() if run.state == "QUEUED"), key=_by_priority):
            try:
                spec = self._runtime.spec_of(self._tx, run)
                if run.not_before is not None and not self._is_due(run.not_before, _jitter(run, spec)):
                    next_at = min(next_at or run.not_before, run.not_before)
                    continue
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
        scope = scope_of(run, spec, self._events_of(run))
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

    def intend(self) -> tuple[list[_Task], datetime | None]:
        """Mark the due jobs that a launcher has room for as LAUNCHING, with a new attempt each; say when more are due."""
        intents: list[_Task] = []
        next_at: datetime | None = None
        used: Counter[str] | None = None
        for job in sorted(self._jobs, key=self._job_order):
            run = self._runs.get(job.run_id)
            if job.state == "LAUNCHING" or run is None or run.stop_as is not None:
                continue
            training = self._runtime.spec_of(self._tx, run).training
            if job.due_at is not None and not self._is_due(job.due_at, training.retries.max_backoff):
                next_at = min(next_at or job.due_at, job.due_at)
                continue
            launcher = training.launcher
            if launcher not in self._rooms:
                self.unasked.add(launcher)
                continue
            if used is None:
                used = Counter(self._tx.runs.on_launchers())
            room = self._rooms[launcher]
            if room is None or used[launcher] < room:
                used[launcher] += 1
                intents.append(self._mark_launching(job, launcher))
        return intents, next_at

    def _job_order(self, job: Job) -> tuple[int, str]:
        """Of the jobs that wait for the same launcher, those of the most pressing runs go first, then the oldest."""
        run = self._runs.get(job.run_id)
        return (0 if run is None else -run.priority), job.id

    def _is_due(self, at: datetime, longest: timedelta) -> bool:
        return is_due(at, self._tx.now, longest=longest)

    def _mark_launching(self, job: Job, launcher: str) -> _Task:
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
        launching = replace(job, state="LAUNCHING", cause="launching", attempt=number, due_at=None)
        return _Task(launching, attempt, self._brief(job))

    def unclear(self) -> tuple[list[_Task], list[_Task]]:
        """Return the jobs that were LAUNCHING before this round, of which nobody knows yet whether they started, and those to begin.

        A host that finds that a job was not started there, and does not lead, releases it: whoever leads takes it over.
        """
        found: list[_Task] = []
        released: list[_Task] = []
        for job in self._jobs:
            attempt = self._tx.runs.attempt(job) if job.state == "LAUNCHING" else None
            if attempt is None:
                continue
            task = _Task(job, attempt, self._brief(job))
            if attempt.owner == RELEASED:
                self._tx.runs.set_attempt(attempt.id, owner=self._runtime.owner)
                released.append(replace(task, attempt=replace(attempt, owner=self._runtime.owner)))
            elif self._is_elsewhere(attempt):
                gone = gone_for(self._tx, attempt.owner)
                found.append(replace(task, is_elsewhere=True, gone_for=gone))
            else:
                found.append(task)
        return found, released

    def _is_elsewhere(self, attempt: Attempt) -> bool:
        try:
            return self._runtime.is_elsewhere(self._runtime.launcher(attempt.launcher), attempt)
        except PluginError:  # said when the attempt is looked up
            return False

    def _brief(self, job: Job) -> Brief:
        """Collect what a job's order needs."""
        if job.run_id not in self._briefs:
            run = self._runs.get(job.run_id) or self._tx.runs.get(job.run_id)
            if run is None:
                raise GiveUp(f"run {job.run_id} of job {job.id} is gone")
            self._briefs[job.run_id] = read(self._runtime, self._tx, run, self._events_of(run))
        return self._briefs[job.run_id]

    def _events_of(self, run: Run) -> list[Event]:
        if run.id not in self._events:
            self._events[run.id] = self._tx.events.of_run(run.id)
        return self._events[run.id]


def _jitter(run: Run, spec: ModelSpec) -> timedelta:
    """Return how long a run may have been made to wait for its start at most."""
    policy = spec.policies.get(run.policy)
    return timedelta.max if policy is None else policy.jitter or timedelta.max


def _by_priority(run: Run) -> tuple[int, str]:
    return -run.priority, run.id
