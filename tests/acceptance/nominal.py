"""The flow that every crash test interrupts, and the facts that must be the same however it was interrupted.

A file arrives and two candidates compete; a second file is rejected; a person presses the button, well, with a failing first attempt,
and with a run that is cancelled; the configuration is reloaded; a champion is adopted; an event by HTTP waits for approval; a rollback;
an alert that says worse, and the watch rolls that promotion back. Two promoters.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.store import schema
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
    there.wait_ready()
    there.drop_file("m1.csv")
    there.wait_run(1, "PROMOTED")
    there.drop_file("m2.csv")
    there.wait_run(2, "REJECTED")
    _press(there, "good")
    there.wait_run(3, "PROMOTED")
    _press(there, "flaky")
    there.wait_run(4, "REJECTED")
    _press(there, "slow")
    slow = there.wait_run(5, "TRAINING")
    _wait_for_starts(there, slow.id, 2)
    there.insist("POST", f"/v1/runs/{slow.id}/cancel", {"reason": "a test"}, unless=lambda: there.acts("cancel") == 1)
    there.wait_run(5, "CANCELLED")
    there.configure(_config(there, asked=True))
    there.insist("POST", "/v1/reload", unless=lambda: there.acts("reload") and _in_force(there))
    _adopt(there)
    _send(there, "e-1", "skew")
    asked = there.wait_run(6, "AWAITING_APPROVAL")
    there.insist(
        "POST", f"/v1/runs/{asked.id}/approve", {"reason": "a test"}, unless=lambda: there.acts("approve") == 1
    )
    there.wait_run(6, "PROMOTED")
    there.insist("POST", "/v1/models/churn/rollback", {"reason": "a test"}, unless=lambda: there.acts("rollback") == 1)
    there.wait(lambda: _rolled_back(there, "churn"), what="the rollback")
    _send(there, "e-2", "alert.slo")
    there.wait(lambda: _rolled_back(there, "asked"), what="the rollback by the watch")
    _wait_for_rest(there)
    _stop(there)
    return facts(there)


def facts(there: Installation) -> dict[str, Any]:
    """What happened, without ids and times."""
    runs, jobs = there.runs(), there.jobs()
    starts = (there.folder / "starts").read_text().splitlines()
    attempts = there.rows(sa.select(schema.attempt))
    versions = there.rows(sa.select(schema.version).order_by(schema.version.c.model, schema.version.c.number))
    number = {version.id: version.number for version in versions}
    models = there.rows(sa.select(schema.model).order_by(schema.model.c.name))
    verdicts = {row.run_id: row.outcome for row in there.rows(sa.select(schema.verdict))}
    events = there.rows(sa.select(schema.event))
    return {
        "runs": tuple((run.model, run.policy, run.state, run.cause) for run in runs),
        "verdicts": tuple(verdicts.get(run.id) for run in runs),
        "outcomes": tuple(run.outcome for run in runs),
        "jobs": tuple((job.candidate, job.state, job.attempt) for job in jobs),
        "versions": tuple((version.model, version.number, version.candidate, version.state) for version in versions),
        "champions": {model.name: (number.get(model.champion_id), model.epoch) for model in models},
        "serving": {model.name: number.get(_serving(there, model.name)) for model in models},
        "alias": {model.name: number.get(_alias(there, model.name)) for model in models},
        "promotions": tuple(
            (row.model, row.kind, row.state)
            for row in there.rows(sa.select(schema.promotion).order_by(schema.promotion.c.id))
        ),
        "events": sorted((event.origin, event.type, event.state) for event in events),
        "acts": sorted(Counter(act.verb for act in there.rows(sa.select(schema.act)) if act.verb != "reload").items()),
        "causes": sorted(row.type for row in there.rows(sa.select(schema.run_cause))),
        "messages": sorted((row.kind, row.state) for row in there.rows(sa.select(schema.notification))),
        "started more than once": sorted(line for line, count in Counter(starts).items() if count > 1),
        "started without a row": sorted(set(starts) - {f"{row.job_id} {row.number}" for row in attempts}),
        "rows without a start": len({f"{row.job_id} {row.number}" for row in attempts} - set(starts)),
        "left": sorted(job.state for job in jobs if job.finished_at is None),
        "processes": there.job_pids(),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with facts in themselves, whatever others look like."""
    wrong = []
    if found["runs"] != EXPECTED_RUNS:
        wrong.append(f"runs: {found['runs']}")
    empty = ("started more than once", "started without a row", "left", "processes")
    wrong += [f"{name}: {found[name]}" for name in empty if found[name]]
    if found["rows without a start"]:
        wrong.append(f"{found['rows without a start']} attempts were never started")
    for name, (version, _) in found["champions"].items():
        if not version == found["serving"][name] == found["alias"][name]:
            wrong.append(f"{name}: v{version} is champion, {found['serving'][name]} and {found['alias'][name]} serve")
    return wrong


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


