"""Finds policies that add nothing beside another one of the same model, because that one fires whenever they do.

A policy stands in another's shadow when the other's `on` is the same or wider and both wait alike. Where what they wait for differs the two
fire at different times, and nothing is said; nor of `observe` beside `live`, which is how a policy is tried.
Policies are looked up by the words of their `on`, so that ten thousand of one model are not compared each with each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from controller.config.problems import Findings
from controller.core.conditions import Pattern
from controller.core.duration import format_duration
from controller.core.on import AnyOf, Leaf, MaxAge, Node
from controller.core.policy import ModelSpec, Policy
from controller.core.terms import Node as Term
from controller.core.terms import conjuncts, read_terms

#: Of the policies that may throw a shadow on one, so many are looked at.
_MOST_COMPARED = 64
#: With more terms only the whole `when`, and none, are looked for.
_MOST_TERMS = 4
#: Any pattern with a wildcard.
_GLOB = "*"

#: Source, type, subject and the terms of `when`; None where nothing is asked.
_Words = tuple[str | None, str | None, str | None, frozenset[Term]]


def warn_of_shadowed_policies(model: ModelSpec, findings: Findings) -> None:
    """Note each policy of a model that another one makes superfluous."""
    policies = [policy for policy in model.policies.values() if policy.mode != "off"]
    if len(policies) < 2:
        return
    shadows = _Shadows(policies)
    for policy in policies:
        other = shadows.over(policy)
        if other is None:
            continue
        place = findings.place(("models", model.name, "policies", other.name), at_key=True)
        findings.add(
            ("models", model.name, "policies", policy.name),
            f"it adds nothing: policy {other.name!r} at {place} {_says(other, policy)}",
            "take one of them out, or say what is different",
            severity="warning",
            at_key=True,
        )


def _says(other: Policy, policy: Policy) -> str:
    if isinstance(other.on, MaxAge) and isinstance(policy.on, MaxAge) and other.on.age < policy.on.age:
        return f"fires already at {format_duration(other.on.age)}"
    return "fires whenever it does"


class _Shadows:
    """The policies of a model, by what they listen to."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._order = {policy.name: position for position, policy in enumerate(policies)}
        self._plain: dict[_Words, list[tuple[Policy, Leaf]]] = defaultdict(list)
        self._same: dict[str, list[Policy]] = defaultdict(list)
        self._levels = [policy for policy in policies if isinstance(policy.on, MaxAge)]
        self._levels.sort(key=lambda policy: policy.on.age if isinstance(policy.on, MaxAge) else 0)
        for policy in policies:
            self._same[policy.on_hash].append(policy)
            for leaf in _alternatives(policy.on):
                if leaf is not None and _is_plain(leaf):
                    self._plain[_words(leaf)].append((policy, leaf))

    def over(self, policy: Policy) -> Policy | None:
        """Return the policy that makes this one superfluous; of two that are alike, the later one is."""
        for other in self._same[policy.on_hash][:_MOST_COMPARED]:
            if (
                self._order[other.name] < self._order[policy.name]
                and other.on == policy.on
                and _wait_alike(other, policy)
            ):
                return other
        if isinstance(policy.on, MaxAge):
            return self._over_level(policy, policy.on)
        covered = [self._over_leaf(policy, leaf) for leaf in _alternatives(policy.on)]
        return covered[0] if covered and all(other is covered[0] for other in covered) else None

    def _over_level(self, policy: Policy, on: MaxAge) -> Policy | None:
        for other in self._levels[:_MOST_COMPARED]:
            if isinstance(other.on, MaxAge) and other.on.age < on.age and _wait_alike(other, policy):
                return other
        return None

    def _over_leaf(self, policy: Policy, leaf: Leaf | None) -> Policy | None:
        if leaf is None or not _waits_for_no_event(policy):
            return None
        compared = 0
        for words in _wider(leaf):
            for other, its in self._plain.get(words, ()):
                compared += 1
                if compared > _MOST_COMPARED:
                    return None
                if other is not policy and self._covers(other, its, policy, leaf):
                    return other
        return None

    def _covers(self, other: Policy, its: Leaf, policy: Policy, leaf: Leaf) -> bool:
        if not (_fits(its.type, leaf.type) and _fits(its.subject, leaf.subject) and its.by == leaf.by):
            return False
        if not (_waits_for_no_event(other) and _wait_alike(other, policy)):
            return False
        mutual = _words(its) == _words(leaf) and _is_plain(leaf)
        return not mutual or not isinstance(policy.on, Leaf) or self._order[other.name] < self._order[policy.name]


def _alternatives(on: Node) -> list[Leaf | None]:
    """Return the leaves of which one is enough; None for what is no leaf."""
    parts = on.parts if isinstance(on, AnyOf) else (on,)
    return [part if isinstance(part, Leaf) and part.metric is None else None for part in parts]


def _is_plain(leaf: Leaf) -> bool:
    """Say whether every event that fits makes it true."""
    return leaf.within is None and leaf.metric is None


def _words(leaf: Leaf) -> _Words:
    return leaf.source, _key(leaf.type), _key(leaf.subject), _terms(leaf)


def _key(pattern: Pattern | None) -> str | None:
    return None if pattern is None else _GLOB if pattern.literal is None else pattern.text


def _terms(leaf: Leaf) -> frozenset[Term]:
    return frozenset() if leaf.when is None else frozenset(conjuncts(read_terms(leaf.when.source)))


def _wider(leaf: Leaf) -> Iterator[_Words]:
    """Yield the words that a leaf may have which is the same or wider."""
    terms = _terms(leaf)
    sizes = range(len(terms) + 1) if len(terms) <= _MOST_TERMS else (0, len(terms))
    fewer = [frozenset(some) for size in sizes for some in combinations(terms, size)]
    for source in dict.fromkeys((leaf.source, None)):
        for type_ in _wider_patterns(leaf.type):
            for subject in _wider_patterns(leaf.subject):
                for some in fewer:
                    yield source, type_, subject, some


def _wider_patterns(pattern: Pattern | None) -> dict[str | None, None]:
    return dict.fromkeys((_key(pattern), _GLOB, None) if pattern is not None else (None,))


def _fits(wide: Pattern | None, narrow: Pattern | None) -> bool:
    """Say whether whatever fits the one fits the other; of two different patterns with wildcards nobody can say."""
    if wide is None or wide == narrow:
        return True
    return narrow is not None and narrow.literal is not None and wide.matches(narrow.literal)


def _wait_alike(other: Policy, policy: Policy) -> bool:
    """Say whether the other goes on whenever this one does, once both have an occasion."""
    return (
        (other.ready, other.debounce, other.cooldown, other.quiet_hours, other.calendars)
        == (policy.ready, policy.debounce, policy.cooldown, policy.quiet_hours, policy.calendars)
        and (other.breaker, other.budget, other.mode, other.jitter)
        == (policy.breaker, policy.budget, policy.mode, policy.jitter)
        and other.max_chain >= policy.max_chain
        and other.own_output >= policy.own_output
        and other.priority >= policy.priority
    )


def _waits_for_no_event(policy: Policy) -> bool:
    """Say whether how long it waits does not hang on which events it heard."""
    cooldown = policy.cooldown
    return policy.ready is None and policy.debounce is None and (cooldown is None or cooldown.after != "decision")
