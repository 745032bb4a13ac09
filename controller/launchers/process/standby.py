"""Shims that were started ahead, and wait for a job.

Starting a shim takes two to four milliseconds: an interpreter, `setsid`, and the job's process on top. All of that can be done before
anybody knows for which job. So a few shims wait, each with the process that will be its job, and an order, sent through pipes, then
costs the job one `exec`. `shim.sh` says what they do. When the daemon ends, however it ends, the pipes close, and who waits ends with it.

Before an order is sent, `handed` is written into the attempt's folder: who finds that without a claim knows which shim may be on its way.
What cannot be sent like this (too much of it, a shim that is not ready) is launched by a shim of its own; that is slower, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from controller.errors import ControllerError
from controller.launchers.process.attempt import SHELL, SHIM
from controller.launchers.process.processes import read_process
from controller.launchers.process.records import Job, parse_job
from controller.launchers.process.starting import Machine, spawn
from controller.launchers.process.watcher import Watcher

#: So many wait.
SPARES = 2
#: An order must fit into a pipe, so that sending it waits for nobody; the kernel's pipes hold 65,536 bytes.
_MOST_BYTES = 32_768
#: Where the keeper of the log, the shim and the job's process expect their orders, and where that one says that it waits.
_LOG_ORDER, _SHIM_ORDER, _JOB_ORDER, _READY = 4, 5, 6, 7
#: Descriptors are moved up here first, so that none is in the way of another.
_OUT_OF_THE_WAY = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """A shim that waits, and our ends of its pipes."""

    shim: Job
    log_order: int
    shim_order: int
    job_order: int
    ready: int

    def told(self) -> bytes | None:
        """Return what the process that will be the job says of itself; None while it says nothing, empty when it is gone."""
        try:
            return os.read(self.ready, 100)
        except BlockingIOError:
            return None

    def close(self) -> None:
        for descriptor in (self.log_order, self.shim_order, self.job_order, self.ready):
            os.close(descriptor)


class StandBys:
    """The shims that wait. Safe to use from several threads."""

    def __init__(self, machine: Machine, watcher: Watcher, *, segment: int) -> None:
        self._machine = machine
        self._watcher = watcher
        self._segment = segment
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        weakref.finalize(self, _dismiss, self._waiting)

    def fill(self) -> None:
        """Start what is missing. A machine that cannot do so now has no spares: the launch that needs a process tells of it."""
        with self._lock, suppress(ControllerError, OSError):
            while len(self._waiting) < SPARES:
                self._waiting.append(self._start())

    def hand_over(
        self, folder: Path, command: list[str], workdir: Path, environment: Mapping[str, str], *, niceness: int
    ) -> bool:
        """Let a waiting shim run the attempt; False, and nothing has happened, when that cannot be."""
        order = _order(folder, command, workdir, environment)
        if order is None:
            return False
        taken = self._take()
        if taken is None:
            return False
        waiting, job = taken
        try:
            (folder / "handed").write_text(f"{waiting.shim.pid} {waiting.shim.start}\n")
            self._watcher.rename(waiting.shim.pid, str(folder))
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, job.pid, niceness)
                os.setpriority(os.PRIO_PROCESS, waiting.shim.pid, niceness)
            # The job last: should we die in between, it ends without a claim, and nothing has happened.
            named = _folder_line(folder)
            return (
                _send(waiting.log_order, named) and _send(waiting.shim_order, named) and _send(waiting.job_order, order)
            )
        finally:
            waiting.close()

    def _take(self) -> tuple[_Waiting, Job] | None:
        """Return one that waits for its order, and the process that will be the job; those that are gone are let go of."""
        with self._lock:
            for waiting in list(self._waiting):
                told = waiting.told()
                if told is None:
                    continue
                self._waiting.remove(waiting)
                job = parse_job(told)
                if job is not None and job.alive() and waiting.shim.alive():
                    return waiting, job
                waiting.close()
        return None

    def _start(self) -> _Waiting:
        """Start a shim that waits."""
        with ExitStack() as ours, ExitStack() as theirs:
            log_out, log_in = _pipe(theirs, theirs)
            log_order, to_log = _pipe(theirs, ours)
            shim_order, to_shim = _pipe(theirs, ours)
            job_order, to_job = _pipe(theirs, ours)
            told, ready = _pipe(ours, theirs)
            orders = {_LOG_ORDER: log_order, _SHIM_ORDER: shim_order, _JOB_ORDER: job_order}
            numbers = {0: log_out, 1: log_in, **orders, _READY: ready}
            tools, boot_id = self._machine.tools(), self._machine.boot_id()
            argv = [SHELL, str(SHIM), "--stand-by", boot_id, str(self._segment), tools.path, tools.setsid]
            pid = spawn(argv, {}, numbers, close=self._machine.given_descriptors())
            ours.pop_all()
        os.set_blocking(told, False)
        process = read_process(pid)
        # Our child, which nobody has reaped, so it is there; under this name it is reaped when it ends without a job.
        start = 0 if process is None else process.start
        self._watcher.follow(f"stand-by {pid}", pid)
        shim = Job(pid=pid, start=start)
        return _Waiting(shim=shim, log_order=to_log, shim_order=to_shim, job_order=to_job, ready=told)


def _dismiss(waiting: list[_Waiting]) -> None:
    """Let those end that wait for a launcher that is gone."""
    while waiting:
        waiting.pop().close()


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Return a pipe's reading and writing end, out of the way of the numbers that the shim expects, to be closed with their stacks."""
    ends = os.pipe()
    try:
        moved = []
        for end, stack in zip(ends, (reader, writer), strict=True):
            moved.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY))
            stack.callback(os.close, moved[-1])
    finally:
        for end in ends:
            os.close(end)
    return moved[0], moved[1]


def _send(descriptor: int, order: bytes) -> bool:
    """Write an order whole; False when nobody reads it any more."""
    try:
        return os.write(descriptor, order) == len(order)
    except BrokenPipeError:
        return False


def _order(folder: Path, command: list[str], workdir: Path, environment: Mapping[str, str]) -> bytes | None:
    """Return what the job's process has to source; None for what cannot be sent like this."""
    try:
        exports = b"".join(b"export %s=%s\n" % (os.fsencode(name), _quoted(text)) for name, text in environment.items())
        words = b" ".join(map(_quoted, command))
        order = b"%sset -- %s\nshim_workdir=%s\n%s" % (exports, words, _quoted(str(workdir)), _folder_line(folder))
    except ValueError:  # text that no byte string stands for: the other way refuses it, with a reason
        return None
    return order if len(order) <= _MOST_BYTES and b"\0" not in order else None


def _folder_line(folder: Path) -> bytes:
    return b"shim_folder=%s\nshim_order=whole\n" % _quoted(str(folder))


def _quoted(text: str) -> bytes:
    return b"'%s'" % os.fsencode(text).replace(b"'", b"'\\''")
