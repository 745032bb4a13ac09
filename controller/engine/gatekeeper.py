"""Judges runs, and carries promotions and rollbacks out.

The verdict is made by `core.gate.judge` of what the jobs reported; the controller digests each artifact itself, when judging and again
before it is promoted. A promotion is written as an intent with a step for each promoter, then carried out step by step, each read back;
if one gives up, those that moved go back in reverse. The champion's row changes last, as a compare-and-set on the model's epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from controller.core.gate import Contestant, Verdict, judge
from controller.core.holding import promotion_held
from controller.core.model import Champion, Job, Promotion, Run, Step, Version
from controller.core.policy import ModelSpec
from controller.core.result import Result
from controller.engine import artifact
from controller.engine.runtime import Runtime, Ticked, champion_of, notify_people, target_of
from controller.engine.watched import open_watch
from controller.errors import Conflict, GiveUp, InvalidInput, PluginError, RetryLater, StoreError
from controller.ports import Promoter, PromotionOrder
from controller.retry import backoff
from controller.store import Transaction

#: A promoter that asks to be tried again is given up on after this long.
PATIENCE = timedelta(hours=24)
#: What cannot be dealt with is tried again after this long.
STUCK = timedelta(seconds=30)


class Gatekeeper:
    """The loop that judges and promotes."""

    name = "gatekeeper"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def tick(self, now: datetime) -> Ticked:
        """Judge what is trained, move what waits for approval, and carry promotions on."""
        with self._runtime.store.reading() as tx:
            judging = tx.runs.in_state("JUDGING")
            waiting = tx.runs.in_state("AWAITING_APPROVAL")
            promotions = tx.models.pending_promotions()
        worked = sum(self._alone(run.id, partial(self._judge, run))[0] for run in judging)
        moved, next_at = self._review(waiting, now)
        for promotion in promotions:
            done, due_at = self._alone(promotion.id, partial(self._carry_on, promotion))
            moved += done
            next_at = min(filter(None, (next_at, due_at)), default=None)
        if worked or moved:
            self._runtime.bells.ring("dispatcher", "evaluator", "outbox", "janitor", "watcher")
        # What was let in just now is a promotion to carry on with.
        return Ticked(worked=worked + moved, again=worked + moved > 0, next_at=next_at)

    def _alone(self, entity: str, step: Callable[[], tuple[int, datetime | None]]) -> tuple[int, datetime | None]:
        """Take one run or promotion a step further; one that cannot be dealt with must not stop the others."""
        try:
            done = step()
        except StoreError:
            raise
        except Exception as error:
            self._runtime.complaints.set(
                self.name, entity, f"{entity} cannot be dealt with: {error!r}", code="loop.entity"
            )
            self._runtime.log.error("gatekeeper.stuck", entity=entity, error=repr(error), exc_info=True)
            return 0, self._runtime.clock.now() + STUCK
        self._runtime.complaints.set(self.name, entity, None)
        return done

    # ------------------------------------------------------------------------------------------- judging

    def _judge(self, run: Run) -> tuple[int, datetime | None]:
        with self._runtime.store.reading() as tx:
            spec = self._runtime.spec_of(tx, run)
            jobs, results = tx.runs.jobs(run.id), tx.runs.results(run.id)
            folders = {
                job.id: self._runtime.folder_of(attempt)
                for job in jobs
                if (attempt := tx.runs.attempt(job)) is not None
            }
            champion = _pinned(tx, run)
        contestants, artifacts = self._contestants(spec, jobs, results, folders)
        verdict = judge(
            spec.gate,
            contestants,
            champion,
            model={"name": spec.name, "labels": dict(spec.labels)},
            run={"id": run.id, "policy": run.policy, "key": run.key},
        )
        with self._runtime.store.transaction("judge") as tx:
            fresh = tx.runs.get(run.id)
            if fresh is None or fresh.state != "JUDGING":
                return 0, None
            if fresh.stop_as is not None:
                cause = "cancelled" if fresh.stop_as == "CANCELLED" else "replaced"
                tx.runs.move(fresh, fresh.stop_as, cause=cause, reason=fresh.reason)
                return 1, None
            tx.runs.add_verdict(run.id, verdict, run.champion_id)
            versions = self._add_versions(tx, run, jobs, results, artifacts)
            self._conclude(tx, fresh, spec, verdict, versions)
        self._runtime.metrics.verdicts.labels(run.model, verdict.outcome).inc()
        self._runtime.log.info(
            "verdict",
            run_id=run.id,
            model=run.model,
            outcome=verdict.outcome,
            challenger=verdict.challenger,
            reason=verdict.reason,
        )
        return 1, None

    def _contestants(
        self,
        spec: ModelSpec,
        jobs: Sequence[Job],
        results: dict[str, Result],
        folders: dict[str, Path],
    ) -> tuple[list[Contestant], dict[str, tuple[str, str | None]]]:
        """Return the candidates as the gate takes them, and each one's artifact with its digest."""
        artifacts: dict[str, tuple[str, str | None]] = {}
        contestants = []
        for job in jobs:
            result = results.get(job.id)
            problem = None
            if result is not None and (result.artifact or spec.promoters):
                try:
                    folder = folders[job.id] / "artifact"
                    place = artifact.locate(result.artifact, folder)
                    artifacts[job.candidate] = (place, artifact.digest(place))
                except InvalidInput as error:
                    problem = error.message
            contestants.append(
                Contestant(
                    candidate=job.candidate,
                    params=job.params,
                    result=result,
                    failure="" if result is not None else (job.reason or job.state.lower()),
                    artifact_error=problem,
                )
            )
        return contestants, artifacts

    @staticmethod
    def _add_versions(
        tx: Transaction,
        run: Run,
        jobs: Sequence[Job],
        results: dict[str, Result],
        artifacts: dict[str, tuple[str, str | None]],
    ) -> dict[str, Version]:
        versions = {}
        for job in jobs:
            if job.candidate not in artifacts:
                continue
            place, digest = artifacts[job.candidate]
            result = results[job.id]
            versions[job.candidate] = tx.models.add_version(
                run.model,
                artifact=place,
                artifact_digest=digest,
                metrics=result.metrics,
                lineage={
                    "champion_metrics": result.champion_metrics,
                    "evaluation": result.evaluation,
                    "data": result.data,
                    "code": result.code,
                    "params": job.params,
                },
                run_id=run.id,
                job_id=job.id,
                candidate=job.candidate,
            )
        return versions

    def _conclude(
        self,
        tx: Transaction,
        run: Run,
        spec: ModelSpec,
        verdict: Verdict,
        versions: dict[str, Version],
    ) -> None:
        """Move a run on from JUDGING, and its versions with it."""
        challenger = versions.get(verdict.challenger or "")
        promotable = verdict.outcome == "PASSED" and challenger is not None and bool(spec.promoters)
        for version in versions.values():
            if verdict.outcome != "PASSED":
                tx.models.move_version(version, "REJECTED", cause="rejected", reason=verdict.reason)
            elif version is not challenger:
                reason = f"{verdict.challenger} was chosen"
                tx.models.move_version(version, "REJECTED", cause="rejected", reason=reason)
        if verdict.outcome == "INCONCLUSIVE":
            tx.runs.move(run, "REJECTED", cause="inconclusive", reason=verdict.reason)
            notify_people(
                tx,
                spec,
                "rejected",
                f"{run.model}: nothing can be compared: {verdict.reason}",
                run_id=run.id,
            )
        elif verdict.outcome == "FAILED":
            tx.runs.move(run, "REJECTED", cause="gate_failed", reason=verdict.reason)
            notify_people(
                tx,
                spec,
                "rejected",
                f"{run.model}: challenger rejected: {verdict.reason}",
                run_id=run.id,
            )
        elif not promotable or challenger is None:
            tx.runs.move(run, "SUCCEEDED", cause="nothing_to_promote", reason=verdict.reason)
        else:
            self._let_in(tx, run, spec, challenger, verdict.reason)

    def _let_in(self, tx: Transaction, run: Run, spec: ModelSpec, challenger: Version, reason: str) -> None:
        """Send a challenger that passed to promotion, to a person, or home when the champion changed meanwhile."""
        model = tx.models.ensure(run.model)
        if newer := _newer_champion(tx, run):
            tx.runs.move(run, "SUPERSEDED", cause="newer_champion", reason=newer)
            tx.models.move_version(challenger, "REJECTED", cause="rejected", reason=newer)
        elif (number := tx.watches.rolled_back_before(run, challenger.artifact_digest)) is not None:
            why = f"v{number}, the same artifact made because of the same event, was rolled back"
            tx.runs.move(run, "REJECTED", cause="rolled_back_before", reason=why)
            tx.models.move_version(challenger, "REJECTED", cause="rejected", reason=why)
            notify_people(tx, spec, "rejected", f"{run.model}: challenger rejected: {why}", run_id=run.id)
        elif spec.approval.required:
            text = f"{run.model}: v{challenger.number} waits for approval: {reason}"
            tx.runs.move(
                run,
                "AWAITING_APPROVAL",
                cause="approval_required",
                reason=reason,
                awaiting_since=tx.now,
            )
            notify_people(tx, spec, "approval_required", text, run_id=run.id, version=challenger.number)
        elif model.promotion_held and not _is_over(model.held_until, tx.now):
            tx.runs.move(
                run,
                "AWAITING_APPROVAL",
                cause="held",
                reason=f"promotion is held: {model.held_reason}",
                awaiting_since=tx.now,
            )
            notify_people(
                tx,
                spec,
                "approval_required",
                f"{run.model}: promotion is held: {model.held_reason}",
                run_id=run.id,
            )
        elif (waits := self._waits_for_calendar(run, spec, tx.now)) is not None:
            why = f"promotion waits: {waits[1]}"
            tx.runs.move(run, "AWAITING_APPROVAL", cause="held", reason=why, awaiting_since=tx.now)
            title = f"{run.model}: v{challenger.number} passed, and its {why}"
            notify_people(tx, spec, "held", title, run_id=run.id, version=challenger.number)
        else:
            self.begin(tx, run, spec, challenger, cause="passed", actor="controller", reason=reason)

    @staticmethod
    def begin(
        tx: Transaction,
        run: Run,
        spec: ModelSpec,
        challenger: Version,
        *,
        cause: str,
        actor: str,
        reason: str,
    ) -> bool:
        """Write the intent to promote a run's challenger; returns False while another promotion is under way."""
        model = tx.models.ensure(run.model)
        if tx.models.pending_promotion(run.model) is not None:
            if run.state == "JUDGING":
                tx.runs.move(
                    run,
                    "AWAITING_APPROVAL",
                    cause="held",
                    reason="another promotion is under way",
                    awaiting_since=tx.now,
                )
            return False
        tx.models.add_promotion(
            model,
            version_id=challenger.id,
            kind="promoted",
            run_id=run.id,
            actor=actor,
            reason=reason,
            promoters=[promoter.type for promoter in spec.promoters],
        )
        tx.runs.move(run, "PROMOTING", cause=cause, reason=reason, actor=actor)
        return True

    def _waits_for_calendar(self, run: Run, spec: ModelSpec, now: datetime) -> tuple[datetime, str] | None:
        """Return until when promotions wait by `hold_promotion`, and why; None when they need not.

        A freeze that was configured after a run began holds it too, so it is the configuration in force that counts.
        """
        return promotion_held(self._runtime.config.models.get(run.model, spec).hold_promotion, now)

    # ------------------------------------------------------------------------------------------- approval

    def _review(self, waiting: Sequence[Run], now: datetime) -> tuple[int, datetime | None]:
        """Move runs that wait for a person or for the end of a hold; return how many, and when to look again."""
        moved = 0
        next_at: datetime | None = None
        for run in waiting:
            with self._runtime.store.transaction("review") as tx:
                fresh = tx.runs.get(run.id)
                if fresh is None or fresh.state != "AWAITING_APPROVAL":
                    continue
                spec = self._runtime.spec_of(tx, fresh)
                done, due_at = self._review_one(tx, fresh, spec, now)
                moved += done
            next_at = min(filter(None, (next_at, due_at)), default=None)
        return moved, next_at

    def _review_one(self, tx: Transaction, run: Run, spec: ModelSpec, now: datetime) -> tuple[bool, datetime | None]:
        challenger = _challenger(tx, run)
        if newer := _newer_champion(tx, run):
            tx.runs.move(run, "SUPERSEDED", cause="newer_champion", reason=newer)
            if challenger is not None:
                tx.models.move_version(challenger, "REJECTED", cause="rejected", reason=newer)
            return True, None
        if run.cause == "held":
            model = tx.models.ensure(run.model)
            if model.promotion_held and not _is_over(model.held_until, now):
                return False, model.held_until
            if (waits := self._waits_for_calendar(run, spec, now)) is not None:
                return False, waits[0]
            if challenger is None:
                return False, None
            if model.promotion_held:
                tx.models.release(run.model)
            return self.begin(
                tx,
                run,
                spec,
                challenger,
                cause="released",
                actor="controller",
                reason="the hold is over",
            ), None
        deadline = (run.awaiting_since or now) + spec.approval.timeout
        if now < deadline:
            return False, deadline
        reason = "nobody approved in time"
        tx.runs.move(run, "REJECTED", cause="approval_timed_out", reason=reason)
        if challenger is not None:
            tx.models.move_version(challenger, "REJECTED", cause="rejected", reason=reason)
        notify_people(tx, spec, "rejected", f"{run.model}: {reason}", run_id=run.id)
        return True, None

    # ------------------------------------------------------------------------------------------- promotion

    def _carry_on(self, promotion: Promotion) -> tuple[int, datetime | None]:
        """Take a promotion as far as it goes now; return whether it ended, and when to go on."""
        with self._runtime.store.reading() as tx:
            steps = tx.models.steps(promotion.id)
            version = tx.models.version(promotion.version_id)
            previous = tx.models.version(promotion.previous_id)
            run = tx.runs.get(promotion.run_id) if promotion.run_id else None
            spec = self._spec(tx, promotion, run)
        if version is None or spec is None:
            self._fail(
                promotion,
                run,
                spec,
                "promotion_failed",
                "its version or its model's configuration is gone",
            )
            return 1, None
        order = PromotionOrder(
            promotion_id=promotion.id,
            model=promotion.model,
            target=target_of(version),
            previous=None if previous is None else target_of(previous),
            actor=promotion.actor,
            reason=promotion.reason,
        )
        failed = next((step for step in steps if step.state == "FAILED"), None)
        if failed is None:
            if problem := self._changed(version):
                return self._undo(promotion, run, spec, order, steps, "artifact_changed", problem)
            for step in steps:
                if step.state == "PENDING":
                    if step.due_at is not None and step.due_at > self._runtime.clock.now():
                        return 0, step.due_at
                    if step.position > 1 and (
                        problem := self._changed(version)
                    ):  # the promoters before it may have taken long
                        with self._runtime.store.reading() as tx:
                            moved = tx.models.steps(promotion.id)
                        return self._undo(promotion, run, spec, order, moved, "artifact_changed", problem)
                    outcome = self._apply(spec, order, step)
                    if isinstance(outcome, datetime):
                        return 0, outcome
                    if outcome is not None:
                        failed = outcome
                        break
        if failed is not None:
            with self._runtime.store.reading() as tx:
                steps = tx.models.steps(promotion.id)
            reason = f"promoter {failed.promoter} gave up: {failed.reason}"
            return self._undo(promotion, run, spec, order, steps, "promotion_failed", reason)
        return self._crown(promotion, run, spec, version), None

    def _spec(self, tx: Transaction, promotion: Promotion, run: Run | None) -> ModelSpec | None:
        if run is not None:
            return self._runtime.spec_of(tx, run)
        return self._runtime.config.models.get(promotion.model)

    @staticmethod
    def _changed(version: Version) -> str | None:
        """Say what is wrong with an artifact that is not the one that was judged."""
        try:
            now = artifact.digest(version.artifact)
        except InvalidInput as error:
            return error.message
        if version.artifact_digest is not None and now != version.artifact_digest:
            return f"the artifact changed after it was judged: {version.artifact_digest} then, {now} now"
        return None

    def _apply(self, spec: ModelSpec, order: PromotionOrder, step: Step) -> Step | datetime | None:
        """Carry out one step and read it back; None: done. An instant: try again then. The step: it gave up."""
        self._runtime.lease.check()
        try:
            promoter = self._promoter(spec, step)
            promoter.promote(order)
            found = promoter.current(order.model)
            if found != order.target.version_id:
                raise RetryLater(f"it says that {found!r} serves, not {order.target.version_id!r}")
        except (RetryLater, OSError) as error:
            return self._try_step_again(step, str(error))
        except GiveUp as error:
            return self._give_up(step, error.message)
        except Exception as error:  # a plugin's bug; another call may pass it by
            self._runtime.log.error("promoter.broke", promoter=step.promoter, error=repr(error), exc_info=True)
            return self._try_step_again(step, f"the promoter broke: {error!r}")
        with self._runtime.store.transaction("promote_step") as tx:
            tx.models.move_step(step, "APPLIED", cause="applied", attempts=step.attempts + 1)
        return None

    def _promoter(self, spec: ModelSpec, step: Step) -> Promoter:
        """Return the promoter of a step; raises `GiveUp` when the configuration no longer has it in this place."""
        types = [promoter.type for promoter in spec.promoters]
        if len(types) < step.position or types[step.position - 1] != step.promoter:
            raise GiveUp(f"promoter {step.promoter!r} is no longer number {step.position} of model {spec.name!r}")
        try:
            return self._runtime.promoter(spec, step.position)
        except PluginError as error:
            raise GiveUp(error.message) from error

    def _try_step_again(self, step: Step, reason: str) -> Step | datetime:
        runtime = self._runtime
        attempts = step.attempts + 1
        with runtime.store.reading() as tx:
            pending = (each.created_at for each in tx.models.pending_promotions() if each.id == step.promotion_id)
            began_at = next(pending, None)
        now = runtime.clock.now()
        if began_at is None:  # another daemon ended it meanwhile
            return now
        if now - began_at > PATIENCE:
            return self._give_up(step, f"{reason}; tried for {PATIENCE}")
        due_at = now + backoff(attempts, runtime.random)
        with runtime.store.transaction("promote_later") as tx:
            tx.models.set_step(step.id, attempts=attempts, due_at=due_at, reason=reason)
        runtime.log.warning("promoter.retry", promoter=step.promoter, promotion_id=step.promotion_id, error=reason)
        return due_at

    def _give_up(self, step: Step, reason: str) -> Step:
        with self._runtime.store.transaction("promoter_gave_up") as tx:
            tx.models.move_step(step, "FAILED", cause="gave_up", reason=reason, attempts=step.attempts + 1)
            return next(fresh for fresh in tx.models.steps(step.promotion_id) if fresh.id == step.id)

    def _undo(
        self,
        promotion: Promotion,
        run: Run | None,
        spec: ModelSpec,
        order: PromotionOrder,
        steps: Sequence[Step],
        cause: str,
        reason: str,
    ) -> tuple[int, datetime | None]:
        """Take back what moved, the last first, then end the promotion."""
        for step in reversed(steps):
            if step.state == "UNDONE":
                continue
            self._runtime.lease.check()
            try:
                promoter = self._promoter(spec, step)
                if step.state == "APPLIED" or promoter.current(order.model) == order.target.version_id:
                    promoter.rollback(order)
            except GiveUp as error:
                reason = f"{reason}; and it could not be undone at {step.promoter}: {error.message}"
                continue
            except Exception as error:  # also a plugin's bug: what moved must go back, so it is asked again
                expected = isinstance(error, RetryLater | OSError)
                self._runtime.log.warning(
                    "promoter.undo_retry", promoter=step.promoter, error=str(error), exc_info=not expected
                )
                return 0, self._runtime.clock.now() + backoff(step.attempts + 1, self._runtime.random)
            if step.state == "APPLIED":
                with self._runtime.store.transaction("undo_step") as tx:
                    tx.models.move_step(step, "UNDONE", cause="undone", reason=reason)
        self._fail(promotion, run, spec, cause, reason)
        return 1, None

    def _fail(self, promotion: Promotion, run: Run | None, spec: ModelSpec | None, cause: str, reason: str) -> None:
        with self._runtime.store.transaction("promotion_failed") as tx:
            tx.models.move_promotion(promotion, "FAILED", cause=cause, reason=reason)
            if run is not None and run.state == "PROMOTING":
                tx.runs.move(run, "FAILED", cause=cause, reason=reason)
            version = tx.models.version(promotion.version_id)
            if version is not None and version.state == "CANDIDATE":
                tx.models.move_version(version, "REJECTED", cause="rejected", reason=reason)
            if spec is not None:
                notify_people(
                    tx,
                    spec,
                    "failed",
                    f"{promotion.model}: promotion failed: {reason}",
                    run_id=promotion.run_id,
                )
        self._runtime.metrics.promotions.labels(promotion.model, "failed").inc()
        self._runtime.log.error("promotion.failed", promotion_id=promotion.id, model=promotion.model, reason=reason)

    def _crown(self, promotion: Promotion, run: Run | None, spec: ModelSpec, version: Version) -> int:
        """Make it true in our own rows: the model's champion and epoch, the versions, the run."""
        held_until = None
        with self._runtime.store.transaction("crown") as tx:
            if promotion.kind == "rollback" and spec.after_rollback is not None:
                held_until = tx.now + spec.after_rollback
            tx.watches.wake(promotion.model)  # before policies are woken: the evaluator locks in this order too
            try:
                tx.models.crown(promotion, held_reason=promotion.reason, held_until=held_until)
            except Conflict as error:
                tx.models.move_promotion(promotion, "SUPERSEDED", cause="newer_champion", reason=error.message)
                if run is not None and run.state == "PROMOTING":
                    tx.runs.move(run, "SUPERSEDED", cause="newer_champion", reason=error.message)
                return 1
            tx.models.move_promotion(promotion, "APPLIED", cause="applied")
            watching = tx.watches.of_rollback(promotion.id)
            if run is not None and promotion.kind == "promoted":
                open_watch(tx, spec, run, promotion)
            self._runtime.watched.forget()
            if run is not None and run.state == "PROMOTING":
                tx.runs.move(
                    run,
                    "PROMOTED",
                    cause="promoted",
                    reason=promotion.reason,
                    actor=promotion.actor,
                )
            kind = "rolled_back" if promotion.kind == "rollback" else "promoted"
            title = f"{promotion.model}: v{version.number} is champion ({promotion.kind}): {promotion.reason}"
            body: dict[str, Any] = {"version": version.number}
            if watching is not None:  # the watch after that run's promotion asked for it
                body |= {"outcome": watching.state, "outcome_reason": watching.reason, "policy": watching.policy}
            run_id = promotion.run_id if watching is None else watching.run_id
            notify_people(tx, spec, kind, title, run_id=run_id, **body)
        self._runtime.watched.forget()  # again: what was read before this was durable is old
        self._runtime.metrics.promotions.labels(promotion.model, promotion.kind).inc()
        self._runtime.log.info(
            "promoted",
            model=promotion.model,
            version=version.number,
            kind=promotion.kind,
            run_id=promotion.run_id,
            actor=promotion.actor,
        )
        return 1


