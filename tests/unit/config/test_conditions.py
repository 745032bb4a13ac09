"""`on` as a tree: what is understood, what it becomes, and what is said of what makes no sense."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import load_config
from controller.config.build import policy_from_normal_form
from controller.core.on import Absent, AllOf, InSequence, Leaf, MaxAge, Metric, NoEpisode
from tests.factories import expression, make_leaf
from tests.unit.config.texts import on, problems

HOUR = timedelta(hours=1)


def built(folder: Path, text: str) -> object:
    """Return `on` as it is built; and built again from its normal form it is the same."""
    (folder / "retrain.yaml").write_text(on(f"on: {text}"))
    config = load_config(folder / "retrain.yaml")
    policy = config.models["churn"].policies["drift"]
    again = policy_from_normal_form("churn", "drift", config.normal_form)
    assert again == policy
    return policy.on


BUILT = {
    "not in all": (
        "{all: [{type: a}, {not: {source: landing, subject: $model}}]}",
        AllOf(parts=(make_leaf(type="a"), NoEpisode(source="landing", subject=make_leaf(subject="churn").subject))),
    ),
    "a metric with every default": (
        "{type: m, metric: {value: event.data.x, agg: avg, over: 1h, below: 2}}",
        make_leaf(
            type="m", metric=Metric(agg="avg", value=expression("event.data.x"), over=HOUR, below=2.0, rearm=2.0)
        ),
    ),
    "a metric with everything": (
        "{type: m, metric: {value: event.data.x, agg: sum, over: 1h, above: 2, rearm_below: 1, for: 10m, min_samples: 3,"
        " stale_after: 2h, again_after: 1h, test: psi}}",
        make_leaf(
            type="m",
            metric=Metric(
                agg="sum",
                value=expression("event.data.x"),
                over=HOUR,
                above=2.0,
                rearm=1.0,
                lasting=HOUR / 6,
                min_samples=3,
                stale_after=2 * HOUR,
                again_after=HOUR,
                test="psi",
            ),
        ),
    ),
    "a rate of events": (
        "{type: m, metric: {agg: rate, over: 1h, above: 100}}",
        make_leaf(type="m", metric=Metric(agg="rate", over=HOUR, above=100.0, rearm=100.0, min_samples=0)),
    ),
    "a sequence": (
        "{sequence: {steps: [{type: a}, {type: b}], within: 1h}}",
        InSequence(steps=(make_leaf(type="a"), make_leaf(type="b")), within=HOUR),
    ),
    "absent": (
        "{absent: {expect: {source: landing}, within: 1h, after: {type: a}, again_after: 2h}}",
        Absent(expect=Leaf(source="landing"), within=HOUR, after=make_leaf(type="a"), again_after=2 * HOUR),
    ),
    "max_age in a tree": (
        "{any: [{max_age: 10h}, {all: [{type: a}, {type: b, count: 2, within: 1h}]}]}",
        None,
    ),
    "a key for all": (
        "{all: [{type: a}, {max_age: 10h}], by: event.subject}",
        AllOf(parts=(make_leaf(type="a", by="event.subject"), MaxAge(age=10 * HOUR, again_after=HOUR))),
    ),
}


@pytest.mark.parametrize("text, expected", BUILT.values(), ids=BUILT)
def test_what_it_becomes(tmp_path: Path, text: str, expected: object) -> None:
    """Every node is built as written, with its defaults, and its normal form reads back as itself."""
    (tmp_path / "landing").mkdir()
    found = built(tmp_path, text)

    assert expected is None or found == expected


def metric(text: str) -> str:
    return f"{{type: m, metric: {{{text}}}}}"


REFUSED = {
    "two kinds in one node": (
        "{all: [{type: a}, {type: b}], sequence: {steps: [{type: a}, {type: b}], within: 1h}}",
        "all and sequence do not stand beside each other",
    ),
    "a leaf that joins": ("{type: a, any: [{type: b}, {type: c}]}", "any and type do not stand beside each other"),
    "metric and count": (
        "{type: m, count: 2, within: 1h, metric: {value: event.data.x, agg: last, above: 1}}",
        "metric and count do not stand beside each other",
    ),
    "one part": ("{all: [{type: a}]}", "a list has not at least 2 items"),
    "an empty leaf inside": ("{all: [{type: a}, {}]}", "it would match every event"),
    "not alone": ("{not: {type: a}}", "not makes no occasion"),
    "not in any": (
        "{any: [{type: b}, {not: {type: a}}]}",
        "not stands in all, beside something that makes an occasion",
    ),
    "nothing but not": ("{all: [{not: {type: b}}, {not: {type: a}}]}", "not alone makes no occasion"),
    "not anything": ("{all: [{type: a}, {not: {}}]}", "it would wait for every episode"),
    "too deep": (
        "{all: [{type: a}, {all: [{type: a}, {all: [{type: a}, {all: [{type: a}, {all: [{type: a}, {type: b}]}]}]}]}]}",
        "it is 5 levels deep, at most 4 are allowed",
    ),
    "too many": ("{any: [" + ", ".join(["{type: a}"] * 33) + "]}", "it has 33 leaves, at most 32 are allowed"),
    "a key in one leaf": ("{all: [{type: a, by: event.subject}, {type: b}]}", "all[0] has a `by`, and all[1] has none"),
    "a key at the root and in a leaf": (
        "{all: [{type: a, by: event.subject}, {type: b}], by: event.type}",
        "all[0] has a `by`, and so has the root",
    ),
    "a key in between": (
        "{all: [{type: a}, {any: [{type: b}, {type: c}], by: event.subject}]}",
        "all[1] has a `by`; it stands at the root of the tree, or in every leaf",
    ),
    "no window": (metric("value: event.data.x, agg: avg, above: 1"), "avg needs a window"),
    "no value": (metric("agg: avg, over: 1h, above: 1"), "avg needs a value"),
    "no threshold": (
        metric("value: event.data.x, agg: last"),
        "it needs a threshold: above or below, and only one of them",
    ),
    "two thresholds": (
        metric("value: event.data.x, agg: last, above: 1, below: 0"),
        "it needs a threshold: above or below, and only one of them",
    ),
    "re-arms on the wrong side": (
        metric("value: event.data.x, agg: last, above: 1, rearm_above: 2"),
        "above re-arms on its other side",
    ),
    "always armed": (
        metric("value: event.data.x, agg: last, above: 1, rearm_below: 2"),
        "rearm_below 2 is more than above 1, so it would always be armed",
    ),
    "samples of one": (
        metric("value: event.data.x, agg: last, above: 1, min_samples: 2"),
        "min_samples is of no use with last",
    ),
    "an average of nothing": (
        metric("value: event.data.x, agg: avg, over: 1h, above: 1, min_samples: 0"),
        "there is no avg of no values",
    ),
    "too many to tell apart": (
        metric("value: event.data.x, agg: distinct, over: 1h, above: 20000"),
        "distinct counts from 0 to 10000",
    ),
    "a p-value by its name": (
        metric("value: event.data.p_value, agg: last, above: 0.05"),
        "a p-value is small when it drifts, so `above` is the wrong way round",
    ),
    "a p-value by its test": (
        metric("value: event.data.x, agg: last, above: 0.05, test: ks p-value"),
        "a p-value is small when it drifts, so `above` is the wrong way round",
    ),
    "a distance by its name": (
        metric("value: event.data.psi, agg: last, below: 0.2"),
        "a distance is large when it drifts, so `below` is the wrong way round",
    ),
    "a distance by its test": (
        metric("value: event.data.x, agg: last, below: 0.2, test: wasserstein"),
        "a distance is large when it drifts, so `below` is the wrong way round",
    ),
    "again_after in the wrong place": (
        "{type: m, again_after: 1h, metric: {value: event.data.x, agg: last, above: 1}}",
        "again_after is of no use without max_age",
    ),
    "one step": ("{sequence: {steps: [{type: a}], within: 1h}}", "a list has not at least 2 items"),
    "a count as a step": ("{sequence: {steps: [{type: a, count: 2}, {type: b}], within: 1h}}", "unknown key 'count'"),
    "a source that is not there": ("{all: [{source: landin}, {type: b}]}", "there is no source 'landin'"),
    "an expression deep inside": ("{all: [{type: a, when: evnt.x}, {type: b}]}", "unknown variable 'evnt'"),
}


@pytest.mark.parametrize("text, expected", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(folder: Path, text: str, expected: str) -> None:
    """The message names the place and what is wrong with it."""
    (said,) = problems(on(f"on: {text}"))[:1]

    assert expected in said
    assert "models.churn.policies.drift.on" in said


def test_one_minus_a_p_value_is_fine(tmp_path: Path) -> None:
    """Only a plain path tells what its value is."""
    (tmp_path / "landing").mkdir()

    assert built(tmp_path, metric("value: 1.0 - event.data.p_value, agg: last, above: 0.95")) is not None
