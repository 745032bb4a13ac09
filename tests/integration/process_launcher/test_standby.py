"""A shim that was started ahead runs a job as one of its own would, and whatever dies meanwhile, the job runs once or not at all."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import controller
from controller.launchers.process.processes import all_pids, read_process
from controller.launchers.process.standby import SPARES, _folder_line, _order
from controller.testing import wait_until
from tests.integration.process_launcher.jobs import Jobs, is_running, shim_of

ROOT = Path(controller.__file__).parents[1]
#: Prepares, launches the order it reads from stdin, says so, and waits to be killed.
DAEMON = """
import json, select, sys
from pathlib import Path
from tests.integration.process_launcher.jobs import make_launcher, make_order
words = json.load(sys.stdin)
order = make_order(Path(words["folder"]), *words["command"])
launcher = make_launcher(Path(words["base"]))
launcher._stand_bys.fill()
for waiting in launcher._stand_bys._waiting:
    select.select([waiting.ready], [], [])
print("ready", *(waiting.shim.pid for waiting in launcher._stand_bys._waiting), flush=True)
launcher.launch(order)
sys.stdin.close()
import signal; signal.pause()
"""


def prepare(jobs: Jobs) -> list[Any]:
    """Let shims stand by, and return them once all of them wait."""
    jobs.launcher._stand_bys.fill()
    waiting = list(jobs.launcher._stand_bys._waiting)
    assert len(waiting) == SPARES
    for each in waiting:
        assert select.select([each.ready], [], [], 20)[0]
    return waiting


def was_handed(handle: Any) -> bool:
    return (Path(handle["folder"]) / "handed").exists()


def daemon(jobs: Jobs, *command: str) -> tuple[subprocess.Popen[str], Any, list[int]]:
    """Run a daemon that launches a job; return it, its order and the shims that stood by."""
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
    assert process.stdout is not None
    process.stdin.write(json.dumps({"folder": str(order.folder), "base": str(jobs.base), "command": command}))
    process.stdin.close()
    said, *shims = process.stdout.readline().split()
    assert said == "ready"
    return process, order, list(map(int, shims))


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_job_is_what_it_would_be(jobs: Jobs) -> None:
    """Arguments, variables, folder, session, niceness, descriptors and signals are those of a job with a shim of its own."""
    (jobs.base / "work").mkdir()
    code = """
