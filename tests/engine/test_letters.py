"""Dead letters: kept with their batch, told of without flooding the log, read again, decided again, given up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.model import DeadLetter, LedgerEntry, NewEvent
from controller.crash import arm, disarm
from controller.engine import inbox as inbox_module
from controller.engine import sitting as sitting_module
from controller.engine.burial import LINES, PERIOD_SECONDS
from controller.engine.letters import Letters
from controller.errors import Conflict, InvalidInput, NotFound, StoreBusy
from controller.ports import Batch
from controller.store import schema
from controller.store.views import Views
from tests.engine.house import House

MakeHouse = Callable[..., House]


class Reading:
    """A source that reads `{"id": …}` again, once it was taught to."""

    def __init__(self) -> None:
        self.taught = True
        self.fault: Exception | None = None

    def read_again(self, letter: DeadLetter) -> Sequence[NewEvent]:
        if self.fault is not None:
            raise self.fault
        if not self.taught:
            raise InvalidInput("still not understood")
        ids = json.loads(letter.body or b"{}").get("ids", [])
        return [NewEvent(source="/bus", source_id=each, type="drift") for each in ids]


class Deaf:
    """A source that cannot read anything again."""


@pytest.fixture
def reading() -> Reading:
    return Reading()


def letters_of(house: House, **sources: Any) -> Letters:
    def source(name: str) -> Any:
        if name not in sources:
            raise NotFound(f"no source {name!r} runs")
        return sources[name]

    return Letters(house.runtime, source)


@pytest.fixture
def letters(house: House, reading: Reading) -> Letters:
    return letters_of(house, bus=reading, deaf=Deaf())


def dead(place: str, *ids: str, **fields: Any) -> DeadLetter:
    body = fields.pop("body", json.dumps({"ids": ids}).encode())
    return DeadLetter(place=place, reason="not understood", body=body, size=fields.pop("size", len(body)), **fields)


def come_in(house: House, *came: DeadLetter, origin: str = "bus", events: Sequence[NewEvent] = ()) -> list[str]:
    """Let dead letters come in, and return the ids of those that stand."""
    answer = house.inbox.put(origin, Batch(events=events, dead=came))
    house.inbox.tick(house.now)
    assert len(answer.result(timeout=0)) == len(events)
    return standing(house)


def rows(house: House) -> list[Any]:
    with house.store.reading() as tx:
        return list(tx.execute(sa.select(schema.dead_letter).order_by(schema.dead_letter.c.id)))


def standing(house: House) -> list[str]:
    return [row.id for row in rows(house) if row.state == "DEAD"]


def metric(house: House, name: str, **labels: str) -> float | None:
    return house.metrics.registry.get_sample_value(name, labels)


def lines(house: House) -> list[dict[str, Any]]:
    return [fields for _, event, fields in house.log.lines if event == "letter.dead"]


def crash(name: str) -> None:
    raise KeyboardInterrupt(name)


# -------------------------------------------------------------------------------------------------------- coming in


def test_a_batch_of_nothing_but_dead_letters(house: House) -> None:
    """It is answered after the commit, counted, and told of with its reason."""
    (letter_id,) = come_in(house, dead("t/0/1"))

    assert metric(house, "retrain_events_total", source="bus", outcome="dead") == 1
    assert metric(house, "retrain_dead_letters", source="bus", kind="raw") == 1
    (line,) = lines(house)
    assert (line["source"], line["place"], line["letter_id"], line["reason"]) == (
        "bus", "t/0/1", letter_id, "not understood",
    )  # fmt: skip


def test_dead_letters_events_and_ledger_are_one_transaction(house: House) -> None:
    """A crash before the commit leaves none of them, and the same batch again is stored once."""
    batch = Batch(
        events=[NewEvent(source="/bus", source_id="1", type="drift")],
        ledger=[LedgerEntry(key="0", value=7)],
        dead=[dead("t/0/1")],
    )
    house.inbox.put("bus", batch)
    arm("transaction.inbox.before_commit", crash)
    try:
        with pytest.raises(KeyboardInterrupt):
            house.inbox.tick(house.now)
    finally:
        disarm()
    house.restart()
    assert (house.events(), rows(house)) == ([], [])

    for _ in range(2):
        house.inbox.put("bus", batch)
        house.inbox.tick(house.now)

    with house.store.reading() as tx:
        assert tx.events.recall("bus", "") == {"0": 7}
    assert (len(house.events()), len(rows(house))) == (1, 1)
    assert metric(house, "retrain_events_total", source="bus", outcome="dead") == 1
    assert metric(house, "retrain_events_total", source="bus", outcome="duplicate") == 2


def test_the_same_letter_in_two_batches_of_a_group(house: House) -> None:
    """Two deliveries that wait together are one letter."""
    answers = [house.inbox.put("bus", Batch(events=[], dead=[dead("t/0/1")])) for _ in range(2)]
    house.inbox.tick(house.now)

    assert [answer.result(timeout=0) for answer in answers] == [[], []]
    assert len(rows(house)) == 1


def test_a_flood_does_not_flood_the_log(house: House) -> None:
    """A few lines in a minute for each source; the next line says how many had none."""
    come_in(house, *(dead(f"t/0/{n}") for n in range(LINES + 15)))
    come_in(house, dead("h/1"), origin="hook")
    assert [line["source"] for line in lines(house)] == ["bus"] * LINES + ["hook"]

    house.clock.advance(PERIOD_SECONDS)
    come_in(house, dead("t/1/1"))

    assert lines(house)[-1]["without_a_line"] == 15
    assert lines(house)[-1]["place"] == "t/1/1"
    assert metric(house, "retrain_events_total", source="bus", outcome="dead") == LINES + 16


def test_the_quota_is_that_of_the_configuration_in_force(make_house: MakeHouse) -> None:
    """Counted in metrics, shown in `status`, and nothing that makes the daemon unready."""
    house = make_house(dead_letters={"keep": 3})
    come_in(house, *(dead(f"t/0/{n}") for n in range(5)))
    assert [row.state for row in rows(house)] == ["DROPPED", "DROPPED", "DEAD", "DEAD", "DEAD"]
    house.write(dead_letters={"keep": 100, "max_bytes": 50})
    house.desk.reload(who="ann")

    come_in(house, dead("t/0/9", body=b"x" * 50))

    assert [row.place for row in rows(house) if row.state == "DEAD"] == ["t/0/9"]
    assert metric(house, "retrain_dead_letters_dropped_total", source="bus") == 5
    assert metric(house, "retrain_dead_letters", source="bus", kind="raw") == 1
    assert house.runtime.complaints.all() == []
    (shown,) = Views(house.store).status()["dead_letters"]
    assert (shown["source"], shown["raw"], shown["overflowed"]) == ("bus", 1, 5)


def test_poison_of_one_source_does_not_hold_up_another(house: House) -> None:
    """A flood is stored in bounded groups: a good event behind it is stored within as many ticks as its weight takes."""
    poison = [
        house.inbox.put("bus", Batch(events=[], dead=[dead(f"t/{n}/{m}", body=b"x" * 2048) for m in range(100)]))
        for n in range(10)
    ]
    good = house.inbox.put("hook", Batch(events=[NewEvent(source="/hook", source_id="1", type="drift")]))

    ticks = 0
    while not good.done():
        assert house.inbox.tick(house.now).worked
        ticks += 1

    assert ticks == 2  # 1000 letters of 3 each, 300 in a batch, at most 2000 in a group
    assert all(answer.done() for answer in poison)
    house.settle()
    assert len(house.runs()) == 1


def test_large_letters_wait_in_bounded_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits counts by its size too; beyond that the producer tries again."""
    monkeypatch.setattr(inbox_module, "WAITING", 1500)
    house.inbox.put("bus", Batch(events=[], dead=[dead("t/0/1", body=b"x" * (1 << 20))]))

    with pytest.raises(StoreBusy, match="wait to be stored"):
        house.inbox.put("bus", Batch(events=[], dead=[dead("t/0/2", body=b"x" * (1 << 20))]))


