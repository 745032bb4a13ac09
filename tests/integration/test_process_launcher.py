"""Jobs as processes: what they are given, how they end, and what no death of anybody changes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import controller
from controller.clock import SystemClock
from controller.errors import GiveUp
from controller.launchers.process import ProcessLauncher, ProcessOptions, ProcessSettings
from controller.ports import Handle, LauncherContext, Observation, Order
from controller.testing import RecordingLog, wait_until

ROOT = Path(controller.__file__).parents[1]

#: Launches the order it reads from stdin, says so, and waits to be killed.
DAEMON = """
import json, sys
from pathlib import Path
from tests.integration.test_process_launcher import make_launcher, make_order
words = json.load(sys.stdin)
order = make_order(Path(words["folder"]), *words["command"])
launcher = make_launcher(Path(words["base"]))
print("ready", flush=True)
handle = launcher.launch(order)
print(json.dumps(handle), flush=True)
sys.stdin.close()
import signal; signal.pause()
"""


def make_launcher(base: Path, **changes: Any) -> ProcessLauncher:
    context = LauncherContext(base=base, state=base, clock=SystemClock(), log=RecordingLog())
    return ProcessLauncher(ProcessSettings(**changes), context)


def make_order(folder: Path, *command: str, **options: Any) -> Order:
    folder.mkdir(exist_ok=True)
    return Order(
        run_id="run-1",
        job_id="job-1",
        attempt_id=f"att-{folder.parent.name}-{folder.name}",
        attempt=1,
        model="churn",
        candidate="linear",
        folder=folder,
        environment={"RETRAIN_RUN_ID": "run-1", "RETRAIN_PARAMS": '{"a": "ü\n$(b)"}'},
        options=ProcessOptions(command=list(command), **options),
    )


class Jobs:
    """Launches jobs below one folder and ends them all afterwards."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.launcher = make_launcher(base)
        self.handles: list[Handle] = []
        self._numbers = count(1)

    def order(self, *command: str, **options: Any) -> Order:
        return make_order(self.base / f"attempt-{next(self._numbers)}", *command, **options)

    def launch(self, *command: str, **options: Any) -> Handle:
        handle = self.launcher.launch(self.order(*command, **options))
        self.handles.append(handle)
        return handle

    def python(self, code: str, *arguments: str, **options: Any) -> Handle:
        return self.launch(sys.executable, "-c", code, *arguments, **options)

    def shell(self, code: str, **options: Any) -> Handle:
        return self.launch("sh", "-c", code, **options)

    def end(self, handle: Handle, timeout: float = 20.0) -> Observation:
        told = threading.Event()
        self.launcher.watch(handle, told.set)
        assert told.wait(timeout), "the watch did not tell of the end"
        seen = self.launcher.observe(handle)
        assert seen.state != "running"
        return seen

    def log(self, handle: Handle) -> bytes:
        return self.launcher.log(handle, 0, 1 << 24).data

    def started(self, handle: Handle) -> int:
        wait_until(lambda: (Path(handle["folder"]) / "started").exists())
        return int(wait_until(lambda: self.launcher.observe(handle).facts.get("pid")))

    def printed(self, handle: Handle, text: bytes) -> bytes:
        return bytes(wait_until(lambda: (data := self.log(handle)) if text in self.log(handle) else b""))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    for handle in made.handles:
        made.launcher.stop(handle, force=True)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def shim_of(handle: Handle) -> int:
    return int((Path(handle["folder"]) / "claim").read_text().split()[0])


def kill_shim(handle: Handle) -> None:
    os.kill(shim_of(handle), signal.SIGKILL)
    wait_until(lambda: not is_running(shim_of(handle)))


# ------------------------------------------------------------------------------- how jobs end


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 255])
def test_exit_codes(jobs: Jobs, code: int) -> None:
    """The job's own exit code is reported, also those that sh uses itself."""
    seen = jobs.end(jobs.shell(f"exit {code}"))

    assert seen.state == ("failed" if code else "succeeded")
    assert (seen.exit_code, seen.reason) == (code, f"exit code {code}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGINT", "SIGPIPE"])
