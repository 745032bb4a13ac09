"""The stage `episode`: what is news, how an episode goes on with its events, and what its end lets go of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.conditions import event_scope
from controller.core.decide import episode_resolved, select
from controller.core.episode import EXPIRE_SECONDS, MAX_EXPIRE_SECONDS, Episode, advance, is_marked, read_mark
from controller.core.model import EPISODE, EPISODE_EXPIRE, EPISODE_STATE, Event, Json
from controller.core.stages import episode as stage
from controller.errors import ExpressionError
from tests.factories import (
    NOON,
    at,
    make_episode,
    make_event,
    make_facts,
    make_leaf,
    make_mark,
    make_max_age,
    make_policy,
    make_question,
    make_state,
)

FIRING = make_event(1, extensions=make_mark())
REPEAT = make_event(2, extensions=make_mark(), received_at=at(hours=1))
RESOLVED = make_event(3, extensions=make_mark(state="resolved"), received_at=at(hours=2))
OPENER = FIRING.id
ENDED: dict[str, Any] = {"finished_at": at(hours=1), "cause": "x"}


# ----------------------------------------------------------------------------------------------------------- stage

CASES: dict[str, tuple[Event, Episode | None, str, str]] = {
    "it opened the episode": (FIRING, make_episode(), "pass", "news: the episode opened"),
    "nothing is known of it": (FIRING, None, "pass", "news: the episode opened"),
    "it opened one that is over by now": (
        FIRING,
        make_episode(state="RESOLVED", **ENDED),
        "pass",
        "news: the episode opened",
    ),
    "a repeat": (
        REPEAT,
        make_episode(),
        "skip",
        f"not news: firing since 2024-03-05 12:00:00Z, event {OPENER}",
    ),
    "a repeat after the end": (
        REPEAT,
        make_episode(state="RESOLVED", **ENDED),
        "skip",
        f"not news: firing since 2024-03-05 12:00:00Z, event {OPENER}, resolved at 2024-03-05 13:00:00Z",
    ),
    "a repeat after it was given up": (
        REPEAT,
        make_episode(state="EXPIRED", expires_after_seconds=5400, **ENDED),
        "skip",
        f"not news: firing since 2024-03-05 12:00:00Z, event {OPENER}, "
        "given up at 2024-03-05 13:00:00Z after 1h30m without a sign of life",
    ),
    "it was resolved first": (
        FIRING,
        make_episode(state="RESOLVED", event_id=None, **ENDED),
        "skip",
        "not news: it was resolved at 2024-03-05 13:00:00Z, before it was seen firing",
    ),
    "resolved": (
        RESOLVED,
        make_episode(state="RESOLVED", **ENDED),
        "skip",
        f"resolved: what {OPENER} opened, firing since 2024-03-05 12:00:00Z, is over",
    ),
    "resolved, never seen firing": (
        RESOLVED,
        make_episode(state="RESOLVED", event_id=None, **ENDED),
        "skip",
        "resolved, though it was never seen firing",
    ),
    "resolved, nothing is known": (RESOLVED, None, "skip", "resolved, though it was never seen firing"),
}


@pytest.mark.parametrize("event, known, outcome, reason", CASES.values(), ids=CASES)
def test_only_the_event_that_opened_it_is_news(event: Event, known: Episode | None, outcome: str, reason: str) -> None:
    """Repeats, late ones and `resolved` end here, each with its own reason, and with the facts behind it."""
    answer = stage.ask(make_question(make_policy(), event=event, facts=make_facts(episode=known)))

    assert answer is not None
    assert (answer.outcome, answer.reason) == (outcome, reason)
    assert answer.facts["episode"] == "k"
    assert answer.facts["opened_by"] == (None if known is None else known.event_id)


@pytest.mark.parametrize("extensions", [{}, {EPISODE: None}, {EPISODE_STATE: "firing"}], ids=["none", "null", "no key"])
def test_an_event_without_an_episode_is_an_edge(extensions: dict[str, Json]) -> None:
    """The stage leaves no line in its explanation, nor in that of a timer."""
    event = make_event(extensions=extensions)

    assert stage.ask(make_question(make_policy(), event=event)) is None
    assert stage.ask(make_question(make_policy())) is None
    assert not is_marked(extensions)


def test_resolved_fires_nothing_whatever_when_says() -> None:
    """A policy that asks for `resolved` by its `when` does not get it either."""
    policy = make_policy(make_leaf(when="event.extensions.episodestate == 'resolved'"))
    scope = event_scope(RESOLVED, model="churn", labels={}, champion=None)
    selection = select(policy, RESOLVED, scope, episode=make_episode(state="RESOLVED", **ENDED))

    assert selection.outcome == "skip"
    assert [(line.stage, line.outcome) for line in selection.trace] == [
        ("match", "pass"),
        ("when", "pass"),
        ("episode", "skip"),
    ]


# ------------------------------------------------------------------------------------------------------------ marks

GOOD: dict[str, tuple[dict[str, Json], tuple[str, str, int]]] = {
    "plain": (make_mark(), ("k", "firing", EXPIRE_SECONDS)),
    "resolved": (make_mark(state="resolved", expire=60), ("k", "resolved", 60)),
    "no state": (make_mark(state=None), ("k", "firing", EXPIRE_SECONDS)),
    "another case": (make_mark(state=" Firing "), ("k", "firing", EXPIRE_SECONDS)),
    "a header's text": (make_mark(expire="90"), ("k", "firing", 90)),
    "a fraction": (make_mark(expire=1.9), ("k", "firing", 1)),
    "a number as key": (make_mark(key=7), ("7", "firing", EXPIRE_SECONDS)),
    "the longest key": (make_mark(key="x" * 256), ("x" * 256, "firing", EXPIRE_SECONDS)),
}


@pytest.mark.parametrize("extensions, expected", GOOD.values(), ids=GOOD)
def test_a_mark_is_read_as_it_is_meant(extensions: dict[str, Json], expected: tuple[str, str, int]) -> None:
    """Headers are texts, and a key alone is enough."""
    mark = read_mark(extensions)

    assert (mark.key, mark.state, mark.expire_seconds) == expected
    assert mark.remark == ""


@pytest.mark.parametrize("value", ["soon", "", True, 0, -5, 1e300, "nan", "inf", [1], {}, 10**400, 367 * 86400])
def test_a_time_that_is_none_means_a_day_and_is_told(value: Json) -> None:
    """A bad `episodeexpire` loses no alert; the reason of the stage names it."""
    event = make_event(extensions=make_mark(expire=value))
    answer = stage.ask(make_question(make_policy(), event=event))

    assert read_mark(event.extensions).expire_seconds == EXPIRE_SECONDS
    assert answer is not None
    assert answer.outcome == "pass"
    assert "episodeexpire is " in answer.reason
    assert "a day is assumed" in answer.reason


BAD = {
    "no text": (make_mark(key=["x"]), "episode is ['x'], expected a text of 1 to 256 characters"),
    "true": (make_mark(key=True), "episode is True"),
    "empty": (make_mark(key=""), "episode is ''"),
    "too long": (make_mark(key="x" * 257), "episode is 'xxx"),
    "a NUL": (make_mark(key="a\0"), r"episode is 'a\x00'"),
    "another state": (make_mark(state="pending"), "episodestate is 'pending', expected firing or resolved"),
    "a state that is no text": (make_mark(state={"a": 1}), "episodestate is {'a': 1}"),
    "an empty state": (make_mark(state=""), "episodestate is ''"),
}


@pytest.mark.parametrize("extensions, reason", BAD.values(), ids=BAD)
def test_a_mark_that_cannot_be_meant_is_an_error(extensions: dict[str, Json], reason: str) -> None:
    """Never a crash, and never a silent skip: the policies that the event concerns record an ERROR decision."""
    event = make_event(extensions=extensions)
    selection = select(make_policy(), event, event_scope(event, model="churn", labels={}, champion=None))

    assert (selection.outcome, selection.trace[-1].stage) == ("error", "episode")
    assert selection.trace[-1].reason.startswith(reason)
    assert len(selection.trace[-1].reason) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([EPISODE, EPISODE_STATE, EPISODE_EXPIRE]), json_values))
def test_whatever_a_producer_writes_is_read_or_refused(extensions: dict[str, Json]) -> None:
    """Reading a mark gives a legal one or the one error that is expected."""
    if not is_marked(extensions):
        return
    try:
        mark = read_mark(extensions)
    except ExpressionError:  # the one that is expected
        return
    assert 0 < len(mark.key) <= 256
    assert mark.state in ("firing", "resolved")
    assert 1 <= mark.expire_seconds <= MAX_EXPIRE_SECONDS


# --------------------------------------------------------------------------------------------- how it goes on


def after(*events: Event, known: Episode | None = None) -> Episode:
    """Return an episode after these events, each decided when it was received."""
    for event in events:
        known = advance(known, read_mark(event.extensions), event, origin="api", now=event.received_at)
    assert known is not None
    return known


def test_firing_opens_it() -> None:
    """It began when the producer says, was seen when we decided, and lasts a day from then."""
    began = make_event(1, time=at(days=-3), extensions=make_mark(), subject="churn")
    episode = after(began)

    assert (episode.state, episode.cause, episode.event_id, episode.subject) == ("OPEN", "opened", began.id, "churn")
    assert (episode.opened_at, episode.seen_at, episode.expires_at) == (at(days=-3), NOON, at(days=1))
    assert episode.finished_at is None


def test_it_cannot_begin_in_the_future() -> None:
    """A producer's clock that is ahead is not believed."""
    assert after(make_event(1, time=at(days=3), extensions=make_mark())).opened_at == NOON