def test_a_letter_that_cannot_be_stored_spoils_only_its_batch(house: House) -> None:
    """The others of its group are stored and answered."""
    good = house.inbox.put("hook", Batch(events=[], dead=[dead("h/1")]))
    bad = house.inbox.put("bus", Batch(events=[], dead=[dead("t/0/1", size=1 << 70)]))
    house.inbox.tick(house.now)

    assert good.result(timeout=0) == []
    with pytest.raises(InvalidInput, match="cannot be stored"):
        bad.result(timeout=0)
    assert [row.origin for row in rows(house)] == ["hook"]


# ---------------------------------------------------------------------------------------------------- read again


def test_a_letter_that_makes_sense_now(house: House, letters: Letters) -> None:
    """Its events are stored and decided like any others, and it ends REPLAYED with their ids and who asked."""
    (letter_id,) = come_in(house, dead("t/0/1", "a", "b"))

    done = letters.replay(letter_id[-6:], who="ann", reason="the mapping is mended")
    house.settle()

    events = house.events()
    assert [(event.origin, event.source_id, event.state) for event in events] == [
        ("bus", "a", "PROCESSED"),
        ("bus", "b", "PROCESSED"),
    ]
    assert (done["state"], done["events"]) == ("REPLAYED", [event.id for event in events])
    assert len(house.runs()) >= 1
    shown = letters.letter(letter_id)
    assert (shown["state"], shown["body"]) == ("REPLAYED", None)
    assert events[0].id in shown["reason"]
    assert "mended" in shown["reason"]
    assert [(act.actor, act.verb, act.target) for act in house.acts()] == [("ann", "dead.replay", letter_id)]
    assert metric(house, "retrain_dead_letters", source="bus", kind="raw") == 0
    assert metric(house, "retrain_events_total", source="bus", outcome="stored") == 2


