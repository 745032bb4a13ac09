"""One attempt: its handle, its shim, and the processes that belong to it."""

from __future__ import annotations

import os
from pathlib import Path

from controller.launchers.process.processes import Process, all_pids, read_process, read_settled
from controller.launchers.process.records import Job, read_claim, read_handed, read_started
from controller.ports import Handle, Order

#: The variable by which stray processes of an attempt are recognised.
ATTEMPT_VARIABLE = "RETRAIN_ATTEMPT_ID"
SHIM = Path(__file__).with_name("shim.sh")
SHELL = "/bin/sh"


def folder_of(handle: Handle) -> Path:
    """Return the attempt's folder."""
    return Path(handle["folder"])


def make_handle(order: Order) -> Handle:
    """Return what the store keeps of a job: where its records are. It is the same whenever and by whomever it is made."""
    return {"folder": str(order.folder.absolute()), "attempt": order.attempt_id}


def is_shim(pid: int, folder: Path) -> bool:
    """Say whether this process is the shim of the attempt: its command line names the folder, or the folder names it with its start."""
    arguments = read_settled(pid, "cmdline").split(b"\0") if pid > 0 else []
    # Not the path of the script: an upgrade may have moved it since.
    if arguments[:1] + arguments[2:3] == [os.fsencode(SHELL), os.fsencode(folder)]:
        return True
    return any(named.pid == pid and named.alive() for named in _named_shims(folder))


def _named_shims(folder: Path) -> list[Job]:
    """Return the shims, started ahead, that the folder's records name."""
    claim, handed = read_claim(folder), read_handed(folder)
    claimed = Job(pid=claim.shim, start=claim.start) if claim is not None and claim.start is not None else None
    return [named for named in (claimed, handed) if named is not None]


def was_handed(folder: Path) -> bool:
    """Say whether a shim lives, started ahead, that may have been sent the order of this attempt."""
    handed = read_handed(folder)
    return handed is not None and handed.alive()


def search_shim(folder: Path) -> int | None:
    """Return the pid of a shim that has not claimed its folder yet, or whose claim was cut off."""
    handed = read_handed(folder)
    if handed is not None and handed.alive():
        return handed.pid
    shims = [pid for pid in all_pids() if is_shim(pid, folder)]
    # The limiter is a fork of the shim and looks like it; the shim leads the group.
    return next(
        (pid for pid in shims if (found := read_process(pid)) is not None and found.group == pid),
        None,
    )


def find_shim(folder: Path, started: int | None) -> int:
    """Return the pid of the shim that runs the attempt, or ran it; 0, which is nobody, when there never was one.

    Before there is a claim, that is the shim we `started` ourselves, or else one that is searched among all processes.
    """
    claim = read_claim(folder)
    if claim is not None:
        return claim.shim
    if started is not None and is_shim(started, folder):
        return started
    return search_shim(folder) or 0


def find_members(folder: Path, shim: int, attempt_id: str) -> list[Process]:
    """Return the living processes of an attempt: the job, its session, group and descendants, and all that carry its mark.

    The group of the shim is left out: the shim and what keeps the log.
    """
    job = read_started(folder)
    if job is None:
        return []
    everything = [found for pid in all_pids() if (found := read_process(pid)) is not None]
    candidates = [
        process
        for process in everything
        if process.start >= job.start and (process.pid == job.pid or shim not in (process.pid, process.group))
    ]
    # Once the job itself is gone its pid may lead another session; then only the mark tells.
    leads = any((process.pid, process.start) == (job.pid, job.start) for process in candidates)
    mark = os.fsencode(f"{ATTEMPT_VARIABLE}={attempt_id}")
    members = {
        process.pid: process
        for process in candidates
        if (leads and job.pid in (process.pid, process.session, process.group))
        or mark in read_settled(process.pid, "environ").split(b"\0")
    }
    while more := [process for process in candidates if process.parent in members and process.pid not in members]:
        members.update({process.pid: process for process in more})
    return [process for process in members.values() if process.state not in "ZX"]
