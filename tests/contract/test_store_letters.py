"""How dead letters are kept, dropped, listed and found, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.model import MAX_DEAD_BODY, DeadLetter
from controller.errors import Conflict, NotFound
from controller.store import Store, letters, schema
from controller.store.letter_views import LetterViews, find_letter, newest_id, standing_ids
from controller.store.letters import LEFT_OUT, MAX_META, Buried, Letter
from controller.testing import ManualClock
from tests.factories import NOON, make_ids, make_new_event, minutes
from tests.statements import listen

POISON = b'\x00\xff{"a": "\x00\xed\xa0\x80"'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def make_store(database_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(seed: int = 0) -> Store:
        made.append(Store.open(database_url, base=tmp_path, clock=clock, ids=make_ids(clock, seed)))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    store = make_store()
    store.upgrade()
    store.lead(owner="o", host="h", pid=1)
    return store


def make_letter(place: str = "t/0/1", body: bytes | None = POISON, **fields: Any) -> DeadLetter:
    size = fields.pop("size", len(body or b""))
    return DeadLetter(place=place, reason=fields.pop("reason", "not JSON"), body=body, size=size, **fields)


def bury(store: Store, *letters: DeadLetter, origin: str = "bus", keep: int = 100, max_bytes: int = 1 << 30) -> Buried:
    with store.transaction("bury") as tx:
        return tx.letters.bury(origin, letters, keep=keep, max_bytes=max_bytes)


def get(store: Store, letter_id: str) -> Letter:
    with store.reading() as tx:
        letter = tx.letters.get(letter_id)
    assert letter is not None
    return letter


def states(store: Store) -> dict[str, tuple[str, str, int | None]]:
    """State, cause and length of the body that is kept, by place."""
    table = schema.dead_letter
    with store.reading() as tx:
        rows = tx.execute(sa.select(table)).all()
    return {row.place: (row.state, row.cause, None if row.body is None else len(row.body)) for row in rows}


def totals(store: Store, source: str = "bus") -> tuple[int, int, int]:
    with store.reading() as tx:
        total = tx.letters.standing()[source]
    return total.standing, total.bytes, total.overflowed


# -------------------------------------------------------------------------------------------------- what came in


def test_a_letter_comes_back_as_it_came(store: Store) -> None:
    """Any bytes, and what its source noted beside them."""
    came = make_letter(reason="bad\x00 and \ud800", meta={"headers": [["a", "b\x00\udcff"]], "key": None, "n": 1.5})

    buried = bury(store, came)

    (letter_id, told) = buried.new[0]
    found = get(store, letter_id)
    assert told == came
    assert (found.body, found.size, found.whole) == (POISON, len(POISON), True)
    assert (found.state, found.origin, found.place, found.received_at) == ("DEAD", "bus", "t/0/1", NOON)
    assert found.error == "bad\\x00 and \\ud800"
    assert found.meta == {"headers": [["a", "b\x00\\udcff"]], "key": None, "n": 1.5}
    assert found.as_it_came().meta == found.meta


def test_a_redelivery_writes_nothing(store: Store) -> None:
    """Origin and place are the identity: within a batch, later, and after it was dealt with."""
    first = bury(store, make_letter(), make_letter(body=b"other"), make_letter("t/0/2"))
    again = bury(store, make_letter(reason="another reason"))
    other = bury(store, make_letter(), origin="hook")
    with store.transaction("drop") as tx:
        tx.letters.drop(get(store, first.new[0][0]), reason="enough", actor="ann")
    late = bury(store, make_letter())

    assert [len(each.new) for each in (first, again, other, late)] == [2, 0, 1, 0]
    assert [each.known for each in (first, again, other, late)] == [1, 1, 0, 1]
    assert states(store)["t/0/1"] in (("DROPPED", "dropped", None), ("DEAD", "not_understood", len(POISON)))
    assert get(store, first.new[0][0]).state == "DROPPED"


def test_equal_digests_are_told_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places whose digests are the same are two letters."""
    real = letters._identity_of
    monkeypatch.setattr(
        letters, "_identity_of", lambda origin, place, salt: salt if salt < 2 else real(origin, place, salt)
    )

    assert len(bury(store, make_letter("a"), make_letter("b")).new) == 2
    assert len(bury(store, make_letter("c"), make_letter("a")).new) == 1
    assert set(states(store)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "body, size, kept, whole",
    [
        (None, 0, 0, True),
        (b"", 0, 0, True),
        (None, 5 << 20, 0, False),
        (b"x" * (MAX_DEAD_BODY + 7), MAX_DEAD_BODY + 7, MAX_DEAD_BODY, False),
        (b"x" * 10, 3 << 20, 10, False),
        (b"x" * 10, 0, 10, True),
    ],
    ids=["none", "empty", "too large to keep", "cut here", "cut by its source", "a size that is wrong"],
)
def test_a_body_is_cut_and_its_length_kept(store: Store, body: bytes | None, size: int, kept: int, whole: bool) -> None:
    """What was cut cannot be read again, and everyone can see that."""
    found = get(store, bury(store, make_letter(body=body, size=size)).new[0][0])

    assert len(found.body or b"") == kept
    assert found.size == max(size, len(body or b""))
    assert found.whole is whole


