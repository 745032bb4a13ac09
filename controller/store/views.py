"""What people and programs ask of the database: the shapes of `core/shapes.py`, filled in.

Every method is one reading transaction, so that what it returns belongs together, and every question over a table that grows goes along an
index or is bounded. Nothing here writes. The API uses it in the daemon, `retrainctl` beside a daemon that does not run.
What an id, its end, a name or an event's own id stands for is worked out in `finding.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from controller.core.episode import Episode
from controller.core.model import PERSON_ORIGIN, Event
from controller.core.policy import ModelSpec
from controller.core.shapes import (
    ActiveRunShape,
    ActShape,
    AttemptShape,
    CauseShape,
    DecisionShape,
    EpisodeShape,
    EventCounts,
    EventPage,
    EventShape,
    EventSummary,
    HeldShape,
    HistoryShape,
    JobShape,
    ModelShape,
    ModelSummary,
    OpenWatchShape,
    PauseShape,
    PressShape,
    PromotionShape,
    RunPage,
    RunShape,
    RunSummary,
    SilentShape,
    StatusShape,
    StepShape,
    TallyShape,
    VerdictShape,
    VersionShape,
)
from controller.core.states import RUN
from controller.core.watch_shapes import PolicyShape
from controller.errors import NotFound
from controller.store import schema
from controller.store.account_views import AccountViews
from controller.store.finding import Found, find
from controller.store.letter_views import standing_of
from controller.store.people import Token
from controller.store.remnants import hint_of, remnant
from controller.store.replica_views import in_force, lag_of, leader_of, replicas_of
from controller.store.rows import columns
from controller.store.statistics import policy_statistics, watch_of
from controller.store.store import Readable, Transaction

#: Lists inside an answer end here; numbers beside them count everything.
MAX_CAUSES = 100
MAX_DECISIONS = 100
MAX_HELD = 50
#: A filter without an index looks at this many of the newest rows, and says where it stopped.
WINDOW = 20_000

_event, _run, _job, _attempt = schema.event, schema.run, schema.job, schema.attempt
_decision, _cause, _version = schema.decision, schema.run_cause, schema.version
_promotion, _step, _state, _held = (
    schema.promotion,
    schema.step,
    schema.policy_state,
    schema.held_cause,
)


class Views(AccountViews):
    """The database as people see it. Safe to use from several threads."""

    def __init__(self, store: Readable) -> None:
        self._store = store

    def status(self) -> StatusShape:
        """Return what is happening now: what fits one screen."""
        with self._store.reading() as tx:
            return {
                "at": _text(tx.now),
                "store": self._store.description(),
                "leader": leader_of(tx),
                "replicas": replicas_of(tx, activated := in_force(tx)),
                "config_in_force": activated,
                "events": _event_counts(tx),
                "lag": lag_of(tx),
                "models": _models(tx),
                "active": _active(tx),
                "awaiting": _summaries(tx, _open_in("AWAITING_APPROVAL")),
                "recent": _recent(tx),
                "held": _held_now(tx),
                "pauses": _pauses(tx),
                "promotions": _promotions(tx, _promotion.c.state == _inline("PENDING")),
                "watches": _open_watches(tx),
                "notifications_pending": _count(
                    tx, schema.notification, schema.notification.c.state == _inline("PENDING")
                ),
                "notifications_dead": _count(tx, schema.notification, schema.notification.c.state == _inline("DEAD")),
                "dead_letters": standing_of(tx),
                "silent": _silent(tx),
                "complaints": None,
            }

    def runs(
        self,
        *,
        model: str | None = None,
        state: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """Return runs, the newest first, of one model, in one state, older than the run `before`."""
        statement = sa.select(_run).order_by(_run.c.id.desc()).limit(limit + 1)
        if model is not None:
            statement = statement.where(_run.c.model == model)
        if state is not None:
            statement = statement.where(_run.c.state == state)
            if state not in RUN.final:
                statement = statement.where(_run.c.finished_at.is_(None))
        if before is not None:
            statement = statement.where(_run.c.id < before)
        with self._store.reading() as tx:
            found = _summaries(tx, statement)
        return {
            "items": found[:limit],
            "next": found[limit - 1]["id"] if len(found) > limit else None,
        }

    def run(self, run_id: str) -> RunShape:
        """Return everything about a run; raises `NotFound`."""
        with self._store.reading() as tx:
            return _run_shape(tx, run_id)

    def run_state(self, run_id: str) -> str:
        """Return a run's state, cheaply, for those who wait; raises `NotFound`."""
        with self._store.reading() as tx:
            state: str | None = tx.execute(sa.select(_run.c.state).where(_run.c.id == run_id)).scalar()
        if state is None:
            raise NotFound(f"there is no run {run_id!r}")
        return state

    def events(
        self,
        *,
        origin: str | None = None,
        type: str | None = None,
        state: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> EventPage:
        """Return events, the newest first.

        `origin` and `type` have no index: they are looked for among the next `WINDOW` events, and `next` says where that ended.
        """
        with self._store.reading() as tx:
            return _events(tx, origin=origin, kind=type, state=state, limit=limit, before=before)

    def event(self, event_id: str) -> EventShape:
        """Return everything about an event; raises `NotFound`."""
        with self._store.reading() as tx:
            return _event_shape(tx, event_id)

    def event_state(self, event_id: str) -> str:
        """Return an event's state, cheaply, for those who wait; raises `NotFound`."""
        with self._store.reading() as tx:
            state: str | None = tx.execute(sa.select(_event.c.state).where(_event.c.id == event_id)).scalar()
        if state is None:
            raise NotFound(f"there is no event {event_id!r}")
        return state

    def episode_of(self, event: Event) -> Episode | None:
        """Return the episode that an event belongs to, as policies see it; None for none."""
        with self._store.reading() as tx:
            return tx.episodes.of_event(event)

    def episodes(self, *, origin: str | None = None, limit: int = 200) -> list[EpisodeShape]:
        """Return the open episodes, of one origin or of all, those that live longest without another sign first."""
        with self._store.reading() as tx:
            return [_episode_shape(episode) for episode in tx.episodes.open(origin, limit=limit)]

    def models(self, configured: Iterable[str] = ()) -> list[ModelSummary]:
        """Return every model that is configured or was ever seen, by name."""
        with self._store.reading() as tx:
            return _models(tx, configured)

    def model(self, name: str, *, configured: Iterable[str] = ()) -> ModelShape:
        """Return everything about a model; raises `NotFound`."""
        with self._store.reading() as tx:
            return _model_shape(tx, name, configured)

    def policies(
        self, models: Mapping[str, ModelSpec], *, model: str | None = None, since: timedelta | None = None
    ) -> list[PolicyShape]:
        """Return the policies and what came of them, of one model and so far back when given; raises `NotFound`."""
        with self._store.reading() as tx:
            if model is not None and model not in models and tx.models.get(model) is None:
                raise NotFound(f"there is no model {model!r}")
            return policy_statistics(tx, models, model=model, since=None if since is None else tx.now - since)

    def history(self, entity: str) -> list[HistoryShape]:
        """Return the changes of state of one thing, in order."""
        with self._store.reading() as tx:
            return _history(tx, [entity])

    def decisions(
        self,
        *,
        event_id: str | None = None,
        run_id: str | None = None,
        model: str | None = None,
        policy: str | None = None,
        limit: int = MAX_DECISIONS,
    ) -> list[DecisionShape]:
        """Return the newest decisions on an event, for a run, or of a policy (model and name), oldest first."""
        given: dict[sa.Column[Any], str | None] = {
            _decision.c.event_id: event_id,
            _decision.c.run_id: run_id,
            _decision.c.model: model,
            _decision.c.policy: policy,
        }
        where = [column == value for column, value in given.items() if value is not None]
        with self._store.reading() as tx:
            return _decisions(tx, *where, limit=limit)

    def resolve(self, text: str, *, models: Iterable[str] = (), policies: Iterable[str] = ()) -> Found:
        """Return what `text` stands for; see `finding.find`."""
        with self._store.reading() as tx:
            return find(tx, text, models=models, policies=policies)

    def token(self, digest: str) -> Token | None:
        """Return the bearer token with this digest, also when it is revoked or has expired."""
        with self._store.reading() as tx:
            return tx.people.token_by_digest(digest)


# ------------------------------------------------------------------------------------------------------ values


def _silent(tx: Transaction) -> list[SilentShape]:
    return [
        {"source": name, "since": _text(stat.silent_since)}
        for name, stat in sorted(tx.sources.all().items())
        if stat.silent_since is not None
    ]


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, datetime) else value