def test_a_letter_without_events(house: House, letters: Letters) -> None:
    """Nothing in it is also an answer."""
    (letter_id,) = come_in(house, dead("t/0/1"))

    assert letters.replay(letter_id, who="ann", reason="")["events"] == []
    assert rows(house)[0].state == "REPLAYED"


@pytest.mark.parametrize(
    "fault, said",
    [(None, "still not understood"), (KeyError("x"), "KeyError: 'x'")],
    ids=["it makes no sense", "its source has a bug"],
)
def test_a_letter_that_still_makes_no_sense(
    house: House, letters: Letters, reading: Reading, fault: Exception | None, said: str
) -> None:
    """It stays dead with the reason of now; nothing else is written, and it can be tried again."""
    (letter_id,) = come_in(house, dead("t/0/1", "a"))
    reading.taught, reading.fault = False, fault

    done = letters.replay(letter_id, who="ann", reason="")

    assert (done["state"], done["reason"], done["events"]) == ("DEAD", said, [])
    assert (rows(house)[0].error, rows(house)[0].state) == (said, "DEAD")
    assert (house.acts(), house.events(), house.path(letter_id)) == ([], [], [])
    reading.taught, reading.fault = True, None
    assert letters.replay(letter_id, who="ann", reason="")["state"] == "REPLAYED"


def test_what_cannot_be_stored_stays_dead(house: House, letters: Letters) -> None:
    """A source that makes an event no database takes has not understood it."""
    (letter_id,) = come_in(house, dead("t/0/1", body=b'{"ids": ["\\ud800"]}'))

    assert letters.replay(letter_id, who="ann", reason="")["state"] == "DEAD"
    assert house.events() == []


def test_events_that_came_meanwhile_are_known(house: House, letters: Letters) -> None:
    """The producer sent it again in a form that was understood: the replay finds it and starts nothing."""
    (letter_id,) = come_in(house, dead("t/0/1", "a"))
    answer = house.inbox.put("bus", Batch(events=[NewEvent(source="/bus", source_id="a", type="drift")]))
    house.inbox.tick(house.now)

    done = letters.replay(letter_id, who="ann", reason="")

    assert done["events"] == [answer.result(0)[0].event_id]
    assert len(house.events()) == 1


def test_a_replay_shares_the_identities_of_its_domain(make_house: MakeHouse, reading: Reading) -> None:
    """What another source of the same domain took in is the same event."""
    shared = {"type": "cron", "schedule": "0 3 * * *", "dedup_domain": "alerts"}
    house = make_house(sources={"bus": shared, "hook": shared})
    answer = house.inbox.put("hook", Batch(events=[NewEvent(source="/bus", source_id="a", type="drift")]))
    (letter_id,) = come_in(house, dead("t/0/1", "a"))

    done = letters_of(house, bus=reading).replay(letter_id, who="ann", reason="")

    assert done["events"] == [answer.result(0)[0].event_id]


