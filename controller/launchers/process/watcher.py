"""Noticing the end of processes, for any number of them with one thread."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass

from controller.ports import Log

#: The thread ends when it had nothing to watch for this long.
_IDLE_SECONDS = 30.0


@dataclass(kw_only=True, slots=True)
class _Watch:
    folder: str
    pid: int
    callbacks: list[Callable[[], None]]


class Watcher:
    """One thread that waits for the end of any number of processes, and reaps those that are our children."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        #: By pidfd.
        self._watches: dict[int, _Watch] = {}
        #: Ours while the thread runs.
        self._epoll: select.epoll | None = None
        #: Children that no descriptor was left for.
        self._unwatched: set[int] = set()

    def follow(
        self,
        folder: str,
        pid: int,
        ended: Callable[[], None] | None = None,
        *,
        still: Callable[[], bool] | None = None,
    ) -> None:
        """Call `ended` when process `pid` ends, at once when it has.

        `still` says whether that pid is the process we mean; without it, `pid` is a child of ours that nobody has reaped.
        """
        callbacks = [ended] if ended else []
        with self._lock:
            self._reap_unwatched()
            for watch in self._watches.values():
                if (watch.folder, watch.pid) == (folder, pid):
                    watch.callbacks.extend(callbacks)
                    return
            if self._open(_Watch(folder=folder, pid=pid, callbacks=callbacks), still):
                return
        for callback in callbacks:
            callback()

    def rename(self, pid: int, folder: str) -> None:
        """From now on this process is watched for this folder."""
        with self._lock:
            for watch in self._watches.values():
                if watch.pid == pid:
                    watch.folder = folder

    def pid(self, folder: str) -> int | None:
        """Return the process that is watched for this folder."""
        with self._lock:
            return next((watch.pid for watch in self._watches.values() if watch.folder == folder), None)

    def forget(self, folder: str) -> None:
        """Call nothing more for this folder. The descriptor goes when the process ends, because a child must be reaped."""
        with self._lock:
            for watch in self._watches.values():
                if watch.folder == folder:
                    watch.callbacks.clear()

    def _open(self, watch: _Watch, still: Callable[[], bool] | None) -> bool:
        """Begin to watch; False when the process has ended."""
        try:
            descriptor = os.pidfd_open(watch.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):
                return False
            self._log.warning("job.not_watched", folder=watch.folder, pid=watch.pid, error=str(error))
            if still is None:
                self._unwatched.add(watch.pid)
            return True
        if still is not None and not still():
            os.close(descriptor)
            return False
        self._watches[descriptor] = watch
        if self._epoll is None:
            self._epoll = select.epoll()
            threading.Thread(target=self._run, args=(self._epoll,), name="process-launcher", daemon=True).start()
        self._epoll.register(descriptor, select.EPOLLIN)
        return True

    def _run(self, epoll: select.epoll) -> None:
        while True:
            ready = epoll.poll(_IDLE_SECONDS)
            with self._lock:
                callbacks = [callback for descriptor, _ in ready for callback in self._close(epoll, descriptor)]
                if not ready and not self._watches:
                    self._epoll = None
                    epoll.close()
                    return
            for callback in callbacks:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - a hint that fails must not end the watching of all others
                    self._log.error("job.hint_failed", error=repr(error))

    def _close(self, epoll: select.epoll, descriptor: int) -> list[Callable[[], None]]:
        watch = self._watches.pop(descriptor)
        epoll.unregister(descriptor)
        _reap(os.P_PIDFD, descriptor)
        os.close(descriptor)
        return watch.callbacks

    def _reap_unwatched(self) -> None:
        self._unwatched -= {pid for pid in self._unwatched if _reap(os.P_PID, pid)}


def _reap(kind: int, number: int) -> bool:
    """Take the status of an ended child, so that it does not stay as a zombie; False while it runs."""
    try:
        return os.waitid(kind, number, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:  # a child of an earlier daemon
        return True
