"""One transaction of deciding: what was looked up in it, what the policies concluded, and what became of that.

Each decision sees the effects of the one before it; decision, run, causes and state are written in the order of deciding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from controller.core.chain import Facts, PolicyState, clock
from controller.core.conditions import event_scope
from controller.core.decide import (
    MANUAL,
    Conclusion,
    asked_by,
    decide,
    decide_press,
    episode_resolved,
    press_policy,
    refuse,
    refused_at,
    select,
)
from controller.core.episode import Episode
from controller.core.jitter import start_at
from controller.core.model import (
    CONTROLLER_ORIGIN,
    PERSON_ORIGIN,
    RETRAIN_REQUESTED,
    Cause,
    Champion,
    Decision,
    Event,
    Pause,
    Run,
)
from controller.core.on import Absent, NoEpisode, traits
from controller.core.policy import Budget, ModelSpec, Policy
from controller.core.stages.budget import free_at
from controller.core.stages.count import event_time
from controller.core.stages.loop import emitting_run
from controller.engine.books import Books, Setting
from controller.engine.episodes import Episodes, log_episode
from controller.engine.watched import Lookout

#: A policy remembers something for at most so many keys; when there are more, so many are let go of at once.
MAX_KEYS = 10_000
ROOM = 100
#: What is counted of keys: nothing of them mattered any more, or there were too many.
EXPIRED, FORGOTTEN = "key expired", "key forgotten"


@dataclass(frozen=True, slots=True)
class Glance:
    """What can be said of an event without asking the store."""

    #: (model, policy, stage) of each policy that does not let it pass, for a reason that stands in the event alone.
    refused: Sequence[tuple[str, str, str]]
    #: The other policies that it may concern.
    others: Sequence[Policy]


def glance_at(runtime: Setting, event: Event) -> Glance:
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

    def __init__(
        self,
        runtime: Setting,
        tx: Books,
        events: Sequence[Event],
        *,
        numbers: int,
        lookout: Lookout | None = None,
    ) -> None:
        """`lookout` counts what open watches see; None where none are open, such as in a backtest."""
        self._runtime = runtime
        self._lookout = lookout
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
        #: Decisions that a breaker holds, and did not hold before.
        self.opened_breakers: list[Decision] = []
        #: Models with the same value of a label, by label and value.
        self._shares: dict[tuple[str, str | None], list[str]] = {}
        #: Open episodes as they were stored before this batch, by the origins that were asked for; None for all.
        self._stored_episodes: dict[tuple[str, ...] | None, dict[tuple[str, str], Episode]] = {}
        self._domain_names: dict[str, str] | None = None
        #: For how many keys a policy remembers something, by model and policy.
        self._key_counts: dict[tuple[str, str], int] = {}

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
        if self._lookout is not None:
            self._lookout.hear(event, episode)
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
        if spec is not None and name == MANUAL and state is not None:
            self._press(spec, None, state, seq)
            return
        if spec is None or policy is None or policy.mode == "off" or state is None:
            self._tx.policies.drop_state(model, name, key)
            return
        facts = self._facts(spec, policy, key, None, state)
        conclusion = decide(policy, state, key=key, event=None, facts=facts, now=self._tx.now)
        self._write(spec, policy, key, None, state, conclusion, seq)

    def close(self) -> None:
        """Write what belongs to the batch as a whole."""
        self._tx.events.mark_processed(self._decided)
        self._tx.policies.count_refusals(self._refused)
        self._changed_episodes = self._episodes.write()
        self.opened_episodes = any(episode.state == "OPEN" for episode in self._changed_episodes)
        if len(self._changed_episodes) > self.opened_episodes:  # what waits for the end of one is due now
            self.saved_states = True

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
            facts=self._facts(spec, policy, key, event, state),
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
        self._press(spec, event, self._tx.policies.state(spec.name, MANUAL, ""), seq)

    def _press(self, spec: ModelSpec, event: Event | None, state: PolicyState | None, seq: int) -> None:
        """Decide on a press, or on presses that are held."""
        training = spec.training
        press = press_policy(spec.name, training.concurrency, self._config.version)
        budget, spent = self._tightest(spec)
        conclusion = decide_press(
            spec.name,
            training.concurrency,
            self._config.version,
            event=event,
            facts=replace(self._facts(spec, press, "", event, None), spent=spent),
            now=self._tx.now,
            budget=budget,
            cost=training.cost,
            state=state,
        )
        asked = asked_by(state, event)
        self._write(
            spec,
            press,
            "",
            event,
            state,
            conclusion,
            seq,
            params=asked["params"],
            actor=asked["actor"],
            # A retry is asked for what the run before it was asked for.
            earlier=[cause for run_id in asked["retries"] for cause in self._tx.runs.causes(run_id)],
        )

    def _tightest(self, spec: ModelSpec) -> tuple[Budget | None, Sequence[tuple[datetime, float]]]:
        """Return the budget of the model's policies that lets a press wait longest, and what counts in it; none when they have none."""
        found: tuple[Budget | None, Sequence[tuple[datetime, float]]] = (None, ())
        longest: datetime | None = None
        budgets = [policy.budget for policy in spec.policies.values() if policy.mode == "live" and policy.budget]
        for budget in dict.fromkeys(budgets):
            spent = self._tx.policies.spent(budget, self._sharing(spec, budget) or (spec.name,))
            free = free_at(budget, spent, 1.0 if budget.runs is not None else spec.training.cost)
            if found[0] is None or (free is not None and (longest is None or free > longest)):
                found, longest = (budget, spent), free
        return found

    def _sharing(self, spec: ModelSpec, budget: Budget | None) -> Sequence[str] | None:
        """Return the models that share a budget by a label; None when it is no such budget."""
        if budget is None or not budget.scope.startswith("label:"):
            return None
        label = budget.scope.removeprefix("label:")
        place = (label, spec.labels.get(label))
        if place not in self._shares:
            self._shares[place] = [
                other.name for other in self._config.models.values() if other.labels.get(label) == place[1]
            ]
        return self._shares[place]

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
        if conclusion.tidies:
            self._refused[spec.name, decision.policy, EXPIRED] += 1
            rows.drop_state(spec.name, decision.policy, key)
            return
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
        if has_collected and conclusion.keeps_only is not None and conclusion.causes != "drop":
            gone = {each.time for each in rows.collected(spec.name, name, key)} - {*conclusion.keeps_only}
            rows.drop_causes_of(spec.name, name, key, sorted(gone))
        elif has_collected and conclusion.drops and conclusion.causes not in ("take", "drop"):
            rows.drop_causes_of(spec.name, name, key, conclusion.drops)
        if policy is not None and conclusion.state != (state or PolicyState(on_hash=policy.on_hash)):
            if state is None and key:
                self._make_room(policy)
            rows.save_state(policy, key, conclusion.state)
            self.saved_states = True
        if decision.stage == "breaker" and decision.kind == "HOLD" and (state is None or state.stage != "breaker"):
            self.opened_breakers.append(decision)

    def _make_room(self, policy: Policy) -> None:
        """Let go of the keys that were longest untouched, when a policy has as many as it may have; what holds something stays."""
        place, rows = (policy.model, policy.name), self._tx.policies
        if place not in self._key_counts:
            self._key_counts[place] = rows.key_count(*place)
        if self._key_counts[place] >= MAX_KEYS:
            count = rows.key_count(*place)
            gone = rows.longest_untouched(*place, count - MAX_KEYS + ROOM) if count >= MAX_KEYS else []
            for key in gone:
                rows.drop_state(*place, key)
            self._refused[(*place, FORGOTTEN)] += len(gone)
            self._key_counts[place] = count - len(gone)
        self._key_counts[place] += 1

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
        policy = spec.policies.get(decision.policy)
        priority = 0 if policy is None else policy.priority
        not_before = start_at(spec.name, decided_at=self._tx.now, jitter=None if policy is None else policy.jitter)
        emitters = {cause.emitted_by for cause in causes if cause.emitted_by is not None}
        behind = runs.emitters(emitters) if emitters else {}
        depth = max((depth + 1 for _, depth in behind.values()), default=0)
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
                    reason=_waits(not_before),
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
                    priority=priority,
                    not_before=not_before,
                    cost=spec.training.cost,
                    depth=depth,
                )
            )
        elif (queued := runs.get(run_id)) is not None:
            # It starts as soon, and goes before others, as the most pressing of those that it is for.
            earliest = min(queued.not_before, not_before) if queued.not_before and not_before else None
            joined = {
                "params": {**queued.params, **params},
                "priority": max(queued.priority, priority),
                "not_before": earliest,
                "reason": _waits(earliest),
                "depth": max(queued.depth, depth),
            }
            changed = {name: value for name, value in joined.items() if getattr(queued, name) != value}
            if changed:
                runs.set(run_id, **changed)
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
            self.saved_states = True  # what waited for it, or for the budget that has it back, is due now
        return run

    def _facts(
        self, spec: ModelSpec, policy: Policy, key: str, event: Event | None, state: PolicyState | None
    ) -> Facts:
        if self._pauses is None:
            self._pauses = self._tx.people.pauses()
        mine = ("", spec.name, f"{spec.name}/{policy.name}")
        pauses = [pause for pause in self._pauses if pause.target in mine]
        champion = self._champion(spec.name) if _reads_champion(policy) else None
        facts = self._tx.policies.facts(
            policy,
            key,
            champion=champion,
            labels=spec.labels,
            pauses=pauses,
            event=event,
            held=0 if state is None else state.held_count,
            sharing=self._sharing(spec, policy.budget),
        )
        if not (traits(policy.on).asks_for_episodes or (policy.ready and policy.ready.unless_open)):
            return facts
        return replace(facts, open_episodes=self._open_episodes(policy), domains=self._domains())

    def _open_episodes(self, policy: Policy) -> list[Episode]:
        """Return the episodes that are open now and that a policy may ask for, with what this batch did to them, the oldest first."""
        origins = _asked_origins(policy, self._domains())
        if origins not in self._stored_episodes:
            stored = self._tx.episodes.open_of(origins)
            self._stored_episodes[origins] = {(each.origin, each.key): each for each in stored}
        known = {**self._stored_episodes[origins], **self._episodes.touched()}
        found = [
            each for each in known.values() if each.state == "OPEN" and (origins is None or each.origin in origins)
        ]
        return sorted(found, key=lambda each: (each.opened_at, each.id))

    def _domains(self) -> dict[str, str]:
        if self._domain_names is None:
            sources = self._config.sources.items()
            self._domain_names = {name: spec.dedup_domain for name, spec in sources if spec.dedup_domain is not None}
        return self._domain_names

    def _champion(self, model: str) -> Champion | None:
        if model not in self._champions:
            self._champions[model] = self._tx.models.champion(model)
        return self._champions[model]


