"""After a promotion: what is worse is rolled back, what was asked for is seen to be cured or not, and no person is overruled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from controller import crash
from controller.core.model import Run
from controller.core.watch import Watching
from controller.engine.replay import replay
from controller.errors import GiveUp, RetryLater
from controller.store import schema
from controller.store.rows import record
from controller.store.statistics import policy_statistics, watch_of
from controller.testing import ManualClock
from tests.engine.house import House
from tests.factories import make_mark

MakeHouse = Callable[..., House]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WATCH = {"for": "24h", "rollback_on": {"type": "alert.slo", "subject": "$model"}}


@pytest.fixture
def watched(make_house: MakeHouse) -> House:
    """An installation whose second champion was promoted just now, and is watched."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    promote(house, 0.8)
    return house


def promote(house: House, auc: float, **event: Any) -> Run:
    """Let an event lead to a promotion, and return its run."""
    house.send(**event)
    house.settle()
    house.world.succeed("a", auc=auc, champion_auc=auc - 0.1)
    house.settle()
    run = house.runs()[-1]
    assert run.state == "PROMOTED"
    return run


def slo(house: House, **event: Any) -> None:
    """Let an event come that says worse, and everything follow from it."""
    house.send(**{"type": "alert.slo", "subject": "churn", **event})
    house.settle()


def fire(house: House, key: str, *, state: str = "firing", type: str = "drift", **event: Any) -> None:
    """Let an alert fire, or end."""
    house.send(type, extensions=make_mark(key, state), **event)
    house.settle()


def finish_training(house: House) -> None:
    """Let the training end well, and the first run be promoted."""
    house.world.succeed("a", auc=0.7, champion_auc=0.6)
    house.settle()
    assert house.runs()[0].state == "PROMOTED"


def watches(house: House) -> list[Watching]:
    with house.store.reading() as tx:
        return [record(Watching, row) for row in tx.execute(sa.select(schema.watch).order_by(schema.watch.c.id))]


def outcome(house: House, run: int = -1) -> tuple[str | None, str]:
    """The outcome of a run, and the cause that its watch ended with."""
    found = house.runs()[run]
    (watching,) = [each for each in watches(house) if each.run_id == found.id]
    assert (found.outcome or "") in ("", watching.state) or watching.state == "OPEN"
    assert found.outcome is None or found.outcome_reason
    return found.outcome, watching.cause


def champions(house: House) -> list[str]:
    return [version.state for version in house.versions()]


def promotions(house: House) -> list[tuple[str, str, str]]:
    with house.store.reading() as tx:
        return [(each.kind, each.state, each.actor) for each in reversed(tx.models.promotions("churn"))]


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


def test_the_same_cause_does_not_promote_the_same_version_again(watched: House) -> None:
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


# ----------------------------------------------------------------------------------------------- did it help?


def test_an_alert_that_is_resolved_was_cured(house: House) -> None:
    """The alert that asked for the retraining ends within a day of the promotion: CURED when the day is over, without any `watch`."""
    fire(house, "a1")
    finish_training(house)
    house.advance(HOUR)
    fire(house, "a1", state="resolved")
    before = outcome(house)
    house.advance(DAY)

    assert before == (None, "promoted")
    assert outcome(house) == ("CURED", "cleared")
    assert "was resolved" in house.runs()[-1].outcome_reason


def test_an_alert_that_still_fires_was_not_cured(house: House) -> None:
    """It is still open when the day is over: NOT_CURED, and people are told."""
    fire(house, "a1")
    finish_training(house)
    for _ in range(24):
        house.advance(HOUR)
        fire(house, "a1")

    assert outcome(house) == ("NOT_CURED", "still_there")
    assert house.mail()[-1] == "not_cured"
    assert house.world.mail[-1].body["outcome"] == "NOT_CURED"


def test_an_alert_that_comes_back_was_not_cured(house: House) -> None:
    """The same alert fires anew: NOT_CURED at once, before the policy is asked about it."""
    fire(house, "a1", subject="eu")
    finish_training(house)
    fire(house, "a1", state="resolved", subject="eu")
    fire(house, "other", subject="us")
    assert house.runs()[0].outcome is None
    fire(house, "a2", subject="eu")

    assert outcome(house, 0) == ("NOT_CURED", "came_back")
    assert house.runs()[0].outcome_reason.endswith(f"({house.events()[-1].id})")


