"""Promote by a command of the user's own, such as a deployment script.

The command learns what to do by its environment, and answers with its exit code:
0 is done, 75 (EX_TEMPFAIL of sysexits.h) and a time-out are tried again, anything else gives up with the last lines of stderr.
It may be run again for the same promotion, after a crash, so it must be safe to repeat.

=====================  =======================================================================================
`RETRAIN_ACTION`       `promote`, `rollback` or `current`
`RETRAIN_MODEL`        the model's name
`RETRAIN_VERSION_ID`   the version that must serve when the command is done; empty: none
`RETRAIN_VERSION`      its serial number
`RETRAIN_ARTIFACT`     its artifact, and `RETRAIN_ARTIFACT_DIGEST`, `RETRAIN_METRICS` (JSON), `RETRAIN_RUN_ID`
`RETRAIN_PREVIOUS`     JSON of the version that serves until then (version_id, number, artifact, …); empty: none
`RETRAIN_PROMOTION_ID`, `RETRAIN_ACTOR`, `RETRAIN_REASON`
=====================  =======================================================================================

For `current` only the action and the model are set; the command prints a version id, or nothing.
Without a command for `current`, what is read back is a record of the last command that ended with 0, kept in the state directory:
it says what we asked for, not what serves. Give a `current` command when others can change what serves.
Without a command for `rollback`, the `promote` command is run with the previous version; when there was none, that gives up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar
from urllib.parse import quote

from pydantic import ConfigDict, Field

from controller.errors import GiveUp, RetryLater
from controller.ports import PluginOptions, PromoterContext, PromotionOrder, Target

#: EX_TEMPFAIL of sysexits.h: a temporary failure, the user is invited to retry.
_TEMPORARY_FAILURE = 75
#: How much of a command's output is looked at, from its end.
_TAIL_BYTES = 4096
_TAIL_LINES = 5
#: The command gets these of the daemon's variables; the rest may hold secrets.
_INHERITED = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV")


class CommandOptions(PluginOptions):
    """Options of the promoter `command`."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    promote: list[str] = Field(
        min_length=1,
        description="Program and arguments that make a version serve; never a shell.",
    )
    current: list[str] | None = Field(
        None, min_length=1, description="Prints the id of the version that serves, or nothing."
    )
    rollback: list[str] | None = Field(
        None, min_length=1, description="Undoes a promotion; by default `promote` of the previous."
    )
    timeout: float = Field(300.0, gt=0, description="Seconds after which the command and all it started are killed.")
    env: dict[str, str] = Field(default_factory=dict, description="More environment variables.")
    inherit: list[str] = Field(
        default_factory=list,
        description="Names of the daemon's own variables the command gets beside "
        "PATH, HOME, LANG, LC_*, TZ, TMPDIR and VIRTUAL_ENV.",
    )
    workdir: Path = Field(Path(), description="Where the command runs, relative to the configuration's folder.")


