"""Reads the logs of jobs, for people who follow them."""

from __future__ import annotations

from controller.engine.attic import was_pruned
from controller.engine.runtime import Runtime
from controller.engine.whereabouts import other_owner, place
from controller.errors import Conflict, NotFound
from controller.ports import LogChunk


class Logs:
    """Logs of attempts, wherever their launcher keeps them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def read(self, run_id: str, candidate: str | None, attempt: int | None, offset: int, limit: int) -> LogChunk:
        """Return a piece of the log of one attempt; by default the newest of the run's only candidate.

        Raises `NotFound` for what does not exist, and `Conflict` when several candidates could be meant.
        """
        with self._runtime.store.reading() as tx:
            jobs = tx.runs.jobs(run_id)
            wanted = [job for job in jobs if candidate is None or job.candidate == candidate]
            names = ", ".join(job.candidate for job in jobs) or "none"
            if not wanted:
                raise NotFound(f"run {run_id!r} has no candidate {candidate!r}", hint=f"it has: {names}")
            if len(wanted) > 1:
                raise Conflict(f"run {run_id} has several candidates", hint=f"choose one with --candidate: {names}")
            attempts = tx.runs.attempts(wanted[0].id)
        found = [each for each in attempts if attempt is None or each.number == attempt]
        if not found or found[-1].handle is None:
            raise NotFound(f"candidate {wanted[0].candidate} of run {run_id} has no log yet")
        chosen = found[-1]
        launcher = self._runtime.launcher(chosen.launcher)
        if launcher.local and (elsewhere := other_owner(self._runtime, chosen.owner)) is not None:
            replica, is_there = elsewhere
            raise Conflict(
                f"the log of candidate {wanted[0].candidate} of run {run_id} lies on host {replica.host}, where its job was started",
                hint=f"{'ask the replica there' if is_there else 'not seen lately'}: {place(replica)}",
            )
        if launcher.local and chosen.owner == self._runtime.owner and was_pruned(self._runtime.folder_of(chosen)):
            raise NotFound(
                f"the log of candidate {wanted[0].candidate} of run {run_id} was removed",
                hint="files of attempts are kept for as long as `retention: run_files` says",
            )
        return launcher.log(chosen.handle or {}, offset, limit)
