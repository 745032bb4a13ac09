"""A backtest of an installation's own history: what really happened keeps its outcome, all else is assumed and said to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller.config import load_config
from controller.core.past import Fate, PastRun, Usual, assumed, fate_of, usual_of
from controller.engine.backtest.plan import Plan, changes_between, configured_as
from controller.engine.backtest.record import backtest
from controller.engine.backtest.report import Report
from controller.store.export import Past
from tests.engine.house import House
from tests.engine.test_backtest_live import MIXED, POLICIES, every, model
from tests.engine.walk import Live
from tests.factories import NOON, at, make_mark, make_new_event

MakeHouse = Callable[..., House]


def try_out(house: House, config: Any = None, **options: Any) -> Report:
    since = options.pop("since", house.clock.now() - timedelta(days=2))
    return backtest(config or house.runtime.config, Past(house.store), since=since, until=house.now, **options)


def written(house: House, tmp_path: Path, **policies: Any) -> Any:
    """Another configuration of the same installation."""
    path = house.folder / "planned.yaml"
    text = (house.folder / "retrain.yaml").read_text()
    house.write(model=model(**policies))
    path.write_text((house.folder / "retrain.yaml").read_text())
    (house.folder / "retrain.yaml").write_text(text)
    return load_config(path)


def test_what_happened_is_found_again(make_house: MakeHouse) -> None:
    """The same configuration over its own history: the same retrainings, each with its real run, outcome and length."""
    house = make_house(model=model(it=POLICIES["cooldown-success"], other={"on": {"type": "file"}}))
    Live(house, MIXED).tell(every(7, 30) + every(50, 4, type="file"), until=timedelta(hours=6))
    house.retrain(reason="because")
    Live(house, MIXED).tell([], until=timedelta(hours=1))

    report = try_out(house)

    runs = house.runs()
    assert [run.policy for run in runs].count("manual") == 1
    assert [(f.at, f.policy, f.real_id, f.state, f.length) for f in report.account.firings] == [
        (run.decided_at, run.policy, run.id, run.state, run.finished_at - run.started_at) for run in runs
    ]
    assert {firing.assumed for firing in report.account.firings} == {False}
    assert [run.id for run in report.did] == [run.id for run in runs]
    assert report.complete
    total, did = report.as_json()["totals"]["would"], report.as_json()["totals"]["did"]
    assert (total["fired"], total["promoted"], total["wasted"]) == (did["fired"], did["promoted"], did["wasted"])
    assert total["assumed"] == 0


def test_a_backtest_begins_where_the_installation_was(make_house: MakeHouse) -> None:
    """Champion, pause, open alerts, and the runs that a cooldown asks for, are known at its first instant."""
    house = make_house(
        model=model(
            it={"on": {"type": "drift"}, "cooldown": {"after": "launch", "period": "5h"}},
            champ={"on": {"type": "file", "when": "champion != null"}},
            news={"on": {"type": "alert"}},
        )
    )
    Live(house, MIXED).tell(every(10, 1), until=timedelta(hours=1))
    house.send("alert", extensions=make_mark("a"))
    Live(house, MIXED).tell([], until=timedelta(hours=1))
    house.desk.pause("policy", "churn/champ", who="ann", reason="later")
    house.settle()
    middle = house.now
    house.advance(timedelta(minutes=1))
    house.send("alert", extensions=make_mark("a"))
    house.send("drift")
    house.send("file")
    Live(house, MIXED).tell([], until=timedelta(minutes=30))

    report = try_out(house, since=middle)

    assert report.events == 3
    assert report.account.firings == []
    stages = {(policy, kind, stage) for _, policy, kind, stage in report.account.stages}
    assert {("it", "HOLD", "cooldown"), ("champ", "HOLD", "pause"), ("news", "SKIP", "episode")} <= stages


def test_what_did_not_happen_is_assumed(make_house: MakeHouse, tmp_path: Path) -> None:
    """A policy that would have started more: those that happened keep their outcome, the others get the median, and a note says so."""
    house = make_house(model=model(it={"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "2h"}}))
    Live(house, MIXED).tell(every(30, 12), until=timedelta(hours=8))
    eager = written(house, tmp_path, it={"on": {"type": "drift"}})

    report = try_out(house, eager)

    real = [firing for firing in report.account.firings if not firing.assumed]
    others = [firing for firing in report.account.firings if firing.assumed]
    assert [firing.real_id for firing in real] == [run.id for run in house.runs()]
    assert others
    assert {firing.state for firing in others if firing.state is not None} == {"PROMOTED"}
    assert any("assumed" in note for note in report.notes)
    assert report.as_json()["totals"]["would"]["assumed"] == len(others)


def test_a_plan_says_what_changes(make_house: MakeHouse, tmp_path: Path) -> None:
    """Which keys of which policies, and how many retrainings that would have been."""
    house = make_house(
        model=model(
            it={"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "2h"}},
            gone={"on": {"type": "other"}},
        )
    )
    Live(house, MIXED).tell(every(30, 12), until=timedelta(hours=8))
    planned = written(
        house,
        tmp_path,
        it={"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "1h"}},
        new={"on": {"type": "another"}},
    )
    form = Past(house.store).configuration()
    assert form is not None

    changes = changes_between(form, planned.normal_form)
    plan = Plan(changes=changes, before=try_out(house, configured_as(planned, form)), after=try_out(house, planned))

    assert [(change.policy, change.change) for change in changes] == [
        ("gone", "removed"),
        ("it", "changed"),
        ("new", "added"),
    ]
    assert [(key.key, key.before, key.after) for key in changes[1].keys] == [("cooldown.period", "PT7200S", "PT3600S")]
    assert plan.has_effect
    ((_, policy, before, after),) = plan.effects()
    assert policy == "it"
    assert before.fired < after.fired


def test_another_way_to_write_it_is_no_change(make_house: MakeHouse, tmp_path: Path) -> None:
    """120m is 2h."""
    house = make_house(model=model(it={"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "2h"}}))
    same = written(house, tmp_path, it={"cooldown": {"period": "120m", "after": "decision"}, "on": {"type": "drift"}})
    form = Past(house.store).configuration()
    assert form is not None

    assert changes_between(form, same.normal_form) == ()


def test_a_cancelled_backtest_says_how_far_it_came(make_house: MakeHouse) -> None:
    """What came before is told, and that it is not all."""
    house = make_house(model=model(it={"on": {"type": "drift"}}))
    Live(house, MIXED).tell(every(30, 5), until=timedelta(hours=3))

    report = try_out(house, goes_on=lambda at: False)

    assert not report.complete
    assert report.until < house.now
    assert report.events == 5


def test_it_reads_pages(make_house: MakeHouse, monkeypatch: Any) -> None:
    """However small the pages, the events are the same, in their order, each once."""
    house = make_house()
    for number in range(25):
        house.send(id=str(number))
        house.clock.advance(1)
    past = Past(house.store)
    whole = [event for page in past.events(house.now - timedelta(hours=1), house.now) for event in page]
    monkeypatch.setattr("controller.store.export.PAGE", 7)
    pages = list(past.events(house.now - timedelta(hours=1), house.now))

    assert [len(page) for page in pages] == [7, 7, 7, 4]
    assert [event for page in pages for event in page] == whole
    assert [event.source_id for event in whole] == [str(number) for number in range(25)]
    assert [e.source_id for p in past.events(house.now - timedelta(seconds=5), house.now) for e in p] == [
        str(number) for number in range(20, 25)
    ]
    assert list(past.events(house.now - timedelta(hours=1), house.now, kind="other")) == []


def past_run(state: str, minutes: float, cost: float = 1.0, **fields: Any) -> PastRun:
    run = PastRun(
        id="run-1",
        model="churn",
        policy="drift",
        key="",
        state=state,
        decided_at=NOON,
        started_at=NOON,
        awaiting_since=None,
        finished_at=at(minutes=minutes),
        cost=cost,
        depth=0,
        outcome=None,
    )
    return replace(run, **fields)


def test_usual_is_the_median_and_the_most_frequent_end() -> None:
    """Of runs that were launched and ended with something to say; between equals the better end."""
    runs = [
        past_run("PROMOTED", 10, 1),
        past_run("REJECTED", 20, 2),
        past_run("FAILED", 90, 9),
        past_run("CANCELLED", 500, 50),
        past_run("FAILED", 1, started_at=None),
    ]

    assert usual_of(runs, promotes=True, cost=7.0) == Usual(
        length=timedelta(minutes=20), cost=2.0, state="PROMOTED", runs=3
    )
    assert usual_of([], promotes=True, cost=7.0).state == "PROMOTED"
    assert usual_of([], promotes=False, cost=7.0).state == "SUCCEEDED"
    assert usual_of([], promotes=False, cost=7.0).cost == 7.0


def test_a_run_that_waited_for_a_person_leaves_its_slot() -> None:
    """The fate of a real run says when it began to wait; one that never ended is assumed."""
    usual = usual_of([past_run("PROMOTED", 10)], promotes=True, cost=7.0)
    waited = past_run("PROMOTED", 60, awaiting_since=at(minutes=15))

    assert fate_of(waited, usual).until_asked == timedelta(minutes=15)
    assert fate_of(past_run("TRAINING", 0, finished_at=None), usual) == assumed(usual)
    assert assumed(usual) == Fate(state="PROMOTED", length=timedelta(minutes=10), cost=1.0)


def test_events_of_a_file_stand_in_for_those_of_the_store(make_house: MakeHouse) -> None:
    """They are decided in the order in which they are given, and nothing of the history is set against them."""
    from controller.core.eventfile import FiledEvent, stored

    house = make_house(model=model(it={"on": {"type": "drift"}, "debounce": {"quiet": "5m"}}))
    lines = [
        FiledEvent(line=n, event=make_new_event(n, time=at(minutes=n)), origin="api", received_at=None) for n in (1, 2)
    ]

    report = backtest(
        house.runtime.config,
        None,
        since=NOON,
        until=at(hours=3),
        events=(stored(line, number) for number, line in enumerate(lines)),
    )

    (firing,) = report.account.firings
    assert (firing.at, firing.causes, firing.held) == (at(minutes=7), 2, timedelta(minutes=6))
    assert firing.said == "2 × drift"
    assert report.did == []
