"""How the daemon is: alive when all of its parts come back, ready when nothing is complained of.

A part that died quietly behind a heart that still beats is the classic way of failing, so life is the minimum over every loop and thread
that the work needs, and systemd's watchdog is fed by that minimum only, from a thread that waits for nothing else: neither for the
database nor for a lock of the loops. A part that blocks is named with its age, and where every thread stands goes to the log once.
A slow step is not a blocked one: a database that still answers a thread keeps it alive (`Store.answered_at`).

What belongs to other people (a poll, a message being sent, a stream of a plugin) never makes the daemon count as dead when it hangs:
it is complained of by name where it is watched, and holds up only itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from controller.clock import Clock
from controller.engine.complaints import Complaint
from controller.engine.runtime import Runtime

#: A part that has given no sign of life for so long is blocked.
BLOCKED_AFTER = 60.0
#: Seconds between two looks; systemd's watchdog waits for six of them (`WatchdogSec=30`).
LOOK_EVERY = 5.0
#: At the start systemd is asked for so much more time, again and again while we wait for the database.
_MORE_TIME_MICROSECONDS = 30_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One loop or thread that the daemon cannot do without."""

    name: str
    #: What it is, for people: a loop, a thread, a source.
    kind: str = "loop"
    #: Seconds since its last sign of life.
    age: float
    #: Seconds after which it counts as blocked.
    patience: float = BLOCKED_AFTER
    #: Its thread has ended, though nobody asked it to.
    has_ended: bool = False

    def trouble(self) -> str | None:
        """Return what is wrong with it; None when it lives."""
        if self.has_ended:
            return f"{self.kind} {self.name} has ended"
        return f"{self.kind} {self.name} has not come back for {self.age:.0f} s" if self.age > self.patience else None


class Echo:
    """Asks a thread that waits for events whether it still comes around."""

    def __init__(self, clock: Clock, call: Callable[[Callable[[], None]], None]) -> None:
        """`call` has a function called in that thread, soon."""
        self._clock = clock
        self._call = call
        #: When an answer was asked for that has not come; None while nothing is asked.
        self._asked_at: float | None = None

    def ask(self) -> None:
        """Ask, unless an answer is still waited for."""
        if self._asked_at is None:
            self._asked_at = self._clock.monotonic()
            self._call(self._heard)

    def age(self) -> float:
        """Return for how many seconds an answer has been waited for."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else self._clock.monotonic() - asked_at

    def _heard(self) -> None:
        self._asked_at = None


class Health:
    """Reports how the daemon is, and looks after it from a thread of its own."""

    def __init__(
        self,
        runtime: Runtime,
        parts: Callable[[], Iterable[Part]],
        *,
        also: Callable[[], None] = lambda: None,
        failed: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`parts` says what is watched now, `also` is done before each look, `failed` says why the process is about to end."""
        self._runtime = runtime
        self._parts = parts
        self._also = also
        self._failed = failed
        self._ended = threading.Event()
        #: Parts that were told of as blocked.
        self._told: set[str] = set()
        #: It was set to work: until then systemd is asked for more time, and afterwards fed.
        self.is_started = False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Begin to look after it."""
        self._thread.start()

    def stop(self) -> None:
        """End the looking."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_EVERY)

    def report(self) -> dict[str, Any]:
        """Return `{"live", "ready", "reasons", "complaints", "loops"}` from what is in memory; waits for nothing."""
        parts = list(self._parts())
        troubles = {part.name: trouble for part in parts if (trouble := part.trouble()) is not None}
        failed = self._failed()
        dead = [*troubles.values(), *([] if failed is None else [failed])]
        complaints = self._runtime.complaints.standing()
        return {
            "live": not dead,
            "ready": not dead and not complaints,
            "reasons": [*dead, *self._runtime.complaints.all()],
            "complaints": [*_as_complaints(troubles, failed), *(_as_json(each) for each in complaints)],
            "loops": {part.name: {"age_seconds": round(part.age, 3)} for part in parts},
        }

    def look(self) -> None:
        """Look once: measure, tell of what blocks, and feed the watchdog when everything lives."""
        self._also()
        blocked = set()
        for part in self._parts():
            self._runtime.metrics.loop_age.labels(part.name).set(part.age)
            if part.trouble() is not None:
                blocked.add(part.name)
                if part.name not in self._told:
                    self._tell(part)
        for name in sorted(self._told - blocked):
            self._runtime.log.info("health.came_back", part_name=name)
        self._told = blocked
        if not self.is_started:
            notify_systemd(f"EXTEND_TIMEOUT_USEC={_MORE_TIME_MICROSECONDS}\nSTATUS=waits for its database")
        elif not blocked and self._failed() is None:
            notify_systemd("WATCHDOG=1")

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            try:
                self.look()
            except Exception as error:  # it must go on looking, whatever it met
                self._runtime.log.error("health.failed", error=repr(error), exc_info=True)

    def _tell(self, part: Part) -> None:
        self._runtime.log.error(
            "health.blocked",
            part_name=part.name,
            reason=part.trouble(),
            age_seconds=round(part.age, 1),
            stacks=stacks(),
        )


def stacks() -> str:
    """Return where every thread of this process stands, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for number, frame in sorted(sys._current_frames().items()):  # noqa: SLF001 - there is no other way to ask
        found.append(f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(found)


def notify_systemd(message: str) -> None:
    """Tell systemd how we are (sd_notify(3)); without systemd, nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.setblocking(False)  # a reader that is full must not stop us
        client.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _as_json(complaint: Complaint) -> dict[str, str]:
    return {
        "code": complaint.code,
        "who": complaint.who,
        "about": complaint.about,
        "reason": complaint.reason,
        "since": complaint.since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _as_complaints(troubles: dict[str, str], failed: str | None) -> list[dict[str, Any]]:
    """Return what makes us count as dead in the form of complaints; its beginning is in the ages."""
    found: list[dict[str, Any]] = [
        {"code": "part.blocked", "who": name, "about": "life", "reason": reason, "since": None}
        for name, reason in troubles.items()
    ]
    if failed is not None:
        found.append({"code": "process.ending", "who": "retraind", "about": "life", "reason": failed, "since": None})
    return found
