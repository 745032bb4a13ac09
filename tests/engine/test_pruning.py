"""Retention lets go of what nobody needs any longer, and of nothing else; what it leaves still explains itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import crash
from controller.api.why import why
from controller.clock import SystemClock
from controller.engine.attic import PRUNED
from controller.engine.janitor import FIRST_SWEEP, PAUSE, SWEEP
from controller.engine.logs import Logs
from controller.engine.pruning import FIRST, HOLD, MOST, Sweep, would_go
from controller.engine.replay import replay
from controller.errors import Conflict, NotFound
from controller.store import pruning, schema
from controller.store.export import Past
from controller.store.views import Views
from tests.engine.house import House

DAY = timedelta(days=1)


def sweep(house: House) -> dict[str, int]:
    """Let the janitor go through everything once, and say what went."""
    before = gone(house)
    house.advance(FIRST_SWEEP)
    for _ in range(1000):
        house.clock.advance(PAUSE)
        house.janitor.tick(house.now)
        if house.janitor._sweep is None:
            after = gone(house)
            return {kind: count - before.get(kind, 0) for kind, count in after.items() if count != before.get(kind, 0)}
    raise AssertionError("the sweep does not end")


def later(house: House, days: float) -> dict[str, int]:
    """Let days pass with nobody there, as in a process that starts then, and sweep."""
    house.clock.advance(timedelta(days=days))
    house.restart()
    house.settle()
    return sweep(house)


def gone(house: House) -> dict[str, int]:
    with house.store.reading() as tx:
        return {kind: each.row_count for kind, each in pruning.gone(tx).items()}


def ids(house: House, table: sa.Table) -> list[str]:
    with house.store.reading() as tx:
        return list(tx.execute(sa.select(table.c.id).order_by(table.c.id)).scalars())


def account(house: House, thing: str) -> dict[str, Any]:
    return why(Views(house.store), thing, house.runtime.config.models)


def rejected(house: House) -> str:
    """Let a run be rejected, and return its id."""
    house.train(share=0.4)
    house.world.succeed("a", auc=0.5, champion_auc=0.9)
    house.settle()
    return house.runs()[-1].id


def test_G02_events_go_when_the_window_is_over(house: House) -> None:
    """Within the window a redelivery is known; the row goes with the window, and then the same event is a new one."""
    first = house.send("other", id="same")
    house.settle()
    house.clock.advance(29 * DAY)
    house.restart()
    house.settle()
    assert sweep(house) == {}
    assert house.send("other", id="same").duplicate

    assert later(house, 2) == {"events": 1}

    again = house.send("other", id="same")
    assert not again.duplicate
    assert again.event_id != first.event_id


def test_G02_what_is_not_decided_stays(make_house: Callable[..., House]) -> None:
    """Events that are pending, dead, held, counted or behind a run that has not ended stay, however old they are."""
    policies = {
        "drift": None,
        "held": {"on": {"type": "held"}, "debounce": {"quiet": "300d"}},
        "counted": {"on": {"type": "counted", "count": 3, "within": "300d"}},
        "run": {"on": {"type": "run"}},
        "broken": {"on": {"type": "broken"}},
    }
    house = make_house(model={"policies": policies, "train": {"timeout": "300d"}})
    kept = [house.send(kind).event_id for kind in ("held", "counted", "run")]
    house.settle()
    dead = house.send("broken").event_id
    with house.store.transaction("test") as tx:
        tx.events.mark_dead(dead, reason="broken")
    idle = house.send("nobody").event_id
    house.settle()
    house.clock.advance(100 * DAY)
    pending = house.send("nobody").event_id
    house.clock.advance(100 * DAY)  # and nothing decides on it

    assert sweep_alone(house) == {"events": 1}

    assert ids(house, schema.event) == [*kept, dead, pending]
    assert idle not in ids(house, schema.event)


def sweep_alone(house: House) -> dict[str, int]:
    """Sweep without any other loop."""
    cleaning = Sweep(house.runtime, house.now, fenced=True)
    while not cleaning.step().is_last:
        pass
    return dict(cleaning.gone)


def test_a_press_is_kept_as_acts_are(house: House) -> None:
    """Who pressed the button, and why, can be read for ever from the run that came of it."""
    house.retrain(reason="the data were wrong")
    house.settle()
    house.world.succeed("a", auc=0.8)
    house.settle()
    later(house, 400)

    assert "the data were wrong" in str(account(house, house.run().id))


def test_G04_a_run_explains_itself_after_its_events_are_gone(house: House) -> None:
    """The account of a run is the same before and after, but for what its events said and the ids their sender gave them."""
    house.champion()
    run_id = rejected(house)
    before = account(house, run_id)
    went = later(house, 31)
    after = account(house, run_id)

    assert went["events"] == 2
    forgotten = {"source": None, "source_id": None}
    assert after == {**before, "causes": [{**cause, **forgotten} for cause in before["causes"]]}
    assert before["causes"]


def test_G04_an_event_explains_itself_after_it_is_gone(house: House) -> None:
    """Without the event's row, the account still says who decided what on it, and which run it led to."""
    house.champion()
    run_id = rejected(house)
    event_id = house.events()[-1].id
    before = account(house, event_id)
    later(house, 31)
    after = account(house, event_id)

    assert after["summary"] == before["summary"] == f"it led to {run_id} ended REJECTED: {house.runs()[-1].reason}"
    assert (after["event"]["state"], after["event"]["type"]) == ("PRUNED", "drift")
    assert after["event"]["received_at"][:23] == before["event"]["received_at"][:23]
    assert [line["reason"] for line in after["policies"]] == [line["reason"] for line in before["policies"]]
    assert "let go of" in after["unknown"][0]


