"""What is read of the past, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from controller.store import Store, export
from controller.store.export import Past
from controller.store.replay import Asked, decisions, inputs, last_number
from controller.testing import ManualClock
from tests.contract.store_rows import add_run, finish
from tests.factories import NOON, at, make_cause, make_decision, make_episode, make_new_event


def add_events(store: Store, clock: ManualClock, count: int, **fields: object) -> list[str]:
    """Store events, one a minute; return their ids."""
    found = []
    for number in range(count):
        with store.transaction("test") as tx:
            found += [each.event_id for each in tx.events.add("api", [make_new_event(number, **fields)])]
        clock.advance(timedelta(minutes=1))
    return found


def test_events_come_in_pages(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of storing, each once, of the span, the source and the type that are asked for."""
    monkeypatch.setattr(export, "PAGE", 4)
    ids = add_events(store, clock, 10, data={"share": 0.5, "n": [1, None, "ü"]}, extensions={"team": "x"}, subject="s")
    past = Past(store)

    pages = list(past.events(NOON, at(hours=1)))
    some = [event.id for page in past.events(at(minutes=2), at(minutes=5)) for event in page]

    assert [len(page) for page in pages] == [4, 4, 2]
    events = [event for page in pages for event in page]
    assert [event.id for event in events] == ids
    assert (events[3].data, events[3].extensions) == ({"share": 0.5, "n": [1, None, "ü"]}, {"team": "x"})
    assert (events[3].received_at, events[3].time) == (at(minutes=3), at(minutes=3))
    assert some == ids[2:5]
    assert past.first_at() == NOON
    assert list(past.events(NOON, at(hours=1), origin="other")) == []
    assert list(past.events(NOON, at(hours=1), kind="other")) == []


def test_a_page_is_no_more_than_fits(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large event is read alone, and none is left out."""
    monkeypatch.setattr("controller.store.export.MOST_BYTES", 1000)
    ids = add_events(store, clock, 5, data={"text": "x" * 400})

    pages = list(Past(store).events(NOON, at(hours=1)))

    assert [event.id for page in pages for event in page] == ids
    assert max(len(page) for page in pages) <= 3


def test_runs_are_found_by_what_led_to_them(store: Store, clock: ManualClock) -> None:
    """By any of their causes, or by about when they were decided; with their causes counted."""
    first = add_run(store, 1, started_at=NOON)
    second = add_run(store, 2, decided_at=at(hours=3))
    add_run(store, 3, policy="other")
    with store.transaction("test") as tx:
        tx.runs.add_causes(first.id, "dec-1", [make_cause(1), make_cause(2)], joins=False)
        tx.runs.add_causes(second.id, "dec-2", [make_cause(3)], joins=False)
    clock.set_now(at(hours=4))
    finish(store, first)
    past = Past(store)

    (found,) = past.of_causes("churn", "drift", ["evt-0000000000000002", "evt-9"])

    assert (found.id, found.cause_count, found.state, found.length) == (first.id, 2, "FAILED", timedelta(hours=4))
    assert past.of_causes("churn", "other", ["evt-0000000000000002"]) == []
    assert past.of_causes("churn", "drift", []) == []
    assert [run.id for run in past.near("churn", "drift", at(hours=2), timedelta(hours=1))] == [second.id]
    assert [run.id for run in past.runs(since=at(hours=1))] == [second.id]
    assert [run.id for run in past.runs(until=at(hours=1))] == [first.id, "run-0000000000000003"]


def test_what_persons_changed_is_known(store: Store, clock: ManualClock) -> None:
    """Pauses and resumes from the beginning on, in their order."""
    for verb, target in (("pause", ""), ("resume", ""), ("cancel", "run-1"), ("pause", "churn/drift")):
        with store.transaction("test") as tx:
            tx.people.add_act(actor="ann", verb=verb, target=target, reason="why", details={}, response={})
        clock.advance(60)

    changes = Past(store).changes(["churn"], at(minutes=1), at(hours=1))

    assert [(change.kind, change.target, change.at) for change in changes] == [
        ("pause", "", NOON),
        ("resume", "", at(minutes=1)),
        ("pause", "churn/drift", at(minutes=3)),
    ]
    assert len(Past(store).changes(["churn"], NOON, at(minutes=2))) == 2


def test_alerts_are_known_as_they_were(store: Store, clock: ManualClock) -> None:
    """Those that were open at an instant, also those that ended since."""
    ended = make_episode(1, key="ended", opened_at=NOON, seen_at=NOON)
    later = make_episode(2, key="later", opened_at=at(hours=2))
    with store.transaction("test") as tx:
        tx.episodes.begin([ended, later])
    clock.set_now(at(hours=3))
    with store.transaction("test") as tx:
        tx.episodes.end(ended, target="EXPIRED", cause="expired", reason="")

    (found,) = Past(store).open_episodes(at(hours=1))

    assert (found.key, found.state, found.finished_at, found.expires_at) == ("ended", "OPEN", None, at(hours=3))
    assert [each.key for each in Past(store).open_episodes(at(hours=4))] == ["later"]


def test_the_last_fires_are_known(store: Store, clock: ManualClock) -> None:
    """For each policy and key, before an instant."""
    for number, (kind, key) in enumerate([("FIRE", "a"), ("FIRE", "a"), ("HOLD", "a"), ("FIRE", "b"), ("FIRE", "a")]):
        with store.transaction("test") as tx:
            tx.policies.add_decision(make_decision(kind=kind, key=key), seq=number, event_id=None, run_id=None)
        clock.advance(60)

    assert sorted(Past(store).last_fires(at(minutes=4))) == [
        ("churn", "drift", "a", at(minutes=1)),
        ("churn", "drift", "b", at(minutes=3)),
    ]


def test_the_record_is_read_in_the_order_of_deciding(store: Store, clock: ManualClock) -> None:
    """Events by the number with which they were decided, timers between them, and each change behind the decision before it."""
    ids = add_events(store, clock, 3)

    def number(count: int = 1) -> int:
        return tx.policies.take_numbers(count)

    with store.transaction("test") as tx:
        tx.events.mark_processed([(ids[1], number())])
    with store.transaction("test") as tx:
        tx.people.add_act(actor="ann", verb="pause", target="", reason="", details={}, response={})
    with store.transaction("test") as tx:
        held = make_decision(kind="HOLD", stage="debounce")
        tx.policies.add_decision(held, seq=number(), event_id=None, run_id=None)
    with store.transaction("test") as tx:
        tx.events.mark_processed([(ids[0], number())])
        run_id = tx.runs.new_id()
        decision_id = tx.policies.add_decision(make_decision(), seq=3, event_id=ids[0], run_id=run_id)
    run = add_run(store, 7, id=run_id, decision_id=decision_id)
    finish(store, run)

    found = list(inputs(store, upto=3))

    kinds = [
        (each.event["id"] if each.event else each.timer, each.runs)
        if isinstance(each, Asked)
        else (each.kind, each.after)
        for each in found
    ]
    assert kinds == [
        (ids[1], ()),
        ("act", 1),
        (("churn", "drift", ""), ()),
        (ids[0], (run_id,)),
        ("run", 3),
        ("run", 3),
    ]
    assert [row["seq"] for row in decisions(store)] == [2, 3]
    assert len(list(inputs(store, upto=1))) == 2
    assert last_number(store) == 3
