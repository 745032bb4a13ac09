"""Named places where a test may kill, stop or break the process.

Crash points sit where they cannot be forgotten: `store.transaction(name)` and the proxy around every plugin call place one
before and one after, by name. They do nothing unless a test armed them, in the process by `arm()` or for a daemon by the
environment: `RETRAIN_CRASH="transaction.decide.after_commit"`, with `:3` behind it for the third time it is reached.
`RETRAIN_CRASH_TRACE=file` appends the name of every point reached, so that a test can list those that exist.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

Action = Callable[[str], None]

_armed: dict[str, tuple[int, Action]] = {}
_trace: Callable[[str], None] | None = None
_enabled = False


def crash_point(name: str) -> None:
    """Do whatever a test armed for `name`; in production, nothing."""
    if not _enabled:
        return
    if _trace is not None:
        _trace(name)
    if name in _armed:
        remaining, action = _armed[name]
        if remaining > 1:
            _armed[name] = (remaining - 1, action)
        else:
            del _armed[name]
            action(name)


def arm(name: str, action: Action, *, occurrence: int = 1) -> None:
    """Run `action(name)` when the point is reached for the `occurrence`-th time from now."""
    global _enabled
    _armed[name] = (occurrence, action)
    _enabled = True


def trace(record: Callable[[str], None] | None) -> None:
    """Call `record(name)` at every point that is reached; None stops it."""
    global _enabled, _trace
    _trace = record
    _enabled = record is not None or bool(_armed)


def disarm() -> None:
    """Forget everything that was armed or traced."""
    global _enabled, _trace
    _armed.clear()
    _trace = None
    _enabled = False


def kill(name: str) -> None:
    """End this process as `kill -9` does: no handler, no flush, no goodbye."""
    del name
    os.kill(os.getpid(), signal.SIGKILL)


def arm_from_environment(environment: dict[str, str]) -> None:
    """Arm what `RETRAIN_CRASH` and `RETRAIN_CRASH_TRACE` ask for; the daemon calls this once, at its start."""
    if wanted := environment.get("RETRAIN_CRASH"):
        name, _, occurrence = wanted.partition(":")
        arm(name, kill, occurrence=int(occurrence or 1))
    if path := environment.get("RETRAIN_CRASH_TRACE"):
        descriptor = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        trace(lambda name: _append(descriptor, name))


def _append(descriptor: int, name: str) -> None:
    os.write(descriptor, f"{name}\n".encode())