def test_signals(jobs: Jobs, name: str) -> None:
    """A job killed by a signal failed, and the reason names the signal."""
    number = signal.Signals[name]
    code = f"import os, signal, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); \
signal.signal({number}, signal.SIG_DFL) if {number} != 9 else None; os.kill(os.getpid(), {number})"

    seen = jobs.end(jobs.python(code))

    assert seen.state == "failed"
    assert seen.reason == f"killed by signal {int(number)} ({name})"


def test_times(jobs: Jobs) -> None:
    """Start and end are instants in UTC around the job's life."""
    before = datetime.now(UTC).timestamp() - 1

    seen = jobs.end(jobs.shell("sleep 0.05"))

    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert before < seen.started_at.timestamp() <= seen.finished_at.timestamp()
    assert seen.finished_at.utcoffset() is not None


@pytest.mark.parametrize(
    "command, reason",
    [
        pytest.param("no-such-program", "command not found: 'no-such-program'", id="in PATH"),
        pytest.param("./no-such-program", "command not found: './no-such-program'", id="path"),
        pytest.param("./plain.txt", "command is not executable: './plain.txt'", id="permission"),
    ],
)
def test_command_that_cannot_run(jobs: Jobs, command: str, reason: str) -> None:
    """A command that does not exist is refused before anything starts, with its name."""
    (jobs.base / "plain.txt").write_text("not a program")
    order = jobs.order(command)

    with pytest.raises(GiveUp) as caught:
        jobs.launcher.launch(order)

    assert caught.value.message == reason
    assert jobs.launcher.find(order) is None


def test_workdir_that_is_missing(jobs: Jobs) -> None:
    """A missing working directory is refused before anything starts."""
    with pytest.raises(GiveUp, match="nowhere"):
        jobs.launcher.launch(jobs.order("true", workdir="nowhere"))


def test_interpreter_that_is_missing(jobs: Jobs) -> None:
    """What the kernel refuses is told apart from a job that ends with 127 itself."""
    script = jobs.base / "train"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    seen = jobs.end(jobs.launch("./train"))

    assert seen.state == "failed"
    assert seen.reason.startswith("the command could not be run: ")
    assert str(script) in seen.reason


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_argument_that_cannot_be_passed(jobs: Jobs, text: str) -> None:
    """Text that no argument can carry is refused with a reason."""
    with pytest.raises(GiveUp):
        jobs.launcher.launch(jobs.order("true", text))


def test_argument_too_long(jobs: Jobs) -> None:
    """An argument beyond the system's limit is refused with a reason."""
    with pytest.raises(GiveUp, match="too long"):
        jobs.launcher.launch(jobs.order("true", "x" * 10_000_000))


# ------------------------------------------------------------------------- what jobs are given

SHOW_ARGUMENTS = "import sys, os; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(
        st.one_of(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
            st.sampled_from(
                ["", "-n", "--", "$(touch x)", "`id`", "a b", "'", '"', "\n", "\\", "*", "~", "$HOME",
                 "{{ x }}", ";", "&", "漂移", "\x7f", "-c", "=", "!!", "\t", "\r\n", "#"]
            ),
        ),
        min_size=1,
        max_size=30,
    )
)  # fmt: skip
def test_arguments_are_byte_exact(jobs: Jobs, arguments: list[str]) -> None:
    """Whatever is in an argument reaches the job unchanged and is never interpreted."""
    handle = jobs.python(SHOW_ARGUMENTS, *arguments)

    assert jobs.end(handle).state == "succeeded"
    assert jobs.log(handle) == b"\0".join(map(os.fsencode, arguments))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.from_regex(r"X[A-Za-z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
        max_size=10,
    )
)
def test_variables_are_byte_exact(jobs: Jobs, values: dict[str, str]) -> None:
    """Whatever is in a variable reaches the job unchanged."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    handle = jobs.python(code, env=values)
    jobs.end(handle)

    seen = json.loads(jobs.log(handle))

    assert {name: seen[name] for name in values} == values


def test_environment(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job gets an allow list of the daemon's variables, its own, the contract's, and no other."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("DATABASE_PASSWORD", "hidden")
    monkeypatch.setenv("WANTED", "yes")
    order = jobs.order("env", "-0", env={"OWN": "1", "RETRAIN_RUN_ID": "forged"}, inherit=["WANTED"])
    handle = jobs.launcher.launch(order)
    jobs.end(handle)

    seen = dict(line.split("=", 1) for line in jobs.log(handle).decode().split("\0") if line)

    assert seen.pop("PWD") == str(jobs.base)
    for name in ("SHLVL", "_"):  # where sh is bash
        seen.pop(name, None)
    assert seen == {
        "PATH": os.defpath,
        "LC_TIME": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "WANTED": "yes",
        "OWN": "1",
        **order.environment,
        "RETRAIN_ATTEMPT_ID": order.attempt_id,
    }


@pytest.mark.parametrize("name", ["", "a-b", "1a", "a=b", "PWD", "IFS", "shim_folder", "ü"])
def test_variable_names_that_sh_cannot_carry(name: str) -> None:
    """A name that would be lost or changed on the way is refused in the configuration."""
    with pytest.raises(ValidationError, match="cannot be passed on"):
        ProcessOptions(command=["true"], env={name: "1"})


def test_numbers_in_commands() -> None:
    """YAML's numbers become text, as in `command: [train, --depth, 3]`."""
    assert ProcessOptions(command=["train", 3, 0.5]).command == ["train", "3", "0.5"]  # type: ignore[list-item]