class CommandPromoter:
    """Runs the user's commands; see the module."""

    Options: ClassVar[type[CommandOptions]] = CommandOptions

    def __init__(self, options: CommandOptions, context: PromoterContext) -> None:
        self._options = options
        self._context = context

    def promote(self, order: PromotionOrder) -> None:
        """Run `promote` for the target, and note that it was done."""
        self._run(self._options.promote, "promote", order, serves=order.target, before=order.previous)
        self._remember(order.model, order.target)

    def current(self, model: str) -> str | None:
        """Return what `current` printed; without such a command, what the last one made serve."""
        if self._options.current is None:
            return self._recall(model)
        contract = {"RETRAIN_ACTION": "current", "RETRAIN_MODEL": model}
        return self._execute(self._options.current, contract).strip() or None

    def rollback(self, order: PromotionOrder) -> None:
        """Run `rollback`, or `promote` for the previous version, and note that it was done."""
        command = self._options.rollback
        if command is None:
            if order.previous is None:
                raise GiveUp(
                    f"model {order.model!r} had no version before, and no `rollback` command",
                    hint="give the promoter a `rollback` command",
                )
            command = self._options.promote
        self._run(command, "rollback", order, serves=order.previous, before=order.target)
        self._remember(order.model, order.previous)

    def _run(
        self,
        command: list[str],
        action: str,
        order: PromotionOrder,
        *,
        serves: Target | None,
        before: Target | None,
    ) -> None:
        contract = {
            "RETRAIN_ACTION": action,
            "RETRAIN_MODEL": order.model,
            "RETRAIN_PROMOTION_ID": order.promotion_id,
            "RETRAIN_ACTOR": order.actor,
            "RETRAIN_REASON": order.reason,
            "RETRAIN_VERSION_ID": "" if serves is None else serves.version_id,
            "RETRAIN_VERSION": "" if serves is None else str(serves.number),
            "RETRAIN_ARTIFACT": "" if serves is None else serves.artifact,
            "RETRAIN_ARTIFACT_DIGEST": "" if serves is None else serves.artifact_digest or "",
            "RETRAIN_METRICS": "{}" if serves is None else json.dumps(dict(serves.metrics)),
            "RETRAIN_RUN_ID": "" if serves is None else serves.run_id or "",
            "RETRAIN_PREVIOUS": "" if before is None else json.dumps(_describe(before)),
        }
        self._execute(command, contract)

    def _execute(self, command: list[str], contract: Mapping[str, str]) -> str:
        """Run one command to its end and return the end of what it printed.

        Its output goes to files, because a pipe would stay open as long as anything it left running.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = self._start(command, contract, output, errors)
            try:
                code = process.wait(self._options.timeout)
            except subprocess.TimeoutExpired as error:
                raise RetryLater(f"{command[0]!r} took longer than {self._options.timeout:g} s") from error
            finally:
                if process.returncode is None:
                    # Not reaped yet, so the group cannot be another's by now.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            said = "; ".join(_tail(errors).splitlines()[-_TAIL_LINES:])
            if code == _TEMPORARY_FAILURE:
                raise RetryLater(f"{command[0]!r} asked to be run again: {said}")
            if code != 0:
                ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
                raise GiveUp(f"{command[0]!r} failed ({ended}): {said}")
            return _tail(output)

    def _start(
        self,
        command: list[str],
        contract: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes],
    ) -> subprocess.Popen[bytes]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if _INHERITED.fullmatch(name) or name in self._options.inherit
        }
        workdir = self._context.base.absolute() / self._options.workdir
        program = str(workdir / command[0]) if "/" in command[0] else command[0]
        try:
            return subprocess.Popen(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=workdir,
                env={**inherited, **self._options.env, **contract},
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise GiveUp(f"cannot run {command[0]!r}: {error}") from error
        except OSError as error:
            raise RetryLater(f"cannot run {command[0]!r} now: {error}") from error

    def _record(self, model: str) -> Path:
        return self._context.state / "promoted" / f"{quote(model, safe='')}.json"

    def _remember(self, model: str, serves: Target | None) -> None:
        record = self._record(model)
        fresh = record.with_name(f".{record.name}.new")
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w") as file:
                json.dump(None if serves is None else _describe(serves), file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(record)
        except OSError as error:
            raise RetryLater(f"the command is done, but {str(record)!r} cannot be written: {error}") from error

    def _recall(self, model: str) -> str | None:
        record = self._record(model)
        try:
            described = json.loads(record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RetryLater(f"cannot read {str(record)!r}: {error}") from error
        return None if described is None else str(described["version_id"])


def _describe(target: Target) -> dict[str, object]:
    return {
        "version_id": target.version_id,
        "number": target.number,
        "artifact": target.artifact,
        "artifact_digest": target.artifact_digest,
        "metrics": dict(target.metrics),
        "run_id": target.run_id,
    }


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read().decode(errors="replace").strip()
