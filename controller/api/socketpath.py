"""A Unix socket's path is bounded by the kernel to 107 bytes; folders are not. A long path is reached through its folder's descriptor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_LONGEST = 107


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a name for the socket that fits, good for as long as the block lasts.

    Raises `FileNotFoundError` when the folder of a long path does not exist.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
