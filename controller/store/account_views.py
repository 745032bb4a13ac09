"""What an account needs beside the shapes: how a policy stands, what an event touched, which configuration was in force when.

Everything goes along an index or is bounded, because accounts are asked for while the daemon works on a database that grows.
`api/why.py` asks; nothing here writes, and nothing here concludes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from controller.clock import floor_id
from controller.core.chain import PolicyState
from controller.core.episode import Episode
from controller.core.explain import Standing
from controller.core.model import DECISION_ID, RUN_ID, WATCH_ID, Cause, Champion, Event, Json, Pause
from controller.core.on import traits
from controller.core.policy import ModelSpec, Policy
from controller.core.shapes import DecisionShape, HistoryShape, PauseShape, RunSummary, TallyShape
from controller.core.states import RUN
from controller.errors import NotFound
from controller.store import schema
from controller.store.people import CONFIGURATION
from controller.store.remnants import remnant
from controller.store.rows import columns, record
from controller.store.store import Readable, Transaction

#: Decisions of a policy among which those of one key are looked for, the newest.
WINDOW = 2_000
#: Causes, keys and watches that are shown.
MOST_CAUSES = 10
MOST_KEYS = 50
#: A watch is open for days; one that was opened longer before an event than this has nothing to do with it …
_LONGEST_WATCH = timedelta(days=90)
#: … and of the others the newest are looked at.
_MOST_WATCHES = 1_000
#: Ids are made a moment before or after the time of their rows.
_SLACK = timedelta(minutes=1)
#: Decisions on events that say nothing of what a matching event would do.
_ABOUT_NO_OCCASION = ("match", "when", "episode", "policy", "press")

_state, _held, _decision = schema.policy_state, schema.held_cause, schema.decision
_run, _cause, _watch = schema.run, schema.run_cause, schema.watch
_version, _history, _act = schema.policy_version, schema.history, schema.act

_STATE = sa.select(_state).where(
    _state.c.model == sa.bindparam("model"),
    _state.c.policy == sa.bindparam("policy"),
    _state.c.key == sa.bindparam("key"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InForce:
    """The configuration that was in force at an instant."""

    version: str
    since: datetime
    #: Who loaded it.
    actor: str
    #: False: its activation is not recorded, only that this version was the last to be seen by then.
    is_certain: bool


class AccountViews:
    """What `why` asks of the database beside the shapes."""

    _store: Readable

    def now(self) -> datetime:
        """Return the present instant, as the store sees it."""
        with self._store.reading() as tx:
            return tx.now

    # ------------------------------------------------------------------------------------------ how policies stand

    def standings(
        self, models: Mapping[str, ModelSpec], places: Sequence[tuple[Policy, str]], *, whole: bool = False
    ) -> list[Standing]:
        """Return what policies remember for their keys, and what they would be told now.

        `whole` adds what they collected and the last event that each decided on.
        """
        with self._store.reading() as tx:
            world = _world(tx, [policy for policy, _ in places])
            return [_standing(tx, models, policy, key, world=world, whole=whole) for policy, key in places]

    def keys(self, model: str, policy: str, *, limit: int = MOST_KEYS) -> tuple[list[dict[str, Json]], int]:
        """Return what a policy remembers, by key, the newest change first, and how many keys there are."""
        mine = (_state.c.model == model, _state.c.policy == policy)
        newest = sa.select(_state).where(*mine).order_by(_state.c.updated_at.desc(), _state.c.key).limit(limit)
        with self._store.reading() as tx:
            rows = tx.execute(newest).all()
            reasons = _hold_reasons(tx, model, policy)
            count = int(tx.execute(sa.select(sa.func.count()).select_from(_state).where(*mine)).scalar_one())
        return [_key_shape(row, reasons.get(row.key, "")) for row in rows], count

    def held_keys(self, model: str, *, limit: int) -> list[tuple[str, str]]:
        """Return (policy, key) of what a model's policies hold, what is due first, first."""
        held = (
            sa.select(_state.c.policy, _state.c.key)
            .where(_state.c.model == model, _state.c.stage.is_not(None))
            .order_by(_state.c.due_at.is_(None), _state.c.due_at)
            .limit(limit)
        )
        with self._store.reading() as tx:
            return [(row.policy, row.key) for row in tx.execute(held)]

    def last_key(self, model: str, policy: str) -> str:
        """Return the key of the last event that a policy decided on as an occasion; empty when there was none."""
        with self._store.reading() as tx:
            found = _newest(tx, model, policy, limit=1, events_only=True)
        return found[0]["key"] if found else ""

    def has_state(self, model: str, policy: str, key: str) -> bool:
        """Say whether a policy remembers anything, or decided anything lately, for a key."""
        with self._store.reading() as tx:
            if tx.policies.state(model, policy, key) is not None:
                return True
            return bool(_newest(tx, model, policy, key=key, limit=1))

    def decisions_of(
        self, model: str, policy: str, *, key: str | None = None, until: datetime | None = None, limit: int = 20
    ) -> list[DecisionShape]:
        """Return the newest decisions of a policy, made by an instant, oldest first; those of one key among the newest `WINDOW`."""
        with self._store.reading() as tx:
            return list(reversed(_newest(tx, model, policy, key=key, until=until, limit=limit)))

    def open_runs(self, model: str) -> list[RunSummary]:
        """Return the runs of a model that have not ended, the oldest first."""
        statement = sa.select(_run).where(_run.c.finished_at.is_(None), _run.c.model == model).order_by(_run.c.id)
        with self._store.reading() as tx:
            return [_summary(row) for row in tx.execute(statement.limit(MOST_KEYS))]

    def runs_until(
        self, model: str, until: datetime, *, limit: int = 10
    ) -> list[tuple[RunSummary, list[HistoryShape]]]:
        """Return a model's newest runs that were decided by an instant, with their changes of state."""
        statement = (
            sa.select(_run)
            .where(_run.c.model == model, _run.c.id < floor_id(RUN_ID, until + _SLACK), _run.c.decided_at <= until)
            .order_by(_run.c.id.desc())
            .limit(limit)
        )
        with self._store.reading() as tx:
            rows = tx.execute(statement).all()
            found = _histories(tx, [row.id for row in rows])
            return [(_summary(row), found.get(row.id, [])) for row in rows]

    def histories(self, entities: Collection[str]) -> dict[str, list[HistoryShape]]:
        """Return the changes of state of each of these things, in order."""
        with self._store.reading() as tx:
            return _histories(tx, entities)

    def pauses_of(self, targets: Sequence[str]) -> list[PauseShape]:
        """Return the pauses of these targets that count now."""
        with self._store.reading() as tx:
            pauses = tx.people.pauses()
        return [
            {
                "scope": each.scope,
                "target": each.target,
                "actor": each.actor,
                "reason": each.reason,
                "at": _text(each.at),
            }
            for each in pauses
            if each.target in targets
        ]

    def tallies(self, model: str, policy: str) -> list[TallyShape]:
        """Return how many events ended at each of a policy's first stages."""
        tally = schema.tally
        statement = sa.select(tally).where(tally.c.model == model, tally.c.policy == policy).order_by(tally.c.outcome)
        with self._store.reading() as tx:
            return [_shape(row, TallyShape) for row in tx.execute(statement)]

    def pauses_until(self, targets: Sequence[str], until: datetime) -> list[PauseShape]:
        """Return the pauses of these targets that somebody had begun and nobody ended by an instant, as the acts say."""
        found: list[PauseShape] = []
        with self._store.reading() as tx:
            for target in targets:
                row = tx.execute(
                    sa.select(_act)
                    .where(_act.c.target == target, _act.c.verb.in_(("pause", "resume")), _act.c.at <= until)
                    .order_by(_act.c.id.desc())
                    .limit(1)
                ).first()
                if row is not None and row.verb == "pause":
                    scope = "all" if not target else "policy" if "/" in target else "model"
                    pause: PauseShape = {
                        "scope": scope,
                        "target": target,
                        "actor": row.actor,
                        "reason": row.reason,
                        "at": _text(row.at),
                    }
                    found.append(pause)
        return found

    def champions(self, models: Iterable[str]) -> dict[str, Champion]:
        """Return the champions of these models, as policies see them."""
        with self._store.reading() as tx:
            found = {name: tx.models.champion(name) for name in dict.fromkeys(models)}
        return {name: champion for name, champion in found.items() if champion is not None}

    # ---------------------------------------------------------------------------------------- what an event touched

    def event_of(self, event_id: str) -> Event:
        """Return an event as policies see it; raises `NotFound`."""
        with self._store.reading() as tx:
            event = tx.events.get(event_id) or remnant(tx, event_id)
        if event is None:
            raise NotFound(f"there is no event {event_id!r}")
        return event

    def touched(self, event: Event) -> dict[str, Json]:
        """Return what else an event did: windows it counts in, runs it joined, watches it spoke of, and its source's duplicates."""
        with self._store.reading() as tx:
            statistics = tx.sources.all().get(event.origin)
            return {
                "windows": _windows(tx, event.id),
                "joined": _joined(tx, event.id),
                "watches": _watches(tx, event),
                "duplicates": 0 if statistics is None else statistics.duplicates,
            }

    # ------------------------------------------------------------------------------------------- what was in force

    def in_force(self, at: datetime) -> InForce | None:
        """Return the configuration that was in force at an instant; None when none is known."""
        recorded = (
            sa.select(_history.c.target, _history.c.at, _history.c.actor)
            .where(_history.c.entity == CONFIGURATION, _history.c.at <= at)
            .order_by(_history.c.seq.desc())
            .limit(1)
        )
        config = schema.config_version
        seen = (
            sa.select(config.c.version, config.c.activated_at, config.c.actor)
            .where(config.c.activated_at <= at)
            .order_by(config.c.activated_at.desc())
            .limit(1)
        )
        with self._store.reading() as tx:
            if (row := tx.execute(recorded).first()) is not None:
                return InForce(version=row.target, since=row.at, actor=row.actor, is_certain=True)
            if (row := tx.execute(seen).first()) is not None:
                return InForce(version=row.version, since=row.activated_at, actor=row.actor, is_certain=False)
            return None

    def configuration(self, version: str) -> Json:
        """Return the normal form of a configuration that was once active; None for an unknown one."""
        with self._store.reading() as tx:
            return tx.people.configuration(version)

    def known_since(self, versions: Iterable[str]) -> dict[str, datetime]:
        """Return since when each of these versions of policies is known."""
        statement = sa.select(_version).where(_version.c.version.in_(list(versions)))
        with self._store.reading() as tx:
            return {row.version: row.activated_at for row in tx.execute(statement)}


