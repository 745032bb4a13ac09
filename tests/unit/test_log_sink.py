"""Lines of the log never keep their writer waiting, and what could not be kept is counted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from controller import telemetry
from controller.telemetry import Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page: where to read, and where to write."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(reading, False)
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test closed it


def sink(descriptor: int) -> Sink:
    return Sink(descriptor, tell=lambda count: f"dropped {count}\n")


def drain(reading: int, through: Sink) -> str:
    """Read everything, letting the sink write meanwhile."""
    heard = bytearray()
    while True:
        try:
            heard += os.read(reading, 65536)
        except BlockingIOError:
            return heard.decode()
        through.flush()


def test_G15_a_line_is_written_at_once_where_there_is_room(pipe: tuple[int, int]) -> None:
    """A process that is killed right afterwards leaves everything it said."""
    reading, writing = pipe

    sink(writing).write("one\n")

    assert os.read(reading, 100) == b"one\n"


def test_G15_what_finds_no_room_is_kept_in_order(pipe: tuple[int, int]) -> None:
    """Lines longer than the pipe, and many of them, come whole once somebody reads (LC-04)."""
    reading, writing = pipe
    lines = [f"{number} {'x' * 3000}\n" for number in range(20)] + ["y" * 20_000 + "\n"]
    through = sink(writing)

    for line in lines:
        through.write(line)

    assert drain(reading, through) == "".join(lines)
    assert through.dropped == 0


def test_G15_beyond_the_backlog_lines_are_dropped_and_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory it takes is bounded, and the reader is told how many lines are missing (LC-04)."""
    monkeypatch.setattr(telemetry, "BACKLOG_BYTES", 10_000)
    reading, writing = pipe
    through = sink(writing)

    for number in range(100):
        through.write(f"{number} {'x' * 990}\n")
    heard = drain(reading, through)

    assert 80 <= through.dropped < 100
    assert heard.endswith(f"dropped {through.dropped}\n")
    assert heard.count("\n") == 100 - through.dropped + 1
    through.write("after\n")
    assert drain(reading, through) == "after\n"


def test_G15_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    """Lines for nobody are counted, and nothing is raised (LC-04)."""
    reading, writing = pipe
    through = sink(writing)
    os.close(reading)

    through.write("one\n")
    through.write("two\n")

    assert through.dropped == 2
