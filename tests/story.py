"""A database in which something of everything has happened, written through the store's own methods.

The champion was adopted; a file was held, fired and led to a promotion; a second one to a rejection; a press trains now; one event is held,
one was only counted, one is dead, one waits. `Story` names what came of it, so that tests can ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from controller.clock import Ids
from controller.core.chain import PolicyState
from controller.core.conditions import Expression, Pattern
from controller.core.gate import Line, Verdict
from controller.core.model import (
    PERSON_ORIGIN,
    RETRAIN_REQUESTED,
    Attempt,
    Cause,
    Decision,
    Event,
    NewEvent,
    Run,
    Trace,
)
from controller.core.policy import (
    Approval,
    Candidate,
    Cooldown,
    Debounce,
    Gate,
    Leaf,
    ModelSpec,
    Policy,
    PromoterSpec,
    Training,
)
from controller.core.result import Result
from controller.store.store import Store, Transaction
from controller.testing.fakes import ManualClock, SeededRandom

MODEL = "flight-delay"
_VARIABLES = ("event", "model", "champion")


def make_spec() -> ModelSpec:
    """The configuration that the story happened under."""
    new_month = Policy(
        model=MODEL,
        name="new-month",
        on=Leaf(source="landing", when=Expression.load("event.data.size > 1000", variables=_VARIABLES)),
        version="p-month",
        on_hash="h-month",
        debounce=Debounce(quiet=timedelta(seconds=5)),
    )
    drift = Policy(
        model=MODEL,
        name="drift",
        on=Leaf(type=Pattern("drift.*"), when=Expression.load("event.data.share > 0.3", variables=_VARIABLES)),
        version="p-drift",
        on_hash="h-drift",
        cooldown=Cooldown(after="promotion", period=timedelta(hours=6)),
    )
    return ModelSpec(
        name=MODEL,
        labels={"team": "travel"},
        policies={"new-month": new_month, "drift": drift},
        training=Training(
            launcher="process", candidates=[Candidate(name="boosting"), Candidate(name="linear")], options={}
        ),
        gate=Gate(),
        approval=Approval(),
        promoters=[PromoterSpec(type="alias", options={})],
        notify=["log"],
    )


@dataclass
class Story:
    """Ids of what happened."""

    store: Store
    clock: ManualClock
    spec: ModelSpec
    #: Events.
    arrived: str = ""
    second: str = ""
    missed: str = ""
    held: str = ""
    dead: str = ""
    pending: str = ""
    press: str = ""
    #: Runs.
    promoted: str = ""
    rejected: str = ""
    training: str = ""
    #: Versions.
    adopted: str = ""
    champion: str = ""


def open_store(url: str, clock: ManualClock) -> Store:
    """A store with its schema, led by this test."""
    store = Store.open(url, base=Path(), clock=clock, ids=Ids(clock, SeededRandom(7)))
    store.upgrade()
    store.lead(owner="owner-1", host="tower", pid=4711)
    return store


def tell(store: Store, clock: ManualClock) -> Story:
    """Write the story."""
    story = Story(store=store, clock=clock, spec=make_spec())
    with store.transaction("story") as tx:
        tx.people.activate(version="c1", body={}, actor="ada", policies=story.spec.policies.values())
    _adopt(story)
    _promote(story)
    _reject(story)
    _press(story)
    _leave_over(story)
    return story


def _event(story: Story, **attributes: object) -> Event:
    story.clock.advance(timedelta(minutes=1))
    origin = str(attributes.pop("origin", "landing"))
    new = NewEvent(**{"source": "/landing", "source_id": "x", "type": "file.arrived", **attributes})  # type: ignore[arg-type]
    with story.store.transaction("take", fenced=False) as tx:
        receipt = tx.events.add(origin, [new])[0]
        event = tx.events.get(receipt.event_id)
    assert event is not None
    return event


def _decision(kind: str, stage: str, reason: str, *lines: tuple[str, str, str], policy: str = "new-month") -> Decision:
    return Decision(
        kind=kind,  # type: ignore[arg-type]
        model=MODEL,
        policy=policy,
        policy_version="p-month",
        key="",
        stage=stage,
        reason=reason,
        trace=tuple(Trace(stage=s, outcome=o, reason=r) for s, o, r in lines),  # type: ignore[arg-type]
    )


_MATCHED = ("match", "pass", "'file.arrived' from 'landing'")
_WHEN = ("when", "pass", "event.data.size > 1000: true (event.data.size = 4200000)")


def _cause(event: Event) -> Cause:
    return Cause(event_id=event.id, type=event.type, origin=event.origin, subject=event.subject, time=event.time)


def _fire(
    tx: Transaction, decision: Decision, events: list[Event], *, by_event: str | None, actor: str | None = None
) -> Run:
    run_id = tx.runs.new_id()
    seq = tx.policies.take_numbers(1)
    decision_id = tx.policies.add_decision(decision, seq=seq, event_id=by_event, run_id=run_id)
    run = Run(
        id=run_id, model=MODEL, policy=decision.policy, policy_version=decision.policy_version, config_version="c1",
        key="", state="QUEUED", cause="decided", reason="", decision_id=decision_id, decided_at=tx.now,
        params={"depth": 6} if actor else {}, actor=actor, traceparent=None, started_at=None, finished_at=None,
        champion_id=None, epoch=None, stop_as=None, awaiting_since=None,
    )  # fmt: skip
    tx.runs.add(run)
    tx.runs.add_causes(run_id, decision_id, [_cause(event) for event in events], joins=False)
    if by_event is not None:
        tx.events.mark_processed([(by_event, seq)])
    return run


def _reload(tx: Transaction, run_id: str) -> Run:
    run = tx.runs.get(run_id)
    assert run is not None
    return run


def _train(story: Story, run: Run, aucs: dict[str, float], *, failing: str = "") -> None:
    """Start the run's jobs and end them all."""
    with story.store.transaction("dispatch") as tx:
        state = tx.models.ensure(MODEL)
        tx.runs.move(
            run, "TRAINING", cause="dispatched", started_at=tx.now, champion_id=state.champion_id, epoch=state.epoch
        )
        for candidate in [*aucs, *([failing] if failing else [])]:
            job = tx.runs.add_job(run, candidate, {"algorithm": candidate})
            attempt = Attempt(
                id=tx.runs.new_attempt_id(), job_id=job.id, number=1, nonce="n", launcher="process", owner="owner-1",
                handle={"pid": 1}, folder="/none", launched_at=tx.now, started_at=tx.now, finished_at=None, exit_code=None,
                reason="",
            )  # fmt: skip
            tx.runs.add_attempt(attempt)
            tx.runs.move_job(job, "LAUNCHING", cause="launching", attempt=1)
            tx.runs.move_job(replace(job, state="LAUNCHING"), "RUNNING", cause="launched")
    story.clock.advance(timedelta(seconds=40))
    with story.store.transaction("observe") as tx:
        for job in tx.runs.jobs(run.id):
            attempt = tx.runs.attempt(job)
            assert attempt is not None
            if job.candidate == failing:
                tx.runs.set_attempt(attempt.id, finished_at=tx.now, exit_code=3, reason="exit code 3")
                tx.runs.move_job(job, "FAILED", cause="failed", reason="exit code 3")
                continue
            tx.runs.set_attempt(attempt.id, finished_at=tx.now, exit_code=0, reason="exit code 0")
            result = Result(
                metrics={"auc": aucs[job.candidate], "rows": 27000.0},
                champion_metrics={"auc": 0.66},
                artifact=f"/models/{job.candidate}",
                evaluation={"digest": "sha256:e1", "count": 9000},
            )
            tx.runs.add_result(job.id, result, "sha256:r")
            tx.runs.move_job(job, "SUCCEEDED", cause="succeeded")
        tx.runs.move(_reload(tx, run.id), "JUDGING", cause="trained")