def test_what_came_back_is_still_watched(make_house: MakeHouse) -> None:
    """With `rollback_on` the watch goes on after the signal came back, and what is worse is rolled back."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    fire(house, "a1")
    house.world.succeed("a", auc=0.8, champion_auc=0.7)
    house.settle()
    fire(house, "a1", state="resolved")
    fire(house, "a2")
    between = house.runs()[1].outcome, watches(house)[1].state
    slo(house)

    assert between == ("NOT_CURED", "OPEN")
    assert outcome(house, 1) == ("WORSE", "worse")
    assert champions(house)[:2] == ["CHAMPION", "ROLLED_BACK"]


def test_the_breaker_knows_at_once_that_it_came_back(make_house: MakeHouse) -> None:
    """The event that says that it was not cured is the first one that the breaker stops."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "drift"}, "breaker": {"after": 1}}}})
    fire(house, "a1")
    finish_training(house)
    fire(house, "a1", state="resolved")
    fire(house, "a2")

    assert outcome(house, 0) == ("NOT_CURED", "came_back")
    assert len(house.runs()) == 1
    assert (house.decisions()[-1].kind, house.decisions()[-1].stage) == ("HOLD", "breaker")
    again = replay(
        house.store, f"sqlite:///{house.folder / 'again.db'}", config=house.runtime.config, clock=ManualClock()
    )
    assert (again.recorded, again.replayed) == (None, None), "what was recorded is decided in the same way"


def test_an_alert_that_flapped_while_it_was_trained(house: House) -> None:
    """It ended and fired anew before the promotion: the new one is the signal that must end."""
    fire(house, "a1")
    fire(house, "a1", state="resolved")
    fire(house, "a2")
    finish_training(house)
    for _ in range(24):
        house.advance(HOUR)
        fire(house, "a2")

    assert outcome(house, 0) == ("NOT_CURED", "still_there")


def test_an_alert_that_was_given_up_is_not_known(house: House) -> None:
    """Nobody said that it was resolved: silence is no cure."""
    fire(house, "a1")
    finish_training(house)
    house.advance(DAY + HOUR)

    assert outcome(house) == ("UNKNOWN", "not_known")


def test_an_edge_has_nothing_to_cure(house: House) -> None:
    """An event that is no alert: UNKNOWN at once, and nobody is told."""
    promote(house, 0.7)

    assert outcome(house) == ("UNKNOWN", "nothing_to_cure")
    assert "drift" in house.runs()[-1].outcome_reason
    assert house.mail() == ["promoted"]


def test_what_was_not_promoted_has_no_outcome(house: House) -> None:
    """A rejected run is not watched."""
    house.champion(auc=0.7)
    house.train()
    house.world.succeed("a", auc=0.6, champion_auc=0.7)
    house.settle()
    house.advance(DAY)

    assert house.runs()[-1].state == "REJECTED"
    assert house.runs()[-1].outcome is None
    assert len(watches(house)) == 1


# ----------------------------------------------------------------------------------------------- levels

SHARE = {"value": "event.data.share", "agg": "last", "above": 0.3, "rearm_below": 0.2}
LEVELS: dict[str, dict[str, Any]] = {
    "alone": {"type": "reading", "metric": SHARE},
    "in a tree": {"all": [{"type": "reading", "metric": SHARE}, {"not": {"type": "alert.upstream"}}]},
}


@pytest.fixture(params=list(LEVELS.values()), ids=list(LEVELS))
def levelled(request: pytest.FixtureRequest, make_house: MakeHouse) -> House:
    """An installation whose champion was promoted because a metric was beyond its threshold."""
    house = make_house(model={"policies": {"!": True, "drift": {"on": request.param}}})
    house.train(type="reading", share=0.5)
    house.advance(60)
    finish_training(house)
    return house


LEVEL_ENDS: dict[str, tuple[list[float], tuple[str, str]]] = {
    "back": ([0.4, 0.1], ("CURED", "cleared")),
    "not back yet": ([0.25], ("NOT_CURED", "still_there")),
    "still beyond": ([0.1, 0.5], ("NOT_CURED", "still_there")),
    "not measured": ([], ("UNKNOWN", "not_known")),
}


@pytest.mark.parametrize("shares, expected", LEVEL_ENDS.values(), ids=LEVEL_ENDS)
def test_a_metric_is_cured_when_it_is_back(levelled: House, shares: list[float], expected: tuple[str, str]) -> None:
    """Its value at the end of a day decides; what was measured before the promotion says nothing."""
    for share in shares:
        levelled.advance(HOUR)
        levelled.send("reading", data={"share": share})
        levelled.settle()
    assert levelled.runs()[0].outcome is None
    levelled.advance(DAY)

    assert outcome(levelled, 0) == expected


# ----------------------------------------------------------------------------------------------- the flights

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "flights.yaml"


@pytest.fixture
def flights(make_house: MakeHouse) -> House:
    """The flights example, its jobs and its alias played by the test, with a watch."""
    # `on` is a word in our YAML 1.2, and a boolean in that of PyYAML.
    example = yaml.safe_load(FLIGHTS.read_text().replace(" on:", ' "on":'))
    model = example["models"]["flight-delay"]
    changed = {
        "policies": {"!": True, **model["policies"]},
        "train": {"candidates": {"!": True, **model["train"]["candidates"]}},
        "gate": {"!": True, **model["gate"]},
        "watch": {"for": "7d", "rollback_on": {"type": "alert.slo", "when": "event.data.late_share > 0.4"}},
    }
    return make_house(model=changed, sources=example["sources"])


