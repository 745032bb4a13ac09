"""Keeps how each source has been, and says when one falls silent, or is failing (`trouble.py`).

What came in is counted in memory (`arrivals.py`) and added every few seconds, if there was anything, to the row that all replicas share:
an idle daemon writes nothing. Every replica adds what it heard; who leads also judges.
A source with `expect_every` that is not heard for longer makes one event, `source.silent`, and another when it is heard again: an episode,
which policies may watch like an alert. The event, and the mark that it was made, are one transaction under the leader's term, begun by
reading the row again: neither a restart nor a change of leader repeats it.

Silence is time in which any replica listened: it is measured by clocks that do not jump, and the time in which no daemon ran is left out.
To know that after a crash, the row of a source with `expect_every` is touched every tenth of it, but at most once a minute.
What another replica heard is seen in the row, whose counts have risen; a replica in company reads the rows every few seconds, one alone
never. So news of others is a moment old, and nobody is called silent before that moment has passed too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core.model import CONTROLLER_ORIGIN, EPISODE, EPISODE_EXPIRE, EPISODE_STATE, Json, NewEvent
from controller.core.rhythm import Hearing, SourceNews, SourceStat, added, judge_silence, quiet_before_seconds
from controller.engine.arrivals import Arrivals
from controller.engine.runtime import Runtime, Ticked
from controller.engine.trouble import LOOK_AGAIN_SECONDS, Trouble
from controller.errors import StoreError
from controller.store import Transaction
from controller.store.store import StaleTerm

#: What came in is written at most this often.
FLUSH = timedelta(seconds=5)
#: What another replica heard is known so much later: it waits to be written, and then to be read.
NEWS = 2 * FLUSH
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
class _Verdict:
    """A source falls silent, or does so no longer."""

    #: firing or resolved.
    state: str
    quiet_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class _Change:
    """What is said of a source: how it is from now on, and the event."""

    stat: SourceStat
    event: NewEvent


class Doctor:
    """The loop that writes how sources are, and judges silence. It lives as long as its process, whoever leads."""

    name = "doctor"

    def __init__(
        self, runtime: Runtime, arrivals: Arrivals, *, is_everywhere: Callable[[str], bool] = lambda name: False
    ) -> None:
        """`is_everywhere` says which sources run on every replica, and not only on the one that leads."""
        self._runtime = runtime
        self._arrivals = arrivals
        self._is_everywhere = is_everywhere
        #: One tick at a time.
        self._lock = threading.Lock()
        #: The rows, as they were read or written last; None until they were read.
        self._rows: dict[str, SourceStat] | None = None
        #: Monotonic seconds at which they all were read.
        self._read_at = 0.0
        #: When it was noticed that another replica heard a source, in monotonic seconds.
        self._elsewhere: dict[str, float] = {}
        self._watched: dict[str, _Watch] | None = None
        self._flushed = runtime.clock.monotonic() - FLUSH.total_seconds()
        #: The term under which we judge, and since when in monotonic seconds; None while another leads.
        self._term: int | None = None
        self._judges_since = 0.0
        self._trouble = Trouble(runtime)

    def tick(self, now: datetime) -> Ticked:
        """Write what changed; who leads says which sources fell silent or are heard again."""
        with self._lock:
            monotonic = self._runtime.clock.monotonic()
            is_new = self._meet_term(monotonic)
            self._read_again(monotonic, at_once=is_new)
            fresh = self._fresh(now)
            self._watch(now, monotonic)
            changed = self._changed(monotonic) if self._term is not None else []
            due = monotonic - self._flushed >= FLUSH.total_seconds()
            news = self._arrivals.take() if due or changed else []
            self._write(news, {*fresh, *self._to_touch(monotonic)}, monotonic)
            if due:
                self._flushed = monotonic
            said = self._say(changed, now, monotonic) if self._term is not None else 0
            return Ticked(worked=said, next_at=now + self._wait(monotonic))

    def flush(self) -> None:
        """Write everything there is to write, and until when we listened; for the end of the daemon, so it never raises."""
        if not self._lock.acquire(timeout=1.0):
            return
        try:
            monotonic = self._runtime.clock.monotonic()
            self._read_again(monotonic, at_once=False)
            fresh = self._fresh(self._runtime.clock.now())
            watched = () if self._term is None else self._watched or ()
            self._write(self._arrivals.take(), {*fresh, *watched}, monotonic)
        except StoreError as error:
            self._runtime.log.warning("doctor.not_written", error=error.message)
        finally:
            self._lock.release()

    def stat(self, tx: Transaction, name: str) -> SourceStat:
        """Return how a source is: what all replicas wrote, and what this one heard since."""
        row = tx.sources.get(name) or SourceStat(source=name, since=tx.now)
        news = self._arrivals.pending(name)
        return row if news is None else added(row, news, tx.now)

    def quiet_seconds(self, name: str) -> float | None:
        """Return for how long nobody heard a source of which something is expected, as far as is known here."""
        watch = (self._watched or {}).get(name)
        return None if watch is None else self._quiet(name, watch, self._runtime.clock.monotonic())

    # ------------------------------------------------------------------------------------------- whoever leads

    def _meet_term(self, monotonic: float) -> bool:
        """Find out whether we lead; return whether that, or the term, has changed."""
        term = self._runtime.store.term
        number = term.number if term is not None and self._runtime.lease.leads else None
        if number == self._term:
            return False
        self._term, self._judges_since = number, monotonic
        self._trouble = Trouble(self._runtime)
        return True

    def _read_again(self, monotonic: float, *, at_once: bool) -> None:
        """Read the rows when others may have written them."""
        lease = self._runtime.lease
        is_due = monotonic - self._read_at >= FLUSH.total_seconds()
        is_old = (at_once and lease.is_contested) or (is_due and lease.has_company and bool(self._watched))
        if self._rows is not None and not is_old:
            return
        with self._runtime.store.reading() as tx:
            rows = tx.sources.all()
        self._take_in(rows, monotonic)
        self._read_at = monotonic

    def _take_in(self, rows: Mapping[str, SourceStat], monotonic: float) -> None:
        """Learn from rows what others heard and said."""
        known = self._rows or {}
        for name, row in rows.items():
            if name in known and row.signs > known[name].signs:
                self._elsewhere[name] = monotonic
        self._rows = {**known, **rows}

    # ------------------------------------------------------------------------------------------- counting

    def _fresh(self, now: datetime) -> list[str]:
        """Make a place for sources that were never heard of; return their names."""
        rows = self._rows or {}
        names = {*self._runtime.config.sources, *self._arrivals.names()} - rows.keys()
        self._rows = {**rows, **{name: SourceStat(source=name, since=now) for name in names}}
        return sorted(names)

    def _write(self, news: Sequence[SourceNews], touched: Collection[str], monotonic: float) -> None:
        """Add what we heard to the rows of these sources, and that we listen; nothing when there is nothing."""
        heard = {each.source: each for each in news}
        names = sorted({*heard, *touched})
        if not names:
            return
        try:
            with self._runtime.store.transaction("doctor", fenced=False) as tx:
                rows = tx.sources.lock(names)
                self._take_in(rows, monotonic)
                stats = {name: self._told(rows[name], heard.get(name), tx.now, monotonic) for name in names}
                tx.sources.save(list(stats.values()))
        except BaseException:
            self._arrivals.again(news)
            raise
        self._rows = {**(self._rows or {}), **stats}
        for stat in stats.values():
            self._note_written(stat, monotonic)

    def _told(self, row: SourceStat, news: SourceNews | None, now: datetime, monotonic: float) -> SourceStat:
        """Return a row with what we know of its source."""
        stat = row if news is None else added(row, news, now)
        return replace(stat, quiet_seconds=self._quiet_of(row, monotonic), updated_at=now)

    def _quiet_of(self, row: SourceStat, monotonic: float) -> float | None:
        watch = (self._watched or {}).get(row.source)
        if watch is not None:
            return self._quiet(row.source, watch, monotonic)
        heard = self._arrivals.heard(row.source)
        return row.quiet_seconds if heard is None else monotonic - heard

    def _note_written(self, stat: SourceStat, monotonic: float) -> None:
        if stat.heard_at is not None:
            self._runtime.metrics.source_heard.labels(stat.source).set(stat.heard_at.timestamp())
        watch = (self._watched or {}).get(stat.source)
        if watch is not None:
            watch.written = monotonic

    # ------------------------------------------------------------------------------------------- judging

    def _say(self, changed: Sequence[str], now: datetime, monotonic: float) -> int:
        """Say which sources fell silent or are failing, or no longer, if we still lead; return how many."""
        try:
            return self._tell_of_silence(changed, now, monotonic) + self._tell_of_trouble(now, monotonic)
        except StaleTerm as error:
            if not self._runtime.lease.is_contested:
                raise
            self._runtime.lease.lose(f"loop {self.name}: {error.message}")
            return 0

    def _tell_of_silence(self, changed: Sequence[str], now: datetime, monotonic: float) -> int:
        if not changed:
            return 0
        with self._runtime.store.transaction("silence") as tx:
            self._take_in(tx.sources.lock(changed), monotonic)
            verdicts = {name: self._verdict(name, monotonic) for name in changed}
            changes = [self._change(name, each, now) for name, each in verdicts.items() if each is not None]
            self._save(tx, changes)
        for change in changes:
            self._tell(change)
            self._note_written(change.stat, monotonic)
        return len(changes)

    def _save(self, tx: Transaction, changes: Sequence[_Change]) -> None:
        tx.sources.save([change.stat for change in changes])
        if changes:
            tx.events.add(CONTROLLER_ORIGIN, [change.event for change in changes])
        for change in changes:
            data = change.event.data
            words = "is silent" if change.stat.silent_since is not None else "is silent no longer"
            tx.outbox.add(
                self._runtime.config.notify,
                kind="source_silent",
                title=f"source {change.stat.source} {words}: {data['reason']}",
                body={"source": data["source"], "state": data["state"], "last_event_at": data["last_event_at"]},
                topic=change.stat.source,
            )

    def _tell(self, change: _Change) -> None:
        name = change.stat.source
        self._rows = {**(self._rows or {}), name: change.stat}
        silent = change.stat.silent_since is not None
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
        before, rows, watched = self._watched or {}, self._rows or {}, {}
        for name, spec in self._runtime.config.sources.items():
            if spec.expect_every is None or name not in rows:
                continue
            watched[name] = before.get(name) or _Watch(
                expected=spec.expect_every,
                since=monotonic,
                since_at=None if first else now,
                # What is expected from now on is not expected of the past.
                quiet_before=quiet_before_seconds(rows[name]) if first else 0.0,
                written=monotonic,
            )
            watched[name].expected = spec.expect_every
            self._runtime.metrics.source_silent.labels(name).set(int(rows[name].silent_since is not None))
        self._watched = watched

    def _quiet(self, name: str, watch: _Watch, monotonic: float) -> float:
        known = (self._arrivals.heard(name), self._elsewhere.get(name))
        heard = max((at for at in known if at is not None and at >= watch.since), default=None)
        return monotonic - watch.since + watch.quiet_before if heard is None else monotonic - heard

    def _hear(self, name: str, watch: _Watch, monotonic: float) -> Hearing:
        was_silent = (self._rows or {})[name].silent_since is not None
        # What is silent ends by being heard, and not because there may be news.
        unknown = NEWS.total_seconds() if self._runtime.lease.has_company and not was_silent else 0.0
        # A source that moves to another replica with the lease catches up there, as after a start.
        began = watch.since if self._is_everywhere(name) else max(watch.since, self._judges_since)
        return judge_silence(
            watch.expected,
            quiet_seconds=max(self._quiet(name, watch, monotonic) - unknown, 0.0),
            listening_seconds=monotonic - began,
            was_silent=was_silent,
        )

    def _changed(self, monotonic: float) -> list[str]:
        """Return the sources of which something is to be said; levels, so it does not matter how often it is asked."""
        return sorted(name for name in self._rows or () if self._verdict(name, monotonic) is not None)

    def _verdict(self, name: str, monotonic: float) -> _Verdict | None:
        """Return what is to be said of a source; None when its row says it already."""
        row, watch = (self._rows or {})[name], (self._watched or {}).get(name)
        if watch is None:
            gone = _Verdict("resolved", 0.0, "nothing is expected of it any more")
            return None if row.silent_since is None else gone
        hearing, quiet = self._hear(name, watch, monotonic), self._quiet(name, watch, monotonic)
        if hearing.silent and row.silent_since is None:
            return _Verdict("firing", quiet, hearing.reason)
        if not hearing.silent and row.silent_since is not None:
            return _Verdict("resolved", quiet, "it is heard again")
        return None

    def _change(self, name: str, verdict: _Verdict, now: datetime) -> _Change:
        """Return what is said of a source, as its row is now."""
        row, watch = (self._rows or {})[name], (self._watched or {}).get(name)
        since = row.silent_since or row.heard_at or row.since
        if row.silent_since is None and watch is not None and watch.since_at is not None:
            since = max(since, watch.since_at)
        stat = replace(row, silent_since=since if verdict.state == "firing" else None, updated_at=now)
        if watch is not None:
            stat = replace(stat, quiet_seconds=verdict.quiet_seconds)
        return _Change(stat, self._event(row, since, verdict, now))

    def _event(self, stat: SourceStat, since: datetime, verdict: _Verdict, now: datetime) -> NewEvent:
        watch = (self._watched or {}).get(stat.source)
        complaints = list(self._runtime.complaints.of(stat.source).values())
        data: dict[str, Json] = {
            "source": stat.source,
            "state": verdict.state,
            "reason": verdict.reason,
            "last_event_at": None if stat.heard_at is None else stat.heard_at.isoformat().replace("+00:00", "Z"),
            "silent_for_seconds": int(verdict.quiet_seconds),
            "expected_every_seconds": None if watch is None else watch.expected.total_seconds(),
            "healthy": not complaints,
            "complaints": complaints,
        }
        key = f"silent/{stat.source}/{since.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
        return NewEvent(
            source=f"/sources/{stat.source}",
            source_id=f"{key}/{verdict.state}",
            type=SOURCE_SILENT,
            subject=stat.source,
            time=now,
            data=data,
            extensions={EPISODE: key, EPISODE_STATE: verdict.state, EPISODE_EXPIRE: _EPISODE_EXPIRES_SECONDS},
        )

    def _to_touch(self, monotonic: float) -> list[str]:
        """Return the sources of which is to be written that we listen; one replica does it for all."""
        if self._term is None:
            return []
        return [
            name for name, watch in (self._watched or {}).items() if monotonic - watch.written >= _touch_seconds(watch)
        ]

    # ------------------------------------------------------------------------------------------- when to look again

    def _wait(self, monotonic: float) -> timedelta:
        """Return how long nothing can be due; what comes in meanwhile is found by the sweep."""
        watched = self._watched or {}
        waits = []
        if self._runtime.lease.has_company and watched:
            waits.append(self._read_at + FLUSH.total_seconds() - monotonic)
        if self._term is not None:
            waits += self._waits_of_the_leader(watched, monotonic)
        return timedelta(seconds=max(min(waits, default=600.0), 0.05))

    def _waits_of_the_leader(self, watched: Mapping[str, _Watch], monotonic: float) -> list[float]:
        rows = self._rows or {}
        waits = [FLUSH.total_seconds()] if any(rows[name].silent_since for name in watched) else []
        if self._trouble.is_any:
            waits.append(LOOK_AGAIN_SECONDS)
        for name, watch in watched.items():
            waits.append(watch.written + _touch_seconds(watch) - monotonic)
            if (missing := self._hear(name, watch, monotonic).silent_in_seconds) is not None:
                waits.append(missing)
        return waits


def _touch_seconds(watch: _Watch) -> float:
    return max(watch.expected.total_seconds() / 10, _TOUCH_SECONDS)