def test_what_is_noted_beside_is_bounded(store: Store) -> None:
    """The largest entries are left out, by name; what is no JSON is kept as its text."""
    meta = {"key": "k", "huge": "x" * (MAX_META + 1), "odd": float("nan"), "bytes": b"b", "h\ud800": 1}

    found = get(store, bury(store, make_letter(meta=meta)).new[0][0])

    assert found.meta == {"key": "k", "odd": "nan", "bytes": "b'b'", "h\\ud800": 1, LEFT_OUT: {"huge": MAX_META + 12}}
    assert not found.whole


# --------------------------------------------------------------------------------------------------------- quota


def test_the_oldest_go_when_there_are_too_many(store: Store) -> None:
    """Their bodies go, their rows stay with a line of history; other sources keep theirs."""
    bury(store, make_letter("x"), origin="hook", keep=3)
    first = bury(store, *(make_letter(f"{n}") for n in range(3)), keep=3)
    second = bury(store, make_letter("3"), make_letter("4"), keep=3)

    assert (first.dropped, first.standing) == (0, 3)
    assert (second.dropped, second.standing) == (2, 3)
    shown = states(store)
    assert [shown[str(n)][0] for n in range(5)] == ["DROPPED", "DROPPED", "DEAD", "DEAD", "DEAD"]
    assert shown["0"] == ("DROPPED", "quota", None)
    assert shown["x"][0] == "DEAD"
    assert totals(store) == (3, 3 * len(POISON), 2)
    history = LetterViews(store).letter(first.new[0][0])["history"]
    assert [(row["target"], row["cause"]) for row in history] == [("DROPPED", "quota")]


def test_the_oldest_go_when_they_are_too_large(store: Store) -> None:
    """Bytes count as well; one that is larger than the quota does not even stand itself."""
    bury(store, *(make_letter(f"{n}", b"x" * 100) for n in range(5)), max_bytes=1000)
    buried = bury(store, make_letter("large", b"x" * 700), max_bytes=1000)
    assert (buried.dropped, totals(store)[:2]) == (2, (4, 1000))

    buried = bury(store, make_letter("huge", b"x" * 1001), max_bytes=1000)

    assert buried.dropped == 5
    assert totals(store) == (0, 0, 7)


def test_a_flood_keeps_the_newest(store: Store) -> None:
    """More in one batch than are kept at all."""
    buried = bury(store, *(make_letter(f"{n:04}", b"x") for n in range(1200)), keep=10)

    assert (len(buried.new), buried.dropped, buried.standing) == (1200, 1190, 10)
    assert [place for place, row in sorted(states(store).items()) if row[0] == "DEAD"] == [
        f"{n:04}" for n in range(1190, 1200)
    ]


def test_a_quota_of_nothing_keeps_nothing(store: Store) -> None:
    """And a smaller quota counts from the next letter on."""
    bury(store, make_letter("1"), make_letter("2"))

    assert bury(store, make_letter("3"), keep=0).standing == 0
    assert {row[0] for row in states(store).values()} == {"DROPPED"}


# ----------------------------------------------------------------------------------------------- what people do


@pytest.mark.parametrize("verb, state", [("replayed", "REPLAYED"), ("drop", "DROPPED")])
def test_a_letter_ends_once(store: Store, verb: str, state: str) -> None:
    """Its body goes, the totals move, and a second time is a conflict that changes nothing."""
    letter = get(store, bury(store, make_letter(), make_letter("t/0/2")).new[0][0])

    with store.transaction("end") as tx:
        assert getattr(tx.letters, verb)(letter, reason="because", actor="ann") == 1
    with pytest.raises(Conflict, match="no longer DEAD"), store.transaction("end") as tx:
        getattr(tx.letters, verb)(letter, reason="because", actor="bob")

    found = get(store, letter.id)
    assert (found.state, found.body, found.size, found.error) == (state, None, len(POISON), "not JSON")
    assert found.finished_at == NOON
    assert totals(store) == (1, len(POISON), 0)


