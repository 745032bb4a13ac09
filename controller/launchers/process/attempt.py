"""One attempt: its handle, its shim, and the processes that belong to it."""

from __future__ import annotations

import os
from pathlib import Path

from controller.launchers.process.processes import Process, all_pids, read_process, read_settled
from controller.launchers.process.records import read_claim, read_started
from controller.ports import Handle, Order

#: The variable by which stray processes of an attempt are recognised.
ATTEMPT_VARIABLE = "RETRAIN_ATTEMPT_ID"
SHIM = Path(__file__).with_name("shim.sh")
SHELL = "/bin/sh"


def folder_of(handle: Handle) -> Path:
    """Return the attempt's folder."""
    return Path(handle["folder"])


def make_handle(order: Order, shim: int) -> Handle:
    """Return what the store keeps of a job; the same whenever and wherever it is made."""
    return {"folder": str(order.folder.absolute()), "shim": shim, "attempt": order.attempt_id}


def known_handle(order: Order) -> Handle:
    """Return the handle of a claimed attempt; shim 0, which is nobody, when the claim was cut off and its shim is gone."""
    folder = order.folder.absolute()
    claim = read_claim(folder)
    return make_handle(order, claim.shim if claim else search_shim(folder) or 0)


def is_shim(pid: int, folder: Path) -> bool:
    """Say whether this process is the shim of the attempt: its command line names the folder."""
    arguments = read_settled(pid, "cmdline").split(b"\0") if pid > 0 else []
    # Not the path of the script: an upgrade may have moved it since.
    return arguments[:1] + arguments[2:3] == [os.fsencode(SHELL), os.fsencode(folder)]


def search_shim(folder: Path) -> int | None:
    """Return the pid of a shim that has not claimed its folder yet, or whose claim was cut off."""
    shims = [pid for pid in all_pids() if is_shim(pid, folder)]
    # The limiter is a fork of the shim and looks like it; the shim leads the group.
    return next(
        (pid for pid in shims if (found := read_process(pid)) is not None and found.group == pid),
        None,
    )


def shim_pid(folder: Path, handle: Handle) -> int:
    """Return the shim that holds the claim; before there is a claim, the one the handle was made for."""
    claim = read_claim(folder)
    return claim.shim if claim is not None else int(handle["shim"])


def shim_alive(folder: Path, handle: Handle) -> bool:
    """Say whether the attempt's shim is running."""
    return is_shim(shim_pid(folder, handle), folder)


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
