"""What persons do: each act is one transaction, with a row that says who did what, when and why (`acts.py`)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from controller.config import Config
from controller.core.model import PERSON_ORIGIN, RETRAIN_REQUESTED, Json, NewEvent, Run, Version
from controller.engine.acts import Acts
from controller.engine.evaluator import Evaluator
from controller.engine.gatekeeper import Gatekeeper, predecessor
from controller.engine.runtime import Runtime
from controller.engine.training import close_training
from controller.errors import Conflict, InvalidInput, NotFound
from controller.store import Transaction

TOKEN_PREFIX = "rt_"  # noqa: S105 - a mark for scanners, not a secret


class Desk:
    """The acts of persons."""

    def __init__(
        self,
        runtime: Runtime,
        evaluator: Evaluator,
        *,
        reload: Callable[[], Config],
        reloaded: Callable[[Config], None] = lambda config: None,
    ) -> None:
        """`reload` reads the configuration again, `reloaded` hears of one that came into force."""
        self._runtime = runtime
        self._evaluator = evaluator
        self._reload = reload
        self._reloaded = reloaded
        self._reloading = threading.Lock()
        self._acts = Acts(runtime)

    # ------------------------------------------------------------------------------------------- runs

    def retrain(
        self,
        model: str,
        *,
        who: str,
        reason: str,
        params: Mapping[str, Json],
        key: str | None,
        force: bool = False,
    ) -> dict[str, Json]:
        """Ask for a retraining: a press is an event, and is decided like any other; `force` passes over the budget."""
        self._runtime.model(model)
        asked: dict[str, Json] = {"reason": reason, "params": dict(params)}
        if force:
            asked["force"] = True

        def act(tx: Transaction) -> dict[str, Json]:
            press = NewEvent(
                source="/people",
                source_id=key or self._runtime.ids.make("press"),
                type=RETRAIN_REQUESTED,
                subject=model,
                data={"actor": who, **asked},
            )
            receipt = tx.events.add(PERSON_ORIGIN, [press])[0]
            return {"event_id": receipt.event_id, "duplicate": receipt.duplicate}

        return self._acts.once(
            act,
            "retrain",
            model,
            who=who,
            reason=reason,
            details=asked,
            key=key,
            ring=("evaluator",),
        )

    def cancel(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]:
        """Stop a run, wherever it is; asking twice is one act. Raises `Conflict` when it has ended or is being promoted."""

        def act(tx: Transaction) -> dict[str, Json]:
            run = _run(tx, run_id, lock=True)
            if "CANCELLED" in (run.state, run.stop_as):
                return {"run": run_id, "state": run.state, "stopping": run.state == "TRAINING"}
            why = f"cancelled by {who}: {reason}"
            if run.state in ("QUEUED", "JUDGING", "AWAITING_APPROVAL"):
                tx.runs.move(run, "CANCELLED", cause="cancelled", reason=why, actor=who)
                self._drop_candidates(tx, run, why)
                return {"run": run_id, "state": "CANCELLED", "stopping": False}
            if run.state == "TRAINING":
                tx.runs.set(run_id, stop_as="CANCELLED", reason=why)
                return {"run": run_id, "state": run.state, "stopping": True}
            raise Conflict(f"run {run_id} is {run.state} and cannot be cancelled")

        return self._act(act, "cancel", run_id, who=who, reason=reason, ring=("monitor", "dispatcher", "evaluator"))

    def retry(self, run_id: str, *, who: str, reason: str, key: str | None) -> dict[str, Json]:
        """Ask for a new run with the parameters of one that has ended."""

        def act(tx: Transaction) -> dict[str, Json]:
            run = _run(tx, run_id)
            if run.finished_at is None:
                raise Conflict(f"run {run_id} is {run.state}; only a run that has ended can be retried")
            press = NewEvent(
                source="/people",
                source_id=key or self._runtime.ids.make("press"),
                type=RETRAIN_REQUESTED,
                subject=run.model,
                data={
                    "actor": who,
                    "reason": reason,
                    "params": dict(run.params),
                    "retries": run_id,
                },
            )
            receipt = tx.events.add(PERSON_ORIGIN, [press])[0]
            return {"event_id": receipt.event_id, "duplicate": receipt.duplicate}

        return self._acts.once(act, "retry", run_id, who=who, reason=reason, details={}, key=key, ring=("evaluator",))

    def approve(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]:
        """Let a run that waits be promoted."""

        def act(tx: Transaction) -> dict[str, Json]:
            run = _awaiting(tx, run_id)
            spec = self._runtime.spec_of(tx, run)
            challenger = self._challenger(tx, run)
            model = tx.models.ensure(run.model)
            if model.epoch != run.epoch:
                raise Conflict(
                    f"the champion of {run.model!r} changed since run {run_id} began; retrain to compare anew"
                )
            if not Gatekeeper.begin(tx, run, spec, challenger, cause="approved", actor=who, reason=reason):
                raise Conflict(f"another promotion of model {run.model!r} is under way; try again when it has ended")
            return {"run": run_id, "state": "PROMOTING", "version": challenger.number}

        return self._act(act, "approve", run_id, who=who, reason=reason, ring=("gatekeeper",))

    def reject(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]:
        """Send a run that waits home."""

        def act(tx: Transaction) -> dict[str, Json]:
            run = _awaiting(tx, run_id)
            why = f"rejected by {who}: {reason}"
            tx.runs.move(run, "REJECTED", cause="rejected", reason=why, actor=who)
            self._drop_candidates(tx, run, why)
            return {"run": run_id, "state": "REJECTED"}

        return self._act(act, "reject", run_id, who=who, reason=reason, ring=("dispatcher", "evaluator"))

    def resolve(self, run_id: str, candidate: str | None, as_: str, *, who: str, reason: str) -> dict[str, Json]:
        """Say what became of a job that is UNKNOWN: `running` or `failed`."""
        if as_ not in ("running", "failed"):
            raise InvalidInput(f"a job can be resolved as running or failed, not as {as_!r}")

        def act(tx: Transaction) -> dict[str, Json]:
            run = _run(tx, run_id)
            jobs = [
                job
                for job in tx.runs.jobs(run_id)
                if job.state == "UNKNOWN" and (candidate is None or job.candidate == candidate)
            ]
            if not jobs:
                raise Conflict(f"run {run_id} has no job in UNKNOWN", hint="see `retrainctl runs show`")
            if len(jobs) > 1:
                raise Conflict("several jobs are UNKNOWN", hint="name one with --candidate")
            target = as_.upper()
            attempt = tx.runs.attempt(jobs[0])
            if target == "RUNNING" and (attempt is None or attempt.handle is None):
                raise Conflict(
                    f"the launcher never gave a handle for {jobs[0].candidate}, so its end could not be seen",
                    hint="end it by hand if it runs, then resolve it as failed",
                )
            tx.runs.move_job(jobs[0], target, cause="resolved", reason=f"{who}: {reason}", actor=who)
            close_training(tx, run_id, self._runtime.spec_of(tx, run))
            return {"run": run_id, "candidate": jobs[0].candidate, "state": target}

        return self._act(
            act,
            "resolve",
            run_id,
            who=who,
            reason=reason,
            ring=("monitor", "gatekeeper", "dispatcher", "evaluator", "outbox"),
        )

    # ------------------------------------------------------------------------------------------- models

    def promote(self, target: str, *, who: str, reason: str) -> dict[str, Json]:
        """Make a version the champion past the gate: a run's best candidate, or a version by id. It shows as an override."""
        if not reason.strip():
            raise InvalidInput("an override needs a reason")

        def act(tx: Transaction) -> dict[str, Json]:
            version = tx.models.version(target) or self._best_of_run(tx, target)
            return self._change_champion(tx, version, "override", who=who, reason=reason)

        return self._act(act, "promote", target, who=who, reason=reason, ring=("gatekeeper",))

    def rollback(self, model: str, *, who: str, reason: str, to: str | None = None) -> dict[str, Json]:
        """Make the previous champion (or version `to`) the champion again, and hold automatic promotion."""
        self._runtime.model(model)

        def act(tx: Transaction) -> dict[str, Json]:
            version = tx.models.version_called(model, to) if to else predecessor(tx, model)
            if version is None:
                raise NotFound(
                    f"model {model!r} has no version {to!r}"
                    if to
                    else f"model {model!r} has no champion before this one"
                )
            if version.state not in ("RETIRED", "ROLLED_BACK"):
                raise Conflict(f"v{version.number} is {version.state}: only a former champion can be rolled back to")
            return self._change_champion(tx, version, "rollback", who=who, reason=reason)

        return self._act(act, "rollback", model, who=who, reason=reason, ring=("gatekeeper",))

    def adopt(
        self, model: str, *, who: str, reason: str, artifact: str, metrics: Mapping[str, float]
    ) -> dict[str, Json]:
        """Take in a champion that was made elsewhere."""
        from controller.engine import artifact as artifacts

        self._runtime.model(model)
        place = artifact if "://" in artifact else str((self._runtime.config.base / artifact).resolve())
        digest = artifacts.digest(place)

        def act(tx: Transaction) -> dict[str, Json]:
            version = tx.models.add_version(
                model,
                artifact=place,
                artifact_digest=digest,
                metrics=metrics,
                lineage={"adopted_by": who},
            )
            return self._change_champion(tx, version, "adopted", who=who, reason=reason)

        return self._act(act, "adopt", model, who=who, reason=reason, ring=("gatekeeper",))

    def pause(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Json]:
        """Hold the decisions of everything, a model or a policy until somebody resumes."""
        self._check_scope(scope, target)

        def act(tx: Transaction) -> dict[str, Json]:
            tx.people.add_pause(scope=scope, target=target, actor=who, reason=reason)
            return {"scope": scope, "target": target, "paused": True}

        return self._act(act, "pause", target, who=who, reason=reason, ring=())

    def resume(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Json]:
        """Let decisions go on, and lift the hold that a rollback put on promotion; a policy's breaker closes.

        A breaker reads when its policy was last resumed from the row of this act.
        """
        self._check_scope(scope, target)

        def act(tx: Transaction) -> dict[str, Json]:
            lifted = tx.people.drop_pause(scope=scope, target=target)
            model, _, policy = target.partition("/")
            held = False
            if scope == "model":
                held = tx.models.ensure(model).promotion_held
                tx.models.release(model)
            tx.policies.wake(model=model or None, policy=policy or None, waits_for=("resume",))
            return {
                "scope": scope,
                "target": target,
                "was_paused": lifted,
                "promotion_was_held": held,
            }

        return self._act(act, "resume", target, who=who, reason=reason, ring=("evaluator", "gatekeeper"))

    # ------------------------------------------------------------------------------------------- installation

    def reload(self, *, who: str) -> dict[str, Json]:
        """Read the configuration again: all of it comes into force, or (raises `ConfigError`) nothing."""
        with self._reloading:
            before = self._runtime.config
            after = self._reload()
            changed = _changes(before, after)
            if after.version != before.version:
                self._evaluator.activate(actor=who, config=after)
                self._act(
                    lambda _: {"version": after.version},
                    "reload",
                    after.version,
                    who=who,
                    reason="",
                    ring=("dispatcher", "gatekeeper"),
                )
            # Last, so that what new sources bring is decided by the new policies; and also when nothing changed, because an
            # earlier reload may have failed right before this. Sources that are as they were are left alone.
            self._reloaded(after)
        warnings = [str(problem) for problem in after.warnings]
        return {"version": after.version, "changed": changed, "warnings": warnings}

    def create_token(self, name: str, *, who: str, expires_in: timedelta | None) -> dict[str, Json]:
        """Make a bearer token; it is shown this once and only its digest is kept."""
        secret = TOKEN_PREFIX + "".join(f"{self._runtime.random.getrandbits(64):016x}" for _ in range(4))
        digest = token_digest(secret)

        def act(tx: Transaction) -> dict[str, Json]:
            expires_at = None if expires_in is None else tx.now + expires_in
            tx.people.add_token(name=name, digest=digest, actor=who, expires_at=expires_at)
            return {
                "name": name,
                "expires_at": None if expires_at is None else expires_at.isoformat(),
            }

        made = self._act(act, "token.create", name, who=who, reason="", ring=())
        return {**made, "token": secret}

    def list_tokens(self) -> list[dict[str, Json]]:
        """Return every token, without its secret."""
        with self._runtime.store.reading() as tx:
            tokens = tx.people.tokens()
        return [
            {
                "name": token.name,
                "created_at": token.created_at,
                "created_by": token.created_by,
                "expires_at": token.expires_at,
                "revoked_at": token.revoked_at,
            }
            for token in tokens
        ]

    def revoke_token(self, name: str, *, who: str) -> dict[str, Json]:
        """Revoke a token; it counts no more from now on."""

        def act(tx: Transaction) -> dict[str, Json]:
            if not tx.people.revoke_token(name, actor=who):
                raise NotFound(f"there is no token {name!r} that still counts")
            return {"name": name, "revoked": True}

        return self._act(act, "token.revoke", name, who=who, reason="", ring=())

    # ------------------------------------------------------------------------------------------- how

    def _act(
        self,
        act: Callable[[Transaction], dict[str, Json]],
        verb: str,
        target: str,
        *,
        who: str,
        reason: str,
        ring: tuple[str, ...],
    ) -> dict[str, Json]:
        return self._acts.once(act, verb, target, who=who, reason=reason, details={}, key=None, ring=ring)

    def _check_scope(self, scope: str, target: str) -> None:
        model, _, policy = target.partition("/")
        if scope == "all" and not target:
            return
        if scope not in ("model", "policy"):
            raise InvalidInput(f"{scope!r} cannot be paused; pause all, a model or a policy")
        spec = self._runtime.model(model)
        if scope == "policy" and policy not in spec.policies:
            known = ", ".join(spec.policies) or "none"
            raise NotFound(f"model {model!r} has no policy {policy!r}", hint=f"it has: {known}")

    def _change_champion(
        self, tx: Transaction, version: Version, kind: str, *, who: str, reason: str
    ) -> dict[str, Json]:
        spec = self._runtime.model(version.model)
        model = tx.models.ensure(version.model)
        if version.id == model.champion_id:
            raise Conflict(f"v{version.number} is the champion of {version.model!r} already")
        if not tx.models.is_kept(version.id):
            raise Conflict(
                f"the artifact of v{version.number} of {version.model!r} was not kept",
                hint="see `keep_artifacts` of the model",
            )
        promotion = tx.models.add_promotion(
            model,
            version_id=version.id,
            kind=kind,
            run_id=None,
            actor=who,
            reason=reason,
            promoters=[promoter.type for promoter in spec.promoters],
        )
        return {
            "promotion": promotion.id,
            "model": version.model,
            "version": version.number,
            "version_id": version.id,
        }

    @staticmethod
    def _best_of_run(tx: Transaction, run_id: str) -> Version:
        """Return the version of a run that its verdict named, or the only one there is."""
        run = _run(tx, run_id)
        versions = tx.models.versions_of_run(run_id)
        if run.state == "AWAITING_APPROVAL":
            raise Conflict(f"run {run_id} waits for approval", hint=f"retrainctl approve {run_id}")
        verdict = tx.runs.verdict(run_id)
        named = [version for version in versions if verdict is not None and version.candidate == verdict.challenger]
        if len(named or versions) != 1:
            raise Conflict(
                f"run {run_id} made {len(versions)} versions and its verdict names none of them",
                hint="name the version by its id; see `retrainctl runs show`",
            )
        return (named or versions)[0]

    @staticmethod
    def _challenger(tx: Transaction, run: Run) -> Version:
        for version in tx.models.versions_of_run(run.id):
            if version.state == "CANDIDATE":
                return version
        raise Conflict(f"run {run.id} has no challenger left")

    @staticmethod
    def _drop_candidates(tx: Transaction, run: Run, reason: str) -> None:
        for version in tx.models.versions_of_run(run.id):
            if version.state == "CANDIDATE":
                tx.models.move_version(version, "REJECTED", cause="rejected", reason=reason)


def token_digest(secret: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _run(tx: Transaction, run_id: str, *, lock: bool = False) -> Run:
    run = tx.runs.lock(run_id) if lock else tx.runs.get(run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id!r}")
    return run


def _awaiting(tx: Transaction, run_id: str) -> Run:
    run = _run(tx, run_id)
    if run.state != "AWAITING_APPROVAL":
        raise Conflict(f"run {run_id} is {run.state}; only a run that waits for approval can be answered")
    return run


def _changes(before: Config, after: Config) -> list[str]:
    """Return what differs between two configurations, as `models/churn` and the like."""
    names: list[str] = []
    first: Mapping[str, Any] = before.normal_form
    second: Mapping[str, Any] = after.normal_form
    for section in sorted({*first, *second}):
        one, two = first.get(section), second.get(section)
        if one == two:
            continue
        if isinstance(one, dict) and isinstance(two, dict):
            names.extend(f"{section}/{name}" for name in sorted({*one, *two}) if one.get(name) != two.get(name))
        else:
            names.append(section)
    return names
