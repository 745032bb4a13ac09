"""Decides everything that was recorded once more, in an empty database, and compares the decisions hash for hash.

The real code runs over a copy of the recorded inputs, with a clock that follows the record. What differs then is a decision that depended
on something that is not recorded, or a program that decides otherwise than the one before: both should be known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from controller.clock import Clock, Ids
from controller.config import Config
from controller.core.model import RUN_ID, Event, Json
from controller.core.states import WATCH
from controller.engine.backtest.plan import configured_as
from controller.engine.evaluator import Evaluator
from controller.engine.runtime import Runtime
from controller.engine.sitting import Sitting, glance_at
from controller.engine.watched import Lookout
from controller.errors import NotFound
from controller.store import Store, Transaction
from controller.store.dialect import dump_json
from controller.store.people import CONFIGURATION
from controller.store.replay import Asked, Changed, Replica, decisions, inputs, last_number, pages_of_inputs
from controller.telemetry import Metrics

#: Inputs of one transaction.
BATCH = 500
#: What of a decision is compared.
COMPARED = ("kind", "model", "policy", "key", "stage", "reason", "trace", "until")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What a replay came to."""

    events: int
    decisions: int
    #: Over the hashes of all decisions, as they were recorded.
    digest: str
    #: The first decision that differs, as it was recorded and as it is now; None where there is none.
    recorded: dict[str, Json] | None = None
    replayed: dict[str, Json] | None = None

    @property
    def is_equal(self) -> bool:
        """Whether every decision is the same."""
        return self.recorded is None and self.replayed is None

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        first = None if self.is_equal else {"recorded": self.recorded, "replayed": self.replayed}
        return {
            "equal": self.is_equal,
            "events": self.events,
            "decisions": self.decisions,
            "digest": self.digest,
            "first_difference": first,
        }


def replay(recorded: Store, url: str, *, config: Config, clock: Clock) -> Replayed:
    """Decide what a store recorded once more, in the empty database at `url`; `config` lends what does not decide, such as paths."""
    following = _Following(clock)
    ids = _Recorded()
    store = Store.open(url, base=Path(), clock=following, ids=ids)
    try:
        store.upgrade()
        store.lead(owner="replay", host="", pid=0)
        upto = last_number(recorded)  # a daemon may go on deciding
        events = _Walk(recorded, store, following, ids, config).walk(upto)
        return _compare(recorded, store, upto, events)
    finally:
        store.close()


class _Walk:
    """Goes through the record."""

    def __init__(self, recorded: Store, store: Store, clock: _Following, ids: _Recorded, config: Config) -> None:
        self._recorded = recorded
        self._store = store
        self._clock = clock
        self._ids = ids
        self._base = config
        self._replica = Replica(recorded)
        self._runtime: Runtime | None = None

    def walk(self, upto: int) -> int:
        """Decide everything up to a number; return how many events there were."""
        events = 0
        for page in pages_of_inputs(inputs(self._recorded, upto=upto), BATCH):
            first = page[0]
            if isinstance(first, Changed) and first.kind == CONFIGURATION:
                self._activate(first)
                continue
            with self._store.transaction("replay") as tx:
                for each in page:
                    tx.now = each.at
                    self._clock.at = each.at
                    if isinstance(each, Changed):
                        tx.write_history()  # with the number that it has now
                        self._replica.apply(tx, each)
                        if self._runtime is not None and each.kind == WATCH.name:
                            self._runtime.watched.forget()
                    else:
                        events += each.event is not None
                        self._decide(tx, each)
        return events

    def _activate(self, change: Changed) -> None:
        self._clock.at = change.at
        body = self._replica.body_of(change.row["target"])
        if body is None:
            raise NotFound(f"configuration {change.row['target']!r} is not in the store")
        config = configured_as(self._base, body)
        if self._runtime is None:
            self._runtime = Runtime(
                config=config,
                store=self._store,
                clock=self._clock,
                random=_NoChance(),
                ids=self._ids,
                log=_Silence(),
                metrics=Metrics(),
                owner="replay",
            )
        Evaluator(self._runtime).activate(actor=change.row["actor"], config=config)

    def _decide(self, tx: Transaction, asked: Asked) -> None:
        if self._runtime is None:
            raise NotFound(
                "the record does not say which configuration was in force",
                hint="it was written by an older version; only what was decided since the upgrade can be replayed",
            )
        self._ids.expect(asked.runs)
        events: Sequence[Event] = ()
        if asked.event is not None:
            events = [self._replica.take_event(tx, asked.event)]
        sitting = Sitting(self._runtime, tx, events, numbers=1, lookout=Lookout(self._runtime, tx))
        for event in events:
            sitting.hear(event, glance_at(self._runtime, event))
        if asked.timer is not None:
            sitting.look(*asked.timer)
        sitting.close()


def _compare(recorded: Store, store: Store, upto: int, events: int) -> Replayed:
    digest = hashlib.sha256()
    count = 0
    pairs: Iterator[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]] = zip_longest(
        (each for each in decisions(recorded) if each["seq"] <= upto), decisions(store)
    )
    for was, now in pairs:
        if was is None or now is None or _hash(was) != _hash(now):
            return Replayed(
                events=events,
                decisions=count,
                digest=digest.hexdigest(),
                recorded=_shown(was),
                replayed=_shown(now),
            )
        count += 1
        digest.update(_hash(was))
    return Replayed(events=events, decisions=count, digest=digest.hexdigest())


def _hash(decision: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(dump_json([decision[name] for name in COMPARED]).encode()).digest()


def _shown(decision: Mapping[str, Any] | None) -> dict[str, Json] | None:
    if decision is None:
        return None
    return {name: _plain(decision[name]) for name in ("id", "seq", "at", *COMPARED)}


def _plain(value: Any) -> Json:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


class _Following:
    """A clock that follows the record."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: datetime | None = None

    def now(self) -> datetime:
        """Return the instant of the record; before its beginning the present one."""
        return self._clock.now() if self.at is None else self.at

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return self._clock.monotonic()


class _Recorded(Ids):
    """Gives runs the ids that they had; all others are numbers."""

    def __init__(self) -> None:
        self._made = 0
        self._runs: list[str] = []

    def expect(self, run_ids: Sequence[str]) -> None:
        """Say which runs the next decision made."""
        self._runs = list(run_ids)

    def make_many(self, kind: str, count: int) -> list[str]:
        """Return so many new ids of `kind`, rising."""
        if kind == RUN_ID and self._runs:
            return [self._runs.pop(0)]
        first = self._made + 1
        self._made += count
        return [f"{kind}-{number:016d}" for number in range(first, self._made + 1)]


class _NoChance:
    def getrandbits(self, bits: int) -> int:
        """Return no chance: nothing in a replay is random."""
        del bits
        return 0

    def random(self) -> float:
        """Return no chance."""
        return 0.0


class _Silence:
    def debug(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def info(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def warning(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def error(self, event: str, **fields: Any) -> None:
        """Say nothing."""