@pytest.mark.parametrize("point, state, events", [("before_commit", "DEAD", 0), ("after_commit", "REPLAYED", 1)])
def test_a_crash_leaves_a_letter_or_its_events(
    house: House, reading: Reading, point: str, state: str, events: int
) -> None:
    """Never both, never neither; and whoever tries again does no harm."""
    (letter_id,) = come_in(house, dead("t/0/1", "a"))
    arm(f"transaction.act_dead_replay.{point}", crash)
    try:
        with pytest.raises(KeyboardInterrupt):
            letters_of(house, bus=reading).replay(letter_id, who="ann", reason="", key="k1")
    finally:
        disarm()
    house.restart()
    assert (rows(house)[0].state, len(house.events()), len(house.acts())) == (state, events, events)

    again = letters_of(house, bus=reading).replay(letter_id, who="ann", reason="", key="k1")

    assert (again["state"], again["duplicate"]) == ("REPLAYED", bool(events))
    assert (len(house.events()), len(house.acts())) == (1, 1)


def test_a_key_is_for_one_request(house: House, letters: Letters) -> None:
    """The same key with another request is refused."""
    first, second = come_in(house, dead("t/0/1"), dead("t/0/2"))
    letters.replay(first, who="ann", reason="", key="k1")

    with pytest.raises(Conflict, match="k1"):
        letters.replay(second, who="ann", reason="", key="k1")


@pytest.mark.parametrize(
    "letter, origin, said",
    [
        (dead("1", body=b"x", size=5_000_000), "bus", "of its 5,000,000 bytes only the first 1"),
        (dead("1", meta={"headers": "x" * 70_000}), "bus", "headers did not fit"),
        (dead("1"), "gone", "its source 'gone' does not run"),
        (dead("1"), "deaf", "source 'deaf' has no way to"),
    ],
    ids=["cut", "headers left out", "source gone", "source cannot"],
)
def test_what_cannot_be_read_again(house: House, letters: Letters, letter: DeadLetter, origin: str, said: str) -> None:
    """A conflict that says why and what to do, and nothing changes."""
    (letter_id,) = come_in(house, letter, origin=origin)

    with pytest.raises(Conflict, match=said) as error:
        letters.replay(letter_id, who="ann", reason="")

    assert error.value.hint
    assert (standing(house), house.acts()) == ([letter_id], [])


def test_what_ended_does_not_begin_again(house: House, letters: Letters) -> None:
    """A letter that was read again or given up is no longer there for either."""
    first, second = come_in(house, dead("t/0/1", "a"), dead("t/0/2", "b"))
    letters.replay(first, who="ann", reason="")
    letters.drop(second, who="ann", reason="enough")

    for letter_id, state in ((first, "REPLAYED"), (second, "DROPPED")):
        with pytest.raises(Conflict, match=state):
            letters.replay(letter_id, who="ann", reason="")
        with pytest.raises(Conflict, match=state):
            letters.drop(letter_id, who="ann", reason="again")
    assert len(house.acts()) == 2


def test_giving_up_needs_a_reason(house: House, letters: Letters) -> None:
    """It is recorded with the name; without one nothing happens."""
    (letter_id,) = come_in(house, dead("t/0/1"))

    for act in (letters.drop, letters.drop_all):
        with pytest.raises(InvalidInput, match="needs a reason"):
            act(letter_id, who="ann", reason=" ", **({} if act == letters.drop else NOWHERE))
    letters.drop(letter_id, who="ann", reason="a test of ours")

    assert rows(house)[0].reason == "dropped by ann: a test of ours"
    assert house.acts()[0].reason == "a test of ours"


# ------------------------------------------------------------------------------------------------- decided again


