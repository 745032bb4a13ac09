"""Decides: what the policies conclude of the events and timers that wait, in one order, one transaction a batch.

Each decision sees the effects of the one before it. Decision, run, history and messages are written together, and the events are marked
with them. An event that cannot be decided for a reason of its own becomes a dead letter; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.config import Config
from controller.core.chain import Facts, PolicyState
from controller.core.conditions import event_scope
from controller.core.decide import (
    MANUAL,
    Conclusion,
    decide,
    decide_press,
    episode_resolved,
    policy_removed,
    refuse,
    refused_at,
    select,
    state_broken,
)
from controller.core.episode import Episode
from controller.core.model import (
    PERSON_ORIGIN,
    RETRAIN_REQUESTED,
    Cause,
    Champion,
    Decision,
    Event,
    Pause,
    Run,
)
from controller.core.policy import Leaf, MaxAge, ModelSpec, Policy
from controller.core.stages.count import event_time
from controller.engine.episodes import Episodes, log_episode
from controller.engine.runtime import Runtime, Ticked
from controller.errors import Conflict, StoreError
from controller.store import Transaction

BATCH = 1000
#: From so many events in a batch on, the next one is looked at ahead.
BUSY = 100
#: A level that could not be looked at is looked at again after this long.
AFTER_A_BROKEN_LOOK = timedelta(hours=1)


class Evaluator:
    """The loop that decides."""

    name = "evaluator"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_busy = False

    def tick(self, now: datetime) -> Ticked:
        """Decide on a batch of waiting events and due timers."""
        try:
            ahead = self._look_ahead() if self._is_busy else None
            worked, next_at = self._batch(events=BATCH, timers=BATCH, ahead=ahead)
            again = worked >= BATCH
            self._is_busy = worked >= BUSY
        except (StoreError, Conflict):
            raise
        except Exception as error:  # one bad event must not stop the others; it becomes a dead letter
            self._runtime.log.error("evaluator.batch_failed", error=repr(error), exc_info=True)
            worked, next_at, again = self._one_by_one(), None, True
        return Ticked(worked=worked, again=again, next_at=next_at)

    def _look_ahead(self) -> _Ahead:
        """Read the next events, and find out which policies refuse them at once, while others write.

        It costs a snapshot of its own, so it pays only when there is much to do. Nobody else decides, so what is pending stays so.
        """
        config = self._runtime.config
        with self._runtime.store.reading() as tx:
            pending = tx.events.pending(BATCH)
        return _Ahead(config, pending, [_glance(self._runtime, event) for event in pending])

    def _batch(self, *, events: int, timers: int, ahead: _Ahead | None = None) -> tuple[int, datetime | None]:
        """Decide on so many events and timers; return how many there were, and when the next timer is due."""
        if ahead is not None and ahead.config is not self._runtime.config:
            ahead = None  # a reload came in between
        # The numbers it takes are fenced by the term themselves, so the transaction need not ask twice.
        with self._runtime.store.transaction("decide", fenced=False) as tx:
            pending = ahead.events if ahead is not None else tx.events.pending(events) if events else []
            glances = ahead.glances if ahead is not None else [_glance(self._runtime, event) for event in pending]
            next_at = tx.policies.next_due()
            due = tx.policies.due(tx.now, timers) if timers and next_at is not None and next_at <= tx.now else []
            sitting = _Sitting(self._runtime, tx, pending, numbers=len(pending) + len(due))
            for event, glance in zip(pending, glances, strict=True):
                sitting.hear(event, glance)
            for model, policy, key in due:
                sitting.look(model, policy, key)
            sitting.close()
            if due or sitting.saved_states:
                next_at = tx.policies.next_due()
        # Before the log is written: a job may be waiting for this.
        if sitting.fired:
            self._runtime.bells.ring("dispatcher")
        if sitting.stopped:
            self._runtime.bells.ring("monitor")
        if sitting.opened_episodes:
            self._runtime.bells.ring("janitor")
        sitting.report()
        return len(pending) + len(due), next_at

    def _one_by_one(self) -> int:
        """Decide the next event alone and the next timer alone; what fails again is buried, so that neither is blamed for the other."""
        worked = 0
        for events, timers, bury in ((1, 0, self._bury_event), (0, 1, self._drop_state)):
            try:
                done, _ = self._batch(events=events, timers=timers)
            except (StoreError, Conflict):
                raise
            except Exception as error:  # noqa: BLE001 - the row records it, whatever it was
                bury(error)
                done = 1
            worked += done
        return worked

    def _bury_event(self, error: Exception) -> None:
        with self._runtime.store.transaction("bury") as tx:
            for event in tx.events.pending(1):
                tx.events.mark_dead(event.id, reason=f"{type(error).__name__}: {error}")
                self._runtime.log.error("event.dead", event_id=event.id, error=repr(error), exc_info=True)
                self._runtime.metrics.events.labels(event.origin, "dead").inc()
                self._runtime.metrics.dead_letters.labels(event.origin, "event").inc()

    def _drop_state(self, error: Exception) -> None:
        with self._runtime.store.transaction("drop_state") as tx:
            for model, policy, key in tx.policies.due(tx.now, 1):
                state = tx.policies.state(model, policy, key)
                if state is not None:
                    decision = state_broken(model, policy, "", key, state, error)
                    tx.policies.add_decision(decision, seq=tx.policies.take_numbers(1), event_id=None, run_id=None)
                tx.policies.drop_state(model, policy, key)
                self._look_again(tx, model, policy)
                self._runtime.log.error(
                    "policy.state_dropped", model=model, policy=policy, key=key, error=repr(error), exc_info=True
                )

    def _look_again(self, tx: Transaction, model: str, name: str) -> None:
        """Keep a level alive: no event would ever bring it back."""
        spec = self._runtime.config.models.get(model)
        policy = spec.policies.get(name) if spec is not None else None
        if policy is not None and isinstance(policy.on, MaxAge):
            state = PolicyState(on_hash=policy.on_hash, due_at=tx.now + AFTER_A_BROKEN_LOOK)
            tx.policies.save_state(policy, "", state)

    def activate(self, *, actor: str, config: Config | None = None) -> None:
        """Make a configuration (by default the runtime's) the one that decides, and deal with policies that changed or are gone.

        It is kept first: nothing is decided under a configuration that the store does not have.
        """
        config = config or self._runtime.config
        policies = [policy for model in config.models.values() for policy in model.policies.values()]
        with self._runtime.store.transaction("activate") as tx:
            tx.people.activate(version=config.version, body=config.normal_form, actor=actor, policies=policies)
            for name in config.models:
                tx.models.ensure(name)
            self._settle_states(tx, config)
            for policy in policies:
                if isinstance(policy.on, MaxAge) and tx.policies.state(policy.model, policy.name, "") is None:
                    tx.policies.save_state(policy, "", PolicyState(on_hash=policy.on_hash, due_at=tx.now))
        if config is not self._runtime.config:
            self._runtime.use(config)
        self._runtime.bells.ring(self.name)

    @staticmethod
    def _settle_states(tx: Transaction, config: Config) -> None:
        models = config.models
        for model, name, key, version, state in tx.policies.states():
            policy = models[model].policies.get(name) if model in models else None
            if policy is None:
                if state.held_count and state.stage is not None:
                    decision = policy_removed(model, name, version, key, state)
                    seq = tx.policies.take_numbers(1)
                    tx.policies.add_decision(decision, seq=seq, event_id=None, run_id=None)
                tx.policies.drop_state(model, name, key)
            elif state.stage is not None or isinstance(policy.on, MaxAge):
                if state.on_hash != policy.on_hash or version != policy.version:
                    tx.policies.touch(model, name, key)
            elif state.on_hash != policy.on_hash:
                tx.policies.drop_state(model, name, key)  # a window that was counted under another `on`


@dataclass(frozen=True, slots=True)
class _Glance:
    """What can be said of an event without asking the store."""

    #: (model, policy, stage) of each policy that does not let it pass, for a reason that stands in the event alone.
    refused: Sequence[tuple[str, str, str]]
    #: The other policies that it may concern.
    others: Sequence[Policy]


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The next events, looked at before the transaction that decides on them."""

    config: Config
    events: Sequence[Event]
    glances: Sequence[_Glance]


def _glance(runtime: Runtime, event: Event) -> _Glance:
    refused, others = [], []
    for policy in runtime.index.candidates(event):
        stage = None
        if not _reads_champion(policy):
            labels = runtime.config.models[policy.model].labels
            scope = event_scope(event, model=policy.model, labels=labels, champion=None)
            stage = refused_at(policy, event, scope)
        if stage is None:
            others.append(policy)
        else:
            refused.append((policy.model, policy.name, stage))
    return _Glance(refused, others)


class _Sitting:
    """One transaction of deciding: what was looked up in it, and what it concluded."""

    def __init__(self, runtime: Runtime, tx: Transaction, events: Sequence[Event], *, numbers: int) -> None:
        self._runtime = runtime
        self._tx = tx
        self._config = runtime.config
        self._seq = tx.policies.take_numbers(numbers) if numbers else 0
        self._pauses: list[Pause] | None = None
        self._champions: dict[str, Champion | None] = {}
        self._episodes = Episodes(tx, self._config, events)
        self._changed_episodes: list[Episode] = []
        self._refused: Counter[tuple[str, str, str]] = Counter()
        self._decided: list[tuple[str, int]] = []
        self._heard: Counter[str] = Counter()
        self._decisions: list[tuple[Decision, str | None]] = []
        self.fired = 0
        #: Whether a policy remembers something else now, so that another timer may be the next.
        self.saved_states = False
        #: How many runs in training it asked to stop.
        self.stopped = 0
        #: Whether an episode was opened, which is to be given up some day.
        self.opened_episodes = False

    def hear(self, event: Event, glance: _Glance) -> None:
        """Decide on one event."""
        seq = self._number()
        self._decided.append((event.id, seq))
        self._heard[event.origin] += 1
        if event.origin == PERSON_ORIGIN and event.type == RETRAIN_REQUESTED:
            self._hear_press(event, seq)
            return
        mark = self._episodes.mark(event)
        episode = None if mark is None else self._episodes.hear(event, mark)
        if mark is not None and episode is not None and mark.state == "resolved":
            self._let_go(episode, event, seq)
        for refused in glance.refused:
            self._refused[refused] += 1
        for policy in glance.others:
            self._ask(policy, event, seq, episode)

    def look(self, model: str, name: str, key: str) -> None:
        """Decide on a timer: what a policy holds, or a level that may have become true."""
        seq = self._number()
        spec = self._config.models.get(model)
        policy = spec.policies.get(name) if spec else None
        state = self._tx.policies.state(model, name, key)
        if spec is None or policy is None or state is None:
            self._tx.policies.drop_state(model, name, key)
            return
        now = self._tx.now
        conclusion = decide(policy, state, key=key, event=None, facts=self._facts(spec, policy, key), now=now)
        self._write(spec, policy, key, None, state, conclusion, seq)

    def close(self) -> None:
        """Write what belongs to the batch as a whole."""
        self._tx.events.mark_processed(self._decided)
        self._tx.policies.count_refusals(self._refused)
        self._changed_episodes = self._episodes.write()
        self.opened_episodes = any(episode.state == "OPEN" for episode in self._changed_episodes)

    def report(self) -> None:
        """Log and count the decisions and what became of episodes, once they are durable."""
        for episode in self._changed_episodes:
            log_episode(self._runtime.log, episode)
        for origin, count in self._heard.items():
            self._runtime.metrics.events.labels(origin, "decided").inc(count)
        for decision, run_id in self._decisions:
            self._runtime.metrics.decisions.labels(decision.model, decision.policy, decision.kind, decision.stage).inc()
            self._runtime.log.info(
                "decision",
                kind=decision.kind,
                model=decision.model,
                policy=decision.policy,
                key=decision.key,
                stage=decision.stage,
                reason=decision.reason,
                run_id=run_id,
            )

    def _number(self) -> int:
        number = self._seq
        self._seq += 1
        return number

    def _let_go(self, episode: Episode, event: Event, seq: int) -> None:
        """Let go of what policies hold because of the event that opened an episode, when the episode is resolved."""
        if episode.event_id is None:
            return
        for model, name, key, state, held in self._tx.policies.holds_of(episode.event_id):
            spec = self._config.models.get(model)
            policy = spec.policies.get(name) if spec is not None else None
            if spec is None or policy is None:
                continue  # its hold ends with the policy
            conclusion = episode_resolved(policy, state, key, episode=episode, event=event, held=held)
            self._write(spec, policy, key, event, state, conclusion, seq)

    def _ask(self, policy: Policy, event: Event, seq: int, episode: Episode | None) -> None:
        spec = self._config.models[policy.model]
        champion = self._champion(policy.model) if _reads_champion(policy) else None
        scope = event_scope(event, model=policy.model, labels=spec.labels, champion=champion)
        selection = select(policy, event, scope, episode=episode)
        if selection.outcome == "skip":
            self._refused[policy.model, policy.name, selection.trace[-1].stage] += 1
            return
        if selection.outcome == "error":
            decision = refuse(policy, selection)
            self._tx.policies.add_decision(decision, seq=seq, event_id=event.id, run_id=None)
            self._decisions.append((decision, None))
            return
        key = selection.key
        state = self._tx.policies.state(policy.model, policy.name, key)
        conclusion = decide(
            policy,
            state,
            key=key,
            event=event,
            opening=selection.trace,
            facts=self._facts(spec, policy, key),
            now=self._tx.now,
            scope=scope,
        )
        self._write(spec, policy, key, event, state, conclusion, seq)

    def _hear_press(self, event: Event, seq: int) -> None:
        spec = self._config.models.get(event.subject or "")
        if spec is None:
            reason = f"no model {event.subject!r} is configured"
            self._tx.policies.add_decision(
                Decision(
                    kind="SKIP",
                    model=event.subject or "",
                    policy=MANUAL,
                    policy_version="",
                    key="",
                    stage="press",
                    reason=reason,
                    trace=(),
                ),
                seq=seq,
                event_id=event.id,
                run_id=None,
            )
            return
        press = Policy(model=spec.name, name=MANUAL, on=Leaf(), version="", on_hash=MANUAL)
        conclusion = decide_press(
            spec.name,
            spec.training.concurrency,
            self._config.version,
            event=event,
            facts=self._facts(spec, press, ""),
            now=self._tx.now,
        )
        data = event.data if isinstance(event.data, dict) else {}
        self._write(
            spec,
            None,
            "",
            event,
            None,
            conclusion,
            seq,
            params=data.get("params") or {},
            actor=data.get("actor"),
            # A retry is asked for what the run before it was asked for.
            earlier=self._tx.runs.causes(str(data["retries"])) if data.get("retries") else (),
        )

    def _write(
        self,
        spec: ModelSpec,
        policy: Policy | None,
        key: str,
        event: Event | None,
        state: PolicyState | None,
        conclusion: Conclusion,
        seq: int,
        *,
        params: dict[str, object] | None = None,
        actor: str | None = None,
        earlier: Sequence[Cause] = (),
    ) -> None:
        """Write a conclusion: the decision, what became of the causes, the run, and the policy's state."""
        decision, rows = conclusion.decision, self._tx.policies
        has_collected = state is not None and state.held_count > 0
        name = decision.policy
        cause = None if event is None else _cause(event)
        run_id = None
        if decision.kind == "FIRE":
            run_id = decision.joins_run or self._tx.runs.new_id()
        decision_id = rows.add_decision(decision, seq=seq, event_id=event.id if event else None, run_id=run_id)
        self._decisions.append((decision, run_id))
        if run_id is not None:
            causes = [*earlier, *(rows.collected(spec.name, name, key) if has_collected else ())]
            if cause is not None:
                causes.append(cause)
            if not causes:
                causes.append(_timer_cause(spec.name, decision, self._tx.now))
            self._fire(spec, decision, decision_id, run_id, causes, event, params or {}, actor)
        if conclusion.causes == "collect" and cause is not None and event is not None:
            rows.collect(spec.name, name, key, replace(cause, time=event_time(event)))
            if conclusion.keep_since is not None:
                rows.drop_causes(spec.name, name, key, before=conclusion.keep_since)
        elif has_collected and conclusion.causes in ("take", "drop"):
            rows.drop_causes(spec.name, name, key)
        elif conclusion.lets_go is not None:
            rows.let_go(spec.name, name, key, conclusion.lets_go)
        if policy is not None and conclusion.state != (state or PolicyState(on_hash=policy.on_hash)):
            rows.save_state(policy, key, conclusion.state)
            self.saved_states = True

    def _fire(
        self,
        spec: ModelSpec,
        decision: Decision,
        decision_id: str,
        run_id: str,
        causes: Sequence[Cause],
        event: Event | None,
        params: dict[str, object],
        actor: str | None,
    ) -> None:
        self.fired += 1
        runs = self._tx.runs
        # What the replaced runs were asked for is asked of this one.
        replaced = [run for each in decision.replaces if (run := self._replace(each, run_id)) is not None]
        causes = [*(cause for run in replaced for cause in runs.causes(run.id)), *causes]
        params = {name: value for each in [*(run.params for run in replaced), params] for name, value in each.items()}
        actor = actor or next((run.actor for run in reversed(replaced) if run.actor), None)
        if decision.joins_run is None:
            runs.add(
                Run(
                    id=run_id,
                    model=spec.name,
                    policy=decision.policy,
                    policy_version=decision.policy_version,
                    config_version=self._config.version,
                    key=decision.key,
                    state="QUEUED",
                    cause="decided",
                    reason="",
                    decision_id=decision_id,
                    decided_at=self._tx.now,
                    params=params,
                    actor=actor,
                    traceparent=_traceparent(event),
                    started_at=None,
                    finished_at=None,
                    champion_id=None,
                    epoch=None,
                    stop_as=None,
                    awaiting_since=None,
                )
            )
        elif params:
            queued = runs.get(run_id)
            runs.set(run_id, params={**(queued.params if queued else {}), **params})
        runs.add_causes(run_id, decision_id, causes, joins=decision.joins_run is not None)

    def _replace(self, run_id: str, by: str) -> Run | None:
        """Stop a run that another takes the place of, and return it; None for one that can no longer be stopped."""
        run = self._tx.runs.get(run_id)
        if run is None or run.state not in ("QUEUED", "TRAINING", "JUDGING"):
            return None
        if run.state == "TRAINING":
            self._tx.runs.set(run_id, stop_as="SUPERSEDED", reason=f"replaced by {by}")
            self.stopped += 1
        else:
            self._tx.runs.move(run, "SUPERSEDED", cause="replaced", reason=f"replaced by {by}")
        return run

    def _facts(self, spec: ModelSpec, policy: Policy, key: str) -> Facts:
        if self._pauses is None:
            self._pauses = self._tx.people.pauses()
        mine = ("", spec.name, f"{spec.name}/{policy.name}")
        pauses = [pause for pause in self._pauses if pause.target in mine]
        champion = self._champion(spec.name) if _reads_champion(policy) else None
        return self._tx.policies.facts(policy, key, champion=champion, labels=spec.labels, pauses=pauses)

    def _champion(self, model: str) -> Champion | None:
        if model not in self._champions:
            self._champions[model] = self._tx.models.champion(model)
        return self._champions[model]


def _reads_champion(policy: Policy) -> bool:
    """Say whether a policy asks for the champion at all; most do not, and a look costs a query."""
    on = policy.on
    if isinstance(on, MaxAge):
        return True
    if on.when is not None and "champion" in on.when.variables:
        return True
    return on.by is not None and "champion" in on.by.variables


def _cause(event: Event) -> Cause:
    return Cause(
        event_id=event.id,
        type=event.type,
        origin=event.origin,
        subject=event.subject,
        time=event.time,
    )


def _timer_cause(model: str, decision: Decision, now: datetime) -> Cause:
    stages = [line.stage for line in decision.trace]
    kind = "max_age" if "max_age" in stages else decision.stage
    return Cause(event_id=None, type=f"timer.{kind}", origin="timer", subject=model, time=now)


def _traceparent(event: Event | None) -> str | None:
    value = event.extensions.get("traceparent") if event is not None else None
    return value if isinstance(value, str) else None
