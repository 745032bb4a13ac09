"""One replica: a machine with its state directory, and the processes that run on it one after the other.

The parts of a process are the daemon's own (`engine/crew.py`, `engine/lease.py`), wired as `daemon.py` wires them.
Each loop is ticked by the daemon's own `LoopThread`, whose thread is never started: the stage ticks whichever is rung or due.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.clock import Ids
from controller.config import Config, load_config, reload_config
from controller.core.model import REPLICA_ID, Receipt
from controller.core.replica import Replica
from controller.engine import loop_thread
from controller.engine.crew import Crew
from controller.engine.lease import RENEW, TTL, Lease
from controller.engine.lease import Process as Told
from controller.engine.loop_thread import LoopThread
from controller.engine.runtime import Loop, Runtime, Ticked
from controller.ports import Batch
from controller.store import Store, Transaction
from controller.store.store import StaleTerm
from controller.telemetry import Metrics
from tests.simulation.weather import chance_of

if TYPE_CHECKING:
    from tests.simulation.stage import Stage

#: Schedules count minutes from here; a story begins a little before the second of them, so that one falls into it.
MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)
EPOCH = MIDNIGHT + timedelta(seconds=100)
SECOND = 1_000_000
NEVER = 1 << 62
#: Counting costs time and nobody here looks at the counts.
_METRICS = Metrics()
#: Compiled statements are the same in every store, and are found by their dialect.
_COMPILED: dict[Any, Any] = {}
_DIALECT: list[Any] = []


class Died(BaseException):
    """The process was killed here; nothing catches this."""


class SimulatedClock:
    """A machine's clock: simulated time, and by how much it is wrong."""

    def __init__(self, stage: Stage, host: Host | None) -> None:
        self._stage = stage
        self._host = host

    def now(self) -> datetime:
        """Return what the machine takes for the present instant."""
        wrong = 0 if self._host is None else self._host.skew
        return EPOCH + timedelta(microseconds=self._stage.t + wrong)

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return 1000.0 + self._stage.t / 1e6


