"""The daemon is killed at every point where it can be, and the end is the same.

Each point once here, on one of the two databases, several in one story; every point alone, on both, and in a recovery that reaches it in
`make campaign` (`tests/campaign/crash_matrix.py`).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.acceptance import points as named
from tests.acceptance.matrix import (
    DATABASES,
    STORIES,
    Case,
    Nominal,
    Outcome,
    alternating,
    chained,
    crash_all,
    first_runs,
    nominal_all,
    recoveries_in,
    recovering,
)
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.postgresql]

ROOT = Path(__file__).resolve().parents[2]
#: How many points are tried in one story.
LINKS = 5
#: Recoveries that are killed as well: where the first daemon dies, and where the one after it does while it clears up.
RECOVERIES = (
    ("sqlite", "plugin.launcher.process.launch.after", "plugin.launcher.process.find.before"),
    ("postgresql", "plugin.launcher.process.launch.after", "plugin.launcher.process.find.after"),
    ("sqlite", "plugin.launcher.process.launch.before", "plugin.launcher.process.launch.after"),
    ("postgresql", "transaction.launched.before_commit", "transaction.launched.before_commit"),
    ("sqlite", "transaction.inbox.after_commit", "transaction.decide.before_commit"),
    ("postgresql", "transaction.decide.after_commit", "transaction.dispatch.after_commit"),
    ("sqlite", "transaction.observe.before_commit", "transaction.judge.before_commit"),
    ("postgresql", "plugin.promoter.alias.promote.after", "plugin.promoter.command.promote.after"),
    ("sqlite", "plugin.promoter.command.promote.after", "transaction.crown.before_commit"),
    ("postgresql", "transaction.cancel.before_commit", "plugin.launcher.process.stop.before"),
)

Undisturbed = dict[tuple[str, str], Nominal]


@pytest.fixture(scope="module")
def undisturbed(postgres_server: PostgresServer) -> Undisturbed:
    """Every story on both databases, with nobody killed."""
    return nominal_all([(story, database) for story in STORIES for database in DATABASES], lambda: postgres_server)


def test_both_databases_come_to_the_same_end(undisturbed: Undisturbed) -> None:
    """What happens does not depend on where it is stored."""
    for story in STORIES:
        sqlite, postgresql = (undisturbed[story, database] for database in DATABASES)

        assert sqlite.facts == postgresql.facts


def test_every_point_is_reached_or_covered_elsewhere(undisturbed: Undisturbed) -> None:
    """A transaction or a plugin's call that no story reaches has a test that is named beside it; a new one needs either."""
    reached = {point for played in undisturbed.values() for point in played.points}
    reached |= {second for _, _, second in RECOVERIES}
    stems = {named.stem(point) for point in named.points()}
    unreached = stems - {named.stem(point) for point in reached}

    assert {named.stem(point) for point in reached} - stems == set(), "reached, but not found in the code"
    assert unreached - named.ELSEWHERE.keys() == set(), "let a story reach them, or name the test that covers them"
    assert named.ELSEWHERE.keys() - unreached == set(), "reached by now, or gone"


@pytest.mark.parametrize("test", sorted(set(named.ELSEWHERE.values())))
def test_what_covers_the_others_is_there(test: str) -> None:
    """Every test named for an unreached point exists."""
    file, _, name = test.partition("::")
    functions = {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
    }

    assert name in functions


@pytest.mark.timeout(900)
def test_G03_the_end_is_the_same_whenever_the_daemon_dies(
    undisturbed: Undisturbed, postgres_server: PostgresServer
) -> None:
    """Killed at each crash point and restarted: the same runs, verdicts, champion; each attempt started once."""
    cases = chained(alternating(first_runs(undisturbed)), undisturbed, links=LINKS)

    outcomes = crash_all(cases, undisturbed, lambda: postgres_server)
    # What a clock brings, an earlier daemon of the chain may have done already.
    alone = [case for outcome in outcomes for case in outcome.passed_by]
    outcomes = [each for each in outcomes if not each.passed_by]
    outcomes += crash_all(alone, undisturbed, lambda: postgres_server)

    assert sum(len(outcome.case.points) for outcome in outcomes) > 100, (
        "fewer points than there were: the trace is broken"
    )
    assert [str(outcome) for outcome in outcomes if outcome.problems] == []


@pytest.mark.timeout(300)
def test_G03_the_end_is_the_same_when_the_recovery_dies_too(
    undisturbed: Undisturbed, postgres_server: PostgresServer
) -> None:
    """The daemon after a crash is killed while it clears up what the first one left, and the third comes to the same end."""
    cases = [Case("nominal", database, (first, second)) for database, first, second in RECOVERIES]

    outcomes = crash_all(cases, undisturbed, lambda: postgres_server)

    assert [str(outcome) for outcome in outcomes if outcome.problems] == []
    assert [str(outcome) for outcome in outcomes if not outcome.was_in_recovery] == []


def test_a_recovery_ends_where_something_new_is_asked() -> None:
    """Only what the next daemon reaches before that counts; what is asked while nobody is there is part of it."""
    lines = ["# one", "a", "! a", "# two", "b", "c", "# three", "d", "! d", "! e", "f"]

    assert recoveries_in(lines) == (frozenset("bc"), frozenset(), frozenset("f"))


def test_points_are_tried_in_chains_that_a_story_can_reach() -> None:
    """Each point is in one chain, after those that come before it in the story; a point of the end is alone."""
    played = Nominal(tuple("abcdez"), {}, {"a": 5, "b": 0, "c": 1, "d": 2, "e": 3, "z": 9}, frozenset("z"))
    singles = [Case("nominal", "sqlite", (point,)) for point in played.points]

    chains = chained(singles, {("nominal", "sqlite"): played}, links=2)

    assert [case.points for case in chains] == [("b", "e"), ("c", "a"), ("d",), ("z",)]


def test_pairs_spread_their_first_deaths() -> None:
    """Each point that a recovery reaches is paired with a first death that leads there, another one where there is a choice."""

    def outcome(point: str, *reached: str) -> Outcome:
        return Outcome(Case("nominal", "sqlite", (point,)), (), 1.0, (frozenset(reached),))

    pairs = recovering([outcome("a", "a", "b"), outcome("b", "b", "c"), outcome("c", "c")], choices=2)

    assert [[case.points for case in choices] for choices in pairs] == [
        [("a", "a")],
        [("a", "b"), ("b", "b")],
        [("b", "c"), ("c", "c")],
    ]
