"""The file that a SQLite database lives in: whether it may live there, and whether it is still the one that was opened.

A file that is moved away, removed or replaced while it is open does not make SQLite fail: it goes on writing to what has no name any more,
and every acknowledgement since then is lost with the process. So each transaction looks at the name first, which costs a microsecond.
A network's file system promises locks that it does not keep, so a database there is refused unless somebody knows better.
Called by `store.py` and the daemon.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from controller.errors import StoreBusy, StoreError

MOUNTS = Path("/proc/self/mountinfo")
#: File systems whose locks or shared memory SQLite cannot rely upon, as the kernel names them.
NETWORK = frozenset(
    [
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "gfs",
            "gfs2",
            "glusterfs",
            "gpfs",
            "lustre",
            "ncpfs",
        ),
        *("nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf"),
        *("fuse.ceph", "fuse.davfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
    ]
)
#: How mountinfo writes a blank, and the like.
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Opened:
    """A file as it was when it was opened."""

    path: str
    device: int
    inode: int

    def check(self) -> None:
        """Raise `StoreBusy` unless its name still leads to it: nothing may be written to what nobody will find again."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - looked at before every transaction, and a Path costs more than the look
        except OSError as error:
            raise self._lost(f"is not there any more ({error.strerror})") from error
        if (now.st_dev, now.st_ino) != (self.device, self.inode):
            raise self._lost("was replaced by another file")

    def _lost(self, what: str) -> StoreBusy:
        return StoreBusy(
            f"the database {self.path!r} {what} while it was open; nothing is written",
            hint="put it back under its name, or stop the daemon, restore a backup and start it again",
            code="store.moved",
        )


def opened(path: str | None) -> Opened | None:
    """Return the file at a path as it is now; None for a database in memory."""
    if path is None or path == ":memory:":
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None  # whoever reads or writes will be told why by the database
    return Opened(path, found.st_dev, found.st_ino)


def check(url: sa.URL, *, on_network: bool, mounts: Path = MOUNTS) -> None:
    """Raise `StoreError` where a SQLite database cannot live: a folder that takes no journal, or a network's file system.

    `on_network`: somebody knows that the locks of that file system work.
    """
    path = url.database
    if url.get_backend_name() != "sqlite" or path is None or path == ":memory:":
        return
    _check_folder(Path(path).parent)
    kind = "" if on_network else file_system_of(os.path.realpath(path), _lines(mounts))
    if kind in NETWORK:
        raise StoreError(
            f"the database {path!r} is on a network's file system ({kind}), where SQLite's locks may not hold",
            hint="put it on a local disk or use PostgreSQL; where its locks are known to work, write `store: {url: …, on_network: true}`",
        )


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise StoreError(
            f"the folder {str(folder)!r} cannot be written, and SQLite keeps its journal beside the database",
            hint="give the folder to the daemon's user, or set `store:` to another place",
        )


def _lines(mounts: Path) -> list[str]:
    try:
        return mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux: nobody to ask


def file_system_of(path: str, mounts: Iterable[str]) -> str:
    """Return the kind of the file system that a path without links lies on; empty when no mount holds it."""
    found, longest = "", -1
    for point, kind in _mounts(mounts):
        holds = path == point or path.startswith(point.rstrip("/") + "/")
        if holds and len(point) >= longest:  # of two on the same point the later one covers the other
            found, longest = kind, len(point)
    return found


def _mounts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        left, dash, right = line.partition(" - ")
        fields = left.split()
        if dash and len(fields) >= 5 and right.split():
            yield _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4]), right.split()[0]


def size_of(path: str) -> int:
    """Return how many bytes a file has; 0 when there is none."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
