"""What the store promises of states, on SQLite and PostgreSQL alike: how they change, and which rows it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core import states
from controller.errors import Conflict, IllegalTransition
from controller.store import Store, schema
from controller.testing import ManualClock
from tests.contract.store_rows import add_run, finish, history, raw_insert
from tests.factories import NOON, at, make_max_age, make_policy, make_run, make_state


def test_a_transition_writes_state_cause_and_history_together(store: Store) -> None:
    """The row, its cause and reason, other columns, and one line of history."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched", reason="slot is free", actor="ann", started_at=NOON)
    with store.reading() as tx:
        found = tx.runs.get(run.id)

    assert found == replace(run, state="TRAINING", cause="dispatched", reason="slot is free", started_at=NOON)
    assert history(store, run.id) == [
        ("", "QUEUED", "decided", "", "controller", 1),
        ("QUEUED", "TRAINING", "dispatched", "slot is free", "ann", 1),
    ]


def test_a_final_state_has_its_finish_time(store: Store, clock: ManualClock) -> None:
    """`finished_at` is set by the transition into a final state, and only there."""
    run = add_run(store)
    clock.advance(60)
    finish(store, run)
    with store.reading() as tx:
        found = tx.runs.get(run.id)

    assert found is not None
    assert found.finished_at == at(seconds=60)


def test_the_same_transition_twice_is_a_conflict(store: Store) -> None:
    """Compare-and-set: who comes second finds that the row has moved on, and writes nothing."""
    run = add_run(store)
    with store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched")
    with pytest.raises(Conflict, match="no longer QUEUED"), store.transaction("test") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched")

    assert len(history(store, run.id)) == 2


def test_a_transition_of_nothing_is_a_conflict(store: Store) -> None:
    """A row that is not there is in no state."""
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.runs.move(make_run(9), "TRAINING", cause="dispatched")


@pytest.mark.parametrize("target, cause", [("PROMOTED", "promoted"), ("TRAINING", "luck")])
def test_a_transition_that_the_table_does_not_know_is_refused(store: Store, target: str, cause: str) -> None:
    """Neither the pair nor the cause can be invented."""
    run = add_run(store)
    with pytest.raises(IllegalTransition), store.transaction("test") as tx:
        tx.runs.move(run, target, cause=cause)

    assert len(history(store, run.id)) == 1


def test_a_run_that_ends_wakes_who_waits_for_it(store: Store) -> None:
    """The policies of its model that wait for a run are due now; those of other models are not."""
    run, level = add_run(store), make_policy(make_max_age())
    with store.transaction("test") as tx:
        tx.policies.save_state(level, "", make_state(level, waits_for="run"))
        tx.policies.save_state(replace(level, model="other"), "", make_state(level, waits_for="run"))
        tx.policies.save_state(replace(level, name="paused"), "", make_state(level, waits_for="resume"))
    finish(store, run)
    with store.reading() as tx:
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "")]


MACHINES_WITH_ROWS = list(states.MACHINES.values())
LEGAL_KINDS: dict[str, dict[str, Any]] = {"promotion": {"kind": "promoted"}}
REFUSED_ROWS = {
    **{f"{m.name} in an unknown state": (m.name, {"state": "BROKEN"}) for m in MACHINES_WITH_ROWS},
    **{
        f"{m.name} final without a finish time": (m.name, {"state": m.final[0], "finished_at": None})
        for m in MACHINES_WITH_ROWS
        if "finished_at" in schema.TABLES[m.name].c
    },
    **{
        f"{m.name} finished but not final": (m.name, {"state": m.initial, "finished_at": 1})
        for m in MACHINES_WITH_ROWS
        if "finished_at" in schema.TABLES[m.name].c
    },
    "a promotion of an unknown kind": ("promotion", {"state": "PENDING", "kind": "luck"}),
    "a run stopped as something else": ("run", {"state": "QUEUED", "stop_as": "FAILED"}),
    "a decision of an unknown kind": ("decision", {"kind": "MAYBE"}),
    "a verdict of an unknown outcome": ("verdict", {"outcome": "MAYBE"}),
    "a pause of an unknown scope": ("pause", {"scope": "world"}),
    "a second leader": ("leader", {"id": 2}),
}


def test_the_database_itself_refuses_what_must_never_be(store: Store) -> None:
    """States outside the table, final states without a time and the like are refused also from raw SQL."""
    taken = []
    for name, (table, values) in REFUSED_ROWS.items():
        try:
            raw_insert(store, schema.metadata.tables[table], **LEGAL_KINDS.get(table, {}) | values)
            taken.append(name)
        except sa.exc.IntegrityError as error:
            if "check" not in str(error.orig).lower():
                taken.append(f"{name}: {error.orig}")

    assert taken == []


def test_the_database_takes_every_state_of_the_table(store: Store) -> None:
    """The constraints come out of the table of states: each of its states can be stored."""
    for machine in MACHINES_WITH_ROWS:
        write_every_state(store, machine)


#: Columns in which every row of a machine's table must differ.
UNIQUE_NUMBERS = {"event": "identity", "version": "number", "step": "position", "dead_letter": "identity"}


def write_every_state(store: Store, machine: states.Machine) -> None:
    table = schema.TABLES[machine.name]
    unique = UNIQUE_NUMBERS.get(machine.name)
    for number, state in enumerate(machine.states):
        values: dict[str, Any] = {"id": f"x{number}", "state": state} | LEGAL_KINDS.get(machine.name, {})
        for name in ("job_id", "decision_id", "run_id", "candidate", "model", "key"):
            values |= {name: f"x{number}"} if name in table.c else {}
        values |= {unique: number} if unique else {}
        values |= {"finished_at": 1} if "finished_at" in table.c and state in machine.final else {}
        raw_insert(store, table, **values)