def _adopt(story: Story) -> None:
    with story.store.transaction("adopt") as tx:
        state = tx.models.ensure(MODEL)
        version = tx.models.add_version(
            MODEL, artifact="/models/first", artifact_digest=None, metrics={"auc": 0.65}, lineage={"adopted_by": "ada"}
        )
        promotion = tx.models.add_promotion(
            state,
            version_id=version.id,
            kind="adopted",
            run_id=None,
            actor="ada",
            reason="the one we have",
            promoters=[],
        )
        tx.models.crown(promotion)
        tx.models.move_promotion(promotion, "APPLIED", cause="applied")
    story.adopted = version.id


def _promote(story: Story) -> None:
    event = _event(story, source_id="2013-02.csv.gz@1", data={"size": 4200000, "path": "2013-02.csv.gz"})
    story.arrived = event.id
    with story.store.transaction("decide") as tx:
        seq = tx.policies.take_numbers(1)
        held = _decision(
            "HOLD", "debounce", "quiet for 0s of 5s", _MATCHED, _WHEN, ("debounce", "hold", "quiet for 0s of 5s")
        )
        held = replace(held, until=tx.now + timedelta(seconds=5))
        tx.policies.add_decision(held, seq=seq, event_id=event.id, run_id=None)
        tx.policies.collect(MODEL, "new-month", "", _cause(event))
        tx.events.mark_processed([(event.id, seq)])
    story.clock.advance(timedelta(seconds=5))
    with story.store.transaction("decide") as tx:
        fired = _decision("FIRE", "fire", "every stage passed", ("debounce", "pass", "quiet for 5s, 5s asked"))
        run = _fire(tx, fired, [event], by_event=None)
        tx.policies.drop_causes(MODEL, "new-month", "")
    story.promoted = run.id
    _train(story, run, {"boosting": 0.7123, "linear": 0.69})
    with story.store.transaction("judge") as tx:
        run = _reload(tx, run.id)
        verdict = Verdict(
            outcome="PASSED",
            challenger="boosting",
            reason="auc 0.7123 against 0.66 of champion v1 on the same data: gain +0.0523, at least +0.002 asked",
            lines=(
                Line(candidate="boosting", rule="trained", outcome="pass", text="auc 0.7123, rows 27000"),
                Line(candidate="linear", rule="trained", outcome="pass", text="auc 0.69, rows 27000"),
                Line(
                    candidate="boosting", rule="objective", outcome="pass", text="gain +0.0523, at least +0.002 asked"
                ),
            ),
        )
        tx.runs.add_verdict(run.id, verdict, run.champion_id)
        jobs = {job.candidate: job for job in tx.runs.jobs(run.id)}
        version = tx.models.add_version(
            MODEL, artifact="/models/boosting", artifact_digest="sha256:a", metrics={"auc": 0.7123, "rows": 27000.0},
            lineage={}, run_id=run.id, job_id=jobs["boosting"].id, candidate="boosting",
        )  # fmt: skip
        promotion = tx.models.add_promotion(
            tx.models.ensure(MODEL), version_id=version.id, kind="promoted", run_id=run.id, actor="controller",
            reason=verdict.reason, promoters=["alias"],
        )  # fmt: skip
        tx.runs.move(run, "PROMOTING", cause="passed", reason=verdict.reason)
    with story.store.transaction("apply") as tx:
        step = tx.models.steps(promotion.id)[0]
        tx.models.move_step(step, "APPLIED", cause="applied", reason="models/flight-delay -> v2")
        tx.models.crown(promotion)
        tx.models.move_promotion(promotion, "APPLIED", cause="applied")
        tx.runs.move(_reload(tx, run.id), "PROMOTED", cause="promoted", reason=verdict.reason)
    story.champion = version.id


