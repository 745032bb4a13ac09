"""Asks a program: what it prints is the value, a number or any JSON.

The program is an argument array, never a shell. It runs in a session of its own with a small environment and must end by itself: at the
deadline its whole group gets TERM, and KILL a moment later; whatever it leaves running when it ends is killed. Its output is read while it
runs, so that one that prints without end is ended too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from controller.core import strict_json
from controller.core.model import Json
from controller.errors import ExpressionError, GiveUp, InvalidInput, RetryLater
from controller.outbound.mask import masked
from controller.outbound.program import Running
from controller.ports import SourceContext, refusal
from controller.secret import Secret
from controller.sources.probe.extract import Extract
from controller.sources.probe.options import ProbeOptions, seconds
from controller.sources.probe.reading import Look, Sample, checked
from controller.sources.probe.source import Probe

#: Between TERM and KILL, in seconds; less when the daemon waits.
_GRACE = 2.0
_SHORT_GRACE = 0.3
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
        options = self.options
        secrets = {name: value.reveal() for name, value in options.env.items() if isinstance(value, Secret)}
        told = {name: value for name, value in options.env.items() if isinstance(value, str)}
        running = Running(
            options.command,
            environment={**told, **secrets},
            workdir=self.context.base.absolute() / options.workdir,
            clock=self.context.clock,
            last_errors=_KEPT_ERRORS,
        )
        try:
            in_time = running.wait(options.deadline.total_seconds(), look=lambda: self._may_go_on(running))
        finally:
            code = running.end(grace_seconds=_SHORT_GRACE if self._closed.is_set() else _GRACE)
        if not in_time:
            raise RetryLater(f"{self._name!r} took longer than {seconds(options.deadline)}, and was ended")
        if len(running.output) > options.max_bytes:
            raise GiveUp(f"{self._name!r} printed more than {options.max_bytes:,} bytes")
        if code != 0:
            ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            said = masked(running.errors.decode(errors="replace"), secrets.values())
            raise RetryLater(f"{self._name!r} failed ({ended}): {_last_line(said)}")
        return running.output

    def _may_go_on(self, running: Running) -> None:
        if self._closed.is_set():
            raise RetryLater(f"{self._name!r} was ended, because the probe is")
        if len(running.output) > self.options.max_bytes:
            raise GiveUp(f"{self._name!r} printed more than {self.options.max_bytes:,} bytes, and was ended")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"
