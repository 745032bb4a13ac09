"""What jobs are given: arguments and variables byte by byte, and a session, a folder and descriptors of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.errors import GiveUp
from controller.launchers.process import ProcessOptions
from tests.integration.process_launcher.jobs import Jobs

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
