"""The source itself: stores what the reader hands over, again and again while the store is busy. The package's docstring has the ideas."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping, Sequence

from controller.core.model import DeadLetter, Json, LedgerEntry, NewEvent
from controller.errors import InvalidInput, RetryLater, StoreBusy
from controller.ports import Batch, SourceContext, Stop
from controller.sources.kafka import positions
from controller.sources.kafka.decode import Decoder
from controller.sources.kafka.desk import Desk, Work
from controller.sources.kafka.options import KafkaOptions
from controller.sources.kafka.reader import Reader

_TAKE_SECONDS = 0.1
#: What the reader gets to leave the group in order; one that a broker holds up ends by itself later, and can store nothing.
_LEAVE_SECONDS = 0.8
_LONGEST_WAIT_SECONDS = 1.0
#: Every question to the brokers ends much sooner: a client that is silent for so long hangs, and is replaced.
_HUNG_SECONDS = 90.0


class KafkaSource:
    """Reads topics as a member of a consumer group."""

    Options = KafkaOptions
    #: The group shares the partitions out among the replicas.
    everywhere = True

    def __init__(self, options: KafkaOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._reader: Reader | None = None

    def run(self, stop: Stop) -> None:
        """Read and store until `stop` is set."""
        desk = Desk()
        reader = self._reader = Reader(self._options, self._context, desk)
        thread = threading.Thread(target=reader.run, name=f"kafka-{self._context.name}", daemon=True)
        thread.start()
        try:
            while not stop.is_set():
                if reader.error is not None:
                    raise reader.error
                if self._context.clock.monotonic() - reader.turned_at > _HUNG_SECONDS:
                    raise self._hung(thread)
                work = desk.take(_TAKE_SECONDS)
                if work is not None:
                    desk.finish(work, stored=self._store(work, stop))
        finally:
            reader.halt.set()
            thread.join(_LEAVE_SECONDS)
            if thread.is_alive():
                self._context.log.info("kafka.slow_leave", source=self._context.name)

    def _hung(self, thread: threading.Thread) -> RetryLater:
        """Note where the client hangs, and return what makes the controller start this source anew."""
        frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - there is no other way to ask
        where = "".join(traceback.format_stack(frame)[-6:]) if frame is not None else ""
        self._context.log.error("kafka.client_hangs", source=self._context.name, where=where)
        return RetryLater(
            f"the {self._options.client} client has not come back for {_HUNG_SECONDS:g} s; it is replaced"
        )

    def _store(self, work: Work, stop: Stop) -> bool:
        """Store work, however long the store is busy; False when it was given up: the group took it away, or we stop."""
        told = False
        while not work.cancelled:
            try:
                self._context.emit(work.batch)
            except StoreBusy as busy:
                if not told:
                    told = True
                    waiting = len(work.batch.events)
                    self._context.log.warning(
                        "kafka.store_busy", source=self._context.name, waiting=waiting, error=busy.message
                    )
                if stop.wait(min(busy.after_seconds, _LONGEST_WAIT_SECONDS)):
                    return False
            except InvalidInput as refusal:
                if not work.records:
                    raise
                return self._divide(work, refusal, stop)
            else:
                return True
        return False

    def _divide(self, work: Work, refusal: InvalidInput, stop: Stop) -> bool:
        """Store everything but the record that the store refuses; that one becomes a dead letter."""
        assert self._reader is not None  # noqa: S101 - it made the work
        if len(work.records) > 1:
            middle = len(work.records) // 2
            halves = (work.records[:middle], work.records[middle:])
            return all(self._store(self._reader.work(half), stop) for half in halves)
        if work.batch.dead and not work.batch.events:
            raise refusal
        letter = self._reader.decoder.letter(work.records[0], refusal.message)
        work.batch = Batch(events=(), ledger=work.batch.ledger, dead=[letter])
        return self._store(work, stop)

    # ------------------------------------------------------------------------------------------------ beside its shape

    def read_again(self, letter: DeadLetter) -> Sequence[NewEvent]:
        """Return the events of a dead letter, read with the present options; raises `InvalidInput`."""
        return Decoder(self._options, lambda topic: None).read_letter(letter)

    def seek(self, where: Mapping[str, str]) -> Sequence[LedgerEntry]:
        """Return the ledger entries that make the next run go on elsewhere; raises `InvalidInput`.

        `where` has `to` (earliest, latest, an offset, or a time), and `topic` and `partition`: of several topics one must be named, and
        without a partition all of the topic move.
        """
        entries = positions.wanted(where, self._options.topics)
        key = entries[0].key
        if key.endswith(f"/{positions.ALL}"):
            older = self._context.recall(key.removesuffix(positions.ALL))
            entries += [LedgerEntry(key=each, value=None) for each in older if each != key]
        return entries

    def report(self) -> Mapping[str, Json]:
        """Return the reader's facts as of a moment ago."""
        return dict(self._reader.facts) if self._reader is not None else {}
