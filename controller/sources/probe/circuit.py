"""How a probe waits after a failed look: soon again at first, and when failures go on, ever longer.

Closed, it tries again after 5 s, 10 s, 20 s …, at most `every`. After `threshold` failures in a row it is open: each wait is twice the one
before, from `every` up to 15 minutes (or `every`, when that is more). One look that succeeds closes it.
"""

from __future__ import annotations

from datetime import timedelta

from controller.clock import Random
from controller.retry import backoff

LONGEST = timedelta(minutes=15)
_FIRST = timedelta(seconds=5)


class Circuit:
    """Counts failures in a row."""

    def __init__(self, threshold: int, every: timedelta) -> None:
        self._threshold = threshold
        self._every = every
        self.failures = 0

    @property
    def is_open(self) -> bool:
        """Whether there were too many."""
        return self.failures >= self._threshold

    def succeed(self) -> None:
        """Note a look that succeeded."""
        self.failures = 0

    def fail(self, random: Random) -> timedelta:
        """Note a failed look; return how long to wait."""
        self.failures += 1
        if not self.is_open:
            return backoff(self.failures, random, first=min(_FIRST, self._every), longest=self._every)
        longest = max(LONGEST, self._every)
        wait = backoff(self.failures - self._threshold + 1, random, first=self._every, longest=longest)
        return max(wait, min(self._every, longest))
