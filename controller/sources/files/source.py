"""The source itself: sighted, settled, read, compared with the ledger, stored. The package's
docstring has the ideas.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import Field, field_validator

from controller.core.duration import format_duration
from controller.core.model import Json, LedgerEntry, NewEvent
from controller.errors import StoreBusy
from controller.ports import Batch, Duration, PluginOptions, SourceContext, Stop, refusal
from controller.sources.files.names import (
    Selection,
    escape_name,
    event_id,
    hash_name,
    ledger_key,
    number_of_key,
    path_number,
)
from controller.sources.files.notes import Notes
from controller.sources.files.tree import GONE, Stamp, Stopped, Tree, Unsteady
from controller.sources.files.watcher import Hints, Watcher

#: What is not a file that somebody delivered: hidden, or still being written.
DEFAULT_EXCLUDE = (
    ".*",
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.filepart",
    "*.swp",
    "*~",
)

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
_BASELINE_KEY = "@baseline"
#: First characters of the ledger's other keys.
_SHARDS = "0123456789abcdef"


class FileOptions(PluginOptions):
    """What a folder of files is told."""

    path: str = Field(min_length=1, description="The folder; relative to the folder of the configuration")
    include: tuple[str, ...] = Field(
        ("*",),
        min_length=1,
        description="Globs of names that count; with a slash, of paths below the folder",
    )
    exclude: tuple[str, ...] = Field(
        DEFAULT_EXCLUDE,
        description="Globs of names that do not count, also of folders; stronger than include",
    )
    recursive: bool = Field(False, description="Whether the folders below count too")
    settle: Duration = Field(
        timedelta(seconds=2),
        description="How long a file must be unchanged; 0s takes it when it is closed or renamed into place",
    )
    scan_every: Duration = Field(
        timedelta(seconds=30),
        description="Wait between two scans; at least ten times the length of the last",
    )
    on_start: Literal["backfill", "ignore"] = Field(
        "backfill",
        description="Whether files count that were there when the source was first started",
    )
    digest: bool = Field(True, description="Tell contents apart by SHA-256; otherwise by size, mtime and inode")
    digest_limit: int = Field(1 << 30, ge=0, description="Files of more bytes than this are not digested")
    event_type: str = Field("file.arrived", min_length=1, description="CloudEvents type of the events")

    @field_validator("scan_every")
    @classmethod
    def _scan_is_not_endless(cls, value: timedelta) -> timedelta:
        if value < timedelta(milliseconds=100):
            message = "a scan every less than 100ms leaves no time for anything else; write 30s"
            raise refusal(message)
        return value


@dataclass(slots=True)
class Sighting:
    """A path that may hold something new, while it settles."""

    stamp: Stamp
    #: By the monotonic clock; when it counts as settled.
    due: float
    #: Completed by its writer as far as we heard: read it even if the stamp is a known one.
    forced: bool
    #: It was not there when the source was first started, so `on_start: ignore` does not mean it.
    news: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What the ledger holds of a path."""

    #: Number of its contents so far; 0 for what `on_start: ignore` passed over.
    generation: int
    stamp: Stamp
    #: None when the content was not digested.
    digest: str | None

    def to_json(self) -> Json:
        """Return what is stored."""
        return {"generation": self.generation, "digest": self.digest, **self.stamp._asdict()}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Known:
        """Return what `to_json` wrote."""
        stamp = Stamp(value["size"], value["mtime_ns"], value["ctime_ns"], value["inode"])
        return cls(generation=value["generation"], stamp=stamp, digest=value["digest"])

    def holds(self, stamp: Stamp, digest: str | None) -> bool:
        """Return whether this is the same content."""
        if self.digest is not None and digest is not None:
            return self.digest == digest
        mine, other = self.stamp, stamp
        return (mine.size, mine.mtime_ns, mine.inode) == (other.size, other.mtime_ns, other.inode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A settled file that the ledger does not hold as it is: an event, or only a new stamp."""

    path: str
    known: Known
    event: NewEvent | None


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
        self._selection = Selection(options.include, options.exclude)
        self._settle_seconds = options.settle.total_seconds()
        self._watcher = Watcher()
        self._halted: Callable[[], bool] = lambda: False
        self._listens = False
        self._notes = Notes(self._tree.root, context)
        self._forget()

    def _forget(self) -> None:
        """Start from nothing; the ledger is the only thing that lasts."""
        #: Number of a path to hash of its stamp; None until the ledger was read.
        self._index: dict[int, int] | None = None
        #: Whether the source has seen the whole tree once, ever.
        self._baselined = False
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
        return emitted

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
        return self._known_index().get(path_number(path)) == hash(stamp)

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
                news = before.news if before else self._baselined or self._walk_count > 1
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
        self._known_index()
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
        self._walk = self._found()
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
        now = self._monotonic()
        pause = max(self._options.scan_every.total_seconds(), _SCAN_SHARE * self._walk_seconds)
        self._scan_at = now + pause
        self._scan_not_before = now + max(_SHORTEST_PAUSE_SECONDS, _SCAN_SHARE * self._walk_seconds)
        self._notes.end()
        if self._scan_again:
            self._scan_soon()

    def _found(self) -> Generator[tuple[str, Stamp] | None]:
        """Walk through the tree and yield what the ledger does not hold as it is; None at the end
        of each slice.
        """
        folders, looked = [""], 0
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
                            if self._options.recursive:
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
            digest = self._tree.digest(path, stamp, self._halted) if self._is_digested(stamp) else None
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
        return self._judge(path, stamp, digest, news=sighting.news)

    def _is_digested(self, stamp: Stamp) -> bool:
        return self._options.digest and stamp.size <= self._options.digest_limit

    def _judge(self, path: str, stamp: Stamp, digest: str | None, *, news: bool) -> Finding | None:
        """Compare a file with the ledger; None when it is there exactly so."""
        known = self._recall(path)
        generation = known.generation if known else 0
        now_known = Known(generation=generation, stamp=stamp, digest=digest)
        if known == now_known:
            self._known_index()[path_number(path)] = hash(stamp)
            return None
        if known is not None and known.holds(stamp, digest):
            return Finding(path=path, known=now_known, event=None)
        if known is None and not news and self._options.on_start == "ignore":
            return Finding(path=path, known=now_known, event=None)
        now_known = replace(now_known, generation=generation + 1)
        return Finding(path=path, known=now_known, event=self._event(path, now_known))

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
        ledger = [LedgerEntry(key=ledger_key(finding.path), value=finding.known.to_json()) for finding in self._unsaved]
        if not self._emit(Batch(events=events, ledger=ledger)):
            return 0
        index = self._known_index()
        for finding in self._unsaved:
            index[path_number(finding.path)] = hash(finding.known.stamp)
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

    # ----------------------------------------------------------------------------------- the ledger

    def _known_index(self) -> dict[int, int]:
        """Return the index of what the ledger holds; it is read in parts, so that it is never in
        memory as a whole.
        """
        if self._index is None:
            index: dict[int, int] = {}
            for shard in _SHARDS:
                for key, value in self._context.recall(shard).items():
                    index[number_of_key(key)] = hash(Known.from_json(value).stamp)
            self._baselined = _BASELINE_KEY in self._context.recall(_BASELINE_KEY)
            self._index = index
        return self._index

    def _recall(self, path: str) -> Known | None:
        if path_number(path) not in self._known_index():
            return None
        value = self._context.recall(hash_name(path)).get(ledger_key(path))
        return None if value is None else Known.from_json(value)

    def _end_baseline(self) -> None:
        """Note that the whole tree was seen once, when nothing of the first scan is left to be
        stored.
        """
        if self._baselined or self._index is None or self._unsaved:
            return
        if self._monotonic() < self._retry_at:
            return
        walked = self._walk_count > 1 or (self._walk_count == 1 and self._walk is None)
        if walked and all(sighting.news for sighting in self._sighted.values()):
            value = {"at": self._context.clock.now().isoformat().replace("+00:00", "Z")}
            self._baselined = self._emit(Batch(events=(), ledger=[LedgerEntry(key=_BASELINE_KEY, value=value)]))


def _instant(nanoseconds: int) -> datetime:
    """Return an mtime as an instant; one that no calendar holds is 1970."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        return _EPOCH
