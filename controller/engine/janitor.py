"""Lets go of what nobody needs: artifacts beyond those of the champion, its predecessor and the last few."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

from controller.core.model import Version
from controller.engine.gatekeeper import predecessor
from controller.engine.runtime import Runtime, Ticked

EVERY = timedelta(minutes=10)


class Janitor:
    """The loop that tidies up."""

    name = "janitor"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def tick(self, now: datetime) -> Ticked:
        """Remove artifacts that are no longer kept, from the state directory only."""
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
        return Ticked(next_at=now + EVERY)

    def _forget(self, version: Version) -> None:
        """Write that an artifact goes, then remove it: a person may have asked for that version a moment ago."""
        with self._runtime.store.transaction("forget") as tx:
            spec = self._runtime.config.models.get(version.model)
            keep = 0 if spec is None else spec.keep_artifacts
            if version.id not in {each.id for each in tx.models.forgettable_artifacts(version.model, keep)}:
                return
            tx.models.mark_forgotten(version.id)
        runs = (self._runtime.state_dir / "runs").resolve()
        path = Path(version.artifact)
        if runs in path.resolve().parents:
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                self._runtime.log.warning("artifact.not_removed", version_id=version.id, error=str(error))
                return
        self._runtime.log.info("artifact.removed", model=version.model, version=version.number, version_id=version.id)
