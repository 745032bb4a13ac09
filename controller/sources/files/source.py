"""The source itself: sighted, settled, read, compared with the ledger, stored. The package's
docstring has the ideas.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.core.duration import format_duration
from controller.core.model import Json, NewEvent
from controller.core.selection import Selection
from controller.errors import StoreBusy
from controller.ports import Batch, SourceContext, Stop
from controller.sources.files.groups import FileGroups
from controller.sources.files.ledger import Ledger
from controller.sources.files.names import escape_name, event_id
from controller.sources.files.notes import Notes
from controller.sources.files.options import FileOptions
from controller.sources.files.records import Finding, Known, Sighting
from controller.sources.files.tree import GONE, Content, Stamp, Stopped, Tree, Unsteady
from controller.sources.files.watcher import Hints, Watcher

#: Events and ledger entries that are stored at once, and bytes that are read for them.
_BATCH = 500
_BATCH_BYTES = 64 * 1024 * 1024
#: Paths that may be waiting to settle; a scan pauses when they are so many.
SIGHTED_LIMIT = 20_000
#: Entries of a directory that are looked at before everything else gets a turn.
_SLICE = 2_000
#: A file that was seen appearing, but not being closed, is taken to be written to for this long at
#: least.
_WRITING_SECONDS = 1.0
#: Wait between two scans at least, also when there are hints that one is needed.
_SHORTEST_PAUSE_SECONDS = 0.2
#: The next scan waits for this many times the length of the last one.
_SCAN_SHARE = 10
#: How long the loop sleeps at most, so that it sees `stop` soon.
_LONGEST_WAIT_SECONDS = 0.25
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FileSource:
    """Emits an event for each new content in a folder; a `StreamSource`.

    `scan()` and `settle()` are the two steps, for tests without threads; `run()` is a loop around
    them.
    """

    Options = FileOptions

    def __init__(self, options: FileOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._tree = Tree(os.path.normpath(context.base.absolute() / options.path))
        signals = () if options.group is None else options.group.signals
        self._selection = Selection(options.include, options.exclude, always=signals)
        self._settle_seconds = options.settle.total_seconds()
        self._watcher = Watcher()
        self._halted: Callable[[], bool] = lambda: False
        self._listens = False
        self._notes = Notes(self._tree.root, context)
        self._forget()

    def _forget(self) -> None:
        """Start from nothing; the ledger is the only thing that lasts."""
        self._ledger = Ledger(self._context, self._options.group)
        self._groups = self._make_groups()
        self._sighted: dict[str, Sighting] = {}
        #: (due, path), with entries that are out of date.
        self._queue: list[tuple[float, str]] = []
        #: What the store did not take yet; nothing else is read before it does.
        self._unsaved: list[Finding] = []
        self._retry_at = 0.0
        #: The scan that is going on, and how long it took so far; else how long the last one took.
        self._walk: Generator[tuple[str, Stamp] | None] | None = None
        self._walk_seconds = 0.0
        self._walk_count = 0
        self._scan_at = 0.0
        #: The earliest time by the rule that scans leave most of the time to others.
        self._scan_not_before = 0.0
        self._scan_again = False
        #: When the scan that is going on began, and the last one that ended.
        self._walk_began_at: datetime | None = None
        self._passed: datetime | None = None

    def _make_groups(self) -> FileGroups | None:
        options = self._options
        if options.group is None:
            return None
        return FileGroups(
            options.group, self._tree, self._context, self._notes, event_type=options.event_type, emit=self._emit
        )

    # ------------------------------------------------------------------------------------- the loop

    def run(self, stop: Stop) -> None:
        """Emit events until `stop` is set."""
        self._forget()
        self._halted = stop.is_set
        self._listens = True
        self._scan_at = self._monotonic()
        try:
            while not stop.is_set():
                self._hear(self._watcher.take(self._wait_seconds()))
                self.settle()
                if self._walk is not None or self._monotonic() >= self._scan_at:
                    self._scan_slice()
        finally:
            self._watcher.close()
            if self._walk is not None:
                self._walk.close()

    def scan(self) -> int:
        """Compare the whole tree with the ledger once, emit what has settled, and return the number
        of events.

        It ends early when more is found than may wait to settle, and goes on from there the next
        time.
        """
        emitted = 0
        while True:
            going = self._scan_slice()
            emitted += self.settle()
            if not going or (self._is_full() and not self._is_due()):
                return emitted

    def settle(self) -> int:
        """Emit what has settled; return the number of events. Does nothing while the store is busy."""
        emitted = self._save()
        while not self._unsaved and self._is_due() and not self._halted():
            self._unsaved = self._settled()
            emitted += self._save()
        self._end_baseline()
        return emitted + self._finish_groups()

    def report(self) -> Mapping[str, Json]:
        """Return how many files are known and wait, how long the last scan took, and which data sets wait."""
        facts: dict[str, Json] = {
            "known": self._ledger.count,
            "settling": len(self._sighted),
            "scanning": self._walk is not None,
            "scan_seconds": round(self._walk_seconds, 3),
        }
        groups = self._groups
        return facts if groups is None else {**facts, "groups": groups.report()}

    def _monotonic(self) -> float:
        return self._context.clock.monotonic()

    def _wait_seconds(self) -> float:
        """Return how long there is nothing to do unless something is heard."""
        now = self._monotonic()
        if self._unsaved:
            return min(max(self._retry_at - now, 0.0), _LONGEST_WAIT_SECONDS)
        if self._walk is not None and not self._is_full():
            return 0.0
        moments = [self._queue[0][0]] if self._queue else []
        if self._walk is None:
            moments.append(self._scan_at)
        return min(max(min(moments, default=now) - now, 0.0), _LONGEST_WAIT_SECONDS)

    def _hear(self, hints: Hints) -> None:
        """Look at what was heard of; folders that appeared, and what is too much, are left to a
        scan.
        """
        for absolute, completed in hints.files.items():
            path = os.path.relpath(absolute, self._tree.root)
            if path.startswith("..") and path.split("/", 1)[0] == "..":
                continue
            if not self._selection.admits(path):
                continue
            if self._is_full() and path not in self._sighted:
                hints.scan = True
                break
            self._look(path, completed=completed)
        if hints.scan:
            self._scan_soon()

    def _look(self, path: str, *, completed: bool) -> None:
        try:
            stamp = self._tree.stamp(path)
        except OSError as error:
            self._notes.unreadable(path, error)
            return
        if stamp is None:
            self._drop(path)
        elif completed:
            self._sight(path, stamp, wait=self._settle_seconds, forced=True, news=True)
        elif not self._is_unchanged(path, stamp):
            self._sight(path, stamp, wait=max(self._settle_seconds, _WRITING_SECONDS), news=True)

    def _drop(self, path: str) -> None:
        if self._sighted.pop(path, None) is not None:
            self._notes.vanished(path)

    def _sight(self, path: str, stamp: Stamp, *, wait: float, forced: bool = False, news: bool = False) -> None:
        """Let a path settle, from now on unless it is waiting unchanged already."""
        self._notes.met(path)
        due = self._monotonic() + wait
        before = self._sighted.get(path)
        if before is not None:
            forced, news = forced or before.forced, news or before.news
            if before.stamp == stamp:
                due = min(due, before.due)
        if before is None or due != before.due:
            heapq.heappush(self._queue, (due, path))
        self._sighted[path] = Sighting(stamp, due, forced, news)

    def _is_full(self) -> bool:
        return len(self._sighted) >= SIGHTED_LIMIT

    def _is_due(self) -> bool:
        """Return whether a sighted path has settled by now, after dropping what is out of date in
        the queue.
        """
        while self._queue:
            due, path = self._queue[0]
            sighting = self._sighted.get(path)
            if sighting is not None and sighting.due == due:
                return due <= self._monotonic()
            heapq.heappop(self._queue)
        return False

    def _is_unchanged(self, path: str, stamp: Stamp) -> bool:
        return self._ledger.is_unchanged(path, stamp)

    # ------------------------------------------------------------------------------------- the scan

    def _scan_soon(self) -> None:
        if self._walk is not None:
            self._scan_again = True
        else:
            self._scan_at = min(self._scan_at, self._scan_not_before)

    def _scan_slice(self) -> bool:
        """Begin a scan or go on with it, and return whether there is more to it.

        It ends with the slice, or when as much as may wait to settle was found.
        """
        if self._walk is None and not self._begin_walk():
            return False
        assert self._walk is not None  # noqa: S101 - for the type checker
        if self._is_full():
            return True
        started = self._monotonic()
        ended = True
        for found in self._walk:
            if found is not None:
                before = self._sighted.get(found[0])
                news = before.news if before else self._ledger.baselined or self._walk_count > 1
                self._sight(*found, wait=self._patience(), news=news)
            if found is None or self._is_full():
                ended = False
                break
        self._walk_seconds += self._monotonic() - started
        if ended:
            self._end_walk()
        return not ended

    def _patience(self) -> float:
        """Return how long a file settles that a scan found: it may be just being written, if we
        could have heard of it.
        """
        return max(self._settle_seconds, _WRITING_SECONDS) if self._watcher.listening else self._settle_seconds

    def _begin_walk(self) -> bool:
        """Make ready for a scan; return False when there is no folder to scan."""
        self._scan_at = self._monotonic() + self._options.scan_every.total_seconds()
        if not self._ledger.is_loaded:
            self._ledger.load()
            if self._groups is not None:
                self._groups.load()
        try:
            status = self._tree.status()
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            self._watcher.close()
            self._notes.complain("root", f"cannot scan {self._tree.root!r}: {error.strerror}")
            return False
        self._notes.complain("root", None)
        if self._listens:
            self._listen(status)
        self._notes.begin()
        self._walk_seconds = 0.0
        self._walk_count += 1
        self._scan_again = False
        self._walk_began_at = self._context.clock.now()
        self._walk = self._found("", deep=self._options.recursive)
        return True

    def _listen(self, status: os.stat_result) -> None:
        """Listen before the scan, so that nothing falls between the two; without it, scans are all
        there is.
        """
        try:
            self._watcher.watch(self._tree.root, status, recursive=self._options.recursive)
        except OSError as error:
            every = format_duration(self._options.scan_every)
            self._notes.complain("watch", f"cannot watch {self._tree.root!r}, only scan it every {every}: {error}")
        else:
            self._notes.complain("watch", None)

    def _end_walk(self) -> None:
        self._walk = None
        self._passed = self._walk_began_at
        now = self._monotonic()
        pause = max(self._options.scan_every.total_seconds(), _SCAN_SHARE * self._walk_seconds)
        self._scan_at = now + pause
        self._scan_not_before = now + max(_SHORTEST_PAUSE_SECONDS, _SCAN_SHARE * self._walk_seconds)
        self._notes.end()
        if self._scan_again:
            self._scan_soon()

    def _found(self, top: str, *, deep: bool) -> Generator[tuple[str, Stamp] | None]:
        """Walk through a folder and yield what the ledger does not hold as it is; None at the end
        of each slice.
        """
        folders, looked = [top], 0
        while folders:
            folder = folders.pop()
            try:
                with self._tree.folder(folder) as descriptor, os.scandir(descriptor) as entries:
                    for entry in entries:
                        looked += 1
                        if looked % _SLICE == 0:
                            yield None
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if self._selection.hides(path, entry.name):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            if deep:
                                folders.append(path)
                        elif stamp := self._new_stamp(path, entry):
                            yield path, stamp
            except OSError as error:
                if folder == "" or error.errno not in GONE:
                    self._notes.unreadable(folder or ".", error)

    def _new_stamp(self, path: str, entry: os.DirEntry[str]) -> Stamp | None:
        """Return the stamp of a wanted regular file unless it is the one that the ledger holds."""
        if not entry.is_file(follow_symlinks=False) or not self._selection.wants(path, entry.name):
            return None
        try:
            stamp = Stamp.of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return None
        return None if self._is_unchanged(path, stamp) else stamp

    # ----------------------------------------------------------------------- from settled to stored

    def _settled(self) -> list[Finding]:
        """Read files that have settled, oldest first, and return those that the ledger does not
        hold as they are.
        """
        findings: list[Finding] = []
        read = 0
        while len(findings) < _BATCH and read < _BATCH_BYTES and self._is_due() and not self._halted():
            due, path = heapq.heappop(self._queue)
            sighting = self._sighted.pop(path)
            try:
                finding = self._examine(path, sighting)
            except Stopped:
                self._sighted[path] = sighting
                heapq.heappush(self._queue, (due, path))
                break
            read += sighting.stamp.size if self._is_digested(sighting.stamp) else 0
            if finding is not None:
                findings.append(finding)
        return findings

    def _examine(self, path: str, sighting: Sighting) -> Finding | None:
        """Read a file that has settled; None when it has nothing new, changes again, is gone, or
        cannot be read.
        """
        try:
            stamp = self._tree.stamp(path)
            if stamp is None:
                self._notes.vanished(path)
                return None
            if stamp != sighting.stamp:
                raise Unsteady
            content = self._content(path, stamp, forced=sighting.forced)
            finding = self._judge(path, stamp, content, news=sighting.news)
        except Unsteady:
            if changed := self._tree.stamp(path):
                wait = max(self._settle_seconds, _WRITING_SECONDS)
                self._sight(path, changed, wait=wait, forced=sighting.forced, news=sighting.news)
            else:
                self._notes.vanished(path)
            return None
        except OSError as error:
            if error.errno in GONE or error.errno == errno.ELOOP:
                self._notes.vanished(path)
            else:
                self._notes.unreadable(path, error)
            return None
        self._notes.readable(path)
        return finding

    def _content(self, path: str, stamp: Stamp, *, forced: bool) -> Content | None:
        """Return what is in a file; None when it is not read, or is known and only its data set is not."""
        if not self._is_digested(stamp) or (not forced and self._is_only_regrouped(path, stamp)):
            return None
        count_lines = self._groups is not None and self._groups.counts_lines(path)
        return self._tree.content(path, stamp, self._halted, count_lines=count_lines)

    def _is_only_regrouped(self, path: str, stamp: Stamp) -> bool:
        if not self._ledger.is_stale(path):
            return False
        known = self._ledger.recall(path)
        return known is not None and known.stamp == stamp

    def _is_digested(self, stamp: Stamp) -> bool:
        return self._options.digest and stamp.size <= self._options.digest_limit

    def _judge(self, path: str, stamp: Stamp, content: Content | None, *, news: bool) -> Finding | None:
        """Compare a file with the ledger; None when it is there exactly so."""
        known = self._ledger.recall(path)
        stale = self._ledger.is_stale(path)
        if known is not None and stale and known.stamp == stamp and content is None:
            now_known = known
        else:
            now_known = self._known(path, known, stamp, content)
        if known == now_known and not stale:
            self._ledger.put(path, stamp)
            return None
        backfill = self._options.on_start == "backfill"
        if known is not None and known.holds(stamp, now_known.digest):
            return self._finding(path, now_known, fresh=False, news=backfill if stale else news)
        if known is None and not news and not backfill:
            return self._finding(path, now_known, fresh=True, news=False)
        now_known = replace(now_known, generation=now_known.generation + 1)
        if self._groups is not None:
            return self._finding(path, now_known, fresh=known is None, news=True)
        return Finding(path=path, known=now_known, event=self._event(path, now_known))

    def _known(self, path: str, known: Known | None, stamp: Stamp, content: Content | None) -> Known:
        return Known(
            generation=known.generation if known else 0,
            stamp=stamp,
            digest=content.digest if content else None,
            rows=self._groups.rows(path, content.lines) if self._groups is not None and content else None,
        )

    def _finding(self, path: str, known: Known, *, fresh: bool, news: bool) -> Finding:
        """Return what is no event of its own, but perhaps something new for a data set."""
        change = None if self._groups is None else self._groups.change(path, known, fresh=fresh, news=news)
        return Finding(path=path, known=known, event=None, change=change)

    def _event(self, path: str, known: Known) -> NewEvent:
        mtime = _instant(known.stamp.mtime_ns)
        now = self._context.clock.now()
        subject = escape_name(path)
        return NewEvent(
            source=f"/sources/{self._context.name}",
            source_id=event_id(path, known.generation),
            type=self._options.event_type,
            subject=subject,
            time=min(max(mtime, _EPOCH), now),
            data={
                "path": escape_name(f"{self._tree.root}/{path}"),
                "name": subject.rpartition("/")[2],
                "size": known.stamp.size,
                "mtime": mtime.isoformat().replace("+00:00", "Z"),
                "digest": known.digest,
                "generation": known.generation,
            },
        )

    def _save(self) -> int:
        """Store what was found, and return the number of events; a busy store gets it again later."""
        if not self._unsaved or self._monotonic() < self._retry_at:
            return 0
        events = [finding.event for finding in self._unsaved if finding.event is not None]
        entries = [self._ledger.entry(finding) for finding in self._unsaved]
        plan = None if self._groups is None else self._groups.plan(self._unsaved)
        if not self._emit(Batch(events=events, ledger=entries if plan is None else entries + plan.entries)):
            return 0
        for finding in self._unsaved:
            self._ledger.put(finding.path, finding.known.stamp)
        if self._groups is not None and plan is not None:
            self._groups.kept(plan)
        self._unsaved = []
        return len(events)

    def _emit(self, batch: Batch) -> bool:
        try:
            self._context.emit(batch)
        except StoreBusy as busy:
            self._retry_at = self._monotonic() + busy.after_seconds
            self._context.log.warning(
                "files.store_busy",
                source=self._context.name,
                waiting=len(batch.events),
                error=busy.message,
            )
            return False
        return True

    def _end_baseline(self) -> None:
        """Note that the whole tree was seen once, when nothing of the first scan is left to be
        stored.
        """
        ledger = self._ledger
        if not ledger.is_loaded or self._unsaved or (ledger.baselined and not ledger.regrouping):
            return
        if self._monotonic() < self._retry_at or not self._has_walked():
            return
        if not ledger.baselined and all(sighting.news for sighting in self._sighted.values()):
            ledger.baselined = self._emit(Batch(events=(), ledger=[ledger.baseline()]))
        if ledger.regrouping and ledger.baselined and not any(map(ledger.is_stale, self._sighted)):
            ledger.regrouping = not self._emit(Batch(events=(), ledger=[ledger.regrouped()]))

    def _has_walked(self) -> bool:
        """Return whether the whole tree was scanned since the start."""
        return self._walk_count > 1 or (self._walk_count == 1 and self._walk is None)

    # ------------------------------------------------------------------------------------ data sets

    def _finish_groups(self) -> int:
        """Emit the data sets that are complete; none before the whole tree was scanned since the start."""
        if self._groups is None or self._unsaved or self._monotonic() < self._retry_at or not self._has_walked():
            return 0
        return self._groups.finish(
            sighted=self._sighted,
            passed=self._passed,
            look_through=self._look_through,
            scan_soon=self._scan_soon,
        )

    def _look_through(self, folder: str) -> bool:
        """Look at the files of one folder, and return whether anything was new."""
        found = False
        for sight in self._found(folder, deep=False):
            if sight is not None:
                self._sight(*sight, wait=self._patience(), news=True)
                found = True
                if self._is_full():
                    break
        return found


def _instant(nanoseconds: int) -> datetime:
    """Return an mtime as an instant; one that no calendar holds is 1970."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        return _EPOCH
