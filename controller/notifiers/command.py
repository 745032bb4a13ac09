"""Tell people by a program of the user's own: a mailer, a pager's command line, a script.

The program is an argument array, never a shell. The message is JSON on its standard input (`core/notices.py: as_json`), and its main parts
are in the environment; nothing of it ever becomes an argument.
Exit code 0 means sent, 75 (EX_TEMPFAIL of sysexits.h) and a time-out mean later; anything else gives up. The end of what it printed is the
reason that is kept. It may be run again for the same message, after a crash: `RETRAIN_NOTIFICATION_ID` is the same then.

===============================  ===============================================================
`RETRAIN_NOTIFICATION_ID`        stable through repetitions
`RETRAIN_NOTIFICATION_KIND`      `failed`, `promoted`, …
`RETRAIN_NOTIFICATION_TITLE`     a sentence
`RETRAIN_NOTIFICATION_CHANNEL`   the channel's name in the configuration
`RETRAIN_NOTIFICATION_MODEL`     empty when it concerns no single model
`RETRAIN_NOTIFICATION_RUN_ID`    empty when it concerns no single run
`RETRAIN_NOTIFICATION_COUNT`     how many messages it stands for
===============================  ===============================================================

The program runs in a session of its own with a small environment. At the deadline its whole group is killed, and what it leaves running
when it ends is killed too.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from controller.core.model import Notification
from controller.core.notices import as_json
from controller.errors import GiveUp, RetryLater
from controller.outbound.mask import masked
from controller.outbound.program import Running
from controller.ports import Duration, NotifierContext, PluginOptions, refusal
from controller.secret import Secret

#: EX_TEMPFAIL of sysexits.h: a temporary failure, the user is invited to retry.
_TEMPORARY_FAILURE = 75
#: So many characters of what it prints are shown, from its end; more is read, so that a secret is not cut before it is masked.
_SHOWN, _READ = 2000, 16 << 10
#: Longer texts are cut in the environment, where the system has limits; on standard input they are whole.
_LONGEST_VARIABLE = 8000


class CommandOptions(PluginOptions):
    """Options of the notifier `command`."""

    command: tuple[str, ...] = Field(min_length=1, description="The program and its arguments; no shell")
    timeout: Duration = Field(timedelta(seconds=30), description="When it is killed, with all that it started")
    env: dict[str, Annotated[Secret | str, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict, description="Variables beside PATH, HOME and the like; may be references to secrets"
    )
    workdir: str = Field(".", description="Where it runs, beginning at the folder of the configuration")

    @field_validator("command")
    @classmethod
    def _has_a_program(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0] or any("\0" in word for word in value):
            raise refusal("the command names no program, or holds the character NUL")
        return value

    @field_validator("timeout")
    @classmethod
    def _takes_some_time(cls, value: timedelta) -> timedelta:
        if not value:
            raise refusal("a timeout of no time at all would kill every program", hint="timeout: 30s")
        return value


class CommandNotifier:
    """Runs the user's program; see the module."""

    Options: ClassVar[type[CommandOptions]] = CommandOptions

    def __init__(self, options: CommandOptions, context: NotifierContext) -> None:
        self._options = options
        self._context = context

    def send(self, notification: Notification) -> None:
        """Run the program, and read its exit code; raises `RetryLater` and `GiveUp` with the end of what it printed."""
        secrets = {name: value.reveal() for name, value in self._options.env.items() if isinstance(value, Secret)}
        told = {name: value for name, value in self._options.env.items() if isinstance(value, str)}
        running = Running(
            self._options.command,
            environment={**told, **secrets, **_variables(notification)},
            workdir=self._context.base.absolute() / self._options.workdir,
            clock=self._context.clock,
            given=json.dumps(as_json(notification), ensure_ascii=False).encode(errors="replace"),
            last_output=_READ,
        )
        try:
            in_time = running.wait(self._options.timeout.total_seconds())
        finally:
            code = running.end()
        said = _in_one_line(masked(running.output.decode(errors="replace"), secrets.values()))
        self._judge(code if in_time else None, said[-_SHOWN:])

    def _judge(self, code: int | None, said: str) -> None:
        words = f": {said}" if said else ""
        if code is None:
            raise RetryLater(f"{self._name!r} took longer than {self._options.timeout.total_seconds():g} s{words}")
        if code == _TEMPORARY_FAILURE:
            raise RetryLater(f"{self._name!r} asked to be run again{words}")
        if code != 0:
            ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            raise GiveUp(f"{self._name!r} failed ({ended}){words}")

    @property
    def _name(self) -> str:
        return self._options.command[0]


def _variables(notification: Notification) -> dict[str, str]:
    found = {
        "ID": notification.id,
        "KIND": notification.kind,
        "TITLE": notification.title,
        "CHANNEL": notification.channel,
        "MODEL": notification.model or "",
        "RUN_ID": notification.run_id or "",
        "COUNT": str(max(len(notification.messages), 1)),
    }
    # A variable ends at its first NUL, so the system takes none.
    return {
        f"RETRAIN_NOTIFICATION_{name}": value.replace("\0", "")[:_LONGEST_VARIABLE] for name, value in found.items()
    }


def _in_one_line(text: str) -> str:
    return "; ".join(text.replace("\0", "").split("\n")).strip("; ")