@dataclass(frozen=True, slots=True)
class _World:
    """What several policies are told alike."""

    pauses: Sequence[Pause]
    champions: Mapping[str, Champion | None]
    episodes: Sequence[Episode]
    domains: Mapping[str, str]


def _world(tx: Transaction, policies: Sequence[Policy]) -> _World:
    asks = any(_asks_for_episodes(policy) for policy in policies)
    return _World(
        pauses=tx.people.pauses(),
        champions={model: tx.models.champion(model) for model in {policy.model for policy in policies}},
        episodes=tx.episodes.open_of(None) if asks else [],
        domains=_domains(tx) if asks else {},
    )


def _asks_for_episodes(policy: Policy) -> bool:
    return traits(policy.on).asks_for_episodes or (policy.ready is not None and policy.ready.unless_open is not None)


def _standing(
    tx: Transaction,
    models: Mapping[str, ModelSpec],
    policy: Policy,
    key: str,
    *,
    world: _World,
    whole: bool,
) -> Standing:
    spec = models[policy.model]
    row = tx.execute(_STATE, {"model": policy.model, "policy": policy.name, "key": key}).first()
    state = None if row is None else record(PolicyState, row)
    targets = ("", spec.name, f"{spec.name}/{policy.name}")
    facts = tx.policies.facts(
        policy,
        key,
        champion=world.champions[policy.model],
        labels=spec.labels,
        pauses=[pause for pause in world.pauses if pause.target in targets],
        event=None,
        held=0 if state is None else state.held_count,
        sharing=_sharing(models, spec, policy),
    )
    if _asks_for_episodes(policy):
        facts = replace(facts, open_episodes=world.episodes, domains=world.domains)
    standing = Standing(
        policy=policy,
        key=key,
        state=state,
        facts=facts,
        now=tx.now,
        updated_at=None if row is None else row.updated_at,
    )
    return _filled(tx, standing) if whole else standing


