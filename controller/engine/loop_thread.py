"""Gives a loop a thread, a bell that wakes it, and a sweep that wakes it when every bell failed.

What a tick raises ends here: a store that is away is tried again soon, a term that is over is told to the lease, everything else is logged,
shown in `/readyz` and tried again; a thread that would end in another way ends the process. The daemon starts these threads;
the simulator ticks them without starting them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import timedelta

from controller.engine.health import BLOCKED_AFTER, Part
from controller.engine.runtime import Loop, Runtime
from controller.errors import StoreBusy
from controller.retry import backoff, store_backoff
from controller.store.store import StaleTerm

#: Each loop looks at its rows this often even when nothing rings: the safety net under the bells.
SWEEP = timedelta(seconds=10)
#: … and so often when other daemons run on the same database and cannot wake it.
UNHEARD_SWEEP = timedelta(seconds=1)
#: A step during which the database goes on answering may take so long; then it counts as blocked all the same.
LONGEST_TICK = timedelta(minutes=30)
#: A step that was in the way of others is taken again so often before anybody hears of it.
CONTENDED = 5
#: A loop that has not finished a step for a minute is blocked (`health.py`).
#: But these wait for other people's programs, and read and remove artifacts of any size: a step of theirs may take longer.
PATIENT_LOOPS = {"gatekeeper": timedelta(minutes=30), "janitor": timedelta(minutes=30), "outbox": timedelta(minutes=5)}
#: Seconds after which Python's threads take turns. When little happens, a loop that works towards a start must not wait 5 ms, Python's own
#: interval, for one that only tidies up; when so many events come that a tick decides on a crowd, every turn costs all of them.
QUIET_SWITCH, CROWDED_SWITCH, CROWD = 0.0005, 0.005, 8
#: Seconds between two beginnings of a tick that was rung for; an occasion that comes alone does not wait.
SHORTEST_PERIODS = {"evaluator": 0.01}


class LoopThread:
    """One loop, running."""

    def __init__(
        self,
        loop: Loop,
        runtime: Runtime,
        *,
        fatal: Callable[[str], None],
        stale: Callable[[str], None],
        sweep: Callable[[], timedelta] = lambda: SWEEP,
        lasts: bool = True,
    ) -> None:
        """`fatal` hears that the loop died, `stale` that another daemon leads; one that does not last ends then."""
        self.name = loop.name
        self._sweep = sweep
        self._lasts = lasts
        self._loop = loop
        self._runtime = runtime
        self._fatal = fatal
        self._stale = stale
        self._bell = threading.Event()
        self._stopping = False
        self._ended = threading.Event()
        self._failures = 0
        #: Monotonic seconds at which the last tick ended.
        self._beat_at = runtime.clock.monotonic()
        self._thread = threading.Thread(target=self._run, name=loop.name, daemon=True)
        runtime.bells.hang(loop.name, self._bell.set)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end after the present tick."""
        self._runtime.bells.take_down(self.name, self._bell.set)
        self._stopping = True
        self._ended.set()
        self._bell.set()

    def join(self, timeout: float) -> bool:
        """Wait for its end; return whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def has_ended(self) -> bool:
        """Whether it does nothing any more; one that never started has not ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def part(self) -> Part:
        """Return it as health sees it."""
        now = self._runtime.clock.monotonic()
        patience = PATIENT_LOOPS.get(self.name)
        age = now - self._beat_at
        if age <= LONGEST_TICK.total_seconds():  # a step that still gets answers goes on, but not for ever
            age = now - max(self._beat_at, self._runtime.store.answered_at.get(self._thread.ident or 0, 0.0))
        return Part(
            name=self.name,
            age=age,
            patience=BLOCKED_AFTER if patience is None else patience.total_seconds(),
            has_ended=self.has_ended and not self._stopping,
        )

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._bell.clear()
                began = self._runtime.clock.monotonic()
                wait = self._tick()
                self._beat_at = self._runtime.clock.monotonic()
                if wait > 0 and not self._stopping:
                    self._bell.wait(wait)
                    self._rest(began)
        except BaseException as error:  # a thread that ends silently is the classic dead daemon
            self._runtime.log.error("loop.died", loop=self.name, error=repr(error), exc_info=True)
            self._fatal(f"loop {self.name} died: {error!r}")

    def _rest(self, began: float) -> None:
        """Let more come together when the last tick began only just now: under load, a few large ticks cost less than many small ones."""
        left = SHORTEST_PERIODS.get(self.name, 0.0) - (self._runtime.clock.monotonic() - began)
        if left > 0 and not self._stopping:
            self._ended.wait(left)

    def _tick(self) -> float:
        """Run one tick and return how many seconds to wait for the next."""
        runtime = self._runtime
        began = runtime.clock.monotonic()
        try:
            ticked = self._loop.tick(runtime.clock.now())
        except StaleTerm as error:
            self._stale(f"loop {self.name}: {error.message}")
            self._stopping = not self._lasts
            return self._after_failure()
        except StoreBusy as error:
            if error.code == "store.contended" and self._failures < CONTENDED:
                runtime.log.info("store.contended", loop=self.name, error=error.message)
                return self._soon()
            runtime.complaints.set("store", self.name, error.message, code=error.code)
            runtime.log.warning("store.busy", loop=self.name, code=error.code, error=error.message)
            return self._after_failure()
        except Exception as error:  # the edge of a loop: logged, counted, shown, and tried again
            runtime.complaints.set(self.name, "tick", f"tick failed: {error!r}", code="loop.failing")
            runtime.log.error("loop.tick_failed", loop=self.name, error=repr(error), exc_info=True)
            return self._after_failure()
        finally:
            runtime.metrics.ticks.labels(self.name).observe(runtime.clock.monotonic() - began)
        if self._failures:
            self._failures = 0
            runtime.complaints.set(self.name, "tick", None)
            if runtime.complaints.set("store", self.name, None):
                runtime.bells.ring(
                    *runtime.complaints.of("store")
                )  # the store is back, also for the others that wait for it
        if self.name == "evaluator":
            sys.setswitchinterval(QUIET_SWITCH if ticked.worked < CROWD else CROWDED_SWITCH)
        if ticked.again:
            return 0.0
        wait = self._sweep()
        if ticked.next_at is not None:
            wait = min(wait, max(ticked.next_at - runtime.clock.now(), timedelta(milliseconds=1)))
        return wait.total_seconds()

    def _after_failure(self) -> float:
        self._failures += 1
        return store_backoff(self._failures, self._runtime.random).total_seconds()

    def _soon(self) -> float:
        """Try again after a moment of chance: a deadlock is nobody's fault."""
        self._failures += 1
        first, longest = timedelta(milliseconds=20), timedelta(milliseconds=500)
        return backoff(self._failures, self._runtime.random, first=first, longest=longest).total_seconds()
