"""The processes of this machine, as /proc tells of them.

A pid is only a number that will be given out again, so a process here is a pid with its start time, and a signal goes through a
pidfd that was opened before that pair was checked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: How often, and how long apart, a process within an exec is looked at.
_EXEC_LOOKS, _EXEC_PAUSE_SECONDS = 200, 0.001


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Pass over that a process ended before we came to it."""
    try:
        yield
    except ProcessLookupError:
        return


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process at one instant."""

    pid: int
    parent: int
    group: int
    session: int
    #: Clock ticks since boot.
    start: int
    #: One letter, as in ps.
    state: str

    def signal(self, number: signal.Signals) -> None:
        """Send the signal to this very process, or to nobody. Raises PermissionError."""
        with gone_is_fine():
            descriptor = os.pidfd_open(self.pid)
            try:
                now = read_process(self.pid)
                if now is not None and now.start == self.start:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def read_process(pid: int) -> Process | None:
    """Return the process with this pid; None when there is none."""
    stat = read_proc(pid, "stat")
    # The name in parentheses is chosen by the process and may itself hold parentheses and spaces.
    fields = stat.rpartition(b")")[2].split()
    if not fields:
        return None
    parent, group, session = (int(value) for value in fields[1:4])
    return Process(
        pid=pid,
        parent=parent,
        group=group,
        session=session,
        start=int(fields[19]),
        state=fields[0].decode(),
    )


def read_proc(pid: int, name: Literal["stat", "cmdline", "environ"]) -> bytes:
    """Return a file of a process; empty when it is gone or belongs to somebody else."""
    try:
        with Path(f"/proc/{pid}/{name}").open("rb", buffering=0) as file:
            return file.readall() or b""
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def read_settled(pid: int, name: Literal["cmdline", "environ"]) -> bytes:
    """Return a file of a process, past the instant within an exec when it has neither arguments nor variables.

    That instant comes after `posix_spawn` has returned to the parent, so it is met right after a start.
    """
    for _ in range(_EXEC_LOOKS):
        if content := read_proc(pid, name):
            return content
        if read_proc(pid, "cmdline"):
            return read_proc(pid, name)
        process = read_process(pid)
        # Threads of the kernel, which have no session, and the dead never have any.
        if process is None or process.session == 0 or process.state in "ZX":
            return b""
        threading.Event().wait(_EXEC_PAUSE_SECONDS)
    return b""


def all_pids() -> list[int]:
    """Return the pids of all processes we can see."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def group_alive(group: int) -> bool:
    """Say whether a process group has members."""
    try:
        os.killpg(group, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
