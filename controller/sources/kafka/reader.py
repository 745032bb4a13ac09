"""The thread that talks to the brokers: connects, reads, decodes, and hands over; it never waits for the store.

While the store is busy it goes on polling with everything paused, so that the group takes it for alive.
An assignment begins only when nothing of the one before is still on its way into the store, at what the ledger then says.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

from controller.core.model import Json, LedgerEntry, NewEvent
from controller.errors import RetryLater, StoreBusy
from controller.ports import Batch, SourceContext
from controller.retry import backoff
from controller.sources.kafka import positions
from controller.sources.kafka.client import Change, Client, Partition, Polled, Record, Settings, Topic, Trouble
from controller.sources.kafka.connect import connect
from controller.sources.kafka.decode import Decoder
from controller.sources.kafka.desk import Desk, Work
from controller.sources.kafka.options import KafkaOptions
from controller.sources.kafka.positions import Position, Start

_POLL_SECONDS = 0.2
#: While something is about to begin, or waits to be stored.
_QUICK_POLL_SECONDS = 0.02
#: A store that needs longer than this makes us pause, and poll for the group's sake.
_PATIENCE_SECONDS = 1.0
#: How often offsets are committed to the group, and facts brought up to date.
_EVERY_SECONDS = 1.0
#: A member without partitions is complained of after this long.
_WITHOUT_PARTITIONS_SECONDS = 30.0
#: Brokers that are away for longer are connected to anew: a certificate or a password may have changed.
_GIVE_UP_SECONDS = 30.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = timedelta(milliseconds=500), timedelta(seconds=5)


class Reader:
    """Reads for one run of the source; `halt` ends it."""

    def __init__(self, options: KafkaOptions, context: SourceContext, desk: Desk) -> None:
        self.halt = threading.Event()
        #: What ended it, when that is a bug.
        self.error: BaseException | None = None
        #: When it last came around, by the monotonic clock.
        self.turned_at = context.clock.monotonic()
        #: For people; replaced as a whole.
        self.facts: Mapping[str, Json] = {}
        self.decoder = Decoder(options, self._topic_id)
        self._options = options
        self._context = context
        self._desk = desk
        self._client: Client
        self._topics: dict[str, Topic] = {}
        self._halted: dict[Partition, str] = {}
        self._tombstones = 0
        self._forget_assignment()

    def _forget_assignment(self) -> None:
        self._owned: set[Partition] = set()
        #: Monotonic seconds since when this membership has had none.
        self._empty_since = self._context.clock.monotonic()
        #: Owned, and to begin (again) where the ledger says.
        self._new: set[Partition] = set()
        self._generation = 0
        #: A beginning is on its way into the store.
        self._beginning = False
        #: Made, with no room on the desk yet; and since when.
        self._held: Work | None = None
        self._held_since = 0.0
        self._paused = False
        self._positions: dict[Partition, int] = {}
        self._uncommitted: dict[Partition, int] = {}
        self._look_at = 0.0
        self._seen_at = 0.0
        self._due_at = 0.0
        self._busy_until = 0.0

    def run(self) -> None:
        """Read until `halt` is set; a broker that is away is waited for."""
        failures = 0
        while not self.halt.is_set():
            self.turned_at = self._context.clock.monotonic()
            try:
                self._connected()
            except (Trouble, RetryLater) as trouble:
                failures = 1 if self._positions else failures + 1
                self._context.complain("broker", trouble.message if isinstance(trouble, RetryLater) else str(trouble))
                wait = backoff(failures, self._context.random, first=_FIRST_BACKOFF, longest=_LONGEST_BACKOFF)
                self.halt.wait(wait.total_seconds())
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that the controller watches
                self.error = error
                return

    def _connected(self) -> None:
        """Be a member of the group until `halt` is set; raises `Trouble`."""
        sasl = self._options.security.sasl
        settings = Settings(
            options=self._options,
            name=self._context.name,
            base=self._context.base,
            password=None if sasl is None else sasl.password.reveal(),
            uncommitted=self._not_committed,
        )
        self._client = connect(settings)
        self._forget_assignment()
        try:
            self._look()
            self._client.subscribe()
            self._context.complain("broker", None)
            while not self.halt.is_set():
                self._turn()
            self._finish()
            if self._uncommitted:
                self._client.commit(self._uncommitted, wait=True)
        finally:
            self._desk.drop()
            self._client.close()
            self.facts = {**self.facts, "assigned": [], "waits_for_store": False}

    # --------------------------------------------------------------------------------------------------- one turn

    def _turn(self) -> None:
        self._finish()
        now = self.turned_at = self._context.clock.monotonic()
        if now >= self._look_at:
            self._look_again(now)
        if (
            self._new
            and not self._beginning
            and self._held is None
            and now >= self._busy_until
            and self._desk.is_idle()
        ):
            self._begin()
        if self._held is not None and self._desk.offer(self._held):
            self._held = None
        if self._held is None:
            self._take(self._read())
        elif not self._desk.wait_for_room(_POLL_SECONDS) and now - self._held_since > _PATIENCE_SECONDS:
            self._stay_member()
        if now >= self._due_at:
            self._due_at = now + _EVERY_SECONDS
            self._commit()
            self._report()
            self._watch_assignment(now)

    def _watch_assignment(self, now: float) -> None:
        """Complain when no partition is given to us for long: a group that is stuck looks like a quiet topic."""
        if self._owned or not self._topics:
            self._empty_since = now
        waits = now - self._empty_since > _WITHOUT_PARTITIONS_SECONDS
        topics = ", ".join(sorted(self._topics))
        reason = (
            f"no partition of {topics} has been given to this member of group {self._options.group_id!r} "
            f"for {_WITHOUT_PARTITIONS_SECONDS:g} s: other members hold them all, or the group is stuck"
        )
        self._context.complain("assignment", reason if waits else None)

    def _read(self) -> Polled:
        if self._paused:
            self._paused = False
            self._client.resume()
        seconds = _QUICK_POLL_SECONDS if self._new or self._beginning else _POLL_SECONDS
        return self._client.poll(seconds, self._options.max_poll_records)

    def _stay_member(self) -> None:
        """Poll with everything paused: only the group's news comes."""
        if not self._paused:
            self._paused = True
            self._client.pause()
        self._take(self._client.poll(_QUICK_POLL_SECONDS, 1))

    def _take(self, polled: Polled) -> None:
        for change in polled.changes:
            self._changed(change)
        if polled.changes:  # whatever came with them is read again
            self._new |= {Partition(record.topic, record.partition) for record in polled.records} & self._owned
            return
        self._new |= polled.out_of_range & self._owned
        for partition, reason in polled.broken.items():
            self._halt(partition, f"{reason}; seek past it to go on (`retrainctl sources seek`)")
        if polled.records:
            self._hold(self.work(polled.records))
            self._context.note("payload", (polled.records[-1].value or b"")[:4096])

    def _changed(self, change: Change) -> None:
        self._generation += 1
        if change.kind == "assigned":
            self._owned |= change.partitions
            self._new |= change.partitions
            return
        self._owned -= change.partitions
        dropped = self._desk.drop() + ([self._held] if self._held is not None else [])
        self._held = None
        self._beginning = False
        for work in dropped:
            self._new |= set(work.positions) | set(work.starts or ())
        self._new &= self._owned
        for partition in change.partitions:
            self._positions.pop(partition, None)
            self._uncommitted.pop(partition, None)
            self._unhalt(partition)

    def work(self, records: Sequence[Record]) -> Work:
        """Return what these records come to, with the positions behind them."""
        decoded = self.decoder.decode(records)
        self._tombstones += decoded.tombstones
        ends = {record[:2]: record[2] for record in records}
        behind = {
            Partition(*each): Position(offset=offset + 1, topic_id=self._topic_id(each[0]))
            for each, offset in ends.items()
        }
        ledger = [positions.entry(partition, position) for partition, position in behind.items()]
        return Work(
            batch=Batch(events=decoded.events, ledger=ledger, dead=decoded.dead),
            records=records,
            positions=behind,
            generation=self._generation,
        )

    def _hold(self, work: Work) -> None:
        if self._held is None and self._desk.offer(work):
            return
        assert self._held is None, "read on without room"  # noqa: S101 - a promise of `_turn`
        self._held, self._held_since = work, self._context.clock.monotonic()

    def _finish(self) -> None:
        """Go on from what was stored."""
        for work in self._desk.done():
            if not work.stored:
                continue
            current = work.generation == self._generation
            if work.starts is not None:
                self._beginning = False
                if current:
                    self._deliver(work.starts)
                else:
                    self._new |= set(work.starts) & self._owned
            elif current:
                self._positions |= {partition: position.offset for partition, position in work.positions.items()}
                self._uncommitted |= {partition: position.offset for partition, position in work.positions.items()}

    # ------------------------------------------------------------------------------------------------- beginnings

    def _begin(self) -> None:
        """Find out where the new partitions begin, store what follows from that, and let them be delivered."""
        try:
            ledger = self._context.recall("")
        except StoreBusy as busy:
            self._busy_until = self._context.clock.monotonic() + min(busy.after_seconds, _EVERY_SECONDS)
            return
        self._look()
        new = sorted(self._new & self._owned)
        planned = self._plan(new, ledger) if new else {}
        self._new.clear()
        events: list[NewEvent] = []
        entries: list[LedgerEntry] = []
        for partition, start in planned.items():
            if start.gap is not None:
                events.append(start.gap.event(self._context.name, self._context.clock.now(), self._options.on_gap))
                self._context.log.warning(
                    "kafka.gap", source=self._context.name, partition=str(partition), reason=start.gap.reason,
                    from_offset=start.gap.from_offset, to_offset=start.gap.to_offset,
                )  # fmt: skip
            position = Position(offset=start.offset, topic_id=self._topic_id(partition.topic))
            known = ledger.get(str(partition))
            if start.halted is None and (known is None or known["offset"] != start.offset or start.gap is not None):
                entries.append(positions.entry(partition, position))
        topics = {partition.topic for partition in planned}
        entries += [LedgerEntry(key=key, value=None) for key in ledger if _is_settled(key, topics, planned)]
        starts = {partition: start.offset for partition, start in planned.items() if start.halted is None}
        for partition in new:
            halted = planned[partition].halted
            self._unhalt(partition) if halted is None else self._halt(partition, halted)
        if not events and not entries:
            self._deliver(starts)
            return
        self._beginning = True
        batch = Batch(events=events, ledger=entries)
        self._hold(Work(batch=batch, records=(), positions={}, starts=starts, generation=self._generation))

    def _plan(self, new: Sequence[Partition], ledger: Mapping[str, Json]) -> dict[Partition, Start]:
        """Return where each begins; also partitions of others, when a person or `start: latest` speaks for a whole topic at once."""
        first = {each.topic for each in new if self._is_first(each.topic, ledger)}
        sought = {each.topic for each in new if f"{positions.SEEK}{each.topic}/{positions.ALL}" in ledger}
        whole = sought | (first if self._options.start == "latest" else set())
        every = sorted({*new, *(each for topic in whole for each in self._all_partitions(topic))})
        bounds = self._client.bounds(every)
        ours = {each: Position.from_json(ledger[str(each)]) for each in every if str(each) in ledger}
        missing = [each for each in every if each not in ours]
        groups = self._client.committed(missing) if missing else {}
        planned: dict[Partition, Start] = {}
        for each in every:
            to = positions.sought(ledger, each)
            if to is not None:
                moment = positions.instant(to)
                at = self._client.offsets_at([each], moment).get(each) if moment is not None else None
                planned[each] = Start(offset=positions.resolve(to, bounds[each], at))
            elif each in new or each not in ours:
                planned[each] = positions.choose(
                    each,
                    ours=ours.get(each),
                    groups=groups.get(each),
                    bounds=bounds[each],
                    topic_id=self._topic_id(each.topic),
                    # What came after our first look is news, and is read from its beginning.
                    start=self._options.start if each.topic in first else "earliest",
                    on_gap=self._options.on_gap,
                )
        return planned

    def _is_first(self, topic: str, ledger: Mapping[str, Json]) -> bool:
        """Return whether this topic was never seen before, not even missing."""
        return f"{positions.AWAITED}{topic}" not in ledger and not any(key.startswith(f"{topic}/") for key in ledger)

    def _all_partitions(self, topic: str) -> list[Partition]:
        return [
            Partition(topic, number) for number in range(self._topics[topic].partitions if topic in self._topics else 0)
        ]

    def _deliver(self, starts: Mapping[Partition, int]) -> None:
        mine = {partition: offset for partition, offset in starts.items() if partition in self._owned}
        self._positions |= mine
        if mine:
            self._client.begin(mine)
        self._due_at = 0.0

    def _halt(self, partition: Partition, reason: str) -> None:
        self._halted[partition] = reason
        self._context.complain(f"partition {partition}", f"{partition}: {reason}")

    def _unhalt(self, partition: Partition) -> None:
        if self._halted.pop(partition, None) is not None:
            self._context.complain(f"partition {partition}", None)

    # ------------------------------------------------------------------------------------------------ looking around

    def _look(self) -> None:
        """Ask which topics there are: missing ones are waited for, and one that was made anew begins anew."""
        self._look_at = self._context.clock.monotonic() + self._options.refresh_every.total_seconds()
        found = self._client.topics()
        self._seen_at = self._context.clock.monotonic()
        anew = {
            name
            for name, topic in found.items()
            if name in self._topics
            and None not in (topic.id, self._topics[name].id)
            and topic.id != self._topics[name].id
        }
        self._topics |= found
        again = {partition for partition in self._owned if partition.topic in anew}
        if again:
            self._client.stop(again)
            self._new |= again
        missing = [name for name in self._options.topics if name not in found]
        several = ", ".join(repr(name) for name in missing)
        self._context.complain(
            "topics", f"no topic {several} on these brokers (yet); it is waited for" if missing else None
        )
        if missing and self._options.start == "latest" and self._held is None:
            self._await(missing)

    def _look_again(self, now: float) -> None:
        """Look, and bear with brokers that are away for a while: the client comes back to them by itself, and stays in the group."""
        try:
            self._look()
        except Trouble as trouble:
            if now - self._seen_at > _GIVE_UP_SECONDS:
                raise
            self._context.complain("broker", str(trouble))
            self._look_at = self._context.clock.monotonic() + _EVERY_SECONDS
        else:
            self._context.complain("broker", None)

    def _await(self, missing: Sequence[str]) -> None:
        """Remember that a topic was not there when we first looked: it is read from its beginning once it is."""
        try:
            ledger = self._context.recall("")
        except StoreBusy:
            return  # the next look tries again
        entries = [
            LedgerEntry(key=f"{positions.AWAITED}{name}", value=True)
            for name in missing
            if self._is_first(name, ledger)
        ]
        if entries:
            self._desk.offer(Work(batch=Batch(events=(), ledger=entries), records=(), positions={}))

    def _topic_id(self, topic: str) -> str | None:
        known = self._topics.get(topic)
        return known.id if known is not None else None

    def _commit(self) -> None:
        if self._uncommitted:
            offsets, self._uncommitted = self._uncommitted, {}
            self._client.commit(offsets, wait=False)

    def _not_committed(self, reason: str) -> None:
        # Our own position counts; the group's follows with the next commit.
        self._context.log.info("kafka.offsets_not_committed", source=self._context.name, reason=reason)

    def _report(self) -> None:
        ends = {partition: self._client.end(partition) for partition in self._positions}
        lags = {each: max(0, end - self._positions[each]) for each, end in ends.items() if end is not None and end >= 0}
        self._context.note("lag", sum(lags.values()))
        self.facts = {
            "client": self._options.client,
            "assigned": [str(partition) for partition in sorted(self._owned)],
            "positions": {str(partition): offset for partition, offset in sorted(self._positions.items())},
            "lag": {str(partition): lag for partition, lag in sorted(lags.items())},
            "halted": {str(partition): reason for partition, reason in sorted(self._halted.items())},
            "waits_for_store": self._paused,
            "tombstones": self._tombstones,
        }


def _is_settled(key: str, topics: set[str], planned: Mapping[Partition, Start]) -> bool:
    """Return whether an entry of the ledger has served its purpose once this plan is stored."""
    if key.startswith(positions.AWAITED):
        return key.removeprefix(positions.AWAITED) in topics
    if not key.startswith(positions.SEEK):
        return False
    topic, _, number = key.removeprefix(positions.SEEK).rpartition("/")
    return topic in topics if number == positions.ALL else Partition(topic, int(number)) in planned
