"""What is worse after a promotion is rolled back by itself, and never past what a person decided."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from controller.errors import GiveUp, RetryLater
from tests.engine.house import House
from tests.engine.watching import (
    DAY,
    HOUR,
    WATCH,
    MakeHouse,
    champions,
    outcome,
    promote,
    promotions,
    slo,
    watches,
)
from tests.factories import make_mark

# ----------------------------------------------------------------------------------------------- worse


def test_a_promotion_that_makes_things_worse_is_rolled_back(watched: House) -> None:
    """One event that fits `rollback_on`: WORSE, the previous champion serves again, promotion is held, people are told why."""
    first, second = watched.versions()
    slo(watched)

    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]
    assert watched.world.registries["first"].serves["churn"] == first.id
    assert outcome(watched) == ("WORSE", "worse")
    assert promotions(watched)[-1] == ("rollback", "APPLIED", "controller")
    with watched.store.reading() as tx:
        model = tx.models.ensure("churn")
    assert (model.epoch, model.promotion_held, model.held_until) == (3, True, watched.now + DAY)
    told = watched.world.mail[-1]
    assert (told.kind, told.run_id) == ("rolled_back", watched.runs()[-1].id)
    assert told.body["outcome"] == "WORSE"
    assert "alert.slo about churn" in told.body["outcome_reason"]
    assert second.state == "CHAMPION", "the version as it was before"


def test_what_the_next_retraining_makes_waits(watched: House) -> None:
    """After a rollback by the watch nothing is promoted automatically until a person resumes."""
    slo(watched)
    watched.train()
    watched.world.succeed("a", auc=0.9, champion_auc=0.7)
    watched.settle()
    waiting = watched.runs()[-1]
    watched.desk.resume("model", "churn", who="ann", reason="looked at it")
    watched.settle()

    assert (waiting.state, waiting.cause) == ("AWAITING_APPROVAL", "held")
    assert watched.runs()[-1].state == "PROMOTED"


def test_several_samples(make_house: MakeHouse) -> None:
    """`min_samples: 3`: two events do nothing, a third one rolls back; one that came twice counts once."""
    house = make_house(model={"watch": {**WATCH, "min_samples": 3}})
    promote(house, 0.7)
    promote(house, 0.8)
    slo(house, id="a")
    slo(house, id="a")
    slo(house, id="b")
    (watching,) = [each for each in watches(house) if each.state == "OPEN"]
    before = champions(house)
    slo(house, id="c")

    assert (watching.samples, watching.needed) == (2, 3)
    assert before == ["RETIRED", "CHAMPION"]
    assert champions(house) == ["CHAMPION", "ROLLED_BACK"]
    assert len(watches(house)[-1].evidence) == 3


NOT_WORSE: dict[str, dict[str, Any]] = {
    "another type": {"type": "alert.disk"},
    "another subject": {"subject": "fraud"},
    "no subject": {"subject": None},
    "a source that is silent": {"origin": "controller"},
    "an alert that ended": {"extensions": make_mark("k", "resolved")},
    "a mark that cannot be read": {"extensions": make_mark("k", "sleeping")},
    "a test of the source": {"type": "retrain.test"},
}


@pytest.mark.parametrize("event", NOT_WORSE.values(), ids=NOT_WORSE)
def test_what_is_not_worse(watched: House, event: dict[str, Any]) -> None:
    """Only what fits, is news and can be understood counts."""
    slo(watched, **event)

    assert champions(watched) == ["RETIRED", "CHAMPION"]
    assert watches(watched)[-1].samples == 0


def test_what_happened_before_the_promotion_is_about_another_version(watched: House) -> None:
    """An event that comes late counts by when it happened: from the promotion on."""
    slo(watched, time=watched.now - timedelta(seconds=1))
    before = champions(watched)
    watched.clock.advance(10)
    slo(watched, time=watches(watched)[-1].opened_at)

    assert before == ["RETIRED", "CHAMPION"]
    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]


def test_repeats_of_one_alert_are_one_sample(make_house: MakeHouse) -> None:
    """An alert that fires on is one sign; another one is another."""
    house = make_house(model={"watch": {**WATCH, "min_samples": 2}})
    promote(house, 0.7)
    promote(house, 0.8)
    for _ in range(3):
        slo(house, extensions=make_mark("one"))
    before = champions(house)
    slo(house, extensions=make_mark("two"))

    assert before == ["RETIRED", "CHAMPION"]
    assert champions(house) == ["CHAMPION", "ROLLED_BACK"]


def test_a_condition_that_fails_never_rolls_back(make_house: MakeHouse) -> None:
    """An event without the field that `when` reads does not count; the watch says that it was not understood."""
    leaf = {"type": "alert.slo", "when": "event.data.burn > 2.0"}
    house = make_house(model={"watch": {"for": "24h", "rollback_on": leaf}})
    promote(house, 0.7)
    promote(house, 0.8)
    slo(house, data={})
    slo(house, data={"burn": 1})
    broken = watches(house)[-1]
    slo(house, data={"burn": 3})

    assert (broken.samples, broken.broken, "burn" in broken.broken_reason) == (0, 1, True)
    assert champions(house) == ["CHAMPION", "ROLLED_BACK"]


def test_silence_is_no_bad_news(watched: House) -> None:
    """Nothing comes during the whole watch: it ends, and nothing is rolled back."""
    watched.advance(DAY - timedelta(seconds=1))
    before = outcome(watched)
    watched.advance(1)

    assert before == (None, "promoted")
    assert outcome(watched) == ("UNKNOWN", "nothing_to_cure")
    assert champions(watched) == ["RETIRED", "CHAMPION"]
    slo(watched)
    assert champions(watched) == ["RETIRED", "CHAMPION"], "the watch is over"


def test_without_a_champion_before_there_is_nothing_to_go_back_to(make_house: MakeHouse) -> None:
    """The first champion stays, and people are told that it is worse."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    slo(house)

    assert champions(house) == ["CHAMPION"]
    assert outcome(house) == ("WORSE", "worse")
    assert "there was no champion before" in house.runs()[-1].outcome_reason
    assert house.mail()[-1] == "watch_ended"


