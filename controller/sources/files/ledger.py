"""What the ledger holds of the files, and an index of it in memory."""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.datasets import forgetting, is_of_data_sets, settled
from controller.core.fingerprints import Fingerprints
from controller.core.grouping import Grouping
from controller.core.model import LedgerEntry
from controller.ports import Batch, SourceContext
from controller.sources.files.names import hash_name, ledger_key, number_of_key, path_number
from controller.sources.files.records import Finding, Known
from controller.sources.files.tree import Stamp

_BASELINE_KEY = "@baseline"
_HEXADECIMAL = "0123456789abcdef"
#: Stands in the index for a file whose data set has to be found out anew.
_STALE = 0


class Ledger:
    """The files that were met so far; read when it is first asked."""

    def __init__(self, context: SourceContext, grouping: Grouping | None) -> None:
        self._context = context
        self._grouping = grouping
        #: Number of a path to hash of its stamp; None until the ledger was read.
        self._index: Fingerprints | None = None
        #: Whether the source has seen the whole tree once, ever.
        self.baselined = False
        #: Whether the data sets in the ledger are not yet those of the configuration.
        self.regrouping = False

    @property
    def is_loaded(self) -> bool:
        """Whether it was read."""
        return self._index is not None

    @property
    def count(self) -> int:
        """Number of the files that are known; 0 before it was read."""
        return 0 if self._index is None else len(self._index)

    def load(self) -> Fingerprints:
        """Return the index; the ledger is read in parts, so that it is never in memory as a whole.

        What it holds of data sets of another `group` is forgotten. Raises `StoreBusy` when it cannot be.
        """
        if self._index is None:
            index = Fingerprints()
            index.load(self._chunks())
            self.baselined = _BASELINE_KEY in self._context.recall(_BASELINE_KEY)
            self.regrouping = not is_of_data_sets(self._context.recall, self._grouping)
            if self.regrouping:
                self._forget_groups(index)
            self._index = index
        return self._index

    def _chunks(self) -> Iterator[list[tuple[int, int]]]:
        for first in _HEXADECIMAL:
            for second in _HEXADECIMAL:
                yield [
                    (
                        number_of_key(key),
                        hash((value["size"], value["mtime_ns"], value["ctime_ns"], value["inode"])),
                    )
                    for key, value in self._context.recall(first + second).items()
                ]

    def _forget_groups(self, index: Fingerprints) -> None:
        if len(index):
            for entries in forgetting(self._context.recall):
                self._context.emit(Batch(events=(), ledger=entries))
        if self._grouping is not None:
            index.fill(_STALE)
        else:
            self._context.emit(Batch(events=(), ledger=[settled(None)]))
            self.regrouping = False

    def is_unchanged(self, path: str, stamp: Stamp) -> bool:
        """Return whether the ledger holds a file as it is."""
        return (self._index or self.load()).is_known(path_number(path), hash(stamp))

    def is_stale(self, path: str) -> bool:
        """Return whether a known file's data set has to be found out anew."""
        return self.regrouping and self.load().is_known(path_number(path), _STALE)

    def recall(self, path: str) -> Known | None:
        """Return what is known of a file."""
        if path_number(path) not in self.load():
            return None
        value = self._context.recall(hash_name(path)).get(ledger_key(path))
        return None if value is None else Known.from_json(value)

    def put(self, path: str, stamp: Stamp) -> None:
        """Note in the index what the ledger holds."""
        self.load().put(path_number(path), hash(stamp))

    @staticmethod
    def entry(finding: Finding) -> LedgerEntry:
        """Return what is written of a finding."""
        return LedgerEntry(key=ledger_key(finding.path), value=finding.known.to_json())

    def baseline(self) -> LedgerEntry:
        """Return the entry that says that the whole tree was seen once."""
        at = self._context.clock.now().isoformat().replace("+00:00", "Z")
        return LedgerEntry(key=_BASELINE_KEY, value={"at": at})

    def regrouped(self) -> LedgerEntry:
        """Return the entry that says that the data sets are those of the configuration."""
        return settled(self._grouping)
