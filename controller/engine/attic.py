"""Removes the files of attempts whose runs ended long ago: logs, the events they were given, the results as they were written.

What a run was and came to is in the database, and its artifact has rules of its own (`keep_artifacts`); what goes here are files in our own
state directory, so every replica tidies up its own. A folder in which an artifact is still kept stays, with nothing else in it but a mark
that says so, `PRUNED`: whoever asks for the log is told that it is gone, not that there was none.
Called by the janitor, and by `retrainctl db prune`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from controller.clock import floor_id
from controller.core.model import RUN_ID
from controller.ports import Log
from controller.store import Store, pruning

#: The name of the mark.
PRUNED = ".pruned"


class Attic:
    """The folders of attempts below a state directory."""

    def __init__(self, runs_dir: Path, store: Store, log: Log) -> None:
        #: As artifacts are written down: without links.
        self._runs = runs_dir.resolve()
        self._store = store
        self._log = log

    def old(self, cutoff: datetime) -> list[str]:
        """Return the names of the folders of runs that were decided before an instant, the oldest first."""
        floor = floor_id(RUN_ID, cutoff)
        try:
            with os.scandir(self._runs) as entries:
                return sorted(entry.name for entry in entries if _is_run(entry) and entry.name < floor)
        except FileNotFoundError:
            return []

    def may_go(self, name: str, cutoff: datetime) -> bool:
        """Say whether a folder's run ended before an instant, and there is something in it to remove."""
        kept = self._kept(name, cutoff)
        return kept is not None and any(self._going(self._runs / name, kept))

    def remove(self, name: str, cutoff: datetime) -> bool:
        """Remove a folder, or what of it is no kept artifact, if its run ended before an instant; return whether anything went."""
        kept = self._kept(name, cutoff)
        if kept is None:
            return False
        folder = self._runs / name
        try:
            return self._empty(folder, kept) if kept else self._drop(folder)
        except OSError as error:
            self._log.warning("run_files.not_removed", folder=name, error=str(error))
            return False

    def _drop(self, folder: Path) -> bool:
        shutil.rmtree(folder)
        self._log.info("run_files.removed", folder=folder.name)
        return True

    def _empty(self, folder: Path, kept: Sequence[Path]) -> bool:
        going = list(self._going(folder, kept))
        if going:
            (folder / PRUNED).touch()
        for path in going:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if going:
            self._log.info("run_files.removed", folder=folder.name, kept="artifact")
        return bool(going)

    def _going(self, folder: Path, kept: Sequence[Path]) -> Iterator[Path]:
        """Yield what of a folder is neither a kept artifact nor on the way to one; without one, everything."""
        if not kept:
            yield folder
            return
        for path in sorted(folder.iterdir()):
            if path.name != PRUNED and not any(path == each or path in each.parents for each in kept):
                yield path

    def _kept(self, name: str, cutoff: datetime) -> list[Path] | None:
        """Return the artifacts in a folder that are kept; None when its run has not ended, ended later, or is not known here."""
        run_id = "-".join(name.split("-")[:2])
        with self._store.reading() as tx:
            run = tx.runs.get(run_id)
            if run is None or run.finished_at is None or run.finished_at >= cutoff:
                return None
            kept = [Path(artifact) for artifact in pruning.kept_artifacts(tx, run_id)]
        folder = self._runs / name
        return [path for path in kept if folder in path.parents]


def was_pruned(folder: Path) -> bool:
    """Say whether the log that an attempt had in its folder was removed."""
    return not folder.exists() or (folder / PRUNED).exists()


def _is_run(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(f"{RUN_ID}-") and entry.is_dir(follow_symlinks=False)
