"""Ready: enough new rows, labels that are old enough, no open incident upstream."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.chain import to_micros
from controller.core.policy import Ready
from controller.core.stages import ready
from controller.errors import ExpressionError
from tests.factories import (
    NOON,
    at,
    expression,
    make_episode,
    make_event,
    make_facts,
    make_leaf,
    make_policy,
    make_question,
    minutes,
)


def slot_of(first: float, rows: float = 0) -> dict[str, Any]:
    return {"first": to_micros(at(minutes=first)), "rows": rows}


ROWS: dict[str, tuple[float, float | None, str, float]] = {
    # rows known, rows of the event, outcome, rows kept; 100 are asked
    "the first event has too few": (0, 99, "hold", 99),
    "they add up": (60, 39, "hold", 99),
    "exactly enough": (60, 40, "pass", 100),
    "more than enough": (60, 400, "pass", 460),
    "none": (60, 0, "hold", 60),
    "a timer brings none": (99, None, "hold", 99),
    "a timer finds enough": (100, None, "pass", 100),
}


@pytest.mark.parametrize("known, brought, outcome, kept", ROWS.values(), ids=ROWS)
def test_new_rows(known: float, brought: float | None, outcome: str, kept: float) -> None:
    """It waits until the events that are held brought so many rows; exactly as many are enough."""
    event = None if brought is None else make_event(data={"rows": brought})
    question = make_question(make_policy(ready=Ready(new_rows=100)), event=event, slot=slot_of(0, known))
    answer = ready.ask(question)

    assert answer is not None
    assert answer.outcome == outcome
    assert answer.waits_for == ("rows" if outcome == "hold" else None)
    assert answer.slot == slot_of(0, kept)
    assert f"{kept:,.0f} of 100 new rows" in answer.reason


def test_rows_are_read_where_the_policy_says() -> None:
    """`rows` is an expression over the event."""
    policy = make_policy(ready=Ready(new_rows=10, rows=expression("event.data.counts.train * 2.0")))
    answer = ready.ask(make_question(policy, event=make_event(data={"counts": {"train": 5.0}})))

    assert answer is not None
    assert (answer.outcome, answer.slot["rows"]) == ("pass", 10)


@pytest.mark.parametrize("rows", [None, "many", -1, True, [1]], ids=repr)
def test_rows_that_are_no_number_are_an_error(rows: Any) -> None:
    """An event that does not say how many rows it brings is an ERROR decision, never a silent zero."""
    question = make_question(make_policy(ready=Ready(new_rows=1)), event=make_event(data={"rows": rows}))

    with pytest.raises(ExpressionError, match="no number of rows"):
        ready.ask(question)


DELAYS: dict[str, tuple[float | None, float, float | None]] = {
    # the first event's minute (None: this is the first), now, until; labels come after 60 minutes
    "the first event": (None, 0, 60),
    "another event does not start it anew": (0, 30, 60),
    "almost": (0, 59.99, 60),
    "exactly": (0, 60, None),
    "long ago": (0, 6000, None),
    "the clock was set back": (0, -30, 60),
}


@pytest.mark.parametrize("first, now, until", DELAYS.values(), ids=DELAYS)
def test_label_delay(first: float | None, now: float, until: float | None) -> None:
    """It waits for the labels of the first event that is held; exactly then it passes."""
    policy = make_policy(ready=Ready(label_delay=minutes(60)))
    slot = None if first is None else slot_of(first)
    answer = ready.ask(make_question(policy, event=make_event(), slot=slot, now=at(minutes=now)))

    assert answer is not None
    assert answer.outcome == ("pass" if until is None else "hold")
    assert answer.until == (None if until is None else at(minutes=until))


OPEN = {
    "none is open": (make_leaf(type="incident.*"), [], None),
    "one fits": (make_leaf(type="incident.*"), [make_episode(type="incident.feed")], "incident.feed"),
    "another type": (make_leaf(type="incident.*"), [make_episode(type="drift")], None),
    "another source": (make_leaf(source="bus"), [make_episode()], None),
    "by source": (make_leaf(source="api"), [make_episode()], "drift"),
    "by subject": (make_leaf(subject="feed-*"), [make_episode(subject="feed-a")], "drift"),
    "without a subject": (make_leaf(subject="feed-*"), [make_episode()], None),
    "the oldest is named": (
        make_leaf(source="api"),
        [make_episode(1, type="new", opened_at=NOON), make_episode(2, type="old", opened_at=at(hours=-1))],
        "old",
    ),
}


@pytest.mark.parametrize("leaf, episodes, named", OPEN.values(), ids=OPEN)
def test_unless_open(leaf: Any, episodes: list[Any], named: str | None) -> None:
    """It waits while an episode is open that fits by source, type and subject, and names the oldest."""
    policy = make_policy(ready=Ready(unless_open=leaf))
    answer = ready.ask(make_question(policy, event=make_event(), facts=make_facts(open_episodes=tuple(episodes))))

    assert answer is not None
    assert answer.outcome == ("pass" if named is None else "hold")
    assert answer.waits_for == (None if named is None else "episode")
    assert named is None or f"an episode is open: {named} from api" in answer.reason


def test_what_is_missing_first_is_named_first() -> None:
    """Rows, then labels, then incidents; each is asked when the one before it is there."""
    policy = make_policy(ready=Ready(new_rows=10, label_delay=minutes(60), unless_open=make_leaf(source="api")))
    facts = make_facts(open_episodes=(make_episode(),))
    rows, labels, incident = (
        ready.ask(make_question(policy, slot=slot_of(0, rows), now=at(minutes=now), facts=facts))
        for rows, now in ((9, 0), (10, 0), (10, 60))
    )
    passing = ready.ask(make_question(policy, slot=slot_of(0, 10), now=at(minutes=60)))

    assert rows is not None
    assert rows.waits_for == "rows"
    assert labels is not None
    assert labels.until == at(minutes=60)
    assert incident is not None
    assert incident.waits_for == "episode"
    assert passing is not None
    assert passing.reason == "10 of 10 new rows, labels are 1h old, no such episode is open"
