"""The shape of `on`: what makes an occasion for a policy.

A node is one thing: a leaf about events (plain, with `count`, or with `metric`), `all`, `any`, `not`, `sequence`, `absent` or `max_age`.
What can only be said of the whole tree (its size, its keys, where `not` may stand) is checked at its root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from controller.config.values import Duration, EventExpression, Glob, Section, Text
from controller.core.on import AGAIN_AFTER, COUNTING, MAX_DEPTH, MAX_LEAVES
from controller.ports import refusal

#: A policy keeps one instant for each event it counts, so the number is bounded; likewise of distinct values.
MAX_COUNT = 10_000

Number = Annotated[float, Field(allow_inf_nan=False)]

#: A test that answers with a p-value, and measures that are distances; `test`, or the last name in `value`, may say so.
_P_VALUE = re.compile(r"(^|[\W_])p[-_ ]?val(ue)?s?([\W_]|$)", re.IGNORECASE)
_DISTANCE = re.compile(
    r"(^|[\W_])(psi|wasserstein|jensen[-_ ]?shannon|js[-_ ]?(distance|divergence)|kl[-_ ]?div(ergence)?|hellinger)([\W_]|$)",
    re.IGNORECASE,
)
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_LEAF_KEYS = ("source", "type", "subject", "when", "count", "within", "metric")
_TREE_KEYS = ("all", "any", "not", "sequence", "absent", "max_age")
_ONE_OF = (
    f"a node is a leaf (source, type, subject, when), or one of {', '.join(_TREE_KEYS)}; join several with all or any"
)


class AliasedSection(Section):
    """A section with keys that are words of Python."""

    model_config = ConfigDict(serialize_by_alias=True)


class MetricSection(AliasedSection):
    """A value of many events against a threshold."""

    value: EventExpression | None = Field(None, description="CEL that gives a number; 1 each for rate when left out")
    agg: Literal["avg", "sum", "min", "max", "last", "distinct", "rate"] = Field(
        description="What is made of the values; rate is their sum per hour"
    )
    over: Duration | None = Field(None, description="Length of the sliding window, in event time; not needed for last")
    above: Number | None = Field(None, description="True when the value is more than this")
    below: Number | None = Field(None, description="True when the value is less than this")
    rearm_below: Number | None = Field(None, description="With above: re-arms at this or less; by default at `above`")
    rearm_above: Number | None = Field(None, description="With below: re-arms at this or more; by default at `below`")
    lasting: Duration | None = Field(None, alias="for", description="True only after so long beyond, by our clock")
    min_samples: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Fewer values in the window, and nothing is known; 1, or 0 for sum and rate"
    )
    stale_after: Duration | None = Field(None, description="Without a value for so long nothing is known")
    again_after: Duration | None = Field(
        None, description="Fires again this long after its run ended, if it is still true; 1d by default"
    )
    test: Text | None = Field(None, description="What the value is: the name of a statistical test")

    @model_validator(mode="after")
    def _fits_together(self) -> MetricSection:
        if self.value is None and self.agg != "rate":
            raise refusal(f"{self.agg} needs a value", hint="add `value: event.data.…`")
        if self.over is None and self.agg != "last":
            raise refusal(f"{self.agg} needs a window", hint="add `over: 24h`")
        if (self.above is None) is (self.below is None):
            raise refusal("it needs a threshold: above or below, and only one of them", hint="write `above: 0.3`")
        self._check_rearming()
        self._check_samples()
        self._check_polarity()
        return self

    def _check_rearming(self) -> None:
        if self.above is not None and self.rearm_above is not None:
            raise refusal("above re-arms on its other side", hint="write `rearm_below`")
        if self.below is not None and self.rearm_below is not None:
            raise refusal("below re-arms on its other side", hint="write `rearm_above`")
        if self.above is not None and self.rearm_below is not None and self.rearm_below > self.above:
            raise refusal(
                f"rearm_below {self.rearm_below:g} is more than above {self.above:g}, so it would always be armed"
            )
        if self.below is not None and self.rearm_above is not None and self.rearm_above < self.below:
            raise refusal(
                f"rearm_above {self.rearm_above:g} is less than below {self.below:g}, so it would always be armed"
            )

    def _check_samples(self) -> None:
        if self.min_samples is not None and self.agg in ("last", "distinct"):
            raise refusal(f"min_samples is of no use with {self.agg}")
        if self.min_samples == 0 and self.agg not in COUNTING:
            raise refusal(f"there is no {self.agg} of no values", hint="min_samples is at least 1")
        if self.agg == "distinct":
            given = [n for n in (self.above, self.below, self.rearm_above, self.rearm_below) if n is not None]
            if any(not 0 <= number <= MAX_COUNT for number in given):
                raise refusal(f"distinct counts from 0 to {MAX_COUNT}")

    def _check_polarity(self) -> None:
        """A p-value is small when it drifts, a distance is large; asking the other way round is silently wrong."""
        path = "" if self.value is None else self.value.source
        said = [self.test or "", path.rpartition(".")[2] if _PATH.fullmatch(path) else ""]
        if self.above is not None and any(_P_VALUE.search(text) for text in said):
            raise refusal(
                "a p-value is small when it drifts, so `above` is the wrong way round", hint="write `below: 0.05`"
            )
        if self.below is not None and any(_DISTANCE.search(text) for text in said):
            raise refusal("a distance is large when it drifts, so `below` is the wrong way round", hint="write `above`")


class NotSection(Section):
    """No open episode that fits."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the type of the episode's first event")
    subject: Glob | None = Field(None, description="Glob over its subject; $model stands for the model's name")

    @model_validator(mode="after")
    def _names_something(self) -> NotSection:
        if not self.model_fields_set:
            raise refusal("it would wait for every episode", hint="name a source, a type or a subject")
        return self


