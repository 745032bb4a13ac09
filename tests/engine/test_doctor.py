"""The doctor writes how sources are, and says when one falls silent: once, whatever restarts, and never for what we could not hear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller import crash
from controller.core.model import CONTROLLER_ORIGIN, EPISODE, EPISODE_STATE, TEST_EVENT, Event, NewEvent
from controller.core.rhythm import SourceStat
from controller.engine.doctor import Doctor
from controller.engine.inbox import WAITING
from controller.errors import InvalidInput, StoreBusy
from controller.ports import Batch
from controller.store import schema
from tests.engine.house import House
from tests.statements import deafen, listen

HOUR = 3600
DAILY: dict[str, Any] = {"type": "cron", "schedule": "0 3 * * *"}


class Ward:
    """An installation with one source, `bus`, from which something is expected every hour, and its doctor."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.doctor = Doctor(house.runtime, house.inbox.arrivals)
        self.look()

    def look(self) -> None:
        """Let the doctor look until nothing is left to do now."""
        self.doctor.tick(self.house.now)

    def listen(self, seconds: float, *, step: float = 60) -> None:
        """Let time pass while the daemon runs: the doctor looks every so often."""
        for _ in range(int(seconds // step)):
            self.house.clock.advance(step)
            self.look()

    def hear(self, *ids: str, **fields: Any) -> None:
        """Take events in from the source."""
        events = [NewEvent(source="/bus", source_id=each, type="drift", **fields) for each in ids]
        self.put(Batch(events=events))

    def put(self, batch: Batch, origin: str = "bus") -> None:
        """Take in a batch."""
        self.house.inbox.put(origin, batch)
        self.house.inbox.tick(self.house.now)

    def restart(self, *, down: float = 0, clean: bool = True) -> None:
        """End the daemon, and start it again after so many seconds."""
        if clean:
            self.doctor.flush()
        self.house.clock.advance(down)
        self.house.restart()
        self.doctor = Doctor(self.house.runtime, self.house.inbox.arrivals)
        self.look()

    def silences(self) -> list[str]:
        """What was said about silence, in order: firing or resolved."""
        return [str(event.extensions[EPISODE_STATE]) for event in self.told()]

    def told(self) -> list[Event]:
        """The events of the doctor."""
        return [event for event in self.house.events() if event.origin == CONTROLLER_ORIGIN]

    def stat(self) -> SourceStat:
        """How the source is, up to this moment."""
        with self.house.store.reading() as tx:
            return self.doctor.stat(tx, "bus")

    def row(self, name: str = "bus") -> SourceStat:
        """What is written of a source."""
        with self.house.store.reading() as tx:
            found = tx.sources.get(name)
        assert found is not None
        return found


@pytest.fixture
def ward(make_house: Callable[..., House]) -> Ward:
    return Ward(make_house(sources={"bus": DAILY | {"expect_every": "1h"}}))


@pytest.fixture
def writes(ward: Ward) -> Iterator[list[str]]:
    """The statements that change something, from here on."""
    found: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            found.append(statement)

    listen(ward.house.store, note)
    yield found
    deafen(ward.house.store, note)


# --------------------------------------------------------------------------------------------------------- counting


def test_counts_and_the_last_event(ward: Ward) -> None:
    """New events, known ones, and the newest that was new; each source and the API by itself."""
    ward.hear("1", "2")
    ward.hear("2", "3", "1")
    ward.hear("1")
    ward.put(Batch(events=[NewEvent(source="/x", source_id="1", type="drift")]), origin="api")
    ward.listen(60)

    row = ward.row()
    newest = next(event for event in ward.house.events() if event.source_id == "3")
    assert (row.stored, row.duplicates) == (3, 3)
    assert row.last_event_id == newest.id
    assert row.last_at == newest.received_at
    assert ward.row("api").stored == 1


def test_what_comes_within_a_second_is_one_arrival(ward: Ward) -> None:
    """The rhythm is read from few numbers, however many events come; a time that an event told gives the clock's difference."""
    ward.hear("1", "2", time=ward.house.now - timedelta(seconds=30))
    ward.house.clock.advance(0.5)
    ward.hear("3")
    ward.house.clock.advance(10)
    ward.hear("4")
    stat = ward.stat()

    assert [arrival.count for arrival in stat.arrivals] == [3, 1]
    assert [arrival.delay_seconds for arrival in stat.arrivals] == [30.0, None]


def test_only_the_latest_arrivals_are_kept(ward: Ward) -> None:
    """A row is bounded, also over restarts."""
    for number in range(100):
        ward.hear(str(number))
        ward.house.clock.advance(2)
    ward.restart()
    ward.hear("x")

    assert len(ward.row().arrivals) == 64
    assert len(ward.stat().arrivals) == 64


def test_what_the_store_refuses_is_counted(ward: Ward) -> None:
    """An event that cannot be stored, and those that find no room."""
    refused = ward.house.inbox.put(
        "bus", Batch(events=[NewEvent(source="/b", source_id="1", type="t", data=float("nan"))])
    )
    ward.house.inbox.tick(ward.house.now)
    ward.house.inbox.put("bus", Batch(events=[NewEvent(source="/b", source_id="2", type="t")]))
    many = [NewEvent(source="/b", source_id=f"m{n}", type="t") for n in range(WAITING)]

    with pytest.raises(InvalidInput):
        refused.result(timeout=0)
    with pytest.raises(StoreBusy):
        ward.house.inbox.put("bus", Batch(events=many))
    assert ward.stat().refused == 1 + WAITING


def test_an_idle_daemon_writes_nothing(make_house: Callable[..., House]) -> None:
    """Without an event and without `expect_every` nothing is written, however long it lasts."""
    ward = Ward(make_house(sources={"bus": DAILY}))
    statements: list[str] = []
    listen(ward.house.store, lambda *given: statements.append(given[2]))
    ward.listen(HOUR)

    assert [each for each in statements if not each.startswith(("SELECT", "BEGIN", "COMMIT"))] == []
    assert ward.row().stored == 0


def test_it_writes_at_most_every_five_seconds(ward: Ward, writes: list[str]) -> None:
    """Twelve events in as many seconds are two writes."""
    ward.listen(10, step=10)
    writes.clear()
    for number in range(12):
        ward.hear(str(number))
        ward.house.clock.advance(1)
        ward.look()
    written = [each for each in writes if "source_stat" in each]

    assert len(written) == 2


def test_that_it_listens_is_written_now_and_then(ward: Ward, writes: list[str]) -> None:
    """Of a source with `expect_every` a tenth of it, so that a crash does not make us forget for how long we heard nothing."""
    ward.listen(1800)

    assert len([each for each in writes if "source_stat" in each]) == 5


def test_counts_survive_a_restart(ward: Ward) -> None:
    """They go on where they were, and rise by what came since."""
    ward.hear("1", "2")
    ward.restart()
    ward.hear("3")
    ward.hear("1")
    ward.listen(60)

    assert (ward.row().stored, ward.row().duplicates) == (3, 1)


def test_a_write_that_fails_is_made_up_for(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten because the store was busy."""
    ward.hear("1")
    ward.house.clock.advance(10)
    with monkeypatch.context() as patch:
        patch.setattr(ward.house.runtime.store, "transaction", busy)
        with pytest.raises(StoreBusy):
            ward.look()
    ward.house.clock.advance(10)
    ward.look()

    assert ward.row().stored == 1


def busy(name: str, **_: Any) -> Any:
    raise StoreBusy(f"{name}: the test's store is busy")


# ---------------------------------------------------------------------------------------------------------- silence


def test_silence_is_one_event(ward: Ward) -> None:
    """After the expected time, once; it says what was expected and since when nothing came."""
    ward.hear("1")
    last = ward.house.now
    ward.listen(3540)
    assert ward.silences() == []
    ward.listen(5 * HOUR)
    (event,) = ward.told()

    assert ward.silences() == ["firing"]
    assert (event.type, event.source, event.subject) == ("source.silent", "/sources/bus", "bus")
    assert event.extensions[EPISODE] == "silent/bus/2024-01-01T00:00:00.000Z"
    assert event.data == {
        "source": "bus",
        "state": "firing",
        "reason": "nothing came for 3600 s, something is expected every 3600 s",
        "last_event_at": last.isoformat().replace("+00:00", "Z"),
        "silent_for_seconds": 3600,
        "expected_every_seconds": 3600.0,
        "healthy": True,
        "complaints": [],
    }
    assert ward.row().silent_since == last


def test_it_ends_when_the_source_is_heard(ward: Ward) -> None:
    """The same episode is resolved; the next silence is another one."""
    ward.listen(2 * HOUR)
    ward.hear("1")
    ward.look()
    ward.listen(2 * HOUR)
    keys = [event.extensions[EPISODE] for event in ward.told()]

    assert ward.silences() == ["firing", "resolved", "firing"]
    assert keys[0] == keys[1] != keys[2]


def test_people_are_told(make_house: Callable[..., House]) -> None:
    """Of each silence once, and of its end, in the transaction of the event that says so."""
    ward = Ward(make_house(sources={"bus": DAILY | {"expect_every": "1h"}}, notify=["scripted"]))
    ward.listen(5 * HOUR)
    ward.house.settle()
    ward.hear("1")
    ward.look()
    ward.house.settle()

    assert [(message.kind, message.title.partition(":")[0]) for message in ward.house.world.mail] == [
        ("source_silent", "source bus is silent"),
        ("source_silent", "source bus is silent no longer"),
    ]
    assert [message.body["state"] for message in ward.house.world.mail] == ["firing", "resolved"]


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_a_restart_does_not_repeat_it(ward: Ward, clean: bool) -> None:
    """What was said is said; and what comes after the restart ends it."""
    ward.listen(2 * HOUR)
    ward.restart(down=5, clean=clean)
    ward.listen(2 * HOUR)
    assert ward.silences() == ["firing"]
    ward.hear("1")
    ward.look()

    assert ward.silences() == ["firing", "resolved"]


@pytest.mark.parametrize("survives", [False, True], ids=["killed", "answer lost"])
@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_a_crash_while_it_is_said(ward: Ward, point: str, survives: bool) -> None:
    """The event and the mark that it was made are one transaction: ended at either side of it, it is said once."""

    def die(name: str) -> None:
        raise RuntimeError(f"killed at {name}")

    ward.listen(3540)
    ward.house.clock.advance(120)
    crash.arm(f"transaction.silence.{point}", die)
    with pytest.raises(RuntimeError, match="killed"):
        ward.look()
    crash.disarm()
    if not survives:
        ward.restart(clean=False)
    ward.listen(900)

    assert ward.silences() == ["firing"]


def test_known_events_are_a_sign_of_life(ward: Ward) -> None:
    """An alert that is repeated is not silent, though nothing of it is new."""
    ward.hear("1")
    for _ in range(10):
        ward.listen(1800)
        ward.hear("1")

    assert ward.silences() == []


def test_our_own_downtime_is_nobody_s_silence(ward: Ward) -> None:
    """Half an hour of quiet before a night without a daemon leaves half an hour after it."""
    ward.hear("1")
    ward.listen(1800)
    ward.restart(down=8 * HOUR)
    ward.listen(1740)
    assert ward.silences() == []
    ward.listen(120)

    assert ward.silences() == ["firing"]


def test_after_a_start_a_source_may_catch_up(ward: Ward) -> None:
    """A source that was due while we were down has a minute."""
    ward.hear("1")
    ward.listen(3540)
    ward.restart(down=600)
    ward.listen(50, step=10)
    assert ward.silences() == []
    ward.listen(60, step=10)

    assert ward.silences() == ["firing"]


def test_restarts_do_not_hide_a_silence(ward: Ward) -> None:
    """A daemon that is restarted every twenty minutes still finds it, crash or not."""
    ward.hear("1")
    for number in range(5):
        ward.listen(1200)
        ward.restart(down=1, clean=number % 2 == 0)

    assert ward.silences() == ["firing"]


@pytest.mark.parametrize("jump", [timedelta(days=30), timedelta(days=-30)], ids=["forwards", "backwards"])
def test_a_clock_that_jumps_makes_no_silence(ward: Ward, jump: timedelta) -> None:
    """Only time that really passed counts, and it counts afterwards too."""
    ward.hear("1")
    ward.listen(1200)
    ward.house.clock.set_now(ward.house.now + jump)
    ward.listen(1800)
    assert ward.silences() == []
    ward.listen(900)

    assert ward.silences() == ["firing"]


def test_an_expectation_does_not_look_back(make_house: Callable[..., House]) -> None:
    """A source of which something is expected from now on has all of that time; when it is expected no more, a silence ends."""
    house = make_house(sources={"bus": DAILY})
    ward = Ward(house)
    ward.hear("1")
    ward.listen(5 * HOUR)
    configure(house, expect_every="1h")
    ward.listen(3540)
    assert ward.silences() == []
    ward.listen(120)
    assert ward.silences() == ["firing"]
    configure(house)
    ward.look()

    assert ward.silences() == ["firing", "resolved"]
    assert ward.told()[-1].data["reason"] == "nothing is expected of it any more"
    assert ward.row().silent_since is None


def test_a_longer_expectation_ends_a_silence(ward: Ward) -> None:
    """What is silent is judged by what is expected now."""
    ward.listen(2 * HOUR)
    configure(ward.house, expect_every="1d")
    ward.look()

    assert ward.silences() == ["firing", "resolved"]


def configure(house: House, **keys: Any) -> None:
    house.write(sources={"bus": {"!": True, **DAILY, **keys}})
    house.desk.reload(who="test")


def test_a_source_that_complains_is_not_healthy(ward: Ward) -> None:
    """A policy can tell a dead producer from a broken way."""
    ward.house.runtime.complaints.set("bus", "run", "connection refused")
    ward.listen(2 * HOUR)

    silent = next(event for event in ward.told() if event.type == "source.silent")
    assert silent.data["healthy"] is False
    assert ward.told()[0].data["complaints"] == ["connection refused"]


def test_a_policy_acts_on_silence_once(make_house: Callable[..., House]) -> None:
    """It is an episode: it fires a policy when it begins, and not when it ends."""
    house = make_house(
        sources={"bus": DAILY | {"expect_every": "1h"}},
        model={"policies": {"drift": {"on": {"!": True, "type": "source.silent", "subject": "bus"}}}},
    )
    ward = Ward(house)
    ward.listen(2 * HOUR)
    house.settle()
    assert len(house.runs()) == 1
    ward.hear("1")
    ward.look()
    house.settle()

    assert ward.silences() == ["firing", "resolved"]
    assert len(house.runs()) == 1


def test_when_it_looks_again(ward: Ward) -> None:
    """At the latest when the silence would begin; soon while there is one, so that its end is not late."""
    ward.listen(3540)
    near = ward.doctor.tick(ward.house.now)
    ward.listen(120)
    silent = ward.doctor.tick(ward.house.now)

    assert near.next_at is not None
    assert near.next_at <= ward.house.now
    assert silent.next_at is not None
    assert silent.next_at <= ward.house.now + timedelta(seconds=5)


def test_the_metrics_say_it(ward: Ward) -> None:
    """`retrain_source_silent` is 1 while it lasts, and after a restart."""

    def silent() -> float | None:
        return ward.house.metrics.registry.get_sample_value("retrain_source_silent", {"source": "bus"})

    assert silent() == 0
    ward.listen(2 * HOUR)
    assert silent() == 1
    ward.restart()
    assert silent() == 1
    ward.hear("1")
    ward.look()

    assert silent() == 0


# ------------------------------------------------------------------------------------------------------ test events


def test_a_test_event_is_no_sign_of_life(ward: Ward) -> None:
    """What we sent ourselves does not end a silence, and counts for nothing."""
    ward.listen(2 * HOUR)
    ward.put(Batch(events=[NewEvent(source="/sources/bus", source_id="t", type=TEST_EVENT)]))
    ward.look()

    assert ward.silences() == ["firing"]
    assert ward.stat().stored == 0


@pytest.mark.parametrize(
    "on",
    [{"type": TEST_EVENT}, {"type": "retrain.*"}, {"type": "*"}, {"source": "bus"}, {"when": "true"}],
    ids=["its type", "a glob", "every type", "its source", "every event"],
)
def test_a_test_event_never_fires(make_house: Callable[..., House], on: dict[str, str]) -> None:
    """Whatever a policy listens to, a test is not it; `why` says so."""
    house = make_house(
        sources={"bus": DAILY},
        model={"policies": {"drift": {"on": {"!": True, **on}}}},
    )
    house.send(TEST_EVENT, origin="bus")
    house.settle()

    (event,) = house.events()
    assert event.state == "PROCESSED"
    assert house.runs() == []
    assert house.decisions() == []


def test_rows_are_of_configured_sources_and_those_heard(ward: Ward) -> None:
    """A person's press makes no source."""
    ward.house.retrain()
    ward.house.settle()
    ward.listen(60)
    with ward.house.store.reading() as tx:
        names = set(tx.execute(sa.select(schema.source_stat.c.source)).scalars())

    assert names == {"bus"}


# ------------------------------------------------------------------------------------------------------- failing


def failing(ward: Ward) -> list[tuple[str, str]]:
    """What was said about failing: which source, firing or resolved."""
    found = [event for event in ward.told() if event.type == "source.failing"]
    return [(str(event.subject), str(event.extensions[EPISODE_STATE])) for event in found]


def test_a_source_that_goes_on_complaining_is_failing(ward: Ward) -> None:
    """It is an episode: said once after half a minute, and resolved after a minute without a complaint; a moment is nothing."""
    complaints = ward.house.runtime.complaints
    complaints.set("bus", "poll", "connection refused")
    ward.look()
    ward.listen(20, step=10)
    complaints.set("bus", "poll", None)
    ward.listen(120)
    assert failing(ward) == []
    complaints.set("bus", "poll", "connection refused")
    ward.listen(120, step=10)
    assert failing(ward) == [("bus", "firing")]
    complaints.set("bus", "poll", None)
    ward.listen(50, step=10)
    complaints.set("bus", "poll", "connection refused")
    ward.listen(50, step=10)
    assert failing(ward) == [("bus", "firing")]
    complaints.set("bus", "poll", None)
    ward.listen(120, step=10)

    assert failing(ward) == [("bus", "firing"), ("bus", "resolved")]
    assert ward.told()[-2].data["reason"] == "connection refused"


def test_a_restart_repeats_no_failing(ward: Ward) -> None:
    """What was said is known again, and its end is told."""
    ward.house.runtime.complaints.set("bus", "poll", "connection refused")
    ward.look()
    ward.listen(60, step=30)
    ward.house.settle()
    ward.restart()
    ward.house.runtime.complaints.set("bus", "poll", "connection refused")
    ward.listen(120, step=30)
    assert failing(ward) == [("bus", "firing")]
    ward.house.runtime.complaints.set("bus", "poll", None)
    ward.listen(120, step=30)

    assert failing(ward) == [("bus", "firing"), ("bus", "resolved")]
