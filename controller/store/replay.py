"""What was recorded, in the order in which it was decided, and how it is written into another database.

The inputs of deciding are events, timers, changes of runs and versions, acts of persons and configurations. Events and timers carry their
place in the order of deciding; what changed the world beside them says behind which decision it happened (`after_seq`).
Decisions, states and runs are no inputs: the code makes them anew (`engine/replay.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from controller.core import states
from controller.core.model import Event, Json
from controller.errors import Conflict
from controller.store import pruning, schema
from controller.store.episodes import EpisodeRows
from controller.store.people import CONFIGURATION
from controller.store.rows import columns
from controller.store.store import Store, Transaction

#: Rows of one page.
PAGE = 1000
#: Replicas' clocks differ by less.
_SLACK = timedelta(minutes=1)
#: What was taken in is kept apart from what is compared: `policy` decides of itself, when it is removed or its state is broken.
_OF_ITSELF = "policy"
#: The machines whose changes policies are told of.
_MACHINES = (states.RUN.name, states.VERSION.name, states.EPISODE.name, states.WATCH.name, CONFIGURATION)

#: What retention may have let go of, and a replay cannot do without.
_NEEDED = {"bodies": "data of events", "events": "events", "episodes": "alerts", "watches": "watches"}

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """An event or a timer that was decided."""

    seq: int
    at: datetime
    #: The event's row; None for a timer.
    event: Row | None
    #: A timer's (model, policy, key).
    timer: tuple[str, str, str] | None
    #: The runs that were made because of it, in order.
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """Something that changed the world: a row of the history, or an act of a person."""

    after: int
    at: datetime
    #: A machine's name, or `act`.
    kind: str
    row: Row


def last_number(store: Store) -> int:
    """Return the last number that was given in the order of deciding; whoever decides meanwhile goes beyond it."""
    with store.reading() as tx:
        return int(tx.execute(sa.select(schema.leader.c.decided_seq)).scalar() or 0)


def inputs(store: Store, *, upto: int) -> Iterator[Asked | Changed]:
    """Yield what was recorded up to a number, in the order of deciding; raises `Conflict` when some of it was let go of."""
    _check_whole(store)
    asked = ((each.seq, 0, each) for each in _asked(store) if each.seq <= upto)
    changes = heapq.merge(_history(store), _acts(store), key=_place)
    changed = ((each.after, 1, each) for each in changes if each.after <= upto)
    both: Iterator[tuple[int, int, Asked | Changed]] = heapq.merge(asked, changed, key=lambda each: each[:2])
    for _, _, each in both:
        yield each


def decisions(store: Store) -> Iterator[Row]:
    """Yield every decision, in the order of deciding."""
    pages = _pages(store, schema.decision, schema.decision.c.id, "")
    # Ids rise with the order, but for a clock that was set back between two daemons.
    yield from _sorted_within(pages, key=lambda row: (row["seq"], row["id"]), window=PAGE)


def _check_whole(store: Store) -> None:
    with store.reading() as tx:
        gone = [each for name, each in pruning.gone(tx).items() if name in _NEEDED]
    if gone:
        what = ", ".join(f"{each.row_count:,} {_NEEDED[each.kind]}" for each in gone)
        until = max(each.cutoff for each in gone)
        raise Conflict(
            f"the record is not whole any more: of what is older than {until:%Y-%m-%d %H:%M:%SZ}, {what} were let go of",
            hint="replay a backup from before that; `retrainctl backtest` does with what is left (`retention`)",
        )


def _place(each: Changed) -> tuple[int, datetime]:
    return each.after, each.at


def _asked(store: Store) -> Iterator[Asked]:
    events = ((row["decided_seq"], 0, row) for row in _decided_events(store))
    decided = ((row["seq"], 1, row) for row in decisions(store))
    merged = heapq.merge(events, decided, key=lambda each: each[:2])
    for seq, group in groupby(merged, key=lambda each: each[0]):
        rows = list(group)
        event = next((row for _, kind, row in rows if kind == 0), None)
        made = [row for _, kind, row in rows if kind == 1]
        runs = tuple(row["run_id"] for row in made if row["kind"] == "FIRE" and row["makes_run"])
        if event is not None:
            yield Asked(seq=seq, at=event["decided_at"], event=event, timer=None, runs=runs)
            continue
        for row in made[:1]:
            if row["event_id"] is None and row["stage"] != _OF_ITSELF:
                timer = (row["model"], row["policy"], row["key"])
                yield Asked(seq=seq, at=row["at"], event=None, timer=timer, runs=runs)


def _decided_events(store: Store) -> Iterator[Row]:
    """Yield the events that were decided on, in the order of deciding.

    Whatever has a smaller number was decided no later, hence received before: so one may go on once the reading is past its decision.
    """
    waiting: list[tuple[int, str, Row]] = []
    for page in _pages(store, schema.event, schema.event.c.id, ""):
        for row in page:
            if row["decided_seq"] is not None and row["decided_at"] is not None:
                heapq.heappush(waiting, (row["decided_seq"], row["id"], row))
        reached = page[-1]["received_at"]
        while waiting and waiting[0][2]["decided_at"] + _SLACK < reached:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _history(store: Store) -> Iterator[Changed]:
    table = schema.history
    for page in _pages(store, table, table.c.seq, 0):
        for row in page:
            if row["machine"] in _MACHINES:
                yield Changed(after=_after(row), at=row["at"], kind=row["machine"], row=row)


def _acts(store: Store) -> Iterator[Changed]:
    for page in _pages(store, schema.act, schema.act.c.id, ""):
        for row in page:
            yield Changed(after=_after(row), at=row["at"], kind="act", row=row)


def _after(row: Row) -> int:
    if row["after_seq"] is None:
        raise Conflict(
            f"the record does not say behind which decision something of {row['at']:%Y-%m-%d %H:%M:%SZ} happened",
            hint="it was begun by an older version of this program, and cannot be replayed; backtest does not need to know",
        )
    return int(row["after_seq"])


def _pages(store: Store, table: sa.Table, key: sa.Column[Any], after: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows in the order of its key, a transaction a page."""
    made = schema.run.alias("made")
    statement = sa.select(table).order_by(key).limit(PAGE)
    if table is schema.decision:
        statement = (
            sa.select(table, made.c.id.is_not(None).label("makes_run"))
            .outerjoin(made, made.c.decision_id == table.c.id)
            .order_by(key)
            .limit(PAGE)
        )
    while True:
        with store.reading() as tx:
            page = [dict(columns(row)) for row in tx.execute(statement.where(key > after))]
        if not page:
            return
        after = page[-1][key.name]
        yield page