class StepSection(Section):
    """A plain leaf: which events."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the event's type, such as drift.*")
    subject: Glob | None = Field(None, description="Glob over the event's subject; $model stands for the model's name")
    when: EventExpression | None = Field(None, description="CEL over event, model and champion; must be true")
    by: EventExpression | None = Field(None, description="CEL that gives a key; every leaf has one, or none")

    @model_validator(mode="after")
    def _names_something(self) -> StepSection:
        if not self.model_fields_set - {"by"}:
            raise refusal("it would match every event", hint="name a source, a type, a subject or a `when`")
        return self


class SequenceSection(Section):
    """Events that come in this order."""

    steps: Annotated[list[StepSection], Field(min_length=2)] = Field(description="Plain leaves, in order")
    within: Duration = Field(description="From the first step to the last, in event time")


class AbsentSection(Section):
    """Something expected that does not come."""

    expect: StepSection = Field(description="What should come")
    within: Duration = Field(description="How long it may take")
    after: StepSection | None = Field(None, description="After what; by default after the last one that came")
    again_after: Duration | None = Field(
        None, description="Fires again so long after it fired; by default only when it is expected anew"
    )


class NodeSection(AliasedSection):
    """One node of a condition."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the event's type, such as drift.*")
    subject: Glob | None = Field(None, description="Glob over the event's subject; $model stands for the model's name")
    when: EventExpression | None = Field(None, description="CEL over event, model and champion; must be true")
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        None, description="How many matching events within `within`"
    )
    within: Duration | None = Field(None, description="Length of the sliding window, in event time")
    metric: MetricSection | None = Field(None, description="A value of the matching events against a threshold")
    by: EventExpression | None = Field(None, description="CEL that gives a key; everything is counted per key")
    all: Annotated[list[NodeSection], Field(min_length=2)] | None = Field(
        None, description="Every part is true at once"
    )
    any: Annotated[list[NodeSection], Field(min_length=2)] | None = Field(None, description="One part at least is true")
    no_episode: NotSection | None = Field(None, alias="not", description="In all: no open episode fits")
    sequence: SequenceSection | None = Field(None, description="Events come in this order within a time")
    absent: AbsentSection | None = Field(
        None, description="What is expected does not come, while its source is healthy"
    )
    max_age: Duration | None = Field(None, description="The champion is that old")
    again_after: Duration | None = Field(
        None,
        description="With max_age: fires again this long after its run ended; by default a tenth of max_age",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> NodeSection:
        given = {info.alias or name for name, info in type(self).model_fields.items() if name in self.model_fields_set}
        trees = [key for key in _TREE_KEYS if key in given]
        if self.max_age is not None:
            if others := sorted(given - {"max_age", "again_after"}):
                raise refusal(
                    f"max_age stands alone, without {', '.join(others)}",
                    hint="make it a policy of its own",
                )
        elif "again_after" in given:
            where = "metric" if "metric" in given else "absent" if "absent" in given else ""
            hint = f"put it into {where}" if where else ""
            raise refusal("again_after is of no use without max_age", hint=hint)
        elif trees:
            leaf = [key for key in _LEAF_KEYS if key in given]
            if len(trees) > 1 or leaf:
                raise refusal(f"{' and '.join([*trees, *leaf][:2])} do not stand beside each other", hint=_ONE_OF)
        else:
            self._check_leaf(given)
        return self

    def _check_leaf(self, given: set[str]) -> None:
        if not given & {"source", "type", "subject", "when"}:
            raise refusal(
                "it would match every event",
                hint="name a source, a type, a subject or a `when`, or give max_age",
            )
        if self.metric is not None and (self.count is not None or self.within is not None):
            raise refusal(
                "metric and count do not stand beside each other", hint="the window of a metric is its `over`"
            )
        if (self.count or 1) > 1 and self.within is None:
            raise refusal(f"count {self.count} needs a window", hint="add `within: 1h`")

    def parts(self) -> list[NodeSection]:
        """Return the nodes that it joins."""
        return self.all or self.any or []


class OnSection(NodeSection):
    """Which events count, what they add up to, and how old the champion may be."""

    @model_validator(mode="after")
    def _is_a_whole(self) -> OnSection:
        if self.no_episode is not None:
            raise refusal("not makes no occasion", hint="put it beside something that does: `all: [{…}, {not: {…}}]`")
        _check_size(self)
        _check_places_of_not(self)
        _check_keys(self)
        return self


def _check_size(root: OnSection) -> None:
    number = sum(1 for _ in _leaves(root, ""))
    if number > MAX_LEAVES:
        raise refusal(f"it has {number} leaves, at most {MAX_LEAVES} are allowed", hint="make it several policies")
    depth = _depth(root)
    if depth > MAX_DEPTH:
        raise refusal(f"it is {depth} levels deep, at most {MAX_DEPTH} are allowed", hint="make it several policies")


def _depth(node: NodeSection) -> int:
    return 1 + max((_depth(part) for part in node.parts()), default=-1)


def _check_places_of_not(node: NodeSection) -> None:
    quiet = [part for part in node.parts() if part.no_episode is not None]
    if quiet and node.any is not None:
        raise refusal(
            "not stands in all, beside something that makes an occasion", hint="write `all: [{…}, {not: {…}}]`"
        )
    if quiet and len(quiet) == len(node.parts()):
        raise refusal("not alone makes no occasion", hint="put something beside it that does")
    for part in node.parts():
        _check_places_of_not(part)


def _check_keys(root: OnSection) -> None:
    """A key stands at the root, for every leaf, or in every leaf: what has none would belong to no key."""
    if not root.parts() and root.sequence is None and root.absent is None:
        return
    leaves = list(_leaves(root, ""))
    with_key = [path for path, leaf in leaves if getattr(leaf, "by", None) is not None]
    joins = [path for path, node in _joins(root, "") if node.by is not None and path]
    if joins:
        raise refusal(f"{joins[0]} has a `by`; it stands at the root of the tree, or in every leaf")
    if root.by is not None and with_key:
        raise refusal(f"{with_key[0]} has a `by`, and so has the root", hint="the one at the root is for every leaf")
    asked = [path for path, leaf in leaves if _is_about_events(leaf)]
    if with_key and len(with_key) < len(asked):
        missing = next(path for path in asked if path not in with_key)
        raise refusal(
            f"{with_key[0]} has a `by`, and {missing} has none", hint="put one `by` at the root for all of them"
        )


def _leaves(node: NodeSection, path: str) -> Iterator[tuple[str, Section]]:
    """Yield what a tree is made of, with its path."""
    for key, parts in (("all", node.all), ("any", node.any)):
        for position, part in enumerate(parts or ()):
            yield from _leaves(part, f"{path}.{key}[{position}]".lstrip("."))
    if node.sequence is not None:
        for position, step in enumerate(node.sequence.steps):
            yield f"{path}.sequence.steps[{position}]".lstrip("."), step
    elif node.absent is not None:
        yield f"{path}.absent.expect".lstrip("."), node.absent.expect
        if node.absent.after is not None:
            yield f"{path}.absent.after".lstrip("."), node.absent.after
    elif node.no_episode is not None:
        yield path, node.no_episode
    elif not node.parts():
        yield path, node


def _is_about_events(leaf: Section) -> bool:
    return isinstance(leaf, StepSection) or (isinstance(leaf, NodeSection) and leaf.max_age is None)


def _joins(node: NodeSection, path: str) -> Iterator[tuple[str, NodeSection]]:
    """Yield the nodes that are no leaves, with their paths."""
    if node.parts() or node.sequence is not None or node.absent is not None:
        yield path, node
    for key, parts in (("all", node.all), ("any", node.any)):
        for position, part in enumerate(parts or ()):
            yield from _joins(part, f"{path}.{key}[{position}]".lstrip("."))


def metric_again_after(section: MetricSection) -> timedelta:
    """Return how long a metric that fired stays disarmed after its run ended."""
    return section.again_after or AGAIN_AFTER


def metric_min_samples(section: MetricSection) -> int:
    """Return how many values a metric needs."""
    if section.min_samples is not None:
        return section.min_samples
    return 0 if section.agg in COUNTING else 1