def test_an_event_that_led_to_nothing_is_said_to_be_gone(house: House) -> None:
    """Whoever asks for it is told how far back events are kept, instead of only that there is no such thing."""
    event_id = house.send("nobody").event_id
    house.settle()
    later(house, 31)

    with pytest.raises(NotFound) as refused:
        account(house, event_id)

    assert "were let go of (`retention: events`)" in refused.value.hint


def test_bodies_go_before_their_events(make_house: Callable[..., House]) -> None:
    """With `bodies` shorter than `events` the data go first; the identity stays, and the account says what is missing."""
    house = make_house(retention={"bodies": "7d"})
    house.send("nobody", id="same", data={"secret": 1})
    house.send("nobody", id="empty")
    house.settle()
    assert later(house, 8) == {"bodies": 1}
    event = house.events()[0]

    assert (event.data, event.pruned_at is not None) == (None, True)
    assert house.send("nobody", id="same").duplicate
    assert house.events()[1].pruned_at is None
    found = account(house, event.id)
    assert "cannot be said any more" in found["summary"]
    assert found["policies"] == []
    assert later(house, 30) == {"events": 2}


def test_what_ended_goes(make_house: Callable[..., House]) -> None:
    """Messages that were sent, alerts that ended and watches that are over go at their times; what an open one needs stays."""
    house = make_house(
        model={"watch": {"for": "200d"}, "policies": {"drift": {"on": {"type": "drift"}}}},
        retention={"episodes": "10d", "notifications": "5d", "watches": "20d", "events": "5d"},
    )
    mark = {"episode": "k1", "episodestate": "firing"}
    house.send("alert", extensions=mark)
    house.settle()
    house.send("alert", extensions={**mark, "episodestate": "resolved"})
    house.champion()
    open_alert = {"episode": "k2", "episodestate": "firing", "episodeexpire": 300 * 86_400}
    house.send("alert", extensions=open_alert)
    house.settle()

    assert later(house, 6).keys() == {"events", "notifications"}
    assert later(house, 5) == {"episodes": 1}
    house.clock.advance(200 * DAY)
    house.settle()
    assert later(house, 21)["watches"] == 1
    with house.store.reading() as tx:
        assert [each.key for each in tx.episodes.open(None)] == ["k2"]