def _values(row: Any, shape: Any, **more: Any) -> Any:
    """Return a row as a shape: the columns that have the names of its keys, and what is given besides."""
    mapping = columns(row)
    names = [name for name in shape.__annotations__ if name not in more]
    return {**{name: _plain(mapping[name]) for name in names if name in mapping}, **more}


def _inline(value: str) -> Any:
    """Return a text that is written into the statement, so that the planner can use a partial index."""
    return sa.bindparam(None, value, literal_execute=True)


def _count(tx: Transaction, table: sa.Table, *where: Any) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())


# ------------------------------------------------------------------------------------------------------ status


def _open_watches(tx: Transaction) -> list[OpenWatchShape]:
    watch = schema.watch
    statement = sa.select(watch).where(watch.c.state == _inline("OPEN")).order_by(watch.c.until).limit(MAX_HELD)
    return [_values(row, OpenWatchShape) for row in tx.execute(statement)]


def _event_counts(tx: Transaction) -> EventCounts:
    pending = _event.c.state == _inline("PENDING")
    oldest = tx.execute(sa.select(_event.c.received_at).where(pending).order_by(_event.c.id).limit(1)).scalar()
    return {
        "pending": _count(tx, _event, pending),
        "oldest_pending_at": _plain(oldest),
        "dead": _count(tx, _event, _event.c.state == _inline("DEAD")),
    }


