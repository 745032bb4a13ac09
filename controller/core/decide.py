"""What a policy concludes of an event, a timer or a person's press.

`select` looks at the event alone and costs microseconds: most events end there, and are only counted.
`decide` asks the stages in the order of the chain; the first that does not pass gives the reason, and the trace of them all is the
explanation that `retrainctl why` prints. The same functions serve the daemon, a dry run and a backtest, which is why they are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from controller.core.chain import (
    Aftermath,
    Answer,
    Facts,
    PolicyState,
    Question,
    Rest,
    Stage,
    clock,
    span,
)
from controller.core.conditions import Expression, Scope, event_scope
from controller.core.episode import Episode
from controller.core.model import Decision, Event, Json, Trace
from controller.core.nodes.judge import fitting
from controller.core.on import Leaf, MaxAge, is_judged, needs_clock, note, traits
from controller.core.policy import Budget, Concurrency, Policy
from controller.core.stages import CHAIN, SELECTING, count
from controller.errors import ExpressionError

#: The name that stands for a policy in the decision on a person's press.
MANUAL = "manual"

#: Where a state keeps what presses that are held ask for.
_PRESS = "press"
_NO_FACTS = Facts()
#: A timer that is later than this says so.
_PUNCTUAL = timedelta(seconds=1)
#: What lives by the clock is asked again so long after an expression of the policy failed.
_AFTER_A_FAILURE = timedelta(hours=1)

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
    #: Collected causes of these instants are let go, because the condition no longer needs them.
    drops: tuple[datetime, ...] = ()
    #: … or all but those of these instants; None for no such thing.
    keeps_only: tuple[datetime, ...] | None = None
    #: Nothing of what was remembered matters any more: it is forgotten, which is counted and not written down.
    tidies: bool = False


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
        return Selection(outcome="pass", key=_key(policy, event, scope), trace=tuple(trace))
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
    due_at = None if state is None or event is not None else state.due_at
    state, opening = _carried_over(policy, state, opening, event)
    opening = [*opening, *_lateness(due_at, now)]
    if event is None and state.stage is None and not (is_judged(policy.on) or _is_level(policy, key)):
        return _nothing_held(policy, state, key, opening, now)
    if scope is None:
        scope = event_scope(event, model=policy.model, labels=facts.labels, champion=facts.champion)
    return _walk(policy, state, key, event, opening, facts, now, scope, _stages(policy, state, key, event))


def decide_press(
    model: str,
    concurrency: Concurrency,
    policy_version: str,
    *,
    event: Event | None,
    facts: Facts,
    now: datetime,
    budget: Budget | None = None,
    cost: float = 1.0,
    state: PolicyState | None = None,
) -> Conclusion:
    """Conclude what a person's press does: it passes over the policies' conditions, but not over budget and slot.

    `event` is the press, or None for a timer, when what is held is asked again; `state` is what is held.
    Presses that are held become one run; the state keeps what they ask for together (`asked_by`).
    One that forces passes over the budget, and what is held goes with it.
    """
    policy = press_policy(model, concurrency, policy_version)
    state = state or PolicyState(on_hash=MANUAL)
    asked = asked_by(state, event)
    over = [stage.name for stage in CHAIN if stage.person_passes_over]
    opening = [
        _press_line(event, asked) if event is not None else _held_line(state),
        *(_lateness(state.due_at, now) if event is None else ()),
        Trace(stage="chain", outcome="over", reason=f"a person passes over {', '.join(over)}"),
    ]
    if budget is not None and asked["force"]:
        opening.append(Trace(stage="budget", outcome="over", reason=f"{asked['actor']} forces it past the budget"))
    elif budget is not None:
        policy = replace(policy, budget=budget, cost=cost)
    scope = event_scope(event, model=model, labels=facts.labels, champion=facts.champion)
    first = next(index for index, stage in enumerate(CHAIN) if not stage.person_passes_over)
    state = replace(state, slots={**state.slots, _PRESS: asked})
    return _walk(policy, state, "", event, opening, facts, now, scope, CHAIN[first:])


def press_policy(model: str, concurrency: Concurrency, version: str) -> Policy:
    """Return what stands for a policy when a person presses."""
    return Policy(model=model, name=MANUAL, on=Leaf(), version=version, on_hash=MANUAL, concurrency=concurrency)


def asked_by(state: PolicyState | None, event: Event | None) -> dict[str, Json]:
    """Return what presses ask for together: those that are held in `state`, then `event`; the later one wins.

    `params` are the parameters, `actor` who pressed last, `retries` the runs that are retried, `force` whether the last one forces.
    """
    known = {} if state is None else state.slots.get(_PRESS) or {}
    asked = {"params": {}, "actor": None, "retries": [], "force": False, **known}
    if event is None:
        return asked
    data = event.data if isinstance(event.data, dict) else {}
    params = data.get("params")
    retries = [str(data["retries"])] if data.get("retries") else []
    return {
        "params": {**asked["params"], **(params if isinstance(params, dict) else {})},
        "actor": data.get("actor") or asked["actor"],
        "retries": list(dict.fromkeys([*asked["retries"], *retries])),
        "force": data.get("force") is True,
    }


def _press_line(event: Event, asked: Mapping[str, Json]) -> Trace:
    data = event.data if isinstance(event.data, dict) else {}
    said = f"{data.get('actor', 'somebody')} pressed retrain: {data.get('reason') or 'no reason given'}"
    return Trace(stage="press", outcome="pass", reason=said, facts={"params": asked["params"]})


def _held_line(state: PolicyState) -> Trace:
    since = "" if state.held_since is None else f" since {clock(state.held_since)}"
    return Trace(
        stage="held", outcome="pass", reason=f"{state.held_count} pressed{since}", facts={"count": state.held_count}
    )


def policy_removed(
    model: str, name: str, version: str, key: str, state: PolicyState, *, what: str = "removed"
) -> Decision:
    """Return the decision that ends what a policy held when it is no longer configured, or `what` else was done to it."""
    reason = f"policy {what}, {state.held_count} held causes are let go"
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
    after = (
        _emptied(policy, state, key, None, event.received_at)
        if is_over
        else replace(state, held_count=max(held - 1, 0))
    )
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
    stages: Sequence[Stage],
) -> Conclusion:
    trace = list(opening)
    slots = dict(state.slots)
    told: Aftermath | None = None
    rested = ""
    joins_run: str | None = None
    replaces: tuple[str, ...] = ()
    # Most stages keep nothing, and are asked the same.
    plain = _question(policy, key, None, event, facts, scope, now, state.stage)
    for stage in stages:
        slot = slots.get(stage.name)
        question = plain
        if slot is not None:
            question = _question(policy, key, slot, event, facts, scope, now, state.stage)
        try:
            answer = stage.ask(question)
        except ExpressionError as error:
            trace.append(Trace(stage=stage.name, outcome="error", reason=error.message))
            return _failed(policy, state, key, event, trace, slots, now)
        if answer is None:
            continue
        trace.append(_line(stage, answer))
        if answer.slot is not None:
            slots[stage.name] = answer.slot
            if not answer.slot:
                del slots[stage.name]
        if answer.after is not None:
            told, rested = answer.after, stage.name
        if answer.outcome == "hold":
            return _held(policy, state, key, event, answer, stage, trace, slots, now, told)
        if answer.outcome == "skip":
            if answer.after is not None and answer.after.keeps != "nothing":
                return _kept(policy, state, key, event, answer.after, trace, slots)
            # What a policy that only observes would have fired, it fired.
            kept = None if told is None else told.fired if stage.name == "mode" else told.rest
            return _dropped(policy, state, key, trace, None if kept is None else {rested: kept}, now)
        joins_run, replaces = answer.joins_run, answer.replaces
    rests = None if told is None or told.fired is None else {rested: told.fired}
    emptied = _emptied(policy, state, key, rests, now)
    fired = _ended(policy, emptied, key, "FIRE", trace, causes="take")
    return replace(fired, decision=replace(fired.decision, joins_run=joins_run, replaces=replaces))


def _failed(
    policy: Policy,
    state: PolicyState,
    key: str,
    event: Event | None,
    trace: Sequence[Trace],
    slots: Mapping[str, Json],
    now: datetime,
) -> Conclusion:
    """Conclude that an expression failed: what is held stays, and only what lives by the clock is asked again by itself."""
    due_at = state.due_at
    if event is None:
        due_at = now + _AFTER_A_FAILURE if needs_clock(policy.on) else None
    return _ended(policy, replace(state, slots=slots, due_at=due_at), key, "ERROR", trace, causes="none")


def _kept(
    policy: Policy,
    state: PolicyState,
    key: str,
    event: Event | None,
    told: Aftermath,
    trace: Sequence[Trace],
    slots: Mapping[str, Json],
) -> Conclusion:
    """Conclude that this was no occasion, and keep what counts towards a later one, or what is held."""
    decision = _decision(policy, "SKIP", key, trace[-1].stage, trace[-1].reason, trace)
    drops = tuple(told.lets_go)
    if told.keeps == "hold":
        return Conclusion(decision=decision, state=replace(state, slots=slots), causes="none", drops=drops)
    if told.is_over:
        forgotten = PolicyState(on_hash=state.on_hash)
        return Conclusion(decision=decision, state=forgotten, causes="drop", tidies=True)
    rest = told.rest or Rest(slot=None)
    after = PolicyState(
        on_hash=state.on_hash,
        # What the stages behind kept is of a hold that is over.
        slots={stage: slots[stage] for stage in slots if stage == decision.stage},
        held_count=told.count,
        due_at=rest.due_at,
        waits_for=rest.waits_for,
    )
    causes: Causes = "collect" if told.collects and event is not None else "none" if told.count else "drop"
    return Conclusion(
        decision=decision,
        state=after,
        causes=causes,
        keep_since=told.keeps_since,
        drops=drops,
        keeps_only=None if told.keeps_only is None else tuple(told.keeps_only),
    )


def _dropped(
    policy: Policy,
    state: PolicyState,
    key: str,
    trace: Sequence[Trace],
    rests: Mapping[str, Rest] | None,
    now: datetime,
) -> Conclusion:
    return _ended(policy, _emptied(policy, state, key, rests, now), key, "SKIP", trace, causes="drop")


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
    told: Aftermath | None,
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
    drops = () if told is None else tuple(told.lets_go)
    return Conclusion(decision=decision, state=after, causes="collect" if event is not None else "none", drops=drops)


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


def _emptied(
    policy: Policy, state: PolicyState, key: str, rests: Mapping[str, Rest] | None, now: datetime
) -> PolicyState:
    """Return the state after a FIRE or a SKIP: what the condition keeps, by its stage, and when it is asked again."""
    if rests:
        rest = next(iter(rests.values()))
        slots = {name: rest.slot for name, rest in rests.items() if rest.slot}
        return PolicyState(on_hash=state.on_hash, slots=slots, due_at=rest.due_at, waits_for=rest.waits_for)
    if not needs_clock(policy.on) or (key and isinstance(policy.on, MaxAge)):
        return PolicyState(on_hash=state.on_hash)
    # It was not asked on the way, so it is asked now.
    slots = {stage.name: state.slots[stage.name] for stage in CHAIN if stage.remembers and stage.name in state.slots}
    return PolicyState(on_hash=state.on_hash, slots=slots, due_at=now)


def _nothing_held(policy: Policy, state: PolicyState, key: str, opening: Sequence[Trace], now: datetime) -> Conclusion:
    """Answer a timer that finds nothing held: without an event there is no occasion, only a policy that may have changed."""
    over_at = count.over_at(policy, state.slots.get(count.STAGE.name))
    after = replace(state, due_at=over_at, waits_for=None)
    if opening and not (over_at is not None and over_at <= now):
        return _ended(policy, after, key, "SKIP", opening, causes="drop" if over_at is None else "none")
    line = Trace(stage="held", outcome="skip", reason="nothing is held")
    if over_at is None or over_at > now:
        return _ended(policy, after, key, "SKIP", (line,), causes="none")
    forgotten = PolicyState(on_hash=state.on_hash)
    return replace(_ended(policy, forgotten, key, "SKIP", (line,), causes="drop"), tidies=True)


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


def _stages(policy: Policy, state: PolicyState, key: str, event: Event | None) -> Sequence[Stage]:
    """Return the stages to ask: for an event or a level those behind the selection, for what is held those from where it was held.

    A condition that remembers what it held for is asked before it goes on, for it may be met no longer.
    """
    chain = _chain_of(policy)
    if event is not None or state.stage is None or _is_level(policy, key):
        return chain
    names = _names()
    first = _resumption(state)
    return [stage for stage in chain if names[stage.name] >= first or (stage.remembers and stage.name in state.slots)]


def _chain_of(policy: Policy) -> Sequence[Stage]:
    """Return the stages behind the selection that the policy has; worked out once for each."""
    known: tuple[Sequence[Stage], Sequence[Stage]] | None = getattr(policy, "_noted", None)
    if known is None or known[0] is not CHAIN:
        known = (CHAIN, tuple(s for s in CHAIN[len(SELECTING) :] if s.concerns is None or s.concerns(policy)))
        note(policy, known)
    return known[1]


def _names() -> Mapping[str, int]:
    return {stage.name: position for position, stage in enumerate(CHAIN)}


def _resumption(state: PolicyState) -> int:
    """Return where held causes go on: at the stage that held them; behind `cooldown` at `cooldown`, so that later runs count."""
    names = _names()
    if state.stage is None or state.stage not in names:  # written by another version of this program
        return len(SELECTING)
    return min(names[state.stage], names["cooldown"])


def _lateness(due_at: datetime | None, now: datetime) -> list[Trace]:
    """Say how late a timer is, when it is more than a moment: while no daemon ran, nobody looked."""
    if due_at is None or now - due_at <= _PUNCTUAL:
        return []
    late = now - due_at
    facts = {"due_at": clock(due_at), "late_seconds": round(late.total_seconds(), 3)}
    return [Trace(stage="timer", outcome="pass", reason=f"due at {clock(due_at)}, {span(late)} late", facts=facts)]


def _key(policy: Policy, event: Event, scope: Scope) -> str:
    on = policy.on
    if isinstance(on, Leaf):
        return "" if on.by is None else _read_key(on.by, scope)
    if not traits(on).is_keyed:
        return ""
    found = {_read_key(leaf.by, scope): path for path, leaf in fitting(on, event, scope) if leaf.by is not None}
    if len(found) > 1:
        said = ", ".join(f"{key!r} at {path}" for key, path in found.items())
        raise ExpressionError(f"by: the event has more than one key: {said}")
    return next(iter(found), "")


def _read_key(by: Expression, scope: Scope) -> str:
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
