"""Asks a program: what it prints is the value, a number or any JSON.

The program is an argument array, never a shell. It runs in a session of its own with a small environment and must end by itself: at the
deadline its whole group gets TERM, and KILL a moment later; whatever it leaves running when it ends is killed. Its output is read while it
runs, so that one that prints without end is ended too.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from controller.core import strict_json
from controller.core.model import Json
from controller.errors import ExpressionError, GiveUp, InvalidInput, RetryLater
from controller.ports import SourceContext, refusal
from controller.secret import Secret
from controller.sources.probe.extract import Extract
from controller.sources.probe.options import ProbeOptions, seconds
from controller.sources.probe.reading import Look, Sample, checked
from controller.sources.probe.source import Probe

_INHERITED = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV")
#: Between TERM and KILL, in seconds; less when the daemon waits.
_GRACE = 2.0
_SHORT_GRACE = 0.3
_LOOK_SECONDS = 0.05
_CHUNK = 64 << 10
_KEPT_ERRORS = 4096
_VARIABLES = ("body",)


class CommandOptions(ProbeOptions):
    """What a probe that runs a program is told."""

    command: tuple[str, ...] = Field(min_length=1, description="The program and its arguments; no shell")
    env: dict[str, Annotated[Secret | str, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict, description="Variables beside PATH, HOME and the like; may be references to secrets"
    )
    workdir: str = Field(".", description="Where it runs, beginning at the folder of the configuration")
    path: str | None = Field(None, description="Where the value is, as CEL over body; by default body")
    max_bytes: int = Field(64 << 10, ge=1, le=1 << 20, description="A program that prints more is ended")

    @field_validator("command")
    @classmethod
    def _has_a_program(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0] or any("\0" in word for word in value):
            raise refusal("the command names no program, or holds the character NUL")
        return value

    @field_validator("path")
    @classmethod
    def _path_is_cel(cls, value: str | None) -> str | None:
        try:
            Extract.load(value or "body", variables=_VARIABLES)
        except ExpressionError as error:
            raise refusal(error.message, hint=error.hint) from None
        return value


class CommandProbe(Probe):
    """Reads what a program prints."""

    Options = CommandOptions
    options: CommandOptions

    def __init__(self, options: CommandOptions, context: SourceContext) -> None:
        super().__init__(options, context)
        self._extract = Extract.load(options.path or "body", variables=_VARIABLES)
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def look(self, cursor: Json) -> Look:
        output = self._run().strip()
        if not output:
            return Look(samples=())
        try:
            body = strict_json.parse(output, max_bytes=self.options.max_bytes)
            value = checked(self._extract.read({"body": body}), what="what the program printed")
        except InvalidInput as error:
            raise RetryLater(f"{self._name!r} printed what is {error.message}", hint="a number, or JSON") from error
        except ExpressionError as error:
            raise RetryLater(f"path: {error.message}") from error
        return Look(samples=[] if value is None else [Sample(value=value)], payload=output)

    def question(self) -> Json:
        return {"command": list(self.options.command), "path": self.options.path}

    def described(self) -> Mapping[str, Json]:
        # Not the arguments: they may hold what is nobody's business.
        return {"command": self._name}

    @property
    def _name(self) -> str:
        return self.options.command[0]

    def _run(self) -> bytes:
        process = self._start()
        running = _Running(process, self.options.max_bytes)
        ends_at = self.context.clock.monotonic() + self.options.deadline.total_seconds()
        grace = _GRACE
        try:
            while not running.has_ended():
                if self._closed.is_set():
                    grace = _SHORT_GRACE
                    raise RetryLater(f"{self._name!r} was ended, because the probe is")
                if self.context.clock.monotonic() > ends_at:
                    raise RetryLater(f"{self._name!r} took longer than {seconds(self.options.deadline)}, and was ended")
                if running.is_too_much:
                    raise GiveUp(f"{self._name!r} printed more than {self.options.max_bytes:,} bytes, and was ended")
                running.read(_LOOK_SECONDS)
            running.read(0)
        finally:
            code = self._end(running, grace)
        if running.is_too_much:
            raise GiveUp(f"{self._name!r} printed more than {self.options.max_bytes:,} bytes")
        if code != 0:
            ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            raise RetryLater(f"{self._name!r} failed ({ended}): {running.last_words()}")
        return running.output

    def _start(self) -> subprocess.Popen[bytes]:
        options = self.options
        inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        told = {name: value.reveal() if isinstance(value, Secret) else value for name, value in options.env.items()}
        workdir = self.context.base.absolute() / options.workdir
        program = str(workdir / self._name) if "/" in self._name else self._name
        try:
            return subprocess.Popen(
                [program, *options.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=workdir,
                env={**inherited, **told},
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError) as error:
            raise GiveUp(f"cannot run {self._name!r}: {error}") from error
        except OSError as error:
            raise RetryLater(f"cannot run {self._name!r} now: {error}") from error

    def _end(self, running: _Running, grace: float) -> int:
        """End what still runs, and return the program's exit code."""
        if not running.has_ended():
            running.signal_group(signal.SIGTERM)
            ends_at = self.context.clock.monotonic() + grace
            pause = threading.Event()
            while not running.has_ended() and self.context.clock.monotonic() < ends_at:
                pause.wait(_LOOK_SECONDS)
        # Not reaped yet, so the group cannot be another's by now.
        running.signal_group(signal.SIGKILL)
        return running.close()


class _Running:
    """A program that runs, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], most: int) -> None:
        self._process = process
        self._most = most
        self._selector = selectors.DefaultSelector()
        self._out, self._errors = bytearray(), bytearray()
        for pipe, kept in ((process.stdout, self._out), (process.stderr, self._errors)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, kept)
        self._pause = threading.Event()

    @property
    def output(self) -> bytes:
        return bytes(self._out)

    @property
    def is_too_much(self) -> bool:
        return len(self._out) > self._most

    def last_words(self) -> str:
        """Return the last line of what it said is wrong."""
        lines = self._errors.decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def has_ended(self) -> bool:
        """Say whether the program has ended, without reaping it."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._process.returncode is not None or os.waitid(os.P_PID, self._process.pid, flags) is not None

    def read(self, timeout: float) -> None:
        """Read what there is, waiting for it so long; more than what is taken stays where it is."""
        if not self._selector.get_map():
            self._pause.wait(timeout)
            return
        while ready := self._selector.select(timeout):
            timeout = 0
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                kept: bytearray = key.data
                kept += chunk
                if not chunk:
                    self._selector.unregister(key.fileobj)
                if kept is self._errors:
                    del kept[:-_KEPT_ERRORS]
            if self.is_too_much or not self._selector.get_map():
                return

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> int:
        """Reap it, and let go of its pipes; returns its exit code."""
        code = self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code