class SimulatedStore(Store):
    """A store whose database may be away, and which says what it committed."""

    def __init__(self, url: sa.URL, *, process: Process, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._process = process
        _DIALECT[:] = _DIALECT or [self.engine.dialect]
        for engine in (self.engine, self._reader):
            engine.dialect, engine._compiled_cache = _DIALECT[0], _COMPILED
        sa.event.listen(self.engine, "connect", _without_syncing)

    @contextlib.contextmanager
    def transaction(self, name: str, *, fenced: bool = True, **settings: Any) -> Iterator[Transaction]:
        """Run a block as one transaction."""
        self._process.stage.meet_database()
        with super().transaction(name, fenced=fenced, **settings) as tx:
            database: Any = tx.connection.connection.dbapi_connection
            before = database.total_changes
            self._process.is_writing = True
            try:
                yield tx
            finally:
                self._process.is_writing = False
            tx.write_history()
            self._process.committing = (name, fenced, tx.term, database.total_changes > before)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Run a block that only reads."""
        self._process.stage.meet_database()
        with super().reading() as tx:
            yield tx


def _without_syncing(connection: Any, record: Any) -> None:
    del record
    connection.execute("PRAGMA synchronous=OFF")


class Host:
    """A machine with a state directory; when it is gone for good, another takes its place."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage = stage
        self.number = number
        self.generation = 0
        #: Microseconds by which its clock is ahead.
        self.skew = 0
        self.boots = 0
        #: Which of the configurations lies on its disk.
        self.variant = 0
        self.process: Process | None = None
        self._make_folder()

    @property
    def name(self) -> str:
        """What tells machines apart."""
        return f"h{self.number}.{self.generation}"

    def _make_folder(self) -> None:
        self.folder = self.stage.folder / self.name
        (self.folder / "state").mkdir(parents=True)
        self.owner = f"owner-{self.name}"
        self.write(self.variant)

    def write(self, variant: int) -> None:
        """Put one of the configurations on its disk."""
        self.variant = variant
        partial = self.folder / "retrain.partial"
        partial.write_text(self.stage.texts[variant])
        partial.replace(self.folder / "retrain.yaml")

    def replace(self) -> None:
        """The machine is gone for good; another one with an empty disk takes its place."""
        self.stage.world.end_host(self.name)
        self.generation += 1
        self._make_folder()

    def boot(self) -> None:
        """Begin a process; one that cannot begin ends, and is begun again by whoever supervises it."""
        self.boots += 1
        self.process = Process(self)
        self.stage.begin(self.process)


class Task:
    """One loop of a process, ticked when it was rung or is due."""

    def __init__(self, process: Process, loop: Loop) -> None:
        self.process = process
        self.name = loop.name
        self._loop = loop
        self._thread = LoopThread(_Kept(self, loop), process.runtime, fatal=process.fail, stale=process.lost)
        self.is_rung = True
        #: It is somewhere in the middle of a tick.
        self.is_busy = False
        #: It ends after its present tick.
        self.is_stopped = False
        self.ticked = Ticked()
        #: When it wants to be ticked, in microseconds of simulated time.
        self.due = 0
        self.sweep = 0
        #: How often anything had been committed when it last began, and when that was.
        self.seen = -1
        self.began = -1
        #: When the lease's loop last told the others that this process is there.
        self.shown = 0
        self.led = False
        self._quiet_since, self._quiet_ticks = 0, 0
        process.runtime.bells.hang(loop.name, self.ring)

    def ring(self) -> None:
        """Wake it."""
        self.is_rung = True

    def ready_at(self, stage: Stage) -> int:
        """Return when it is to be ticked next, as things are now.

        A sweep finds something only when something was written since the last tick, so one that would find nothing is left out.
        """
        if self.is_rung:
            return 0
        if self.name == "lease" and not self.process.lease.leads:
            return self._next_look(stage)
        if self.seen == stage.version:
            return self.due
        if self.sweep < stage.changed_at:
            self.sweep += -(-(stage.changed_at - self.sweep) // _sweep()) * _sweep()
        return min(self.due, self.sweep)

    def _next_look(self, stage: Stage) -> int:
        """Return when who follows looks for the lease next: looks that would find it as it was at the last one are left out."""
        ends_at = stage.lease_at + _TTL
        if stage.lease_at >= self.began or ends_at <= self.began:
            return self.due
        return max(self.due, min(ends_at, self.shown + _RENEW))

    def tick(self) -> None:
        """Tick it once."""
        stage, clock = self.process.stage, self.process.runtime.clock
        self.is_rung, self.is_busy, self.seen, self.began = False, True, stage.version, stage.t
        self.ticked = Ticked()
        try:
            wait = self._thread._tick()
        except StaleTerm as error:
            self.is_stopped = True
            self.process.lost(f"loop {self.name}: {error.message}")
            return
        except Died:
            raise
        finally:
            self.is_busy = False
        if self.name == "lease":
            self._note_lease()
        self.sweep = stage.t + _sweep()
        self.due = stage.t + int(wait * SECOND) if wait < _sweep() / SECOND else NEVER
        next_at = self.ticked.next_at
        if self.due == NEVER and next_at is not None:
            self.due = stage.t + max(int((next_at - clock.now()).total_seconds() * SECOND), 1000)
        self._note_spin()

    def _note_spin(self) -> None:
        """Hold it against a loop that asks to be ticked again and again while nothing happens: it would cost a core of the machine."""
        stage = self.process.stage
        if self.seen != stage.version or stage.t - self._quiet_since > SECOND:
            self._quiet_since, self._quiet_ticks = stage.t, 0
        self._quiet_ticks += 1
        if self._quiet_ticks > _SPINS:
            stage.breaks.append(
                f"loop {self.name} of {self.process.name} spins: it wants a tick at {self.ticked.next_at}"
            )
            self._quiet_ticks = 0
            self.due, self.is_rung = stage.t + SECOND, False

    def _note_lease(self) -> None:
        """Keep what tells when the next look is worth while."""
        lease, stage = self.process.lease, self.process.stage
        self.shown = int(((lease._shown or 0.0) - 1000.0) * SECOND)
        if lease.leads and not self.led:
            stage.lease_at = stage.t
        self.led = lease.leads


_TTL, _RENEW = int(TTL.total_seconds() * SECOND), int(RENEW.total_seconds() * SECOND)


#: More ticks than this in a second in which nothing is written are a loop that spins.
_SPINS = 100


def _sweep() -> int:
    return int(loop_thread.SWEEP.total_seconds() * SECOND)


class _Kept:
    """A loop whose last answer is kept."""

    def __init__(self, task: Task, loop: Loop) -> None:
        self.name = loop.name
        self._task = task
        self._loop = loop

    def tick(self, now: datetime) -> Ticked:
        """Tick the loop."""
        self._task.ticked = self._loop.tick(now)
        return self._task.ticked


class Once:
    """Something that a process does once, in a thread of its own."""

    name = "once"

    def __init__(self, process: Process, call: Callable[[], None], *, blocked_by: Sequence[str] = ()) -> None:
        self.process = process
        self._call = call
        self._blocked_by = blocked_by
        self.is_busy = self.is_stopped = False

    def ready_at(self, stage: Stage) -> int:
        """Return when it is to be done: not while a loop is busy that it would wait for."""
        del stage
        return NEVER if any(map(self.process.is_busy_with, self._blocked_by)) else 0

    def tick(self) -> None:
        """Do it."""
        self.is_busy = True
        self.process.once.remove(self)
        self._call()


class Process:
    """A daemon without threads."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.stage = stage = host.stage
        self.name = f"{host.name}#{host.boots}"
        self.is_alive = True
        #: Until then it does not run: it was sent SIGSTOP.
        self.stopped_until = 0
        #: The transaction that is about to be committed: name, whether fenced, term, whether it wrote anything.
        self.committing: tuple[str, bool, int, bool] | None = None
        self.once: list[Once] = []
        self._term_tasks: list[Task] = []
        self._former: list[Task] = []
        self._has_begun = False
        self.is_reloading = False
        #: It is in the middle of a transaction that writes, which nobody may hold up: all others would wait.
        self.is_writing = False
        self.failed = ""
        clock = SimulatedClock(stage, host)
        chance = chance_of(stage.seed, self.name)
        ids = Ids(clock, chance)
        config = load_config(host.folder / "retrain.yaml")
        self.store = SimulatedStore(
            stage.url, process=self, clock=clock, ids=ids, database_clock=SimulatedClock(stage, None)
        )
        self.runtime = Runtime(
            config=config,
            store=self.store,
            clock=clock,
            random=chance,
            ids=ids,
            log=stage.log_of(self),
            metrics=_METRICS,
            owner=host.owner,
        )
        self.crew = Crew(self.runtime, reload=self._load_again, reconfigured=self._say_configured)
        self.crew.sources._inbox = _Waited(self)  # type: ignore[assignment]
        told = Told(
            is_well=self._is_well, is_free=self._is_free, report=lambda: {"ready": True}, changed=self._change_loops
        )
        me = Replica(
            id=ids.make(REPLICA_ID),
            owner=host.owner,
            host="localhost" if stage.story.same_names else host.name,
            pid=7 if stage.story.same_names else 1000 + host.boots,
            program="sim",
            config_version=config.version,
            config_at=clock.now(),
            address=host.name,
            started_at=clock.now(),
            seen_at=clock.now(),
        )
        self.lease = self.runtime.lease = Lease(self.runtime, me, told, ttl=None if stage.story.is_alone else TTL)
        self._own_tasks = [Task(self, loop) for loop in [self.lease, *self.crew.loops_of_every_replica()]]

    # ------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin, as the daemon does."""
        if self.stage.story.is_alone:
            self.lease.seize()
        self._has_begun = True
        self._change_loops()

    def die(self) -> None:
        """End as by `kill -9`."""
        self.is_alive = False
        if self.host.process is self:
            self.host.process = None

    def fail(self, reason: str) -> None:
        """Hear that a part of it is dead: the process ends by itself, and is begun again."""
        self.failed = self.failed or reason

    def lost(self, reason: str) -> None:
        """Hear that a write was refused because another leads."""
        if self.stage.story.is_alone:
            self.fail(reason)
        else:
            self.lease.lose(reason)

    def goodbye(self) -> bool:
        """End politely, unless something is at work; return whether it ended."""
        if any(task.is_busy for task in self.tasks()):
            return False
        self.crew.doctor.flush()
        self.lease.give_back()
        self.lease.leave()
        return True

    def tasks(self) -> Iterator[Task | Once]:
        """Return everything that may be ticked."""
        yield from self._own_tasks
        yield from self._term_tasks
        yield from self.once

    def is_busy_with(self, name: str) -> bool:
        """Say whether a loop is in the middle of a tick."""
        return any(task.is_busy and task.name == name for task in (*self._own_tasks, *self._term_tasks, *self._former))

    def look_again(self) -> None:
        """The clock was set: what waits for an instant looks within a sweep."""
        for task in (*self._own_tasks, *self._term_tasks):
            task.seen = -1
            task.sweep = min(task.sweep, self.stage.t + _sweep())

    # ------------------------------------------------------------------------------------------------ what the lease asks

    def _is_well(self) -> bool:
        return not self.failed

    def _is_free(self) -> bool:
        self._former = [task for task in self._former if task.is_busy]
        return not self._former and self.crew.stop_sending()

    def _change_loops(self) -> None:
        if not self._has_begun:
            return
        for task in self._term_tasks:
            task.is_stopped = True
        self._former = [task for task in (*self._former, *self._term_tasks) if task.is_busy]
        self._term_tasks = [Task(self, loop) for loop in self.crew.new_loops()]
        self.once.append(Once(self, lambda: self.crew.sources.use(self.runtime.config), blocked_by=("ticker",)))

    def _say_configured(self) -> None:
        self.lease.configured(anew=True)

    def _load_again(self) -> Config:
        return reload_config(self.runtime.config)


class _Waited:
    """The inbox as a source sees it: who waits for its answer lets everything else go on meanwhile."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def put(self, origin: str, batch: Batch, *, term: int | None = None) -> _Answer:
        """Hand over a batch."""
        self._process.stage.reached("source.emit")
        return _Answer(self._process, self._process.crew.inbox.put(origin, batch, term=term))


class _Answer:
    def __init__(self, process: Process, future: Future[list[Receipt]]) -> None:
        self._process = process
        self._future = future

    def result(self) -> list[Receipt]:
        """Wait for the answer."""
        self._process.stage.wait(self._process, self._future.done)
        return self._future.result(timeout=0)
