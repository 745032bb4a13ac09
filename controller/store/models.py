"""Rows of models: who serves, which versions there are, and the promotions between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core import states
from controller.core.model import (
    PROMOTION_ID,
    VERSION_ID,
    Champion,
    Json,
    ModelState,
    Promotion,
    Step,
    Version,
)
from controller.errors import Conflict
from controller.store import schema
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_model = schema.model
_version = schema.version
_promotion = schema.promotion
_step = schema.step
_MODEL = sa.select(_model).where(_model.c.name == sa.bindparam("name"))
# Asked of each version: "among the runs that succeeded" would read the whole table of runs.
_ENDED_WELL = (
    sa.select(schema.run.c.id).where(schema.run.c.id == _version.c.run_id, schema.run.c.state == "SUCCEEDED").exists()
)
_INSERT_VERSION = sa.insert(_version)
_VERSION = sa.select(_version).where(_version.c.id == sa.bindparam("version_id"))
_LAST_NUMBER = sa.select(sa.func.coalesce(sa.func.max(_version.c.number), 0)).where(
    _version.c.model == sa.bindparam("model")
)
_VERSIONS_OF_RUN = sa.select(_version).where(_version.c.run_id == sa.bindparam("run_id")).order_by(_version.c.number)
_FORGETTABLE = (
    sa.select(_version)
    .where(
        _version.c.model == sa.bindparam("model"),
        _version.c.artifact_kept,
        _version.c.run_id.is_not(None),
        sa.or_(
            _version.c.state.in_(("REJECTED", "RETIRED", "ROLLED_BACK")),
            # Nothing promotes these: their model has no promoters.
            sa.and_(_version.c.state == "CANDIDATE", _ENDED_WELL),
        ),
    )
    .order_by(_version.c.number.desc())
)
# Written into the statement, so that the planner can use the partial index.
_IS_PENDING = _promotion.c.state == sa.literal_column("'PENDING'")
_INSERT_PROMOTION = sa.insert(_promotion)
_INSERT_STEP = sa.insert(_step)
# Without an order: for that of the ids SQLite would read all promotions there ever were.
_PENDING = sa.select(_promotion).where(_IS_PENDING)
_PENDING_OF = sa.select(_promotion).where(_promotion.c.model == sa.bindparam("model"), _IS_PENDING)
_PROMOTIONS = sa.select(_promotion).where(_promotion.c.model == sa.bindparam("model")).order_by(_promotion.c.id.desc())
_STEPS = sa.select(_step).where(_step.c.promotion_id == sa.bindparam("promotion_id")).order_by(_step.c.position)
_LAST_CHANGE = sa.select(sa.func.max(schema.history.c.seq))
_CHAMPION = (
    sa.select(_version, schema.run.c.decided_at)
    .join(_model, _model.c.champion_id == _version.c.id)
    .outerjoin(schema.run, schema.run.c.id == _version.c.run_id)
    .where(_model.c.name == sa.bindparam("name"))
)


class ModelRows:
    """Models, versions and promotions, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def ensure(self, name: str) -> ModelState:
        """Return what the store knows of a model, making its row if there is none."""
        known = self.get(name)
        if known is not None:
            return known
        row = {"name": name, "epoch": 0, "promotion_held": False, "held_reason": ""}
        self._tx.execute(self._tx.insert_new(_model), row)
        found = self.get(name)
        if found is None:
            raise Conflict(f"model {name!r} vanished")
        return found

    def get(self, name: str) -> ModelState | None:
        """Return what the store knows of a model."""
        row = self._tx.execute(_MODEL, {"name": name}).first()
        return None if row is None else record(ModelState, row)

    def all(self) -> list[ModelState]:
        """Return every model the store knows, by name."""
        return [record(ModelState, row) for row in self._tx.execute(sa.select(_model).order_by(_model.c.name))]

    def champion(self, name: str) -> Champion | None:
        """Return the version that serves."""
        row = self._tx.execute(_CHAMPION, {"name": name}).first()
        if row is None:
            return None
        return Champion(
            version_id=row.id,
            number=row.number,
            artifact=row.artifact,
            artifact_digest=row.artifact_digest,
            metrics=row.metrics,
            promoted_at=row.promoted_at,
            decided_at=row.decided_at,
        )

    def add_version(
        self,
        model: str,
        *,
        artifact: str,
        artifact_digest: str | None,
        metrics: Mapping[str, float],
        lineage: Mapping[str, Json],
        run_id: str | None = None,
        job_id: str | None = None,
        candidate: str | None = None,
    ) -> Version:
        """Write a new version, CANDIDATE, with the model's next number."""
        number = self._tx.execute(_LAST_NUMBER, {"model": model}).scalar_one()
        version = Version(
            id=self._tx.ids.make(VERSION_ID),
            model=model,
            number=number + 1,
            state="CANDIDATE",
            run_id=run_id,
            job_id=job_id,
            candidate=candidate,
            artifact=artifact,
            artifact_digest=artifact_digest,
            metrics=dict(metrics),
            lineage=dict(lineage),
            created_at=self._tx.now,
            promoted_at=None,
        )
        row = {name: getattr(version, name) for name in Version.__dataclass_fields__}
        self._tx.execute(_INSERT_VERSION, {**row, "artifact_kept": True})
        self._tx.record(
            "version",
            version.id,
            "",
            version.state,
            "trained" if run_id else "adopted",
            "",
            "controller",
        )
        return version

    def version(self, version_id: str | None) -> Version | None:
        """Return one version."""
        if version_id is None:
            return None
        row = self._tx.execute(_VERSION, {"version_id": version_id}).first()
        return None if row is None else record(Version, row)

    def version_called(self, model: str, name: str) -> Version | None:
        """Return a model's version by its id or its number, `v5` or `5`."""
        number = name.removeprefix("v")
        if not number.isdecimal():
            version = self.version(name)
            return version if version is not None and version.model == model else None
        statement = sa.select(_version).where(_version.c.model == model, _version.c.number == int(number))
        row = self._tx.execute(statement).first()
        return None if row is None else record(Version, row)

    def versions(self, model: str) -> list[Version]:
        """Return a model's versions, the newest first."""
        statement = sa.select(_version).where(_version.c.model == model).order_by(_version.c.number.desc())
        return [record(Version, row) for row in self._tx.execute(statement)]

    def versions_of_run(self, run_id: str) -> list[Version]:
        """Return the versions that a run made."""
        return [record(Version, row) for row in self._tx.execute(_VERSIONS_OF_RUN, {"run_id": run_id})]

    def move_version(
        self,
        version: Version,
        target: str,
        *,
        cause: str,
        reason: str = "",
        actor: str = "controller",
        **values: Any,
    ) -> None:
        """Change a version's state."""
        self._tx.transition(
            states.VERSION,
            version.id,
            origin=version.state,
            target=target,
            cause=cause,
            reason=reason,
            actor=actor,
            **values,
        )

    def crown(self, promotion: Promotion, *, held_reason: str = "", held_until: datetime | None = None) -> None:
        """Make a promotion's version the champion: version rows, the model's row and its epoch, in one step.

        Raises `Conflict` when the epoch is no longer the one that the promotion expects.
        A rollback holds automatic promotion from now on, until `held_until` or (None) a person resumes.
        """
        values: dict[str, Any] = {"champion_id": promotion.version_id, "epoch": promotion.epoch + 1}
        if promotion.kind == "rollback":
            values |= {"promotion_held": True, "held_until": held_until, "held_reason": held_reason}
        done = self._tx.execute(
            sa.update(_model).where(_model.c.name == promotion.model, _model.c.epoch == promotion.epoch).values(values)
        )
        if done.rowcount != 1:
            raise Conflict(f"model {promotion.model!r} was promoted by somebody else")
        rollback = promotion.kind == "rollback"
        previous = self.version(promotion.previous_id)
        actor = promotion.actor
        if previous is not None and previous.state == "CHAMPION" and previous.id != promotion.version_id:
            target, cause = ("ROLLED_BACK", "rolled_back") if rollback else ("RETIRED", "replaced")
            self.move_version(previous, target, cause=cause, reason=promotion.reason, actor=actor)
        version = self.version(promotion.version_id)
        if version is not None and version.state != "CHAMPION":
            self.move_version(
                version,
                "CHAMPION",
                cause=promotion.kind,
                reason=promotion.reason,
                actor=actor,
                promoted_at=self._tx.now,
            )
        self._tx.policies.wake(model=promotion.model, waits_for=("champion", "run"))

    def release(self, name: str) -> None:
        """Let automatic promotion go on."""
        self._tx.execute(
            sa.update(_model).where(_model.c.name == name).values(promotion_held=False, held_until=None, held_reason="")
        )

    def add_promotion(
        self,
        model: ModelState,
        *,
        version_id: str,
        kind: str,
        run_id: str | None,
        actor: str,
        reason: str,
        promoters: Sequence[str],
    ) -> Promotion:
        """Write the intent to promote, with a step for each promoter. Raises `Conflict` when one is under way."""
        promotion = Promotion(
            id=self._tx.ids.make(PROMOTION_ID),
            model=model.name,
            version_id=version_id,
            previous_id=model.champion_id,
            run_id=run_id,
            kind=kind,
            state="PENDING",
            cause=kind,
            epoch=model.epoch,
            actor=actor,
            reason=reason,
            created_at=self._tx.now,
            finished_at=None,
        )
        if self.pending_promotion(model.name) is not None:
            raise Conflict(f"another promotion of model {model.name!r} is under way; try again when it has ended")
        row = {name: getattr(promotion, name) for name in Promotion.__dataclass_fields__}
        self._tx.execute(_INSERT_PROMOTION, row)
        self._tx.record("promotion", promotion.id, "", "PENDING", kind, reason, actor)
        for position, promoter in enumerate(promoters, start=1):
            self._tx.execute(
                _INSERT_STEP,
                {
                    "id": f"{promotion.id}-{position}",
                    "promotion_id": promotion.id,
                    "position": position,
                    "promoter": promoter,
                    "state": "PENDING",
                    "cause": "created",
                    "reason": "",
                    "attempts": 0,
                    "due_at": None,
                },
            )
        return promotion

    def pending_promotion(self, model: str) -> Promotion | None:
        """Return the promotion of a model that is under way."""
        row = self._tx.execute(_PENDING_OF, {"model": model}).first()
        return None if row is None else record(Promotion, row)

    def pending_promotions(self) -> list[Promotion]:
        """Return every promotion that is under way, oldest first."""
        found = [record(Promotion, row) for row in self._tx.execute(_PENDING)]
        return sorted(found, key=lambda promotion: promotion.id)

    def promotions(self, model: str) -> list[Promotion]:
        """Return a model's promotions, the newest first."""
        return [record(Promotion, row) for row in self._tx.execute(_PROMOTIONS, {"model": model})]

    def promotion_of_run(self, run_id: str) -> Promotion | None:
        """Return the newest promotion that a run asked for."""
        statement = sa.select(_promotion).where(_promotion.c.run_id == run_id).order_by(_promotion.c.id.desc())
        row = self._tx.execute(statement.limit(1)).first()
        return None if row is None else record(Promotion, row)

    def steps(self, promotion_id: str) -> list[Step]:
        """Return the steps of a promotion, in order."""
        return [record(Step, row) for row in self._tx.execute(_STEPS, {"promotion_id": promotion_id})]

    def move_step(self, step: Step, target: str, *, cause: str, reason: str = "", **values: Any) -> None:
        """Change a step's state."""
        self._tx.transition(
            states.STEP,
            step.id,
            origin=step.state,
            target=target,
            cause=cause,
            reason=reason,
            **values,
        )

    def set_step(self, step_id: str, **values: Any) -> None:
        """Change columns of a step that are not its state."""
        self._tx.execute(sa.update(_step).where(_step.c.id == step_id).values(**values))

    def move_promotion(self, promotion: Promotion, target: str, *, cause: str, reason: str = "") -> None:
        """End a promotion."""
        self._tx.transition(
            states.PROMOTION,
            promotion.id,
            origin=promotion.state,
            target=target,
            cause=cause,
            reason=reason or promotion.reason,
            actor=promotion.actor,
        )

    def forgettable_artifacts(self, model: str, keep: int) -> list[Version]:
        """Return versions whose artifacts may go: neither champion, its predecessor, wanted, nor of the newest `keep`."""
        state = self.get(model)
        if state is None:
            return []
        last = [p.previous_id for p in self.promotions(model) if p.state == "APPLIED"][:1]
        pending = self.pending_promotion(model)
        wanted = (pending.version_id, pending.previous_id) if pending is not None else ()
        spared = {state.champion_id, *last, *wanted}
        found = self._tx.execute(_FORGETTABLE, {"model": model})
        old = [v for v in (record(Version, row) for row in found) if v.id not in spared]
        return old[keep:]

    def last_change(self) -> int:
        """Return the number of the newest change of any state; while it stays, no artifact becomes forgettable."""
        return int(self._tx.execute(_LAST_CHANGE).scalar() or 0)

    def is_kept(self, version_id: str) -> bool:
        """Say whether a version's artifact is still there, as far as the janitor knows."""
        kept: bool | None = self._tx.execute(
            sa.select(_version.c.artifact_kept).where(_version.c.id == version_id)
        ).scalar()
        return bool(kept)

    def mark_forgotten(self, version_id: str) -> None:
        """Write that a version's artifact may go."""
        self._tx.execute(sa.update(_version).where(_version.c.id == version_id).values(artifact_kept=False))
