"""Runs are judged, and promotions carried out step by step, each read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.crash import arm
from controller.errors import Conflict, GiveUp, InvalidInput, RetryLater
from controller.store import schema
from tests.engine.house import House

MakeHouse = Callable[..., House]

TWO_PROMOTERS = [{"type": "scripted", "name": "first"}, {"type": "scripted", "name": "second"}]


def finish(house: House, auc: float, champion_auc: float | None = None, **result: Any) -> None:
    """Let the training end, and everything that follows from it."""
    if champion_auc is not None:
        result["champion_auc"] = champion_auc
    house.world.succeed("a", auc=auc, **result)
    house.settle()


def serving(house: House, name: str = "first") -> str | None:
    return house.world.registries[name].serves.get("churn")


def champion_id(house: House) -> str | None:
    with house.store.reading() as tx:
        model = tx.models.get("churn")
        return model and model.champion_id


def steps(house: House) -> list[str]:
    with house.store.reading() as tx:
        return [row.state for row in tx.execute(sa.select(schema.step).order_by(schema.step.c.id))]


# ----------------------------------------------------------------------------------------------- verdicts


def test_promote(house: House) -> None:
    """The first one that meets what is required becomes champion: the promoter serves it, the rows say so."""
    house.train()
    finish(house, 0.7)

    (version,) = house.versions()
    assert house.run().state == "PROMOTED"
    assert version.state == "CHAMPION"
    assert serving(house) == champion_id(house) == version.id
    assert house.path(house.run().id) == ["QUEUED", "TRAINING", "JUDGING", "PROMOTING", "PROMOTED"]
    assert house.mail() == ["promoted"]


def test_replace_the_champion(house: House) -> None:
    """A better one retires its predecessor."""
    house.champion(auc=0.7)
    house.train()
    finish(house, 0.8, champion_auc=0.7)

    assert [version.state for version in house.versions()] == ["RETIRED", "CHAMPION"]
    assert serving(house) == house.versions()[1].id


def test_G09_reject(house: House) -> None:
    """One that is not better changes nothing, and people are told with the numbers."""
    first = house.champion(auc=0.7)
    house.train()
    finish(house, 0.69, champion_auc=0.7)

    run = house.runs()[1]
    assert (run.state, run.cause) == ("REJECTED", "gate_failed")
    assert [version.state for version in house.versions()] == ["CHAMPION", "REJECTED"]
    assert serving(house) == first.id
    assert "0.69" in house.world.mail[-1].title


def test_G09_inconclusive(house: House) -> None:
    """Without the champion's metrics on the same data there is nothing to compare: not promoted."""
    house.champion()
    house.train()
    finish(house, 0.99)

    run = house.runs()[1]
    assert (run.state, run.cause) == ("REJECTED", "inconclusive")


def test_nothing_to_promote(make_house: MakeHouse) -> None:
    """A model without promoters ends SUCCEEDED."""
    house = make_house(model={"promote": None})
    house.train()
    house.world.succeed("a", auc=0.7, artifact=None)
    house.settle()

    assert house.run().state == "SUCCEEDED"


def test_the_best_candidate_is_the_challenger(make_house: MakeHouse) -> None:
    """Candidates compete; the others are rejected."""
    house = make_house(model={"train": {"candidates": {"a": {}, "b": {}}}})
    house.train()
    house.world.succeed("a", auc=0.7)
    house.world.succeed("b", auc=0.8)
    house.settle()

    assert {version.candidate: version.state for version in house.versions()} == {"a": "REJECTED", "b": "CHAMPION"}


@pytest.mark.parametrize(
    "artifact", ["../../../../retrain.db", "/etc/passwd", "missing.bin", "", "x" * 300, "a\u0001b"]
)
def test_an_artifact_that_cannot_be_promoted(house: House, artifact: str) -> None:
    """Outside of its folder, missing or not named: the candidate does not compete."""
    house.train()
    house.world.end("a", json.dumps({"metrics": {"auc": 0.9}, "artifact": artifact}).encode())
    house.settle()

    assert house.run().state == "REJECTED"
    assert house.versions() == []


