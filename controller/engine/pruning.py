"""Goes through what retention lets go of, a batch at a time, so that nobody waits for it.

A sweep goes through every kind of row in order, then through the files of attempts; a batch looks at some rows without the right to write,
and lets go of those whose time is over in one short transaction.
How many rows that are follows from how long the last one took: on SQLite nobody else writes meanwhile.
What a sweep remembers is only where it is: it may end anywhere, and another one begins anew.
Called by the janitor, and by `retrainctl db prune`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from controller.clock import Clock
from controller.config import Config
from controller.engine.attic import Attic
from controller.ports import Log
from controller.store import Store, pruning
from controller.store.pruning import KINDS, Kind

#: Letting go of a batch should take no longer than this, before its commit; writers wait for it.
HOLD = timedelta(milliseconds=10)
#: Rows of a batch: the first one, and the least and the most of any other.
FIRST, FEWEST, MOST = 64, 32, 512
#: The files of attempts, beside the kinds of rows.
RUN_FILES = "run_files"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one batch came to."""

    #: Rows or folders that went.
    count: int
    #: Whether this was the last one of the sweep.
    is_last: bool = False


class Household(Protocol):
    """What a sweep needs of the installation; a `Runtime` is one."""

    @property
    def config(self) -> Config: ...

    @property
    def store(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def log(self) -> Log: ...


def cutoffs(config: Config, now: datetime) -> dict[str, datetime]:
    """Return for each kind of rows before when one must have had its end, in the order in which they are gone through."""
    kept: dict[str, timedelta] = {name: getattr(config.retention, name) for name in KINDS}
    if kept["bodies"] >= kept["events"]:
        del kept["bodies"]  # they go with their events
    # The last message of a kind says when the next may be sent.
    repeats = [spec.grouping.repeat for spec in config.notifiers.values() if spec.grouping is not None]
    kept["notifications"] = max([kept["notifications"], *repeats])
    return {name: now - length for name, length in kept.items()}


class Sweep:
    """One way through all that retention says; `step` is called until it says that it was the last."""

    def __init__(self, household: Household, now: datetime, *, fenced: bool) -> None:
        self._store, self._clock, self._log = household.store, household.clock, household.log
        #: The leader's batches are fenced like all that it writes; those of a person beside it decide nothing that it could contradict.
        self._fenced = fenced
        self._todo = list(cutoffs(household.config, now).items())
        self._after = ""
        self._rows = FIRST
        self._attic = Attic(household.config.runs_dir, self._store, self._log)
        self._files_before = now - household.config.retention.run_files
        self._folders: list[str] | None = None
        #: What went so far, by kind.
        self.gone: Counter[str] = Counter()

    def step(self) -> Step:
        """Look at the next batch, and let go of what is to go."""
        if self._todo:
            return self._step_rows()
        return self._step_files()

    def tell(self) -> None:
        """Log what went, if anything did."""
        if self.gone:
            self._log.info("retention.pruned", **self.gone)

    def _step_rows(self) -> Step:
        name, cutoff = self._todo[0]
        kind = KINDS[name]
        with self._store.reading() as tx:
            batch = pruning.look(tx, kind, after=self._after, cutoff=cutoff, most=self._rows)
        count = self._let_go(kind, batch, cutoff) if batch.ids else 0
        if batch.last is None:
            self._todo.pop(0)
        self._after = batch.last or ""
        return self._done(name, count)

    def _let_go(self, kind: Kind, batch: pruning.Batch, cutoff: datetime) -> int:
        with self._store.transaction("prune", fenced=self._fenced) as tx:
            began = self._clock.monotonic()
            count = pruning.let_go(tx, kind, batch.ids, cutoff=cutoff)
            took = timedelta(
                seconds=self._clock.monotonic() - began
            )  # the commit behind it takes as long for one row as for many
        self._pace(took)
        return count

    def _pace(self, took: timedelta) -> None:
        if took > HOLD:
            self._rows = max(FEWEST, self._rows // 2)
        elif took < HOLD / 4:
            self._rows = min(MOST, self._rows * 2)

    def _step_files(self) -> Step:
        if self._folders is None:
            self._folders = self._attic.old(self._files_before)[::-1]
        count = 0
        if self._folders:
            count = int(self._attic.remove(self._folders.pop(), self._files_before))
        return self._done(RUN_FILES, count, is_last=not self._folders)

    def _done(self, name: str, count: int, *, is_last: bool = False) -> Step:
        if count:
            self.gone[name] += count
        return Step(count=count, is_last=is_last)


def would_go(household: Household, now: datetime) -> dict[str, int]:
    """Return how many rows and folders a sweep would let go of now, by kind."""
    store, config = household.store, household.config
    found = {name: pruning.would_go(store, KINDS[name], cutoff=cutoff) for name, cutoff in cutoffs(config, now).items()}
    attic, before = Attic(config.runs_dir, store, household.log), now - config.retention.run_files
    found[RUN_FILES] = sum(attic.may_go(name, before) for name in attic.old(before))
    return found
