"""One transaction of deciding: what was looked up in it, what the policies concluded, and what became of that.

Each decision sees the effects of the one before it; decision, run, causes and state are written in the order of deciding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from controller.core.chain import Facts, PolicyState
from controller.core.conditions import event_scope
from controller.core.decide import (
    MANUAL,
    Conclusion,
    decide,
    decide_press,
    episode_resolved,
    refuse,
    refused_at,
    select,
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
from controller.core.on import Leaf, MaxAge
from controller.core.policy import ModelSpec, Policy
from controller.core.stages.count import event_time
from controller.engine.episodes import Episodes, log_episode
from controller.engine.runtime import Runtime
from controller.store import Transaction


@dataclass(frozen=True, slots=True)
class Glance:
    """What can be said of an event without asking the store."""

    #: (model, policy, stage) of each policy that does not let it pass, for a reason that stands in the event alone.
    refused: Sequence[tuple[str, str, str]]
    #: The other policies that it may concern.
    others: Sequence[Policy]


def glance_at(runtime: Runtime, event: Event) -> Glance:
    """Return what can be said of an event before the store is asked."""
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
    return Glance(refused, others)


class Sitting:
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

    def hear(self, event: Event, glance: Glance) -> None:
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
