"""The table of states, against every pair of states there is."""

from __future__ import annotations

from itertools import product

import pytest

from controller.core.states import ACTIVE_RUN_STATES, MACHINES, RUN, Machine
from controller.errors import IllegalTransition

EVERY_MACHINE = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
PAIRS = [
    pytest.param(machine, origin, target, id=f"{machine.name}-{origin}-{target}")
    for machine in MACHINES.values()
    for origin, target in product(machine.states, repeat=2)
]
ROWS = [
    pytest.param(machine, row.origin, row.target, cause, id=f"{machine.name}-{row.origin}-{row.target}-{cause}")
    for machine in MACHINES.values()
    for row in machine.rows
    for cause in sorted(row.causes)
]

#: Final states as the design says them (§4); the code computes them.
FINAL = {
    "event": {"PROCESSED"},
    "run": {"PROMOTED", "REJECTED", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "SUPERSEDED"},
    "job": {"SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED"},
    "version": set(),
    "promotion": {"APPLIED", "FAILED", "SUPERSEDED"},
    "step": {"FAILED", "UNDONE"},
    "notification": {"SENT", "SKIPPED"},
    "episode": {"RESOLVED", "EXPIRED"},
    "watch": {"CURED", "NOT_CURED", "WORSE", "UNKNOWN"},
    "dead_letter": {"REPLAYED", "DROPPED"},
}


def causes_between(machine: Machine, origin: str, target: str) -> set[str]:
    return {cause for row in machine.rows if (row.origin, row.target) == (origin, target) for cause in row.causes}


@pytest.mark.parametrize("machine, origin, target", PAIRS)
def test_every_pair_of_states_is_as_the_table_says(machine: Machine, origin: str, target: str) -> None:
    """A pair passes with each of its causes and with no other; a pair that has no row is refused whatever the cause."""
    known = {cause for row in machine.rows for cause in row.causes}
    legal = causes_between(machine, origin, target)

    for cause in legal:
        machine.check(origin, target, cause)
    for cause in known - legal:
        with pytest.raises(IllegalTransition):
            machine.check(origin, target, cause)


@pytest.mark.parametrize("machine, origin, target, cause", ROWS)
def test_every_cause_is_written_in_one_way(machine: Machine, origin: str, target: str, cause: str) -> None:
    """States are capitals and causes are lower case, so that history reads the same everywhere."""
    machine.check(origin, target, cause)

    assert origin.isupper()
    assert target.isupper()
    assert cause == cause.lower().replace(" ", "_") != ""


@EVERY_MACHINE
def test_no_pair_has_two_rows(machine: Machine) -> None:
    """One row says all about a pair, so that no cause hides behind another row."""
    pairs = [(row.origin, row.target) for row in machine.rows]

    assert len(pairs) == len(set(pairs))
    assert all(row.causes for row in machine.rows)


@EVERY_MACHINE
def test_final_is_what_no_row_leaves(machine: Machine) -> None:
    """Finality is computed from the rows and is what the design says."""
    assert set(machine.final) == FINAL[machine.name]
    assert all(not causes_between(machine, final, target) for final in machine.final for target in machine.states)


@EVERY_MACHINE
def test_every_state_is_reached_from_the_first(machine: Machine) -> None:
    """There is no state that no row can ever come to."""
    reached = {machine.initial}
    for _ in machine.states:
        reached |= {row.target for row in machine.rows if row.origin in reached}

    assert reached == set(machine.states)
    assert machine.states[0] == machine.initial


def test_a_refused_change_names_the_ways_out() -> None:
    """An operator reads where the row could have gone instead."""
    with pytest.raises(IllegalTransition, match="'JUDGING' cannot become 'QUEUED'") as refused:
        RUN.check("JUDGING", "QUEUED", "decided")

    assert "PROMOTING" in refused.value.hint


def test_a_refused_change_of_a_final_state_says_that_it_is_final() -> None:
    """The hint for a state that nothing leaves is that it is final."""
    with pytest.raises(IllegalTransition) as refused:
        RUN.check("FAILED", "QUEUED", "decided")

    assert "final" in refused.value.hint


def test_a_refused_cause_names_the_known_ones() -> None:
    """A legal pair with a strange cause is refused, and the causes it has are named."""
    with pytest.raises(IllegalTransition, match="no cause 'luck'") as refused:
        RUN.check("JUDGING", "PROMOTING", "luck")

    assert "passed" in refused.value.hint


def test_active_runs_are_those_that_can_still_hold_the_slot() -> None:
    """Every open state holds the model's slot, but the one that waits for a person."""
    assert set(RUN.states) - set(RUN.final) - set(ACTIVE_RUN_STATES) == {"AWAITING_APPROVAL"}
