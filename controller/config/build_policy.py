"""Makes a policy's records out of its validated sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from controller.config.build_stages import DEFAULT_COST, Calendars, build_stages, version_parts
from controller.config.on_sections import (
    MetricSection,
    NodeSection,
    OnSection,
    StepSection,
    metric_again_after,
    metric_min_samples,
)
from controller.config.policy_sections import PolicySection
from controller.config.values import iso_duration
from controller.core.conditions import Expression, Pattern
from controller.core.model import Json
from controller.core.on import Absent, AllOf, AnyOf, InSequence, Leaf, MaxAge, Metric, Node, NoEpisode, On
from controller.core.policy import Concurrency, Policy

#: In a `subject` it stands for the name of the policy's model.
MODEL_IN_SUBJECT = "$model"


def version_of(form: Json) -> str:
    """Return the version of a normal form: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def build_policy(
    model: str,
    name: str,
    section: PolicySection,
    form: Mapping[str, Json],
    concurrency: Concurrency,
    *,
    calendars: Calendars,
    cost: float | None,
) -> Policy:
    """Return the record of a policy; `form` is its normal form, `cost` what a retraining of its model costs."""
    return Policy(
        model=model,
        name=name,
        on=_on(section.on, model),
        # The model's concurrency, the calendars as they are, and the cost are part of what the chain decides by.
        version=version_of({**form, "concurrency": concurrency, **version_parts(section, calendars, cost=cost)}),
        on_hash=version_of(form["on"]),
        concurrency=concurrency,
        cost=DEFAULT_COST if cost is None else cost,
        **build_stages(section, calendars, model=model),
    )


def _on(section: OnSection, model: str) -> On:
    return _node(section, model, section.by)


def _node(section: NodeSection, model: str, by: Expression | None) -> Node:
    """Return the record of a node; `by` is the key that stands at the root, for every leaf."""
    if section.all is not None:
        return AllOf(parts=tuple(_node(part, model, by) for part in section.all))
    if section.any is not None:
        return AnyOf(parts=tuple(_node(part, model, by) for part in section.any))
    if section.max_age is not None:
        return MaxAge(age=section.max_age, again_after=section.again_after or _again_after(section.max_age))
    if section.sequence is not None:
        steps = tuple(_plain(step, model, by) for step in section.sequence.steps)
        return InSequence(steps=steps, within=section.sequence.within)
    if section.absent is not None:
        absent = section.absent
        return Absent(
            expect=_plain(absent.expect, model, by),
            within=absent.within,
            after=None if absent.after is None else _plain(absent.after, model, by),
            again_after=absent.again_after,
        )
    if section.no_episode is not None:
        asked = section.no_episode
        return NoEpisode(source=asked.source, type=_pattern(asked.type), subject=_subject(asked.subject, model))
    plain = _plain(section, model, by)
    metric = None if section.metric is None else _metric(section.metric)
    return replace(plain, count=section.count or 1, within=section.within, metric=metric)


def _plain(section: NodeSection | StepSection, model: str, by: Expression | None) -> Leaf:
    return Leaf(
        source=section.source,
        type=_pattern(section.type),
        subject=_subject(section.subject, model),
        when=section.when,
        by=section.by or by,
    )


def _pattern(text: str | None) -> Pattern | None:
    return None if text is None else Pattern(text)


def _subject(text: str | None, model: str) -> Pattern | None:
    return None if text is None else Pattern(text.replace(MODEL_IN_SUBJECT, model))


def _metric(section: MetricSection) -> Metric:
    return Metric(
        agg=section.agg,
        value=section.value,
        over=section.over,
        above=section.above,
        below=section.below,
        rearm=_clears_at(section),
        lasting=section.lasting,
        min_samples=metric_min_samples(section),
        stale_after=section.stale_after,
        again_after=metric_again_after(section),
        test=section.test,
    )


def _clears_at(section: MetricSection) -> float | None:
    """Return the value at which a metric re-arms: by default the threshold itself."""
    if section.above is not None:
        return section.above if section.rearm_below is None else section.rearm_below
    return section.below if section.rearm_above is None else section.rearm_above


def fill_on(form: dict[str, Json], on: NodeSection) -> None:
    """Write the defaults of an `on` into its normal form."""
    for key in ("all", "any"):
        for part_form, part in zip(form.get(key, ()), getattr(on, key) or (), strict=True):
            fill_on(part_form, part)
    if on.max_age is not None:
        form["again_after"] = iso_duration(on.again_after or _again_after(on.max_age))
    elif on.metric is not None:
        _fill_metric(form["metric"], on.metric)
    elif not (on.parts() or on.sequence or on.absent or on.no_episode):
        form.setdefault("count", 1)


def _fill_metric(form: dict[str, Json], metric: MetricSection) -> None:
    form["again_after"] = iso_duration(metric_again_after(metric))
    if metric.agg not in ("last", "distinct"):
        form["min_samples"] = metric_min_samples(metric)
    if metric.above is not None:
        form["rearm_below"] = _clears_at(metric)
    else:
        form["rearm_above"] = _clears_at(metric)


def _again_after(age: timedelta) -> timedelta:
    """Return how long a level that fired stays disarmed, by default (design 5.1)."""
    return age / 10