def test_a_repeat_keeps_it_alive() -> None:
    """It goes on with the time that the repeat asks for; what opened it stays."""
    again = make_event(2, extensions=make_mark(expire=60), received_at=at(hours=1))
    episode = after(FIRING, again)

    assert (episode.event_id, episode.opened_at) == (FIRING.id, NOON)
    assert (episode.seen_at, episode.expires_at) == (at(hours=1), at(hours=1, minutes=1))
    assert episode.expires_after_seconds == 60


def test_resolved_ends_it_for_ever() -> None:
    """What comes later changes nothing: the same alert firing anew has another key."""
    over = after(FIRING, RESOLVED)

    assert (over.state, over.cause, over.finished_at) == ("RESOLVED", "resolved", at(hours=2))
    assert after(make_event(4, extensions=make_mark(), received_at=at(hours=3)), known=over) == over
    assert after(make_event(5, extensions=make_mark(state="resolved"), received_at=at(hours=3)), known=over) == over


def test_resolved_before_firing_is_remembered() -> None:
    """It is born resolved and nobody opened it, so a late firing is no news."""
    over = after(RESOLVED)

    assert (over.state, over.event_id, over.expires_at) == ("RESOLVED", None, None)
    assert over.finished_at == at(hours=2)
    assert after(FIRING, known=over) == over