def test_G09_superseded_by_another_champion(house: House) -> None:
    """The champion changed while it trained, so it was compared with yesterday's: SUPERSEDED, not promoted."""
    house.train()
    other = house.folder / "other.bin"
    other.write_text("made elsewhere")
    house.desk.adopt("churn", who="ann", reason="from the old system", artifact=str(other), metrics={"auc": 0.5})
    house.settle()
    finish(house, 0.9)

    assert (house.run().state, house.run().cause) == ("SUPERSEDED", "newer_champion")
    assert {version.artifact: version.state for version in house.versions()}[str(other)] == "CHAMPION"


# ----------------------------------------------------------------------------------------------- approval


@pytest.fixture
def asking(make_house: MakeHouse) -> House:
    return make_house(model={"approve": {"required": True, "timeout": "2h"}})


def test_approval(asking: House) -> None:
    """It waits for a person, holds no slot meanwhile, and is promoted in that person's name."""
    asking.train()
    finish(asking, 0.7)
    assert (asking.run().state, asking.run().cause) == ("AWAITING_APPROVAL", "approval_required")
    assert asking.mail() == ["approval_required"]
    assert serving(asking) is None

    asking.desk.approve(asking.run().id, who="ann", reason="looks good")
    asking.settle()

    assert asking.run().state == "PROMOTED"
    (act,) = asking.acts()
    assert (act.verb, act.actor, act.reason) == ("approve", "ann", "looks good")


def test_an_approval_is_answered_once(asking: House) -> None:
    """The second answer is refused, whatever it is."""
    asking.train()
    finish(asking, 0.7)
    asking.desk.approve(asking.run().id, who="ann", reason="")

    with pytest.raises(Conflict):
        asking.desk.approve(asking.run().id, who="bob", reason="")
    with pytest.raises(Conflict):
        asking.desk.reject(asking.run().id, who="bob", reason="")


def test_rejected_by_a_person(asking: House) -> None:
    """The run and its version are REJECTED with the person's reason."""
    asking.train()
    finish(asking, 0.7)
    asking.desk.reject(asking.run().id, who="ann", reason="bad slice")
    asking.settle()

    assert (asking.run().state, asking.run().cause) == ("REJECTED", "rejected")
    assert "bad slice" in asking.run().reason
    assert asking.versions()[0].state == "REJECTED"


def test_nobody_approves(asking: House) -> None:
    """After the time-out it is REJECTED, and the tick says when to look."""
    asking.train()
    finish(asking, 0.7)
    assert asking.gatekeeper.tick(asking.now).next_at == asking.now + timedelta(hours=2)
    asking.advance(timedelta(hours=1, minutes=59))
    assert asking.run().state == "AWAITING_APPROVAL"
    asking.advance(timedelta(minutes=1))

    assert (asking.run().state, asking.run().cause) == ("REJECTED", "approval_timed_out")


def test_G09_what_waits_is_superseded(asking: House) -> None:
    """Another champion came while it waited: nobody can approve it any more."""
    asking.train()
    finish(asking, 0.7)
    asking.send()
    asking.settle()
    finish(asking, 0.8)
    first, second = asking.runs()
    asking.desk.approve(second.id, who="ann", reason="")
    asking.settle()

    assert [run.state for run in asking.runs()] == ["SUPERSEDED", "PROMOTED"]
    with pytest.raises(Conflict):
        asking.desk.approve(first.id, who="ann", reason="")


# ----------------------------------------------------------------------------------------------- rollback


def rolled_back(house: House) -> None:
    """Two champions, and back to the first."""
    house.champion(auc=0.7)
    house.train()
    finish(house, 0.8, champion_auc=0.7)
    house.desk.rollback("churn", who="ann", reason="complaints")
    house.settle()


def test_rollback(house: House) -> None:
    """The previous champion serves again, at the promoters and in the rows."""
    rolled_back(house)

    first, second = house.versions()
    assert (first.state, second.state) == ("CHAMPION", "ROLLED_BACK")
    assert serving(house) == champion_id(house) == first.id
    assert house.mail()[-1] == "rolled_back"


