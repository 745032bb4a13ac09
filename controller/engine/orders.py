"""What a launcher is asked for: the order of an attempt, made of what the store knows of its run.

The order of an attempt is the same whenever it is made, by whichever process, so that it can be looked for by what it was started with.
What it needs is read in one transaction (`read`); nothing is written to the disk there, and nothing is asked outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controller.core.conditions import Scope, event_values
from controller.core.model import PERSON_ORIGIN, Attempt, Champion, Event, Job, Run
from controller.core.policy import ModelSpec
from controller.core.template import fill
from controller.engine.folders import Folders
from controller.engine.runtime import Runtime, champion_for_job, champion_of
from controller.ports import Order
from controller.store import Transaction
from controller.store.dialect import dump_json


@dataclass(frozen=True, slots=True)
class Brief:
    """What the orders of a run's jobs are made of."""

    run: Run
    spec: ModelSpec
    events: Sequence[Event]
    champion: Champion | None
    scope: Scope


def read(runtime: Runtime, tx: Transaction, run: Run, events: Sequence[Event]) -> Brief:
    """Collect what the orders of a run's jobs need; `events` are its causes."""
    spec = runtime.spec_of(tx, run)
    version = tx.models.version(run.champion_id)
    champion = None if version is None else champion_of(version)
    return Brief(run, spec, events, champion, scope_of(run, spec, events))


def scope_of(run: Run, spec: ModelSpec, events: Sequence[Event]) -> Scope:
    """Return what the templates of a run may name."""
    # A press says that somebody asked, not what there is: its data stands in only when there is nothing else.
    newest = next((event for event in reversed(events) if event.origin != PERSON_ORIGIN), None)
    newest = newest or (events[-1] if events else None)
    return Scope(
        {
            "event": None if newest is None else event_values(newest),
            "events": [event_values(event) for event in events],
            "model": {"name": spec.name, "labels": dict(spec.labels)},
            "run": {"id": run.id, "policy": run.policy, "key": run.key},
            "params": dict(run.params),
        }
    )


def order_of(runtime: Runtime, job: Job, attempt: Attempt, brief: Brief) -> Order:
    """Return what the launcher is asked for; raises `PluginError`, `ExpressionError` or `ValueError` when there can be no such order."""
    run, training = brief.run, brief.spec.training
    folder = runtime.folder_of(attempt)
    options = runtime.launcher_options(training, fill(dict(training.options), brief.scope))
    environment = {
        "RETRAIN_RUN_ID": run.id,
        "RETRAIN_JOB_ID": job.id,
        "RETRAIN_ATTEMPT": str(attempt.number),
        "RETRAIN_MODEL": job.model,
        "RETRAIN_CANDIDATE": job.candidate,
        "RETRAIN_PARAMS": dump_json(dict(job.params)),
        "RETRAIN_EVENTS": str(folder / "events.json"),
        "RETRAIN_CHAMPION": champion_for_job(brief.champion),
        "RETRAIN_ARTIFACT_DIR": str(folder / "artifact"),
        "RETRAIN_RESULT": str(folder / "result.json"),
    }
    if run.traceparent is not None:
        environment["TRACEPARENT"] = run.traceparent
    return Order(
        run_id=run.id,
        job_id=job.id,
        attempt_id=attempt.id,
        attempt=attempt.number,
        model=job.model,
        candidate=job.candidate,
        folder=folder,
        environment=environment,
        options=options,
    )


def lay_out(order: Order, brief: Brief, folders: Folders) -> None:
    """Make the attempt's folder and write the events that caused it; raises `OSError`. Safe to repeat."""
    folders.take(order.folder)
    path = order.folder / "events.json"
    partial = path.with_suffix(".partial")
    partial.write_text(dump_json([_as_cloudevent(event) for event in brief.events]))
    partial.replace(path)


def _as_cloudevent(event: Event) -> dict[str, Any]:
    """Return an event as the job gets it: a CloudEvents 1.0 record in JSON."""
    document = {
        "specversion": "1.0",
        "id": event.source_id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "origin": event.origin,
        "data": event.data,
        **event.extensions,
    }
    return {name: value for name, value in document.items() if value is not None}
