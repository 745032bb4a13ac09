"""Keeps how each source has been, and says when one falls silent, or is failing (`trouble.py`).

What came in is counted in memory (`arrivals.py`) and written every few seconds if there was anything: an idle daemon writes nothing.
A source with `expect_every` that is not heard for longer makes one event, `source.silent`, and another when it is heard again: an episode,
which policies may watch like an alert. The event, and the mark that it was made, are one transaction, so a restart repeats neither.

Silence is time in which we listened: it is measured by the clock that does not jump, and the time in which no daemon ran is left out.
To know that after a crash, the row of a source with `expect_every` is touched every tenth of it, but at most once a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core.model import CONTROLLER_ORIGIN, EPISODE, EPISODE_EXPIRE, EPISODE_STATE, Json, NewEvent
from controller.core.rhythm import Hearing, SourceStat, judge_silence, quiet_before_seconds
from controller.engine.arrivals import Arrivals
from controller.engine.runtime import Runtime, Ticked
from controller.engine.trouble import LOOK_AGAIN_SECONDS, Trouble
from controller.errors import StoreError
from controller.store import Transaction

#: What came in is written at most this often.
FLUSH = timedelta(seconds=5)
#: The type of the event that says that a source is silent, or (resolved) heard again.
SOURCE_SILENT = "source.silent"
#: That we listen is written for a source with `expect_every` each tenth of it, but not more often than this.
_TOUCH_SECONDS = 60.0
#: Silence ends by being heard, however long that takes; this only bounds what a lost configuration would leave open.
_EPISODE_EXPIRES_SECONDS = 365 * 86_400


@dataclass(slots=True)
class _Watch:
    """What we know of a source of which something is expected."""

    #: How often.
    expected: timedelta
    #: Monotonic seconds since when.
    since: float
    #: The same by the clock on the wall; None for what was expected when we started.
    since_at: datetime | None
    #: For how long nothing had been heard then.
    quiet_before: float
    #: Monotonic seconds at which its row was written last.
    written: float


@dataclass(frozen=True, slots=True)
class _Change:
    """A source fell silent, or did so no longer."""

    stat: SourceStat
    event: NewEvent
    silent_since: datetime | None


class Doctor:
    """The loop that writes how sources are, and judges silence."""

    name = "doctor"

    def __init__(self, runtime: Runtime, arrivals: Arrivals) -> None:
        self._runtime = runtime
        self._arrivals = arrivals
        self._trouble = Trouble(runtime)
        #: One tick at a time.
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        #: How each source was before this process; None until it was read.
        self._before: dict[str, SourceStat] | None = None
        self._watched: dict[str, _Watch] | None = None
        self._flushed = runtime.clock.monotonic() - FLUSH.total_seconds()

    def tick(self, now: datetime) -> Ticked:
        """Write what changed, and say which sources fell silent or are heard again."""
        with self._lock:
            fresh = self._meet(now)
            monotonic = self._runtime.clock.monotonic()
            self._watch(now, monotonic)
            changes = list(self._judge(now, monotonic))
            due = self._flush_due(monotonic)
            changed = self._arrivals.changed() if due or changes else []
            touched = self._to_touch(monotonic)
            self._write({*fresh, *changed, *touched}, changes, counted=changed)
            if due:
                self._flushed = monotonic
            told = self._tell_of_trouble(now, monotonic)
            return Ticked(worked=len(changes) + told, next_at=now + self._wait(monotonic))

    def flush(self) -> None:
        """Write everything there is to write, and until when we listened; for the end of the daemon, so it never raises."""
        if not self._lock.acquire(timeout=1.0):
            return
        try:
            fresh = self._meet(self._runtime.clock.now())
            changed = self._arrivals.changed()
            self._write({*fresh, *changed, *(self._watched or ())}, [], counted=changed)
        except StoreError as error:
            self._runtime.log.warning("doctor.not_written", error=error.message)
        finally:
            self._lock.release()

    def stat(self, name: str) -> SourceStat:
        """Return how a source is, up to this moment."""
        before = self._known().get(name) or SourceStat(source=name, since=self._runtime.clock.now())
        return self._arrivals.added_to(before)

    def quiet_seconds(self, name: str) -> float | None:
        """Return for how long we have listened without hearing a source of which something is expected."""
        watch = (self._watched or {}).get(name)
        return None if watch is None else self._quiet(name, watch, self._runtime.clock.monotonic())

    # ------------------------------------------------------------------------------------------- counting

    def _known(self) -> dict[str, SourceStat]:
        with self._reading:
            if self._before is None:
                with self._runtime.store.reading() as tx:
                    self._before = tx.sources.all()
            return self._before

    def _meet(self, now: datetime) -> list[str]:
        """Make a place for sources that were never heard of; return their names."""
        known = self._known()
        fresh = {*self._runtime.config.sources, *self._arrivals.names()} - known.keys()
        known.update((name, SourceStat(source=name, since=now)) for name in fresh)
        return sorted(fresh)

    def _flush_due(self, monotonic: float) -> bool:
        return monotonic - self._flushed >= FLUSH.total_seconds()

    def _write(self, names: Iterable[str], changes: Sequence[_Change], *, counted: Sequence[str]) -> None:
        """Write these sources and the events of these changes, in one transaction; nothing when there is nothing."""
        known = self._known()
        stats = {name: self._arrivals.added_to(known[name]) for name in names}
        for change in changes:
            stats[change.stat.source] = replace(self._arrivals.added_to(change.stat), silent_since=change.silent_since)
        if not stats:
            return
        try:
            with self._runtime.store.transaction("doctor") as tx:
                self._save(tx, list(stats.values()), changes)
        except BaseException:
            self._arrivals.again(counted)
            raise
        monotonic = self._runtime.clock.monotonic()
        for stat in stats.values():
            self._note_written(stat, monotonic)
        for change in changes:
            self._tell(change)

    def _save(self, tx: Transaction, stats: Sequence[SourceStat], changes: Sequence[_Change]) -> None:
        tx.sources.save(stats)
        if changes:
            tx.events.add(CONTROLLER_ORIGIN, [change.event for change in changes])
        for change in changes:
            data = change.event.data
            words = "is silent" if change.silent_since is not None else "is silent no longer"
            tx.outbox.add(
                self._runtime.config.notify,
                kind="source_silent",
                title=f"source {change.stat.source} {words}: {data['reason']}",
                body={"source": data["source"], "state": data["state"], "last_event_at": data["last_event_at"]},
                topic=change.stat.source,
            )

    def _note_written(self, stat: SourceStat, monotonic: float) -> None:
        if stat.heard_at is not None:
            self._runtime.metrics.source_heard.labels(stat.source).set(stat.heard_at.timestamp())
        watch = (self._watched or {}).get(stat.source)
        if watch is not None:
            watch.written = monotonic

    def _tell(self, change: _Change) -> None:
        name = change.stat.source
        self._known()[name] = replace(change.stat, silent_since=change.silent_since)
        silent = change.silent_since is not None
        self._runtime.metrics.source_silent.labels(name).set(int(silent))
        self._runtime.metrics.events.labels(CONTROLLER_ORIGIN, "stored").inc()
        data = change.event.data
        if silent:
            self._runtime.log.warning("source.silent", source=name, silent_for_seconds=data["silent_for_seconds"])
        else:
            self._runtime.log.info("source.heard_again", source=name, reason=data["reason"])
        self._runtime.bells.ring("evaluator", "outbox")

    def _tell_of_trouble(self, now: datetime, monotonic: float) -> int:
        """Say which sources are failing, or no longer; return how many."""
        events = self._trouble.judge(now, monotonic)
        if events:
            with self._runtime.store.transaction("trouble") as tx:
                tx.events.add(CONTROLLER_ORIGIN, events)
            self._trouble.wrote(events)
            self._runtime.metrics.events.labels(CONTROLLER_ORIGIN, "stored").inc(len(events))
            self._runtime.bells.ring("evaluator")
        return len(events)

    # ------------------------------------------------------------------------------------------- silence

    def _watch(self, now: datetime, monotonic: float) -> None:
        """Begin to watch sources of which something is expected now, and end it for the others."""
        first = self._watched is None
        before, known, watched = self._watched or {}, self._known(), {}
        for name, spec in self._runtime.config.sources.items():
            if spec.expect_every is None or name not in known:
                continue
            watched[name] = before.get(name) or _Watch(
                expected=spec.expect_every,
                since=monotonic,
                since_at=None if first else now,
                # What is expected from now on is not expected of the past.
                quiet_before=quiet_before_seconds(known[name]) if first else 0.0,
                written=monotonic,
            )
            watched[name].expected = spec.expect_every
            self._runtime.metrics.source_silent.labels(name).set(int(known[name].silent_since is not None))
        self._watched = watched

    def _quiet(self, name: str, watch: _Watch, monotonic: float) -> float:
        heard = self._arrivals.heard(name)
        if heard is not None and heard >= watch.since:
            return monotonic - heard
        return monotonic - watch.since + watch.quiet_before

    def _hear(self, name: str, watch: _Watch, monotonic: float) -> Hearing:
        return judge_silence(
            watch.expected,
            quiet_seconds=self._quiet(name, watch, monotonic),
            listening_seconds=monotonic - watch.since,
            was_silent=self._known()[name].silent_since is not None,
        )

    def _judge(self, now: datetime, monotonic: float) -> Iterable[_Change]:
        """Return what changed about silence; levels, so it does not matter how often it is asked."""
        for name, before in self._known().items():
            watch = (self._watched or {}).get(name)
            if watch is None:
                if before.silent_since is not None:
                    yield self._resolved(before, now, 0.0, "nothing is expected of it any more")
                continue
            hearing = self._hear(name, watch, monotonic)
            if hearing.silent and before.silent_since is None:
                yield self._silent(before, watch, now, self._quiet(name, watch, monotonic), hearing)
            elif not hearing.silent and before.silent_since is not None:
                yield self._resolved(before, now, self._quiet(name, watch, monotonic), "it is heard again")

    def _silent(self, before: SourceStat, watch: _Watch, now: datetime, quiet: float, hearing: Hearing) -> _Change:
        stat = self._arrivals.added_to(before)
        since = stat.heard_at or stat.since
        if watch.since_at is not None:
            since = max(since, watch.since_at)
        return _Change(before, self._event(stat, since, "firing", now, quiet, hearing.reason), since)

    def _resolved(self, before: SourceStat, now: datetime, quiet: float, reason: str) -> _Change:
        stat = self._arrivals.added_to(before)
        since = before.silent_since or stat.since
        return _Change(before, self._event(stat, since, "resolved", now, quiet, reason), None)

    def _event(
        self, stat: SourceStat, since: datetime, state: str, now: datetime, quiet: float, reason: str
    ) -> NewEvent:
        watch = (self._watched or {}).get(stat.source)
        complaints = list(self._runtime.complaints.of(stat.source).values())
        data: dict[str, Json] = {
            "source": stat.source,
            "state": state,
            "reason": reason,
            "last_event_at": None if stat.heard_at is None else stat.heard_at.isoformat().replace("+00:00", "Z"),
            "silent_for_seconds": int(quiet),
            "expected_every_seconds": None if watch is None else watch.expected.total_seconds(),
            "healthy": not complaints,
            "complaints": complaints,
        }
        key = f"silent/{stat.source}/{since.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
        return NewEvent(
            source=f"/sources/{stat.source}",
            source_id=f"{key}/{state}",
            type=SOURCE_SILENT,
            subject=stat.source,
            time=now,
            data=data,
            extensions={EPISODE: key, EPISODE_STATE: state, EPISODE_EXPIRE: _EPISODE_EXPIRES_SECONDS},
        )

    def _to_touch(self, monotonic: float) -> list[str]:
        return [
            name for name, watch in (self._watched or {}).items() if monotonic - watch.written >= _touch_seconds(watch)
        ]

    # ------------------------------------------------------------------------------------------- when to look again

    def _wait(self, monotonic: float) -> timedelta:
        """Return how long nothing can be due; what comes in meanwhile is found by the sweep."""
        known = self._known()
        waits = [FLUSH.total_seconds()] if any(known[name].silent_since for name in self._watched or ()) else []
        if self._trouble.is_any:
            waits.append(LOOK_AGAIN_SECONDS)
        for name, watch in (self._watched or {}).items():
            waits.append(watch.written + _touch_seconds(watch) - monotonic)
            if (missing := self._hear(name, watch, monotonic).silent_in_seconds) is not None:
                waits.append(missing)
        return timedelta(seconds=max(min(waits, default=600.0), 0.05))


def _touch_seconds(watch: _Watch) -> float:
    return max(watch.expected.total_seconds() / 10, _TOUCH_SECONDS)
