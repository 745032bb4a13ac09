"""The log of a job: live, byte by byte, within its cap, and complete when the end is seen."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from controller.launchers.process import ProcessLauncher
from controller.ports import Handle
from controller.testing import wait_until
from tests.integration.process_launcher.jobs import Jobs, make_launcher


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


def test_G15_flood(jobs: Jobs) -> None:
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
