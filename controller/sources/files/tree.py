"""The folder on disk: stamps and digests of what is below it, reached without following a link."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

#: Errors that only say that a path is no longer there.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_READ_SIZE = 1024 * 1024


class Stamp(NamedTuple):
    """What tells without opening a file that it was touched since; ctime cannot be set back, so no
    edit hides.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp out of a status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Content(NamedTuple):
    """What is in a file."""

    #: `sha256:…`.
    digest: str
    #: None when they were not counted; one that does not end is a line too.
    lines: int | None


class Unsteady(Exception):
    """The file changed, or was replaced, while it was read."""


class Stopped(Exception):
    """The source was asked to stop while a file was read."""


class Tree:
    """The folder and what is below it; never follows a symbolic link below the root, never blocks
    on a special file.

    No descriptor is kept between calls, so that the folder can be unmounted, removed and made anew.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def status(self) -> os.stat_result:
        """Return the root's own status; raises OSError when it is not there."""
        return os.stat(self.root)  # noqa: PTH116 - paths are bytes underneath and stay strings here

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """Open a folder below the root (`""` is the root) component by component, and yield its
        descriptor.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(self.root, flags)
        try:
            for name in path.split("/") if path else ():
                deeper = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
            yield descriptor
        finally:
            os.close(descriptor)

    def stamp(self, path: str) -> Stamp | None:
        """Return the stamp of a regular file, None when there is none at that path (any more)."""
        folder, _, name = path.rpartition("/")
        try:
            with self.folder(folder) as descriptor:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno in GONE or error.errno == errno.ELOOP:
                return None
            raise
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def content(self, path: str, expected: Stamp, halted: Callable[[], bool], *, count_lines: bool = False) -> Content:
        """Return the SHA-256, and if asked the number of lines, of a file that is, and stays, as `expected`.

        Raises Unsteady, Stopped, OSError.
        """
        sha, lines, last = hashlib.sha256(), 0, b"\n"
        for data in self._pieces(path, expected, halted):
            sha.update(data)
            if count_lines:
                lines, last = lines + data.count(b"\n"), data[-1:]
        return Content(f"sha256:{sha.hexdigest()}", lines + (last != b"\n") if count_lines else None)

    def read(self, path: str, expected: Stamp) -> bytes:
        """Return the bytes of a small file that is, and stays, as `expected`; raises Unsteady, OSError."""
        return b"".join(self._pieces(path, expected, lambda: False))

    def _pieces(self, path: str, expected: Stamp, halted: Callable[[], bool]) -> Iterator[bytes]:
        folder, _, name = path.rpartition("/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        with self.folder(folder) as descriptor:
            opened = os.open(name, flags, dir_fd=descriptor)
        try:
            self._require(opened, expected)
            remaining = expected.size
            while remaining > 0 and (data := os.read(opened, min(_READ_SIZE, remaining))):
                yield data
                remaining -= len(data)
                if remaining and halted():
                    raise Stopped
            self._require(opened, expected)
        finally:
            os.close(opened)

    @staticmethod
    def _require(descriptor: int, expected: Stamp) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or Stamp.of(status) != expected:
            raise Unsteady
