"""What a policy remembers for a key, in words: what it counted and since when, what is armed, how much of each limit is left.

Nodes are asked as the chain asks them, on a copy and without an event, so that what is shown is what would count.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.chain import PolicyState, Question, clock, from_micros, span
from controller.core.conditions import event_scope
from controller.core.explain.standing import Standing, written
from controller.core.model import Json
from controller.core.on import Leaf, MaxAge, is_judged
from controller.core.stages import budget as budget_stage
from controller.core.stages import metric, tree


def remembered(standing: Standing) -> dict[str, Json]:
    """Return what a policy remembers for a key: sentences, and the nodes of its condition as they are now."""
    return {"words": list(_words(standing)), "nodes": _nodes(standing)}


def limits(standing: Standing) -> dict[str, Json]:
    """Return how a policy's budget and breaker stand; null for what it does not have."""
    return {"budget": _budget(standing), "breaker": _breaker(standing)}


def missing(standing: Standing) -> str:
    """Say what a policy that holds nothing has so far, and needs; empty when it counts nothing."""
    on, state = standing.policy.on, standing.state
    if is_judged(on):
        nodes = _nodes(standing)
        return str(nodes[0]["text"]) if nodes else ""
    if not isinstance(on, Leaf) or on.within is None:
        return ""
    window = () if state is None else state.slots.get("count") or ()
    return f"{len(window)} of {on.count} within {span(on.within)} so far"


def _words(standing: Standing) -> Iterator[str]:
    state, policy = standing.state, standing.policy
    if state is None:
        yield "nothing yet"
        return
    if state.stage is not None:
        since = "" if state.held_since is None else f" since {clock(state.held_since)}"
        yield f"holds {_causes(state.held_count)} at {state.stage}{since}"
    elif state.held_count:
        yield f"has collected {_causes(state.held_count)}, and holds nothing"
    else:
        yield "holds nothing"
    if state.on_hash != policy.on_hash:
        yield "it was built under another `on`, and begins anew when it is next asked"
        return
    yield from _slots(standing, state)


def _slots(standing: Standing, state: PolicyState) -> Iterator[str]:
    on, slots = standing.policy.on, state.slots
    if isinstance(on, Leaf) and on.within is not None and (window := slots.get("count")):
        newest, oldest = from_micros(window[-1]), from_micros(window[0])
        yield (
            f"count: {len(window)} of {on.count} within {span(on.within)}, from {clock(oldest)} to {clock(newest)}; "
            f"the oldest leaves the window for an event after {clock(oldest + on.within)}"
        )
    if (debounce := slots.get("debounce")) is not None:
        yield f"debounce: first event {clock(from_micros(debounce['first']))}, last {clock(from_micros(debounce['last']))}"
    if (ready := slots.get("ready")) is not None:
        needed = standing.policy.ready.new_rows if standing.policy.ready is not None else None
        asked = "" if needed is None else f" of {needed:,}"
        yield f"ready: {ready['rows']:,.0f}{asked} rows, first event {clock(from_micros(ready['first']))}"
    if isinstance(on, MaxAge):
        champion = standing.facts.champion
        fired_for = (slots.get("max_age") or {}).get("fired_for")
        fired = champion is not None and fired_for == champion.version_id
        yield "max_age: disarmed, it fired for this champion" if fired else "max_age: armed"


def _nodes(standing: Standing) -> list[dict[str, Json]]:
    """Return the nodes of a tree or a metric, asked now on a copy."""
    policy, state, facts = standing.policy, standing.state, standing.facts
    if not is_judged(policy.on) or (state is not None and state.on_hash != policy.on_hash):
        return []
    stage = metric.STAGE if isinstance(policy.on, Leaf) else tree.STAGE
    question = Question(
        policy=policy,
        key=standing.key,
        slot=None if state is None else state.slots.get(stage.name),
        event=None,
        held_at=None if state is None else state.stage,
        facts=facts,
        scope=event_scope(None, model=policy.model, labels=facts.labels, champion=facts.champion),
        now=standing.now,
    )
    answer = stage.ask(question)
    nodes: list[dict[str, Json]] = [] if answer is None else list(answer.facts.get("nodes", ()))
    return nodes


def _budget(standing: Standing) -> dict[str, Json] | None:
    policy = standing.policy
    budget = policy.budget
    if budget is None:
        return None
    spent = sorted((at, cost) for at, cost in standing.facts.spent if at > standing.now - budget.per)
    limit = budget_stage.limit_of(budget)
    wanted = 1.0 if budget.runs is not None else policy.cost
    used = float(len(spent)) if budget.runs is not None else round(sum(cost for _, cost in spent), 9)
    free_at = budget_stage.free_at(budget, spent, wanted)
    return {
        "unit": "runs" if budget.runs is not None else "units",
        "limit": limit,
        "spent": used,
        "left": max(limit - used, 0.0),
        "per": span(budget.per),
        "scope": budget.scope,
        #: When the oldest leaves the window, and when there is enough for one more; null: there is nothing, or it is now.
        "next_back_at": written(spent[0][0] + budget.per) if spent else None,
        "enough_at": None if free_at is None else written(free_at),
    }


def _breaker(standing: Standing) -> dict[str, Json] | None:
    breaker = standing.policy.breaker
    if breaker is None:
        return None
    count = len(standing.facts.unhelpful)
    return {
        "state": "open" if count >= breaker.after else "closed",
        "unhelpful": count,
        "after": breaker.after,
        "runs": list(standing.facts.unhelpful[: breaker.after]),
    }


def _causes(count: int) -> str:
    return "1 cause" if count == 1 else f"{count:,} causes"
