"""What a policy concludes of an event, a timer or a person's press.

`select` looks at the event alone and costs microseconds: most events end there, and are only counted.
`decide` asks the stages in the order of the chain; the first that does not pass gives the reason, and the trace of them all is the
explanation that `retrainctl why` prints. The same functions serve the daemon, a dry run and a backtest, which is why they are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from controller.core.chain import (
    Answer,
    Facts,
    PolicyState,
    Question,
    Stage,
    clock,
    from_micros,
)
from controller.core.conditions import Scope, event_scope
from controller.core.episode import Episode
from controller.core.model import Decision, Event, Trace
from controller.core.on import Leaf, MaxAge
from controller.core.policy import Concurrency, Policy
from controller.core.stages import CHAIN, SELECTING
from controller.errors import ExpressionError

#: The name that stands for a policy in the decision on a person's press.
MANUAL = "manual"

_NO_FACTS = Facts()

#: What happens to the causes collected for a policy and key: nothing; the event joins them; the run takes them; they are dropped.
Causes = Literal["none", "collect", "take", "drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What `select` found: whether the rest of the chain is worth asking, and under which key."""

    outcome: Literal["pass", "skip", "error"]
    key: str
    trace: tuple[Trace, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """A decision, and what it leaves behind."""

    decision: Decision
    state: PolicyState
    causes: Causes
    #: Collected causes from before this instant have left the window.
    keep_since: datetime | None = None
    #: The event whose cause is let go, while the others stay collected.
    lets_go: str | None = None


def select(policy: Policy, event: Event, scope: Scope, *, episode: Episode | None = None) -> Selection:
    """Ask the stages that need nothing but the event and the episode it belongs to (as it is after it), and work out the key."""
    trace: list[Trace] = []
    asking = ""
    facts = _NO_FACTS if episode is None else Facts(episode=episode)
    question = _question(policy, "", None, event, facts, scope, event.received_at)
    try:
        for stage in SELECTING:
            asking = stage.name
            answer = stage.ask(question)
            if answer is None:
                continue
            trace.append(_line(stage, answer))
            if answer.outcome != "pass":
                return Selection(outcome="skip", key="", trace=tuple(trace))
        asking = "by"
        return Selection(outcome="pass", key=_key(policy, scope), trace=tuple(trace))
    except ExpressionError as error:
        trace.append(Trace(stage=asking, outcome="error", reason=error.message))
        return Selection(outcome="error", key="", trace=tuple(trace))


def refused_at(policy: Policy, event: Event, scope: Scope) -> str | None:
    """Return the stage at which `select` ends with a skip, without the explanation; None when only `select` can say.

    Most events end here, and are only counted: this costs a fifth of what `select` does.
    """
    try:
        for stage in SELECTING:
            if stage.admits is None:
                return None
            if not stage.admits(policy, event, scope):
                return stage.name
    except ExpressionError:
        return None
    return None


def refuse(policy: Policy, selection: Selection) -> Decision:
    """Return the decision for an event that `select` did not let pass."""
    last = selection.trace[-1]
    kind: Literal["SKIP", "ERROR"] = "ERROR" if selection.outcome == "error" else "SKIP"
    return _decision(policy, kind, selection.key, last.stage, last.reason, selection.trace)


def decide(
    policy: Policy,
    state: PolicyState | None,
    *,
    key: str,
    event: Event | None,
    opening: Sequence[Trace] = (),
    facts: Facts,
    now: datetime,
    scope: Scope | None = None,
) -> Conclusion:
    """Conclude what this policy does now, for this key.

    `event` with the trace of its selection as `opening` drives it, or None for a timer.
    Deciding twice on the same arguments gives the same conclusion.
    """
    state, opening = _carried_over(policy, state, opening, event)
    if event is None and state.stage is None and not _is_level(policy, key):
        return _nothing_held(policy, state, key, opening)
    if scope is None:
        scope = event_scope(event, model=policy.model, labels=facts.labels, champion=facts.champion)
    return _walk(policy, state, key, event, opening, facts, now, scope, _start(policy, state, key, event))


def decide_press(
    model: str,
    concurrency: Concurrency,
    policy_version: str,
    *,
    event: Event,
    facts: Facts,
    now: datetime,
) -> Conclusion:
    """Conclude what a person's press does: it passes over the policies' conditions, but not over the slot."""
    policy = Policy(
        model=model,
        name=MANUAL,
        on=Leaf(),
        version=policy_version,
        on_hash=MANUAL,
        concurrency=concurrency,
    )
    data = event.data if isinstance(event.data, dict) else {}
    said = f"{data.get('actor', 'somebody')} pressed retrain: {data.get('reason') or 'no reason given'}"
    over = [stage.name for stage in CHAIN if stage.person_passes_over]
    opening = (
        Trace(stage="press", outcome="pass", reason=said, facts={"params": data.get("params", {})}),
        Trace(stage="chain", outcome="over", reason=f"a person passes over {', '.join(over)}"),
    )
    scope = event_scope(event, model=model, labels=facts.labels, champion=facts.champion)
    first = next(index for index, stage in enumerate(CHAIN) if not stage.person_passes_over)
    state = PolicyState(on_hash=MANUAL)
    return _walk(policy, state, "", event, opening, facts, now, scope, first)


def policy_removed(model: str, name: str, version: str, key: str, state: PolicyState) -> Decision:
    """Return the decision that ends what a policy held when it is no longer configured."""
    reason = f"policy removed, {state.held_count} held causes are let go"
    return _let_go("SKIP", model, name, version, key, reason)


def episode_resolved(
    policy: Policy,
    state: PolicyState,
    key: str,
    *,
    episode: Episode,
    event: Event,
    held: int,
) -> Conclusion:
    """Conclude what becomes of a hold when `event` resolves the episode that one of its causes opened: that cause is let go.

    `held` is how many causes it has, that one included.
    Without another the hold is over; a level goes on, for it never held for that cause.
    """
    at = clock(min(event.time, event.received_at))
    line = Trace(
        stage="episode",
        outcome="skip",
        reason=f"resolved at {at}, 1 of {held} held causes let go",
        facts={"episode": episode.key, "let_go": episode.event_id, "held": held, "held_at": state.stage},
    )
    is_over = held <= 1 and not _is_level(policy, key)
    after = _emptied(policy, state, key, {}) if is_over else replace(state, held_count=max(held - 1, 0))
    decision = _decision(policy, "SKIP", key, line.stage, line.reason, (line,))
    return Conclusion(decision=decision, state=after, causes="drop" if is_over else "none", lets_go=episode.event_id)


def state_broken(model: str, name: str, version: str, key: str, state: PolicyState, error: Exception) -> Decision:
    """Return the decision that ends what a policy held when deciding on it fails for a reason that is ours."""
    reason = f"{type(error).__name__}: {error}; {state.held_count} held causes are let go"
    return _let_go("ERROR", model, name, version, key, reason)


def _let_go(kind: Literal["SKIP", "ERROR"], model: str, name: str, version: str, key: str, reason: str) -> Decision:
    line = Trace(stage="policy", outcome="error" if kind == "ERROR" else "skip", reason=reason)
    return Decision(
        kind=kind,
        model=model,
        policy=name,
        policy_version=version,
        key=key,
        stage="policy",
        reason=reason,
        trace=(line,),
    )


def _walk(
    policy: Policy,
    state: PolicyState,
    key: str,
    event: Event | None,
    opening: Sequence[Trace],
    facts: Facts,
    now: datetime,
    scope: Scope,
    start: int,
) -> Conclusion:
    trace = list(opening)
    slots, marks = dict(state.slots), dict[str, object]()
    joins_run: str | None = None
    replaces: tuple[str, ...] = ()
    for stage in CHAIN[start:]:
        question = _question(policy, key, slots.get(stage.name), event, facts, scope, now, state.stage)
        try:
            answer = stage.ask(question)
        except ExpressionError as error:
            trace.append(Trace(stage=stage.name, outcome="error", reason=error.message))
            after = replace(state, slots=slots, due_at=None if event is None else state.due_at)
            return _ended(policy, after, key, "ERROR", trace, causes="none")
        if answer is None:
            continue
        trace.append(_line(stage, answer))
        if answer.slot is not None:
            (marks if stage.remembers else slots)[stage.name] = answer.slot
        if answer.outcome == "hold":
            return _held(policy, state, key, event, answer, stage, trace, slots, now)
        if answer.outcome == "skip":
            if answer.collects:
                return _collected(policy, state, key, answer, trace, slots)
            if _is_late(stage):
                return _ended(policy, replace(state, slots=slots), key, "SKIP", trace, causes="none")
            return _ended(policy, _emptied(policy, state, key, {}), key, "SKIP", trace, causes="drop")
        joins_run, replaces = answer.joins_run, answer.replaces
    fired = _ended(policy, _emptied(policy, state, key, marks), key, "FIRE", trace, causes="take")
    return replace(fired, decision=replace(fired.decision, joins_run=joins_run, replaces=replaces))


def _is_late(stage: Stage) -> bool:
    """A count that skips without collecting leaves the window as it is."""
    return stage.name == "count"


def _held(
    policy: Policy,
    state: PolicyState,
    key: str,
    event: Event | None,
    answer: Answer,
    stage: Stage,
    trace: list[Trace],
    slots: dict[str, object],
    now: datetime,
) -> Conclusion:
    decision = _decision(policy, "HOLD", key, stage.name, answer.reason, trace)
    decision = replace(decision, until=answer.until, waits_for=answer.waits_for)
    after = replace(
        state,
        slots=slots,
        stage=stage.name,
        held_since=state.held_since or now,
        held_count=state.held_count + (event is not None),
        due_at=answer.until,
        waits_for=answer.waits_for,
    )
    return Conclusion(decision=decision, state=after, causes="collect" if event is not None else "none")


def _collected(
    policy: Policy,
    state: PolicyState,
    key: str,
    answer: Answer,
    trace: list[Trace],
    slots: dict[str, object],
) -> Conclusion:
    decision = _decision(policy, "SKIP", key, trace[-1].stage, answer.reason, trace)
    window: list[int] = answer.slot
    after = replace(state, slots=slots, held_count=len(window))
    return Conclusion(decision=decision, state=after, causes="collect", keep_since=from_micros(window[0]))


def _ended(
    policy: Policy,
    state: PolicyState,
    key: str,
    kind: Literal["FIRE", "SKIP", "ERROR"],
    trace: Sequence[Trace],
    *,
    causes: Causes,
) -> Conclusion:
    reason = "every stage passed" if kind == "FIRE" else trace[-1].reason
    decision = _decision(policy, kind, key, "fire" if kind == "FIRE" else trace[-1].stage, reason, trace)
    return Conclusion(decision=decision, state=state, causes=causes)


def _emptied(policy: Policy, state: PolicyState, key: str, marks: Mapping[str, object]) -> PolicyState:
    """Return the state after a FIRE or a SKIP: what levels remember, with the marks of a FIRE."""
    remembered = {
        stage.name: state.slots[stage.name] for stage in CHAIN if stage.remembers and stage.name in state.slots
    }
    waits_for = "run" if _is_level(policy, key) else None
    return PolicyState(on_hash=state.on_hash, slots={**remembered, **marks}, waits_for=waits_for)


def _nothing_held(policy: Policy, state: PolicyState, key: str, opening: Sequence[Trace]) -> Conclusion:
    """Answer a timer that finds nothing held: without an event there is no occasion, only a policy that may have changed."""
    after = replace(state, due_at=None, waits_for=None)
    if opening:
        return _ended(policy, after, key, "SKIP", opening, causes="drop")
    line = Trace(stage="held", outcome="skip", reason="nothing is held")
    return _ended(policy, after, key, "SKIP", (line,), causes="none")


def _carried_over(
    policy: Policy,
    state: PolicyState | None,
    opening: Sequence[Trace],
    event: Event | None,
) -> tuple[PolicyState, Sequence[Trace]]:
    """Return the state to go on with, and the trace's first lines: a changed `on` starts anew but keeps what is held."""
    if state is None:
        return PolicyState(on_hash=policy.on_hash), opening
    if state.on_hash != policy.on_hash:
        held = state.held_count if state.stage is not None else 0
        what = f"{held} held causes go on at debounce" if held else "nothing was held"
        line = Trace(stage="policy", outcome="pass", reason=f"policy changed, {what}")
        fresh = PolicyState(on_hash=policy.on_hash)
        if held:
            fresh = replace(fresh, stage="debounce", held_since=state.held_since, held_count=held)
        return fresh, (*opening, line)
    if event is None and state.stage is not None and state.held_since is not None and state.held_count:
        line = Trace(
            stage="held",
            outcome="pass",
            reason=f"{state.held_count} held since {clock(state.held_since)}, goes on at {CHAIN[_resumption(state)].name}",
            facts={"count": state.held_count},
        )
        return state, (*opening, line)
    return state, opening


def _is_level(policy: Policy, key: str) -> bool:
    """Say whether it asks about the model as a whole; a key is left from an `on` that the policy had before."""
    return isinstance(policy.on, MaxAge) and not key


def _start(policy: Policy, state: PolicyState, key: str, event: Event | None) -> int:
    """Return where in the chain to begin: an event or a level behind the selection, what is held where it was held."""
    if event is not None or _is_level(policy, key):
        return len(SELECTING)
    return _resumption(state)


def _resumption(state: PolicyState) -> int:
    """Return where held causes go on: at the stage that held them; behind `cooldown` at `cooldown`, so that later runs count."""
    names = [stage.name for stage in CHAIN]
    if state.stage not in names:  # written by another version of this program
        return len(SELECTING)
    return min(names.index(state.stage), names.index("cooldown"))


def _key(policy: Policy, scope: Scope) -> str:
    by = policy.on.by if isinstance(policy.on, Leaf) else None
    if by is None:
        return ""
    value = by.evaluate(scope)
    if value is None or isinstance(value, list | dict):
        raise ExpressionError(f"by: {by.source!r} gave {value!r}, which is no key")
    return str(value)[:256]


def _question(
    policy: Policy,
    key: str,
    slot: object,
    event: Event | None,
    facts: Facts,
    scope: Scope,
    now: datetime,
    held_at: str | None = None,
) -> Question:
    return Question(
        policy=policy,
        key=key,
        slot=slot,
        event=event,
        held_at=held_at,
        facts=facts,
        scope=scope,
        now=now,
    )


def _line(stage: Stage, answer: Answer) -> Trace:
    return Trace(stage=stage.name, outcome=answer.outcome, reason=answer.reason, facts=answer.facts)


def _decision(
    policy: Policy,
    kind: Literal["FIRE", "HOLD", "SKIP", "ERROR"],
    key: str,
    stage: str,
    reason: str,
    trace: Sequence[Trace],
) -> Decision:
    return Decision(
        kind=kind,
        model=policy.model,
        policy=policy.name,
        policy_version=policy.version,
        key=key,
        stage=stage,
        reason=reason,
        trace=tuple(trace),
    )
