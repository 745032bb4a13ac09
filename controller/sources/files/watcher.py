"""What the operating system tells of changes; watchdog listens, and the loop takes from here."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

#: Hints that may be waiting to be looked at; more are replaced by a scan.
_HINT_LIMIT = 20_000
#: watchdog remembers the first half of every rename for ever, some four hundred bytes; after so many of them we listen anew.
MOST_RENAMES = 10_000


@dataclass(slots=True)
class Hints:
    """What was heard since the last look."""

    #: Paths as the system names them, and whether each was completed (closed after writing, or
    #: renamed into place).
    files: dict[str, bool]
    #: A folder appeared, or more was heard than can be kept: look at everything.
    scan: bool = False


class Watcher(FileSystemEventHandler):
    """Listens to the operating system, and wakes the loop; watchdog calls it from threads of its
    own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._hints = Hints(files={})
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        #: Renames heard of since we listen.
        self._renames = 0

    def watch(self, root: str, status: os.stat_result, *, recursive: bool) -> None:
        """Listen to this folder; it is another one when it was made anew. Raises OSError when the
        system has no room.
        """
        identity = (status.st_dev, status.st_ino)
        if self._watched == identity and self._listens() and self._renames < MOST_RENAMES:
            return
        self.close()
        observer = _observer()
        observer.start()
        try:
            observer.schedule(
                self,
                root,
                recursive=recursive,
                event_filter=[
                    FileClosedEvent,
                    FileMovedEvent,
                    FileCreatedEvent,
                    DirMovedEvent,
                    DirCreatedEvent,
                ],
            )
        except OSError:
            observer.stop()
            observer.join()
            raise
        self._observer, self._watched, self._renames = observer, identity, 0

    @property
    def listening(self) -> bool:
        """Return whether there will be hints."""
        return self._observer is not None

    def close(self) -> None:
        """Stop listening."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        """Note what happened (called by watchdog)."""
        path = os.fsdecode(event.dest_path if isinstance(event, FileMovedEvent) else event.src_path)
        with self._changed:
            self._renames += isinstance(event, FileMovedEvent)
            files = self._hints.files
            if event.is_directory or (len(files) >= _HINT_LIMIT and path not in files):
                self._hints.scan = True
            elif path:
                files[path] = files.get(path, False) or not isinstance(event, FileCreatedEvent)
            self._changed.notify()

    def take(self, timeout: float) -> Hints:
        """Wait until something was heard, at most `timeout` seconds, and return it."""
        with self._changed:
            if not self._hints.files and not self._hints.scan and timeout > 0:
                self._changed.wait(timeout)
            hints, self._hints = self._hints, Hints(files={})
        return hints

    def _listens(self) -> bool:
        observer = self._observer
        return observer is not None and observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)


def _observer() -> BaseObserver:
    # On Linux, full events tell a rename into the folder from a file that has just been created.
    options = {"generate_full_events": True} if sys.platform == "linux" else {}
    return cast("Callable[..., BaseObserver]", Observer)(**options)
