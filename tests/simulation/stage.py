"""The scheduler: one thread, simulated time, and whose turn it is.

Time stands still while a step runs and jumps to the next thing that happens when nobody has anything to do. A step that comes to a crash
point may be held up there, by the weather: then the scheduler runs everything else from inside it, and comes back when the time is over.
So a process that is stopped in the middle of a step goes on afterwards as if nothing had happened, which is the point.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller import crash
from controller.errors import ControllerError, StoreBusy
from tests.simulation.process import MIDNIGHT, NEVER, SECOND, Died, Host, Once, Process, Task
from tests.simulation.story import Story
from tests.simulation.weather import Weather, chance_of
from tests.simulation.world import World

#: A step within a step within a step: deeper nobody is held up.
_DEEPEST = 3
#: So many steps are more than any story takes; a simulation that takes more goes in circles.
_MOST_STEPS = 60_000
#: What is committed only so that others see that one is there; it gives nobody anything to do.
_SIGNS_OF_LIFE = frozenset({"renew", "seek", "show", "probe", "give_back", "leave", "seal"})
_LEASE = frozenset({"renew", "lead", "give_back"})


class Stuck(Exception):
    """The simulation does not come to an end."""


class ProcessLog:
    """The log of one process: kept as trace, and looked through for what must never be logged."""

    def __init__(self, stage: Stage, process: Process) -> None:
        self._stage = stage
        self._process = process

    def debug(self, event: str, **fields: Any) -> None:
        """Drop a line."""

    def info(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self._stage.note(self._process, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self._stage.note(self._process, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Keep a line, and hold it against us if it tells of a bug."""
        self._stage.note(self._process, event, fields)
        if not self._process.is_alive:
            return  # it says how it died
        # What is logged with the traceback of anything but our own errors, or those of the world, is a bug.
        if fields.get("exc_info") and not isinstance(sys.exc_info()[1], ControllerError | TimeoutError):
            self._stage.breaks.append(f"{self._process.name}: {event}: {fields.get('error')}")