def test_a_second_rollback_goes_further_back(house: House) -> None:
    """It leads to the champion before that one, never forward to what was just rolled away."""
    house.champion(auc=0.6)
    for auc in (0.7, 0.8):
        house.train()
        finish(house, auc, champion_auc=auc - 0.1)
    first, second, third = house.versions()
    house.desk.rollback("churn", who="ann", reason="complaints")
    house.settle()
    assert champion_id(house) == second.id

    house.desk.rollback("churn", who="ann", reason="more complaints")
    house.settle()

    assert champion_id(house) == first.id
    with pytest.raises(Exception, match="no champion before"):
        house.desk.rollback("churn", who="ann", reason="")
    assert third.id != champion_id(house)


def test_promotion_is_held_after_a_rollback_and_released(house: House) -> None:
    """What passes the gate waits, with the cause `held` and no time-out, until a person resumes."""
    rolled_back(house)
    house.train()
    finish(house, 0.9, champion_auc=0.7)
    run = house.runs()[-1]
    assert (run.state, run.cause) == ("AWAITING_APPROVAL", "held")
    assert "complaints" in run.reason

    answer = house.desk.resume("model", "churn", who="ann", reason="understood")
    house.settle()

    assert answer["promotion_was_held"] is True
    assert house.runs()[-1].state == "PROMOTED"


def test_the_hold_ends_by_itself(house: House) -> None:
    """After `after_rollback` (a day by default) promotion goes on."""
    rolled_back(house)
    house.train()
    finish(house, 0.9, champion_auc=0.7)
    house.advance(timedelta(hours=23, minutes=59))
    assert house.runs()[-1].state == "AWAITING_APPROVAL"
    house.advance(timedelta(minutes=1))

    assert house.runs()[-1].state == "PROMOTED"


def test_a_person_may_promote_what_is_held(house: House) -> None:
    """Approval by name goes past the hold."""
    rolled_back(house)
    house.train()
    finish(house, 0.9, champion_auc=0.7)
    house.desk.approve(house.runs()[-1].id, who="ann", reason="checked")
    house.settle()

    assert house.runs()[-1].state == "PROMOTED"


# ---------------------------------------------------------------------------------------------- promoters


def test_G09_an_artifact_that_changed_is_not_promoted(house: House) -> None:
    """What was judged is what is promoted, or nothing."""
    house.train()
    job = house.world.succeed("a", auc=0.7)
    house.world.registries["first"].script = [RetryLater("registry down")]
    house.settle()
    assert house.run().state == "PROMOTING"
    (job.order.folder / "artifact" / "model.bin").write_text("something else")
    house.advance(timedelta(minutes=5))

    assert (house.run().state, house.run().cause) == ("FAILED", "artifact_changed")
    assert serving(house) is None
    assert champion_id(house) is None
    assert house.versions()[0].state == "REJECTED"


def test_a_promoter_that_asks_to_be_tried_again(house: House) -> None:
    """Nothing is marked as promoted; it is called again after a backoff, not at every tick, and then it is."""
    registry = house.world.registries["first"]
    registry.script = [RetryLater("503"), RetryLater("503")]
    house.train()
    finish(house, 0.7)
    for _ in range(5):
        house.settle()
    assert len(registry.calls) == 1
    assert champion_id(house) is None
    with house.store.reading() as tx:
        (step,) = tx.models.steps(tx.models.pending_promotions()[0].id)
    assert step.reason == "503"

    house.advance(timedelta(minutes=1))
    house.advance(timedelta(minutes=5))

    assert [action for action, _ in registry.calls] == ["promote"] * 3
    assert house.run().state == "PROMOTED"


def test_a_promoter_with_a_bug_is_tried_again(house: House) -> None:
    """Anything else it raises is taken for a bug and treated as RetryLater; other models do not wait for it."""
    house.world.registries["first"].script = [KeyError("a bug in the promoter")]
    house.train()
    finish(house, 0.7)
    assert house.run().state == "PROMOTING"

    house.advance(timedelta(minutes=1))

    assert house.run().state == "PROMOTED"


