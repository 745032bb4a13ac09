"""How jobs end: exit codes, signals, times, and what is refused before anything starts."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from controller.errors import GiveUp
from tests.integration.process_launcher.jobs import Jobs


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
