"""Judges a condition: asks every node of it at a moment, and joins what they find.

Nothing is asked twice and nothing is left out, also where the answer is settled already: each node takes in the event, and the explanation
names what every part of the condition needs and has.

While a policy holds, what was true for an event stays true (it happened), and what is a state of affairs (a metric, an age, an open
episode, an absence) is asked again before what is held may go on: a condition that is no longer met never fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from controller.core.chain import WAITS_OR, Question, Rest, from_micros, to_micros
from controller.core.conditions import Scope
from controller.core.model import TEST_EVENT, Event, Json
from controller.core.nodes.edges import judge_count, judge_plain, judge_sequence
from controller.core.nodes.finding import Finding, Moment, event_time, tamed
from controller.core.nodes.metric import judge_metric
from controller.core.nodes.state import judge_absent, judge_age, judge_no_episode
from controller.core.on import Absent, AllOf, AnyOf, InSequence, Leaf, MaxAge, NoEpisode, On, Place, traits

#: What the slot keeps beside that of the nodes: up to when windows slid, and which nodes were true when the hold began.
_AT, _LATCHED = "t", "l"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What was found of a condition."""

    root: Finding
    findings: Sequence[Finding]
    #: While nothing is held; while this occasion is held; after it fired.
    rest: Rest
    holding: Mapping[str, Json]
    fired: Rest | None
    #: Event times of the causes that are kept, and of those that no longer are.
    keeps: tuple[int, ...]
    lets_go: tuple[int, ...]
    is_news: bool


def fits(leaf: Leaf, event: Event) -> bool:
    """Say whether source, type and subject fit; what tests a source fits nothing."""
    return (
        event.type != TEST_EVENT
        and (leaf.source is None or leaf.source == event.origin)
        and (leaf.type is None or leaf.type.matches(event.type))
        and (leaf.subject is None or leaf.subject.matches(event.subject))
    )


def fitting(on: On, event: Event, scope: Scope) -> list[tuple[str, Leaf]]:
    """Return the leaves that an event fits, `when` and all, with their paths; raises `ExpressionError` as `when` does."""
    return [
        (path, leaf)
        for path, leaf in traits(on).leaves
        if fits(leaf, event) and (leaf.when is None or leaf.when.test(scope))
    ]


def judge(question: Question) -> Judgement:
    """Ask every node; the same question has the same answer."""
    on, slot = question.policy.on, dict(question.slot or {})
    now = to_micros(question.now)
    before = tamed(slot.get(_AT, 0), now)
    event_at = 0 if question.event is None else to_micros(event_time(question.event))
    held = question.held_at is not None
    moment = Moment(
        event=question.event,
        event_at=event_at,
        at=max(before, now if question.event is None else event_at),
        before=before,
        now=now,
        fits=frozenset(
            () if question.event is None else (path for path, _ in fitting(on, question.event, question.scope))
        ),
        latched=frozenset(slot.get(_LATCHED, ()) if held else ()),
        observes=question.policy.mode == "observe",
        is_keyed=traits(on).is_keyed,
        facts=question.facts,
        scope=question.scope,
    )
    findings = _ask_all(on, slot, moment)
    root = findings[0]
    is_met = bool(root.truth) or root.is_blocked
    fired = None
    if is_met:
        later = _later(moment, {str(each.place.number): each.fired for each in findings})
        fired = _rest(_ask_all(on, later[1], later[0]), later[0])
    keeps = tuple(sorted({instant for each in findings for instant in each.keeps}))
    kept_before = _kept_before(on, slot, moment)
    return Judgement(
        root=root,
        findings=findings,
        rest=_rest(findings, moment),
        holding=_kept(findings, moment) | {_LATCHED: [each.place.number for each in findings if each.is_edge]},
        fired=fired,
        keeps=keeps,
        lets_go=tuple(sorted(kept_before - set(keeps))),
        is_news=any(each.is_news for each in findings),
    )


def _ask_all(on: On, slot: Mapping[str, Any], moment: Moment) -> list[Finding]:
    """Return what every node finds, by number."""
    findings: dict[int, Finding] = {}
    # From the last to the first, so that the parts of a node are known before it.
    for place in reversed(traits(on).places):
        findings[place.number] = _ask(place, slot.get(str(place.number)), moment, findings)
    return [findings[number] for number in range(len(findings))]


def _ask(place: Place, slot: Any, moment: Moment, known: Mapping[int, Finding]) -> Finding:
    match place.node:
        case Leaf(metric=None, within=None) as leaf:
            return judge_plain(place, leaf, moment)
        case Leaf(metric=None) as leaf:
            return judge_count(place, leaf, slot, moment)
        case Leaf() as leaf:
            return judge_metric(place, leaf, slot, moment)
        case MaxAge() as node:
            return judge_age(place, node, slot, moment)
        case NoEpisode() as node:
            return judge_no_episode(place, node, moment)
        case InSequence() as node:
            return judge_sequence(place, node, slot, moment)
        case Absent() as node:
            return judge_absent(place, node, slot, moment)
        case AllOf() as node:
            return _all(place, _parts(place, len(node.parts), known))
        case AnyOf() as node:
            return _any(place, _parts(place, len(node.parts), known))


