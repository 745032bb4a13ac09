"""What the store promises of models, versions and promotions, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.model import ModelState, Promotion, Version
from controller.errors import Conflict
from controller.store import Store, schema
from controller.store.store import Transaction
from controller.testing import ManualClock
from tests.contract.store_rows import Count, add_run, raw_insert
from tests.factories import NOON, at, make_champion, make_max_age, make_policy, make_state


def add_version(tx: Transaction, **fields: Any) -> Version:
    defaults: dict[str, Any] = {"artifact": "a", "artifact_digest": None, "metrics": {"auc": 0.7}, "lineage": {}}
    return tx.models.add_version(fields.pop("model", "churn"), **(defaults | fields))


def promote(tx: Transaction, version: Version, *, kind: str = "promoted", promoters: tuple[str, ...] = ()) -> Promotion:
    model = tx.models.ensure(version.model)
    return tx.models.add_promotion(
        model, version_id=version.id, kind=kind, run_id=None, actor="ann", reason="why", promoters=promoters
    )


def crown(tx: Transaction, version: Version, *, kind: str = "promoted", **held: Any) -> Promotion:
    promotion = promote(tx, version, kind=kind)
    tx.models.crown(promotion, **held)
    tx.models.move_promotion(promotion, "APPLIED", cause="applied")
    return promotion


def test_versions_are_numbered_per_model(store: Store) -> None:
    """From 1, the newest first when listed."""
    with store.transaction("test") as tx:
        versions = [add_version(tx), add_version(tx), add_version(tx, model="other")]
        listed = tx.models.versions("churn")

    assert [version.number for version in versions] == [1, 2, 1]
    assert listed == [versions[1], versions[0]]


def test_a_crowned_version_is_the_champion(store: Store, clock: ManualClock) -> None:
    """Versions, the model's row and its epoch move together; the one before is retired."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx, artifact="b", metrics={"auc": 0.8})
        assert tx.models.champion("churn") is None
        crown(tx, first)
    clock.advance(60)
    with store.transaction("test") as tx:
        crown(tx, second)
        states_of = {version.number: version.state for version in tx.models.versions("churn")}
        champion, model = tx.models.champion("churn"), tx.models.get("churn")

    assert states_of == {1: "RETIRED", 2: "CHAMPION"}
    assert champion == make_champion(
        version_id=second.id, number=2, artifact="b", metrics={"auc": 0.8}, promoted_at=at(minutes=1), decided_at=None
    )
    assert model == ModelState(name="churn", champion_id=second.id, epoch=2)


def test_a_champion_knows_when_its_run_was_decided(store: Store) -> None:
    """Promotions are ordered by the decision behind them."""
    run = add_run(store, decided_at=at(minutes=-5))
    with store.transaction("test") as tx:
        crown(tx, add_version(tx, run_id=run.id))
        champion = tx.models.champion("churn")

    assert champion is not None
    assert champion.decided_at == at(minutes=-5)


def test_a_promotion_of_an_older_epoch_is_a_conflict(store: Store, count: Count) -> None:
    """Who promotes is compared with the epoch that the promotion was meant for; the loser writes nothing."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        slow = promote(tx, first)
        tx.models.move_promotion(slow, "SUPERSEDED", cause="newer_champion")
        crown(tx, second)
    with pytest.raises(Conflict, match="promoted by somebody else"), store.transaction("test") as tx:
        tx.models.crown(slow)
    with store.reading() as tx:
        model = tx.models.get("churn")

    assert model is not None
    assert (model.champion_id, model.epoch) == (second.id, 1)


def test_a_rollback_holds_promotion_until_it_is_released(store: Store) -> None:
    """Going back names the bad version ROLLED_BACK and holds automatic promotion."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        crown(tx, first)
        crown(tx, second)
        crown(tx, first, kind="rollback", held_reason="worse", held_until=at(hours=24))
        held = tx.models.get("churn")
        states_of = {version.number: version.state for version in tx.models.versions("churn")}
        tx.models.release("churn")
        released = tx.models.get("churn")

    assert states_of == {1: "CHAMPION", 2: "ROLLED_BACK"}
    assert held is not None
    assert (held.epoch, held.promotion_held, held.held_until, held.held_reason) == (3, True, at(hours=24), "worse")
    assert released == ModelState(name="churn", champion_id=first.id, epoch=3)


