"""When a probe looks, what of it is an event, and what happens when a look fails."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.core.model import Json
from controller.errors import GiveUp, RetryLater
from controller.sources.probe.circuit import Circuit
from controller.sources.probe.cursor import KEPT_ABSENT, LEDGER_KEY
from controller.sources.probe.options import ProbeOptions
from controller.sources.probe.reading import Look, Sample
from controller.sources.probe.source import Probe
from controller.testing import ManualClock, MemoryInbox, SeededRandom

START = datetime(2026, 3, 1, 12, 2, tzinfo=UTC)
EVERY = timedelta(minutes=5)


class Scripted(Probe):
    """Sees what the test says."""

    Options = ProbeOptions

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(ProbeOptions.model_validate({"every": "5m", **options}), world.inbox.context(Path()))
        self.world = world

    def look(self, cursor: Json) -> Look:
        self.world.looks.append(self.world.clock.now())
        self.world.clock.advance(0.25)
        seen = self.world.sees
        if isinstance(seen, Exception):
            raise seen
        if isinstance(seen, Look):
            return seen
        if isinstance(seen, Mapping):
            return Look(samples=[Sample(value=value, key=key, labels={"of": key}) for key, value in seen.items()])
        return Look(samples=[Sample(value=seen)])

    def question(self) -> Json:
        return self.world.question

    def described(self) -> Mapping[str, Json]:
        return {"query": "how much?"}


class World:
    """What a probe sees, and where its events go."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.inbox = MemoryInbox(name="auc", clock=self.clock)
        self.sees: Any = 0.7
        self.question = "how much?"
        self.looks: list[datetime] = []

    def go_on(self, probe: Probe) -> datetime:
        """Poll, then let time pass until the probe wants to be polled again."""
        due = probe.poll(self.clock.now())
        assert due is not None
        self.clock.advance(max(due - self.clock.now(), timedelta(0)))
        return due

    def values(self) -> list[Any]:
        """The values that were emitted."""
        return [event.data["value"] for event in self.inbox.events]


@pytest.fixture
def world() -> World:
    """A world in which the value is 0.7."""
    return World()


def test_a_reading_says_all(world: World) -> None:
    """Value, the one before, where it is from, how long it took; the identity is the nominal instant."""
    probe = Scripted(world, subject="churn")
    world.go_on(probe)
    world.sees = 0.6
    world.go_on(probe)

    first, second = world.inbox.events
    assert (first.source, first.source_id, first.type) == ("/probes/auc", "2026-03-01T12:00:00Z", "probe.reading")
    assert (first.subject, first.time) == ("churn", START)
    assert first.data == {"value": 0.7, "previous": None, "query": "how much?", "took_seconds": 0.25}
    assert second.source_id == "2026-03-01T12:05:00Z"
    assert (second.data["value"], second.data["previous"]) == (0.6, 0.7)


def test_instants_and_jitter(world: World) -> None:
    """It looks at start, then within the jitter after each multiple of `every`, whatever the time before."""
    probe = Scripted(world, jitter="30s")
    for _ in range(40):
        world.go_on(probe)

    assert world.looks[0] == START
    offsets = [(look - START.replace(minute=0)) % EVERY for look in world.looks[1:]]
    assert all(timedelta(0) <= offset < timedelta(seconds=30) for offset in offsets)
    assert len(set(offsets)) > 30
    assert len({event.source_id for event in world.inbox.events}) == 40


def test_without_jitter(world: World) -> None:
    """Jitter can be taken away."""
    probe = Scripted(world, jitter="0s")

    assert world.go_on(probe) == START.replace(minute=5)
    assert world.go_on(probe) == START.replace(minute=10)


def test_called_early(world: World) -> None:
    """The ticker may call when nothing is due; it does not look then, unless the clock was set back."""
    probe = Scripted(world)
    due = probe.poll(START)

    assert probe.poll(START + timedelta(minutes=1)) == due
    assert len(world.looks) == 1
    world.clock.set_now(START - timedelta(days=2))
    probe.poll(world.clock.now())
    assert len(world.looks) == 2


def test_a_restart_does_not_look_twice_at_an_instant(world: World) -> None:
    """The ledger says that it was concluded; what passed meanwhile is not made up."""
    world.go_on(Scripted(world))
    world.clock.set_now(START + timedelta(minutes=1))
    Scripted(world).poll(world.clock.now())
    assert len(world.looks) == 1

    world.clock.advance(timedelta(hours=3))
    Scripted(world).poll(world.clock.now())

    assert len(world.inbox.events) == 2
    assert world.inbox.duplicates == []


