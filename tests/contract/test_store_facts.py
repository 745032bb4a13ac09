"""Which facts the store tells a policy that decides, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core import states
from controller.core.model import Run
from controller.core.policy import Cooldown
from controller.store import Store
from controller.testing import ManualClock
from tests.contract.store_rows import add_run, finish
from tests.factories import (
    NOON,
    at,
    make_active,
    make_champion,
    make_decision,
    make_max_age,
    make_policy,
    make_run,
    minutes,
)

HOUR = {"period": minutes(60)}


def tell(store: Store, *, key: str = "eu", **options: Any) -> Any:
    policy = options.pop("policy", None) or make_policy(**options)
    with store.reading() as tx:
        return tx.policies.facts(policy, key, champion=make_champion(), labels={"a": "b"}, pauses=())


def end_run(store: Store, number: int, state: str, minute: float, clock: ManualClock, **fields: Any) -> Run:
    """Write a run that started at its number's minute and ended in `state` at `minute`."""
    clock.set_now(at(minutes=minute))
    final = None if state not in states.RUN.final else clock.now()
    run = make_run(number, state=state, started_at=at(minutes=number), finished_at=final, **fields)
    with store.transaction("test") as tx:
        tx.runs.add(run)
    return run


def test_facts_about_runs_come_from_the_rows(store: Store, clock: ManualClock) -> None:
    """The last launch, success, promotion and failure of the model, whoever asked; other models do not count."""
    for number, state in enumerate(states.RUN.final, start=1):
        end_run(store, number, state, 10 * number, clock)
    end_run(store, 30, "PROMOTED", 300, clock, model="other")
    ended = {state: at(minutes=10 * number) for number, state in enumerate(states.RUN.final, start=1)}
    facts = {
        after: tell(store, cooldown=Cooldown(after=after, after_failure=minutes(1), **HOUR))
        for after in ("decision", "launch", "success", "promotion")
    }

    assert facts["launch"].last_launch_at == at(minutes=len(states.RUN.final))
    assert facts["promotion"].last_promotion_at == ended["PROMOTED"]
    assert facts["success"].last_success_at == max(ended[state] for state in ("PROMOTED", "REJECTED", "SUCCEEDED"))
    assert facts["success"].last_failure_at == max(ended[state] for state in ("FAILED", "TIMED_OUT"))
    assert facts["decision"].last_decision_at is None
    assert facts["launch"].active == ()
    assert (facts["launch"].labels, facts["launch"].champion) == ({"a": "b"}, make_champion())


def test_the_last_decision_is_of_this_policy_and_key(store: Store, clock: ManualClock) -> None:
    """Only a FIRE counts, and only of the same policy and key."""
    told = [
        make_decision(key="eu"),
        make_decision(key="us"),
        make_decision(key="eu", policy="nightly"),
        make_decision(key="eu", kind="HOLD"),
    ]
    for decision in told:
        with store.transaction("test") as tx:
            tx.policies.add_decision(decision, seq=1, event_id=None, run_id=None)
        clock.advance(60)

    assert tell(store, cooldown=Cooldown(after="decision", **HOUR)).last_decision_at == NOON


def test_active_runs_hold_the_slot_from_queued_to_promoting(store: Store) -> None:
    """Every open run of the model but the one that waits for a person, the oldest first."""
    open_states = [state for state in states.RUN.states if state not in states.RUN.final]
    for number, state in enumerate(reversed(open_states), start=1):
        add_run(store, number, state=state, key="eu")
    add_run(store, 50, model="other")
    active = tell(store).active

    expected = [
        make_active(state, id=f"run-{number:016d}", key="eu")
        for number, state in enumerate(reversed(open_states), start=1)
        if state != "AWAITING_APPROVAL"
    ]
    assert list(active) == expected


def level_facts(store: Store) -> Any:
    return tell(store, key="", policy=make_policy(make_max_age())).last_ended_at


def fire(store: Store, run: str, *, policy: str = "drift") -> None:
    with store.transaction("test") as tx:
        tx.policies.add_decision(make_decision(policy=policy), seq=1, event_id=None, run_id=run)


@pytest.mark.parametrize("policy", ["drift", "nightly"], ids=["its own run", "another policy's run, which it joined"])
def test_a_level_knows_when_the_run_of_its_last_fire_ended(store: Store, clock: ManualClock, policy: str) -> None:
    """None while that run goes on, also while it waits for a person; then its end, whosever run it was."""
    assert level_facts(store) is None
    first = end_run(store, 1, "FAILED", 10, clock, policy=policy)
    fire(store, first.id)
    assert level_facts(store) == at(minutes=10)

    clock.advance(60)
    second = add_run(store, 2, state="AWAITING_APPROVAL", policy=policy)
    fire(store, second.id)
    assert level_facts(store) is None

    clock.advance(60)
    finish(store, second, "REJECTED", "rejected")
    assert level_facts(store) == clock.now()
