"""What the shim writes into an attempt's folder, read back.

A record is one line, written by one write(2). What has no newline, or another form, does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controller.launchers.process.processes import read_process

_CLAIM = re.compile(r"\d+ [\w-]+( \d+)?\n")
_STARTED = re.compile(r"\d+ \d+\n")
_EXIT = re.compile(r"\d{1,3}\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Which shim may run the attempt, and under which boot of the machine."""

    shim: int
    boot_id: str
    #: When the shim was started, of one that was started ahead; the arguments of another name the folder.
    start: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A process that a record names: the job's own, or a shim."""

    pid: int
    start: int

    def alive(self) -> bool:
        """Say whether this process runs; another one with its pid, or a zombie, does not count."""
        process = read_process(self.pid)
        return process is not None and process.start == self.start and process.state not in "ZX"


def parse_job(content: bytes) -> Job | None:
    """Return the process that a line "pid start-time" names; None for anything else."""
    text = content.decode(errors="replace")
    if not _STARTED.fullmatch(text):
        return None
    pid, start = text.split()
    return Job(pid=int(pid), start=int(start))


def read_claim(folder: Path) -> Claim | None:
    """Return the claim, None while there is none."""
    record = _read_record(folder / "claim", _CLAIM)
    if record is None:
        return None
    return Claim(shim=int(record[0]), boot_id=record[1], start=int(record[2]) if len(record) > 2 else None)


def read_handed(folder: Path) -> Job | None:
    """Return the shim, started ahead, that the attempt was handed to last; it may be on its way to the claim."""
    record = _read_record(folder / "handed", _STARTED)
    return None if record is None else Job(pid=int(record[0]), start=int(record[1]))


def read_started(folder: Path) -> Job | None:
    """Return the job's process, None before it exists."""
    record = _read_record(folder / "started", _STARTED)
    return None if record is None else Job(pid=int(record[0]), start=int(record[1]))


def read_exit(folder: Path) -> int | None:
    """Return the exit code as sh gives it: above 128 for a signal."""
    record = _read_record(folder / "exit", _EXIT)
    return None if record is None else int(record[0])


def written_at(path: Path) -> datetime | None:
    """Return when a record was written, None when it is missing."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_record(path: Path, form: re.Pattern[str]) -> list[str] | None:
    """Return the fields of a record; None when there is none, or only a part of one (a full disk, a power cut)."""
    try:
        content = path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content.split() if form.fullmatch(content) else None
