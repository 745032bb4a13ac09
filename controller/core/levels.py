"""How the levels of a policy stand: back, still beyond, or not known; asked when the watch after a promotion is over.

A level is a `metric`, alone or in a tree.
It is back when its value is at or past the point where it re-arms; between that and its threshold it is not back yet.
Nothing is known without a value since an instant, with too few or stale values, and for a policy that is another by now.
Nothing is remembered here: the policy's own state is read, as the chain left it.
"""

from __future__ import annotations

from datetime import datetime

from controller.core.chain import Facts, PolicyState, span, to_micros
from controller.core.conditions import Scope
from controller.core.model import Json
from controller.core.nodes.finding import Moment, named, number, tamed
from controller.core.nodes.metric import judge_metric, newest_value
from controller.core.on import Leaf, Metric, On, Place, traits
from controller.core.policy import Policy
from controller.core.watch import Reading

#: Where a metric keeps what it remembers: alone, and in a tree.
_ALONE, _IN_A_TREE = "metric", "tree"


def has_levels(on: On) -> bool:
    """Say whether an `on` has a level that can be seen to clear."""
    return any(isinstance(place.node, Leaf) and place.node.metric is not None for place in traits(on).places)


def read_levels(
    policy: Policy, key: str, state: PolicyState | None, *, since: datetime, now: datetime
) -> list[Reading]:
    """Return how each level of a policy stands, by the values that came since an instant."""
    if state is None:
        return [_unknown(policy, key, "nothing is remembered")]
    if state.on_hash != policy.on_hash:
        return [_unknown(policy, key, "the policy has another `on` now")]
    kept = state.slots.get(_ALONE if isinstance(policy.on, Leaf) else _IN_A_TREE) or {}
    return [
        _read(policy, key, place, place.node, place.node.metric, kept, since=to_micros(since), now=to_micros(now))
        for place in traits(policy.on).places
        if isinstance(place.node, Leaf) and place.node.metric is not None
    ]


def _read(
    policy: Policy, key: str, place: Place, leaf: Leaf, metric: Metric, kept: Json, *, since: int, now: int
) -> Reading:
    slot = kept.get(str(place.number)) or {}
    newest = newest_value(slot, metric, now)
    if newest is None or newest < since:
        return _unknown(policy, key, f"no value of {_name(leaf, metric)} came since the promotion")
    before = tamed(kept.get("t", 0), now)
    finding = judge_metric(place, leaf, slot, _moment(policy, before, now))
    if finding.truth is None or finding.value is None:
        return _unknown(policy, key, finding.text)
    value = float(finding.value)
    is_above = metric.above is not None
    is_back = value <= metric.clears_at if is_above else value >= metric.clears_at
    side = "above" if is_above else "below"
    text = f"{_name(leaf, metric)} is {number(value)}; {side} {number(metric.threshold)} asked for it"
    if not is_back and (value <= metric.threshold if is_above else value >= metric.threshold):
        text += f", and it is back at {number(metric.clears_at)}"
    return Reading(policy=policy.name, key=key, stands="cleared" if is_back else "beyond", text=text)


def _moment(policy: Policy, before: int, now: int) -> Moment:
    """Return a look at the present instant, without an event."""
    return Moment(
        event=None,
        event_at=0,
        at=max(before, now),
        before=before,
        now=now,
        fits=frozenset(),
        latched=frozenset(),
        observes=policy.mode == "observe",
        is_keyed=traits(policy.on).is_keyed,
        facts=Facts(),
        scope=Scope({}),
    )


def _name(leaf: Leaf, metric: Metric) -> str:
    over = "" if metric.over is None else f" over {span(metric.over)}"
    return f"{metric.test or named(leaf)} {metric.agg}{over}"


def _unknown(policy: Policy, key: str, text: str) -> Reading:
    return Reading(policy=policy.name, key=key, stands="unknown", text=f"{policy.name}: {text}")
