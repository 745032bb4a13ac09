"""When a policy could fire at the earliest: the same `decide()`, asked again at the instant that it names itself.

A hold names the instant when it is looked at again. There `decide()` is asked on the same facts, without an event, and so on, until it
fires, waits for something that has no time, or ends.
Nothing is estimated: each step is what the daemon would conclude if nothing else happened.
What a policy would do with an event that matches is asked in the same way, on a copy: nothing is written, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from controller.core.chain import PolicyState
from controller.core.conditions import event_scope
from controller.core.decide import decide, select
from controller.core.explain.lines import ends_text
from controller.core.explain.remembered import missing
from controller.core.explain.standing import Standing, trace_shape, written
from controller.core.model import Decision, Event, Json, Trace
from controller.core.on import Leaf, MaxAge
from controller.core.policy import Policy

#: Holds that follow each other are followed no further; a chain has fewer stages that hold.
MOST_STEPS = 20
#: The id of an event that never came.
IMAGINED = "evt-imagined"

#: fires: at an instant; observes: would have, but starts nothing; waits: for something without a time; needs_event: only an event can
#: change anything; ends: it is let go of; unknown: nobody can say.
Outcome = Literal["fires", "observes", "waits", "needs_event", "ends", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What it would conclude at an instant."""

    at: datetime
    decision: Decision

    def shown(self) -> dict[str, Json]:
        """Return it as JSON."""
        return {
            "at": written(self.at),
            "kind": self.decision.kind,
            "stage": self.decision.stage,
            "reason": self.decision.reason,
            "until": None if self.decision.until is None else written(self.decision.until),
            "waits_for": self.decision.waits_for,
            "trace": [trace_shape(line) for line in self.decision.trace],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What comes of it if nothing else happens."""

    outcome: Outcome
    #: fires and observes: the earliest instant.
    at: datetime | None = None
    #: waits: what for.
    waits_for: str | None = None
    #: A sentence for people.
    text: str
    steps: tuple[Step, ...] = ()

    def shown(self) -> dict[str, Json]:
        """Return it as JSON."""
        return {
            "outcome": self.outcome,
            "at": None if self.at is None else written(self.at),
            "waits_for": self.waits_for,
            "text": self.text,
            "steps": [step.shown() for step in self.steps],
        }


def follow(standing: Standing) -> Forecast:
    """Say what comes of what a policy holds, or of a level, if nothing else happens."""
    state = standing.state
    if standing.policy.mode == "off":
        return Forecast(outcome="ends", text="the policy is off: it is not asked")
    if not looks_by_itself(standing.policy, state):
        return _needs_event(standing)
    due_at = None if state is None else state.due_at
    at = standing.now if due_at is None else max(standing.now, due_at)
    found = _follow(standing, state, at, event=None, opening=())
    # What only counts is looked at to be forgotten.
    holds = state is not None and state.stage is not None
    return _needs_event(standing) if found.outcome in ("ends", "needs_event") and not holds else found


def try_event(standing: Standing) -> Forecast:
    """Say what would come of an event that matches, if it came now: on a copy, nothing is written."""
    if standing.policy.mode == "off":
        return Forecast(outcome="ends", text="the policy is off: it is not asked")
    if isinstance(standing.policy.on, MaxAge):
        return Forecast(outcome="unknown", text="no event makes it fire, only the age of the champion")
    event = imagine(standing)
    if event is None:
        return Forecast(outcome="unknown", text="no event that it decided on is kept, so there is none to try it with")
    opening: tuple[Trace, ...] = ()
    if standing.last_event is not None:
        facts = standing.facts
        scope = event_scope(event, model=standing.policy.model, labels=facts.labels, champion=facts.champion)
        selection = select(standing.policy, event, scope)
        if selection.outcome != "pass":
            reason = selection.trace[-1].reason
            return Forecast(
                outcome="unknown", text=f"the last event that it decided on does not match any more: {reason}"
            )
        opening = selection.trace
    return _follow(standing, standing.state, standing.now, event=event, opening=opening)


def imagine(standing: Standing) -> Event | None:
    """Return an event that matches: the last one that did, as if it came again now, or one made of what a plain leaf asks for.

    None when nobody can know what such an event would say.
    """
    last, now, on = standing.last_event, standing.now, standing.policy.on
    if last is not None:
        return replace(last, id=IMAGINED, time=now, received_at=now, decided_at=None)
    reads_data = standing.policy.ready is not None and standing.policy.ready.new_rows is not None
    if not isinstance(on, Leaf) or on.metric is not None or on.by is not None or reads_data:
        return None
    return Event(
        id=IMAGINED,
        origin=on.source or "",
        source="",
        source_id="",
        type="" if on.type is None else on.type.text,
        subject=None if on.subject is None else on.subject.text,
        time=now,
        received_at=now,
        data=None,
        extensions={},
    )


def looks_by_itself(policy: Policy, state: PolicyState | None) -> bool:
    """Say whether a policy has something to look at without an event."""
    if state is None:
        return False
    return state.stage is not None or state.due_at is not None or isinstance(policy.on, MaxAge)


def _needs_event(standing: Standing) -> Forecast:
    found = missing(standing)
    return Forecast(outcome="needs_event", text=f"an event is needed: {found}" if found else "an event is needed")


def _follow(
    standing: Standing,
    state: PolicyState | None,
    at: datetime,
    *,
    event: Event | None,
    opening: tuple[Trace, ...],
) -> Forecast:
    steps: list[Step] = []
    while len(steps) < MOST_STEPS:
        conclusion = decide(
            standing.policy, state, key=standing.key, event=event, opening=opening, facts=standing.facts, now=at
        )
        decision, state, event, opening = conclusion.decision, conclusion.state, None, ()
        steps.append(Step(at=at, decision=decision))
        if decision.kind in ("FIRE", "ERROR"):
            break
        again_at = decision.until if decision.kind == "HOLD" else state.due_at
        if again_at is None or again_at <= at:
            break
        at = again_at
    return _concluded(steps)


def _is_not_met_yet(steps: Sequence[Step]) -> bool:
    """Say whether what came first was a condition that is not met yet, so that what follows only forgets it."""
    first = steps[0].decision
    return first.kind == "SKIP" and first.stage in ("count", "metric", "tree")


def _concluded(steps: Sequence[Step]) -> Forecast:
    last = steps[-1]
    decision, found = last.decision, tuple(steps)
    if decision.kind == "FIRE":
        joins = f", into {decision.joins_run}" if decision.joins_run else ""
        return Forecast(outcome="fires", at=last.at, text=f"would fire{joins}", steps=found)
    if len(steps) >= MOST_STEPS:
        return Forecast(outcome="unknown", text=f"still not after {len(steps)} looks: {decision.reason}", steps=found)
    if decision.waits_for is not None:
        text = f"would wait until {ends_text(decision.waits_for)}: {decision.reason}"
        return Forecast(outcome="waits", waits_for=decision.waits_for, text=text, steps=found)
    if decision.kind == "HOLD":
        return Forecast(outcome="unknown", text=decision.reason, steps=found)
    if decision.stage == "mode":
        return Forecast(
            outcome="observes", at=last.at, text="would have fired, but the policy only observes", steps=found
        )
    if _is_not_met_yet(steps):
        return Forecast(
            outcome="needs_event", text=f"more events are needed: {steps[0].decision.reason}", steps=found[:1]
        )
    word = "could not decide" if decision.kind == "ERROR" else "would end"
    return Forecast(outcome="ends", text=f"{word} at {decision.stage}: {decision.reason}", steps=found)
