"""What the ledger holds of a bucket's objects, and an index of it in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.core.datasets import forgetting, is_of_data_sets, settled
from controller.core.fingerprints import Fingerprints
from controller.core.grouping import Grouping
from controller.core.model import LedgerEntry
from controller.ports import Batch, SourceContext
from controller.sources.bucket.names import hash_key, key_number, number_of_hash

_BASELINE_KEY = "@baseline"
_HEXADECIMAL = "0123456789abcdef"
#: Stands in the index for an object whose data set has to be found out anew.
_STALE = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """An entry of the ledger."""

    key: str
    mark: str


class BucketLedger:
    """The objects that were met so far."""

    def __init__(self, context: SourceContext, grouping: Grouping | None) -> None:
        self._context = context
        self._grouping = grouping
        self._index = Fingerprints()
        self.is_loaded = False
        #: Whether the bucket was listed to its end once, ever.
        self.baselined = False
        #: Whether the data sets in the ledger are not yet those of the configuration.
        self.regrouping = False

    @property
    def count(self) -> int:
        """Number of the objects that are known."""
        return len(self._index)

    def load(self) -> None:
        """Read the ledger, in parts, so that it is never in memory as a whole.

        What it holds of data sets of another `group` is forgotten. Raises `StoreBusy` when it cannot be.
        """
        recall = self._context.recall
        self._index.load(self._chunks())
        self.baselined = _BASELINE_KEY in recall(_BASELINE_KEY)
        self.regrouping = not is_of_data_sets(recall, self._grouping)
        if self.regrouping:
            if len(self._index):
                for entries in forgetting(recall):
                    self._context.emit(Batch(events=(), ledger=entries))
            if self._grouping is not None:
                self._index.fill(_STALE)
            else:
                self._context.emit(Batch(events=(), ledger=[settled(None)]))
                self.regrouping = False
        self.is_loaded = True

    def _chunks(self) -> Iterator[list[tuple[int, int]]]:
        for first in _HEXADECIMAL:
            for second in _HEXADECIMAL:
                recalled = self._context.recall(first + second)
                yield [(number_of_hash(hashed), hash(mark)) for hashed, (_, mark) in recalled.items()]

    def begin(self) -> None:
        """Begin a listing: what is not met in it will be gone."""
        self._index.begin()

    def meet(self, key: str, mark: str) -> bool:
        """Note that an object is there, and return whether the ledger holds it as it is."""
        number = key_number(key)
        self._index.meet(number)
        return self._index.is_known(number, hash(mark))

    def is_known(self, key: str) -> bool:
        """Return whether the ledger holds anything of a key."""
        return key_number(key) in self._index

    def is_only_regrouped(self, key: str, mark: str) -> bool:
        """Return whether an object is known as it is, and only its data set is not."""
        if not self.regrouping or not self._index.is_known(key_number(key), _STALE):
            return False
        hashed = hash_key(key)
        recalled = self._context.recall(hashed).get(hashed)
        return recalled is not None and bool(recalled[1] == mark)

    def put(self, remembered: Remembered) -> None:
        """Note in the index what the ledger holds."""
        self._index.put(key_number(remembered.key), hash(remembered.mark))

    def discard(self, key: str) -> None:
        """Note in the index that the ledger holds nothing of a key any more."""
        self._index.discard(key_number(key))

    def unmet(self) -> Sequence[int]:
        """Return the numbers of what was not met since `begin`."""
        return array("Q", self._index.unmet())

    def keys_of(self, number: int) -> list[str]:
        """Return the keys that belong to a number of `unmet`."""
        return [key for key, _ in self._context.recall(f"{number:016x}").values()]

    @staticmethod
    def entry(remembered: Remembered) -> LedgerEntry:
        """Return what is written of an object."""
        return LedgerEntry(key=hash_key(remembered.key), value=[remembered.key, remembered.mark])

    @staticmethod
    def forgotten(key: str) -> LedgerEntry:
        """Return what is written of a key that is gone."""
        return LedgerEntry(key=hash_key(key), value=None)

    def baseline(self) -> LedgerEntry:
        """Return the entry that says that the bucket was listed to its end once."""
        at = self._context.clock.now().isoformat().replace("+00:00", "Z")
        return LedgerEntry(key=_BASELINE_KEY, value={"at": at})

    def regrouped(self) -> LedgerEntry:
        """Return the entry that says that the data sets are those of the configuration."""
        return settled(self._grouping)
