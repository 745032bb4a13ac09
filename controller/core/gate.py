"""Judge a run: which candidate challenges, and whether it is better than the champion.

The verdict is written line by line, with the values seen, and kept. It fails closed: what cannot be compared is INCONCLUSIVE, and is
not promoted. Challenger and champion are compared only on the data that the candidate's own result scored them both on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from controller.core.conditions import Scope, champion_values
from controller.core.model import Champion, Json
from controller.core.policy import Gate, Objective
from controller.core.result import Result
from controller.errors import ExpressionError

Outcome = Literal["PASSED", "FAILED", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A candidate as it comes before the gate."""

    candidate: str
    params: Mapping[str, Json] = field(default_factory=dict)
    #: None when its job did not end well …
    result: Result | None = None
    #: … for this reason.
    failure: str = ""
    #: Why its artifact cannot be promoted (missing, unreadable); None when there is nothing against it.
    artifact_error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a verdict."""

    #: Name of the candidate it speaks of; empty when it speaks of the run.
    candidate: str
    #: trained, artifact, require, evaluation, select, champion, objective.
    rule: str
    outcome: Literal["pass", "fail", "inconclusive", "note"]
    text: str
    values: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate said; written once."""

    outcome: Outcome
    #: The candidate that was chosen; None when none was left.
    challenger: str | None
    #: The line that decided, in a sentence.
    reason: str
    lines: tuple[Line, ...]


def judge(
    gate: Gate,
    contestants: Sequence[Contestant],
    champion: Champion | None,
    *,
    model: Mapping[str, Json],
    run: Mapping[str, Json],
) -> Verdict:
    """Return the verdict over the candidates of one run, in the order of the configuration."""
    lines = [_trained(contestant) for contestant in contestants]
    failed = [contestant for contestant in contestants if contestant.result is None]
    if failed and gate.candidates_needed == "all":
        return _verdict("FAILED", None, f"all candidates are needed, and {failed[0].candidate} failed", lines)
    standing = [c for c in contestants if _admit(gate, c, champion, model, run, lines)]
    if not standing:
        return _verdict("FAILED", None, _why_none(contestants, lines), lines)
    if champion is not None and (different := _different_data(standing)):
        lines.append(Line(candidate="", rule="evaluation", outcome="inconclusive", text=different))
        return _verdict("INCONCLUSIVE", None, different, lines)
    challenger = _select(gate, standing, lines)
    if challenger is None:
        return _verdict("FAILED", None, lines[-1].text, lines)
    final = _compare(gate, challenger, champion)
    lines.append(final)
    outcomes: dict[str, Outcome] = {
        "pass": "PASSED",
        "note": "PASSED",
        "fail": "FAILED",
        "inconclusive": "INCONCLUSIVE",
    }
    return _verdict(outcomes[final.outcome], challenger.candidate, final.text, lines)


def _verdict(outcome: Outcome, challenger: str | None, reason: str, lines: Sequence[Line]) -> Verdict:
    return Verdict(outcome=outcome, challenger=challenger, reason=reason, lines=tuple(lines))


def _trained(contestant: Contestant) -> Line:
    if contestant.result is None:
        return Line(candidate=contestant.candidate, rule="trained", outcome="fail", text=contestant.failure)
    metrics = contestant.result.metrics
    shown = ", ".join(f"{name} {number:.6g}" for name, number in metrics.items())
    return Line(
        candidate=contestant.candidate,
        rule="trained",
        outcome="pass",
        text=shown,
        values=dict(metrics),
    )


def _why_none(contestants: Sequence[Contestant], lines: Sequence[Line]) -> str:
    against = [line for line in lines if line.outcome == "fail"]
    if len(contestants) == 1 and against:
        return against[-1].text
    return f"none of {len(contestants)} candidates meets what is required"


def _admit(
    gate: Gate,
    contestant: Contestant,
    champion: Champion | None,
    model: Mapping[str, Json],
    run: Mapping[str, Json],
    lines: list[Line],
) -> bool:
    """Add a line for each requirement, and say whether the candidate meets them all."""
    if contestant.result is None:
        return False
    if contestant.artifact_error is not None:
        lines.append(
            Line(
                candidate=contestant.candidate,
                rule="artifact",
                outcome="fail",
                text=contestant.artifact_error,
            )
        )
        return False
    scope = Scope(
        {
            "candidate": _candidate_values(contestant, contestant.result),
            "champion": None if champion is None else champion_values(champion),
            "model": dict(model),
            "run": dict(run),
        }
    )
    admitted = True
    for rule in gate.require:
        try:
            met, text = rule.test(scope), rule.source
        except ExpressionError as error:
            met, text = False, error.message
        lines.append(
            Line(
                candidate=contestant.candidate,
                rule="require",
                outcome="pass" if met else "fail",
                text=text,
            )
        )
        admitted = admitted and met
    return admitted


