"""How many jobs each launcher takes.

A launcher is asked outside of any transaction: its answer may take long, and meanwhile nobody could write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from controller.engine.runtime import Runtime
from controller.errors import PluginError
from controller.ports import Launcher

#: A launcher is asked at most this often.
ASK = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Room:
    #: Who was asked; None: there is no such launcher.
    launcher: Launcher | None
    #: Monotonic seconds.
    at: float
    #: None for no limit.
    jobs: int | None
    #: Whether it could not say.
    is_guessed: bool = False


class Rooms:
    """What the launchers said."""

    def __init__(self, runtime: Runtime, who: str) -> None:
        """`who` complains of a launcher that cannot say."""
        self._runtime = runtime
        self._who = who
        self._rooms: dict[str, _Room] = {}

    @property
    def jobs(self) -> Mapping[str, int | None]:
        """How many jobs each launcher that was asked takes at once, None without limit."""
        return {name: room.jobs for name, room in self._rooms.items()}

    @property
    def are_guessed(self) -> bool:
        """Whether a launcher could not say, so that it is to be asked again soon."""
        return any(room.is_guessed for room in self._rooms.values())

    def ask(self, more: Collection[str] = ()) -> None:
        """Ask those that were asked before, or at first those of the configuration, and `more`, unless they said so just now."""
        known = self._rooms or {spec.training.launcher for spec in self._runtime.config.models.values()}
        for name in {*known, *more}:
            self._rooms[name] = self._asked(name, self._rooms.get(name))

    def _asked(self, name: str, said: _Room | None) -> _Room:
        now = self._runtime.clock.monotonic()
        try:
            launcher = self._runtime.launcher(name)
        except PluginError:  # the launch will say so, and end this job alone
            return _Room(None, now, None)
        if said is not None and said.launcher is launcher and now - said.at < ASK.total_seconds():
            return said
        try:
            jobs = launcher.slots()
        except Exception as error:  # noqa: BLE001 - one that cannot say must not keep the others from their jobs
            reason = f"launcher {name!r} does not say how many jobs it takes: {error!r}"
            self._runtime.complaints.set(self._who, f"room of {name}", reason, code="loop.entity")
            return _Room(launcher, now, 0 if said is None else said.jobs, is_guessed=True)
        self._runtime.complaints.set(self._who, f"room of {name}", None)
        return _Room(launcher, now, jobs)
