"""Lets go of what nobody needs.

Those are artifacts beyond those of the champion, its predecessor and the last few, episodes without a sign of life, and what `retention`
says: rows and files whose time is over, a small batch at a time.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from controller.core.duration import format_duration
from controller.core.model import Version
from controller.engine.episodes import log_episode
from controller.engine.gatekeeper import predecessor
from controller.engine.pruning import Sweep
from controller.engine.runtime import Runtime, Ticked

#: Artifacts are looked through this often.
EVERY = timedelta(minutes=10)
#: … and when it is rung, at most this often.
SHORTEST = timedelta(seconds=1)
#: Episodes that one transaction gives up.
BATCH = 500
#: What retention says is looked through this often, the first time so long after the start, when there is less to do.
SWEEP, FIRST_SWEEP = timedelta(hours=1), timedelta(minutes=1)
#: Between two batches of it, so that others get their turn.
PAUSE = timedelta(milliseconds=20)


class Janitor:
    """The loop that tidies up."""

    name = "janitor"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._looked_at: datetime | None = None
        #: The newest change of a state, and the configuration, when artifacts were looked through.
        self._stand: tuple[int, str] | None = None
        #: The next batch of what retention says; of a sweep that goes on, or of one that is to begin.
        self._batch_at: datetime | None = None
        self._sweep: Sweep | None = None

    def tick(self, now: datetime) -> Ticked:
        """Give up episodes whose time is over, and remove artifacts that are no longer kept, from the state directory only.

        It is rung for both; a storm of alerts must not have it look through the artifacts for each.
        """
        given_up, expires_at = self._expire_episodes(now)
        artifacts_at = self._look_through(now)
        pruned, batch_at = self._prune(now)
        next_at = min(at for at in (artifacts_at, batch_at, expires_at) if at is not None)
        return Ticked(worked=given_up + pruned, again=given_up >= BATCH, next_at=next_at)

    def _look_through(self, now: datetime) -> datetime:
        """Remove artifacts if anything has happened since they were looked through; return when to come back.

        An installation of a hundred models pays for each of them, so while nothing happens only the clock makes it look again.
        """
        looked_at = self._looked_at
        if looked_at is not None and looked_at <= now < looked_at + SHORTEST:  # not after the clock was set back
            return looked_at + SHORTEST
        with self._runtime.store.reading() as tx:
            stand = (tx.models.last_change(), self._runtime.config.version)
        if looked_at is None or stand != self._stand or not looked_at <= now < looked_at + EVERY:
            self._remove_artifacts()
            self._looked_at, self._stand = now, stand
            return now + EVERY
        return looked_at + EVERY

    def _prune(self, now: datetime) -> tuple[int, datetime]:
        """Let go of one batch of what retention says; return how much it was, and when the next is due."""
        if self._batch_at is None:
            self._batch_at = now + FIRST_SWEEP
        if not self._batch_at - SWEEP <= now < self._batch_at:  # its time, also after the clock was set back
            self._sweep = self._sweep or Sweep(self._runtime, now, fenced=True)
            step = self._sweep.step()
            self._batch_at = now + (SWEEP if step.is_last else PAUSE)
            if step.is_last:
                self._sweep.tell()
                self._sweep = None
            return step.count, self._batch_at
        return 0, self._batch_at

    def _expire_episodes(self, now: datetime) -> tuple[int, datetime | None]:
        """Give up a batch of episodes; return how many, and when the next is due."""
        with self._runtime.store.reading() as tx:
            expires_at = tx.episodes.next_expiry()
        if expires_at is None or expires_at > now:
            return 0, expires_at
        with self._runtime.store.transaction("expire") as tx:
            due = tx.episodes.due(now, BATCH)
            for episode in due:
                patience = format_duration(timedelta(seconds=episode.expires_after_seconds))
                reason = f"no sign of life for {patience}"
                tx.episodes.end(episode, target="EXPIRED", cause="expired", reason=reason)
            expires_at = tx.episodes.next_expiry()
        self._runtime.bells.ring("evaluator")
        for episode in due:
            log_episode(self._runtime.log, replace(episode, state="EXPIRED", cause="expired"))
        return len(due), expires_at

    def _remove_artifacts(self) -> None:
        for name, spec in self._runtime.config.models.items():
            with self._runtime.store.reading() as tx:
                before = predecessor(tx, name)
                forgettable = [
                    version
                    for version in tx.models.forgettable_artifacts(name, spec.keep_artifacts)
                    if before is None or version.id != before.id
                ]
            for version in forgettable:
                self._forget(version)

    def _forget(self, version: Version) -> None:
        """Write that an artifact goes, then remove it: a person may have asked for that version a moment ago."""
        with self._runtime.store.transaction("forget") as tx:
            spec = self._runtime.config.models.get(version.model)
            keep = 0 if spec is None else spec.keep_artifacts
            if version.id not in {each.id for each in tx.models.forgettable_artifacts(version.model, keep)}:
                return
            tx.models.mark_forgotten(version.id)
        runs = self._runtime.config.runs_dir.resolve()
        path = Path(version.artifact)
        if runs in path.resolve().parents:
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                self._runtime.log.warning("artifact.not_removed", version_id=version.id, error=str(error))
                return
        self._runtime.log.info("artifact.removed", model=version.model, version=version.number, version_id=version.id)