def _reject(story: Story) -> None:
    event = _event(story, source_id="2013-03.csv.gz@1", data={"size": 5100000, "path": "2013-03.csv.gz"})
    story.second = event.id
    with story.store.transaction("decide") as tx:
        chain = [
            _MATCHED,
            _WHEN,
            ("debounce", "pass", "quiet for 5s, 5s asked"),
            ("concurrency", "pass", "no other run"),
        ]
        run = _fire(tx, _decision("FIRE", "fire", "every stage passed", *chain), [event], by_event=event.id)
    story.rejected = run.id
    _train(story, run, {"boosting": 0.71}, failing="linear")
    with story.store.transaction("judge") as tx:
        run = _reload(tx, run.id)
        verdict = Verdict(
            outcome="FAILED",
            challenger="boosting",
            reason="auc 0.71 against 0.7110 of champion v2 on the same data: gain -0.001, at least +0.002 asked",
            lines=(
                Line(candidate="boosting", rule="trained", outcome="pass", text="auc 0.71, rows 27000"),
                Line(candidate="linear", rule="trained", outcome="fail", text="exit code 3"),
                Line(candidate="boosting", rule="objective", outcome="fail", text="gain -0.001, at least +0.002 asked"),
            ),
        )
        tx.runs.add_verdict(run.id, verdict, run.champion_id)
        tx.runs.move(run, "REJECTED", cause="gate_failed", reason=verdict.reason)