def test_two_at_once_end_it_once(store: Store, make_store: Callable[..., Store]) -> None:
    """Two processes that replay the same letter: one does, the other hears of it."""
    letter = get(store, bury(store, make_letter()).new[0][0])
    answers: list[str] = []

    def replay(seed: int) -> None:
        try:
            with make_store(seed).transaction("replay", fenced=False) as tx:
                tx.letters.replayed(letter, reason="", actor=str(seed))
            answers.append("done")
        except Conflict:
            answers.append("conflict")

    threads = [threading.Thread(target=replay, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["conflict", "done"]
    assert totals(store)[0] == 0


def test_an_event_that_could_not_be_decided(store: Store) -> None:
    """It goes back to be decided without its error, or is given up with it; only from DEAD."""
    with store.transaction("add") as tx:
        ids = [receipt.event_id for receipt in tx.events.add("bus", [make_new_event(n) for n in range(3)])]
        for event_id in ids[:2]:
            tx.events.mark_dead(event_id, reason="bad")
        assert tx.letters.buried_events() == {"bus": 2}
    with store.transaction("act") as tx:
        tx.letters.replay_event(ids[0], reason="again", actor="ann")
        tx.letters.drop_event(ids[1], reason="enough", actor="ann")
    for verb in ("replay_event", "drop_event"):
        with pytest.raises(Conflict), store.transaction("act") as tx:
            getattr(tx.letters, verb)(ids[2], reason="", actor="ann")

    with store.reading() as tx:
        events = [tx.events.get(event_id) for event_id in ids]
        assert [(e.state, e.error) for e in events if e] == [("PENDING", None), ("PROCESSED", "bad"), ("PENDING", None)]
        assert tx.letters.buried_events() == {}


# ------------------------------------------------------------------------------------------------------- looking


@pytest.fixture
def both(store: Store, clock: ManualClock) -> list[str]:
    """Letters of both kinds and two sources, a minute apart: raw, event, raw (hook), event (hook), raw."""
    made: list[str] = []
    for number, (kind, origin) in enumerate(
        [("raw", "bus"), ("event", "bus"), ("raw", "hook"), ("event", "hook"), ("raw", "bus")]
    ):
        if kind == "raw":
            made.append(bury(store, make_letter(f"t/{number}"), origin=origin).new[0][0])
        else:
            with store.transaction("add") as tx:
                made.append(tx.events.add(origin, [make_new_event(number, data={"token": "s3cret"})])[0].event_id)
                tx.events.mark_dead(made[-1], reason="cannot be decided")
        clock.advance(minutes(1))
    return made


def test_both_kinds_are_in_one_list(store: Store, both: list[str]) -> None:
    """The newest first, page by page, of one source or of all."""
    views = LetterViews(store)
    pages, before = [], None
    while True:
        page = views.letters(limit=2, before=before)
        pages.append([item["id"] for item in page["items"]])
        if (before := page["next"]) is None:
            break

    assert pages == [both[4:2:-1], both[2:0:-1], both[:1]]
    assert [item["id"] for item in views.letters(source="hook")["items"]] == [both[3], both[2]]
    newest, event, *_ = views.letters()["items"]
    assert (newest["kind"], newest["place"], newest["size"], newest["error"]) == ("raw", "t/4", len(POISON), "not JSON")
    assert (event["kind"], event["type"], event["state"]) == ("event", make_new_event().type, "DEAD")


def test_what_was_dealt_with_is_listed_too(store: Store, both: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By state; a search that stops before it is through says where, and nothing is listed twice or left out."""
    with store.transaction("act") as tx:
        tx.letters.replayed(get(store, both[0]), reason="", actor="ann")
        tx.letters.drop(get(store, both[2]), reason="", actor="ann")
        tx.letters.drop_event(both[3], reason="", actor="ann")
    views = LetterViews(store)

    def listed(state: Any, **more: Any) -> list[str]:
        return [item["id"] for item in views.letters(state=state, **more)["items"]]

    assert listed("dead") == [both[4], both[1]]
    assert listed("replayed") == [both[0]]
    assert listed("dropped") == [both[3], both[2]]
    assert listed("all") == both[::-1]
    assert views.letters(state="dropped")["items"][0]["state"] == "DROPPED"
    monkeypatch.setattr("controller.store.letter_views.WINDOW", 1)
    found, before = [], None
    for _ in range(10):
        page = views.letters(state="all", source="bus", limit=50, before=before)
        found += [item["id"] for item in page["items"]]
        if (before := page["next"]) is None:
            break
    assert found == [both[4], both[1], both[0]]


def test_one_letter_is_shown_without_its_secrets(store: Store, both: list[str]) -> None:
    """Everything there is of it; what looks secret only in the bytes."""
    views = LetterViews(store)
    secret = bury(
        store,
        make_letter("h", b'{"password": "s3cret"', meta={"headers": [["authorization", "Bearer s3cret"]], "key": "k"}),
    ).new[0][0]

    shown, event = views.letter(secret), views.letter(both[1])

    assert "s3cret" not in str(shown) + str(event)
    assert shown["body"] == '{"password": "********"'
    assert shown["meta"]["key"] == "k"
    assert views.body(secret) == (secret, b'{"password": "s3cret"')
    assert views.body(both[1]) == (both[1], b'{"token":"s3cret"}')
    assert (event["kind"], event["error"], event["history"][0]["target"]) == ("event", "cannot be decided", "DEAD")


def test_names(store: Store, both: list[str]) -> None:
    """An id or the end of one; an event only when it is, or was, dead."""
    with store.transaction("add") as tx:
        alive = tx.events.add("bus", [make_new_event(99)])[0].event_id
    with store.reading() as tx:
        assert [find_letter(tx, name)[1] for name in (both[0], both[0][-6:].upper(), both[1][-6:])] == [
            both[0], both[0], both[1],
        ]  # fmt: skip
        with pytest.raises(NotFound, match="no dead letter is called 'dea-nothing'"):
            find_letter(tx, "dea-nothing")
        with pytest.raises(NotFound):
            find_letter(tx, alive[-6:])
        with pytest.raises(NotFound):
            find_letter(tx, both[0][-3:])
    with pytest.raises(NotFound, match="never was a dead letter"):
        LetterViews(store).letter(alive)


def test_a_name_of_several(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several are never chosen between."""
    monkeypatch.setattr("controller.store.letter_views.SHORTEST", 0)
    bury(store, make_letter("1"), make_letter("2"))

    with store.reading() as tx, pytest.raises(Conflict, match="several dead letters"):
        find_letter(tx, "")


def test_a_body_that_is_gone(store: Store) -> None:
    """It was too large, or the letter was dealt with: a conflict that says which."""
    large = bury(store, make_letter("1", None, size=5 << 20)).new[0][0]
    gone = bury(store, make_letter("2")).new[0][0]
    none = bury(store, make_letter("3", None)).new[0][0]
    with store.transaction("drop") as tx:
        tx.letters.drop(get(store, gone), reason="", actor="ann")
    views = LetterViews(store)

    with pytest.raises(Conflict, match="too large"):
        views.body(large)
    with pytest.raises(Conflict, match="DROPPED"):
        views.body(gone)
    assert views.body(none) == (none, b"")


def test_what_stands_oldest_first(store: Store, both: list[str]) -> None:
    """For those who go through all of it: a part at a time, up to the newest there was."""
    with store.reading() as tx:
        until = newest_id(tx, None)
        assert until == both[4]
        assert standing_ids(tx, None, after=None, until=until, limit=3) == both[:3]
        assert standing_ids(tx, None, after=both[2], until=until, limit=3) == both[3:]
        assert standing_ids(tx, None, after=None, until=both[1], limit=9) == both[:2]
        assert standing_ids(tx, "hook", after=None, until=until, limit=9) == both[2:4]
        assert newest_id(tx, "hook") == both[3]
        assert newest_id(tx, "nobody") is None


def test_how_many_stand(store: Store, both: list[str]) -> None:
    """By source, both kinds, and what the quota dropped."""
    bury(store, make_letter("more"), origin="bus", keep=1)

    shown = {row["source"]: (row["raw"], row["events"], row["overflowed"]) for row in LetterViews(store).standing()}
    assert shown == {"bus": (1, 1, 2), "hook": (1, 1, 0)}


@pytest.mark.parametrize(
    "question",
    [
        lambda tx: tx.letters._drop_oldest("bus", 1, 0),
        lambda tx: standing_ids(tx, "bus", after=None, until="dea-z", limit=10),
        lambda tx: tx.letters.buried_events(),
    ],
    ids=["the oldest of a source", "what stands", "buried events"],
)
def test_what_is_asked_often_uses_an_index(store: Store, question: Callable[[Any], Any]) -> None:
    """However many letters were dealt with, those that stand are found by an index."""
    if store.dialect != "sqlite":
        pytest.skip("SQLite's planner speaks for both: the indexes are the same")
    seen: list[tuple[str, Any]] = []
    listen(store, lambda *a: seen.append((a[2], a[3])))
    with store.transaction("ask") as tx:
        question(tx)
        selects = [
            (text, values)
            for text, values in seen
            if text.startswith("SELECT") and "dead_letter_total" not in text and "leader" not in text
        ]
        plans = [tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all() for text, values in selects]

    details = [row[-1] for plan in plans for row in plan]
    assert selects
    assert not [detail for detail in details if detail.startswith("SCAN") and "INDEX" not in detail], details
