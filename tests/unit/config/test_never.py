"""What `check` says of policies that can never fire, and where the other half of the contradiction stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.config import check
from controller.core.conditions import Expression, Scope
from controller.core.model import Json
from controller.core.terms import contradiction, read_terms
from controller.errors import ExpressionError
from tests.unit.config.texts import load

BASE = """\
version: 1
sources:
  landing: {type: files, path: landing}
  live: {type: prometheus, url: "http://localhost:1", every: 5m, query: auc, subject: fares}
  nightly: {type: cron, schedule: "0 3 * * *"}
  hourly: {type: cron, schedule: "0 * * * *"}
  hook: {type: webhook, format: cloudevents, insecure: true}
calendars:
  weekends: {days: [sat, sun]}
models:
  fares:
    policies:
      it: POLICY
    train: {command: [sh]}
"""
PROMOTED = "    promote: [{type: alias, path: x}]\n    gate: {objective: {metric: auc}}\n"


def said(folder: Path, policy: str, *, promoted: bool = True) -> list[str]:
    """Return what is said of a policy, without its path."""
    found = check(load(BASE.replace("POLICY", policy) + (PROMOTED if promoted else "")))
    at = "models.fares.policies.it"
    return [
        f"{p.severity} {p.line}:{p.column} {p.path[len(at) + 1 :]}: {p.message}{f' ({p.hint})' if p.hint else ''}"
        for p in found
        if p.path.startswith(at)
    ]


FINE = {
    "a file": "{on: {source: landing}}",
    "a bound within a bound": "{on: {source: hook, when: event.data.x > 2 && event.data.x <= 3}}",
    "one value": "{on: {source: hook, when: event.data.x >= 3 && event.data.x <= 3}}",
    "alternatives": "{on: {source: hook, when: event.data.x == 'a' || event.data.x == 'b'}}",
    "different fields": "{on: {source: hook, when: event.data.x > 3 && event.data.y < 2}}",
    "a negation": "{on: {source: hook, when: '!(event.data.x > 3) && event.data.x < 2'}}",
    "the type that it emits": "{on: {source: landing, type: 'file.*', when: event.type == 'file.arrived'}}",
    "as many as a probe sees": "{on: {source: live, count: 12, within: 1h}}",
    "as many nights as there are": "{on: {source: nightly, count: 2, within: 2d}}",
    "a champion that there is": "{on: {source: hook, when: event.data.x > champion.metrics.auc}}",
    "the age of a champion": "{on: {max_age: 30d}}",
    "absent for longer than a reading": "{on: {absent: {expect: {source: live}, within: 20m}}}",
    "two windows": "{on: {all: [{source: landing, count: 1, within: 1d}, {source: live, when: event.data.value < 0.5}]}}",
    "quiet between two readings": "{on: {source: live}, debounce: {quiet: 2m}}",
    "quiet at last": "{on: {source: live}, debounce: {quiet: 20m, max_wait: 1h}}",
    "quiet when the value is good": "{on: {source: live, when: event.data.value < 0.5}, debounce: {quiet: 20m}}",
    "quiet hours on workdays": (
        "{on: {source: landing}, calendars: [weekends], quiet_hours: {between: '08:00-18:00', days: [mon, tue]}}"
    ),
    "a cooldown longer than the budget's window": (
        "{on: {source: landing}, cooldown: {period: 7d}, budget: {runs: 2, per: 1d}}"
    ),
    "known until the next reading": (
        "{on: {source: live, metric: {value: event.data.value, agg: last, below: 0.6, for: 20m, stale_after: 15m}}}"
    ),
    "off": "{mode: off, on: {source: hook, when: event.data.x > 3 && event.data.x < 2}}",
}


@pytest.mark.parametrize("policy", FINE.values(), ids=FINE)
def test_nothing_is_said_of_what_may_fire(folder: Path, policy: str) -> None:
    """A policy that may fire is left in peace."""
    assert said(folder, policy) == []


NEVER = {
    "bounds": (
        "{on: {source: hook, when: event.data.x > 3 && event.data.x < 2}}",
        "warning 13:37 on.when: it is never true: event.data.x > 3 and event.data.x < 2 exclude each other",
    ),
    "an edge": (
        "{on: {source: hook, when: event.data.x > 3 && 3 >= event.data.x}}",
        "warning 13:37 on.when: it is never true: event.data.x > 3 and event.data.x <= 3 exclude each other",
    ),
    "two words": (
        "{on: {source: hook, when: event.data.x == 'a' && event.data.x == 'b'}}",
        "warning 13:37 on.when: it is never true: event.data.x == 'a' and event.data.x == 'b' exclude each other",
    ),
    "every alternative": (
        "{on: {source: hook, when: event.data.x > 3 && (event.data.x < 2 || event.data.x == 1)}}",
        "warning 13:37 on.when: it is never true: event.data.x > 3 and event.data.x < 2 exclude each other; "
        "event.data.x > 3 and event.data.x == 1 exclude each other",
    ),
    "the type beside it": (
        "{on: {type: drift, when: event.type == 'alert'}}",
        "warning 13:36 on.when: it is never true: event.type == 'drift' and event.type == 'alert' exclude each other",
    ),
    "the model's name": (
        "{on: {subject: seats, when: event.subject == model.name}}",
        "warning 13:39 on.when: it is never true: event.subject == 'seats' and event.subject == model.name exclude each other",
    ),
    "false": ("{on: {source: hook, when: false}}", "warning 13:37 on.when: it is never true: it is false"),
    "an expression over nothing": (
        "{on: {source: hook, when: 1 > 2}}",
        "warning 13:37 on.when: it is never true: it is false",
    ),
    "a type that the source does not emit": (
        "{on: {source: nightly, type: file.arrived}}",
        "error 13:40 on.type: it can never match: source 'nightly' does not emit 'file.arrived' "
        "(it emits: schedule.tick; see retrain.yaml:5:3)",
    ),
    "a pattern that the source does not fit": (
        "{on: {source: live, type: 'drift.*'}}",
        "warning 13:37 on.type: it can never match: source 'live' does not emit 'drift.*' "
        "(it emits: probe.reading; see retrain.yaml:4:3)",
    ),
    "a subject that the source does not have": (
        "{on: {source: live, subject: seats}}",
        "warning 13:40 on.subject: it can never match: the subject of every event of source 'live' is 'fares' "
        "(see retrain.yaml:4:3)",
    ),
    "more than a probe sees": (
        "{on: {source: live, count: 3, within: 10m}}",
        "warning 13:38 on.count: count 3 is never reached: source 'live' looks every 5m, so 10m holds 2 at most, "
        "unless it sees several things at once (see retrain.yaml:4:3)",
    ),
    "more than a schedule brings": (
        "{on: {source: nightly, count: 3, within: 1d}}",
        "warning 13:41 on.count: count 3 is never reached: source 'nightly' is due at '0 3 * * *', so 1d holds 2 at most "
        "(see retrain.yaml:5:3)",
    ),
    "more samples than a probe sees": (
        "{on: {source: live, metric: {value: event.data.value, agg: avg, over: 30m, below: 0.6, min_samples: 10}}}",
        "warning 13:111 on.metric.min_samples: min_samples 10 is never reached: source 'live' looks every 5m, so 30m "
        "holds 6 at most, unless it sees several things at once (see retrain.yaml:4:3)",
    ),
    "stale before it lasted": (
        "{on: {source: live, metric: {value: event.data.value, agg: last, below: 0.6, for: 20m, stale_after: 2m}}}",
        "warning 13:93 on.metric.for: it is never known for 20m: it is stale after 2m, and source 'live' looks every 5m "
        "(see retrain.yaml:4:3)",
    ),
    "in a part of a tree": (
        "{on: {any: [{source: landing}, {source: hook, when: event.data.x > 3 && event.data.x < 2}]}}",
        "warning 13:63 on.any[1].when: it is never true: event.data.x > 3 and event.data.x < 2 exclude each other",
    ),
    "two plain leaves that no event fits": (
        "{on: {all: [{source: landing}, {source: nightly}]}}",
        "warning 13:42 on.all[1]: it is never true together with the part at retrain.yaml:13:23: no event fits both, and "
        "each counts at its own event only (give one of them `count: 1` and `within: …`, so that it stays true)",
    ),
    "two plain leaves that one event may fit": (
        "{on: {all: [{source: hook}, {type: 'drift.*'}]}}",
        "warning 13:39 on.all[1]: only an event that fits also the part at retrain.yaml:13:23 makes both true: each counts "
        "at its own event only (give one of them `count: 1` and `within: …`, so that it stays true)",
    ),
    "missed before it can come": (
        "{on: {absent: {expect: {source: live}, within: 2m}}}",
        "warning 13:58 on.absent.within: 2m is over before the next one can come: source 'live' looks every 5m "
        "(see retrain.yaml:4:3)",
    ),
    "never quiet": (
        "{on: {source: live}, debounce: {quiet: 10m}}",
        "warning 13:50 debounce.quiet: it is never quiet for 10m: source 'live' looks every 5m "
        "(add `max_wait`; see retrain.yaml:4:3)",
    ),
    "never quiet for a schedule": (
        "{on: {source: hourly}, debounce: {quiet: 2h}}",
        "warning 13:52 debounce.quiet: it is never quiet for 2h: source 'hourly' is due at '0 * * * *' "
        "(add `max_wait`; see retrain.yaml:6:3)",
    ),
    "no time is left": (
        "{on: {source: landing}, calendars: [weekends], "
        "quiet_hours: {between: '00:00-24:00', days: [mon, tue, wed, thu, fri]}}",
        "warning 13:71 quiet_hours: together with the calendars at retrain.yaml:13:46 it leaves no time at all, so what is "
        "held never goes on (make one of them shorter)",
    ),
}
NOT_PROMOTED = {
    "the age of nobody": (
        "{on: {max_age: 30d}}",
        "warning 13:26 on.max_age: it never comes: nothing of this model is promoted, so there is no champion whose age "
        "counts (give the model at retrain.yaml:11:3 a promoter: `promote`)",
    ),
    "the metrics of nobody": (
        "{on: {source: hook, when: event.data.x > champion.metrics.auc}}",
        "warning 13:37 on.when: it fails on every event: nothing of this model is promoted, so there is no champion "
        "(give the model at retrain.yaml:11:3 a promoter: `promote`)",
    ),
    "since nothing": (
        "{on: {source: hook}, cooldown: {period: 1h, after: promotion}}",
        "warning 13:62 cooldown.after: nothing of this model is promoted, so this never holds anything back "
        "(give the model at retrain.yaml:11:3 a promoter: `promote`)",
    ),
}


@pytest.mark.parametrize("policy, expected", NEVER.values(), ids=NEVER)
def test_what_can_never_fire_is_pointed_out(folder: Path, policy: str, expected: str) -> None:
    """Each reason is said once, where it stands, with the place of what it contradicts."""
    assert said(folder, policy) == [expected]


@pytest.mark.parametrize("policy, expected", NOT_PROMOTED.values(), ids=NOT_PROMOTED)
def test_what_needs_a_champion_is_pointed_out_where_there_is_none(folder: Path, policy: str, expected: str) -> None:
    """A model without promoters has no champion, ever; with one nothing is said."""
    assert said(folder, policy, promoted=False) == [expected]
    assert said(folder, policy) == []


def test_what_models_share_is_said_once(folder: Path) -> None:
    """A shared policy that can never fire is one mistake, in the text that is shared."""
    shared = "policies:\n  it: {select: all, on: {type: a, when: event.type == 'b'}}\n"
    models = "models:\n" + "".join(f"  m{number}: {{train: {{command: [sh]}}}}\n" for number in range(5))

    (found,) = check(load(f"version: 1\n{shared}{models}"))

    assert str(found).startswith("retrain.yaml:3:41: policies.it.on.when: it is never true")


TERMS = {
    "text beside number": "event.data.x == 'a' && event.data.x > 3",
    "a word and not that word": "event.data.x == 'a' && event.data.x != 'a'",
    "a word out of a list": "event.data.x in ['a', 'b'] && event.data.x == 'c'",
    "true and false": "event.data.x == true && event.data.x == false",
    "null and a number": "event.data.x == null && event.data.x > 3.5",
    "texts in order": "event.time < '2024' && event.time > '2025'",
    "the model's name and another": "event.subject == model.name && event.subject == 'other'",
}
MAYBE = {
    "the model's name": "event.subject == model.name && event.subject == 'm'",
    "not one and less": "event.data.x != 'x' && event.data.x < 5",
    "what looks like joined terms in a text": "event.data.x == 'a && event.data.x == b' || event.data.x == 'b'",
    "what nobody here understands": "size(event.data.x) > 3 && size(event.data.x) < 2",
    "a choice": "event.data.x > 3 ? true : event.data.x < 2",
    "escapes": "event.data.x == '\\'' && event.data.x == 'b'",
}


@pytest.mark.parametrize(
    "source, excluded",
    [*((s, True) for s in TERMS.values()), *((s, False) for s in MAYBE.values())],
    ids=[*TERMS, *MAYBE],
)
def test_contradictions_among_comparisons(source: str, excluded: bool) -> None:
    """Of comparisons with literals it is certain whether they exclude each other; of anything else nothing is said."""
    assert (contradiction(read_terms(source), model="m") is not None) is excluded


TERM = st.builds(
    "{} {} {}".format,
    st.sampled_from(["event.data.x", "event.data.y", "event.subject"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.sampled_from(["1", "2", "2.5", "'a'", "'b'", "'m'", "true", "null", "model.name"]),
)
JOINED = st.lists(TERM, min_size=2, max_size=4).map(" && ".join)
WHEN = JOINED | st.builds("({} || {}) && {}".format, TERM, JOINED, JOINED)
VALUES = st.sampled_from([1, 1.5, 2, 2.5, 3, "a", "b", "m", True, None])


@settings(max_examples=500)
@given(WHEN, VALUES, VALUES, VALUES)
def test_what_excludes_itself_is_true_of_nothing(source: str, x: Json, y: Json, subject: Json) -> None:
    """Whatever an event holds, an expression that is called never true is not true of it."""
    if contradiction(read_terms(source), model="m") is None:
        return
    expression = Expression.load(source, variables=("event", "model"))
    scope = Scope({"event": {"data": {"x": x, "y": y}, "subject": subject}, "model": {"name": "m"}})
    try:
        answer = expression.evaluate(scope)
    except ExpressionError:
        answer = False

    assert answer is not True