import json, os, signal, sys
ignored = [s.name for s in signal.Signals if s not in (9, 19) and signal.getsignal(s) == signal.SIG_IGN]
stat = open("/proc/self/stat").read().split()
print(json.dumps({
    "arguments": sys.argv[1:], "variables": {n: v for n, v in os.environ.items() if "ATTEMPT" not in n},
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0), "cwd": os.getcwd(), "stdin": sys.stdin.read(),
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "ignored": ignored, "blocked": list(signal.pthread_sigmask(0, [])),
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
}))
"""
    arguments = ["", "a b", "'", "$(touch x)", "\\", "\n", "漂\x81移", "-n"]
    options: dict[str, Any] = {"env": {"XA": "'\"$x\\\n", "XB": "ā\x84"}, "workdir": "work", "nice": 7}
    alone = jobs.python(code, *arguments, **options)
    jobs.end(alone)
    prepare(jobs)

    ahead = jobs.python(code, *arguments, **options)
    jobs.end(ahead)

    assert (was_handed(alone), was_handed(ahead)) == (False, True)
    assert json.loads(jobs.log(ahead)) == json.loads(jobs.log(alone))


@pytest.mark.parametrize("code", [0, 3, 127, 255])
def test_its_end_is_recorded(jobs: Jobs, code: int) -> None:
    """The exit code and the output of the job are there, as is the end by a signal."""
    prepare(jobs)
    handles = [jobs.shell(f"echo out; echo err >&2; exit {code}"), jobs.shell("kill -9 0")]

    ends = [jobs.end(handle) for handle in handles]

    assert all(map(was_handed, handles))
    assert ends[0].exit_code == code
    assert jobs.log(handles[0]) == b"out\nerr\n"
    assert ends[1].reason == "killed by signal 9 (SIGKILL)"


def test_it_is_stopped_like_any_other(jobs: Jobs) -> None:
    """A stop reaches the job also when it comes before its first instruction."""
    prepare(jobs)
    handle = jobs.launch("sleep", "60")

    jobs.launcher.stop(handle, force=False)

    assert was_handed(handle)
    assert jobs.end(handle).reason == "killed by signal 15 (SIGTERM)"


def test_a_program_that_the_kernel_refuses(jobs: Jobs) -> None:
    """A script without its interpreter is a job that could not be run, and the reason says so."""
    prepare(jobs)
    script = jobs.base / "broken"
    script.write_text("#!/nowhere/python\n")
    script.chmod(0o755)

    seen = jobs.end(jobs.launch(str(script)))

    assert seen.state == "failed"
    assert seen.reason.startswith("the command could not be run: ")
    assert str(script) in seen.reason


def test_variables_do_not_lie_on_the_disk(jobs: Jobs) -> None:
    """What the job is given, which may be a secret, is in no file."""
    prepare(jobs)
    handle = jobs.shell("exit 0", env={"TOKEN": "very-secret"})
    jobs.end(handle)

    assert was_handed(handle)
    assert not [path for path in Path(handle["folder"]).iterdir() if b"very-secret" in path.read_bytes()]


def test_what_is_too_long_gets_a_shim_of_its_own(jobs: Jobs) -> None:
    """An order that does not fit into a pipe is launched all the same, and who waits goes on waiting."""
    prepare(jobs)
    handle = jobs.shell("echo ${#LONG}", env={"LONG": "x" * 100_000})
    jobs.end(handle)

    assert not was_handed(handle)
    assert jobs.log(handle) == b"100000\n"
    assert len(jobs.launcher._stand_bys._waiting) == SPARES


def test_one_that_died_is_not_asked(jobs: Jobs) -> None:
    """A shim that was killed while it waited, or its other half, costs the next job nothing but time."""
    first, second = prepare(jobs)
    os.kill(first.shim.pid, signal.SIGKILL)
    others = [found.pid for pid in all_pids() if (found := read_process(pid)) and found.parent == second.shim.pid]
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not first.shim.alive() and not any(map(is_running, others)))

    handle = jobs.launch("true")

    assert jobs.end(handle).state == "succeeded"
    assert not was_handed(handle)


@pytest.mark.parametrize("cut", [0, 10, -3])
def test_half_an_order_is_none(jobs: Jobs, cut: int) -> None:
    """A daemon that dies while it sends leaves nothing that runs, and nothing that says so."""
    order = jobs.order("touch", "ran")
    text = _order(order.folder, ["/usr/bin/touch", "ran"], jobs.base, {"A": "1"})
    assert text is not None
    waiting = prepare(jobs)[0]
    jobs.launcher._stand_bys._waiting.remove(waiting)
    for descriptor in (waiting.log_order, waiting.shim_order):
        os.write(descriptor, _folder_line(order.folder))
    os.write(waiting.job_order, text[:cut])

    waiting.close()
    wait_until(lambda: not waiting.shim.alive())

    assert jobs.launcher.find(order) is None
    assert not (order.folder / "exit").exists()
    assert not (jobs.base / "ran").exists()


@pytest.mark.parametrize("is_whole", [True, False], ids=["it got the order", "it did not"])
def test_G03_a_shim_that_may_have_its_order_is_waited_for(jobs: Jobs, is_whole: bool) -> None:
    """After a crash it still lives for a moment: the attempt was started, or it can be started again; never is it given up for lost."""
    order = jobs.order("touch", "ran")
    text = _order(order.folder, ["/usr/bin/touch", "ran"], jobs.base, {"A": "1"})
    assert text is not None
    waiting = prepare(jobs)[0]
    jobs.launcher._stand_bys._waiting.remove(waiting)
    os.killpg(waiting.shim.pid, signal.SIGSTOP)
    job = read_process(waiting.shim.pid)
    assert job is not None
    stopped = [pid for pid in all_pids() if (found := read_process(pid)) is not None and found.parent == job.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    (order.folder / "handed").write_text(f"{waiting.shim.pid} {waiting.shim.start}\n")
    for descriptor in (waiting.log_order, waiting.shim_order):
        os.write(descriptor, _folder_line(order.folder))
    os.write(waiting.job_order, text if is_whole else text[:10])
    waiting.close()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(jobs.launcher.find(order)))

    asking.start()
    asking.join(0.2)
    before = list(answers)
    for pid in (waiting.shim.pid, *stopped):
        os.kill(pid, signal.SIGCONT)
    asking.join(10)

    assert before == []
    assert (answers[0] is not None) == is_whole
    wait_until(lambda: not waiting.shim.alive())
    assert (jobs.base / "ran").exists() == is_whole


def test_they_end_with_the_daemon(jobs: Jobs) -> None:
    """Who still waits when the daemon is killed ends; the job that was launched goes on."""
    process, order, shims = daemon(jobs, "sh", "-c", "until [ -e go ]; do sleep 0.02; done; exit 5")
    wait_until(lambda: (order.folder / "started").exists())
    runs = shim_of({"folder": str(order.folder)})
    kill(process)

    handle = jobs.launcher.find(order)

    assert handle is not None
    wait_until(lambda: [pid for pid in shims if is_running(pid)] == [runs])
    (jobs.base / "go").touch()
    assert jobs.end(handle).exit_code == 5


def test_they_end_with_the_launcher(jobs: Jobs) -> None:
    """A launcher that is made anew, as after a reload, leaves no shims that wait, nor zombies, nor descriptors."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    other = Jobs(jobs.base)
    shims = [waiting.shim.pid for waiting in prepare(other)]

    del other

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shims))
    wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before + 1)  # the epoll itself may stay


@pytest.mark.crash
def test_a_daemon_killed_at_any_time_around_the_start(jobs: Jobs) -> None:
    """Wherever the daemon dies, launching again gives exactly one job, and its end."""
    chance = random.Random(11)
    pause = threading.Event()
    for _ in range(8):
        ran = jobs.base / "ran"
        ran.unlink(missing_ok=True)
        process, order, _ = daemon(jobs, "sh", "-c", "echo ran >>ran; sleep 0.05")
        pause.wait(chance.uniform(0, 0.003))
        kill(process)

        handle = jobs.launcher.find(order) or jobs.launcher.launch(order)

        if jobs.end(handle).state == "lost":  # its shim had the order, its job had none: nothing ran
            assert not ran.exists()
            handle = jobs.launcher.launch(order)
        assert jobs.end(handle).state == "succeeded"
        assert ran.read_text() == "ran\n"
