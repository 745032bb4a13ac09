"""The flow that every crash test interrupts, and the facts that must be the same however it was interrupted.

A file arrives and two candidates compete; a second file is rejected; a person presses the button, well, with a failing first attempt,
and with a run that is cancelled; the configuration is reloaded; a champion is adopted; an event by HTTP waits for approval; a rollback;
an alert that says worse, and the watch rolls that promotion back. Two promoters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.facts import facts, finish, press, send, starts_of, wait_for_promotion, wrong_in_itself
from tests.acceptance.harness import Installation

_JOB = r"""
echo "$RETRAIN_JOB_ID $RETRAIN_ATTEMPT" >>"$STARTS"
auc=0.6
case $RETRAIN_PARAMS in
  *flaky*) [ "$RETRAIN_ATTEMPT" -ge 2 ] || exit 3 ;;
  *slow*) exec sleep 600 ;;
  *good*) auc=0.8 ;;
esac
[ -n "$RETRAIN_CHAMPION" ] || auc=0.7
[ "$RETRAIN_CANDIDATE" = a ] || auc=0.5
echo "$RETRAIN_JOB_ID" >"$RETRAIN_ARTIFACT_DIR/model"
echo '{"metrics": {"auc": '$auc'}, "champion_metrics": {"auc": 0.7}, "artifact": "model"}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""
_PROMOTE = r"""
serving=serving.$RETRAIN_MODEL
case $RETRAIN_ACTION in
  current) cat "$serving" 2>/dev/null; exit 0 ;;
esac
echo "$RETRAIN_VERSION_ID" >"$serving.new"
mv "$serving.new" "$serving"
"""
#: Final states of runs, in the order of the flow.
EXPECTED_RUNS = (
    ("churn", "data", "PROMOTED", "promoted"),
    ("churn", "data", "REJECTED", "gate_failed"),
    ("churn", "manual", "PROMOTED", "promoted"),
    ("churn", "manual", "REJECTED", "gate_failed"),
    ("churn", "manual", "CANCELLED", "cancelled"),
    ("asked", "skew", "PROMOTED", "promoted"),
)


def install(folder: Path, database: str | None = None) -> Installation:
    """Write the scripts and the first configuration."""
    there = Installation(folder, database)
    (folder / "landing").mkdir()
    (folder / "job.sh").write_text(_JOB)
    (folder / "promote.sh").write_text(_PROMOTE)
    there.configure(_config(there, asked=False))
    return there