def _sorted_within(pages: Iterator[list[dict[str, Any]]], *, key: Any, window: int) -> Iterator[Row]:
    waiting: list[dict[str, Any]] = []
    for page in pages:
        waiting = sorted([*waiting, *page], key=key)
        ready = max(len(waiting) - window, 0)
        yield from waiting[:ready]
        del waiting[:ready]
    yield from waiting


# ------------------------------------------------------------------------------------------------------------ writing


class Replica:
    """Writes what was recorded into another database, as it was."""

    def __init__(self, recorded: Store) -> None:
        self._recorded = recorded

    def take_event(self, tx: Transaction, row: Row) -> Event:
        """Write an event as it came in, undecided, and return it."""
        values = {**row, "state": "PENDING", "decided_seq": None, "decided_at": None, "error": None}
        tx.execute(tx.insert_new(schema.event), values)
        return Event(**{name: values[name] for name in Event.__dataclass_fields__})

    def body_of(self, version: str) -> Json:
        """Return the normal form of a configuration."""
        with self._recorded.reading() as tx:
            return tx.people.configuration(version)

    def apply(self, tx: Transaction, change: Changed) -> None:
        """Let a change of the record happen."""
        apply = {
            "act": self._act,
            states.RUN.name: self._run,
            states.VERSION.name: self._version,
            states.EPISODE.name: self._episode,
            states.WATCH.name: self._watch,
        }[change.kind]
        apply(tx, change.row)

    def _act(self, tx: Transaction, row: Row) -> None:
        tx.execute(tx.insert_new(schema.act), dict(row))
        target = row["target"]
        scope = "all" if not target else "policy" if "/" in target else "model"
        if row["verb"] == "pause":
            tx.people.add_pause(scope=scope, target=target, actor=row["actor"], reason=row["reason"])
        elif row["verb"] == "resume":
            tx.people.drop_pause(scope=scope, target=target)
            model, _, policy = target.partition("/")
            tx.policies.wake(model=model or None, policy=policy or None, waits_for=("resume",))

    def _run(self, tx: Transaction, row: Row) -> None:
        run = tx.runs.get(row["entity"])
        if run is None or not row["origin"] or run.state == row["target"]:
            return  # it is born, or replaced, by what is decided
        real = self._row(schema.run, row["entity"])
        values: dict[str, Any] = {}
        if row["target"] == "TRAINING":
            values = {name: real[name] for name in ("started_at", "champion_id", "epoch")}
        if row["target"] == "AWAITING_APPROVAL":
            values = {"awaiting_since": real["awaiting_since"]}
        if row["target"] == "JUDGING" or row["target"] in states.RUN.final:
            values["cost"] = real["cost"]
            self._copy_work(tx, run.id)
        tx.runs.move(run, row["target"], cause=row["cause"], reason=row["reason"], actor=row["actor"], **values)

    def _copy_work(self, tx: Transaction, run_id: str) -> None:
        """Copy a run's jobs and attempts, which say whether anything of it was launched."""
        job, attempt = schema.job, schema.attempt
        with self._recorded.reading() as recorded:
            jobs = [dict(columns(row)) for row in recorded.execute(sa.select(job).where(job.c.run_id == run_id))]
            attempts = [
                dict(columns(row))
                for row in recorded.execute(
                    sa.select(attempt).where(attempt.c.job_id.in_([each["id"] for each in jobs]))
                )
            ]
        for table, rows in ((job, jobs), (attempt, attempts)):
            for each in rows:
                tx.execute(tx.insert_new(table), each)

    def _version(self, tx: Transaction, row: Row) -> None:
        model = schema.model
        real = self._row(schema.version, row["entity"])
        values: dict[str, Any] = {"promoted_at": row["at"]} if row["target"] == "CHAMPION" else {}
        known = tx.models.version(row["entity"])
        if known is None:
            born = {**real, "promoted_at": None, "state": row["target"], **values}
            tx.execute(sa.insert(schema.version), born)
        else:
            said = {"cause": row["cause"], "reason": row["reason"], "actor": row["actor"]}
            tx.models.move_version(known, row["target"], **said, **values)
        if row["target"] == "CHAMPION":
            tx.models.ensure(real["model"])
            champion = {"champion_id": row["entity"], "epoch": model.c.epoch + 1}
            tx.execute(sa.update(model).where(model.c.name == real["model"]).values(**champion))
            tx.policies.wake(model=real["model"], waits_for=("champion", "run"))

    def _episode(self, tx: Transaction, row: Row) -> None:
        if row["target"] != "EXPIRED":
            return  # the others are opened and resolved by what is decided
        real = self._row(schema.episode, row["entity"])
        rows: EpisodeRows = tx.episodes
        for episode in rows.known([(real["origin"], real["key"])]).values():
            if episode.state == "OPEN":
                rows.end(episode, target="EXPIRED", cause=row["cause"], reason=row["reason"])

    def _watch(self, tx: Transaction, row: Row) -> None:
        real = self._row(schema.watch, row["entity"])
        if row["target"] == states.WATCH.initial:  # what it sees is seen again while it is decided
            seen = {"samples": 0, "evidence": [], "broken": 0, "broken_reason": "", "came_back": None}
            begun = {"state": row["target"], "cause": row["cause"], "reason": "", "look_at": real["opened_at"]}
            values = {**real, **seen, **begun, "rollback_id": None, "finished_at": None}
            tx.execute(tx.insert_new(schema.watch), values)
            return
        watching = tx.watches.get(row["entity"])
        if watching is not None and watching.state == states.WATCH.initial:
            tx.watches.end(
                watching, row["target"], cause=row["cause"], reason=row["reason"], rollback_id=real["rollback_id"]
            )

    def _row(self, table: sa.Table, row_id: str) -> dict[str, Any]:
        with self._recorded.reading() as tx:
            return dict(columns(tx.execute(sa.select(table).where(table.c.id == row_id)).one()))


def pages_of_inputs(found: Iterator[Asked | Changed], size: int) -> Iterator[Sequence[Asked | Changed]]:
    """Yield inputs in pages; a configuration stands alone, because it comes into force in a transaction of its own."""
    page: list[Asked | Changed] = []
    for each in found:
        alone = isinstance(each, Changed) and each.kind == CONFIGURATION
        if page and (alone or len(page) >= size):
            yield page
            page = []
        page.append(each)
        if alone:
            yield page
            page = []
    if page:
        yield page