def test_crowning_wakes_who_waits_for_a_champion(store: Store) -> None:
    """A level that waits for a champion, or for its run, is looked at now."""
    level = make_policy(make_max_age())
    with store.transaction("test") as tx:
        tx.policies.save_state(level, "", make_state(level, stage="max_age", waits_for="champion"))
        crown(tx, add_version(tx))
        due = tx.policies.due(NOON, 10)

    assert due == [("churn", "drift", "")]


def test_a_model_has_one_champion(store: Store) -> None:
    """The database refuses a second one, whoever writes it."""
    with store.transaction("test") as tx:
        crown(tx, add_version(tx))
        other = add_version(tx)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.models.move_version(other, "CHAMPION", cause="override")


def test_a_model_has_one_promotion_under_way(store: Store) -> None:
    """A second one is refused with what to do, and by the database if that is passed by."""
    with store.transaction("test") as tx:
        first, second = add_version(tx), add_version(tx)
        pending = promote(tx, first)
    with pytest.raises(Conflict, match="another promotion of model 'churn'"), store.transaction("test") as tx:
        promote(tx, second)
    with pytest.raises(sa.exc.IntegrityError):
        raw_insert(store, schema.promotion, state="PENDING", kind="override", model="churn")
    with store.reading() as tx:
        assert tx.models.pending_promotion("churn") == pending
        assert tx.models.pending_promotions() == [pending]
        assert tx.models.promotions("churn") == [pending]


def test_a_promotion_has_a_step_for_each_promoter(store: Store) -> None:
    """In order, each with a state of its own."""
    with store.transaction("test") as tx:
        promotion = promote(tx, add_version(tx), promoters=("alias", "command"))
        first, second = tx.models.steps(promotion.id)
        tx.models.set_step(first.id, attempts=2, due_at=at(minutes=1))
        tx.models.move_step(first, "APPLIED", cause="applied", reason="points there")
        steps = tx.models.steps(promotion.id)

    assert [(step.promoter, step.state, step.attempts) for step in steps] == [
        ("alias", "APPLIED", 2),
        ("command", "PENDING", 0),
    ]
    assert second.position == 2


def old_versions(tx: Transaction, number: int) -> list[Version]:
    """Write versions of runs that were promoted one after another; the last one is the champion."""
    versions = [add_version(tx, run_id=f"run-{n}", job_id=f"job-{n}") for n in range(number)]
    for version in versions:
        crown(tx, version)
    return versions


@pytest.mark.parametrize("keep, numbers", [(0, [3, 2, 1]), (1, [2, 1]), (2, [1]), (9, [])])
def test_artifacts_of_old_versions_may_go(store: Store, keep: int, numbers: list[int]) -> None:
    """Beside the champion and its predecessor the newest `keep` stay; candidates and adopted versions always do."""
    with store.transaction("test") as tx:
        crown(tx, add_version(tx, model="other"))
        versions = old_versions(tx, 5)
        add_version(tx, run_id="run-9", job_id="job-9")
        forgettable = [version.number for version in tx.models.forgettable_artifacts("churn", keep)]
        tx.models.mark_forgotten(versions[0].id)
        again = [version.number for version in tx.models.forgettable_artifacts("churn", keep)]

    assert forgettable == numbers
    assert again == [number for number in numbers if number != 1]


def test_an_artifact_that_is_being_promoted_again_stays(store: Store) -> None:
    """Going back to an old version needs its artifact until that has ended."""
    with store.transaction("test") as tx:
        versions = old_versions(tx, 4)
        promote(tx, versions[0], kind="rollback")
        forgettable = [version.number for version in tx.models.forgettable_artifacts("churn", 0)]
        unknown = tx.models.forgettable_artifacts("nobody", 0)

    assert forgettable == [2]
    assert unknown == []
