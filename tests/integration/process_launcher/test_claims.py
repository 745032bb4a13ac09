"""An attempt is launched once and found again, whatever dies meanwhile, however many try, and whatever its records hold."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import controller
from controller.launchers.process import ProcessLauncher
from controller.ports import Handle, Order
from controller.testing import wait_until
from tests.integration.process_launcher.jobs import Jobs, make_launcher, shim_of

ROOT = Path(controller.__file__).parents[1]
#: Launches the order it reads from stdin, says so, and waits to be killed.
DAEMON = """
import json, sys
from pathlib import Path
from tests.integration.process_launcher.jobs import make_launcher, make_order
words = json.load(sys.stdin)
order = make_order(Path(words["folder"]), *words["command"])
launcher = make_launcher(Path(words["base"]))
print("ready", flush=True)
handle = launcher.launch(order)
print(json.dumps(handle), flush=True)
sys.stdin.close()
import signal; signal.pause()
"""


def daemon(jobs: Jobs, *command: str) -> tuple[subprocess.Popen[str], Order]:
    order = jobs.order(*command)
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        start_new_session=True,
    )
    assert process.stdin is not None
    words = {"folder": str(order.folder), "base": str(jobs.base), "command": command}
    process.stdin.write(json.dumps(words))
    process.stdin.close()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, order


def kill_daemon(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_G06_a_job_survives_the_daemon(jobs: Jobs) -> None:
    """A job goes on when the daemon's whole group is killed; another daemon finds it and sees its end."""
    process, order = daemon(jobs, "sh", "-c", "until [ -e go ]; do sleep 0.02; done; echo done; exit 5")
    assert process.stdout is not None
    handle = json.loads(process.stdout.readline())
    kill_daemon(process)

    assert jobs.launcher.find(order) == handle
    assert jobs.launcher.observe(handle).state == "running"
    (jobs.base / "go").touch()
    assert jobs.end(handle).exit_code == 5
    assert jobs.log(handle) == b"done\n"


def test_a_job_of_a_dead_daemon_can_be_stopped(jobs: Jobs) -> None:
    """Another daemon stops what a dead one started."""
    process, order = daemon(jobs, "sleep", "60")
    assert process.stdout is not None
    process.stdout.readline()
    kill_daemon(process)
    handle = jobs.launcher.find(order)
    assert handle is not None

    jobs.launcher.stop(handle, force=False)

    assert jobs.end(handle).reason == "killed by signal 15 (SIGTERM)"


@pytest.mark.crash
def test_G03_a_daemon_killed_at_any_time_around_the_start(jobs: Jobs) -> None:
    """Wherever the daemon dies, launching again gives exactly one job, and its end."""
    chance = random.Random(7)
    pause = threading.Event()
    for _ in range(8):
        process, order = daemon(jobs, "sh", "-c", "echo ran >>ran; sleep 0.05")
        ran = jobs.base / "ran"
        ran.unlink(missing_ok=True)
        pause.wait(chance.uniform(0, 0.006))
        kill_daemon(process)

        handle = jobs.launcher.find(order) or jobs.launcher.launch(order)

        assert jobs.end(jobs.launcher.launch(order)).state == "succeeded"
        assert jobs.launcher.observe(handle).state == "succeeded"
        assert ran.read_text() == "ran\n"


def test_watched_by_a_shim_that_came_late_to_the_claim(jobs: Jobs) -> None:
    """Of two shims that were started around a crash, the end of the one that lost the claim is not the end of the job."""
    order = jobs.order("sh", "-c", "until [ -e go ]; do sleep 0.01; done")
    late = jobs.base / "late.sh"
    late.write_text("until [ -e lost ]; do sleep 0.01; done\n")
    loser = subprocess.Popen(
        ["/bin/sh", str(late), str(order.folder.absolute())], cwd=jobs.base, start_new_session=True
    )
    handle = wait_until(lambda: jobs.launcher.find(order))
    states: list[str] = []
    told = threading.Event()

    def look() -> None:
        states.append(jobs.launcher.observe(handle).state)
        told.set()

    jobs.launcher.watch(handle, look)
    jobs.launcher.launch(order)
    jobs.started(handle)
    (jobs.base / "lost").touch()
    wait_until(lambda: jobs.launcher._watcher.pid(handle["folder"]) != loser.pid)
    (jobs.base / "go").touch()

    assert told.wait(20)
    assert states == ["succeeded"]
    loser.wait()


def test_G03_launched_by_many_at_once(jobs: Jobs) -> None:
    """Ten launches of one attempt at the same instant start one job."""
    order = jobs.order("sh", "-c", "echo ran >>ran; sleep 0.2")
    launchers = [make_launcher(jobs.base) for _ in range(10)]
    barrier = threading.Barrier(len(launchers))
    handles: list[Handle] = []

    def launch(launcher: ProcessLauncher) -> None:
        barrier.wait()
        handles.append(launcher.launch(order))

    threads = [threading.Thread(target=launch, args=(launcher,)) for launcher in launchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: jobs.launcher.observe(handles[0]).state != "running")
    assert {jobs.launcher.observe(handle).state for handle in handles} == {"succeeded"}
    assert (jobs.base / "ran").read_text() == "ran\n"


def test_G05_claimed_by_a_shim_that_died(jobs: Jobs) -> None:
    """A claim without a start, whose shim is gone, is lost and never run."""
    order = jobs.order("touch", "ran")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    (order.folder / "claim").write_text(f"999999999 {boot_id}")

    handle = jobs.launcher.launch(order)

    assert jobs.launcher.observe(handle).state == "lost"
    assert not (jobs.base / "ran").exists()


@pytest.mark.parametrize("content", ["", "12", "garbage\n", "\x00\n"])
def test_broken_records(jobs: Jobs, content: str) -> None:
    """A record that was cut off, by a full disk or a power cut, does not count and raises nothing."""
    order = jobs.order("true")
    for name in ("claim", "started", "exit"):
        (order.folder / name).write_text(content)

    handle = jobs.launcher.find(order)

    assert handle is not None
    assert jobs.launcher.observe(handle).state == "lost"
    jobs.launcher.stop(handle, force=True)


def test_deleted_folder(jobs: Jobs) -> None:
    """A job whose folder somebody removed is lost once nothing runs, not an exception."""
    handle = jobs.launch("true")
    jobs.end(handle)
    for path in Path(handle["folder"]).iterdir():
        path.unlink()
    Path(handle["folder"]).rmdir()

    assert jobs.launcher.observe(handle).state == "lost"
    assert jobs.launcher.log(handle, 0, 10).data == b""


def test_200_jobs(jobs: Jobs) -> None:
    """Many jobs at once are started, told of and reaped by one thread, and leave no descriptor open."""
    jobs.launcher._stand_bys.fill()  # those that stand by afterwards have pipes of their own
    before = len(list(Path("/proc/self/fd").iterdir()))
    ended = threading.Semaphore(0)
    handles = [jobs.launch("true") for _ in range(200)]
    for handle in handles:
        jobs.launcher.watch(handle, lambda: ended.release() and None)

    for _ in handles:
        assert ended.acquire(timeout=30)

    assert {jobs.launcher.observe(handle).state for handle in handles} == {"succeeded"}
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1, "the epoll itself may stay"
    assert len([t for t in threading.enumerate() if t.name == "process-launcher"]) >= 1
    assert not any(Path(f"/proc/{shim_of(handle)}").exists() for handle in handles), "zombies"
