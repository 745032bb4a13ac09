"""What goes wrong, and when: drawn from the seed at every place where something can.

Each place has a name and counts how often it was reached; what strikes there is a hash of seed, name and count. So leaving one strike out,
which is how a failure is made smaller, changes little of what comes after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from controller.testing import SeededRandom

_SCALE = 1 << 32


def chance_of(*names: object) -> SeededRandom:
    """Return chance that depends on nothing but these names."""
    return SeededRandom(int.from_bytes(blake2b("/".join(map(str, names)).encode(), digest_size=8).digest(), "big"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """One thing that went wrong."""

    #: `transaction.decide.after_commit#3`: where, and at which time of being there.
    place: str
    #: What: `crash`, `stop`, `lost answer`, …
    kind: str
    #: Microseconds of simulated time at which it struck.
    at: int

    def __str__(self) -> str:
        return f"{self.at / 1e6:10.3f} s  {self.kind} at {self.place}"


class Weather:
    """Says at every place what strikes there, if anything."""

    def __init__(self, seed: int, rates: Mapping[str, float], *, without: Collection[str] = (), most: int = 25) -> None:
        """`rates` are probabilities by kind; places in `without` are spared; more than `most` strikes never come."""
        self._salt = f"{seed}/".encode()
        self._rates = rates
        self._without = frozenset(without)
        self._left = most
        self._reached: Counter[str] = Counter()
        #: Nothing strikes any more.
        self.calm = False
        self.strikes: list[Strike] = []

    def strike(self, place: str, kinds: Sequence[str], at: int) -> str | None:
        """Return which of `kinds` strikes at a place now, None for none."""
        if self.calm:
            return None
        self._reached[place] += 1
        name = f"{place}#{self._reached[place]}"
        chance = self._hash(name) / _SCALE
        for kind in kinds:
            rate = self._rates.get(kind, 0.0)
            if chance < rate:
                if name in self._without or self._left <= 0:
                    return None
                self._left -= 1
                self.strikes.append(Strike(place=name, kind=kind, at=at))
                return kind
            chance -= rate
        return None

    def span(self, shortest: float, longest: float) -> int:
        """Return a length of time for the last strike, in microseconds; shorter ones are more likely."""
        part = self._hash(f"{self.strikes[-1].place}/span") / _SCALE
        return int((shortest + (longest - shortest) * part * part) * 1e6)

    def pick(self, count: int) -> int:
        """Return a number below `count` for the last strike."""
        return self._hash(f"{self.strikes[-1].place}/pick") * count // _SCALE

    def _hash(self, name: str) -> int:
        return int.from_bytes(blake2b(self._salt + name.encode(), digest_size=4).digest(), "big")
