"""The configured sources, running: streams in threads of their own, timed ones with the ticker, pushed ones ready to be called.

What is pushed is taken by every replica, and so are streams that share themselves out, as Kafka's consumer groups do.
The others, which would see the same things twice, run on the replica that leads.

One source that cannot be built, fails or hangs never keeps another from its work.
A source that a reload changed is stopped and built anew; the others do not notice.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from controller.config import Config, SourceSpec
from controller.core.model import Json
from controller.engine.inbox import Inbox
from controller.engine.runtime import Runtime
from controller.engine.ticker import Ticker
from controller.engine.whereabouts import ask_the_leader
from controller.errors import Conflict, ControllerError, NotFound, PluginError, RetryLater, StoreBusy
from controller.plugins import guarded, load
from controller.ports import Batch, PushSource, SourceContext, StreamSource
from controller.retry import backoff, store_backoff
from controller.telemetry import logger

#: How long a stream may take to end when it is stopped for a reload or a seek.
STOP_SECONDS = 5.0


class SourceThread:
    """A streaming source, running; started again after a backoff when it fails."""

    def __init__(self, name: str, source: StreamSource, runtime: Runtime) -> None:
        self.name = name
        self._source = source
        self._runtime = runtime
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def has_died(self) -> bool:
        """Whether its thread has ended although nobody asked it to."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stop.is_set()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = self._runtime.clock.monotonic()
            try:
                self._source.run(self._stop)
            except BaseException as error:  # whatever a plugin raises, also what ends a thread: it stops only itself
                if self._stop.is_set():
                    self._runtime.log.warning("source.failed_at_stop", source=self.name, error=repr(error))
                    return  # another thread may have its name by now
                failures = 1 if self._runtime.clock.monotonic() - began > 60 else failures + 1
                reason = error.message if isinstance(error, ControllerError) else repr(error)
                self._runtime.complaints.set(self.name, "run", reason)
                is_busy = isinstance(error, StoreBusy)
                self._runtime.log.error("source.failed", source=self.name, error=reason, exc_info=not is_busy)
                wait = store_backoff if is_busy else backoff
                self._stop.wait(wait(failures, self._runtime.random).total_seconds())
            # A source that runs well does not return, so it counts as well from the moment it is tried again.
            if not self._stop.is_set():
                self._runtime.complaints.set(self.name, "run", None)