def play(there: Installation) -> dict[str, Any]:
    """Play the flow to its end, whatever kills the daemon meanwhile; return what must be the same each time."""
    there.begin("start")
    there.wait_ready()
    there.begin("file")
    there.drop_file("m1.csv")
    there.wait_run(1, "PROMOTED")
    there.begin("second file")
    there.drop_file("m2.csv")
    there.wait_run(2, "REJECTED")
    _buttons(there)
    _reload(there)
    _adopt(there)
    there.begin("event")
    send(there, "e-1", "skew")
    asked = there.wait_run(6, "AWAITING_APPROVAL")
    there.begin("approval")
    there.insist(
        "POST", f"/v1/runs/{asked.id}/approve", {"reason": "a test"}, unless=lambda: there.acts("approve") == 1
    )
    there.wait_run(6, "PROMOTED")
    there.begin("rollback")
    there.insist("POST", "/v1/models/churn/rollback", {"reason": "a test"}, unless=lambda: there.acts("rollback") == 1)
    wait_for_promotion(there, "churn", "rollback")
    there.begin("alert")
    send(there, "e-2", "alert.slo")
    wait_for_promotion(there, "asked", "rollback")
    _wait_for_artifacts(there)
    there.begin("look")
    there.insist("GET", "/v1/sources/landing")
    finish(there)
    return facts(there)


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with facts in themselves, whatever others look like."""
    wrong = [] if found["runs"] == EXPECTED_RUNS else [f"runs: {found['runs']}"]
    return wrong + wrong_in_itself(found)


def _buttons(there: Installation) -> None:
    """A person presses three times: well, with a failing first attempt, and to cancel it."""
    there.begin("press")
    press(there, "churn", "good")
    there.wait_run(3, "PROMOTED")
    there.begin("flaky")
    press(there, "churn", "flaky")
    there.wait_run(4, "REJECTED")
    there.begin("slow")
    press(there, "churn", "slow")
    slow = there.wait_run(5, "TRAINING")
    _wait_for_starts(there, slow.id, 2)
    there.begin("cancel")
    there.insist("POST", f"/v1/runs/{slow.id}/cancel", {"reason": "a test"}, unless=lambda: there.acts("cancel") == 1)
    there.wait_run(5, "CANCELLED")


def _reload(there: Installation) -> None:
    there.begin("reload")
    there.configure(_config(there, asked=True))
    there.insist("POST", "/v1/reload", unless=lambda: there.acts("reload") and _in_force(there))


def _config(there: Installation, *, asked: bool) -> dict[str, Any]:
    script = str(there.folder / "job.sh")
    training = {
        "launcher": "process",
        "command": ["/bin/sh", script],
        "env": {"STARTS": str(there.folder / "starts")},
        "candidates": {"a": {}, "b": {}},
        "retries": {"attempts": 2, "backoff": "50ms"},
        "stop_grace": "10s",
    }

    def model(name: str, policies: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "policies": policies,
            "train": training,
            "gate": {"objective": {"metric": "auc"}},
            "promote": [
                {"type": "alias", "path": f"models/{name}"},
                {
                    "type": "command",
                    "promote": ["/bin/sh", "promote.sh"],
                    "current": ["/bin/sh", "promote.sh"],
                },
            ],
            "notify": ["log"],
            "keep_artifacts": 0,
            **more,
        }

    models = {"churn": model("churn", {"data": {"on": {"source": "landing"}}})}
    if asked:
        watch = {"for": "1h", "rollback_on": {"type": "alert.slo"}}
        asked_model = model("asked", {"skew": {"on": {"type": "skew"}}}, approve={"required": True}, watch=watch)
        models["asked"] = {**asked_model, "train": {**training, "params": {"mode": "good"}}}
    return {
        "sources": {
            "landing": {"type": "files", "path": "landing", "include": ["*.csv"], "settle": "0s", "scan_every": "1s"},
            "yearly": {"type": "cron", "schedule": "0 0 1 1 *", "catch_up": "none"},
        },
        "launchers": {"process": {"slots": 4}},
        "models": models,
    }


def _wait_for_starts(there: Installation, run_id: str, count: int) -> None:
    """Wait until the run's jobs run, on both sides: the scripts began, and the daemon knows it."""

    def begun() -> bool:
        there.keep_running()
        jobs = [job for job in there.jobs() if job.run_id == run_id]
        started = {line.split()[0] for line in starts_of(there)}
        return len(jobs) == count and all(job.state == "RUNNING" and job.id in started for job in jobs)

    there.wait(begun, what="the jobs of the slow run")


def _in_force(there: Installation) -> bool:
    return bool(there.rows(sa.select(schema.model).where(schema.model.c.name == "asked")))


def _wait_for_artifacts(there: Installation) -> None:
    """Wait until the artifacts of those that lost are let go of."""
    there.begin("artifacts")
    version = schema.version.c
    kept = sa.select(version.id).where(version.artifact_kept, version.state == "REJECTED")
    there.wait(lambda: there.keep_running() or not there.rows(kept), what="the end of old artifacts")


def _adopt(there: Installation) -> None:
    """Give the model that asks a champion that its run can be compared with, and rolled back to."""
    there.begin("adoption")
    body = {"artifact": str(there.folder / "job.sh"), "metrics": {"auc": 0.7}, "reason": "a test"}
    there.insist("POST", "/v1/models/asked/adopt", body, unless=lambda: there.acts("adopt") == 1)
    wait_for_promotion(there, "asked", "adopted")


__all__ = ["EXPECTED_RUNS", "facts", "install", "play", "problems"]
