"""Is the condition met: `all`, `any`, `sequence`, `absent`, and what they are made of?

The nodes are judged in `core/nodes/`; here is what becomes of it. Not met is a skip that says what is missing, and keeps what counts
towards a later occasion. Met but for an open episode is a hold until one ends.
While the policy holds, an event that makes the condition true anew joins what is held, another is only taken in; and a condition that is no
longer met, because a level in it cleared, lets go of what was held.
"""

from __future__ import annotations

from dataclasses import replace

from controller.core.chain import WAITS_OR, Aftermath, Answer, Question, Rest, Stage, from_micros, waits_of
from controller.core.nodes.judge import Judgement, is_over, judge
from controller.core.on import Leaf, MaxAge, traits
from controller.core.policy import Policy


def ask(question: Question) -> Answer | None:
    """Pass when the condition is met."""
    return answer_of(question) if concerns(question.policy) else None


def concerns(policy: Policy) -> bool:
    """Say whether a policy has it."""
    return not isinstance(policy.on, Leaf | MaxAge)


def answer_of(question: Question) -> Answer:
    """Judge the condition, and say what becomes of it."""
    found = judge(question)
    root = found.root
    facts = {"nodes": [finding.shown() for finding in found.findings]}
    let_go = tuple(from_micros(instant) for instant in found.lets_go)
    if root.truth or root.is_blocked:
        if question.held_at is not None and question.event is not None and not found.is_news:
            return Answer(
                outcome="skip",
                reason=f"still so, held at {question.held_at}: {root.text}",
                facts=facts,
                slot=_with_latches(found, question),
                after=Aftermath(keeps="hold", lets_go=let_go),
            )
        return Answer(
            outcome="pass" if root.truth else "hold",
            reason=root.text,
            facts=facts,
            waits_for=None if root.truth else "episode",
            slot=_with_latches(found, question),
            after=Aftermath(rest=_unanswered(found, question.policy), fired=found.fired, lets_go=let_go),
        )
    return Answer(
        outcome="skip",
        reason=root.text if question.held_at is None else f"no longer so, what was held is let go: {root.text}",
        facts=facts,
        slot=found.rest.slot,
        after=Aftermath(
            rest=found.rest,
            keeps="causes",
            keeps_only=None if question.held_at is None else [from_micros(instant) for instant in found.keeps],
            collects=question.event is not None and found.is_news and bool(found.keeps),
            count=len(found.keeps),
            lets_go=let_go,
            is_over=question.event is None
            and question.held_at is None
            and is_over(question.policy.on, found, question.now),
        ),
    )


def _unanswered(found: Judgement, policy: Policy) -> Rest:
    """Return what is kept when a later stage drops the occasion: a level stays true, and is asked again when a run ends."""
    if not traits(policy.on).has_levels:
        return found.rest
    names = {*waits_of(found.rest.waits_for), "run"}
    return replace(found.rest, waits_for=WAITS_OR.join(sorted(names)))


def _with_latches(found: Judgement, question: Question) -> dict[str, object]:
    """Return what is kept while it is held; what was true for an event when the hold began stays so."""
    before = question.slot.get("l", []) if question.held_at is not None and isinstance(question.slot, dict) else []
    return {**found.holding, "l": sorted({*before, *found.holding["l"]})}


STAGE = Stage(name="tree", ask=ask, remembers=True, concerns=concerns)
