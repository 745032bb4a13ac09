"""What an installation came to, without ids and times, and the moves that every story of the crash tests is made of."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import Any

import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.harness import DaemonGone, Installation

#: These say that a person or a monitor repeated itself, which depends on when the daemon died.
_REPEATED_ACTS = frozenset({"reload", "test", "notify.test"})
#: Told at once or counted for an hour, whichever came first.
_COUNTED_MESSAGES = frozenset({"dead_letters"})
#: Sent to see whether a source works; no policy ever acts on it.
_TEST_EVENT = "retrain.test"


def facts(there: Installation) -> dict[str, Any]:
    """What happened, without ids and times."""
    runs, jobs = there.runs(), there.jobs()
    starts = starts_of(there)
    attempts = there.rows(sa.select(schema.attempt).where(schema.attempt.c.handle.is_not(None)))
    versions = there.rows(sa.select(schema.version).order_by(schema.version.c.model, schema.version.c.number))
    number = {version.id: version.number for version in versions}
    models = there.rows(sa.select(schema.model).order_by(schema.model.c.name))
    verdicts = {row.run_id: row.outcome for row in there.rows(sa.select(schema.verdict))}
    promotions = there.rows(sa.select(schema.promotion).order_by(schema.promotion.c.id))
    return {
        "runs": tuple((run.model, run.policy, run.state, run.cause) for run in runs),
        "verdicts": tuple(verdicts.get(run.id) for run in runs),
        "outcomes": tuple(run.outcome for run in runs),
        "jobs": tuple((job.candidate, job.state, job.attempt) for job in jobs),
        "versions": tuple((version.model, version.number, version.candidate, version.state) for version in versions),
        "champions": {model.name: (number.get(model.champion_id), model.epoch) for model in models},
        "serving": {model.name: number.get(_serving(there, model.name)) for model in models},
        "alias": {model.name: number.get(_alias(there, model.name)) for model in models},
        "promotions": tuple((row.model, row.kind, row.state) for row in promotions),
        "steps": _steps(there),
        "events": _events(there),
        "letters": sorted((row.origin, row.state) for row in there.rows(sa.select(schema.dead_letter))),
        "episodes": sorted((row.origin, row.state, row.cause) for row in there.rows(sa.select(schema.episode))),
        "acts": sorted(
            Counter(act.verb for act in there.rows(sa.select(schema.act)) if act.verb not in _REPEATED_ACTS).items()
        ),
        "causes": sorted(row.type for row in there.rows(sa.select(schema.run_cause))),
        "messages": sorted(
            (row.channel, row.kind, row.state)
            for row in there.rows(sa.select(schema.notification))
            if row.kind not in _COUNTED_MESSAGES
        ),
        "started more than once": sorted(line for line, count in Counter(starts).items() if count > 1),
        "started without a row": sorted(set(starts) - {f"{row.job_id} {row.number}" for row in attempts}),
        "rows without a start": len({f"{row.job_id} {row.number}" for row in attempts} - set(starts)),
        "left": sorted(job.state for job in jobs if job.finished_at is None),
        "processes": there.job_pids(),
    }


def wrong_in_itself(found: dict[str, Any]) -> list[str]:
    """What is wrong with facts whatever the story was: a second start, something left over, a champion that does not serve."""
    empty = ("started more than once", "started without a row", "left", "processes")
    wrong = [f"{name}: {found[name]}" for name in empty if found[name]]
    if found["rows without a start"]:
        wrong.append(f"{found['rows without a start']} attempts were never started")
    for name, (version, _) in found["champions"].items():
        if not version == found["serving"][name] == found["alias"][name]:
            wrong.append(f"{name}: v{version} is champion, {found['serving'][name]} and {found['alias'][name]} serve")
    return wrong


def starts_of(there: Installation) -> list[str]:
    """Every start of a job, as the jobs themselves wrote it down: job id and attempt."""
    path = there.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def press(there: Installation, model: str, mode: str) -> None:
    """Have a person ask for a retraining, in a mode that the job understands."""
    body = {"reason": "a test", "params": {"mode": mode}}
    there.insist("POST", f"/v1/models/{model}/retrain", body, Idempotency_Key=f"press-{model}-{mode}")


def send(there: Installation, event_id: str, kind: str) -> None:
    """Send an event until it is acknowledged."""
    event = {"specversion": "1.0", "id": event_id, "source": "/test", "type": kind}
    there.insist("POST", "/v1/events", event, Content_Type="application/cloudevents+json")


def wait_for_promotion(there: Installation, model: str, kind: str) -> None:
    """Wait until the newest promotion of this kind is through."""

    def applied() -> bool:
        there.keep_running()
        promotion = schema.promotion.c
        of_kind = sa.and_(promotion.kind == kind, promotion.model == model)
        rows = there.rows(sa.select(schema.promotion).where(of_kind).order_by(promotion.id))
        return bool(rows) and rows[-1].state == "APPLIED"

    there.wait(applied, what=f"the promotion {kind} of {model}")


def finish(there: Installation) -> None:
    """Wait until nothing is left to do, let clocks come round if that was asked for, and end the daemon in order."""
    there.begin("rest")
    _wait_for_rest(there)
    if there.lingers is not None:
        there.begin("linger")
        _linger(there, there.lingers)
    there.begin("stop")
    _stop(there)


def _wait_for_rest(there: Installation) -> None:
    """Wait until messages are sent and events decided."""
    message, event = schema.notification.c, schema.event.c
    waiting = sa.and_(message.state == "PENDING", message.kind.not_in(_COUNTED_MESSAGES))

    def rests() -> bool:
        there.keep_running()
        return not (
            there.rows(sa.select(message.id).where(waiting))
            or there.rows(sa.select(event.id).where(event.state == "PENDING"))
        )

    there.wait(rests, what="everything to be done")


def _linger(there: Installation, seconds: float) -> None:
    """Let clocks come round (sweeps, renewals), until the last armed crash point was reached, if there is one.

    Meanwhile an event that is known is sent again and again: that changes nothing, but gives those something to write who count.
    """
    until = time.monotonic() + seconds
    known = {"specversion": "1.0", "id": "e-1", "source": "/test", "type": "skew"}

    def enough() -> bool:
        there.keep_running()
        with contextlib.suppress(DaemonGone):
            there.ask("POST", "/v1/events", known, Content_Type="application/cloudevents+json")
        return time.monotonic() > until or (there.crashed and not there.is_armed)

    there.wait(enough, what="clocks to come round")
    there.wait_ready()


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


def _steps(there: Installation) -> tuple[tuple[Any, ...], ...]:
    step, promotion = schema.step.c, schema.promotion.c
    both = sa.join(schema.step, schema.promotion, step.promotion_id == promotion.id)
    wanted = sa.select(promotion.kind, step.promoter, step.state).select_from(both)
    return tuple(map(tuple, there.rows(wanted.order_by(step.promotion_id, step.position))))


def _events(there: Installation) -> list[tuple[str, str, str]]:
    """Events by origin, type and state; of what a clock repeats, only that it came."""
    rows = [row for row in there.rows(sa.select(schema.event)) if row.type != _TEST_EVENT]
    once = {(row.origin, row.type, row.state) for row in rows if row.origin == "share"}
    return sorted([*once, *((row.origin, row.type, row.state) for row in rows if row.origin != "share")])


def _serving(there: Installation, model: str) -> str | None:
    path = there.folder / f"serving.{model}"
    return path.read_text().strip() if path.exists() else None


def _alias(there: Installation, model: str) -> str | None:
    path = there.folder / "models" / model / "current"
    with contextlib.suppress(OSError):
        return path.readlink().name
    return None
