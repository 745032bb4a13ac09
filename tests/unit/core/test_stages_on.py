"""The stages of `on`: match, when, count, max_age."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.chain import to_micros
from controller.core.model import Event
from controller.core.on import Leaf, MaxAge
from controller.core.stages import count, match, max_age, when
from controller.errors import ExpressionError
from tests.factories import (
    at,
    make_champion,
    make_event,
    make_facts,
    make_leaf,
    make_max_age,
    make_policy,
    make_question,
    minutes,
)

# ----------------------------------------------------------------------------------------------------------- match

MATCHES = {
    "nothing asked": (make_leaf(), make_event(), "pass"),
    "source": (make_leaf(source="landing"), make_event(origin="landing"), "pass"),
    "another source": (make_leaf(source="landing"), make_event(origin="api"), "skip"),
    "the attribute `source` is another thing": (make_leaf(source="landing"), make_event(source="landing"), "skip"),
    "type": (make_leaf(type="drift"), make_event(type="drift"), "pass"),
    "type by a glob": (make_leaf(type="drift.*"), make_event(type="drift.data"), "pass"),
    "type in another case": (make_leaf(type="Drift"), make_event(type="drift"), "skip"),
    "another type": (make_leaf(type="drift.*"), make_event(type="drift"), "skip"),
    "subject": (make_leaf(subject="eu-*"), make_event(subject="eu-1"), "pass"),
    "another subject": (make_leaf(subject="eu-*"), make_event(subject="us-1"), "skip"),
    "no subject": (make_leaf(subject="*"), make_event(subject=None), "skip"),
    "all three": (make_leaf(source="api", type="drift", subject="x"), make_event(subject="x"), "pass"),
}


@pytest.mark.parametrize("on, event, outcome", MATCHES.values(), ids=MATCHES)
def test_match(on: Leaf, event: Event, outcome: str) -> None:
    """An event matches when source, type and subject fit, each if it is asked for."""
    answer = match.ask(make_question(make_policy(on), event=event))

    assert answer is not None
    assert answer.outcome == outcome


def test_match_is_not_asked_without_an_event() -> None:
    """A timer matches nothing, and a level asks for no event."""
    assert match.ask(make_question(make_policy())) is None
    assert match.ask(make_question(make_policy(make_max_age()), event=make_event())) is None


# ------------------------------------------------------------------------------------------------------------ when

EVENT = make_event(data={"share": 0.4, "n": 3, "note": "x" * 5000, "tags": ["a"]}, subject="eu-1")
WHENS = {
    "true": ("event.data.share > 0.3", "pass", {"event.data.share": 0.4}),
    "false": ("event.data.share > 0.5", "skip", {"event.data.share": 0.4}),
    "the edge belongs to the expression": ("event.data.share >= 0.4", "pass", {"event.data.share": 0.4}),
    "whole numbers compare with decimals": ("event.data.n == 3.0", "pass", {"event.data.n": 3}),
    "a method is no field": ("event.subject.startsWith('eu')", "pass", {"event.subject": "eu-1"}),
    "a method with a space": ("event.subject.endsWith ('1')", "pass", {"event.subject": "eu-1"}),
    "a long text is shown by its beginning": ("event.data.note != ''", "pass", {"event.data.note": "x" * 200 + "…"}),
    "lists are not shown": ("event.data.tags.size() == 1", "pass", {}),
    "a field that may be missing": ("has(event.data.f1)", "skip", {"event.data.f1": None}),
    "what cannot have fields": ("!has(event.data.f1) || event.data.f1.x == 1.0", "pass", {"event.data.f1": None, "event.data.f1.x": None}),
    "the champion": ("champion.metrics.auc < 0.75", "pass", {"champion.metrics.auc": 0.7}),
    "the model": ("model.labels.team == 'a' && model.name == 'churn'", "pass", {"model.labels.team": "a", "model.name": "churn"}),
}  # fmt: skip


@pytest.mark.parametrize("source, outcome, values", WHENS.values(), ids=WHENS)
def test_when(source: str, outcome: str, values: dict[str, Any]) -> None:
    """The expression decides, and the plain values that it read are kept."""
    facts = make_facts(champion=make_champion(), labels={"team": "a"})
    answer = when.ask(make_question(make_policy(make_leaf(when=source)), event=EVENT, facts=facts))

    assert answer is not None
    assert answer.outcome == outcome
    assert answer.facts == values


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("event.data.missing > 1.0", id="a missing field"),
        pytest.param("event.data.share", id="neither true nor false"),
        pytest.param("champion.metrics.auc > 0.5", id="no champion"),
    ],
)
def test_when_raises_what_the_data_does_not_allow(source: str) -> None:
    """An expression that fails on real data is an error, never a silent false."""
    with pytest.raises(ExpressionError):
        when.ask(make_question(make_policy(make_leaf(when=source)), event=EVENT))


@pytest.mark.parametrize(
    "on, event",
    [
        pytest.param(make_leaf(), EVENT, id="nothing asked"),
        pytest.param(make_leaf(when="true"), None, id="no event"),
        pytest.param(make_max_age(), EVENT, id="a level"),
    ],
)
def test_when_is_not_asked(on: Leaf | MaxAge, event: Event | None) -> None:
    """Without an expression or an event there is nothing to say."""
    assert when.ask(make_question(make_policy(on), event=event)) is None


# ----------------------------------------------------------------------------------------------------------- count

THREE = make_leaf(count=3, within=minutes(60))
#: Instants in minutes after noon; received in that order, at their own time unless received is given.
COUNTS: dict[str, tuple[Leaf, list[float], float, float | None, str, list[float] | None]] = {
    # on, known, event time, received, outcome, window afterwards
    "the first": (THREE, [], 0, None, "collect", [0]),
    "the second": (THREE, [0], 10, None, "collect", [0, 10]),
    "the third": (THREE, [0, 10], 20, None, "pass", [0, 10, 20]),
    "the third at the same instant": (THREE, [0, 0], 0, None, "pass", [0, 0, 0]),
    "just inside the older edge": (THREE, [0.1, 30], 60, None, "pass", [0.1, 30, 60]),
    "exactly on the older edge, which is exclusive": (THREE, [0, 30], 60, None, "collect", [30, 60]),
    "all others left": (THREE, [0, 30], 200, None, "collect", [200]),
    "out of order, inside": (THREE, [10, 20], 5, 20, "pass", [5, 10, 20]),
    "out of order, not enough": (THREE, [20], 5, 20, "collect", [5, 20]),
    "late, exactly on the older edge": (THREE, [60], 0, 60, "late", [60]),
    "late, behind the window": (make_leaf(count=2, within=minutes(10)), [60], 40, 60, "late", [60]),
    "from the future: clamped to when it came": (THREE, [0, 1], 500, 2, "pass", [0, 1, 2]),
    "from long ago: clamped to an hour before it came": (
        make_leaf(count=2, within=minutes(90)),
        [100],
        -1000,
        120,
        "pass",
        [60, 100],
    ),
    "a window of one": (make_leaf(count=1, within=minutes(60)), [], 0, None, "pass", [0]),
}


@pytest.mark.parametrize("on, known, time, received, outcome, window", COUNTS.values(), ids=COUNTS)
def test_count(
    on: Leaf, known: list[float], time: float, received: float | None, outcome: str, window: list[float] | None
) -> None:
    """`count` events in (t - within, t] pass; fewer are collected; one behind the window is late and opens nothing."""
    event = make_event(time=at(minutes=time), received_at=at(minutes=time if received is None else received))
    slot = [to_micros(at(minutes=instant)) for instant in known] or None
    answer = count.ask(make_question(make_policy(on), event=event, slot=slot, now=event.received_at))

    assert answer is not None
    assert answer.outcome == ("pass" if outcome == "pass" else "skip")
    assert (answer.after is not None and answer.after.collects) is (outcome == "collect")
    assert answer.reason.startswith("late") is (outcome == "late")
    assert answer.slot == [to_micros(at(minutes=instant)) for instant in window or []]


def test_what_is_held_is_joined_without_counting() -> None:
    """An event that comes while the policy holds belongs to what is held, and leaves the window alone."""
    answer = count.ask(make_question(make_policy(THREE), event=make_event(), held_at="debounce", slot=[1, 2, 3]))

    assert answer is not None
    assert (answer.outcome, answer.slot) == ("pass", [1, 2, 3])


@pytest.mark.parametrize(
    "on, event",
    [
        pytest.param(make_leaf(), make_event(), id="no window"),
        pytest.param(THREE, None, id="no event"),
        pytest.param(make_max_age(), make_event(), id="a level"),
    ],
)
def test_count_is_not_asked(on: Leaf | MaxAge, event: Event | None) -> None:
    """Without a window or an event there is nothing to count."""
    assert count.ask(make_question(make_policy(on), event=event)) is None


# --------------------------------------------------------------------------------------------------------- max_age

LEVEL = make_policy(make_max_age(days=10, again_days=1))
FIRED = {"fired_for": "ver-1"}
AGES: dict[str, tuple[float, dict[str, Any], Any, tuple[str, Any]]] = {
    # days since the champion's promotion, facts, slot, (outcome, until in days or what it waits for)
    "young": (9.9, {}, None, ("hold", 10)),
    "just as old as allowed": (10, {}, None, ("pass", None)),
    "older": (11, {}, None, ("pass", None)),
    "fired, its run goes on": (11, {}, FIRED, ("hold", "run")),
    "fired, its run ended just now": (11, {"last_ended_at": at(days=11)}, FIRED, ("hold", 12)),
    "fired, its run ended almost long enough ago": (11.9, {"last_ended_at": at(days=11)}, FIRED, ("hold", 12)),
    "fired, its run ended exactly long enough ago": (12, {"last_ended_at": at(days=11)}, FIRED, ("pass", None)),
    "fired for another champion": (11, {}, {"fired_for": "ver-0"}, ("pass", None)),
    "fired for another champion, and this one is young": (1, {}, {"fired_for": "ver-0"}, ("hold", 10)),
}


@pytest.mark.parametrize("days, facts, slot, expected", AGES.values(), ids=AGES)
def test_max_age(days: float, facts: dict[str, Any], slot: Any, expected: tuple[str, Any]) -> None:
    """A champion of exactly that age is old; one that was acted on is disarmed until `again_after` its run's end."""
    question = make_question(LEVEL, facts=make_facts(champion=make_champion(), **facts), slot=slot, now=at(days=days))
    answer = max_age.ask(question)

    assert answer is not None
    outcome, when_ = expected
    assert answer.outcome == outcome
    assert answer.waits_for == (when_ if isinstance(when_, str) else None)
    assert answer.until == (at(days=when_) if isinstance(when_, int) else None)
    fired = None if answer.after is None or answer.after.fired is None else answer.after.fired.slot
    assert fired == (FIRED if outcome == "pass" else None)
    assert answer.slot in (slot, None)


def test_max_age_without_a_champion_waits_for_one() -> None:
    """Nothing that does not exist is old."""
    answer = max_age.ask(make_question(LEVEL))

    assert answer is not None
    assert (answer.outcome, answer.waits_for, answer.reason) == (
        "hold",
        "champion",
        "no champion yet, so it has no age",
    )


def test_max_age_is_not_asked_of_a_leaf_nor_for_a_key() -> None:
    """It is a question about the whole model; a key is left over from what the policy asked before."""
    assert max_age.ask(make_question(make_policy())) is None
    assert max_age.ask(make_question(LEVEL, key="eu")) is None