@pytest.mark.parametrize(
    "step, sees, emitted",
    [
        pytest.param(None, [1, 1, 2, 2, 1], [2, 1], id="any change"),
        pytest.param(None, ["a", "a", "b"], ["b"], id="text"),
        pytest.param(None, [1, True, 1], [True, 1], id="true is not one"),
        pytest.param(None, [["a", {"n": 1}], ["a", {"n": 1}], ["a", {"n": 2}]], [["a", {"n": 2}]], id="JSON"),
        pytest.param(0.5, [1.0, 1.25, 1.375, 1.5, 1.75, 2.0, 1.0], [1.5, 2.0, 1.0], id="a step from the last emitted"),
    ],
)
def test_changes(world: World, step: float | None, sees: list[Any], emitted: list[Any]) -> None:
    """The first value is only remembered; then each that moved far enough from the last emitted one."""
    probe = Scripted(world, emit="change", **({} if step is None else {"step": step}))
    for value in sees:
        world.sees = value
        world.go_on(probe)

    assert world.values() == emitted
    assert {event.type for event in world.inbox.events} == {"probe.changed"}
    previous = [sees[0], *emitted]
    assert [event.data["previous"] for event in world.inbox.events] == previous[: len(emitted)]


def test_no_change_writes_nothing(world: World) -> None:
    """A probe that sees the same again leaves the database alone."""
    probe = Scripted(world, emit="change")
    for _ in range(5):
        world.go_on(probe)

    assert world.inbox.batches == [(0, 1)]


def test_several_things(world: World) -> None:
    """Each thing has its own event and its own value before; one that is new is first only remembered."""
    probe = Scripted(world, emit="change", event_type="auc.moved")
    for seen in ({"a": 1, "b": 1}, {"a": 2, "b": 1, "c": 7}, {"b": 3, "c": 7}, {"a": 2, "c": 8}):
        world.sees = seen
        world.go_on(probe)

    assert [(event.data["labels"]["of"], event.data["previous"]) for event in world.inbox.events] == [
        ("a", 1),
        ("b", 1),
        ("c", 7),
    ]
    assert len({event.source_id for event in world.inbox.events}) == 3
    assert {event.type for event in world.inbox.events} == {"auc.moved"}


def test_memory_is_bounded(world: World) -> None:
    """Things that come and go for ever do not fill the ledger."""
    probe = Scripted(world)
    for number in range(0, 1000, 50):
        world.sees = {f"pod-{number + each}": each for each in range(50)}
        world.go_on(probe)

    kept = world.inbox.ledger[LEDGER_KEY]["values"]
    assert len(kept) == KEPT_ABSENT + 50
    assert "pod-999" in kept


def test_two_things_of_one_key(world: World) -> None:
    """They cannot be told apart, so none of them is emitted."""
    world.sees = Look(samples=[Sample(value=1, key="a"), Sample(value=2, key="a")])
    Scripted(world).poll(START)

    assert world.inbox.events == []
    assert "2 values have the same key 'a'" in world.inbox.complaints["look"]


def test_another_question(world: World) -> None:
    """Values of another question are not compared with."""
    world.go_on(Scripted(world, emit="change"))
    world.question, world.sees = "how many?", 12
    world.go_on(Scripted(world, emit="change"))
    world.sees = 13
    world.go_on(Scripted(world, emit="change"))

    assert [(event.data["previous"], event.data["value"]) for event in world.inbox.events] == [(12, 13)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(float("nan"), id="NaN"),
        pytest.param({"a": [float("inf")]}, id="infinite"),
        pytest.param("x" * 20_000, id="too long"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("\ud800", id="surrogate"),
    ],
)
def test_what_is_no_value(world: World, value: Any) -> None:
    """Nothing that the store could not hold leaves a probe."""
    world.sees = value
    Scripted(world).poll(START)

    assert world.inbox.batches == []
    assert "cannot look" in world.inbox.complaints["look"]


@pytest.mark.parametrize("value", ["high", True, None, [1]])
def test_a_step_needs_numbers(world: World, value: Any) -> None:
    """What is no number is a failed look."""
    probe = Scripted(world, emit="change", step=1)
    world.go_on(probe)
    world.sees = value
    world.go_on(probe)

    assert "is not a number" in world.inbox.complaints["look"]


def test_no_value(world: World) -> None:
    """A look without a value is no event; it is complained of until there is one, unless the options say otherwise."""
    probe, easy = Scripted(world), Scripted(world, empty="ignore")
    world.sees = Look(samples=())
    easy.poll(START)
    assert world.inbox.complaints == {}
    world.inbox.ledger.clear()
    world.go_on(probe)
    assert world.inbox.complaints == {"no data": "no data: the answer is empty"}
    world.sees = Look(samples=(), without_value="auc is NaN", warnings=["slow shard"])
    world.go_on(probe)
    assert world.inbox.complaints == {"no data": "no data: auc is NaN", "warnings": "warned: slow shard"}

    world.sees = 0.5
    world.go_on(probe)

    assert world.inbox.complaints == {}
    assert world.values() == [0.5]


