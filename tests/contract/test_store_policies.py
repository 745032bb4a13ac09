"""What the store promises of policies, on SQLite and PostgreSQL alike: their states, when they are due, held causes, decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.chain import PolicyState
from controller.store import Store, schema
from tests.contract.store_rows import Count
from tests.factories import NOON, at, make_cause, make_decision, make_policy, make_state


def test_a_state_comes_back_as_it_went_in(store: Store) -> None:
    """What a policy remembers is kept per key; writing again replaces it."""
    policy = make_policy()
    full = make_state(
        policy,
        slots={"count": [1, 2], "max_age": {"fired_for": "ver-1"}},
        stage="cooldown",
        held_since=NOON,
        held_count=2,
        due_at=at(minutes=1),
    )
    waiting = make_state(policy, stage="pause", waits_for="resume", held_count=1)
    with store.transaction("test") as tx:
        tx.policies.save_state(policy, "eu", replace(full, held_count=1))
        tx.policies.save_state(policy, "eu", full)
        tx.policies.save_state(policy, "us", waiting)
    with store.reading() as tx:
        found = [tx.policies.state("churn", "drift", key) for key in ("eu", "us", "")]
        every = tx.policies.states()

    assert found == [full, waiting, None]
    assert sorted(every) == [("churn", "drift", "eu", "v1", full), ("churn", "drift", "us", "v1", waiting)]


def test_a_state_that_remembers_nothing_has_no_row(store: Store, count: Count) -> None:
    """A policy with a key for every customer leaves nothing behind once it has fired."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for number in range(5):
            tx.policies.save_state(policy, f"k{number}", make_state(policy, stage="debounce", held_count=1))
            tx.policies.save_state(policy, f"k{number}", PolicyState(on_hash=policy.on_hash))
        tx.policies.save_state(policy, "never", PolicyState(on_hash=policy.on_hash))

    assert count(schema.policy_state) == 0


def test_what_is_due_comes_in_the_order_of_its_time(store: Store) -> None:
    """Exactly due is due; the longest overdue first, up to a limit; the next one is known."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key, minute in (("late", 5), ("early", 1), ("exact", 3), ("later", 9)):
            tx.policies.save_state(policy, key, make_state(policy, stage="debounce", due_at=at(minutes=minute)))
        tx.policies.save_state(policy, "waits", make_state(policy, stage="pause", waits_for="resume"))
    with store.reading() as tx:
        due = [key for _, _, key in tx.policies.due(at(minutes=3), 10)]
        some = [key for _, _, key in tx.policies.due(at(minutes=10), 2)]
        next_due = tx.policies.next_due()

    assert due == ["early", "exact"]
    assert some == ["early", "exact"]
    assert next_due == at(minutes=1)


def test_nothing_is_due_without_states(store: Store) -> None:
    """An installation at rest has no next instant."""
    with store.reading() as tx:
        assert tx.policies.next_due() is None
        assert tx.runs.next_due_job() is None
        assert tx.outbox.due_by_channel() == {}
        assert tx.outbox.next_open(at(minutes=0)) is None


WAKES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "everything that waits for it": ({"model": None, "waits_for": ("resume",)}, {"a/one", "a/two", "b/one"}),
    "a model's": ({"model": "a", "waits_for": ("resume",)}, {"a/one", "a/two"}),
    "a policy's": ({"model": "a", "policy": "two", "waits_for": ("resume",)}, {"a/two"}),
    "several reasons": ({"model": "b", "waits_for": ("resume", "champion")}, {"b/one", "b/level"}),
    "nothing": ({"model": "a", "waits_for": ("champion",)}, set()),
}


@pytest.mark.parametrize("asked, woken", WAKES.values(), ids=WAKES)
def test_wake_makes_due_what_waits_for_something(store: Store, asked: dict[str, Any], woken: set[str]) -> None:
    """Only what waits for what happened is due now, and waits no longer."""
    waits = [("a", "one", "resume"), ("a", "two", "resume"), ("b", "one", "resume"), ("b", "level", "champion")]
    with store.transaction("test") as tx:
        for model, name, waits_for in waits:
            policy = make_policy(model=model, name=name)
            tx.policies.save_state(policy, "", make_state(policy, stage="pause", waits_for=waits_for))
        number = tx.policies.wake(**asked)
        due = {f"{model}/{name}" for model, name, _ in tx.policies.due(NOON, 10)}
        still = {f"{model}/{name}" for model, name, _, _, state in tx.policies.states() if state.waits_for}

    assert (number, due) == (len(woken), woken)
    assert still == {f"{model}/{name}" for model, name, _ in waits} - woken


def test_touch_makes_one_state_due(store: Store) -> None:
    """A policy whose configuration changed is looked at now."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key in ("eu", "us"):
            tx.policies.save_state(policy, key, make_state(policy, stage="pause", waits_for="resume"))
        tx.policies.touch("churn", "drift", "eu")
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "eu")]


