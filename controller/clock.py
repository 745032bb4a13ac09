"""Where time, randomness and identifiers come from.

Everything else takes a `Clock` and a `Random` as an argument, so that tests and a simulator can run the real code under their own time.
Instants are timezone-aware UTC; intervals are monotonic seconds; ids sort by the time they were made.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime
from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
#: The two digits of every number of 10 bits.
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
#: 9 digits of milliseconds stand before 7 digits of chance.
_RANDOM_BITS = 35
_DIGITS, _TIME_DIGITS = 16, 9


class Clock(Protocol):
    """Tells the time, in two ways that must not be mixed."""

    def now(self) -> datetime:
        """Return the present instant in UTC; it may jump when somebody sets the clock."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump, for intervals and deadlines."""
        ...


class Random(Protocol):
    """Gives random numbers."""

    def getrandbits(self, bits: int) -> int:
        """Return an unsigned integer of that many random bits."""
        ...

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def system_random() -> Random:
    """Return the operating system's randomness."""
    return random.SystemRandom()


class Ids:
    """Makes ids such as `run-0f2k9q3x7mabcdef`: a kind, 45 bits of milliseconds, 35 bits of randomness.

    Ids of one maker rise strictly, also within one millisecond and when the clock is set back, so that rows are appended in
    key order, and rows made by one process sort in the order of making.
    The alphabet is Crockford's base 32 in lower case: safe in file names and as Kubernetes names.
    """

    def __init__(self, clock: Clock, randomness: Random) -> None:
        self._clock = clock
        self._random = randomness
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._tail = 0

    def make(self, kind: str) -> str:
        """Return a new id of `kind`, one of the prefixes in `core/model.py`."""
        return self.make_many(kind, 1)[0]

    def make_many(self, kind: str, count: int) -> list[str]:
        """Return so many new ids of `kind`, rising; the clock is read once for all of them."""
        made = []
        with self._lock:
            milliseconds = int(self._clock.now().timestamp() * 1000)
            if milliseconds > self._milliseconds:
                self._begin(milliseconds)
            for _ in range(count):
                self._tail += 1
                if self._tail >> _RANDOM_BITS:
                    self._begin(self._milliseconds + 1)
                made.append(f"{kind}-{_base32(self._milliseconds << _RANDOM_BITS | self._tail)}")
        return made

    def _begin(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds
        self._tail = self._random.getrandbits(_RANDOM_BITS - 1)


def floor_id(kind: str, at: datetime) -> str:
    """Return an id below every one of `kind` that was made at an instant or later, and above those from before."""
    return f"{kind}-{_base32(max(int(at.timestamp() * 1000), 0) << _RANDOM_BITS)}"


def made_at(id_: str) -> datetime:
    """Return when an id was made, to the millisecond; raises `ValueError` for what is none of ours."""
    digits = id_.rpartition("-")[2]
    if len(digits) != _DIGITS:
        raise ValueError(f"{id_!r} is no id of ours; one ends in {_DIGITS} letters and digits")
    milliseconds = 0
    for digit in digits[:_TIME_DIGITS]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(digit)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _base32(number: int) -> str:
    """Return a number of 80 bits as 16 digits, two at a time."""
    pairs = _PAIRS
    return (
        pairs[number >> 70]
        + pairs[number >> 60 & 1023]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )
