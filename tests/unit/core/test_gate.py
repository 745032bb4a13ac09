"""The verdict over the candidates of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.gate import Contestant, Verdict, judge
from controller.core.model import Champion
from controller.core.policy import Gate, Objective
from tests.factories import make_champion, make_contestant, make_gate, make_result

CHAMPION = make_champion()  # stored auc 0.7


def verdict_of(gate: Gate, *contestants: Contestant, champion: Champion | None = CHAMPION) -> Verdict:
    return judge(gate, contestants, champion, model={"name": "churn", "labels": {"team": "a"}}, run={"key": ""})


def lines_of(verdict: Verdict) -> list[tuple[str, str, str]]:
    return [(line.candidate, line.rule, line.outcome) for line in verdict.lines]


def one(auc: float | None = 0.8, **fields: Any) -> Contestant:
    return make_contestant("boosting", make_result(auc, **fields))


COMPARED = {
    # goal, min_gain, challenger, champion, outcome
    "better": ("maximize", 0.0, 0.8, 0.7, "PASSED"),
    "equal, no gain asked": ("maximize", 0.0, 0.7, 0.7, "PASSED"),
    "worse": ("maximize", 0.0, 0.6, 0.7, "FAILED"),
    "exactly the gain asked": ("maximize", 0.002, 0.702, 0.7, "PASSED"),
    "exactly the gain asked, inexact in binary": ("maximize", 0.1, 0.3, 0.2, "PASSED"),
    "a little less than asked": ("maximize", 0.002, 0.7019, 0.7, "FAILED"),
    "a negative gain allows a loss": ("maximize", -0.01, 0.69, 0.7, "PASSED"),
    "but not a larger one": ("maximize", -0.01, 0.689, 0.7, "FAILED"),
    "lower is better": ("minimize", 0.0, 0.6, 0.7, "PASSED"),
    "lower is better, equal": ("minimize", 0.0, 0.7, 0.7, "PASSED"),
    "lower is better, higher": ("minimize", 0.0, 0.8, 0.7, "FAILED"),
    "lower by exactly the gain": ("minimize", 0.1, 0.2, 0.3, "PASSED"),
    "lower by less": ("minimize", 0.1, 0.25, 0.3, "FAILED"),
    "zero against zero": ("maximize", 0.0, 0.0, 0.0, "PASSED"),
    "zero against zero, gain asked": ("maximize", 1e-6, 0.0, 0.0, "FAILED"),
    "further apart than numbers go": ("maximize", 0.0, 1.5e308, -1.5e308, "INCONCLUSIVE"),
}


@pytest.mark.parametrize("goal, min_gain, ours, theirs, outcome", COMPARED.values(), ids=COMPARED)
def test_challenger_against_champion(goal: str, min_gain: float, ours: float, theirs: float, outcome: str) -> None:
    """The challenger passes when it is better by `min_gain` on the same data; reaching it exactly is enough."""
    verdict = verdict_of(make_gate(goal=goal, min_gain=min_gain), one(ours, champion=theirs))

    assert verdict.outcome == outcome
    assert verdict.challenger == "boosting"
    assert verdict.reason == verdict.lines[-1].text


def test_the_line_that_decides_has_the_values_seen() -> None:
    """The objective's line carries both numbers, the gain, what was asked, the data and the standard error."""
    result = make_result(0.8, champion=0.7, metrics={"auc": 0.8, "auc_se": 0.01})
    line = verdict_of(make_gate(min_gain=0.05), make_contestant(result=result)).lines[-1]

    assert line.rule == "objective"
    assert "0.8 (s.e. 0.01) against 0.7 of champion v3 on the same data" in line.text
    assert line.values["gain"] == pytest.approx(0.1)
    assert line.values["evaluation"] == {"digest": "d1"}


OTHER_DATA = make_result(0.9, champion=0.7, evaluation={"digest": "d2"})
NO_DIGEST = make_result(0.9, champion=0.7, evaluation={})
NOT_COMPARABLE = {
    "the champion was not scored": (make_gate(), [one(0.9)], "no 'auc' on the same data"),
    "the champion was scored by another metric": (
        make_gate(),
        [one(0.9, champion_metrics={"f1": 0.5})],
        "no 'auc' on the same data",
    ),
    "the champion was scored by nothing": (make_gate(), [one(0.9, champion_metrics={})], "no 'auc'"),
    "stored metrics do not have it": (
        make_gate(champion_metrics="stored", objective=Objective(metric="rows")),
        [one(None, champion_metrics={"rows": 1.0})],
        "no 'rows' stored",
    ),
    "candidates saw different data": (
        make_gate(),
        [one(0.8, champion=0.7), make_contestant("linear", OTHER_DATA)],
        "boosting on d1, linear on d2",
    ),
    "one does not say what it saw": (
        make_gate(),
        [one(0.8, champion=0.7), make_contestant("linear", NO_DIGEST)],
        "linear on None",
    ),
}


@pytest.mark.parametrize("gate, contestants, said", NOT_COMPARABLE.values(), ids=NOT_COMPARABLE)
def test_what_cannot_be_compared_is_inconclusive(gate: Gate, contestants: list[Contestant], said: str) -> None:
    """The gate fails closed: without a comparison on the same data nothing passes."""
    verdict = verdict_of(gate, *contestants)

    assert verdict.outcome == "INCONCLUSIVE"
    assert said in verdict.reason
    assert verdict.lines[-1].outcome == "inconclusive"


def test_stored_metrics_stand_in_and_it_shows() -> None:
    """With `champion_metrics: stored` the champion's own verdict is compared with, and the line says on other data."""
    verdict = verdict_of(make_gate(champion_metrics="stored"), one(0.71, champion=0.9))

    assert verdict.outcome == "PASSED"
    assert "0.7 of champion v3 stored with its own verdict, on other data" in verdict.reason


FAILED = make_contestant("linear")
GOOD = one(0.8, champion=0.7)
CANDIDATES = {
    # gate, contestants, outcome, challenger, said
    "one failed, any will do": (make_gate(), [FAILED, GOOD], "PASSED", "boosting", "gain"),
    "one failed, all are needed": (
        make_gate(candidates_needed="all"),
        [GOOD, FAILED],
        "FAILED",
        None,
        "all candidates are needed, and linear failed",
    ),
    "all are needed and there": (make_gate(candidates_needed="all"), [GOOD], "PASSED", "boosting", "gain"),
    "all failed": (make_gate(), [FAILED, make_contestant("boosting")], "FAILED", None, "none of 2 candidates"),
    "the only one failed": (make_gate(), [FAILED], "FAILED", None, "exit code 1"),
    "nobody came": (make_gate(), [], "FAILED", None, "none of 0 candidates"),
    "its artifact is missing": (
        make_gate(),
        [make_contestant("boosting", make_result(0.8, champion=0.7), artifact_error="no file model.bin")],
        "FAILED",
        None,
        "no file model.bin",
    ),
    "the better one's artifact is missing": (
        make_gate(),
        [GOOD, make_contestant("linear", make_result(0.9, champion=0.7), artifact_error="gone")],
        "PASSED",
        "boosting",
        "gain",
    ),
    "a requirement is not met": (
        make_gate(require=["candidate.metrics.auc > 0.85"]),
        [GOOD],
        "FAILED",
        None,
        "candidate.metrics.auc > 0.85",
    ),
    "nobody meets a requirement": (
        make_gate(require=["candidate.metrics.auc > 0.85"]),
        [GOOD, make_contestant("linear", make_result(0.7, champion=0.7))],
        "FAILED",
        None,
        "none of 2 candidates meets what is required",
    ),
    "a requirement keeps the best one out": (
        make_gate(require=["candidate.name != 'linear'"]),
        [GOOD, make_contestant("linear", make_result(0.9, champion=0.7))],
        "PASSED",
        "boosting",
        "gain",
    ),
    "a requirement over all that it may read": (
        make_gate(
            require=[
                "candidate.params.depth == 3.0 && champion.metrics.auc < candidate.metrics.auc",
                "model.labels.team == 'a' && run.key == '' && candidate.evaluation.digest == 'd1'",
                "candidate.champion_metrics.auc == 0.7 && candidate.data.rows > 10.0",
            ]
        ),
        [make_contestant("boosting", make_result(0.8, champion=0.7, data={"rows": 11}), params={"depth": 3})],
        "PASSED",
        "boosting",
        "gain",
    ),
    "a requirement that fails on the data": (
        make_gate(require=["candidate.metrics.f1 > 0.5"]),
        [GOOD],
        "FAILED",
        None,
        "no field 'f1'",
    ),
    "the objective's metric is missing": (
        make_gate(select="rows"),
        [make_contestant("boosting", make_result(None, champion_metrics={"auc": 0.7}))],
        "FAILED",
        "boosting",
        "its result has no metric 'auc'",
    ),
    "nobody has the metric to select by": (
        make_gate(select="f1"),
        [GOOD],
        "FAILED",
        None,
        "its result has no metric 'f1'",
    ),
}