def _open_in(*wanted: str) -> Any:
    return (
        sa.select(_run)
        .where(_run.c.finished_at.is_(None), _run.c.state.in_(wanted))
        .order_by(_run.c.id)
        .limit(MAX_HELD)
    )


def _summary(row: Any) -> RunSummary:
    found: RunSummary = _values(row, RunSummary, final=row.state in RUN.final)
    return found


def _summaries(tx: Transaction, statement: Any) -> list[RunSummary]:
    return [_summary(row) for row in tx.execute(statement)]


def _active(tx: Transaction) -> list[ActiveRunShape]:
    runs = _summaries(
        tx,
        _open_in(*(state for state in RUN.states if state not in (*RUN.final, "AWAITING_APPROVAL"))),
    )
    jobs: dict[str, dict[str, int]] = {run["id"]: {} for run in runs}
    counted = (
        sa.select(_job.c.run_id, _job.c.state, sa.func.count().label("number"))
        .where(_job.c.run_id.in_(list(jobs)))
        .group_by(_job.c.run_id, _job.c.state)
    )
    for row in tx.execute(counted) if jobs else ():
        jobs[row.run_id][row.state] = row.number
    return [{**run, "jobs": jobs[run["id"]]} for run in runs]


def _recent(tx: Transaction, limit: int = 5) -> list[RunSummary]:
    newest = _summaries(tx, sa.select(_run).order_by(_run.c.id.desc()).limit(limit + MAX_HELD))
    return list(islice((run for run in newest if run["final"]), limit))


def _held_now(tx: Transaction, *where: Any) -> list[HeldShape]:
    """Return what policies hold: first what has a time, the soonest first, then what waits for something else."""
    held = sa.select(_state).where(_state.c.stage.is_not(None), *where)
    rows = tx.execute(held.order_by(_state.c.due_at.is_(None), _state.c.due_at).limit(MAX_HELD)).all()
    return [_held_shape(tx, row) for row in rows]


def _held_shape(tx: Transaction, row: Any) -> HeldShape:
    newest = (
        sa.select(_decision.c.key, _decision.c.reason, _decision.c.kind)
        .where(_decision.c.model == row.model, _decision.c.policy == row.policy)
        .order_by(_decision.c.id.desc())
        .limit(MAX_DECISIONS)
    )
    reason = next((d.reason for d in tx.execute(newest) if d.key == row.key and d.kind == "HOLD"), "")
    found: HeldShape = _values(
        row,
        HeldShape,
        since=_plain(row.held_since),
        count=row.held_count,
        until=_plain(row.due_at),
        reason=reason,
    )
    return found


def _pauses(tx: Transaction) -> list[PauseShape]:
    return [
        {
            "scope": p.scope,
            "target": p.target,
            "actor": p.actor,
            "reason": p.reason,
            "at": _text(p.at),
        }
        for p in tx.people.pauses()
    ]


# -------------------------------------------------------------------------------------------------------- runs