def month(house: House, auc: float, champion: float | None = None) -> Run:
    """Let a month of flights land, and both candidates train on it."""
    house.send("file.arrived", origin="landing", data={"size": 4_000_000})
    house.settle()
    house.advance(1)
    for candidate, less in (("boosting", 0.0), ("linear", 0.05)):
        metrics = {"auc": auc - less, "auc_valid": auc - less, "rows": 27_000}
        told: dict[str, Any] = {} if champion is None else {"champion_metrics": {"auc": champion}}
        house.world.succeed(candidate, metrics=metrics, **told)
        house.settle()
    return house.runs()[-1]


def test_a_month_that_made_the_flights_worse(flights: House) -> None:
    """Two months are promoted; too many late flights roll the second back, and the third month waits for a person."""
    january, february = month(flights, 0.65), month(flights, 0.70, champion=0.65)
    flights.advance(DAY)
    slo(flights, data={"late_share": 0.3})
    serving = flights.world.registries["first"].serves["churn"]
    slo(flights, data={"late_share": 0.5})
    march = month(flights, 0.75, champion=0.65)

    first, _, second, _ = flights.versions()[:4]
    assert [run.state for run in (january, february)] == ["PROMOTED", "PROMOTED"]
    assert serving == second.id
    assert flights.world.registries["first"].serves["churn"] == first.id
    assert outcome(flights, 1) == ("WORSE", "worse")
    assert (march.state, march.cause) == ("AWAITING_APPROVAL", "held")


# ----------------------------------------------------------------------------------------------- crashes


class _Killed(BaseException):
    """The process dies here."""


def _die(name: str) -> None:
    raise _Killed(name)


POINTS = [
    f"transaction.{name}.{when}"
    for name in ("decide", "watch_rollback", "promote_step", "crown")
    for when in ("before_commit", "after_commit")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_rollback_outlives_a_crash(watched: House, point: str) -> None:
    """Killed at any commit between the sample and the champion's change: one rollback, one outcome, one message."""
    watched.send("alert.slo", subject="churn")
    crash.arm(point, _die)
    try:
        with pytest.raises(_Killed):
            watched.settle()
    finally:
        crash.disarm()
    watched.restart()
    watched.settle()

    assert champions(watched) == ["CHAMPION", "ROLLED_BACK"]
    assert outcome(watched) == ("WORSE", "worse")
    assert [each[0] for each in promotions(watched)] == ["promoted", "promoted", "rollback"]
    assert watched.mail().count("rolled_back") == 1
    assert watches(watched)[-1].samples == 1


def test_a_watch_that_ended_while_nobody_ran(house: House) -> None:
    """After a downtime of days it is concluded at the start, once the events that waited are decided."""
    fire(house, "a1")
    finish_training(house)
    house.advance(HOUR)
    house.send(extensions=make_mark("a1", "resolved"))
    house.clock.advance(DAY * 3)
    house.restart()
    assert house.watcher.tick(house.now).worked == 0, "the end of the alert waits to be decided"
    house.settle()
    house.advance(10)

    assert outcome(house) == ("CURED", "cleared")


def test_looking_again_changes_nothing(watched: House) -> None:
    """A tick too many concludes nothing, and says when there is something to do."""
    ticked = watched.watcher.tick(watched.now)

    assert (ticked.worked, ticked.next_at) == (0, watches(watched)[-1].until)
    slo(watched)
    assert watched.watcher.tick(watched.now).worked == 0


# ----------------------------------------------------------------------------------------------- what is shown


def test_statistics_of_policies(watched: House) -> None:
    """Fired, promoted, cured, worse and wasted hours follow from the rows; training that was rolled back was wasted."""
    slo(watched)
    watched.train()
    watched.advance(HOUR / 2)
    watched.world.fail("a")
    watched.settle()
    watched.advance(30)
    watched.world.fail("a")
    watched.settle()
    with watched.store.reading() as tx:
        (row,) = policy_statistics(tx, watched.runtime.config.models, model=None, since=None)
        (none,) = policy_statistics(tx, watched.runtime.config.models, model="churn", since=watched.now)
        no_model = policy_statistics(tx, watched.runtime.config.models, model="other", since=None)

    counted = {name: row[name] for name in ("fired", "promoted", "failed", "unknown", "worse", "cured")}
    assert counted == {"fired": 3, "promoted": 2, "failed": 1, "unknown": 1, "worse": 1, "cured": 0}
    assert row["wasted_hours"] == pytest.approx(0.5, abs=0.02)
    assert (none["fired"], none["runs"], none["wasted_hours"]) == (0, 0, 0)
    assert no_model == []


def test_the_page_of_a_run_shows_its_watch(watched: House) -> None:
    """What was seen, the evidence, and the rollback with its state."""
    slo(watched)
    with watched.store.reading() as tx:
        shape = watch_of(tx, watched.runs()[-1].id)

    assert shape is not None
    assert (shape["state"], shape["samples"], shape["rollback_state"]) == ("WORSE", 1, "APPLIED")
    assert [each["type"] for each in shape["evidence"]] == ["alert.slo"]
