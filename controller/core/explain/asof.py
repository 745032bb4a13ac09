"""An account as of an instant in the past: what was written until then, and nothing that came later.

Decisions, verdicts, promotions, acts and changes of state carry their instants and are kept, so they are cut at the instant asked for.
What is only kept as it is now (what a policy remembers, counters, facts that no decision names) cannot be cut, and the account says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from controller.core.model import Json
from controller.core.shapes import (
    DecisionShape,
    EventShape,
    HeldShape,
    HistoryShape,
    ModelShape,
    PauseShape,
    PromotionShape,
    RunShape,
    RunSummary,
    VersionShape,
)
from controller.core.states import RUN, VERSION

#: Decisions that write a skip while what is held stays held: of one cause among several, and of a level that goes on.
_STILL_HELD = "still so, held at"


def run_as_of(run: RunShape, then: datetime) -> RunShape:
    """Return what was known of a run at an instant; it was decided by then."""
    history = [row for row in run["history"] if before(row["at"], then)]
    jobs = [_job(job, history, then) for job in run["jobs"] if before(job["created_at"], then)]
    versions = [_version(version, history) for version in run["versions"] if before(version["created_at"], then)]
    verdict = run["verdict"]
    watch = run["watch"]
    outcome_known = watch is not None and before(watch["finished_at"], then)
    decisions = [decision for decision in run["decisions"] if before(decision["at"], then)]
    later = {decision["id"] for decision in run["decisions"]} - {decision["id"] for decision in decisions}
    causes = [cause for cause in run["causes"] if cause["decision_id"] not in later]
    changed: dict[str, Any] = {
        **run_summary_as_of(run, history, then),
        "decisions": decisions,
        "causes": causes,
        "cause_count": run["cause_count"] - (len(run["causes"]) - len(causes)),
        "jobs": jobs,
        "verdict": verdict if verdict is not None and before(verdict["at"], then) else None,
        "versions": versions,
        "promotions": _promotions(run["promotions"], history, then),
        "acts": [act for act in run["acts"] if before(act["at"], then)],
        "history": history,
        "outcome": run["outcome"] if outcome_known else None,
        "outcome_reason": run["outcome_reason"] if outcome_known else "",
        "watch": _watch(watch, then),
    }
    return {**run, **changed}  # type: ignore[typeddict-item]  # the keys are those of the shape


def run_summary_as_of(run: Mapping[str, Any], history: Sequence[HistoryShape], then: datetime) -> dict[str, Json]:
    """Return how a run stood, by its changes of state until then."""
    last = _last([row for row in history if before(row["at"], then)], run["id"])
    state = last["target"] if last is not None else RUN.initial
    return {
        "state": state,
        "final": state in RUN.final,
        "cause": "" if last is None else last["cause"],
        "reason": "" if last is None else last["reason"],
        "started_at": run["started_at"] if before(run["started_at"], then) else None,
        "finished_at": run["finished_at"] if before(run["finished_at"], then) else None,
    }


def event_as_of(
    event: EventShape,
    then: datetime,
    *,
    histories: Mapping[str, Sequence[HistoryShape]],
    held: Sequence[HeldShape],
) -> EventShape:
    """Return what was known of an event at an instant; it was stored by then.

    `histories` has those of its runs, `held` what the policies that had decided on it held then.
    """
    was_decided = before(event["decided_at"], then)
    history = [row for row in event["history"] if before(row["at"], then)]
    last = _last(history, event["id"])
    decisions = [decision for decision in event["decisions"] if before(decision["at"], then)]
    later = [decision for decision in event["later"] if before(decision["at"], then)]
    runs: list[Any] = [
        {**run, **run_summary_as_of(run, histories.get(run["id"], ()), then)}
        for run in event["runs"]
        if before(run["decided_at"], then)
    ]
    state = last["target"] if last is not None else "PROCESSED" if was_decided else "PENDING"
    changed: dict[str, Any] = {
        "state": state,
        "decided_at": event["decided_at"] if was_decided else None,
        "error": event["error"] if state == "DEAD" else None,
        "decisions": decisions,
        "later": later,
        "held": [] if runs else list(held),
        "runs": runs,
        "history": history,
    }
    return {**event, **changed}  # type: ignore[typeddict-item]  # the keys are those of the shape


def model_as_of(
    model: ModelShape,
    then: datetime,
    *,
    runs: Sequence[RunSummary],
    decisions: Sequence[DecisionShape],
    held: Sequence[HeldShape],
    pauses: Sequence[PauseShape],
) -> ModelShape:
    """Return what was known of a model at an instant; what is given besides is of that instant already."""
    promotions = [promotion for promotion in model["promotions"] if before(promotion["created_at"], then)]
    applied = [p for p in promotions if p["state"] in ("APPLIED", "UNDONE") and before(p["finished_at"], then)]
    crowning = max(applied, key=lambda p: (_instant(str(p["finished_at"])), p["id"]), default=None)
    versions = [version for version in model["versions"] if before(version["created_at"], then)]
    champion = next((v for v in versions if crowning is not None and v["id"] == crowning["version_id"]), None)
    changed: dict[str, Any] = {
        "champion": champion,
        "epoch": len(applied),
        "promotion_held": False,
        "held_until": None,
        "held_reason": "",
        "last_run": runs[0] if runs else None,
        "versions": versions,
        "promotions": promotions,
        "runs": list(runs),
        "held": list(held),
        "pauses": list(pauses),
        "tallies": [],
        "decisions": list(decisions),
    }
    return {**model, **changed}  # type: ignore[typeddict-item]  # the keys are those of the shape


def held_then(decisions: Iterable[DecisionShape]) -> list[HeldShape]:
    """Return what was held when the last of these decisions (oldest first) was made, by what each policy last said for each key."""
    found: dict[tuple[str, str, str], HeldShape] = {}
    for decision in decisions:
        place = (decision["model"], decision["policy"], decision["key"])
        known = found.get(place)
        if decision["kind"] == "HOLD":
            found[place] = {
                "model": decision["model"],
                "policy": decision["policy"],
                "key": decision["key"],
                "stage": decision["stage"],
                "since": decision["at"] if known is None else known["since"],
                "count": (0 if known is None else known["count"]) + (decision["event_id"] is not None),
                "until": decision["until"],
                "waits_for": decision["waits_for"],
                "reason": decision["reason"],
            }
        elif known is not None and not _goes_on(decision):
            del found[place]
    return list(found.values())


def before(at: str | None, then: datetime) -> bool:
    """Say whether something happened by an instant."""
    return at is not None and _instant(at) <= then


def _goes_on(decision: DecisionShape) -> bool:
    """Say whether what was held stays held after a decision that is no hold."""
    facts = decision["trace"][-1]["facts"] if decision["trace"] else {}
    if decision["stage"] == "episode" and "let_go" in facts:
        return int(facts.get("held", 1)) > 1
    return decision["kind"] == "ERROR" or decision["reason"].startswith(_STILL_HELD)


def _instant(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _last(history: Sequence[HistoryShape], entity: str) -> HistoryShape | None:
    return next((row for row in reversed(history) if row["entity"] == entity), None)


def _job(job: Mapping[str, Any], history: Sequence[HistoryShape], then: datetime) -> dict[str, Json]:
    last = _last(history, job["id"])
    has_result = before(job["finished_at"], then)
    return {
        **job,
        "state": job["state"] if last is None else last["target"],
        "cause": job["cause"] if last is None else last["cause"],
        "reason": "" if last is None else last["reason"],
        "finished_at": job["finished_at"] if has_result else None,
        "attempts": [
            {
                **attempt,
                **(
                    {}
                    if before(attempt["finished_at"], then)
                    else {"finished_at": None, "exit_code": None, "reason": ""}
                ),
            }
            for attempt in job["attempts"]
            if before(attempt["launched_at"], then)
        ],
        **({} if has_result else {"metrics": None, "champion_metrics": None, "result": None}),
    }


def _version(version: VersionShape, history: Sequence[HistoryShape]) -> VersionShape:
    last = _last(history, version["id"])
    return {**version, "state": VERSION.initial if last is None else last["target"]}


def _promotions(
    promotions: Sequence[PromotionShape], history: Sequence[HistoryShape], then: datetime
) -> list[PromotionShape]:
    found: list[Any] = []
    for promotion in promotions:
        if not before(promotion["created_at"], then):
            continue
        last = _last(history, promotion["id"])
        is_over = before(promotion["finished_at"], then)
        changed: Any = {
            "state": promotion["state"] if last is None else last["target"],
            "finished_at": promotion["finished_at"] if is_over else None,
            "steps": promotion["steps"] if is_over else [],
        }
        found.append({**promotion, **changed})
    return found


def _watch(watch: Any, then: datetime) -> Any:
    if watch is None or not before(watch["opened_at"], then):
        return None
    if before(watch["finished_at"], then):
        return watch
    seen = [each for each in watch["evidence"] if before(each["time"], then)]
    return {
        **watch,
        "state": "OPEN",
        "reason": "",
        "finished_at": None,
        "evidence": seen,
        "samples": len(seen),
        "rollback_id": None,
        "rollback_state": None,
    }