def _run_shape(tx: Transaction, run_id: str) -> RunShape:
    row = tx.execute(sa.select(_run).where(_run.c.id == run_id)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}")
    jobs = _jobs(tx, run_id)
    versions = _versions(tx, _version.c.run_id == run_id)
    promotions = _promotions(tx, _promotion.c.run_id == run_id)
    entities = [run_id, *(j["id"] for j in jobs), *(v["id"] for v in versions)]
    for promotion in promotions:
        entities += [
            promotion["id"],
            *(f"{promotion['id']}-{step['position']}" for step in promotion["steps"]),
        ]
    watch = watch_of(tx, run_id)
    entities += [watch["id"]] if watch is not None else []
    causes = _causes(tx, run_id)
    champion = _versions(tx, _version.c.id == row.champion_id) if row.champion_id else []
    more: dict[str, Any] = {
        "final": row.state in RUN.final,
        "champion": champion[0] if champion else None,
        "causes": causes,
        "cause_count": _count(tx, _cause, _cause.c.run_id == run_id),
        "press": _press(tx, causes),
        "decisions": _decisions_of_run(tx, row, causes),
        "jobs": jobs,
        "verdict": _verdict(tx, run_id),
        "versions": versions,
        "promotions": promotions,
        "acts": _acts(tx, run_id),
        "watch": watch,
        "history": _history(tx, entities),
    }
    found: RunShape = _values(row, RunShape, **more)
    return found


def _causes(tx: Transaction, run_id: str) -> list[CauseShape]:
    statement = (
        sa.select(_cause, _event.c.source, _event.c.source_id)
        .outerjoin(_event, _event.c.id == _cause.c.event_id)
        .where(_cause.c.run_id == run_id)
        .order_by(_cause.c.position)
        .limit(MAX_CAUSES)
    )
    return [_values(row, CauseShape) for row in tx.execute(statement)]


def _press(tx: Transaction, causes: Sequence[CauseShape]) -> PressShape | None:
    pressed = next((c for c in causes if c["origin"] == PERSON_ORIGIN and c["event_id"]), None)
    event = None if pressed is None else tx.events.get(str(pressed["event_id"]))
    if event is None:
        return None
    data = event.data if isinstance(event.data, dict) else {}
    return {
        "event_id": event.id,
        "actor": str(data.get("actor", "")),
        "reason": str(data.get("reason") or ""),
        "params": data.get("params") or {},
        "at": _text(event.received_at),
    }


def _decisions_of_run(tx: Transaction, run: Any, causes: Sequence[CauseShape]) -> list[DecisionShape]:
    """Return the decisions that fired, and before them what the policy said of the first causes when they came."""
    first = _decisions(tx, _decision.c.id == run.decision_id)
    joined = _decisions(tx, _decision.c.run_id == run.id)
    events = [cause["event_id"] for cause in causes[:10] if cause["event_id"]]
    before = [
        decision
        for decision in (_decisions(tx, _decision.c.event_id.in_(events)) if events else [])
        if decision["model"] == run.model and decision["run_id"] is None and decision["id"] < run.decision_id
    ]
    return [*before, *first, *(d for d in joined if d["id"] != run.decision_id)]


def _decisions(tx: Transaction, *where: Any, limit: int = MAX_DECISIONS) -> list[DecisionShape]:
    """Return the newest decisions, oldest first."""
    statement = sa.select(_decision).where(*where).order_by(_decision.c.id.desc()).limit(limit)
    return [_values(row, DecisionShape) for row in reversed(tx.execute(statement).all())]


def _jobs(tx: Transaction, run_id: str) -> list[JobShape]:
    results = {
        row.job_id: row.document
        for row in tx.execute(
            sa.select(schema.result).join(_job, _job.c.id == schema.result.c.job_id).where(_job.c.run_id == run_id)
        )
    }
    found: list[JobShape] = []
    for row in tx.execute(sa.select(_job).where(_job.c.run_id == run_id).order_by(_job.c.id)).all():
        document = results.get(row.id)
        rest = (
            None
            if document is None
            else {k: v for k, v in document.items() if k not in ("metrics", "champion_metrics")}
        )
        found.append(
            _values(
                row,
                JobShape,
                attempts=_attempts(tx, row.id),
                metrics=None if document is None else document.get("metrics"),
                champion_metrics=None if document is None else document.get("champion_metrics"),
                result=rest,
            )
        )
    return found


def _attempts(tx: Transaction, job_id: str) -> list[AttemptShape]:
    statement = sa.select(_attempt).where(_attempt.c.job_id == job_id).order_by(_attempt.c.number)
    return [_values(row, AttemptShape) for row in tx.execute(statement)]


def _verdict(tx: Transaction, run_id: str) -> VerdictShape | None:
    row = tx.execute(sa.select(schema.verdict).where(schema.verdict.c.run_id == run_id)).first()
    return None if row is None else _values(row, VerdictShape)


