"""`retraind`: the composition root. Builds everything, gives the loops threads, and ends in order.

Health is the minimum over all of them: a loop that does not come back is a dead daemon, whatever else still beats.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller import __version__
from controller.clock import Clock, Ids, Random, SystemClock, system_random
from controller.config import Config, load_config, reload_config
from controller.core.model import REPLICA_ID, Json
from controller.core.replica import Replica
from controller.crash import arm_from_environment
from controller.engine.crew import Crew
from controller.engine.health import BLOCKED_AFTER, Echo, Health, Part, notify_systemd
from controller.engine.lease import TTL, Lease, Process
from controller.engine.logs import Logs
from controller.engine.loop_thread import QUIET_SWITCH, SWEEP, UNHEARD_SWEEP, LoopThread
from controller.engine.outbox import SendThreads
from controller.engine.runtime import Loop, Runtime
from controller.engine.sources import SourceThread
from controller.engine.ticker import PollThreads
from controller.engine.wakes import Wakes
from controller.errors import ConfigError, ControllerError, StoreBusy, StoreError
from controller.retry import when_store_answers
from controller.store import Store, place
from controller.store.dialect import parse_url
from controller.store.lock import InstallationLock
from controller.store.wake import Wire
from controller.telemetry import Metrics, Sink, configure_logs, logger

#: Exit codes, as in sysexits.h.
EX_CONFIG, EX_UNAVAILABLE, EX_SOFTWARE = 78, 69, 70


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
        owner = _prepare_state(config.state_dir, self.random)
        place.check(parse_url(config.store.reveal(), config.base), on_network=config.store.on_network)
        self.store = Store.open(config.store.reveal(), base=config.base, clock=self.clock, ids=ids)
        self._lock = InstallationLock(self.store, state_dir=config.state_dir)
        self.runtime = Runtime(
            config=config,
            store=self.store,
            clock=self.clock,
            random=self.random,
            ids=ids,
            log=self.log,
            metrics=self.metrics,
            owner=owner,
        )
        self.store.when_broken = self.fail
        self.health = Health(self.runtime, self._parts, also=self._look_after, failed=lambda: self.failed)
        self.crew = Crew(
            self.runtime,
            reload=self._load_again,
            reconfigured=self._say_configured,
            polls=PollThreads(),
            sends=SendThreads(),
        )
        process = Process(
            is_well=lambda: not self._dead_parts(),
            is_free=lambda: not self._former_parts(),
            report=self._say_of_itself,
            changed=self._change_loops,
        )
        me = _replica(config, ids.make(REPLICA_ID), self.runtime.owner, self.clock)
        self._is_alone = self.store.dialect == "sqlite"
        self.lease = self.runtime.lease = Lease(self.runtime, me, process, ttl=None if self._is_alone else TTL)
        self._wakes = None if self._is_alone else Wakes(self.runtime, Wire(self.store), replica=me.id)
        self._threads = [self._thread(loop) for loop in [self.lease, *self.crew.loops_of_every_replica()]]
        #: Guards the threads that come and go with the lease.
        self._changing = threading.Lock()
        self._has_begun = False
        self._term_threads: list[LoopThread] = []
        self._former: list[LoopThread] = []
        self._server: Any = None
        self._echo = Echo(self.clock, lambda heard: self._server.call(heard))
        #: What standard error is written through; whoever configured the logs says so.
        self.sink: Sink | None = None
        self._told_dropped = 0

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Take the installation, bring the schema up to date, and set everything going.

        While the database does not answer, health does, and everybody else is told to come again.
        Raises `AlreadyRunning` when another daemon holds it, and `SchemaMismatch` for a newer database.
        """
        config = self.runtime.config
        self._lock.acquire(pid=os.getpid())
        self.runtime.complaints.set("store", "start", "it has not answered yet", code="starting")
        app, self._server = self._make_server(config)
        self._server.start()
        self.health.start()
        try:
            self.waits_for_store = True
            when_store_answers(self._take, give_up_after=timedelta(days=365), waiting=self._say_waiting)
            self.waits_for_store = False
        except BaseException:
            self.health.stop()
            self._server.stop()
            self._lock.release()
            raise
        self.runtime.complaints.set("store", "start", None)
        app.open()
        self._has_begun = True
        self._change_loops()
        for thread in self._threads:
            thread.start()
        if self._wakes is not None:
            self._wakes.start()
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
        self.health.is_started = True
        notify_systemd("READY=1\nSTATUS=")

    def wait(self) -> None:
        """Wait until it is asked to stop, or something in it died; look meanwhile whether the configuration changed."""
        while not self._ended.wait(5):
            self._reload_if_changed()

    def stop(self, *, timeout: float = 20) -> None:
        """End in order: another may lead, no more events in, the present ticks finished, jobs left alone."""
        notify_systemd("STOPPING=1")
        self.health.stop()
        deadline = self.clock.monotonic() + timeout
        self._hand_over(deadline)
        sources = self.crew.sources.threads()
        for source in sources:
            source.stop()
        # First those that wait for the inbox, while it still answers them.
        if not self.crew.ticker.stop(timeout=1.0):
            self.log.warning("retraind.slow_stop", thread="poll")
        self._join(sources, min(deadline, self.clock.monotonic() + timeout / 2))
        if self._server is not None:
            self._server.stop()
        for thread in self._threads:
            thread.stop()
        self._join(self._threads, deadline)
        self.crew.doctor.flush()
        if self._wakes is not None:
            self._wakes.stop()
        self.lease.leave()
        if self._wakes is not None:
            self._wakes.close(timeout=1.5)
        self._lock.release()
        self.store.close()
        self.log.info("retraind.stopped")

    def _hand_over(self, deadline: float) -> None:
        """End the loops of the leader, and let another lead as soon as none of them is at work any more."""
        for thread in self._term_threads:
            thread.stop()
        self._join(self._term_threads, deadline)
        if not self.crew.stop_sending(timeout=max(deadline - self.clock.monotonic(), 0.1)):
            self.log.warning("retraind.slow_stop", thread="send")
        self.lease.give_back()

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
        return {**self.health.report(), "leads": self.lease.leads}

    def _parts(self) -> list[Part]:
        """Return every loop and thread that must come back."""
        parts = [thread.part() for thread in [*self._threads, *self._term_threads] if self._has_begun]
        if self._server is not None:
            has_ended = not self._server.alive()
            age = self._echo.age()
            parts.append(Part(name="http", kind="thread", age=age, patience=BLOCKED_AFTER, has_ended=has_ended))
        parts += [
            Part(name=thread.name, kind="source", age=0.0, has_ended=True)
            for thread in self.crew.sources.threads()
            if thread.has_died
        ]
        return parts

    def _look_after(self) -> None:
        """Do what is to be done every few seconds, whatever the loops do."""
        if self.sink is not None:
            self.sink.drain(1.0)
            dropped = self.metrics.log_lines_dropped
            dropped.inc(self.sink.dropped - self._told_dropped)
            self._told_dropped = self.sink.dropped
        self.runtime.complaints.set("store", "file", self.store.trouble(), code="store.moved")
        if self._server is not None:
            self._echo.ask()

    def _dead_parts(self) -> list[str]:
        """Return what of this process does not work any more, as sentences."""
        dead = [trouble for part in self._parts() if (trouble := part.trouble()) is not None]
        return dead if self.failed is None else [*dead, self.failed]

    # ------------------------------------------------------------------------------------------- replicas

    def _thread(self, loop: Loop, *, lasts: bool = True) -> LoopThread:
        return LoopThread(loop, self.runtime, fatal=self.fail, stale=self._lost, sweep=self._sweep, lasts=lasts)

    def _sweep(self) -> timedelta:
        return SWEEP if self._wakes is None or self._wakes.hears else UNHEARD_SWEEP

    def _lost(self, reason: str) -> None:
        """Hear that a write was refused because another daemon leads."""
        if self._is_alone:
            self.fail(reason)
        else:
            self.lease.lose(reason)

    def _change_loops(self) -> None:
        """Stop the loops of the former role, and start those of the present one; called when this process begins or ceases to lead."""
        with self._changing:
            if self._ended.is_set() or not self._has_begun:
                return
            for thread in self._term_threads:
                thread.stop()
                self.runtime.complaints.forget(thread.name)
                self.runtime.complaints.set("store", thread.name, None)
            self.crew.stop_sending()
            self._former = [thread for thread in [*self._former, *self._term_threads] if not thread.has_ended]
            self._term_threads = [self._thread(loop, lasts=False) for loop in self.crew.new_loops()]
            for thread in self._term_threads:
                thread.start()
        # Stopping a source may take seconds, and the lease must be renewed meanwhile.
        threading.Thread(target=self._use_sources, name="sources", daemon=True).start()

    def _former_parts(self) -> bool:
        """Say whether something of a former term is still at work."""
        with self._changing:
            self._former = [thread for thread in self._former if not thread.has_ended]
            return bool(self._former) or not self.crew.stop_sending()

    def _say_configured(self) -> None:
        config = self.runtime.config
        self.log.info("config.in_use", config_version=config.version, sources=len(config.sources))
        self.lease.configured(anew=True)

    def _say_of_itself(self) -> dict[str, Json]:
        reasons = [*self._dead_parts(), *self.runtime.complaints.all()]
        return {"ready": not reasons, "reasons": list(reasons[:10]), "waiting": self.crew.inbox.waiting}

    # ------------------------------------------------------------------------------------------- parts

    def _take(self) -> None:
        if self.store.upgrade():
            self.log.info("store.upgraded", store=self.store.description())
        if self._is_alone:
            self.lease.seize()
        self.crew.letters.measure()

    def _say_waiting(self, error: StoreBusy) -> None:
        self.runtime.complaints.set("store", "start", error.message, code=error.code)
        self.log.warning("store.waiting", code=error.code, reason=error.message)

    def _make_server(self, config: Config) -> Any:
        from controller.api.app import make_app
        from controller.api.hooks import Hooks
        from controller.api.server import Server
        from controller.store.views import Views

        hooks = Hooks(
            self.crew.sources.pushed,
            self.crew.inbox,
            clock=self.clock,
            log=logger("hooks"),
            refused=lambda source, reason: self.metrics.hooks_refused.labels(source, reason).inc(),
        )
        app = make_app(
            desk=self.crew.desk,
            views=Views(self.store.asking()),
            find_token=Views(self.store).token,
            shed=lambda what: self.metrics.shed.labels(what).inc(),
            is_open=False,
            inbox=self.crew.inbox,
            checkup=self.crew.checkup,
            letters=self.crew.letters,
            notices=self.crew.notices,
            audit=self.crew.audit,
            refused=lambda reason: self.metrics.callers_refused.labels(reason).inc(),
            health=self,
            logs=Logs(self.runtime),
            policies=lambda: self.runtime.config.models,
            clock=self.clock,
            log=logger("api"),
            registry=self.metrics.registry,
            hooks=hooks,
        )
        return app, Server(app, config.http.socket, config.http.listen)

    def _use_sources(self) -> None:
        try:
            self.crew.sources.use(self.runtime.config)
        except Exception as error:  # the edge of a thread: without its sources a daemon only looks alive
            self.log.error("sources.died", error=repr(error), exc_info=True)
            self.fail(f"the sources could not be changed: {error!r}")

    # ------------------------------------------------------------------------------------------- configuration

    def reload(self, *, who: str) -> None:
        """Read the configuration again; a broken one is complained of, and the present one stays in force."""
        try:
            self.crew.desk.reload(who=who)
        except ConfigError:
            return  # complained of where it was read
        except ControllerError as error:
            self._seen = ()  # the next look at the files tries again
            self.runtime.complaints.set(
                "config", "stale", f"stale, the new one could not be taken: {error.message}", code="config.stale"
            )
            self.log.error("config.not_taken", error=str(error))

    def _load_again(self) -> Config:
        with self._reloading:
            self._seen = _signature(self.runtime.config)
            try:
                config = reload_config(self.runtime.config)
            except ConfigError as error:
                more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
                self.runtime.complaints.set(
                    "config", "stale", f"stale, the new one is broken: {error.problems[0]}{more}", code="config.stale"
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


def _replica(config: Config, replica_id: str, owner: str, clock: Clock) -> Replica:
    """Return this process as the others will know it."""
    now = clock.now()
    return Replica(
        id=replica_id,
        owner=owner,
        host=socket.gethostname(),
        pid=os.getpid(),
        program=__version__,
        config_version=config.version,
        config_at=now,
        address=_address(config),
        started_at=now,
        seen_at=now,
    )


def _prepare_state(state_dir: Path, random: Random) -> str:
    """Make the state directory, and return its id; raises `StoreError` where that cannot be."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _owner(state_dir, random)
    except OSError as error:
        raise StoreError(
            f"the state directory {str(state_dir)!r} cannot be written: {error.strerror or error}",
            hint="give it to the daemon's user, or set `state_dir:` to another place",
        ) from error


def _address(config: Config) -> str:
    """Return where the API listens, as people write it."""
    if config.http.listen is None:
        return str(config.http.socket)
    host, port = config.http.listen
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return its exit code."""
    options = _parse(arguments)
    sink = configure_logs(style=options.log, level=options.log_level)
    log = logger("retraind")
    arm_from_environment(dict(os.environ))
    faulthandler.enable()  # also when systemd ends what does not feed its watchdog (SIGABRT)
    faulthandler.register(signal.SIGUSR1)
    threading.excepthook = _say_uncaught
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
    daemon.sink = sink

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


def _say_uncaught(what: threading.ExceptHookArgs) -> None:
    """Log what a thread died of; Python's own way writes to standard error, and waits for whoever reads it."""
    name = "" if what.thread is None else what.thread.name
    error = what.exc_value
    logger("retraind").error("thread.died", thread=name, error=repr(error), exc_info=error)


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
