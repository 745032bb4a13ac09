"""Reads history: events in pages, runs with what led to them, and what persons changed; for a backtest, a replay, an export.

Every page is a transaction of its own, so that a long reading holds nothing up: neither SQLite's write-ahead log nor a connection.
Ids sort by the time of storing, so a span of time is a range of the primary key, and no other index is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from controller.clock import floor_id
from controller.core.episode import Episode
from controller.core.model import EVENT_ID, Event, Json
from controller.core.past import Change, PastRun
from controller.store import pruning, schema
from controller.store.rows import record
from controller.store.store import Store, Transaction

#: Events and runs that one page holds.
PAGE = 1000
#: … and so many bytes of their data, or the one event that goes beyond.
MOST_BYTES = 32 << 20
#: Replicas' clocks differ, and an id is made a moment before or after its row's time.
_SLACK = timedelta(hours=1)

_event = schema.event
_run = schema.run
_cause = schema.run_cause
_version = schema.version
_promotion = schema.promotion

_COLUMNS = "id, origin, source, source_id, type, subject, time, received_at, data, extensions"
# Plain SQL, as in `bulk.py` and for its reasons: a backtest reads millions of them. One page is no more than may be in memory at once.
_PAGE = (
    f"SELECT {_COLUMNS}, total - size AS before FROM (SELECT {_COLUMNS}, {{size}} AS size, "  # noqa: S608 - constants
    f"sum({{size}}) OVER (ORDER BY id) AS total FROM (SELECT {_COLUMNS} FROM event "
    "WHERE id > {mark} AND id < {mark} ORDER BY id LIMIT {mark}) AS page) AS summed"
)
_PAGE_POSTGRESQL = (
    f"SELECT {_COLUMNS} FROM ({_PAGE.format(size='coalesce(octet_length(data), 0)', mark='%s')}) AS found "  # noqa: S608
    "WHERE before <= %s ORDER BY id"
)
_PAGE_SQLITE = (
    "SELECT json_group_array(json_array(id, origin, source, source_id, type, subject, time, received_at, json(data), json(extensions))) "  # noqa: S608
    f"FROM ({_PAGE.format(size='coalesce(length(data), 0)', mark='?')}) WHERE before <= ?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OF_CAUSES = (
    sa.select(_run)
    .where(
        _run.c.id.in_(
            sa.select(_cause.c.run_id).where(_cause.c.event_id.in_(sa.bindparam("event_ids", expanding=True)))
        ),
        _run.c.model == sa.bindparam("model"),
        _run.c.policy == sa.bindparam("policy"),
    )
    .order_by(_run.c.id)
)
_NEAR = (
    sa.select(_run)
    .where(
        _run.c.model == sa.bindparam("model"),
        _run.c.policy == sa.bindparam("policy"),
        _run.c.decided_at >= sa.bindparam("since", type_=_run.c.decided_at.type),
        _run.c.decided_at <= sa.bindparam("until", type_=_run.c.decided_at.type),
    )
    .order_by(_run.c.id)
)
#: Causes of a run that are looked for in the record.
_MOST_CAUSES = 500


class Past:
    """What a store knows of the past."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def first_at(self) -> datetime | None:
        """Return when the first event came in; None when none did."""
        with self._store.reading() as tx:
            found: datetime | None = tx.execute(sa.select(_event.c.received_at).order_by(_event.c.id).limit(1)).scalar()
            return found

    def whole_since(self) -> datetime | None:
        """Return from when on the events are all here with their data; None when retention never let go of any."""
        with self._store.reading() as tx:
            gone = pruning.gone(tx)
        return max((gone[name].cutoff for name in ("events", "bodies") if name in gone), default=None)

    def events(
        self, since: datetime, until: datetime, *, origin: str | None = None, kind: str | None = None
    ) -> Iterator[list[Event]]:
        """Yield the events that came in from `since` on and before `until`, in the order of storing, in pages."""
        after, end = floor_id(EVENT_ID, since - _SLACK), floor_id(EVENT_ID, until + _SLACK)
        while True:
            with self._store.reading() as tx:
                page = _page(tx, after, end)
            if not page:
                return
            after = page[-1].id
            wanted = [
                event
                for event in page
                if since <= event.received_at < until and origin in (None, event.origin) and kind in (None, event.type)
            ]
            if wanted:
                yield wanted

    # ---- runs

    def runs(self, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[PastRun]:
        """Yield the runs that were decided from `since` on and before `until`, in their order."""
        after = ""
        while True:
            statement = sa.select(_run).where(_run.c.id > after).order_by(_run.c.id).limit(PAGE)
            with self._store.reading() as tx:
                rows = tx.execute(statement).all()
                found = _past(tx, rows)
            if not rows:
                return
            after = rows[-1].id
            for run in found:
                if (since is None or run.decided_at >= since) and (until is None or run.decided_at < until):
                    yield run

    def of_causes(self, model: str, policy: str, event_ids: Sequence[str]) -> list[PastRun]:
        """Return the runs of a policy that any of these events led to."""
        if not event_ids:
            return []
        values = {"model": model, "policy": policy, "event_ids": list(event_ids[:_MOST_CAUSES])}
        with self._store.reading() as tx:
            return _past(tx, tx.execute(_OF_CAUSES, values).all())

    def near(self, model: str, policy: str, at: datetime, within: timedelta) -> list[PastRun]:
        """Return the runs of a policy that were decided about an instant."""
        values = {"model": model, "policy": policy, "since": at - within, "until": at + within}
        with self._store.reading() as tx:
            return _past(tx, tx.execute(_NEAR, values).all())

    # ---- what else there was

    def changes(self, models: Sequence[str], since: datetime, until: datetime) -> list[Change]:
        """Return what persons changed up to an instant: pauses from the beginning on, champions that no run of ours made.

        For each model the champion that served at `since` comes first, as if it had been made so when it was.
        """
        with self._store.reading() as tx:
            return sorted([*_pauses(tx, until), *_champions(tx, models, since, until)], key=lambda change: change.at)

    def open_episodes(self, at: datetime) -> list[Episode]:
        """Return the episodes that were open at an instant, as they were then."""
        episode = schema.episode
        statement = sa.select(episode).where(
            episode.c.opened_at < at,
            episode.c.event_id.is_not(None),
            sa.or_(episode.c.finished_at.is_(None), episode.c.finished_at >= at),
        )
        with self._store.reading() as tx:
            found = [record(Episode, row) for row in tx.execute(statement)]
        return [
            replace(
                each,
                state="OPEN",
                cause="opened",
                finished_at=None,
                seen_at=min(each.seen_at, at),
                expires_at=_expiry(each, at),
            )
            for each in found
        ]

    def last_fires(self, before: datetime) -> list[tuple[str, str, str, datetime]]:
        """Return when each (model, policy, key) fired last before an instant."""
        decision = schema.decision
        statement = (
            sa.select(decision.c.model, decision.c.policy, decision.c.key, sa.func.max(decision.c.at).label("at"))
            .where(decision.c.kind == "FIRE", decision.c.at < before)
            .group_by(decision.c.model, decision.c.policy, decision.c.key)
        )
        with self._store.reading() as tx:
            return [(row.model, row.policy, row.key, row.at) for row in tx.execute(statement)]

    def configuration(self) -> Mapping[str, Json] | None:
        """Return the normal form of the configuration that was activated last; None when none was."""
        config = schema.config_version
        statement = sa.select(config.c.body).order_by(config.c.activated_at.desc(), config.c.version).limit(1)
        with self._store.reading() as tx:
            found: Mapping[str, Json] | None = tx.execute(statement).scalar()
            return found


def _page(tx: Transaction, after: str, end: str) -> list[Event]:
    """Return the next events behind an id, in their order."""
    values = (after, end, PAGE, MOST_BYTES)
    if tx.dialect == "postgresql":
        rows = tx.connection.exec_driver_sql(_PAGE_POSTGRESQL, values).all()
        found = [(*row[:8], None if row[8] is None else json.loads(row[8]), json.loads(row[9])) for row in rows]
    else:
        found = json.loads(tx.connection.exec_driver_sql(_PAGE_SQLITE, values).scalar_one())
    return [
        Event(
            id=row[0],
            origin=row[1],
            source=row[2],
            source_id=row[3],
            type=row[4],
            subject=row[5],
            time=_EPOCH + timedelta(microseconds=row[6]),
            received_at=_EPOCH + timedelta(microseconds=row[7]),
            data=row[8],
            extensions=row[9],
        )
        for row in found
    ]


def _expiry(episode: Episode, at: datetime) -> datetime:
    patience = timedelta(seconds=episode.expires_after_seconds)
    if episode.state == "EXPIRED" and episode.finished_at is not None:
        return episode.finished_at
    return max(episode.expires_at or at + patience, at)


def _past(tx: Transaction, rows: Sequence[Any]) -> list[PastRun]:
    ids = [row.id for row in rows]
    if not ids:
        return []
    counts = {
        row.run_id: int(row.causes)
        for row in tx.execute(
            sa.select(_cause.c.run_id, sa.func.count().label("causes"))
            .where(_cause.c.run_id.in_(ids))
            .group_by(_cause.c.run_id)
        )
    }
    metrics = {
        row.run_id: row.metrics
        for row in tx.execute(
            sa.select(_version.c.run_id, _version.c.metrics).where(
                _version.c.run_id.in_(ids), _version.c.promoted_at.is_not(None)
            )
        )
    }
    return [
        replace(record(PastRun, row), cause_count=counts.get(row.id, 0), metrics=metrics.get(row.id, {}))
        for row in rows
    ]


def _pauses(tx: Transaction, until: datetime) -> list[Change]:
    act = schema.act
    statement = sa.select(act).where(act.c.verb.in_(("pause", "resume")), act.c.at < until).order_by(act.c.id)
    return [
        Change(at=row.at, kind=row.verb, target=row.target, actor=row.actor, reason=row.reason)
        for row in tx.execute(statement)
    ]


def _champions(tx: Transaction, models: Sequence[str], since: datetime, until: datetime) -> list[Change]:
    statement = (
        sa.select(_promotion.c.kind, _promotion.c.finished_at, _promotion.c.actor, _version)
        .join(_version, _version.c.id == _promotion.c.version_id)
        .where(_promotion.c.state == "APPLIED", _promotion.c.finished_at < until)
        .order_by(_promotion.c.id)
    )
    first: dict[str, Change] = {}
    later: list[Change] = []
    for row in tx.execute(statement):
        if row.model not in models:
            continue
        change = Change(
            at=row.finished_at,
            kind="champion",
            target=row.model,
            actor=row.actor,
            version_id=row.id,
            number=row.number,
            artifact=row.artifact,
            metrics=row.metrics,
        )
        if change.at < since:
            first[row.model] = change
        elif row.kind != "promoted":
            later.append(change)
    return [*first.values(), *later]
