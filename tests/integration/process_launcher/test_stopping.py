"""Stopping: it reaches everything that an attempt started and nothing else, with or without the shim, before and after a reboot."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from controller.testing import wait_until
from tests.integration.process_launcher.jobs import Jobs, is_running, kill_shim, shim_of

STUBBORN = """
trap '' TERM
sh -c 'trap "" TERM; while :; do sleep 0.1; done' &
setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done' &
(setsid sh -c 'while :; do sleep 0.1; done' >/dev/null 2>&1 &)
env -i sleep 50 &
echo up
while :; do sleep 0.1; done
"""


def session_of(pid: int) -> list[int]:
    """All processes that the attempt of job `pid` has, by the variable they carry."""
    mark = next(
        text
        for text in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if text.startswith(b"RETRAIN_ATTEMPT_ID=")
    )
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes() and is_running(int(path.name)):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_G05_stop_reaches_everything(jobs: Jobs) -> None:
    """TERM ignored, then KILL: children, grandchildren and daemons with sessions of their own are ended, and the end is recorded."""
    handle = jobs.shell(STUBBORN)
    jobs.printed(handle, b"up")
    pid = jobs.started(handle)
    everything = session_of(pid)
    assert len(everything) >= 5
    jobs.launcher.stop(handle, force=False)
    assert jobs.launcher.observe(handle).state == "running"

    jobs.launcher.stop(handle, force=True)

    assert jobs.end(handle).reason == "killed by signal 9 (SIGKILL)"
    wait_until(lambda: not any(is_running(process) for process in everything))


def test_stop_of_what_a_job_left_behind(jobs: Jobs) -> None:
    """A daemon that a finished job left running is ended by a forced stop."""
    handle = jobs.shell("setsid sleep 60 >/dev/null 2>&1 & echo $!")
    assert jobs.end(handle).state == "succeeded"
    left = int(jobs.log(handle))
    assert is_running(left)

    jobs.launcher.stop(handle, force=True)

    wait_until(lambda: not is_running(left))


def test_a_job_that_kills_its_group(jobs: Jobs) -> None:
    """`kill -9 0` in a job ends the job; the shim lives to record it."""
    seen = jobs.end(jobs.shell("kill -9 0"))

    assert seen.reason == "killed by signal 9 (SIGKILL)"


def test_stopped_at_once(jobs: Jobs) -> None:
    """A stop that comes before the job's first instruction is not lost."""
    for _ in range(5):
        handle = jobs.launch("sleep", "60")
        jobs.launcher.stop(handle, force=False)
        assert jobs.end(handle).reason == "killed by signal 15 (SIGTERM)"


def test_stop_of_a_suspended_job(jobs: Jobs) -> None:
    """A job that was suspended is still running, and TERM ends it."""
    handle = jobs.launch("sleep", "60")
    pid = jobs.started(handle)
    os.kill(pid, signal.SIGSTOP)
    assert jobs.launcher.observe(handle).state == "running"

    jobs.launcher.stop(handle, force=False)

    assert jobs.end(handle).reason == "killed by signal 15 (SIGTERM)"


def test_shim_ignores_signals(jobs: Jobs) -> None:
    """Signals that a terminal or service manager sends to the shim do not end it."""
    handle = jobs.launch("sleep", "0.3")
    jobs.started(handle)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(shim_of(handle), number)

    assert jobs.end(handle).state == "succeeded"


def test_G05_shim_killed(jobs: Jobs) -> None:
    """Without its shim a job is still running, can be watched to its end, and is then lost."""
    handle = jobs.launch("sleep", "0.4")
    jobs.started(handle)
    kill_shim(handle)
    assert jobs.launcher.observe(handle).state == "running"

    seen = jobs.end(handle)

    assert (seen.state, seen.exit_code) == ("lost", None)
    assert "left no exit code" in seen.reason


def test_reused_pid(jobs: Jobs) -> None:
    """A process that has the job's pid but not its start time is not taken for the job, nor signalled."""
    handle = jobs.launch("sleep", "60")
    pid = jobs.started(handle)
    record = Path(handle["folder"]) / "started"
    _, start = record.read_text().split()
    kill_shim(handle)
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        record.write_text(f"{innocent.pid} {int(start) - 1}\n")

        assert jobs.launcher.observe(handle).state == "lost"
        jobs.launcher.stop(handle, force=True)
        assert innocent.poll() is None
        assert not is_running(pid), "found by its mark all the same"
    finally:
        innocent.kill()
        innocent.wait()


def test_G05_rebooted_host(jobs: Jobs) -> None:
    """With another boot id the job is lost whatever runs under its numbers, and nothing is signalled."""
    handle = jobs.launch("sleep", "60")
    pid = jobs.started(handle)
    claim = Path(handle["folder"]) / "claim"
    ours = claim.read_text()
    claim.write_text(f"{shim_of(handle)} 11111111-2222-3333-4444-555555555555\n")

    seen = jobs.launcher.observe(handle)
    jobs.launcher.stop(handle, force=True)

    assert (seen.state, seen.reason) == ("lost", "host was rebooted")
    assert is_running(pid)
    claim.write_text(ours)


def test_an_end_before_the_reboot_counts(jobs: Jobs) -> None:
    """A job that ended before the host was rebooted keeps its end."""
    handle = jobs.launch("true")
    jobs.end(handle)
    (Path(handle["folder"]) / "claim").write_text("5 11111111-2222-3333-4444-555555555555\n")

    assert jobs.launcher.observe(handle).state == "succeeded"