def test_a_message_is_kept_while_it_says_when_the_next_may_go(make_house: Callable[..., House]) -> None:
    """`repeat` counts from the last message of its kind, so that one stays for as long."""
    house = make_house(
        notifiers={"scripted": {"type": "scripted", "group": {"wait": "0s", "repeat": "60d"}}},
        retention={"notifications": "1d"},
    )
    house.champion()

    assert "notifications" not in later(house, 31)
    assert later(house, 30)["notifications"] >= 1


def test_the_files_of_old_attempts_go(make_house: Callable[..., House]) -> None:
    """Folders of runs that ended go with their time, but for artifacts that are kept; running ones and strangers stay."""
    house = make_house(model={"keep_artifacts": 0, "train": {"timeout": "300d"}})
    house.champion()
    champion = Path(house.versions()[0].artifact)
    rejected(house)
    house.train()
    runs = house.folder / "state" / "runs"
    (runs / "notes.txt").write_text("a stranger's")
    stranger = runs / "run-0000000000000000-a-1-00000000"
    stranger.mkdir()
    folders = sorted(path.name for path in runs.glob("run-*"))
    old, kept, running = folders[2], folders[1], folders[3]
    for name in (old, kept, running):
        (runs / name / "log").write_text("said")

    later(house, 91)

    assert champion.exists()
    assert sorted(path.name for path in (runs / kept).iterdir()) == [PRUNED, "artifact"]
    assert not (runs / old).exists()
    assert (runs / running / "log").exists()
    assert stranger.exists()
    assert (runs / "notes.txt").exists()
    assert would_go(house.runtime, house.now)["run_files"] == 0


def test_a_log_that_was_removed_is_said_to_be(make_house: Callable[..., House]) -> None:
    """Whoever asks for the log is told that retention removed it."""
    house = make_house(model={"train": {"launcher": "local"}})
    run_id = rejected(house)
    later(house, 91)

    with pytest.raises(NotFound, match="was removed") as refused:
        Logs(house.runtime).read(run_id, None, None, 0, 100)

    assert "run_files" in refused.value.hint


def test_replay_says_that_the_record_is_not_whole(house: House) -> None:
    """A replay without all its events would find differences that are none: it refuses, and says what is missing."""
    rejected(house)
    url = f"sqlite:///{house.folder / 'again.db'}"
    assert replay(house.store, url, config=house.runtime.config, clock=SystemClock()).is_equal
    later(house, 31)

    with pytest.raises(Conflict, match=r"not whole any more: .*1 events were let go of"):
        replay(house.store, f"{url}2", config=house.runtime.config, clock=SystemClock())


def test_a_backtest_begins_where_the_record_is_whole(house: House) -> None:
    """It is told from when on all events are there, so that it does not compare runs with events that are gone."""
    past = Past(house.store)
    assert past.whole_since() is None
    rejected(house)
    later(house, 31)

    assert past.whole_since() == house_cutoff(house)


def house_cutoff(house: House) -> Any:
    with house.store.reading() as tx:
        return pruning.gone(tx)["events"].cutoff


def test_the_dry_run_counts_what_goes(make_house: Callable[..., House]) -> None:
    """What would go is what then goes, by kind."""
    house = make_house(retention={"bodies": "1d", "events": "2d", "notifications": "2d"})
    house.champion()
    for number in range(5):
        house.send("nobody", data={"number": number})
    house.settle()
    house.clock.advance(timedelta(days=1, hours=1))
    house.send("nobody", data={})
    house.evaluator.tick(house.now)  # only this loop
    house.clock.advance(timedelta(days=1, hours=1))
    expected = {kind: count for kind, count in would_go(house.runtime, house.now).items() if count}

    # Bodies whose events go in the same sweep are counted with both.
    assert expected["events"] == 6
    assert expected["bodies"] == 7
    assert sweep_alone(house) == expected