def _press(story: Story) -> None:
    event = _event(
        story, origin=PERSON_ORIGIN, source="/people", source_id="press-1", type=RETRAIN_REQUESTED, subject=MODEL,
        data={"actor": "grace", "reason": "holidays ahead", "params": {"depth": 6}},
    )  # fmt: skip
    story.press = event.id
    with story.store.transaction("decide") as tx:
        chain = [
            ("press", "pass", "grace pressed retrain: holidays ahead"),
            ("chain", "over", "a person passes over match"),
        ]
        run = _fire(
            tx,
            _decision("FIRE", "fire", "every stage passed", *chain, policy="manual"),
            [event],
            by_event=event.id,
            actor="grace",
        )
        tx.people.add_act(
            actor="grace",
            verb="retrain",
            target=MODEL,
            reason="holidays ahead",
            details={},
            response={"event_id": event.id},
        )
    story.training = run.id
    with story.store.transaction("dispatch") as tx:
        tx.runs.move(run, "TRAINING", cause="dispatched", started_at=tx.now)
        tx.runs.add_job(run, "boosting", {})


def _leave_over(story: Story) -> None:
    missed = _event(story, origin="api", source="/monitor", source_id="d-1", type="drift.detected", data={"share": 0.2})
    held = _event(story, origin="api", source="/monitor", source_id="d-2", type="drift.detected", data={"share": 0.5})
    dead = _event(
        story, origin="api", source="/monitor", source_id="d-3", type="drift.detected", data={"share": "much"}
    )
    story.missed, story.held, story.dead = missed.id, held.id, dead.id
    with story.store.transaction("decide") as tx:
        first = tx.policies.take_numbers(2)
        tx.policies.count_refusals({(MODEL, "drift", "when"): 1, (MODEL, "new-month", "match"): 1})
        until = tx.now + timedelta(hours=5)
        reason = "last promotion 1h ago, 6h asked"
        line = ("cooldown", "hold", reason)
        chain = [
            ("match", "pass", "'drift.detected' from 'api'"),
            ("when", "pass", "event.data.share > 0.3: true"),
            line,
        ]
        decision = replace(_decision("HOLD", "cooldown", reason, *chain, policy="drift"), until=until)
        tx.policies.add_decision(decision, seq=first, event_id=held.id, run_id=None)
        tx.policies.collect(MODEL, "drift", "", _cause(held))
        state = PolicyState(on_hash="h-drift", stage="cooldown", held_since=tx.now, held_count=1, due_at=until)
        tx.policies.save_state(story.spec.policies["drift"], "", state)
        tx.events.mark_processed([(missed.id, first), (held.id, first + 1)])
        tx.events.mark_dead(dead.id, reason="share is text")
        tx.people.add_pause(scope="policy", target=f"{MODEL}/new-month", actor="ada", reason="the source is moving")
    story.pending = _event(story, source_id="2013-04.csv.gz@1", data={"size": 10}).id
