"""Probes in a running daemon: one that hangs is seen, holds up nobody, and does not keep the daemon from ending."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.harness import Installation

_HANGS = 'echo $$ >>"$PIDS"; trap "" TERM; while :; do sleep 1; done'


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Installation]:
    """A daemon with a probe that works, one that hangs and one that fails."""
    installation = Installation(tmp_path)
    common = {"type": "command", "jitter": "0s"}
    (tmp_path / "value").write_text("0.5")
    installation.configure(
        {
            "sources": {
                "good": {**common, "every": "1s", "command": ["cat", "value"]},
                "hangs": {
                    **common,
                    "every": "1h",
                    "command": ["sh", "-c", _HANGS],
                    "env": {"PIDS": str(tmp_path / "pids")},
                },
                "bad": {**common, "every": "1h", "command": ["false"]},
            },
            "models": {},
        }
    )
    installation.start()
    yield installation
    installation.close()


def readings(there: Installation, name: str) -> int:
    """How many readings of a probe are stored."""
    table = schema.event
    rows = there.rows(sa.select(sa.func.count()).select_from(table).where(table.c.origin == name))
    return int(rows[0][0]) if rows else 0


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_G10_a_probe_that_hangs(there: Installation) -> None:
    """The others go on; what fails is complained of; the daemon ends within two seconds and leaves no program behind."""
    pids = there.folder / "pids"
    there.wait(lambda: pids.exists() and pids.read_text(), what="the hanging probe")
    there.wait(lambda: readings(there, "good") >= 3, what="readings of the good one")
    reasons = there.ready()["reasons"]
    assert [reason for reason in reasons if reason.startswith("bad: cannot look: 'false' failed (exit code 1)")]
    assert not [reason for reason in reasons if reason.startswith(("good", "hangs"))]
    (pid,) = map(int, pids.read_text().split())
    assert is_alive(pid)

    began = time.monotonic()
    assert there.terminate() == 0

    assert time.monotonic() - began < 3
    assert not is_alive(pid)