def test_surroundings(jobs: Jobs) -> None:
    """A job leads a session of its own, in its workdir, with default signals, nothing on stdin, and niced."""
    (jobs.base / "work").mkdir()
    code = """
import json, os, signal, sys
ignored = [s.name for s in signal.Signals if s not in (9, 19) and signal.getsignal(s) == signal.SIG_IGN]
print(json.dumps({
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0), "cwd": os.getcwd(), "stdin": sys.stdin.read(),
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "ignored": ignored, "blocked": list(signal.pthread_sigmask(0, [])),
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
}))
"""
    handle = jobs.python(code, workdir="work", nice=7)
    jobs.end(handle)

    seen = json.loads(jobs.log(handle))

    assert seen == {
        "leads": True,
        "cwd": str(jobs.base / "work"),
        "stdin": "",
        "nice": min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7),
        # Python itself ignores these two.
        "ignored": ["SIGPIPE", "SIGXFSZ"],
        "blocked": [],
        "fds": [0, 1, 2, 3],  # 3 is the listing itself
    }


def test_inherited_descriptors_do_not_leak(tmp_path: Path) -> None:
    """What whoever started the daemon left open does not reach jobs, and what the daemon opens neither."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    jobs = Jobs(tmp_path)
    own = (tmp_path / "secret").open("w")
    try:
        handle = jobs.launch("ls", "-l", "/proc/self/fd")
        jobs.end(handle)
        descriptors = [line.split()[-3] for line in jobs.log(handle).decode().splitlines()[1:]]

        assert sorted(map(int, descriptors)) == [0, 1, 2, 3]
    finally:
        own.close()
        os.close(read)
        os.close(write)


def test_builtins_of_the_shell_are_programs(jobs: Jobs) -> None:
    """A command that has the name of a shell's builtin is a program like any other."""
    with pytest.raises(GiveUp, match="command not found: 'eval'"):
        jobs.launcher.launch(jobs.order("eval", "echo broken"))


# ---------------------------------------------------------------------------- once, and found again


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


def test_a_job_survives_the_daemon(jobs: Jobs) -> None:
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
def test_a_daemon_killed_at_any_time_around_the_start(jobs: Jobs) -> None:
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


def test_launched_by_many_at_once(jobs: Jobs) -> None:
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


def test_claimed_by_a_shim_that_died(jobs: Jobs) -> None:
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


# ---------------------------------------------------------------------------------------- stopping

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


def test_stop_reaches_everything(jobs: Jobs) -> None:
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


def test_shim_killed(jobs: Jobs) -> None:
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


def test_rebooted_host(jobs: Jobs) -> None:
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


# ------------------------------------------------------------------------------------------- the log