@pytest.fixture
def buried(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An event that cannot be decided, for as long as its id is in this list."""
    broken = ["poison"]
    real = sitting_module.event_scope

    def scope(event: Any, **more: Any) -> Any:
        if event.source_id in broken:
            raise RecursionError("a bug")
        return real(event, **more)

    monkeypatch.setattr(sitting_module, "event_scope", scope)
    house.send(id="poison", origin="bus")
    house.settle()
    assert [event.state for event in house.events()] == ["DEAD"]
    return broken


def test_an_event_is_decided_again(house: House, letters: Letters, buried: list[str]) -> None:
    """Once the reason is gone it is decided as if it had just come; while it is there it becomes dead again."""
    event = house.events()[0]
    assert metric(house, "retrain_dead_letters", source="bus", kind="event") == 1
    letters.replay(event.id, who="ann", reason="again")
    house.settle()
    assert (house.events()[0].state, house.path(event.id)) == ("DEAD", ["DEAD", "PENDING", "DEAD"])
    buried.clear()

    done = letters.replay(event.id[-6:], who="ann", reason="mended")
    assert (done["kind"], done["state"]) == ("event", "PENDING")
    house.settle()

    assert (house.events()[0].state, house.events()[0].error) == ("PROCESSED", None)
    assert house.causes(house.run()) == ["drift"]
    assert metric(house, "retrain_dead_letters", source="bus", kind="event") == 0
    assert letters.letters(source=None, state="all", limit=9, before=None)["items"] == []
    with pytest.raises(Conflict, match="PROCESSED, not DEAD"):
        letters.replay(event.id, who="ann", reason="")


def test_an_event_is_given_up(house: House, letters: Letters, buried: list[str]) -> None:
    """It is never decided, keeps its error, and every view says so."""
    event = house.events()[0]

    letters.drop(event.id, who="ann", reason="not needed")
    house.settle()

    views = Views(house.store)
    assert house.events()[0].state == "PROCESSED"
    assert house.runs() == []
    assert views.events(state="DEAD")["items"] == []
    (listed,) = letters.letters(source="bus", state="dropped", limit=9, before=None)["items"]
    assert (listed["id"], listed["state"]) == (event.id, "DROPPED")
    from controller.api.why import why

    account = why(views, event.id, {})
    assert "could not be decided" in account["summary"]
    assert "ann: not needed" in account["summary"]


# --------------------------------------------------------------------------------------------------------- many

#: The rest of a request for many.
NOWHERE: dict[str, Any] = {"after": None, "until": None, "limit": 10}


def test_all_of_a_source(house: House, letters: Letters, reading: Reading, buried: list[str]) -> None:
    """Both kinds, the oldest first, a part at a time; what stays dead is named, other sources are left alone."""
    come_in(house, dead("t/0/1", "a"), dead("t/0/2", "b"), dead("t/0/3", body=b"no json"))
    come_in(house, dead("h/1"), origin="gone")
    buried.clear()
    ask = {"who": "ann", "reason": "mended"}

    first = letters.replay_all("bus", after=None, until=None, limit=2, **ask)
    come_in(house, dead("t/0/9", "later"))
    rest = letters.replay_all("bus", after=first["next"], until=first["until"], limit=10, **ask)

    assert (first["done"], first["failed"], rest["done"], rest["next"]) == (2, [], 1, None)
    (failed,) = rest["failed"]
    assert "JSONDecodeError" in failed["reason"]
    assert [row.place for row in rows(house) if row.state == "DEAD"] == ["t/0/3", "h/1", "t/0/9"]
    house.settle()
    assert {event.source_id for event in house.events()} == {"poison", "a", "b"}


def test_of_every_source(house: House, letters: Letters) -> None:
    """Without a name all are meant; one whose source is gone stays, with that reason."""
    come_in(house, dead("h/1"), origin="gone")
    come_in(house, dead("t/0/1", "a"))

    done = letters.replay_all(None, who="ann", reason="", **NOWHERE)

    assert done["done"] == 1
    assert "does not run" in done["failed"][0]["reason"]


def test_all_of_a_source_are_given_up(house: House, letters: Letters, buried: list[str]) -> None:
    """In one transaction and one act for each part, both kinds."""
    come_in(house, *(dead(f"t/0/{n}") for n in range(4)))
    come_in(house, dead("h/1"), origin="hook")

    first = letters.drop_all("bus", after=None, until=None, limit=3, who="ann", reason="a test of theirs")
    rest = letters.drop_all("bus", after=first["next"], until=first["until"], limit=3, who="ann", reason="the same")

    assert (first["done"], rest["done"], rest["next"]) == (3, 2, None)
    assert [row.place for row in rows(house) if row.state == "DEAD"] == ["h/1"]
    assert house.events()[0].state == "PROCESSED"
    assert [(act.verb, act.target, act.details["count"]) for act in house.acts()] == [
        ("dead.drop", "bus", 3), ("dead.drop", "bus", 2),
    ]  # fmt: skip
    assert metric(house, "retrain_dead_letters", source="bus", kind="raw") == 0


def test_the_gauges_begin_with_what_there_is(house: House, buried: list[str]) -> None:
    """A daemon that starts counts what stood before."""
    come_in(house, dead("t/0/1"))
    house.restart()

    letters_of(house).measure()

    assert metric(house, "retrain_dead_letters", source="bus", kind="raw") == 1
    assert metric(house, "retrain_dead_letters", source="bus", kind="event") == 1