def _candidate_values(contestant: Contestant, result: Result) -> dict[str, Json]:
    return {
        "name": contestant.candidate,
        "params": dict(contestant.params),
        "metrics": dict(result.metrics),
        "champion_metrics": dict(result.champion_metrics or {}),
        "evaluation": dict(result.evaluation),
        "data": dict(result.data),
    }


def _different_data(standing: Sequence[Contestant]) -> str | None:
    digests = {c.candidate: c.result.evaluation.get("digest") for c in standing if c.result is not None}
    if len(set(map(str, digests.values()))) <= 1:
        return None
    shown = ", ".join(f"{name} on {digest}" for name, digest in digests.items())
    return f"the candidates were evaluated on different data: {shown}"


def _select(gate: Gate, standing: Sequence[Contestant], lines: list[Line]) -> Contestant | None:
    """Return the best candidate by `select`, else by the objective, else the first; ties go to the first."""
    by = gate.select or gate.objective
    if by is None:
        lines.append(
            _selected(
                standing[0],
                "the first that meets what is required: neither select nor objective is set",
            )
        )
        return standing[0]
    scored = []
    for contestant in standing:
        value = None if contestant.result is None else contestant.result.metrics.get(by.metric)
        if value is None:
            text = f"its result has no metric {by.metric!r}"
            lines.append(Line(candidate=contestant.candidate, rule="select", outcome="fail", text=text))
        else:
            scored.append((_signed(by, value), value, contestant))
    if not scored:
        return None
    _, value, best = max(scored, key=lambda entry: entry[0])
    lines.append(_selected(best, f"best {by.metric} ({by.goal}): {value:.6g} of {len(scored)} candidates"))
    return best


def _selected(contestant: Contestant, text: str) -> Line:
    return Line(candidate=contestant.candidate, rule="select", outcome="note", text=text)


def _compare(gate: Gate, challenger: Contestant, champion: Champion | None) -> Line:
    """Return the line that decides: challenger against champion by the objective."""
    name = challenger.candidate
    result = challenger.result
    if champion is None:
        return Line(
            candidate=name,
            rule="champion",
            outcome="pass",
            text="no champion yet: what is required decides alone",
        )
    if gate.objective is None or result is None:
        return Line(
            candidate=name,
            rule="objective",
            outcome="pass",
            text="no objective is set: what is required decides alone",
        )
    metric = gate.objective.metric
    ours = result.metrics.get(metric)
    if ours is None:
        return Line(
            candidate=name,
            rule="objective",
            outcome="fail",
            text=f"its result has no metric {metric!r}",
        )
    theirs, origin = _champion_metric(gate, result, champion, metric)
    if theirs is None:
        text = f"champion v{champion.number} has no {metric!r} {origin}, so nothing can be compared"
        return Line(candidate=name, rule="objective", outcome="inconclusive", text=text)
    return _gain(gate.objective, name, ours, theirs, champion, origin, result)


def _champion_metric(gate: Gate, result: Result, champion: Champion, metric: str) -> tuple[float | None, str]:
    if gate.champion_metrics == "stored":
        return champion.metrics.get(metric), "stored with its own verdict, on other data"
    return (result.champion_metrics or {}).get(metric), "on the same data"


def _gain(
    objective: Objective,
    name: str,
    ours: float,
    theirs: float,
    champion: Champion,
    origin: str,
    result: Result,
) -> Line:
    gain = _signed(objective, ours) - _signed(objective, theirs)
    if not math.isfinite(gain):
        text = f"{objective.metric} {ours:.6g} and {theirs:.6g} of champion v{champion.number} are too far apart to compare"
        return Line(candidate=name, rule="objective", outcome="inconclusive", text=text)
    enough = gain >= objective.min_gain or math.isclose(gain, objective.min_gain, rel_tol=1e-9, abs_tol=1e-12)
    error = result.metrics.get(f"{objective.metric}_se")
    margin = "" if error is None else f" (s.e. {error:.4g})"
    text = (
        f"{objective.metric} {ours:.6g}{margin} against {theirs:.6g} of champion v{champion.number} {origin}: "
        f"gain {gain:+.6g}, at least {objective.min_gain:+.6g} asked"
    )
    values: dict[str, Json] = {
        "metric": objective.metric,
        "goal": objective.goal,
        "challenger": ours,
        "champion": theirs,
        "champion_version": champion.number,
        "gain": gain,
        "min_gain": objective.min_gain,
        "evaluation": dict(result.evaluation),
    }
    return Line(
        candidate=name,
        rule="objective",
        outcome="pass" if enough else "fail",
        text=text,
        values=values,
    )


def _signed(objective: Objective, value: float) -> float:
    return value if objective.goal == "maximize" else -value