@pytest.mark.parametrize("gate, contestants, outcome, challenger, said", CANDIDATES.values(), ids=CANDIDATES)
def test_who_may_compete(
    gate: Gate, contestants: list[Contestant], outcome: str, challenger: str | None, said: str
) -> None:
    """Only candidates that trained well, have an artifact and meet every requirement compete."""
    verdict = verdict_of(gate, *contestants)

    assert (verdict.outcome, verdict.challenger) == (outcome, challenger)
    assert said in verdict.reason
    assert {line.candidate for line in verdict.lines if line.rule == "trained"} == {c.candidate for c in contestants}


def contest(*metrics: dict[str, float]) -> list[Contestant]:
    names = ("first", "second", "third")
    return [
        make_contestant(name, make_result(champion=0.0, metrics=found))
        for name, found in zip(names, metrics, strict=False)
    ]


SELECTED = {
    "the objective's best": (make_gate(), contest({"auc": 0.7}, {"auc": 0.9}, {"auc": 0.8}), "second"),
    "the lowest, when lower is better": (
        make_gate(goal="minimize", min_gain=-9),
        contest({"auc": 0.7}, {"auc": 0.6}, {"auc": 0.8}),
        "second",
    ),
    "select before the objective": (
        make_gate(select="valid"),
        contest({"auc": 0.9, "valid": 0.1}, {"auc": 0.7, "valid": 0.3}),
        "second",
    ),
    "a tie goes to the first": (make_gate(), contest({"auc": 0.8}, {"auc": 0.9}, {"auc": 0.9}), "second"),
    "one without the metric drops out": (
        make_gate(select="valid"),
        contest({"auc": 0.9}, {"auc": 0.7, "valid": 0.3}),
        "second",
    ),
    "neither: the first": (Gate(), contest({"auc": 0.1}, {"auc": 0.9}), "first"),
}


@pytest.mark.parametrize("gate, contestants, challenger", SELECTED.values(), ids=SELECTED)
def test_who_challenges(gate: Gate, contestants: list[Contestant], challenger: str) -> None:
    """The best by `select`, else by the objective, else the first challenges; ties go to the first."""
    verdict = verdict_of(gate, *contestants)

    assert (verdict.outcome, verdict.challenger) == ("PASSED", challenger)
    assert (challenger, "select", "note") in lines_of(verdict)


def test_without_a_champion_the_requirements_decide_alone() -> None:
    """The first version needs nobody to be better than, whatever data the candidates saw."""
    gate = make_gate(require=["champion == null", "candidate.metrics.auc > 0.5"])
    verdict = verdict_of(gate, one(0.6), make_contestant("linear", OTHER_DATA), champion=None)

    assert (verdict.outcome, verdict.challenger) == ("PASSED", "linear")
    assert lines_of(verdict)[-1] == ("linear", "champion", "pass")


def test_without_an_objective_the_requirements_decide_alone() -> None:
    """A gate without an objective compares nothing with the champion, and says so."""
    verdict = verdict_of(Gate(), one(0.1))

    assert verdict.outcome == "PASSED"
    assert "no objective is set" in verdict.reason


numbers = st.floats(-1, 1) | st.sampled_from([0.7, 0.702, 1.5e308, -1.5e308])
results = st.none() | st.builds(
    lambda auc, champion, digest: make_result(auc, champion=champion, evaluation={"digest": digest}),
    st.none() | numbers,
    st.none() | numbers,
    st.sampled_from(["d1", "d1", "d2", None]),
)


@given(
    st.lists(results, max_size=3),
    st.sampled_from(["maximize", "minimize"]),
    st.sampled_from(["reported", "stored"]),
    st.sampled_from(["any", "all"]),
    st.booleans(),
)
def test_whatever_comes_before_the_gate_what_passes_was_compared(
    found: list[Any], goal: str, metrics: str, needed: str, has_champion: bool
) -> None:
    """Nothing but a comparison that the challenger won passes beside a champion; every verdict can be stored."""
    gate = make_gate(goal=goal, champion_metrics=metrics, candidates_needed=needed)
    contestants = [make_contestant(f"c{number}", result) for number, result in enumerate(found)]
    verdict = verdict_of(gate, *contestants, champion=CHAMPION if has_champion else None)

    assert verdict == verdict_of(gate, *contestants, champion=CHAMPION if has_champion else None)
    assert verdict.reason
    last = verdict.lines[-1] if verdict.lines else None
    if verdict.outcome == "PASSED":
        assert last is not None
        assert (last.candidate, last.outcome) == (verdict.challenger, "pass")
        assert last.rule == ("objective" if has_champion else "champion")
    if verdict.outcome == "PASSED" and has_champion:
        assert last is not None
        assert last.values["gain"] >= -1e-12