def _domains(tx: Transaction) -> dict[str, str]:
    """Return the dedup domains of the sources that share one, as the configuration in force has them."""
    version = tx.execute(
        sa.select(_history.c.target).where(_history.c.entity == CONFIGURATION).order_by(_history.c.seq.desc()).limit(1)
    ).scalar()
    body = None if version is None else tx.people.configuration(version)
    sources = body.get("sources", {}) if isinstance(body, dict) else {}
    return {name: source["dedup_domain"] for name, source in sources.items() if source.get("dedup_domain")}


def _filled(tx: Transaction, standing: Standing) -> Standing:
    """Return how a policy stands, with what it collected and the last event that it decided on."""
    policy, key = standing.policy, standing.key
    mine = (_held.c.model == policy.model, _held.c.policy == policy.name, _held.c.key == key)
    newest = sa.select(_held).where(*mine).order_by(_held.c.event_id.desc()).limit(MOST_CAUSES)
    return replace(
        standing,
        causes=[record(Cause, each) for each in tx.execute(newest)],
        cause_count=int(tx.execute(sa.select(sa.func.count()).select_from(_held).where(*mine)).scalar_one()),
        last_event=_last_event(tx, policy.model, policy.name, key),
    )


def _sharing(models: Mapping[str, ModelSpec], spec: ModelSpec, policy: Policy) -> Sequence[str] | None:
    """Return the models that share the policy's budget by a label; None when it is no such budget."""
    if policy.budget is None or not policy.budget.scope.startswith("label:"):
        return None
    label = policy.budget.scope.removeprefix("label:")
    return [other.name for other in models.values() if other.labels.get(label) == spec.labels.get(label)]