def _parts(place: Place, count: int, known: Mapping[int, Finding]) -> list[Finding]:
    """Return what the parts of a node found: the first has the next number, and each next one follows the last below it."""
    parts, number = [], place.number + 1
    for _ in range(count):
        parts.append(known[number])
        number += _size(known[number])
    return parts


def _size(finding: Finding) -> int:
    return 1 + sum(_size(part) for part in finding.parts)


def _all(place: Place, parts: Sequence[Finding]) -> Finding:
    missing = [part for part in parts if not part.truth]
    truth = None if missing and all(part.truth is None for part in missing) else not missing
    texts = ", ".join(part.text for part in (missing or parts))
    text = (
        f"{len(parts) - len(missing)} of {len(parts)}: all needs {texts}"
        if missing
        else f"all of {len(parts)}: {texts}"
    )
    return Finding(
        place=place,
        kind="all",
        truth=truth,
        is_blocked=bool(missing) and all(part.is_blocked for part in missing),
        text=text,
        value=len(parts) - len(missing),
        needed=len(parts),
        parts=tuple(parts),
    )


def _any(place: Place, parts: Sequence[Finding]) -> Finding:
    true = [part for part in parts if part.truth]
    truth = True if true else None if all(part.truth is None for part in parts) else False
    texts = ", ".join(part.text for part in (true or parts))
    text = f"any of {len(parts)}: {texts}" if true else f"0 of {len(parts)}: any needs {texts}"
    return Finding(
        place=place,
        kind="any",
        truth=truth,
        is_blocked=not true and any(part.is_blocked for part in parts),
        text=text,
        value=len(true),
        needed=1,
        parts=tuple(parts),
    )


# ------------------------------------------------------------------------------------------------------ what is kept


def _kept(findings: Sequence[Finding], moment: Moment) -> dict[str, Json]:
    slots = {str(each.place.number): each.slot for each in findings if each.slot}
    return {**slots, _AT: moment.at} if slots else {}


def _rest(findings: Sequence[Finding], moment: Moment) -> Rest:
    """Return what is kept when nothing is held, until something may change, or nothing of it matters any more."""
    slot = _kept(findings, moment)
    wakes = [each.wakes_at for each in findings if each.wakes_at is not None and not each.truth]
    # A level that is true though the whole is not may become false by time, which needs no look.
    waits = sorted({each.waits_for for each in findings if each.waits_for is not None and not each.truth})
    over = [each.over_at for each in findings if each.slot]
    if slot and None not in over:
        over_at = max(at for at in over if at is not None)
        if over_at > moment.now:
            wakes.append(over_at)
        else:
            slot = {}
    due_at = None if not wakes else from_micros(max(min(wakes), moment.now + 1))
    return Rest(slot=slot, due_at=due_at, waits_for=WAITS_OR.join(waits) or None)


def is_over(on: On, judgement: Judgement, now: datetime) -> bool:
    """Say whether nothing that is kept matters any more, so that it can be forgotten; without a key time may still make it true."""
    at = to_micros(now)
    kept = [each for each in judgement.findings if each.slot]
    if not traits(on).is_keyed and any(each.wakes_at or each.waits_for for each in judgement.findings):
        return False
    return bool(kept) and all(each.over_at is not None and each.over_at <= at for each in kept)


def _later(moment: Moment, slots: Mapping[str, Json]) -> tuple[Moment, dict[str, Json]]:
    """Return the moment right after a FIRE, without its event, and what is kept then."""
    after = Moment(
        event=None,
        event_at=0,
        at=moment.at,
        before=moment.at,
        now=moment.now,
        fits=frozenset(),
        latched=frozenset(),
        observes=moment.observes,
        is_keyed=moment.is_keyed,
        # The run that ended is one before the run that begins now.
        facts=replace(moment.facts, last_ended_at=None),
        scope=moment.scope,
    )
    return after, {number: slot for number, slot in slots.items() if slot}


def _kept_before(on: On, slot: Mapping[str, Any], moment: Moment) -> set[int]:
    """Return the event times of the causes that were kept before."""
    found: set[int] = set()
    for place in traits(on).places:
        kept = slot.get(str(place.number))
        if not kept:
            continue
        match place.node:
            case Leaf(metric=None):
                found |= {tamed(instant, moment.now) for instant in kept}
            case Leaf():
                found |= {tamed(kept["x"], moment.now)} if "x" in kept else set()
            case InSequence():
                found |= {tamed(instant, moment.now) for way in kept for instant in way}
            case Absent(after=Leaf()):
                found |= {tamed(kept["r"], moment.now)} if "r" in kept and "a" not in kept else set()
            case _:
                pass
    return found
