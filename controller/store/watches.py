"""Rows of watches after promotions, and what a watch looks at: the signal's episodes, and what people decided meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core import states
from controller.core.episode import Episode
from controller.core.model import WATCH_ID, Event, Json, Promotion, Run
from controller.core.watch import Signal, Watching
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_watch = schema.watch
_run, _promotion, _act, _decision = schema.run, schema.promotion, schema.act, schema.decision
_event, _episode, _version, _cause = schema.event, schema.episode, schema.version, schema.run_cause


def _inline(value: str) -> Any:
    """Return a text that is written into the statement, so that the planner can use a partial index."""
    return sa.bindparam(None, value, literal_execute=True)


_IS_OPEN = _watch.c.state == _inline("OPEN")
# Without an order: for that of the ids SQLite would read all watches there ever were.
_OPEN = sa.select(_watch).where(_IS_OPEN)
_DUE = (
    sa.select(_watch.c.id)
    .where(_IS_OPEN, _watch.c.look_at <= sa.bindparam("now"))
    .order_by(_watch.c.look_at)
    .limit(sa.bindparam("some", type_=sa.Integer))
)
_NEXT_LOOK = sa.select(sa.func.min(_watch.c.look_at)).where(_IS_OPEN)
_ONE = sa.select(_watch).where(_watch.c.id == sa.bindparam("watch_id"))
_LOCK = _ONE.with_for_update()  # SQLite has one writer anyway
_OF_ROLLBACK = sa.select(_watch).where(_watch.c.rollback_id == sa.bindparam("promotion_id"))
_INSERT = sa.insert(_watch)
_WAKE = (
    sa.update(_watch).where(_IS_OPEN, _watch.c.model == sa.bindparam("b_model")).values(look_at=sa.bindparam("b_now"))
)
_ASKED_BY = (
    sa.select(_decision.c.policy, _decision.c.key)
    .where(_decision.c.run_id == sa.bindparam("run_id"), _decision.c.kind == "FIRE")
    .order_by(_decision.c.id)
)
# SQLite prepares a statement anew each time that a number is bound in its LIMIT; so it stands in the text.
_FIRST = sa.literal_column("1", sa.Integer)
_CAUSES = (
    sa.select(*(column if column.name != "data" else sa.null().label("data") for column in _event.c))
    .join(_cause, _cause.c.event_id == _event.c.id)
    .where(_cause.c.run_id == sa.bindparam("run_id"))
    .order_by(_cause.c.position)
    .limit(sa.bindparam("some", type_=sa.Integer, literal_execute=True))
)
_BY_A_PERSON = (
    sa.select(_promotion)
    .where(
        _promotion.c.model == sa.bindparam("model"),
        _promotion.c.id > sa.bindparam("promotion_id"),
        _promotion.c.actor != "controller",
    )
    .order_by(_promotion.c.id)
    .limit(_FIRST)
)
_PRESSED = (
    sa.select(_act.c.actor, _act.c.verb, _act.c.at, _act.c.reason)
    .where(
        _act.c.target.in_(sa.bindparam("targets", expanding=True)),
        _act.c.verb.in_(("pause", "resume")),
        _act.c.at >= sa.bindparam("since"),
    )
    .order_by(_act.c.at, _act.c.id)  # by the id alone, SQLite reads all acts in their order
    .limit(_FIRST)
)
_EVENTS_OF = sa.select(_cause.c.event_id).where(
    _cause.c.run_id == sa.bindparam("run_id"), _cause.c.event_id.is_not(None)
)
_ROLLED_BACK_BEFORE = (
    sa.select(_version.c.number)
    .where(
        _version.c.model == sa.bindparam("model"),
        _version.c.state == "ROLLED_BACK",
        _version.c.artifact_digest == sa.bindparam("artifact_digest"),
        sa.exists().where(_cause.c.run_id == _version.c.run_id, _cause.c.event_id.in_(_EVENTS_OF)),
    )
    .order_by(_version.c.number.desc())
    .limit(_FIRST)
)


@lru_cache(maxsize=32)
def _set_statement(columns: tuple[str, ...]) -> sa.Update:
    """Return the update of these columns of one open watch."""
    return (
        sa.update(_watch)
        .where(_watch.c.id == sa.bindparam("b_id"), _IS_OPEN)
        .values({column: sa.bindparam(column) for column in columns})
    )


class WatchRows:
    """Watches, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def add(
        self,
        run: Run,
        promotion: Promotion,
        signal: Signal,
        *,
        until: datetime,
        rolls_back: bool,
        needed: int,
    ) -> str:
        """Open the watch of a run whose promotion is applied with this transaction, and return its id."""
        watch_id = self._tx.ids.make(WATCH_ID)
        row = {
            "id": watch_id,
            "model": run.model,
            "run_id": run.id,
            "policy": run.policy,
            "key": run.key,
            "promotion_id": promotion.id,
            "version_id": promotion.version_id,
            "epoch": promotion.epoch + 1,
            "state": states.WATCH.initial,
            "cause": "promoted",
            "reason": "",
            "signal": {
                "episodes": list(signal.episodes),
                "kinds": [list(kind) for kind in signal.kinds],
                "levels": [list(level) for level in signal.levels],
                "asked_by": signal.asked_by,
            },
            "rolls_back": rolls_back,
            "needed": needed,
            "samples": 0,
            "evidence": [],
            "broken": 0,
            "broken_reason": "",
            "look_at": self._tx.now,
            "opened_at": self._tx.now,
            "until": until,
        }
        self._tx.execute(_INSERT, row)
        self._tx.record(states.WATCH.name, watch_id, "", states.WATCH.initial, "promoted", "", "controller")
        return watch_id

    def open(self) -> list[Watching]:
        """Return every watch that is open, the oldest first."""
        return sorted((record(Watching, row) for row in self._tx.execute(_OPEN)), key=lambda watching: watching.id)

    def due(self, now: datetime, limit: int) -> list[str]:
        """Return the ids of open watches whose next look is due, the longest overdue first."""
        return list(self._tx.execute(_DUE, {"now": now, "some": limit}).scalars())

    def next_look(self) -> datetime | None:
        """Return when the next open watch is to be looked at."""
        return self._tx.execute(_NEXT_LOOK).scalar()

    def get(self, watch_id: str) -> Watching | None:
        """Return a watch."""
        row = self._tx.execute(_ONE, {"watch_id": watch_id}).first()
        return None if row is None else record(Watching, row)

    def lock(self, watch_id: str) -> Watching | None:
        """Return a watch as it is now, and keep others from changing it until this transaction ends."""
        row = self._tx.execute(_LOCK, {"watch_id": watch_id}).first()
        return None if row is None else record(Watching, row)

    def of_run(self, run_id: str) -> Watching | None:
        """Return the watch after a run's promotion."""
        row = self._tx.execute(sa.select(_watch).where(_watch.c.run_id == run_id)).first()
        return None if row is None else record(Watching, row)

    def of_rollback(self, promotion_id: str) -> Watching | None:
        """Return the watch that asked for a rollback; None for a rollback by hand."""
        row = self._tx.execute(_OF_ROLLBACK, {"promotion_id": promotion_id}).first()
        return None if row is None else record(Watching, row)

    def set(self, watch_id: str, **values: Any) -> None:
        """Change columns of an open watch that are not its state."""
        self._tx.execute(_set_statement(tuple(values)), {**values, "b_id": watch_id})

    def wake(self, model: str) -> None:
        """Have the open watches of a model looked at now: its champion changed."""
        self._tx.execute(_WAKE, {"b_model": model, "b_now": self._tx.now})

    def end(self, watching: Watching, outcome: str, *, cause: str, reason: str, rollback_id: str | None = None) -> None:
        """Write the outcome, on the watch and on its run; raises `Conflict` when it is known already."""
        self._tx.transition(
            states.WATCH,
            watching.id,
            origin=watching.state,
            target=outcome,
            cause=cause,
            reason=reason,
            rollback_id=rollback_id,
        )
        self._tx.runs.set(watching.run_id, outcome=outcome, outcome_reason=reason)
        if outcome == "CURED":  # a breaker that opened meanwhile may be closed by it
            self._tx.policies.wake(model=watching.model, policy=watching.policy, waits_for=("resume",))

    # ------------------------------------------------------------------------------------- what is looked at

    def asked_by(self, run_id: str) -> list[tuple[str, str]]:
        """Return (policy, key) of the decisions that led to a run, the first one first."""
        found = self._tx.execute(_ASKED_BY, {"run_id": run_id})
        return list(dict.fromkeys((row.policy, row.key) for row in found))

    def causes(self, run_id: str, limit: int) -> list[Event]:
        """Return the first events behind a run, without their data."""
        return [record(Event, row) for row in self._tx.execute(_CAUSES, {"run_id": run_id, "some": limit})]

    def episodes(self, ids: Sequence[str]) -> list[Episode]:
        """Return episodes by their ids."""
        statement = sa.select(_episode).where(_episode.c.id.in_(list(ids))).order_by(_episode.c.id)
        return [record(Episode, row) for row in self._tx.execute(statement)] if ids else []

    def open_episodes_of(self, kind: str, subject: str | None, limit: int) -> list[Episode]:
        """Return the open episodes of a type about a subject."""
        statement = (
            sa.select(_episode)
            .where(
                _episode.c.state == _inline("OPEN"),
                _episode.c.type == kind,
                _episode.c.subject.is_(None) if subject is None else _episode.c.subject == subject,
            )
            .order_by(_episode.c.id)
            .limit(limit)
        )
        return [record(Episode, row) for row in self._tx.execute(statement)]

    def decided_by_a_person(self, watching: Watching) -> Promotion | None:
        """Return the first promotion, override, rollback or adoption of the model that a person asked for since this one."""
        since = {"model": watching.model, "promotion_id": watching.promotion_id}
        row = self._tx.execute(_BY_A_PERSON, since).first()
        return None if row is None else record(Promotion, row)

    def pressed(self, watching: Watching) -> Mapping[str, Json] | None:
        """Return the first pause or resume since the promotion that concerns the run's policy, its model or everything."""
        targets = ("", watching.model, f"{watching.model}/{watching.policy}")
        row = self._tx.execute(_PRESSED, {"targets": targets, "since": watching.opened_at}).first()
        return None if row is None else {"actor": row.actor, "verb": row.verb, "at": row.at, "reason": row.reason}

    def rolled_back_before(self, run: Run, artifact_digest: str | None) -> int | None:
        """Return the number of a version with this very artifact that was rolled back and that one of the run's own events led to."""
        if artifact_digest is None:
            return None
        mine = {"model": run.model, "artifact_digest": artifact_digest, "run_id": run.id}
        number: int | None = self._tx.execute(_ROLLED_BACK_BEFORE, mine).scalar()
        return number