def _newest(
    tx: Transaction,
    model: str,
    policy: str,
    *,
    key: str | None = None,
    until: datetime | None = None,
    limit: int,
    events_only: bool = False,
) -> list[DecisionShape]:
    """Return the newest decisions of a policy, the newest first."""
    where = [_decision.c.model == model, _decision.c.policy == policy]
    if until is not None:
        where.append(_decision.c.id < floor_id(DECISION_ID, until + _SLACK))
    window = sa.select(_decision.c.id).where(*where).order_by(_decision.c.id.desc()).limit(WINDOW).subquery()
    statement = sa.select(_decision).join(window, window.c.id == _decision.c.id)
    if key is not None:
        statement = statement.where(_decision.c.key == key)
    if until is not None:
        statement = statement.where(_decision.c.at <= until)
    if events_only:
        statement = statement.where(
            _decision.c.event_id.is_not(None),
            _decision.c.kind != "ERROR",
            _decision.c.stage.not_in(_ABOUT_NO_OCCASION),
        )
    rows = tx.execute(statement.order_by(_decision.c.id.desc()).limit(limit)).all()
    return [_shape(row, DecisionShape) for row in rows]


def _last_event(tx: Transaction, model: str, policy: str, key: str) -> Event | None:
    """Return the last event that a policy decided on as an occasion, under a key."""
    found = _newest(tx, model, policy, key=key, limit=1, events_only=True)
    return None if not found else tx.events.get(str(found[0]["event_id"]))


