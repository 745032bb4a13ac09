"""A policy as it is configured, in words: one sentence for each stage of the chain that it has, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from controller.core.chain import span
from controller.core.explain.lines import Line, some
from controller.core.model import Json
from controller.core.on import (
    Absent,
    AllOf,
    AnyOf,
    InSequence,
    Leaf,
    MaxAge,
    Metric,
    Node,
    NoEpisode,
    On,
    is_judged,
    traits,
)
from controller.core.policy import Budget, Cooldown, Policy
from controller.core.stages import CHAIN

_CONCURRENCY = {
    "queue": "one run waits per key, later causes join it",
    "forbid": "nothing starts while a run of the model is active",
    "replace": "takes the place of an active run that is not being promoted",
    "allow": "starts beside other runs",
}
_SINCE = {
    "decision": "its last decision to retrain",
    "launch": "the model's last launch",
    "success": "the model's last training that went well",
    "promotion": "the model's last promotion",
}


def configured(policy: Policy) -> list[dict[str, Json]]:
    """Return (stage, text) of each stage that a policy has, in the order of the chain; trees have their nodes with it."""
    said = dict(_stages(policy))
    return [
        {"stage": stage.name, "text": said[stage.name], "nodes": _nodes(policy.on) if stage.name == "tree" else []}
        for stage in CHAIN
        if stage.name in said
    ]


def beside(policy: Policy) -> list[str]:
    """Return what is configured beside the chain."""
    found = []
    if policy.priority:
        found.append(f"priority {policy.priority}: of the runs that wait for the same launcher, the higher goes first")
    if policy.jitter is not None:
        found.append(f"its runs start up to {span(policy.jitter)} later, by a share that comes from the model's name")
    return found


def configured_lines(stages: list[dict[str, Json]]) -> Iterator[Line]:
    """Yield the chain for people."""
    width = max((len(stage["stage"]) for stage in stages), default=0)
    for stage in stages:
        yield Line(text=f"{stage['stage']:<{width}}  {stage['text']}", indent=1, hang=width + 2)
        for node in stage["nodes"]:
            yield Line(text=node["text"], indent=3 + node["depth"], mark="•", hang=2)


def _stages(policy: Policy) -> Iterator[tuple[str, str]]:
    yield from _on(policy.on)
    if (ready := policy.ready) is not None:
        parts = []
        if ready.new_rows is not None:
            parts.append(f"{ready.new_rows:,} new rows")
        if ready.label_delay is not None:
            parts.append(f"{span(ready.label_delay)} since the first event held, for labels")
        if ready.unless_open is not None:
            parts.append(f"no open episode of {named(ready.unless_open)}")
        yield "ready", " and ".join(parts)
    if (debounce := policy.debounce) is not None:
        most = "" if debounce.max_wait is None else f", but at most {span(debounce.max_wait)} from the first event"
        yield "debounce", f"nothing more for {span(debounce.quiet)}{most}"
    if (cooldown := policy.cooldown) is not None:
        yield "cooldown", _cooldown(cooldown)
    if (quiet := policy.quiet_hours) is not None:
        days = f" beginning on {', '.join(quiet.days)}" if quiet.days else ""
        yield "quiet_hours", f"outside {quiet.between} {quiet.timezone}{days}"
    if policy.calendars:
        yield "calendars", f"on days that {', '.join(calendar.name for calendar in policy.calendars)} leaves open"
    yield "pause", "unless a person has paused it"
    own = ", its own output too" if policy.own_output else ", none of them its own output"
    yield "loop", f"fewer than {policy.max_chain} runs behind the event{own}"
    if policy.breaker is not None:
        yield "breaker", f"until {some(policy.breaker.after, 'retraining')} in a row did not help"
    if policy.budget is not None:
        yield "budget", _budget(policy.budget, policy.cost)
    if policy.mode != "live":
        words = {"observe": "observe: decides and records, but starts nothing", "off": "off: it is not asked at all"}
        yield "mode", words[policy.mode]
    yield "concurrency", f"{policy.concurrency}: {_CONCURRENCY[policy.concurrency]}"


def _on(on: On) -> Iterator[tuple[str, str]]:
    if isinstance(on, MaxAge):
        again = f"; once it fired, again {span(on.again_after)} after that run ended"
        yield "max_age", f"the champion is at least {span(on.age)} old{again}"
        return
    if isinstance(on, Leaf):
        yield "match", f"events: {named(on)}"
        if on.when is not None:
            yield "when", on.when.source
    else:
        yield "match", f"events that fit one of {len(traits(on).leaves)} leaves" if traits(on).leaves else "no events"
    yield "episode", "repeats of an alert that fires are not news"
    if isinstance(on, Leaf) and on.within is not None:
        yield "count", f"{on.count} within {span(on.within)}{_by(on)}"
    if isinstance(on, Leaf) and on.metric is not None:
        yield "metric", f"{metric_words(on.metric)}{_by(on)}"
    if is_judged(on) and not isinstance(on, Leaf):
        yield "tree", node_words(on)


def _by(leaf: Leaf) -> str:
    return "" if leaf.by is None else f", for each {leaf.by.source}"


def _cooldown(cooldown: Cooldown) -> str:
    failed = "" if cooldown.after_failure is None else f", {span(cooldown.after_failure)} after a run that failed"
    return f"{span(cooldown.period)} since {_SINCE[cooldown.after]}{failed}"


def _budget(budget: Budget, cost: float) -> str:
    scopes = {"model": "of this model", "all": "of all models"}
    whose = scopes.get(budget.scope, f"of models with the same {budget.scope.partition(':')[2]}")
    if budget.runs is not None:
        return f"{budget.runs} runs {whose} within {span(budget.per)}"
    return f"{budget.cost:g} units {whose} within {span(budget.per)}; a run costs {cost:g}"


def _nodes(on: On) -> list[dict[str, Json]]:
    found = []
    for place in traits(on).places:
        depth = place.path.count(".") + 1 if place.path else 0
        if place.path:
            found.append({"path": place.path, "depth": depth - 1, "text": node_words(place.node)})
    return found


def node_words(node: Node) -> str:
    """Say what a node asks for."""
    match node:
        case AllOf():
            return f"all of {len(node.parts)}"
        case AnyOf():
            return f"any of {len(node.parts)}"
        case MaxAge():
            return f"the champion is at least {span(node.age)} old"
        case NoEpisode():
            return f"no open episode of {named(node)}"
        case InSequence():
            return f"within {span(node.within)}, in this order: {'; '.join(named(step) for step in node.steps)}"
        case Absent():
            after = "" if node.after is None else f" after {named(node.after)}"
            return f"no {named(node.expect)} within {span(node.within)}{after}"
        case Leaf():
            return f"{_quantity(node)}{named(node)}{_when(node)}{_by(node)}"


def _quantity(leaf: Leaf) -> str:
    if leaf.metric is not None:
        return f"{metric_words(leaf.metric)}, of "
    return "" if leaf.within is None else f"{leaf.count} within {span(leaf.within)} of "


def _when(leaf: Leaf) -> str:
    return "" if leaf.when is None else f" when {leaf.when.source}"


def metric_words(metric: Metric) -> str:
    """Say what a metric asks for."""
    value = "events" if metric.value is None else metric.value.source
    over = f" over {span(metric.over)}" if metric.over is not None else ""
    side = f"above {metric.above:g}" if metric.above is not None else f"below {metric.below:g}"
    lasting = f" for {span(metric.lasting)}" if metric.lasting is not None else ""
    enough = f", of at least {metric.min_samples} values" if metric.min_samples > 1 else ""
    stale = f", not older than {span(metric.stale_after)}" if metric.stale_after is not None else ""
    rearm = f", re-arms at {metric.clears_at:g}" if metric.rearm is not None else ""
    test = f" ({metric.test})" if metric.test is not None else ""
    return f"{metric.agg} of {value}{test}{over} {side}{lasting}{enough}{stale}{rearm}"


def named(leaf: Leaf | NoEpisode) -> str:
    """Return what the events, or episodes, of a node are called."""
    words: list[str] = []
    if leaf.type is not None:
        words.append(f"type {leaf.type.text}")
    if leaf.source is not None:
        words.append(f"from {leaf.source}")
    if leaf.subject is not None:
        words.append(f"about {leaf.subject.text}")
    return " ".join(words) or "any"


def length(seconds: float) -> str:
    """Write a length in seconds."""
    return span(timedelta(seconds=round(seconds)))


def leaf_paths(on: On) -> Mapping[str, Leaf]:
    """Return the leaves of an `on` that events may fit, by their paths."""
    return dict(traits(on).leaves)
