"""What is wrong at the moment: who says so, about what, since when, and under which stable code.

A complaint stands until whoever made it takes it back; each loop, source and thread clears its own. They are the reasons of `/readyz` and
of `retrainctl status`, and by their codes programs tell them apart (`docs/operations.md` lists these).
How many there are is bounded: what complains of a thousand things is told once that there are more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from controller.clock import Clock

#: So many complaints are kept one by one; more are only counted.
MOST = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Complaint:
    """One thing that is wrong."""

    #: Who says so: a loop, a source, `store`, `config`.
    who: str
    #: What it is about, within `who`.
    about: str
    reason: str
    #: Its stable name, such as `store.full`.
    code: str
    #: When it began; a reason that changes goes on.
    since: datetime


class Complaints:
    """The complaints that stand. Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._standing: dict[tuple[str, str], Complaint] = {}
        #: Complaints that found no room, since the last time that there was any.
        self._untold = 0

    def set(self, who: str, what: str, reason: str | None, *, code: str | None = None) -> bool:
        """Note or (None) clear a complaint; return whether anything changed.

        Without a `code` it is `source.` and the first word of `what`.
        """
        with self._lock:
            before = self._standing.get((who, what))
            if reason is None:
                if before is not None:
                    del self._standing[who, what]
                    self._untold = 0
                return before is not None
            if before is None and len(self._standing) >= MOST:
                self._untold += 1
                return False
            self._standing[who, what] = Complaint(
                who=who,
                about=what,
                reason=reason,
                code=code or f"source.{what.partition(' ')[0]}",
                since=self._clock.now() if before is None else before.since,
            )
            return before is None or before.reason != reason

    def forget(self, who: str) -> None:
        """Clear every complaint of one that is gone."""
        with self._lock:
            self._standing = {key: each for key, each in self._standing.items() if key[0] != who}
            self._untold = 0

    def of(self, who: str) -> dict[str, str]:
        """Return what one complains of: reasons by what they are about."""
        with self._lock:
            return {what: each.reason for (name, what), each in sorted(self._standing.items()) if name == who}

    def standing(self) -> list[Complaint]:
        """Return every complaint, by who makes it."""
        with self._lock:
            return [self._standing[key] for key in sorted(self._standing)]

    def all(self) -> list[str]:
        """Return every complaint, as sentences."""
        sentences = [f"{each.who}: {each.reason}" for each in self.standing()]
        return [*sentences, f"and {self._untold} more"] if self._untold else sentences