def _hold_reasons(tx: Transaction, model: str, policy: str) -> dict[str, str]:
    """Return why a policy holds what it holds, by key, as far as its newest decisions say."""
    window = (
        sa.select(_decision.c.key, _decision.c.kind, _decision.c.reason)
        .where(_decision.c.model == model, _decision.c.policy == policy)
        .order_by(_decision.c.id.desc())
        .limit(WINDOW)
    )
    found: dict[str, str] = {}
    for row in tx.execute(window):
        if row.kind == "HOLD":
            found.setdefault(row.key, row.reason)
    return found


def _key_shape(row: Any, reason: str) -> dict[str, Json]:
    return {
        "key": row.key,
        "stage": row.stage,
        "since": _plain(row.held_since),
        "count": row.held_count,
        "until": _plain(row.due_at),
        "waits_for": row.waits_for,
        "updated_at": _plain(row.updated_at),
        "reason": reason if row.stage is not None else "",
    }


def _windows(tx: Transaction, event_id: str) -> list[dict[str, Json]]:
    """Return the policies and keys that have collected an event, whether they hold it or only count it."""
    statement = (
        sa.select(_held.c.model, _held.c.policy, _held.c.key, _state.c.stage, _state.c.held_count)
        .outerjoin(
            _state,
            sa.and_(_state.c.model == _held.c.model, _state.c.policy == _held.c.policy, _state.c.key == _held.c.key),
        )
        .where(_held.c.event_id == event_id)
        .order_by(_held.c.model, _held.c.policy, _held.c.key)
        .limit(MOST_KEYS)
    )
    return [
        {"model": row.model, "policy": row.policy, "key": row.key, "stage": row.stage, "count": row.held_count or 0}
        for row in tx.execute(statement)
    ]


def _joined(tx: Transaction, event_id: str) -> dict[str, Json]:
    """Return the runs that an event joined after they were decided, with the decision that had queued each."""
    statement = (
        sa.select(_cause.c.run_id, _run.c.decision_id)
        .join(_run, _run.c.id == _cause.c.run_id)
        .where(_cause.c.event_id == event_id, _cause.c.decision_id != _run.c.decision_id)
        .order_by(_cause.c.run_id)
    )
    return {row.run_id: row.decision_id for row in tx.execute(statement)}


def _watches(tx: Transaction, event: Event) -> list[dict[str, Json]]:
    """Return the watches that an event spoke of: as evidence that it is worse, or because the signal came back with it."""
    opened = (floor_id(WATCH_ID, event.received_at - _LONGEST_WATCH), floor_id(WATCH_ID, event.received_at + _SLACK))
    statement = (
        sa.select(_watch)
        .where(_watch.c.id > opened[0], _watch.c.id < opened[1])
        .order_by(_watch.c.id.desc())
        .limit(_MOST_WATCHES)
    )
    return [
        {name: _plain(columns(row)[name]) for name in ("id", "run_id", "state", "reason", "samples", "needed")}
        for row in tx.execute(statement)
        if row.came_back == event.id or any(each["event_id"] == event.id for each in row.evidence)
    ]


def _histories(tx: Transaction, entities: Collection[str]) -> dict[str, list[HistoryShape]]:
    found: dict[str, list[HistoryShape]] = {}
    statement = sa.select(_history).where(_history.c.entity.in_(list(entities))).order_by(_history.c.seq)
    for row in tx.execute(statement) if entities else ():
        found.setdefault(row.entity, []).append(_shape(row, HistoryShape))
    return found


def _summary(row: Any) -> RunSummary:
    found: Any = {**_shape(row, RunSummary), "final": row.state in RUN.final}
    return found  # type: ignore[no-any-return]  # its keys are the shape's own


def _shape(row: Any, shape: Any) -> Any:
    """Return a row as a shape: the columns that have the names of its keys."""
    mapping = columns(row)
    return {name: _plain(mapping[name]) for name in shape.__annotations__ if name in mapping}


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, datetime) else value


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
