"""What persons do: each act is one transaction, with a row that says who did what, when and why (`acts.py`)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from controller.config import Config
from controller.core.model import PERSON_ORIGIN, RETRAIN_REQUESTED, Attempt, Job, Json, NewEvent, Run, Version
from controller.engine.acts import Acts
from controller.engine.gatekeeper import Gatekeeper, predecessor
from controller.engine.runtime import Runtime
from controller.engine.training import close_training
from controller.errors import Conflict, InvalidInput, NotFound, RetryLater
from controller.store import Transaction
from controller.store.dialect import dump_json

_SEE_RUN = "see `retrainctl runs show`"
TOKEN_PREFIX = "rt_"  # noqa: S105 - a mark for scanners, not a secret


class Activates(Protocol):
    """Puts a configuration in force."""

    def __call__(self, *, actor: str, config: Config) -> None:
        """All of it, or (whatever this raises) nothing."""
        ...


class Desk:
    """The acts of persons."""

    def __init__(
        self,
        runtime: Runtime,
        activate: Activates,
        *,
        reload: Callable[[], Config],
        reloaded: Callable[[Config], None] = lambda config: None,
    ) -> None:
        """`reload` reads the configuration again, `reloaded` hears of one that came into force."""
        self._runtime = runtime
        self._activate = activate
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

    def cancel(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
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

        ring = ("monitor", "dispatcher", "evaluator")
        return self._act(act, "cancel", run_id, who=who, reason=reason, key=key, ring=ring)

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

    def approve(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
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

        return self._act(act, "approve", run_id, who=who, reason=reason, key=key, ring=("gatekeeper",))

    def reject(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
        """Send a run that waits home."""

        def act(tx: Transaction) -> dict[str, Json]:
            run = _awaiting(tx, run_id)
            why = f"rejected by {who}: {reason}"
            tx.runs.move(run, "REJECTED", cause="rejected", reason=why, actor=who)
            self._drop_candidates(tx, run, why)
            return {"run": run_id, "state": "REJECTED"}

        return self._act(act, "reject", run_id, who=who, reason=reason, key=key, ring=("dispatcher", "evaluator"))

    def resolve(
        self,
        run_id: str,
        candidate: str | None,
        as_: str,
        *,
        who: str,
        reason: str,
        handle: Mapping[str, Json] | None = None,
        key: str | None = None,
    ) -> dict[str, Json]:
        """Say what became of a job that is UNKNOWN: `running` or `failed`. Saying the same again is no second act.

        One that runs is watched by its handle; `handle` gives it where the launcher never did, and its launcher must know it.
        """
        if as_ not in ("running", "failed"):
            raise InvalidInput(f"a job can be resolved as running or failed, not as {as_!r}")
        if handle is not None and as_ != "running":
            raise InvalidInput("a handle is for a job that runs", hint="leave it away, or resolve as running")
        details: dict[str, Json] = {"candidate": candidate, "as": as_}
        if handle is not None:
            details["handle"] = dict(handle)
        known = self._acts.answered("resolve", run_id, reason=reason, details=details, key=key)
        if known is not None:
            return known
        with self._runtime.store.reading() as tx:
            job, attempt = _resolvable(tx, run_id, candidate)
        answer: dict[str, Json] = {"run": run_id, "candidate": job.candidate, "state": as_.upper()}
        if job.state != "UNKNOWN":
            if job.state != as_.upper():
                raise Conflict(f"{job.candidate} was resolved as {job.state.lower()} already", hint=_SEE_RUN)
            return {**answer, "duplicate": True}
        if as_ == "running":
            self._check_handle(job, attempt, handle)

        def act(tx: Transaction) -> dict[str, Json]:
            run = _run(tx, run_id)
            fresh = tx.runs.lock_job(job.id)
            if fresh is None or (fresh.state, fresh.attempt) != ("UNKNOWN", job.attempt):
                raise Conflict(f"{job.candidate} of run {run_id} is no longer UNKNOWN", hint=_SEE_RUN)
            if handle is not None and attempt is not None:
                tx.runs.set_handle(attempt.id, handle)
            tx.runs.move_job(fresh, as_.upper(), cause="resolved", reason=f"{who}: {reason}", actor=who)
            close_training(tx, run_id, self._runtime.spec_of(tx, run))
            return answer

        return self._act(
            act,
            "resolve",
            run_id,
            who=who,
            reason=reason,
            details=details,
            key=key,
            ring=("monitor", "gatekeeper", "dispatcher", "evaluator", "outbox"),
        )

    def _check_handle(self, job: Job, attempt: Attempt | None, handle: Mapping[str, Json] | None) -> None:
        """Raise unless a job can be watched: by the handle that its launcher gave, or by one that it knows."""
        if attempt is None or (attempt.handle is None and handle is None):
            raise Conflict(
                f"the launcher never gave a handle for {job.candidate}, so its end could not be seen",
                hint="give one with --handle if it runs and you know how its launcher calls it; "
                "else end it by hand and resolve it as failed",
            )
        if handle is None:
            return
        if attempt.handle is not None and dict(attempt.handle) != dict(handle):
            raise Conflict(
                f"the launcher gave another handle for {job.candidate}: {dump_json(attempt.handle)}",
                hint="leave --handle away",
            )
        launcher = self._runtime.launcher(attempt.launcher)
        if self._runtime.is_elsewhere(launcher, attempt):
            raise Conflict(
                f"{job.candidate} was meant for another host, and cannot be looked for from here",
                hint="start the daemon of that host: it finds the job by itself",
            )
        try:
            seen = launcher.observe(handle)
        except (RetryLater, OSError) as error:
            raise Conflict(
                f"launcher {attempt.launcher!r} cannot be asked now: {error}", hint="try again when it answers"
            ) from error
        except Exception as error:  # whatever a plugin raises over what a person typed
            raise InvalidInput(
                f"{dump_json(handle)} is no handle that launcher {attempt.launcher!r} takes: {error!r}",
                hint="see how the handles of its other jobs look: `retrainctl runs show RUN -o json`",
            ) from error
        if seen.state in ("lost", "unreachable"):
            raise Conflict(
                f"launcher {attempt.launcher!r} knows no job of this handle: {seen.reason or seen.state}",
                hint="if it does not run, resolve it as failed",
            )

    # ------------------------------------------------------------------------------------------- models

    def promote(self, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
        """Make a version the champion past the gate: a run's best candidate, or a version by id. It shows as an override."""
        if not reason.strip():
            raise InvalidInput("an override needs a reason")

        def act(tx: Transaction) -> dict[str, Json]:
            version = tx.models.version(target) or self._best_of_run(tx, target)
            return self._change_champion(tx, version, "override", who=who, reason=reason)

        return self._act(act, "promote", target, who=who, reason=reason, key=key, ring=("gatekeeper",))

    def rollback(
        self, model: str, *, who: str, reason: str, to: str | None = None, key: str | None = None
    ) -> dict[str, Json]:
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

        details = {} if to is None else {"to": to}
        return self._act(act, "rollback", model, who=who, reason=reason, details=details, key=key, ring=("gatekeeper",))

    def adopt(
        self,
        model: str,
        *,
        who: str,
        reason: str,
        artifact: str,
        metrics: Mapping[str, float],
        key: str | None = None,
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

        details = {"artifact": place, "digest": digest, "metrics": dict(metrics)}
        return self._act(act, "adopt", model, who=who, reason=reason, details=details, key=key, ring=("gatekeeper",))

    def pause(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
        """Hold the decisions of everything, a model or a policy until somebody resumes."""
        self._check_scope(scope, target)

        def act(tx: Transaction) -> dict[str, Json]:
            tx.people.add_pause(scope=scope, target=target, actor=who, reason=reason)
            return {"scope": scope, "target": target, "paused": True}

        return self._act(act, "pause", target, who=who, reason=reason, details={"scope": scope}, key=key, ring=())

    def resume(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
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

        details, ring = {"scope": scope}, ("evaluator", "gatekeeper")
        return self._act(act, "resume", target, who=who, reason=reason, details=details, key=key, ring=ring)

    # ------------------------------------------------------------------------------------------- installation

    def reload(self, *, who: str) -> dict[str, Json]:
        """Read the configuration again: all of it comes into force, or (raises `ConfigError`) nothing.

        On a replica that follows it is in use at once, and in force when that replica leads, which it asks for (`leads` is false).
        """
        with self._reloading:
            before = self._runtime.config
            after = self._reload()
            changed = _changes(before, after)
            try:
                if after.version != before.version:
                    self._activate(actor=who, config=after)
                    self._act(
                        lambda _: {"version": after.version},
                        "reload",
                        after.version,
                        who=who,
                        reason="",
                        ring=("dispatcher", "gatekeeper"),
                    )
            finally:
                # Last, so that what new sources bring is decided by the new policies. Also when the answer to what was written just now was
                # lost, because it is in force all the same; and when nothing changed, because an earlier reload may have failed right
                # before this. Sources that are as they were are left alone.
                if self._runtime.config is after or after.version == before.version:
                    self._reloaded(after)
        warnings = [str(problem) for problem in after.warnings]
        leads = self._runtime.lease.leads
        return {"version": after.version, "changed": changed, "warnings": warnings, "leads": leads}

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
        details: Mapping[str, Json] | None = None,
        key: str | None = None,
    ) -> dict[str, Json]:
        return self._acts.once(act, verb, target, who=who, reason=reason, details=details or {}, key=key, ring=ring)

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


def _resolvable(tx: Transaction, run_id: str, candidate: str | None) -> tuple[Job, Attempt | None]:
    """Return the job that is UNKNOWN, or that a person resolved last, with its present attempt."""
    _run(tx, run_id)
    jobs = tx.runs.jobs(run_id)
    named = [job for job in jobs if candidate in (None, job.candidate)]
    if not named:
        names = ", ".join(job.candidate for job in jobs) or "none"
        raise NotFound(f"run {run_id} has no candidate {candidate!r}", hint=f"it has: {names}")
    unknown = [job for job in named if job.state == "UNKNOWN"]
    if len(unknown) > 1:
        names = ", ".join(job.candidate for job in unknown)
        raise Conflict(f"several jobs of run {run_id} are UNKNOWN: {names}", hint="name one with --candidate")
    found = unknown or [job for job in named if job.cause == "resolved"]
    if len(found) != 1:
        states = ", ".join(f"{job.candidate} is {job.state}" for job in named)
        raise Conflict(f"no job of run {run_id} is UNKNOWN: {states}", hint=_SEE_RUN)
    return found[0], tx.runs.attempt(found[0])


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
