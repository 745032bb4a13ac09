"""Every act of a person is one transaction with a row: who, when, why; and a repeated request is the same act."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from controller.crash import arm, disarm
from controller.errors import ConfigError, Conflict, InvalidInput, NotFound, StoreBusy
from tests.engine.house import House


def waiting(house: House) -> str:
    """A run that waits for approval."""
    house.train()
    house.world.succeed("a", auc=0.7)
    house.settle()
    return house.runs()[-1].id


def promoted(house: House, times: int = 1) -> str:
    for number in range(times):
        house.train()
        house.world.succeed("a", auc=0.7 + number / 10, champion_auc=0.1)
        house.settle()
    return house.runs()[-1].id


ACTS: dict[str, Callable[[House], Any]] = {
    "retrain": lambda h: h.desk.retrain("churn", who="ann", reason="why", params={}, key=None),
    "cancel": lambda h: h.desk.cancel(h.train().id, who="ann", reason="why"),
    "retry": lambda h: h.desk.retry(promoted(h), who="ann", reason="why", key=None),
    "promote": lambda h: h.desk.promote(_rejected(h), who="ann", reason="why"),
    "rollback": lambda h: (promoted(h, 2), h.desk.rollback("churn", who="ann", reason="why")),
    "adopt": lambda h: h.desk.adopt("churn", who="ann", reason="why", artifact="retrain.yaml", metrics={}),
    "pause": lambda h: h.desk.pause("model", "churn", who="ann", reason="why"),
    "resume": lambda h: h.desk.resume("model", "churn", who="ann", reason="why"),
}


def _rejected(house: House) -> str:
    promoted(house)
    house.train()
    house.world.succeed("a", auc=0.1, champion_auc=0.7)
    house.settle()
    return house.runs()[-1].id


@pytest.mark.parametrize("verb", ACTS)
def test_each_act_is_recorded(house: House, verb: str) -> None:
    """Who, when and why."""
    ACTS[verb](house)

    (act,) = house.acts()
    assert (act.verb, act.actor, act.reason, act.at) == (verb, "ann", "why", house.now)


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_answers_are_recorded(make_house: Callable[..., House], verb: str) -> None:
    """An approval and a rejection too."""
    house = make_house(model={"approve": {"required": True}})
    getattr(house.desk, verb)(waiting(house), who="ann", reason="why")

    (act,) = house.acts()
    assert (act.verb, act.actor, act.reason) == (verb, "ann", "why")


def test_G14_tokens_are_recorded_without_their_secret(house: House) -> None:
    """The secret is shown once and not kept; a revoked token counts no more."""
    made = house.desk.create_token("ci", who="ann", expires_in=timedelta(days=1))
    house.desk.revoke_token("ci", who="bob")

    assert [(act.verb, act.actor) for act in house.acts()] == [("token.create", "ann"), ("token.revoke", "bob")]
    database = (house.folder / "retrain.db").read_bytes() + (house.folder / "retrain.db-wal").read_bytes()
    assert made["token"].encode() not in database
    with pytest.raises(NotFound):
        house.desk.revoke_token("ci", who="bob")


def test_G02_the_same_key_is_the_same_press(house: House) -> None:
    """The first answer is given again, and there is one event, one act and one run."""
    first = house.retrain(key="k-1", depth=3)
    again = house.retrain(key="k-1", depth=3)
    house.settle()

    assert again["event_id"] == first["event_id"]
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert len(house.events()) == len(house.acts()) == len(house.runs()) == 1


@pytest.mark.parametrize("change", [{"reason": "another"}, {"depth": 4}], ids=["reason", "parameters"])
def test_the_same_key_for_another_request(house: House, change: dict[str, Any]) -> None:
    """Refused, and nothing is written."""
    house.retrain(key="k-1", depth=3)

    with pytest.raises(Conflict, match="k-1"):
        house.retrain(key="k-1", **{"depth": 3, **change})

    assert len(house.events()) == len(house.acts()) == 1


def test_without_a_key_each_press_is_another(house: House) -> None:
    """Two presses are two events."""
    house.retrain()
    house.retrain()

    assert len(house.events()) == 2


def test_an_act_that_is_refused_leaves_nothing(house: House) -> None:
    """No row for what did not happen."""
    for refused, error in (
        (lambda: house.desk.cancel("run-nope", who="ann", reason=""), NotFound),
        (lambda: house.desk.retrain("nope", who="ann", reason="", params={}, key=None), NotFound),
        (lambda: house.desk.rollback("churn", who="ann", reason=""), NotFound),
        (lambda: house.desk.pause("policy", "churn/nope", who="ann", reason=""), NotFound),
        (lambda: house.desk.pause("world", "", who="ann", reason=""), InvalidInput),
        (lambda: house.desk.resolve("run-nope", None, "running", who="ann", reason=""), NotFound),
        (lambda: house.desk.resolve("run-nope", None, "gone", who="ann", reason=""), InvalidInput),
        (lambda: house.desk.adopt("churn", who="a", reason="", artifact="no.bin", metrics={}), InvalidInput),
    ):
        with pytest.raises(error):
            refused()

    assert house.acts() == []


def test_cancel_twice_is_one_act_on_the_run(house: House) -> None:
    """The second answer is as good as the first; also when it has ended."""
    house.world.obeys_term = False
    run = house.train()
    first = house.desk.cancel(run.id, who="ann", reason="")
    assert house.desk.cancel(run.id, who="bob", reason="") == first
    house.world.fail("a", code=143)
    house.settle()

    assert house.run().state == "CANCELLED"
    assert "ann" in house.run().reason
    assert house.desk.cancel(run.id, who="ann", reason="") == {**first, "state": "CANCELLED", "stopping": False}


def test_what_has_ended_cannot_be_cancelled(house: House) -> None:
    """The answer says how it ended."""
    with pytest.raises(Conflict, match="PROMOTED"):
        house.desk.cancel(promoted(house), who="ann", reason="")


def test_retry_is_a_new_run_with_the_same_causes_and_parameters(house: House) -> None:
    """Final states stay final: a retry is a press, and its run has the causes of the one before it too."""
    house.retrain(depth=3)
    house.settle()
    for _ in range(2):
        house.world.fail("a")
        house.settle()
        house.advance(30)
    assert house.run().state == "FAILED"

    house.desk.retry(house.run().id, who="bob", reason="disk is free again", key=None)
    house.settle()

    first, second = house.runs()
    assert (first.state, second.state) == ("FAILED", "TRAINING")
    assert (second.params, second.actor) == ({"depth": 3}, "bob")
    assert house.causes(second) == [*house.causes(first), "retrain.requested"]


def test_rollbacks_go_back_and_never_round(house: House) -> None:
    """After an override to an older version too, each rollback leads further back, to nothing that was rolled away."""
    promoted(house, times=3)
    first, _, third = house.versions()
    house.desk.promote(first.id, who="ann", reason="it was better")
    house.settle()

    for _ in range(2):
        house.desk.rollback("churn", who="ann", reason="and back")
        house.settle()

    assert [version.state for version in house.versions()] == ["ROLLED_BACK", "CHAMPION", "ROLLED_BACK"]
    with pytest.raises(NotFound, match="no champion before"):
        house.desk.rollback("churn", who="ann", reason="and back")
    assert house.desk.rollback("churn", to=f"v{third.number}", who="ann", reason="that one")["version"] == 3


# -------------------------------------------------------------------------------------------------- reload


def test_G11_a_broken_configuration_changes_nothing(house: House) -> None:
    """All or nothing: the old one stays in force, and decides."""
    version = house.runtime.config.version
    house.break_configuration()

    with pytest.raises(ConfigError, match="polices"):
        house.desk.reload(who="ann")

    assert house.runtime.config.version == version
    assert house.train().state == "TRAINING"
    assert house.acts() == []


def test_reload(house: House) -> None:
    """The answer says what changed, the act who did it, and the new policies decide."""
    house.write(model={"policies": {"drift": {"on": {"type": "skew"}}}})
    answer = house.desk.reload(who="ann")
    house.send("drift")
    house.send("skew")
    house.settle()

    assert answer["changed"] == ["models/churn"]
    assert house.causes(house.run()) == ["skew"]
    assert [(act.verb, act.actor) for act in house.acts()] == [("reload", "ann")]


def test_G11_a_reload_that_the_store_refuses_changes_nothing(house: House) -> None:
    """What cannot be kept does not decide; the next reload does it."""
    before = house.runtime.config.version
    house.write(model={"policies": {"drift": {"on": {"type": "skew"}}}})

    def busy(_: str) -> None:
        raise StoreBusy("locked")

    arm("transaction.activate.before_commit", busy)
    try:
        with pytest.raises(StoreBusy):
            house.desk.reload(who="ann")
    finally:
        disarm()
    assert house.runtime.config.version == before
    assert house.train(type="drift").config_version == before

    house.desk.reload(who="ann")

    assert house.runtime.config.version != before


def test_G11_a_run_keeps_the_version_it_was_decided_under(house: House) -> None:
    """Its policy is gone and its gate stricter: the run in flight ends as it began, also after a restart."""
    run = house.train()
    house.write(
        model={
            "policies": {"drift": None, "other": {"on": {"type": "other"}}},
            "gate": {"require": ["candidate.metrics.auc > 0.99"]},
            "train": {"retries": {"attempts": 1}},
        }
    )
    house.desk.reload(who="ann")
    house.world.fail("a")
    house.settle()
    assert house.job().state == "RETRYABLE", "two attempts, as when it was decided"
    house.restart()
    house.advance(30)
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert house.run().state == "PROMOTED"
    assert house.run().config_version == run.config_version != house.runtime.config.version


def test_a_model_that_is_gone_while_its_run_goes_on(house: House) -> None:
    """The run is seen to its end."""
    house.train()
    house.write(models={"churn": None, "other": house._plan["models"]["churn"]})
    house.restart()
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert house.run().state == "PROMOTED"