def test_failures_open_the_circuit(world: World) -> None:
    """It tries again soon, then after k failures ever later, at most 15 minutes; a success closes it."""
    probe = Scripted(world, circuit=3)
    world.sees = RetryLater("no answer", hint="is it up?")
    waits = []
    for _ in range(9):
        before = world.clock.now()
        waits.append(world.go_on(probe) - before)
    assert world.inbox.complaints["look"] == "cannot look: no answer (is it up?)"
    assert world.inbox.complaints["circuit"].startswith("9 looks in a row failed; the next is at 2026-")
    assert probe.report()["circuit"] == "open"
    assert probe.report()["failures"] == 9
    assert all(wait <= timedelta(seconds=10) for wait in waits[:2])
    assert all(EVERY <= wait <= timedelta(minutes=15) for wait in waits[2:])

    world.sees = 0.7
    world.go_on(probe)

    assert world.inbox.complaints == {}
    assert (probe.report()["circuit"], probe.report()["failures"]) == ("closed", 0)
    assert world.values() == [0.7]


@pytest.mark.parametrize("error", [GiveUp("refused"), RetryLater("later")])
def test_a_failure_leaves_nothing(world: World, error: Exception) -> None:
    """What failed is not remembered: the same instant is looked at again."""
    probe = Scripted(world)
    world.sees = error
    world.go_on(probe)
    assert world.inbox.ledger == {}

    world.sees = 0.7
    world.go_on(probe)

    assert [event.source_id for event in world.inbox.events] == ["2026-03-01T12:00:00Z"]


@pytest.mark.parametrize("asked, waited", [(120.0, 120.0), (86_400.0, 3_600.0)])
def test_being_asked_to_wait(world: World, asked: float, waited: float) -> None:
    """It waits as long as it is asked to, at most an hour."""
    probe = Scripted(world)
    world.sees = RetryLater("429", after_seconds=asked)

    assert probe.poll(START) == START + timedelta(seconds=waited)


def test_a_busy_store(world: World) -> None:
    """It waits as long as the store says, and then looks anew."""
    probe = Scripted(world)
    world.inbox.refusals, world.inbox.refused_for_seconds = 1, 3.0

    assert probe.poll(START) == START + timedelta(seconds=3)
    assert world.inbox.batches == []
    world.sees = 0.9
    probe.poll(START + timedelta(seconds=3))
    assert world.values() == [0.9]


def test_more_to_see(world: World) -> None:
    """A look that was cut is followed by the next at once, and hands its cursor on."""
    probe = Scripted(world)
    world.sees = Look(samples=[Sample(value=1, identity="one", data={"row": {"id": 1}})], cursor=1, place=1, more=True)
    assert probe.poll(START) == START
    world.sees = Look(samples=[Sample(value=2, identity="two")], cursor=2, place=2)
    assert probe.poll(START) > START

    assert [(event.source_id, event.data["cursor"]) for event in world.inbox.events] == [("one", 1), ("two", 2)]
    assert world.inbox.events[0].data["row"] == {"id": 1}
    assert world.inbox.ledger[LEDGER_KEY]["cursor"] == 2
    assert probe.report()["cursor"] == 2


def test_the_report(world: World) -> None:
    """Last values, when, and when next; the payload and the reading are noted for the doctor."""
    probe = Scripted(world, subject="churn")
    assert probe.report() == {}
    world.sees = Look(samples=[Sample(value=0.7)], payload=b"0.7")
    due = probe.poll(START)

    report = probe.report()
    assert report["last"] == [{"value": 0.7, "labels": {}, "subject": "churn"}]
    assert report["last_at"] == "2026-03-01T12:02:00Z"
    assert datetime.fromisoformat(report["next_at"]) == due
    assert world.inbox.notes == {"payload": b"0.7", "mapping": {"samples": report["last"]}}
    assert probe.patience == timedelta(seconds=40)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"every": "500ms"}, "too often"),
        ({"timeout": "6m"}, "timeout 360s"),
        ({"timeout": "0s"}, "timeout 0s"),
        ({"jitter": "5m"}, "jitter 300s"),
        ({"step": 1}, "step"),
        ({"emit": "change", "step": 0}, "greater than 0"),
        ({"emit": "change", "step": float("inf")}, "greater than 0"),
        ({"emit": "rows"}, "emit"),
        ({"circuit": 0}, "circuit"),
        ({"nearly": 1}, "nearly"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], complaint: str) -> None:
    """Each refusal says what is wrong."""
    with pytest.raises(ValidationError, match=complaint):
        ProbeOptions.model_validate({"every": "5m", **options})


def test_defaults() -> None:
    """A look takes at most 30 s, or `every` when that is less; the jitter is a tenth."""
    assert ProbeOptions.model_validate({"every": "5m"}).deadline == timedelta(seconds=30)
    assert ProbeOptions.model_validate({"every": "5m"}).spread == timedelta(seconds=30)
    assert ProbeOptions.model_validate({"every": "10s"}).deadline == timedelta(seconds=10)


def test_a_rare_probe_is_not_tried_more_often_when_it_fails() -> None:
    """With an open circuit a probe that looks once an hour waits an hour."""
    circuit, random = Circuit(2, timedelta(hours=1)), SeededRandom()

    waits = [circuit.fail(random) for _ in range(6)]

    assert waits[0] <= timedelta(seconds=5)
    assert waits[1:] == [timedelta(hours=1)] * 5