def _asked_origins(policy: Policy, domains: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return of which origins a policy asks for open episodes; None for all."""
    asked: set[str | None] = set()
    for place in traits(policy.on).places:
        if isinstance(place.node, NoEpisode):
            asked.add(place.node.source)
        elif isinstance(place.node, Absent):
            asked.add(CONTROLLER_ORIGIN)
    if policy.ready is not None and policy.ready.unless_open is not None:
        asked.add(policy.ready.unless_open.source)
    if None in asked:
        return None
    return tuple(sorted({domains.get(name, name) for name in asked if name is not None} | {n for n in asked if n}))


def _reads_champion(policy: Policy) -> bool:
    """Say whether a policy asks for the champion at all; most do not, and a look costs a query."""
    return traits(policy.on).reads_champion


def _cause(event: Event) -> Cause:
    return Cause(
        event_id=event.id,
        type=event.type,
        origin=event.origin,
        subject=event.subject,
        time=event.time,
        emitted_by=emitting_run(event),
    )


def _waits(not_before: datetime | None) -> str:
    """Say why a queued run is not started yet."""
    return "" if not_before is None else f"starts at {clock(not_before)}, by the jitter of its policy"


def _timer_cause(model: str, decision: Decision, now: datetime) -> Cause:
    stages = [line.stage for line in decision.trace]
    kind = next((stage for stage in ("metric", "tree", "max_age") if stage in stages), decision.stage)
    return Cause(event_id=None, type=f"timer.{kind}", origin="timer", subject=model, time=now)


def _traceparent(event: Event | None) -> str | None:
    value = event.extensions.get("traceparent") if event is not None else None
    return value if isinstance(value, str) else None