def test_batches_are_short(house: House) -> None:
    """A batch that took too long is followed by a smaller one, a quick one by a larger one, within bounds."""
    cleaning = Sweep(house.runtime, house.now, fenced=True)
    cleaning._pace(HOLD * 2)
    smaller = cleaning._rows
    for _ in range(20):
        cleaning._pace(HOLD / 100)

    assert smaller == FIRST // 2
    assert cleaning._rows == MOST


def test_a_sweep_goes_on_in_small_steps(house: House) -> None:
    """No tick lets go of more than a batch; the next one goes on, and the next sweep comes an hour later."""
    for number in range(1200):
        house.send("nobody", id=f"e{number}")
    house.settle()
    house.clock.advance(31 * DAY)
    house.restart()
    worked = []
    house.janitor.tick(house.now)
    house.clock.advance(FIRST_SWEEP)
    while True:
        ticked = house.janitor.tick(house.now)
        worked.append(ticked.worked)
        if house.janitor._sweep is None:
            break
        assert ticked.next_at == house.now + PAUSE
        house.clock.advance(PAUSE)

    assert sum(worked) == 1200
    assert max(worked) <= MOST
    assert house.janitor._batch_at == house.now + SWEEP


class Killed(BaseException):
    """Stands for a `kill -9`."""


def kill(name: str) -> None:
    raise Killed(name)


@pytest.mark.parametrize("where", ["before", "after"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from(["nobody", "drift", "held", "press"]), min_size=1, max_size=12),
    days=st.integers(0, 40),
    kills=st.lists(st.integers(1, 3), max_size=3),
)
def test_CP18_a_crash_at_any_batch_loses_nothing_that_is_kept(
    make_house: Callable[..., House], where: str, kinds: list[str], days: int, kills: list[int]
) -> None:
    """Whatever came in and wherever the sweep was killed: what the window covers is there, nothing hangs on what is gone."""
    policies = {"held": {"on": {"type": "held"}, "debounce": {"quiet": "300d"}}}
    house = make_house(model={"policies": policies, "train": {"timeout": "300d"}})
    try:
        for number, kind in enumerate(kinds):
            house.retrain(key=f"k{number}") if kind == "press" else house.send(kind, id=f"e{number}")
            house.settle()
            house.clock.advance(days / len(kinds) * DAY)
        house.clock.advance(5 * DAY)
        for occurrence in kills:
            crash.arm(f"transaction.prune.{where}_commit", kill, occurrence=occurrence)
            try:
                sweep_alone(house)
            except Killed:
                house.restart()
            finally:
                crash.disarm()
        sweep_alone(house)

        _check(house, sent=len(kinds))
    finally:
        house.close()


def _check(house: House, *, sent: int) -> None:
    """What the window covers, and what something hangs on, is there."""
    events = set(ids(house, schema.event))
    window = house.now - timedelta(days=30)
    with house.store.reading() as tx:
        held = set(tx.execute(sa.select(schema.held_cause.c.event_id)).scalars())
        waited_for = set(
            tx.execute(
                sa.select(schema.run_cause.c.event_id)
                .join(schema.run, schema.run.c.id == schema.run_cause.c.run_id)
                .where(schema.run.c.finished_at.is_(None), schema.run_cause.c.event_id.is_not(None))
            ).scalars()
        )
        stored = tx.execute(sa.select(sa.func.count()).select_from(schema.event)).scalar_one()
        told = pruning.gone(tx).get("events")
    assert held | waited_for <= events
    assert all(
        event.received_at >= window or event.id in held | waited_for or event.origin == "person"
        for event in house.events()
    )
    assert sent == stored + (0 if told is None else told.row_count)
