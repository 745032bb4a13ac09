"""Policies that wrote no decision on an event, asked again: how near each came, the nearest first.

An event that does not get past the first stages is only counted, so its explanation is worked out anew, by the same `select` that the
daemon uses, under the version of the policy that was in force when the event was decided, as far as that can be told.
Of a condition that is a tree the nearest leaf is named, and what of it did not fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from controller.core.conditions import event_scope
from controller.core.decide import Selection, select
from controller.core.episode import Episode
from controller.core.explain.standing import trace_shape
from controller.core.model import Champion, Event, Json
from controller.core.on import Leaf, traits
from controller.core.policy import ModelSpec, Policy

#: So many policies are asked again, those whose words fit best.
MOST_ASKED = 50

#: How far it came: stages passed, patterns that fit.
Nearness = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A policy that is asked again."""

    policy: Policy
    labels: Mapping[str, str]
    #: Whether this is the version that was in force when the event was decided, and another is now.
    is_of_then: bool = False


def nearest(
    event: Event, models: Iterable[ModelSpec], *, known: set[tuple[str, str]], limit: int = MOST_ASKED
) -> tuple[list[Asked], int]:
    """Return the policies whose words fit an event best, and how many others there are; those in `known` wrote a decision."""
    found = [
        Asked(policy=policy, labels=spec.labels)
        for spec in models
        for policy in spec.policies.values()
        if (spec.name, policy.name) not in known and traits(policy.on).leaves
    ]
    best = heapq.nlargest(limit, found, key=lambda asked: _fit(asked.policy, event))
    return best, len(found) - len(best)


def ask_again(
    event: Event, asked: Sequence[Asked], champions: Mapping[str, Champion], episode: Episode | None
) -> list[dict[str, Json]]:
    """Return what each policy says of an event, the nearest miss first."""
    found = [_ask(each, event, champions.get(each.policy.model), episode) for each in asked]
    found.sort(key=lambda entry: entry[0], reverse=True)
    return [account for _, account in found]


def _fit(policy: Policy, event: Event) -> tuple[int, int]:
    """Order policies by their best leaf: the fewer of its patterns do not fit the better, then the more that do."""
    return max((_leaf_fit(leaf, event) for _, leaf in traits(policy.on).leaves), default=(-9, 0))


def _leaf_fit(leaf: Leaf, event: Event) -> tuple[int, int]:
    fits = misses = 0
    for given, holds in (
        (leaf.source is not None, leaf.source == event.origin),
        (leaf.type is not None, leaf.type is not None and leaf.type.matches(event.type)),
        (leaf.subject is not None, leaf.subject is not None and leaf.subject.matches(event.subject)),
    ):
        fits += given and holds
        misses += given and not holds
    return -misses, fits


def _ask(
    asked: Asked, event: Event, champion: Champion | None, episode: Episode | None
) -> tuple[Nearness, dict[str, Json]]:
    policy = asked.policy
    scope = event_scope(event, model=policy.model, labels=asked.labels, champion=champion)
    selection = select(policy, event, scope, episode=episode)
    if isinstance(policy.on, Leaf) or selection.outcome != "skip":
        fit = max((_leaf_fit(leaf, event)[1] for _, leaf in traits(policy.on).leaves), default=0)
        return (_passed(selection), fit), _account(asked, selection, event, path="")
    nearness, path, selection = max(
        (
            _ask_leaf(policy, path, leaf, event, champion, asked.labels, episode)
            for path, leaf in traits(policy.on).leaves
        ),
        key=lambda found: found[0],
    )
    return nearness, _account(asked, selection, event, path=path)


def _ask_leaf(
    policy: Policy,
    path: str,
    leaf: Leaf,
    event: Event,
    champion: Champion | None,
    labels: Mapping[str, str],
    episode: Episode | None,
) -> tuple[Nearness, str, Selection]:
    """Ask a leaf of a tree whether the event fits it, as if it stood alone."""
    alone = replace(policy, on=replace(leaf, metric=None, by=None, count=1, within=None))
    scope = event_scope(event, model=policy.model, labels=labels, champion=champion)
    selection = select(alone, event, scope, episode=episode)
    return (_passed(selection), _leaf_fit(leaf, event)[1]), path, selection


def _passed(selection: Selection) -> int:
    return sum(line.outcome == "pass" for line in selection.trace)


def _account(asked: Asked, selection: Selection, event: Event, *, path: str) -> dict[str, Json]:
    policy = asked.policy
    last = selection.trace[-1] if selection.trace else None
    kind = {"pass": "UNDECIDED", "skip": "SKIP", "error": "ERROR"}[selection.outcome]
    reason = last.reason if last is not None else ""
    if kind == "UNDECIDED" and policy.mode == "off":
        kind, reason = "OFF", "it would let it pass, but the policy is off, so it is not asked"
    elif kind == "UNDECIDED" and event.state != "PENDING":
        reason = (
            "let it pass"
            if asked.is_of_then
            else "would let it pass as it is configured now; it was another one, or none, when the event was decided"
        )
    elif path:
        reason = f"{path}: {reason}"
    return {
        "recomputed": True,
        "of_then": asked.is_of_then,
        "kind": kind,
        "model": policy.model,
        "policy": policy.name,
        "policy_version": policy.version,
        "mode": policy.mode,
        "key": selection.key,
        "leaf": path or None,
        "stage": last.stage if last is not None else "match",
        "reason": reason,
        "trace": [trace_shape(line) for line in selection.trace],
        "run": None,
        "became": "",
    }
