"""What is known of very many things, in little memory: a number for each thing, and a number for how it is.

A dictionary of a million pairs of numbers takes some 150 MB; two sorted arrays take 16.
What is added later stands in a dictionary beside them, until it is worth sorting again.
The numbers of the things are the first 64 bits of a good hash, so that they are spread evenly.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_MASK = (1 << 64) - 1
#: So many additions beside the arrays are sorted into them, or a quarter of what these hold.
_BESIDE = 50_000
#: The arrays are entered by the first so many bits of a number.
_BITS = 12
_SHIFT = 64 - _BITS


class Fingerprints:
    """A mapping from 64-bit numbers to 64-bit numbers, of which each can be marked as met.

    Both numbers are taken modulo 2**64. Not safe to use from several threads.
    """

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._values = array("Q")
        self._met = bytearray()
        self._doors = [0] * ((1 << _BITS) + 1)
        self._beside: dict[int, int] = {}
        self._met_beside: set[int] = set()
        #: Numbers that stand in the arrays and are gone.
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._numbers) - len(self._gone) + len(self._beside)

    def __contains__(self, number: int) -> bool:
        return number in self._beside or self._place(number) is not None

    def get(self, number: int) -> int | None:
        """Return what is known of a thing; None for nothing."""
        if self._beside and (value := self._beside.get(number)) is not None:
            return value
        place = self._place(number)
        return None if place is None else self._values[place]

    def is_known(self, number: int, value: int) -> bool:
        """Return whether exactly this is known of a thing."""
        return self.get(number) == value & _MASK

    def put(self, number: int, value: int) -> None:
        """Keep what is known of a thing; it counts as met."""
        place = self._place(number)
        if place is not None:
            self._values[place] = value & _MASK
            self._met[place] = 1
            return
        if number in self._gone:
            self._gone.discard(number)
            self.put(number, value)
            return
        self._beside[number] = value & _MASK
        self._met_beside.add(number)
        if len(self._beside) >= max(_BESIDE, len(self._numbers) // 4):
            self._sort_in()

    def load(self, chunks: Iterable[Iterable[tuple[int, int]]]) -> None:
        """Begin with these pairs: each number comes once, and those of a chunk are higher than those of the chunks before."""
        numbers, values = array("Q"), array("Q")
        for chunk in chunks:
            for number, value in sorted(chunk):
                numbers.append(number)
                values.append(value & _MASK)
        self._beside, self._met_beside, self._gone = {}, set(), set()
        self._set(numbers, values, bytearray(len(numbers)))

    def discard(self, number: int) -> None:
        """Forget a thing."""
        self._met_beside.discard(number)
        if self._beside.pop(number, None) is None and self._place(number) is not None:
            self._gone.add(number)

    def fill(self, value: int) -> None:
        """Let the same be known of all."""
        for number in self._beside:
            self._beside[number] = value & _MASK
        for place in range(len(self._values)):
            self._values[place] = value & _MASK

    def meet(self, number: int) -> None:
        """Mark a thing as met, if it is known."""
        if number in self._beside:
            self._met_beside.add(number)
        elif (place := self._place(number)) is not None:
            self._met[place] = 1

    def begin(self) -> None:
        """Let nothing be met."""
        self._met = bytearray(len(self._numbers))
        self._met_beside = set()

    def unmet(self) -> Iterator[int]:
        """Return the numbers that are known and were not met since `begin`; nothing may be added meanwhile."""
        for place, number in enumerate(self._numbers):
            if not self._met[place] and number not in self._gone:
                yield number
        yield from [number for number in self._beside if number not in self._met_beside]

    def _place(self, number: int) -> int | None:
        door = number >> _SHIFT
        end = self._doors[door + 1]
        place = bisect_left(self._numbers, number, self._doors[door], end)
        if place == end or self._numbers[place] != number or (self._gone and number in self._gone):
            return None
        return place

    def _sort_in(self) -> None:
        """Merge what stands beside the arrays into them, and drop what is gone."""
        old_numbers, old_values, old_met = self._numbers, self._values, self._met
        numbers, values, met = array("Q"), array("Q"), bytearray()
        start = 0

        def copy_to(end: int) -> None:
            numbers.extend(old_numbers[start:end])
            values.extend(old_values[start:end])
            met.extend(old_met[start:end])

        for number in sorted(self._gone | self._beside.keys()):
            place = bisect_left(old_numbers, number, start)
            copy_to(place)
            start = place
            if number in self._gone:
                start += 1
            else:
                numbers.append(number)
                values.append(self._beside[number])
                met.append(number in self._met_beside)
        copy_to(len(old_numbers))
        self._beside, self._met_beside, self._gone = {}, set(), set()
        self._set(numbers, values, met)

    def _set(self, numbers: array[int], values: array[int], met: bytearray) -> None:
        self._numbers, self._values, self._met = numbers, values, met
        self._doors = [bisect_left(numbers, door << _SHIFT) for door in range(1 << _BITS)] + [len(numbers)]
