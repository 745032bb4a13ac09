"""The `command` probe against programs that end badly, or not at all."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.sources.probe.command import CommandProbe
from controller.testing import wait_until
from tests.probes import (
    Bench,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Builds probes."""
    return Bench(tmp_path)


def program(code: str) -> list[str]:
    """A command that runs a piece of Python."""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    "code, options, value",
    [
        ("print(0.75)", {}, 0.75),
        ("print('{\"rows\": [1, 2]}')", {"path": "body.rows[1]"}, 2.0),
        ("import os; print(os.environ['RATE'] + os.environ['KEY'])", {"env": {"RATE": "1", "KEY": "env:KEY"}}, 12),
        ("import os; print(len([n for n in os.environ if n == 'KEY']))", {}, 0),
        ("import os; print(len(os.getcwd().rpartition('/')[2]))", {"workdir": "inner"}, 5),
        ("import sys; print(sys.stdin.read() == '' and 'true' or 1)", {}, True),
    ],
)
def test_command_values(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: str, options: dict[str, Any], value: Any
) -> None:
    """A number or JSON; its environment is small, its folder is told, and it is given nothing to read."""
    monkeypatch.setenv("KEY", "2")
    (bench.base / "inner").mkdir()

    (data,) = bench.look(bench.build(CommandProbe, command=program(code), **options))

    assert (data["value"], data["command"]) == (value, sys.executable)


@pytest.mark.parametrize(
    "code, complaint",
    [
        ("import sys; print(1); sys.exit('first\\nthe disk is full')", "(exit code 1): the disk is full"),
        ("import os; os.kill(os.getpid(), 9)", "(killed by signal 9): it said nothing"),
        ("print('nan')", "not JSON"),
        ("print('NaN')", "NaN is not a JSON number"),
        ("print('1 2')", "not JSON"),
        ("print('x' * 70_000)", "printed more than 65,536 bytes"),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", "printed more than 65,536 bytes, and was ended"),
        ("import os\nwhile True: os.write(2, b'x' * 4096)", "took longer than 1s"),
        ("import signal; signal.pause()", "took longer than 1s, and was ended"),
    ],
)
def test_command_failures(bench: Bench, code: str, complaint: str) -> None:
    """What ends badly, says nonsense, or does not end."""
    began = bench.inbox.clock.monotonic()

    assert complaint in bench.complaint(bench.build(CommandProbe, command=program(code), timeout="1s"))
    assert bench.inbox.clock.monotonic() - began < 8


def test_G14_no_secret_of_a_command_is_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is wrong is told without its secrets."""
    monkeypatch.setenv("KEY", "geheim")
    code = "import os, sys; sys.exit('refused: ' + os.environ['TOKEN'])"

    said = bench.complaint(bench.build(CommandProbe, command=program(code), env={"TOKEN": "env:KEY"}))

    assert "refused: ***" in said
    assert "geheim" not in said


def test_command_that_says_nothing(bench: Bench) -> None:
    """No output is no value."""
    assert bench.look(bench.build(CommandProbe, command=program(""))) == []
    assert "no data" in bench.inbox.complaints


def test_command_that_is_none(bench: Bench) -> None:
    """A program that does not exist, or may not be run."""
    assert "cannot run" in bench.complaint(bench.build(CommandProbe, command=["no-such-program"]))
    (bench.base / "plain").write_text("x")
    assert "cannot run" in bench.complaint(bench.build(CommandProbe, command=["./plain"]))
    with pytest.raises(ValidationError, match="names no program"):
        bench.build(CommandProbe, command=[""])
    with pytest.raises(ValidationError, match="unknown variable"):
        bench.build(CommandProbe, command=["true"], path="headers")


STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    signal.pause()
open({pids!r}, "w").write(f"{{os.getpid()}}")
signal.pause()
"""


def is_gone(group: int) -> bool:
    """Whether nobody of a process group lives any more; who is only not yet reaped does not."""
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        if entry.name.isdigit() and int(fields[2]) == group and fields[0] != "Z":
            return False
    return True


def test_command_that_ignores_the_request_to_end(bench: Bench) -> None:
    """TERM, a grace, then KILL, for it and everything it started."""
    pids = bench.base / "pids"
    probe = bench.build(CommandProbe, command=program(STUBBORN.format(pids=str(pids))), timeout="1s")

    assert "took longer than 1s" in bench.complaint(probe)

    assert wait_until(lambda: is_gone(int(pids.read_text())))


def test_command_that_leaves_something_running(bench: Bench) -> None:
    """What it leaves behind holds its output open, keeps nobody waiting, and is ended."""
    pids = bench.base / "pids"
    code = f"import os, signal\nif os.fork() == 0: signal.pause()\nopen({str(pids)!r}, 'w').write(str(os.getpid()))\nprint(5)"
    began = bench.inbox.clock.monotonic()
    (data,) = bench.look(bench.build(CommandProbe, command=program(code)))

    assert data["value"] == 5
    assert bench.inbox.clock.monotonic() - began < 10
    assert wait_until(lambda: is_gone(int(pids.read_text())))


def test_command_is_ended_when_the_probe_goes(bench: Bench) -> None:
    """Another thread closes the probe; the program is gone within a second."""
    pids = bench.base / "pids"
    probe = bench.build(CommandProbe, command=program(STUBBORN.format(pids=str(pids))))
    thread = threading.Thread(target=bench.look, args=[probe])
    thread.start()
    wait_until(lambda: pids.exists() and pids.read_text())

    probe.close()
    thread.join(1.5)

    assert not thread.is_alive()
    assert wait_until(lambda: is_gone(int(pids.read_text())))