def test_an_artifact_that_was_not_kept_is_not_gone_back_to(watched: House) -> None:
    """What the janitor let go of cannot serve again; the run is worse all the same."""
    with watched.store.transaction("test") as tx:
        tx.models.mark_forgotten(watched.versions()[0].id)
    slo(watched)

    assert champions(watched) == ["RETIRED", "CHAMPION"]
    assert "was not kept" in watched.runs()[-1].outcome_reason


def test_a_promoter_that_does_not_go_back(watched: House) -> None:
    """The rollback fails like one by hand: the promoted version stays, people are told, and it is not tried for ever."""
    watched.world.registries["first"].script = [GiveUp("read only")]
    slo(watched)

    assert promotions(watched)[-1] == ("rollback", "FAILED", "controller")
    assert champions(watched) == ["RETIRED", "CHAMPION"]
    assert outcome(watched) == ("WORSE", "worse")
    assert watched.mail()[-1] == "failed"


def test_a_promoter_that_is_down_goes_back_later(watched: House) -> None:
    """The intent is written, so the rollback outlives a promoter that is down, and a restart."""
    watched.world.registries["first"].script = [RetryLater("503")]
    slo(watched)
    assert promotions(watched)[-1] == ("rollback", "PENDING", "controller")
    watched.restart()
    watched.advance(HOUR)

    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]


def test_the_configuration_of_the_run_is_kept(watched: House) -> None:
    """A watch goes on as it was when its run was decided, whatever is configured meanwhile."""
    watched.write(model={"watch": None})
    watched.desk.reload(who="ann")
    slo(watched)

    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]


def test_G09_the_same_cause_does_not_promote_the_same_version_again(watched: House) -> None:
    """A retry that makes the very artifact that was rolled back is REJECTED, also after a resume; a person may still override."""
    again = watched.runs()[-1]
    text = (watched.folder / watched.versions()[-1].artifact).read_text()
    slo(watched)
    watched.desk.resume("model", "churn", who="ann", reason="try again")
    watched.desk.retry(again.id, who="ann", reason="try again", key=None)
    watched.settle()
    job = watched.world.succeed("a", auc=0.8, champion_auc=0.7)
    (job.order.folder / "artifact" / "model.bin").write_text(text)
    watched.settle()

    run = watched.runs()[-1]
    assert (run.state, run.cause) == ("REJECTED", "rolled_back_before")
    assert "v2" in run.reason
    watched.desk.promote(watched.versions()[-1].id, who="ann", reason="I know better")
    watched.settle()
    assert watched.versions()[-1].state == "CHAMPION"


