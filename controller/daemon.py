"""`retraind`: the composition root. Builds everything, gives the loops threads, and ends in order.

The loops have no threads of their own; here each gets one, a bell that wakes it, and a sweep that wakes it when every bell failed.
Health is the minimum over all of them: a loop that does not come back is a dead daemon, whatever else still beats.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller import __version__
from controller.clock import Clock, Ids, Random, SystemClock, system_random
from controller.config import Config, load_config, reload_config
from controller.crash import arm_from_environment
from controller.engine.checkup import Checkup
from controller.engine.desk import Desk
from controller.engine.dispatcher import Dispatcher
from controller.engine.doctor import Doctor
from controller.engine.evaluator import Evaluator
from controller.engine.gatekeeper import Gatekeeper
from controller.engine.inbox import Inbox
from controller.engine.janitor import Janitor
from controller.engine.letters import Letters
from controller.engine.logs import Logs
from controller.engine.monitor import Monitor
from controller.engine.notices import Notices
from controller.engine.outbox import Outbox, SendThreads
from controller.engine.runtime import Loop, Runtime
from controller.engine.sources import Sources, SourceThread
from controller.engine.ticker import PollThreads, Ticker
from controller.engine.watcher import Watcher
from controller.errors import ConfigError, ControllerError, StoreBusy, StoreError
from controller.retry import backoff, when_store_answers
from controller.store import Store
from controller.store.lock import InstallationLock
from controller.store.store import StaleTerm
from controller.telemetry import Metrics, configure_logs, logger

#: Each loop looks at its rows this often even when nothing rings: the safety net under the bells.
SWEEP = timedelta(seconds=10)
#: A loop that has not finished a tick for this long counts as dead.
DEAD_AFTER = timedelta(seconds=60)
#: But these wait for other people's programs, and read and remove artifacts of any size: a step of theirs may take longer.
PATIENT_LOOPS = {"gatekeeper": timedelta(minutes=30), "janitor": timedelta(minutes=30), "outbox": timedelta(minutes=5)}
#: Seconds after which Python's threads take turns. When little happens, a loop that works towards a start must not wait 5 ms, Python's own
#: interval, for one that only tidies up; when so many events come that a tick decides on a crowd, every turn costs all of them.
QUIET_SWITCH, CROWDED_SWITCH, CROWD = 0.0005, 0.005, 8
#: Seconds between two beginnings of a tick that was rung for; an occasion that comes alone does not wait.
SHORTEST_PERIODS = {"evaluator": 0.01}
#: Exit codes, as in sysexits.h.
EX_CONFIG, EX_UNAVAILABLE, EX_SOFTWARE = 78, 69, 70


class LoopThread:
    """One loop, running."""

    def __init__(self, loop: Loop, runtime: Runtime, *, fatal: Callable[[str], None]) -> None:
        self.name = loop.name
        self._loop = loop
        self._runtime = runtime
        self._fatal = fatal
        self._bell = threading.Event()
        self._stopping = False
        self._ended = threading.Event()
        self._failures = 0
        #: Monotonic seconds at which the last tick ended.
        self.beat_at = runtime.clock.monotonic()
        self._thread = threading.Thread(target=self._run, name=loop.name, daemon=True)
        runtime.bells.hang(loop.name, self._bell.set)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end after the present tick."""
        self._stopping = True
        self._ended.set()
        self._bell.set()

    def join(self, timeout: float) -> bool:
        """Wait for its end; return whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._bell.clear()
                began = self._runtime.clock.monotonic()
                wait = self._tick()
                self.beat_at = self._runtime.clock.monotonic()
                if wait > 0:
                    self._bell.wait(wait)
                    self._rest(began)
        except StaleTerm as error:
            self._fatal(f"loop {self.name} ended: {error.message}")
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
        except StaleTerm:
            raise
        except StoreBusy as error:
            runtime.complaints.set("store", self.name, error.message)
            runtime.log.warning("store.busy", loop=self.name, error=error.message)
            return self._after_failure()
        except Exception as error:  # the edge of a loop: logged, counted, shown, and tried again
            runtime.complaints.set(self.name, "tick", f"tick failed: {error!r}")
            runtime.log.error("loop.tick_failed", loop=self.name, error=repr(error), exc_info=True)
            return self._after_failure()
        finally:
            runtime.metrics.ticks.labels(self.name).observe(runtime.clock.monotonic() - began)
        if self._failures:
            self._failures = 0
            runtime.complaints.set("store", self.name, None)
            runtime.complaints.set(self.name, "tick", None)
        if self.name == "evaluator":
            sys.setswitchinterval(QUIET_SWITCH if ticked.worked < CROWD else CROWDED_SWITCH)
        if ticked.again:
            return 0.0
        wait = SWEEP
        if ticked.next_at is not None:
            wait = min(wait, max(ticked.next_at - runtime.clock.now(), timedelta(milliseconds=1)))
        return wait.total_seconds()

    def _after_failure(self) -> float:
        self._failures += 1
        longest = timedelta(seconds=5)
        wait = backoff(self._failures, self._runtime.random, first=timedelta(milliseconds=200), longest=longest)
        return wait.total_seconds()


class Daemon:
    """The controller as one process: construct, `start`, `stop`; tests run it in-process."""

    def __init__(self, config: Config, *, clock: Clock | None = None, random: Random | None = None) -> None:
        self.clock = clock or SystemClock()
        self.random = random or system_random()
        self.log = logger("retraind")
        self.metrics = Metrics()
        self.failed: str | None = None
        #: While the database does not answer: nothing has begun that would have to be ended.
        self.waits_for_store = False
        self._ended = threading.Event()
        self._reloading = threading.Lock()
        ids = Ids(self.clock, self.random)
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = Store.open(config.store.reveal(), base=config.base, clock=self.clock, ids=ids)
        self._lock = InstallationLock(self.store)
        self.runtime = Runtime(
            config=config,
            store=self.store,
            clock=self.clock,
            random=self.random,
            ids=ids,
            log=self.log,
            metrics=self.metrics,
            owner=_owner(config.state_dir, self.random),
        )
        self.inbox = Inbox(self.runtime)
        self.evaluator = Evaluator(self.runtime)
        self.ticker = Ticker(self.runtime, workers=PollThreads())
        self.sources = Sources(self.runtime, self.inbox, self.ticker)
        self.desk = Desk(self.runtime, self.evaluator, reload=self._load_again, reloaded=self._use_sources)
        self.doctor = Doctor(self.runtime, self.inbox.arrivals)
        self.letters = Letters(self.runtime, self.sources.get)
        self.outbox = Outbox(self.runtime, workers=SendThreads())
        self.notices = Notices(self.runtime)
        self.checkup = Checkup(self.runtime, self.inbox, self.sources, self.doctor)
        loops: list[Loop] = [
            self.inbox,
            self.evaluator,
            Dispatcher(self.runtime),
            Monitor(self.runtime),
            Gatekeeper(self.runtime),
            Watcher(self.runtime),
            self.outbox,
            self.ticker,
            self.doctor,
            Janitor(self.runtime),
        ]
        self._threads = [LoopThread(loop, self.runtime, fatal=self.fail) for loop in loops]
        self._server: Any = None

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Take the installation, bring the schema up to date, and set everything going.

        Raises `AlreadyRunning` when another daemon holds it, and `SchemaMismatch` for a newer database.
        """
        config = self.runtime.config
        self.waits_for_store = True
        when_store_answers(self._take, give_up_after=timedelta(days=365), waiting=self._say_waiting)
        self.waits_for_store = False
        self.evaluator.activate(actor="retraind")
        self.letters.measure()
        self._server = self._make_server(config)
        self._server.start()
        for thread in self._threads:
            thread.start()
        self._use_sources(config)
        self.log.info(
            "retraind.ready",
            version=__version__,
            config=str(config.path),
            config_version=config.version,
            store=self.store.description(),
            socket=str(config.http.socket),
            models=len(config.models),
            pid=os.getpid(),
        )
        notify_systemd("READY=1")

    def wait(self) -> None:
        """Wait until it is asked to stop, or something in it died; feed systemd's watchdog meanwhile."""
        while not self._ended.wait(5):
            self._reload_if_changed()
            if self.report()["live"]:
                notify_systemd("WATCHDOG=1")

    def stop(self, *, timeout: float = 20) -> None:
        """End in order: no more events in, the present ticks finished, jobs left alone."""
        notify_systemd("STOPPING=1")
        deadline = self.clock.monotonic() + timeout
        sources = self.sources.threads()
        for source in sources:
            source.stop()
        # First those that wait for the inbox, while it still answers them.
        if not self.ticker.stop(timeout=1.0):
            self.log.warning("retraind.slow_stop", thread="poll")
        self._join(sources, min(deadline, self.clock.monotonic() + timeout / 2))
        if self._server is not None:
            self._server.stop()
        for thread in self._threads:
            thread.stop()
        self._join(self._threads, deadline)
        if not self.outbox.stop(timeout=max(deadline - self.clock.monotonic(), 0.1)):
            self.log.warning("retraind.slow_stop", thread="send")
        self.doctor.flush()
        self._lock.release()
        self.store.close()
        self.log.info("retraind.stopped")

    def _join(self, parts: Sequence[SourceThread | LoopThread], deadline: float) -> None:
        for part in parts:
            if not part.join(max(deadline - self.clock.monotonic(), 0.1)):
                self.log.warning("retraind.slow_stop", thread=part.name)

    def fail(self, reason: str) -> None:
        """End the process because a part of it is dead; whoever supervises us starts a new one."""
        self.failed = self.failed or reason
        self.log.error("retraind.failed", reason=reason)
        self._ended.set()

    def ask_to_stop(self) -> None:
        """Let `wait` return."""
        self._ended.set()

    def report(self) -> dict[str, Any]:
        """Return health: live when every loop comes back, ready when nothing is complained of."""
        now = self.clock.monotonic()
        ages = {thread.name: now - thread.beat_at for thread in self._threads}
        for name, age in ages.items():
            self.metrics.loop_age.labels(name).set(age)
        dead = [
            f"loop {name} has not come back for {age:.0f} s"
            for name, age in ages.items()
            if age > PATIENT_LOOPS.get(name, DEAD_AFTER).total_seconds()
        ]
        if self._server is not None and not self._server.alive():
            dead.append("the API's thread has ended")
        if self.failed is not None:
            dead.append(self.failed)
        reasons = [*dead, *self.runtime.complaints.all()]
        return {
            "live": not dead,
            "ready": not reasons,
            "reasons": reasons,
            "loops": {name: {"age_seconds": round(age, 3)} for name, age in ages.items()},
        }

    # ------------------------------------------------------------------------------------------- parts

    def _take(self) -> None:
        self._lock.acquire(pid=os.getpid())
        try:
            if self.store.upgrade():
                self.log.info("store.upgraded", store=self.store.description())
            self.store.lead(owner=self.runtime.owner, host=socket.gethostname(), pid=os.getpid())
        except StoreError:
            self._lock.release()
            raise

    def _say_waiting(self, reason: str) -> None:
        self.log.warning("store.waiting", reason=reason)

    def _make_server(self, config: Config) -> Any:
        from controller.api.app import make_app
        from controller.api.hooks import Hooks
        from controller.api.server import Server
        from controller.store.views import Views

        hooks = Hooks(
            self.sources.pushed,
            self.inbox,
            clock=self.clock,
            log=logger("hooks"),
            refused=lambda source, reason: self.metrics.hooks_refused.labels(source, reason).inc(),
        )
        app = make_app(
            desk=self.desk,
            views=Views(self.store),
            inbox=self.inbox,
            checkup=self.checkup,
            letters=self.letters,
            notices=self.notices,
            health=self,
            logs=Logs(self.runtime),
            policies=lambda: self.runtime.config.models,
            clock=self.clock,
            log=logger("api"),
            registry=self.metrics.registry,
            hooks=hooks,
        )
        return Server(app, config.http.socket, config.http.listen)

    def _use_sources(self, config: Config) -> None:
        self.log.info("config.in_force", config_version=config.version, sources=len(config.sources))
        self.sources.use(config)

    # ------------------------------------------------------------------------------------------- configuration

    def reload(self, *, who: str) -> None:
        """Read the configuration again; a broken one is complained of, and the present one stays in force."""
        try:
            self.desk.reload(who=who)
        except ConfigError:
            return  # complained of where it was read
        except ControllerError as error:
            self._seen = ()  # the next look at the files tries again
            self.runtime.complaints.set("config", "stale", f"stale, the new one could not be taken: {error.message}")
            self.log.error("config.not_taken", error=str(error))

    def _load_again(self) -> Config:
        with self._reloading:
            self._seen = _signature(self.runtime.config)
            try:
                config = reload_config(self.runtime.config)
            except ConfigError as error:
                more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
                self.runtime.complaints.set(
                    "config", "stale", f"stale, the new one is broken: {error.problems[0]}{more}"
                )
                self.log.error("config.refused", problems=[str(problem) for problem in error.problems])
                raise
            self.runtime.complaints.set("config", "stale", None)
            return config

    def _reload_if_changed(self) -> None:
        seen = _signature(self.runtime.config)
        if seen != self._seen:
            self._seen = seen
            self.reload(who="file change")

    _seen: tuple[Any, ...] = ()

    def remember_files(self) -> None:
        """Take the files as they are now as the configuration in force."""
        self._seen = _signature(self.runtime.config)


