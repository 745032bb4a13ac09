"""Named places where a test may kill the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import crash
from controller.crash import arm, arm_from_environment, crash_point, disarm, trace


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    disarm()
    yield
    disarm()


def test_an_unarmed_point_does_nothing() -> None:
    """In production a crash point is one look at a flag."""
    crash_point("transaction.decide.after_commit")

    assert not crash._enabled


def test_an_armed_point_acts_once() -> None:
    """Only its own name sets it off, and only the first time."""
    seen: list[str] = []
    arm("a", seen.append)
    for name in ("b", "a", "a", "b"):
        crash_point(name)

    assert seen == ["a"]


def test_a_point_may_be_armed_for_a_later_time() -> None:
    """The occurrence is counted from now, also when points are traced."""
    seen: list[str] = []
    reached: list[str] = []
    trace(reached.append)
    arm("a", seen.append, occurrence=3)
    for _ in range(2):
        crash_point("a")
    assert seen == []

    crash_point("a")
    crash_point("a")
    assert seen == ["a"]
    assert reached == ["a"] * 4


def test_several_points_may_be_armed() -> None:
    """Each waits for its own name; `disarm` forgets them all."""
    seen: list[str] = []
    arm("a", seen.append)
    arm("b", seen.append)
    crash_point("b")
    disarm()
    crash_point("a")

    assert seen == ["b"]


@pytest.mark.parametrize("armed, left", [(False, False), (True, True)], ids=["nothing armed", "something armed"])
def test_a_trace_can_be_stopped(armed: bool, left: bool) -> None:
    """Stopping it switches the points off, unless one is still armed."""
    reached: list[str] = []
    if armed:
        arm("a", reached.append)
    trace(reached.append)
    crash_point("b")
    trace(None)
    crash_point("c")

    assert reached == ["b"]
    assert crash._enabled is left


def test_the_environment_arms_nothing_by_itself() -> None:
    """A daemon without the variables cannot be made to crash."""
    arm_from_environment({"PATH": "x", "RETRAIN_CRASH": ""})

    assert not crash._enabled


def test_a_daemon_traces_the_points_it_reaches(tmp_path: Path) -> None:
    """Each name is a line, behind those that are there."""
    path = tmp_path / "trace"
    path.write_text("earlier\n")
    arm_from_environment({"RETRAIN_CRASH_TRACE": str(path)})
    crash_point("a")
    crash_point("b")

    assert path.read_text() == "earlier\na\nb\n"


KILLED = """
import os, sys
from controller.crash import arm_from_environment, crash_point
arm_from_environment(dict(os.environ))
try:
    for number in range(3):
        crash_point("transaction.decide.before_commit")
        print(number, flush=True)
finally:
    print("goodbye", flush=True)
"""


@pytest.mark.parametrize(
    "wanted, survived",
    [
        pytest.param("transaction.decide.before_commit", "", id="the first time"),
        pytest.param("transaction.decide.before_commit:3", "0\n1\n", id="the third time"),
        pytest.param("transaction.other.before_commit", "0\n1\n2\ngoodbye\n", id="another point"),
    ],
)
def test_a_daemon_dies_where_the_environment_says(wanted: str, survived: str) -> None:
    """As by `kill -9`: nothing is cleaned up, nothing is flushed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={"RETRAIN_CRASH": wanted},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.stdout == survived
    assert done.returncode == (0 if "goodbye" in survived else -signal.SIGKILL)