def _is_over(until: datetime | None, now: datetime) -> bool:
    """A hold without an end lasts until a person resumes."""
    return until is not None and now >= until


def predecessor(tx: Transaction, model: str) -> Version | None:
    """Return what a rollback leads to: the champion before the present one, as that one was promoted.

    Rollbacks are passed over, and so is what was rolled away: a second rollback goes further back, never forward again.
    """
    champion_id = tx.models.ensure(model).champion_id
    sought = champion_id
    for promotion in tx.models.promotions(model):
        if promotion.version_id != sought or promotion.state != "APPLIED" or promotion.kind == "rollback":
            continue
        version = tx.models.version(promotion.previous_id)
        if version is None or (version.id != champion_id and version.state != "ROLLED_BACK"):
            return version
        sought = version.id
    return None


def _pinned(tx: Transaction, run: Run) -> Champion | None:
    """Return the champion that the run was dispatched against."""
    version = tx.models.version(run.champion_id)
    return None if version is None else champion_of(version)


def _newer_champion(tx: Transaction, run: Run) -> str | None:
    """Say why a run may no longer promote: the champion it was compared with is not the champion now."""
    model = tx.models.ensure(run.model)
    if model.epoch == run.epoch:
        return None
    champion = tx.models.version(model.champion_id)
    now = "there is none now" if champion is None else f"v{champion.number} is champion now"
    return f"the champion changed since this run began (epoch {run.epoch}, now {model.epoch}): {now}"


def _challenger(tx: Transaction, run: Run) -> Version | None:
    return next(
        (version for version in tx.models.versions_of_run(run.id) if version.state == "CANDIDATE"),
        None,
    )