def _acts(tx: Transaction, target: str) -> list[ActShape]:
    statement = sa.select(schema.act).where(schema.act.c.target == target).order_by(schema.act.c.id).limit(MAX_CAUSES)
    return [_values(row, ActShape) for row in tx.execute(statement)]


def _history(tx: Transaction, entities: Sequence[str]) -> list[HistoryShape]:
    history = schema.history
    statement = sa.select(history).where(history.c.entity.in_(entities)).order_by(history.c.seq)
    return [_values(row, HistoryShape) for row in tx.execute(statement)]


# ------------------------------------------------------------------------------------------------------ events


def _events(
    tx: Transaction,
    *,
    origin: str | None,
    kind: str | None,
    state: str | None,
    limit: int,
    before: str | None,
) -> EventPage:
    newest = sa.select(_event.c.id, _event.c.origin, _event.c.type).order_by(_event.c.id.desc())
    if before is not None:
        newest = newest.where(_event.c.id < before)
    if state in ("PENDING", "DEAD"):
        newest = newest.where(_event.c.state == _inline(state))
    elif state is not None:
        newest = newest.where(_event.c.state == state)
    filtered = origin is not None or kind is not None
    window = tx.execute(newest.limit(WINDOW if filtered else limit + 1)).all()
    wanted = [row.id for row in window if origin in (None, row.origin) and kind in (None, row.type)][: limit + 1]
    page = wanted[:limit]
    rows = {row.id: row for row in tx.execute(sa.select(_event).where(_event.c.id.in_(page)))} if page else {}
    items: list[EventSummary] = [_values(rows[event_id], EventSummary) for event_id in page if event_id in rows]
    following = page[-1] if len(wanted) > limit else None
    if following is None and filtered and len(window) == WINDOW:
        following = window[-1].id
    return {"items": items, "next": following}


def _event_shape(tx: Transaction, event_id: str) -> EventShape:
    event = _event_or_remnant(tx, event_id)
    decisions = _decisions(tx, _decision.c.event_id == event_id)
    runs = _summaries(
        tx,
        sa.select(_run)
        .join(_cause, _cause.c.run_id == _run.c.id)
        .where(_cause.c.event_id == event_id)
        .order_by(_run.c.id),
    )
    held = _held_for(tx, event_id, decisions)
    known = {decision["run_id"] for decision in decisions}
    ours = [_decisions(tx, _decision.c.run_id == run["id"], limit=1) for run in runs if run["id"] not in known]
    later = [decision for found in ours for decision in found]
    if not runs and not held:
        ended = (_next_after(tx, decision, event_id) for decision in decisions if decision["kind"] == "HOLD")
        later += [decision for decision in ended if decision is not None]
    unique = {decision["id"]: decision for decision in later if decision["event_id"] != event_id}
    episode = tx.episodes.of_event(event)
    values = {name: _plain(getattr(event, name)) for name in EventShape.__annotations__ if hasattr(event, name)}
    found: Any = dict(
        values,
        episode=None if episode is None else _episode_shape(episode),
        decisions=decisions,
        later=list(unique.values()),
        held=held,
        runs=runs,
        history=_history(tx, [event_id]),
    )
    return found  # type: ignore[no-any-return]  # its keys are the shape's own


def _event_or_remnant(tx: Transaction, event_id: str) -> Event:
    event = tx.events.get(event_id) or remnant(tx, event_id)
    if event is None:
        raise NotFound(f"there is no event {event_id!r}", hint=hint_of(tx, event_id))
    return event


def _held_for(tx: Transaction, event_id: str, decisions: Sequence[DecisionShape]) -> list[HeldShape]:
    """Return the policies that still hold this event among their causes."""
    found = []
    for model, policy, key in dict.fromkeys((d["model"], d["policy"], d["key"]) for d in decisions):
        group = (_held.c.model == model, _held.c.policy == policy, _held.c.key == key)
        if tx.execute(sa.select(_held.c.event_id).where(*group, _held.c.event_id == event_id)).first() is None:
            continue
        state = sa.select(_state).where(_state.c.model == model, _state.c.policy == policy, _state.c.key == key)
        if (row := tx.execute(state).first()) is not None:
            shape = _held_shape(tx, row)
            found.append({**shape, "stage": shape["stage"] or "count"})
    return found  # type: ignore[return-value]  # a dict display with ** loses the name of its type


def _episode_shape(episode: Episode) -> EpisodeShape:
    found: Any = {name: _plain(getattr(episode, name)) for name in EpisodeShape.__annotations__}
    return found  # type: ignore[no-any-return]  # its keys are the shape's own


