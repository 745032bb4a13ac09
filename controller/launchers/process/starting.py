"""Starting a shim: what the job is given, and what must be right before anything runs."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from controller.errors import GiveUp, RetryLater
from controller.launchers.process.attempt import ATTEMPT_VARIABLE
from controller.launchers.process.options import ProcessOptions
from controller.launchers.process.records import read_started
from controller.ports import Order

#: Python ignores some signals, which a child would inherit; listing them costs more than a start may.
_RESET_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
#: Variables of the daemon that every job inherits; the rest of its environment may hold secrets.
_INHERITED = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|CUDA_\w+")


def job_environment(options: ProcessOptions, order: Order) -> dict[str, str]:
    """Return all variables of the job: allowed ones of ours, the model's, the contract's."""
    kept = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name) or name in options.inherit}
    return {**kept, **options.env, **order.environment, ATTEMPT_VARIABLE: order.attempt_id}


def find_program(name: str, workdir: Path, search: str) -> str:
    """Return the absolute path of the program, so that what cannot be started is known before anything is."""
    if not workdir.is_dir():
        raise GiveUp(f"workdir {str(workdir)!r} is not a directory")
    if "/" in name:
        path = workdir / name
        if not path.is_file():
            raise GiveUp(f"command not found: {name!r}", hint=f"looked for {str(path)!r}")
        if not os.access(path, os.X_OK):
            raise GiveUp(f"command is not executable: {name!r}", hint=f"chmod +x {str(path)!r}")
        return str(path)
    found = shutil.which(name, path=search)
    if found is None:
        raise GiveUp(f"command not found: {name!r}", hint=f"PATH of the job is {search!r}")
    return str(workdir / found)


def spawn_shim(argv: list[str], environment: Mapping[str, str], given: list[int]) -> int:
    """Start the shim with a pipe as stdin (its reading end) and stdout, in a session of its own; return its pid."""
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise RetryLater(f"cannot start a process: {error}") from error
    try:
        return spawn(argv, environment, {0: reading, 1: writing}, close=given)
    finally:
        os.close(reading)
        os.close(writing)


def spawn(argv: list[str], environment: Mapping[str, str], descriptors: Mapping[int, int], *, close: list[int]) -> int:
    """Start a program in a session of its own, with our descriptors under the numbers given, and return its pid.

    `posix_spawn`, because a fork would copy the page tables of a big daemon. Python ignores SIGPIPE and SIGXFSZ; a job must not.
    """
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            environment,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET_SIGNALS,
            file_actions=[
                *((os.POSIX_SPAWN_CLOSE, number) for number in close if number not in descriptors),
                *((os.POSIX_SPAWN_DUP2, ours, number) for number, ours in descriptors.items()),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise RetryLater(f"cannot start a process: {error}") from error
        reason = "command and environment are too long" if error.errno == errno.E2BIG else str(error)
        raise GiveUp(f"cannot start the job: {reason}") from error
    except ValueError as error:  # a NUL byte, or text that no byte string stands for
        raise GiveUp(f"cannot pass command or environment on: {error}") from error


def lower_priority(shim: int, folder: Path, niceness: int) -> None:
    """Give a job that is just starting its niceness, from outside: a `nice` program before it would cost it another exec.

    The job's process leaves the shim's group right after its record: either it is still in the group and gets its niceness
    with that, or it inherits it, or the record is there. A daemon that dies just here leaves a job that is not niced.
    """
    # The job has been started, so nothing that fails here may look like a launch that failed.
    with suppress(OSError):
        os.setpriority(os.PRIO_PGRP, shim, niceness)
        job = read_started(folder)
        if job is not None and job.alive():
            os.setpriority(os.PRIO_PROCESS, job.pid, niceness)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """Programs of the system that the shim runs."""

    path: str
    setsid: str


class Machine:
    """What does not change while the daemon runs, looked up at first need."""

    def __init__(self) -> None:
        self._boot_id: str | None = None
        self._tools: Tools | None = None
        self._given: list[int] | None = None

    def boot_id(self) -> str:
        if self._boot_id is None:
            self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return self._boot_id

    def tools(self) -> Tools:
        """Return where the shim's own programs are, whatever the job's PATH says."""
        if self._tools is None:
            search = f"{os.environ.get('PATH', '')}:{os.defpath}"
            found = {name: shutil.which(name, path=search) for name in ("setsid", "dd", "rm", "sleep")}
            if missing := [name for name, place in found.items() if place is None]:
                raise GiveUp(
                    f"this machine has no {', '.join(missing)}",
                    hint="install util-linux and coreutils",
                )
            path = ":".join(dict.fromkeys(str(Path(place).parent) for place in found.values() if place))
            self._tools = Tools(path=path, setsid=str(found["setsid"]))
        return self._tools

    def given_descriptors(self) -> list[int]:
        """Return the descriptors that the daemon itself was given by whoever started it; all it opens are not inheritable."""
        if self._given is None:
            open_now = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
            self._given = [number for number in open_now if number > 2 and _inheritable(number)]
        return self._given


def _inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # closed since it was listed
        return False