def test_held_causes_are_kept_per_key_in_the_order_of_storing(store: Store) -> None:
    """The same event is one cause; what leaves the window is dropped alone; a cause without an event is not collected."""
    causes = [make_cause(number, subject="ü", time=at(minutes=number)) for number in (1, 2, 3)]
    with store.transaction("test") as tx:
        for cause in [causes[2], causes[0], causes[1], causes[0]]:
            tx.policies.collect("churn", "drift", "eu", cause)
        tx.policies.collect("churn", "drift", "us", causes[0])
        tx.policies.collect("churn", "drift", "eu", make_cause(None))
        held = tx.policies.collected("churn", "drift", "eu")
        tx.policies.drop_causes("churn", "drift", "eu", before=at(minutes=2))
        window = tx.policies.collected("churn", "drift", "eu")
        tx.policies.drop_causes("churn", "drift", "eu")
        dropped = tx.policies.collected("churn", "drift", "eu")
        others = tx.policies.collected("churn", "drift", "us")

    assert held == causes
    assert window == causes[1:]
    assert (dropped, others) == ([], causes[:1])


def test_a_state_that_is_dropped_takes_its_causes_along(store: Store, count: Count) -> None:
    """A policy that is gone leaves nothing behind; other keys stay."""
    policy = make_policy()
    with store.transaction("test") as tx:
        for key in ("eu", "us"):
            tx.policies.save_state(policy, key, make_state(policy, stage="pause", held_count=1))
            tx.policies.collect("churn", "drift", key, make_cause())
        tx.policies.drop_state("churn", "drift", "eu")

    assert (count(schema.policy_state), count(schema.held_cause)) == (1, 1)


def test_refusals_are_counted(store: Store) -> None:
    """Skips of the first stages are tallies that add up."""
    with store.transaction("test") as tx:
        tx.policies.count_refusals({("churn", "drift", "when"): 2, ("churn", "drift", "match"): 1})
        tx.policies.count_refusals({("churn", "drift", "when"): 3})
        tx.policies.count_refusals({})
        rows = {(row.outcome, row.count) for row in tx.execute(sa.select(schema.tally))}

    assert rows == {("when", 5), ("match", 1)}


def test_a_decision_is_written_whole(store: Store) -> None:
    """Reason, trace, what it waits for, its event and run, its number and term."""
    decision = make_decision(kind="HOLD", stage="pause", waits_for="resume", until=None, key="eu")
    with store.transaction("test") as tx:
        decision_id = tx.policies.add_decision(decision, seq=4, event_id="evt-1", run_id=None)
        row = tx.execute(sa.select(schema.decision).where(schema.decision.c.id == decision_id)).one()

    assert (row.kind, row.stage, row.waits_for, row.key, row.event_id) == ("HOLD", "pause", "resume", "eu", "evt-1")
    assert (row.seq, row.term, row.at, row.trace) == (4, 1, NOON, [])