def _press(there: Installation, mode: str) -> None:
    body = {"reason": "a test", "params": {"mode": mode}}
    there.insist("POST", "/v1/models/churn/retrain", body, Idempotency_Key=f"press-{mode}")


def _starts(there: Installation) -> list[str]:
    path = there.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def _wait_for_starts(there: Installation, run_id: str, count: int) -> None:
    """Wait until the run's jobs run, on both sides: the scripts began, and the daemon knows it."""

    def begun() -> bool:
        there.keep_running()
        jobs = [job for job in there.jobs() if job.run_id == run_id]
        started = {line.split()[0] for line in _starts(there)}
        return len(jobs) == count and all(job.state == "RUNNING" and job.id in started for job in jobs)

    there.wait(begun, what="the jobs of the slow run")


def _in_force(there: Installation) -> bool:
    return bool(there.rows(sa.select(schema.model).where(schema.model.c.name == "asked")))


def _send(there: Installation, event_id: str, kind: str) -> None:
    event = {"specversion": "1.0", "id": event_id, "source": "/test", "type": kind}
    there.insist("POST", "/v1/events", event, Content_Type="application/cloudevents+json")


def _adopt(there: Installation) -> None:
    """Give the model that asks a champion that its run can be compared with, and rolled back to."""
    body = {"artifact": str(there.folder / "job.sh"), "metrics": {"auc": 0.7}, "reason": "a test"}
    there.insist("POST", "/v1/models/asked/adopt", body, unless=lambda: there.acts("adopt") == 1)

    def adopted() -> bool:
        there.keep_running()
        rows = there.rows(sa.select(schema.promotion).where(schema.promotion.c.kind == "adopted"))
        return bool(rows) and rows[-1].state == "APPLIED"

    there.wait(adopted, what="the adoption")


def _rolled_back(there: Installation, model: str) -> bool:
    there.keep_running()
    is_rollback = sa.and_(schema.promotion.c.kind == "rollback", schema.promotion.c.model == model)
    rows = there.rows(sa.select(schema.promotion).where(is_rollback))
    return bool(rows) and rows[-1].state == "APPLIED"


def _wait_for_rest(there: Installation) -> None:
    """Wait until nothing is left to do: messages sent, events decided, artifacts let go of."""

    def rests() -> bool:
        there.keep_running()
        waiting = there.rows(sa.select(schema.notification).where(schema.notification.c.state == "PENDING"))
        pending = there.rows(sa.select(schema.event).where(schema.event.c.state == "PENDING"))
        kept = there.rows(
            sa.select(schema.version).where(schema.version.c.artifact_kept, schema.version.c.state == "REJECTED")
        )
        return not waiting and not pending and not kept

    there.wait(rests, what="everything to be done")


def _stop(there: Installation) -> None:
    """End the daemon by SIGTERM; if a crash point killed it on the way, let a new one end in order."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        code = there.terminate()
        if code == 0:
            return
        there.keep_running()
        there.wait_ready()
    raise AssertionError("the daemon does not end in order")


def _serving(there: Installation, model: str) -> str | None:
    path = there.folder / f"serving.{model}"
    return path.read_text().strip() if path.exists() else None


def _alias(there: Installation, model: str) -> str | None:
    path = there.folder / "models" / model / "current"
    return path.readlink().name if path.is_symlink() else None