class _Door:
    """A running source's way to the inbox: closed once it was stopped, so that one that hangs can neither speak nor remember any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextlib.contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """Let one call through; raises `Conflict` when it is closed."""
        with self._changed:
            if self._closed:
                raise Conflict(f"source {name!r} was stopped, and may not emit any more")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing is let through any more."""
        return self._closed

    def close(self, timeout: float) -> bool:
        """Let no further call through; return whether those inside came out in time."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._inside, timeout)


@dataclass(slots=True)
class _Running:
    spec: SourceSpec
    #: The plugin, behind its crash points.
    source: Any
    shape: str
    door: _Door
    #: The term that it belongs to; None for one that runs whoever leads.
    term: int | None
    thread: SourceThread | None = None
    #: What the source noted, by name: when, and what.
    notes: dict[str, tuple[datetime, Json | bytes]] = field(default_factory=dict)


class Sources:
    """Every source of the configuration in force."""

    def __init__(self, runtime: Runtime, inbox: Inbox, ticker: Ticker) -> None:
        self._runtime = runtime
        self._inbox = inbox
        self._ticker = ticker
        self._changing = threading.RLock()
        self._running: dict[str, _Running] = {}

    def use(self, config: Config) -> None:
        """Start the sources that are new or changed, and stop those that are gone or changed, or are not for this replica now."""
        with self._changing:
            for name, running in list(self._running.items()):
                is_over = running.term is not None and running.term != self._term()
                if config.sources.get(name) != running.spec or is_over:
                    self._end(running)
                    del self._running[name]
                    self._runtime.complaints.forget(name)
            for name, spec in config.sources.items():
                if name not in self._running:
                    self._begin(name, spec)
            self._hand_to_ticker()

    def threads(self) -> list[SourceThread]:
        """Return the threads of the streams."""
        return [running.thread for running in self._running.values() if running.thread is not None]

    def names(self) -> list[str]:
        """Return the names of the sources that were built."""
        return list(self._running)

    def pushed(self, name: str) -> PushSource | None:
        """Return the source that serves `/hooks/{name}`; None when there is none.

        Raises `RetryLater` for one that is configured but does not run now, at the start or during a reload: its callers must come again,
        and what is answered with 404 they would drop.
        """
        running = self._running.get(name)
        if running is None and name in self._runtime.config.sources:
            raise RetryLater(f"source {name!r} does not run now", after_seconds=1)
        return cast(PushSource, running.source) if running is not None and running.shape == "push" else None

    def get(self, name: str) -> Any:
        """Return a source's plugin, for what it can do beside its shape (`ports.py`); raises `NotFound`."""
        running = self._running.get(name)
        if running is None:
            known = ", ".join(sorted(self._running)) or "none"
            hint = ask_the_leader(self._runtime) if self.is_elsewhere(name) else f"running: {known}"
            raise NotFound(f"no source {name!r} runs here", hint=hint)
        return running.source

    def notes(self, name: str) -> Mapping[str, tuple[datetime, Json | bytes]]:
        """Return what a source noted last, by name."""
        running = self._running.get(name)
        return dict(running.notes) if running is not None else {}

    def shape(self, name: str) -> str | None:
        """Return a source's shape: stream, timed or push; None when it was not built."""
        running = self._running.get(name)
        return None if running is None else running.shape

    def is_everywhere(self, name: str) -> bool:
        """Say whether a configured source runs on every replica, and not only on the one that leads."""
        spec = self._runtime.config.sources.get(name)
        try:
            return spec is not None and _is_everywhere(load("sources", spec.type))
        except PluginError:
            return False

    def is_elsewhere(self, name: str) -> bool:
        """Say whether a source does not run here because another replica leads."""
        known = name in self._runtime.config.sources
        return known and not self._runtime.lease.leads and not self.is_everywhere(name)

    def shape_of(self, name: str) -> str | None:
        """Return the shape that a configured source has wherever it runs; None when its plugin cannot be loaded."""
        spec = self._runtime.config.sources.get(name)
        try:
            return None if spec is None else _shape(load("sources", spec.type))
        except PluginError:
            return None

    def restart(self, name: str, between: Callable[[], None]) -> None:
        """Stop a source, call `between`, and build and start it anew.

        Raises `NotFound`, what `between` raises, and `Conflict` when something of it is still being stored, which might be written
        over what `between` wrote.
        """
        with self._changing:
            self.get(name)
            running = self._running.pop(name)
            silent = self._end(running)
            self._runtime.complaints.forget(name)
            try:
                if not silent:
                    raise Conflict(
                        f"source {name!r} still stored something after {STOP_SECONDS:g} s, so nothing was changed",
                        hint="it was started anew; try again when the store is quicker",
                    )
                between()
            finally:
                self._begin(name, running.spec)
                self._hand_to_ticker()

    def _begin(self, name: str, spec: SourceSpec) -> None:
        runtime = self._runtime
        notes: dict[str, tuple[datetime, Json | bytes]] = {}
        door = _Door()
        try:
            cls = load("sources", spec.type)
            term = None if _is_everywhere(cls) else self._term()
            if term is None and not _is_everywhere(cls):
                return
            source = guarded(cls(spec.options, self._context(name, notes, door, term)), f"source.{spec.type}")
        except Exception as error:  # one source that cannot be built must not keep the others from starting
            runtime.complaints.set(name, "build", f"cannot be built: {error}")
            runtime.log.error("source.not_built", source=name, error=repr(error), exc_info=True)
            return
        runtime.complaints.set(name, "build", None)
        shape = _shape(cls)
        running = _Running(spec, source, shape, door, term, notes=notes)
        self._running[name] = running
        if shape == "stream":
            running.thread = SourceThread(name, source, runtime)
            running.thread.start()

    def _end(self, running: _Running) -> bool:
        """Stop a source; return whether nothing of it can be stored any more, even if its thread hangs."""
        if running.thread is not None:
            running.thread.stop()
            if not running.thread.join(STOP_SECONDS):
                self._runtime.log.warning("source.slow_stop", source=running.spec.name)
        if running.shape == "timed" and not self._ticker.let_go(running.spec.name, timeout=STOP_SECONDS):
            self._runtime.log.warning("source.slow_stop", source=running.spec.name)
        return running.door.close(STOP_SECONDS)

    def _hand_to_ticker(self) -> None:
        self._ticker.use({name: each.source for name, each in self._running.items() if each.shape == "timed"})

    def _term(self) -> int | None:
        """Return the term of this replica; None while it does not lead."""
        term = self._runtime.store.term
        return term.number if term is not None and self._runtime.lease.leads else None

    def _context(
        self, name: str, notes: dict[str, tuple[datetime, Json | bytes]], door: _Door, term: int | None
    ) -> SourceContext:
        runtime = self._runtime

        def emit(batch: Batch) -> Any:
            with door.passing(name):
                return self._inbox.put(name, batch, term=term).result()

        def recall(prefix: str) -> Mapping[str, Any]:
            with runtime.store.reading() as tx:
                return tx.events.recall(name, prefix)

        def complain(what: str, reason: str | None) -> None:
            if door.closed:
                return  # another may have its name by now
            if runtime.complaints.set(name, what, reason) and reason is not None:
                runtime.log.warning("source.complains", source=name, about=what, reason=reason)

        def note(what: str, value: Json | bytes) -> None:
            notes[what] = (runtime.clock.now(), value)

        return SourceContext(
            name=name,
            base=runtime.config.base,
            clock=runtime.clock,
            random=runtime.random,
            log=logger(f"source.{name}"),
            emit=emit,
            recall=recall,
            complain=complain,
            note=note,
        )


def _shape(cls: Any) -> str:
    return "timed" if hasattr(cls, "poll") else "push" if hasattr(cls, "take") else "stream"


def _is_everywhere(source: Any) -> bool:
    """Say whether a source, or its class, runs on every replica and not only on the one that leads."""
    return hasattr(source, "take") or bool(getattr(source, "everywhere", False))