class Stage:
    """Where the replicas and the world act."""

    def __init__(
        self, story: Story, folder: Path, *, texts: list[str], weather: Weather, verbose: bool = False
    ) -> None:
        self.story = story
        self.seed = story.seed
        self.folder = folder
        self.texts = texts
        self.weather = weather
        self.shared = folder / "runs"
        self.shared.mkdir()
        self.url = sa.make_url(f"sqlite:///{folder / 'retrain.db'}")
        self.t = 0
        #: How often anything was committed that may give somebody something to do, and when that was last.
        self.version = 0
        self.changed_at = 0
        #: Reloads that were taken: microseconds, process, variant.
        self.reloads: list[tuple[int, Process, int]] = []
        #: When the lease was last touched by anybody.
        self.lease_at = 0
        #: The minute from which on the schedule counts.
        self.cron_since: int | None = None
        self.counts: Counter[str] = Counter()
        #: Every commit: microseconds, process, name, whether fenced, term.
        self.commits: list[tuple[int, str, str, bool, int]] = []
        self.breaks: list[str] = []
        self.trace: list[tuple[int, str, str, Any]] = []
        self._verbose = verbose
        self._chance = chance_of("stage", story.seed)
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._agreed = 0
        self._steps = 0
        #: Processes in the middle of a step, the innermost last.
        self._acting: list[Process] = []
        self.down_until = 0
        #: When a process last began: a configuration that nobody ever activated counts from when it is loaded.
        self.begun_at = 0
        #: When all machines were last suspended.
        self.suspended_until = 0
        self.world = World(story.seed, weather, now=lambda: self.t, later=self.later)
        self.hosts = [Host(self, number) for number in range(story.replicas)]
        #: Processes that ended; their stores are closed when nothing of them is in the middle of a step any more.
        self._ended: list[Process] = []

    # ------------------------------------------------------------------------------------------------ time

    def later(self, after: int, call: Callable[..., None], *arguments: Any) -> None:
        """Make something happen after so many microseconds."""
        self.at(self.t + after, call, *arguments)

    def at(self, at: int, call: Callable[..., None], *arguments: Any) -> None:
        """Make something happen at an instant."""
        self._agreed += 1
        heapq.heappush(self._agenda, (at, self._agreed, call, arguments))

    def go(self, until: int, done: Callable[[], bool] = lambda: False) -> None:
        """Let everything act until an instant, or until something is done."""
        while self.t < until and not done():
            while self._agenda and self._agenda[0][0] <= self.t:
                _, _, call, arguments = heapq.heappop(self._agenda)
                call(*arguments)
            ready, next_at = self._ready()
            if ready:
                self._step(ready[0] if len(ready) == 1 else ready[int(self._chance.random() * len(ready))])
                continue
            if self._agenda:
                next_at = min(next_at, self._agenda[0][0])
            self.t = max(min(next_at, until), self.t)

    def suspend(self, *, until: int) -> None:
        """Suspend all machines for a minute, as when the one below them is, or until shortly before something is due but the lease."""
        dues = [
            task.ready_at(self)
            for process in self.processes()
            for task in process.tasks()
            if not task.is_stopped and task.name != "lease"
        ]
        agreed = self._agenda[0][0] if self._agenda else NEVER
        self.t = self.suspended_until = min(max(self.t + 60 * SECOND, min([*dues, agreed]) - SECOND), until)

    def _ready(self) -> tuple[list[Task | Once], int]:
        """Return what can be ticked now, and when the next is to be ticked that cannot."""
        ready: list[Task | Once] = []
        next_at = NEVER
        for host in self.hosts:
            process = host.process
            if process is None:
                continue
            resumes_at = process.stopped_until
            for task in process.tasks():
                if task.is_busy or task.is_stopped:
                    continue
                at = task.ready_at(self)
                if at < resumes_at:
                    at = resumes_at
                if at > self.t:
                    next_at = min(next_at, at)
                elif task.name == "ticker" and process.is_busy_with("inbox"):
                    continue  # it would wait for the inbox, which waits for us to come back
                elif task.name == "evaluator" and process.is_reloading:
                    continue  # it would wait for the lock that the reload holds
                else:
                    ready.append(task)
        return ready, next_at

    def _step(self, task: Task | Once) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Stuck(f"{_MOST_STEPS} steps, and no end: {task.process.name} {task.name} at {self.t / 1e6:.3f} s")
        process = task.process
        self.t += 100 + int(self._chance.random() * 2000)
        with self.acting(process):
            task.tick()
        if process.failed and process.is_alive:
            self.note(process, "ends", {"reason": process.failed})
            self.kill(process, back_after=SECOND)

    @contextlib.contextmanager
    def acting(self, process: Process) -> Iterator[None]:
        """Let a process act; one that is killed meanwhile just ends."""
        self._acting.append(process)
        before, self.world.caller = self.world.caller, process
        try:
            yield
        except Died:
            pass
        finally:
            self.world.caller = before
            self._acting.pop()

    def wait(self, process: Process, done: Callable[[], bool]) -> None:
        """Let everything else go on until something is done; raises `Died` when the process that waits is killed."""
        self.go(self.t + 600 * SECOND, lambda: done() or not process.is_alive)
        self.world.caller = process
        if not process.is_alive:
            raise Died
        if not done():
            raise Stuck(f"{process.name} waits for an answer that does not come")

    # ------------------------------------------------------------------------------------------------ what strikes

    def reached(self, point: str) -> None:
        """Hear of a crash point: what `crash.trace` calls."""
        if not self._acting:
            return
        process = self._acting[-1]
        if point.endswith(".after_commit"):
            self._committed(process)
        if not process.is_alive:
            raise Died
        kinds = ("crash",) if process.is_writing else _kinds_at(point)
        struck = self.weather.strike(point, kinds, self.t)
        if struck is None:
            return
        self.note(process, struck, point)
        self.counts[struck] += 1
        if struck in ("crash", "emit crash"):
            self.kill(process)
            raise Died
        if struck in ("commit lost", "commit answer lost"):
            raise StoreBusy("the connection broke", code="store.down")
        if len(self._acting) > _DEEPEST:
            return
        if struck in ("stop", "emit stop"):
            process.stopped_until = self.t + self.weather.span(1, 60)
            until = process.stopped_until
        else:
            until = self.t + self.weather.span(0.01, 4)
        self.go(until, lambda: not process.is_alive)
        self.world.caller = process
        if not process.is_alive:
            raise Died

    def _committed(self, process: Process) -> None:
        if process.committing is None:
            return
        name, fenced, term, wrote = process.committing
        process.committing = None
        if not wrote:
            return
        self.commits.append((self.t, process.name, name, fenced, term))
        self.note(process, "commit", name)
        if name in _LEASE:
            self.lease_at = self.t
        if self.story.has_cron and self.cron_since is None and name == "inbox":
            self._look_at_schedule(process)
        if name not in _SIGNS_OF_LIFE:
            self.version += 1
            self.changed_at = self.t

    def _look_at_schedule(self, process: Process) -> None:
        """Note from when on the schedule counts, once it is written."""
        with process.store.engine.connect() as connection:
            statement = "SELECT value FROM ledger WHERE source = 'nightly' AND key = 'last'"
            value = connection.exec_driver_sql(statement).scalar()
        if value is not None:
            last = datetime.fromisoformat(json.loads(value)["last"])
            self.cron_since = (last - MIDNIGHT) // timedelta(minutes=1)

    def meet_database(self) -> None:
        """Raise `StoreBusy` while the database is away."""
        if self.t < self.down_until:
            raise StoreBusy("the database is away", code="store.down")

    # ------------------------------------------------------------------------------------------------ processes

    def begin(self, process: Process) -> None:
        """Begin a process."""
        self.begun_at = self.t
        self.note(process, "begins", {})
        with self.acting(process):
            try:
                process.start()
            except StoreBusy:
                self.kill(process, back_after=SECOND)

    def kill(self, process: Process, *, back_after: int | None = None) -> None:
        """Kill a process; another begins on its machine after a while."""
        if not process.is_alive:
            return
        process.die()
        self._ended.append(process)
        self.note(process, "killed", {})
        if back_after is None:
            back_after = int((0.5 + self._chance.random() * 25) * SECOND)
        self.later(back_after, self._boot, process.host)

    def _boot(self, host: Host) -> None:
        if host.process is None:
            host.boot()

    def processes(self) -> list[Process]:
        """Return the processes that there are."""
        return [host.process for host in self.hosts if host.process is not None]

    def close(self) -> None:
        """Let go of every store."""
        for process in [*self._ended, *self.processes()]:
            process.store.close()

    # ------------------------------------------------------------------------------------------------ the trace

    def log_of(self, process: Process) -> ProcessLog:
        """Return the log of a process."""
        return ProcessLog(self, process)

    def note(self, process: Process | None, event: str, detail: Any) -> None:
        """Keep a line of the trace."""
        self.trace.append((self.t, "" if process is None else process.name, event, detail))
        if self._verbose:
            print(line_of(self.trace[-1]))  # noqa: T201 - what was asked for


def line_of(entry: tuple[int, str, str, Any]) -> str:
    """Return a line of the trace as text."""
    at, name, event, detail = entry
    if isinstance(detail, dict):
        detail = " ".join(
            f"{key}={value}" for key, value in detail.items() if key != "exc_info" and value not in (None, "")
        )
    return f"{at / 1e6:10.3f} {name:8} {event} {detail}"


def _kinds_at(point: str) -> tuple[str, ...]:
    if point.endswith(".before_commit"):
        return ("crash", "commit lost")
    if point.endswith(".after_commit"):
        return ("crash", "commit answer lost", "stop", "linger")
    if point == "source.emit":
        return ("crash", "emit crash", "emit stop", "linger")
    if point.startswith(_UNFENCED) and point.endswith(".before"):
        return ("crash",)
    return ("crash", "stop", "linger")


#: A call that was about to be made when its process was stopped is made when it goes on, and nobody can take it back. Launchers know
#: attempts by name; a registry points at whatever it was told last, so there only the quiet end of the lease keeps a late call harmless.
_UNFENCED = ("plugin.promoter.",)

#: Where the points report to.
arm, disarm = crash.trace, crash.disarm