def size_of_log(handle: Handle) -> int:
    sizes = []
    for path in Path(handle["folder"]).glob("log.*"):
        with suppress(FileNotFoundError):  # cut meanwhile
            sizes.append(path.stat().st_size)
    return sum(sizes)


def read_all(launcher: ProcessLauncher, handle: Handle, limit: int = 70_000) -> tuple[bytes, int, int]:
    data, offset, skipped = b"", 0, 0
    while (chunk := launcher.log(handle, offset, limit)).data:
        data, offset, skipped = data + chunk.data, chunk.next_offset, skipped + chunk.skipped
    return data, offset, skipped


def test_flood(jobs: Jobs) -> None:
    """Of a flood the head and the tail are kept, within the cap at any time, and what was cut is counted."""
    cap = 900_000
    jobs.launcher = make_launcher(jobs.base, log_cap=cap)
    lines = 1_000_000
    handle = jobs.shell(f"seq 1 {lines}")
    sizes = []
    while jobs.launcher.observe(handle).state == "running":
        sizes.append(size_of_log(handle))
    assert jobs.end(handle).state == "succeeded"
    written = sum(len(str(number)) + 1 for number in range(1, lines + 1))
    wait_until(lambda: read_all(jobs.launcher, handle)[1] == written)

    data, offset, skipped = read_all(jobs.launcher, handle)

    assert max(sizes, default=0) <= cap
    assert size_of_log(handle) <= cap
    assert offset == len(data) + skipped == written
    assert data.startswith(b"1\n2\n3\n")
    assert data.endswith(f"{lines - 1}\n{lines}\n".encode())
    assert len(data) > cap // 3


def test_log_is_live(jobs: Jobs) -> None:
    """What a job prints can be read while it runs, each piece as soon as it is written."""
    code = "import sys; print('one', flush=True); [print(line.strip(), flush=True) for line in open('fifo')]"
    os.mkfifo(jobs.base / "fifo")
    handle = jobs.python(code)
    jobs.printed(handle, b"one\n")

    with (jobs.base / "fifo").open("w") as fifo:
        fifo.write("two\n")
        fifo.flush()
        jobs.printed(handle, b"one\ntwo\n")
        assert jobs.launcher.observe(handle).state == "running"

    assert jobs.end(handle).state == "succeeded"


def test_binary_output(jobs: Jobs) -> None:
    """Any bytes are kept as they are, from stdout and stderr, also one line without an end."""
    handle = jobs.python("import os; os.write(1, bytes(range(256)) * 300); os.write(2, b'\\xff\\0')")
    jobs.end(handle)

    assert read_all(jobs.launcher, handle)[0] == bytes(range(256)) * 300 + b"\xff\0"


def test_closed_output(jobs: Jobs) -> None:
    """A job that closes its output ends like any other."""
    seen = jobs.end(jobs.python("import os; os.close(1); os.close(2); os._exit(4)"))

    assert seen.exit_code == 4


def test_output_held_open(jobs: Jobs) -> None:
    """The end is noticed although a grandchild keeps the output open, and what it prints is still kept."""
    handle = jobs.shell("(until [ -e go ]; do sleep 0.02; done; echo late) & echo early")
    assert jobs.end(handle).state == "succeeded"
    assert jobs.log(handle) == b"early\n"

    (jobs.base / "go").touch()

    jobs.printed(handle, b"early\nlate\n")


def test_last_words(jobs: Jobs) -> None:
    """What a job prints just before its end is in the log as soon as the end is seen."""
    for number in range(20):
        handle = jobs.shell(f"echo {number}; exit 1")
        jobs.end(handle)
        assert jobs.log(handle) == f"{number}\n".encode()


@pytest.mark.parametrize("offset", [-5, 0, 10**12])
def test_offsets_out_of_range(jobs: Jobs, offset: int) -> None:
    """An offset before the beginning is the beginning; one past the end gives nothing."""
    handle = jobs.shell("echo hello")
    jobs.end(handle)
    jobs.printed(handle, b"hello")

    chunk = jobs.launcher.log(handle, offset, 100)

    assert chunk.data == (b"hello\n" if offset <= 0 else b"")
    assert jobs.launcher.log(handle, offset, 0).data == b""
