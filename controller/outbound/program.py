"""One program of a user's own, run within a deadline.

It is an argument array, never a shell. It runs in a session of its own with a small environment, because the daemon's may hold secrets.
What it prints is read while it runs, and only so much of it is kept, so that one that prints without end neither fills the memory nor
keeps us from the deadline. When it is done with, so is its whole group: whatever it leaves running is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controller.clock import Clock
from controller.errors import GiveUp, RetryLater

_INHERITED = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV")
_LOOK_SECONDS = 0.05
#: The most that a pipe holds for a user who is not root, so that one read takes all that an ended program has left there.
_CHUNK = 1 << 20


class Running:
    """A program that was started, and what it has printed so far; `end` must be called."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        workdir: Path,
        clock: Clock,
        given: bytes | None = None,
        last_output: int | None = None,
        last_errors: int | None = None,
    ) -> None:
        """Start it; raises `GiveUp` when it cannot be run, and `RetryLater` when it cannot be run now.

        `given` is what it reads. `last_output` and `last_errors` are how many bytes are kept of what it prints, from the end:
        all that was read without the first, and with the output if the second is missing.
        """
        self._clock = clock
        self._process = _start(command, environment, workdir, given, merged=last_errors is None)
        self._output, self._errors = bytearray(), bytearray()
        self._selector = selectors.DefaultSelector()
        self._pause = threading.Event()
        kept = ((self._process.stdout, self._output, last_output), (self._process.stderr, self._errors, last_errors))
        for pipe, text, last in kept:
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, (text, last))

    @property
    def output(self) -> bytes:
        return bytes(self._output)

    @property
    def errors(self) -> bytes:
        return bytes(self._errors)

    def wait(self, seconds: float, *, look: Callable[[], None] = lambda: None) -> bool:
        """Read what it prints until it has ended; False when the deadline came first.

        `look` is called again and again meanwhile, and may raise.
        """
        ends_at = self._clock.monotonic() + seconds
        while not self._has_ended():
            look()
            if self._clock.monotonic() > ends_at:
                return False
            self._read(_LOOK_SECONDS)
        self._read(0)
        return True

    def end(self, *, grace_seconds: float = 0) -> int:
        """Ask it to end if it still runs and there is grace, kill what is left of its group, and return its exit code."""
        if grace_seconds and not self._has_ended():
            self._signal(signal.SIGTERM)
            ends_at = self._clock.monotonic() + grace_seconds
            while not self._has_ended() and self._clock.monotonic() < ends_at:
                self._pause.wait(_LOOK_SECONDS)
        # Not reaped yet, so the group cannot be another's by now.
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def _has_ended(self) -> bool:
        """Say whether the program has ended, without reaping it."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read(self, timeout: float) -> None:
        """Read once of each pipe what there is by now, waiting for it so long."""
        if not self._selector.get_map():
            self._pause.wait(timeout)
            return
        for key, _ in self._selector.select(timeout):
            text, last = key.data
            chunk = os.read(key.fd, _CHUNK)
            text += chunk
            if not chunk:
                self._selector.unregister(key.fileobj)
            if last is not None:
                del text[:-last]

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _start(
    command: Sequence[str], environment: Mapping[str, str], workdir: Path, given: bytes | None, *, merged: bool
) -> subprocess.Popen[bytes]:
    name = command[0]
    inherited = {variable: value for variable, value in os.environ.items() if _INHERITED.fullmatch(variable)}
    with contextlib.ExitStack() as stack:
        stdin = subprocess.DEVNULL
        if given is not None:
            # A file: a program need not read what it is given, and a pipe would wait for that.
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(given)
            file.seek(0)
            stdin = file.fileno()
        try:
            return subprocess.Popen(
                [str(workdir / name) if "/" in name else name, *command[1:]],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                bufsize=0,
                cwd=workdir,
                env={**inherited, **environment},
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError) as error:
            raise GiveUp(f"cannot run {name!r}: {error}") from error
        except OSError as error:
            raise RetryLater(f"cannot run {name!r} now: {error}") from error