def test_one_that_was_given_up_stays_so() -> None:
    """Neither a repeat nor `resolved` brings it back."""
    given_up = make_episode(state="EXPIRED", cause="expired", finished_at=at(days=1))

    assert after(REPEAT, known=given_up) == given_up
    assert after(RESOLVED, known=given_up) == given_up


# ---------------------------------------------------------------------------------------------- what it lets go of


def test_the_only_cause_ends_the_hold() -> None:
    """Nothing is held and no timer runs; the decision says what was let go."""
    policy = make_policy()
    state = make_state(
        policy, stage="debounce", held_since=NOON, held_count=1, due_at=at(hours=3), slots={"debounce": {}}
    )
    done = episode_resolved(policy, state, "", episode=make_episode(), event=RESOLVED, held=1)

    assert (done.decision.kind, done.decision.stage) == ("SKIP", "episode")
    assert done.decision.reason == "resolved at 2024-03-05 14:00:00Z, 1 of 1 held causes let go"
    assert done.state == make_state(policy)
    assert (done.causes, done.lets_go) == ("drop", OPENER)
    assert done.decision.trace[0].facts == {"episode": "k", "let_go": OPENER, "held": 1, "held_at": "debounce"}


def test_the_hold_goes_on_with_the_others() -> None:
    """Only their number changes: the stage, its timer and what it remembers stay."""
    policy = make_policy()
    state = make_state(
        policy, stage="cooldown", held_since=NOON, held_count=3, due_at=at(hours=3), slots={"debounce": {}}
    )
    done = episode_resolved(policy, state, "eu", episode=make_episode(), event=RESOLVED, held=3)

    assert done.decision.reason.endswith("1 of 3 held causes let go")
    assert done.decision.key == "eu"
    assert done.state == make_state(
        policy, stage="cooldown", held_since=NOON, held_count=2, due_at=at(hours=3), slots={"debounce": {}}
    )
    assert (done.causes, done.lets_go) == ("none", OPENER)


def test_a_level_goes_on_without_its_cause() -> None:
    """A level that took over what an earlier `on` held waits for its own sake."""
    policy = make_policy(make_max_age())
    state = make_state(policy, stage="debounce", held_since=NOON, held_count=1, due_at=at(hours=3))
    done = episode_resolved(policy, state, "", episode=make_episode(), event=RESOLVED, held=1)

    assert (done.state.stage, done.state.held_count, done.state.due_at) == ("debounce", 0, at(hours=3))
    assert (done.causes, done.lets_go) == ("none", OPENER)