# ----------------------------------------------------------------------------------------------- people


def rolls_back(house: House) -> None:
    house.desk.rollback("churn", who="ann", reason="complaints")


def overrides(house: House) -> None:
    house.desk.promote(house.versions()[0].id, who="ann", reason="the old one is fine")


def adopts(house: House) -> None:
    (house.folder / "old.bin").write_text("old")
    house.desk.adopt("churn", who="ann", reason="", artifact=str(house.folder / "old.bin"), metrics={"auc": 0.5})


def resumes(house: House) -> None:
    house.desk.resume("model", "churn", who="ann", reason="")


def pauses(house: House) -> None:
    house.desk.pause("model", "churn", who="ann", reason="migration")


def pauses_everything(house: House) -> None:
    house.desk.pause("all", "", who="ann", reason="migration")


PEOPLE = [rolls_back, overrides, adopts, resumes, pauses, pauses_everything]


@pytest.mark.parametrize("decides", PEOPLE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("settled", [True, False], ids=["settled", "in the same moment"])
def test_never_past_a_persons_decision(watched: House, decides: Callable[[House], None], settled: bool) -> None:
    """A person decided something about the model since the promotion: UNKNOWN, with the name, and the controller rolls nothing back."""
    decides(watched)
    if settled:
        watched.settle()
    slo(watched)

    assert outcome(watched, 1) == ("UNKNOWN", "person_decided")
    assert watched.runs()[1].outcome_reason.startswith("ann ")
    assert [each for each in promotions(watched) if each[0] == "rollback" and each[2] == "controller"] == []


def test_what_people_did_before_does_not_matter(make_house: MakeHouse) -> None:
    """A pause and a resume before the promotion, and an approval of the promotion itself, are no decision against it."""
    house = make_house(model={"watch": WATCH, "approve": {"required": True}})
    house.desk.pause("model", "churn", who="ann", reason="")
    house.clock.advance(1)
    house.desk.resume("model", "churn", who="ann", reason="")
    for auc in (0.7, 0.8):
        house.clock.advance(1)
        house.train()
        house.world.succeed("a", auc=auc, champion_auc=auc - 0.1)
        house.settle()
        house.desk.approve(house.runs()[-1].id, who="ann", reason="good")
        house.settle()
    slo(house)

    assert champions(house) == ["CHAMPION", "ROLLED_BACK"]


def test_what_a_person_promotes_is_not_watched(make_house: MakeHouse) -> None:
    """An override, an adoption and a rollback open no watch: nobody but a person takes them back."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    adopts(house)
    house.settle()
    slo(house)

    assert len(watches(house)) == 1
    assert [version.state for version in house.versions()] == ["RETIRED", "CHAMPION"]


def test_another_promotion_ends_the_watch(watched: House) -> None:
    """A newer version took over before anything was seen: UNKNOWN, and what comes then is about the newer one."""
    promote(watched, 0.9)
    assert outcome(watched, 1) == ("UNKNOWN", "replaced")
    slo(watched)

    assert champions(watched) == ["RETIRED", "CHAMPION", "ROLLED_BACK"]


def test_a_rollback_waits_for_a_promotion_that_is_under_way(watched: House) -> None:
    """While another run is being promoted nothing is rolled back; if that fails the rollback follows."""
    watched.train()
    registry = watched.world.registries["first"]
    registry.script = [RetryLater("503")]
    watched.world.succeed("a", auc=0.9, champion_auc=0.8)
    watched.settle()
    slo(watched)
    before = promotions(watched)[-1]
    registry.script = [GiveUp("gone")]
    watched.advance(HOUR)

    assert before == ("promoted", "PENDING", "controller")
    assert [each[:2] for each in promotions(watched)[-2:]] == [("promoted", "FAILED"), ("rollback", "APPLIED")]