def _signature(config: Config) -> tuple[Any, ...]:
    """Return what changes when the configuration's files change."""
    paths = sorted({*config.files, config.path, *(config.path.glob("*.y*ml") if config.path.is_dir() else ())})
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _owner(state_dir: Path, random: Random) -> str:
    """Return the id of the state directory, making it the first time: who may watch the local jobs started from here."""
    path = state_dir / "owner"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        owner = f"{random.getrandbits(64):016x}"
        partial = path.with_suffix(".partial")
        partial.write_text(f"{owner}\n")
        partial.replace(path)
        return owner


def notify_systemd(message: str) -> None:
    """Tell systemd how we are (sd_notify(3)); without systemd, nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return its exit code."""
    options = _parse(arguments)
    configure_logs(style=options.log, level=options.log_level)
    log = logger("retraind")
    arm_from_environment(dict(os.environ))
    faulthandler.register(signal.SIGUSR1)
    sys.setswitchinterval(QUIET_SWITCH)
    try:
        config = load_config(options.config)
        daemon = Daemon(config)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201 - the daemon's last words before it has logs
        return EX_CONFIG
    except ControllerError as error:
        log.error("retraind.refused", reason=str(error))
        return EX_CONFIG
    daemon.remember_files()

    def end(*_: object) -> None:
        daemon.ask_to_stop()
        if daemon.waits_for_store:
            raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=daemon.reload, kwargs={"who": "SIGHUP"}).start())
    try:
        daemon.start()
    except ControllerError as error:
        log.error("retraind.refused", reason=str(error))
        return EX_UNAVAILABLE
    # What was loaded stays, and a batch of events is many objects without cycles: looked through as often as Python does by itself,
    # they cost a fifth of the time that storing and deciding takes.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    daemon.wait()
    daemon.stop()
    return EX_SOFTWARE if daemon.failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="retraind", description="Run the retrain controller.")
    parser.add_argument(
        "--config", default=os.environ.get("RETRAIN_CONFIG", "retrain.yaml"), help="a file, or a folder of files"
    )
    parser.add_argument("--log", choices=["text", "json"], default=os.environ.get("RETRAIN_LOG", "text"))
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--version", action="version", version=f"retraind {__version__}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