def test_a_promoter_that_does_not_do_what_it_says(house: House) -> None:
    """It is read back: what does not serve is not promoted."""
    registry = house.world.registries["first"]

    class Forgetful(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            pass

    registry.serves = Forgetful()
    house.train()
    finish(house, 0.7)
    assert house.run().state == "PROMOTING"

    registry.serves = {}
    house.advance(timedelta(minutes=5))

    assert house.run().state == "PROMOTED"


def test_a_promoter_that_is_asked_for_a_day(house: House) -> None:
    """After 24 hours it is given up on."""
    house.world.registries["first"].script = [RetryLater("down")] * 10_000
    house.train()
    finish(house, 0.7)
    for _ in range(300):
        house.advance(timedelta(minutes=5))

    assert house.run().state == "FAILED"


def test_the_second_of_two_gives_up(make_house: MakeHouse) -> None:
    """Those that moved go back in reverse; the run has FAILED, the champion stays."""
    house = make_house(model={"promote": TWO_PROMOTERS})
    first = house.champion(auc=0.7)
    one, two = (house.world.registries[name] for name in ("first", "second"))
    one.calls.clear()
    two.calls.clear()
    two.script = [GiveUp("forbidden")]
    house.train()
    finish(house, 0.8, champion_auc=0.7)

    second = house.versions()[1]
    assert one.calls == [("promote", second.id), ("rollback", first.id)]
    assert two.calls == [("promote", second.id)]
    assert (one.serves["churn"], two.serves["churn"], champion_id(house)) == (first.id, first.id, first.id)
    run = house.runs()[1]
    assert (run.state, run.cause) == ("FAILED", "promotion_failed")
    assert "forbidden" in run.reason
    assert steps(house)[-2:] == ["UNDONE", "FAILED"]
    assert house.versions()[1].state == "REJECTED"
    assert house.mail()[-1] == "failed"


def test_a_promoter_that_is_configured_away_during_a_rollback(make_house: MakeHouse) -> None:
    """It counts as given up: what moved goes back, and the model can be promoted again."""
    house = make_house(model={"promote": TWO_PROMOTERS})
    house.champion(auc=0.7)
    house.champion(auc=0.8)
    house.world.registries["second"].script = [RetryLater("not now")] * 5
    house.desk.rollback("churn", who="ann", reason="it misbehaves")
    house.settle()

    house.write(model={"promote": TWO_PROMOTERS[:1]})
    house.desk.reload(who="ann")
    house.advance(600)

    with house.store.reading() as tx:
        last = tx.models.promotions("churn")[0]
    assert (last.kind, last.state, last.cause) == ("rollback", "FAILED", "promotion_failed")
    assert house.world.registries["first"].serves["churn"] == house.versions()[1].id


def test_an_undo_is_tried_again_until_it_is_done(make_house: MakeHouse) -> None:
    """The run does not end before the first promoter is back."""
    house = make_house(model={"promote": TWO_PROMOTERS})
    first = house.champion(auc=0.7)
    one, two = (house.world.registries[name] for name in ("first", "second"))
    two.script = [GiveUp("forbidden")]
    one.script = [None, RetryLater("down"), KeyError("a bug")]
    house.train()
    finish(house, 0.8, champion_auc=0.7)
    assert house.runs()[1].state == "PROMOTING"

    house.advance(timedelta(minutes=1))
    house.advance(timedelta(minutes=5))

    assert one.serves["churn"] == first.id
    assert house.runs()[1].state == "FAILED"


def test_a_promoter_that_does_not_go_back_is_not_called_undone(make_house: MakeHouse) -> None:
    """What stands at it is what its step says; the run's reason names it."""
    house = make_house(model={"promote": TWO_PROMOTERS})
    house.champion(auc=0.7)
    one, two = (house.world.registries[name] for name in ("first", "second"))
    two.script = [GiveUp("forbidden")]
    one.script = [None, GiveUp("it is frozen")]
    house.train()
    finish(house, 0.8, champion_auc=0.7)

    run = house.runs()[1]
    assert steps(house)[-2:] == ["APPLIED", "FAILED"]
    assert one.serves["churn"] == house.versions()[1].id
    assert run.state == "FAILED"
    assert "could not be undone at scripted: it is frozen" in run.reason


def test_a_promotion_that_another_ended_meanwhile_is_no_trouble(house: House) -> None:
    """Whoever asks its promoter again finds it gone, and says nothing of it for ever."""
    house.world.registries["first"].script = [RetryLater("down")]

    def end(point: str) -> None:
        del point
        with house.store.transaction("elsewhere") as tx:
            (promotion,) = tx.models.pending_promotions()
            tx.models.move_promotion(promotion, "FAILED", cause="promotion_failed", reason="another ended it")

    house.train()
    arm("plugin.promoter.scripted.promote.before", end)
    finish(house, 0.8)
    house.advance(timedelta(minutes=5))

    assert house.runtime.complaints.all() == []


def test_a_promoter_that_gave_up_after_it_moved(make_house: MakeHouse) -> None:
    """One that moved and then gave up is undone too: what it serves decides, not what it said."""
    house = make_house(model={"promote": TWO_PROMOTERS})
    first = house.champion(auc=0.7)
    two = house.world.registries["second"]
    real = two.script

    class Moved(list[Any]):
        def pop(self, index: Any = -1) -> Any:
            two.serves["churn"] = house.versions()[1].id
            two.script = real
            return GiveUp("moved, and then it broke")

    two.script = Moved([None])
    house.train()
    finish(house, 0.8, champion_auc=0.7)

    assert two.serves["churn"] == first.id
    assert house.runs()[1].state == "FAILED"


# ------------------------------------------------------------------------------------- override and adopt


def test_G09_override(house: House) -> None:
    """A person makes a rejected version champion, with a reason, and it shows as an override."""
    house.champion(auc=0.7)
    house.train()
    finish(house, 0.6, champion_auc=0.7)
    run = house.runs()[1]
    with pytest.raises(InvalidInput, match="reason"):
        house.desk.promote(run.id, who="ann", reason=" ")

    house.desk.promote(run.id, who="ann", reason="the law changed")
    house.settle()

    with house.store.reading() as tx:
        promotion = tx.models.promotions("churn")[0]
    assert (promotion.kind, promotion.actor, promotion.reason) == ("override", "ann", "the law changed")
    assert [version.state for version in house.versions()] == ["RETIRED", "CHAMPION"]
    assert house.runs()[1].state == "REJECTED", "final states stay final"
    assert serving(house) == house.versions()[1].id


def test_adopt(house: House) -> None:
    """A champion that was made elsewhere is taken in, promoted by the promoters, and compared with from then on."""
    made = house.folder / "old.bin"
    made.write_text("old")
    house.desk.adopt("churn", who="ann", reason="migration", artifact="old.bin", metrics={"auc": 0.75})
    house.settle()

    (version,) = house.versions()
    assert (version.state, version.artifact, version.metrics) == ("CHAMPION", str(made), {"auc": 0.75})
    assert version.artifact_digest is not None
    assert serving(house) == version.id
    run = house.train()
    assert run.champion_id == version.id


def test_G09_one_promotion_at_a_time(house: House) -> None:
    """While one is under way, another is refused."""
    house.world.registries["first"].script = [RetryLater("down")]
    (house.folder / "old.bin").write_text("old")
    house.desk.adopt("churn", who="ann", reason="", artifact="old.bin", metrics={})
    house.settle()

    with pytest.raises(Conflict, match="under way"):
        house.desk.adopt("churn", who="ann", reason="", artifact="old.bin", metrics={})


def test_a_run_that_passes_while_another_promotion_is_under_way(house: House) -> None:
    """It waits, and is superseded when that one is through."""
    house.train()
    house.world.registries["first"].script = [RetryLater("down")]
    (house.folder / "old.bin").write_text("old")
    house.desk.adopt("churn", who="ann", reason="", artifact="old.bin", metrics={"auc": 0.1})
    house.settle()
    finish(house, 0.9)
    assert (house.run().state, house.run().cause) == ("AWAITING_APPROVAL", "held")

    house.advance(timedelta(minutes=1))

    assert house.run().state == "SUPERSEDED"
    assert Path(house.versions()[0].artifact).name == "old.bin"