def _next_after(tx: Transaction, decision: DecisionShape, event_id: str) -> DecisionShape | None:
    """Return the decision that ended what this one held of an event."""
    following = (
        sa.select(_decision)
        .where(
            _decision.c.model == decision["model"],
            _decision.c.policy == decision["policy"],
            _decision.c.id > decision["id"],
        )
        .order_by(_decision.c.id)
        .limit(1000)
    )
    rows = (r for r in tx.execute(following) if r.key == decision["key"] and r.kind != "HOLD")
    row = next((r for r in rows if not _lets_go_of_another(r, event_id)), None)
    return None if row is None else _values(row, DecisionShape)


def _lets_go_of_another(row: Any, event_id: str) -> bool:
    """Say whether a decision only let go of the cause of another event, whose episode was resolved."""
    return row.stage == "episode" and bool(row.trace[-1]["facts"].get("let_go", event_id) != event_id)


# ------------------------------------------------------------------------------------------------------ models


def _versions(tx: Transaction, *where: Any) -> list[VersionShape]:
    statement = sa.select(_version).where(*where).order_by(_version.c.number.desc()).limit(MAX_CAUSES)
    return [_values(row, VersionShape) for row in tx.execute(statement)]


def _promotions(tx: Transaction, *where: Any) -> list[PromotionShape]:
    statement = sa.select(_promotion).where(*where).order_by(_promotion.c.id.desc()).limit(MAX_HELD)
    return [_values(row, PromotionShape, steps=_steps(tx, row.id)) for row in tx.execute(statement).all()]


def _steps(tx: Transaction, promotion_id: str) -> list[StepShape]:
    statement = sa.select(_step).where(_step.c.promotion_id == promotion_id).order_by(_step.c.position)
    return [_values(row, StepShape) for row in tx.execute(statement)]


def _models(tx: Transaction, configured: Iterable[str] = ()) -> list[ModelSummary]:
    known = {row.name: row for row in tx.execute(sa.select(schema.model)).all()}
    return [_model_summary(tx, name, known.get(name)) for name in sorted({*known, *configured})]


def _model_summary(tx: Transaction, name: str, row: Any) -> ModelSummary:
    champion = _versions(tx, _version.c.id == row.champion_id) if row is not None and row.champion_id else []
    last = _summaries(tx, sa.select(_run).where(_run.c.model == name).order_by(_run.c.id.desc()).limit(1))
    return {
        "name": name,
        "champion": champion[0] if champion else None,
        "epoch": 0 if row is None else row.epoch,
        "promotion_held": row is not None and row.promotion_held,
        "held_until": None if row is None else _plain(row.held_until),
        "held_reason": "" if row is None else row.held_reason,
        "last_run": last[0] if last else None,
    }


def _model_shape(tx: Transaction, name: str, configured: Iterable[str]) -> ModelShape:
    row = tx.execute(sa.select(schema.model).where(schema.model.c.name == name)).first()
    if row is None and name not in set(configured):
        raise NotFound(f"there is no model {name!r}")
    runs = sa.select(_run).where(_run.c.model == name).order_by(_run.c.id.desc()).limit(10)
    pauses = [p for p in _pauses(tx) if p["scope"] == "all" or p["target"].partition("/")[0] == name]
    return {
        **_model_summary(tx, name, row),
        "versions": _versions(tx, _version.c.model == name),
        "promotions": _promotions(tx, _promotion.c.model == name),
        "runs": _summaries(tx, runs),
        "held": _held_now(tx, _state.c.model == name),
        "pauses": pauses,
        "tallies": _tallies(tx, name),
        "decisions": _last_decisions(tx, name),
    }


def _tallies(tx: Transaction, model: str) -> list[TallyShape]:
    tally = schema.tally
    statement = sa.select(tally).where(tally.c.model == model).order_by(tally.c.policy, tally.c.outcome)
    return [_values(row, TallyShape) for row in tx.execute(statement)]


def _last_decisions(tx: Transaction, model: str) -> list[DecisionShape]:
    known = schema.policy_version
    names = tx.execute(sa.select(known.c.policy).where(known.c.model == model).distinct()).scalars()
    last = [
        _decisions(tx, _decision.c.model == model, _decision.c.policy == policy, limit=1)
        for policy in sorted({*names, "manual"})
    ]
    return sorted((d for found in last for d in found), key=lambda decision: decision["id"], reverse=True)
