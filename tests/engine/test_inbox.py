"""Events become durable: group commit, duplicates, and what happens when the store will not."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import LedgerEntry, NewEvent
from controller.crash import arm, disarm
from controller.engine import inbox as inbox_module
from controller.errors import Conflict, InvalidInput, StoreBusy
from controller.ports import Batch
from tests.engine.house import House


def batch(*ids: str, ledger: tuple[LedgerEntry, ...] = (), **attributes: Any) -> Batch:
    events = [NewEvent(source="/test", source_id=each, type="drift", **attributes) for each in ids]
    return Batch(events=events, ledger=ledger)


def test_batches_that_wait_are_one_transaction(house: House) -> None:
    """All that waits is stored in one commit, and everyone is answered after it."""
    answers = [house.inbox.put("api", batch(f"{number}a", f"{number}b")) for number in range(5)]
    assert not any(answer.done() for answer in answers)
    commits: list[str] = []
    arm("transaction.inbox.after_commit", commits.append)
    try:
        ticked = house.inbox.tick(house.now)
    finally:
        disarm()

    assert ticked.worked == 5
    assert len(commits) == 1
    assert [len(answer.result(timeout=0)) for answer in answers] == [2] * 5
    assert len(house.events()) == 10


def test_a_group_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction takes so many events and no more; the others go with the next."""
    monkeypatch.setattr(inbox_module, "GROUP", 3)
    answers = [house.inbox.put("api", batch(f"{n}a", f"{n}b")) for n in range(3)]

    house.inbox.tick(house.now)

    assert [answer.done() for answer in answers] == [True, False, False]
    house.inbox.tick(house.now)
    house.inbox.tick(house.now)
    assert all(answer.done() for answer in answers)


def test_a_redelivery_is_a_duplicate(house: House) -> None:
    """The same identity is one event, within a batch, a group, or a later one; another origin is another event."""
    first, second, other = (
        house.inbox.put("api", batch("1", "1")),
        house.inbox.put("api", batch("1")),
        house.inbox.put("bus", batch("1")),
    )
    house.inbox.tick(house.now)
    later = house.inbox.put("api", batch("1"))
    house.inbox.tick(house.now)

    one, again = first.result(0)
    assert (one.duplicate, again.duplicate) == (False, True)
    assert again.event_id == one.event_id
    assert second.result(0)[0] == later.result(0)[0] == again
    assert not other.result(0)[0].duplicate
    assert len(house.events()) == 2


def test_events_and_ledger_are_stored_together(house: House) -> None:
    """What a source remembers is written in the transaction that stores its events."""
    house.inbox.put("landing", batch("1", ledger=(LedgerEntry(key="k", value={"generation": 1}),)))

    house.inbox.tick(house.now)

    with house.store.reading() as tx:
        assert tx.events.recall("landing", "") == {"k": {"generation": 1}}


def test_a_busy_store_refuses_everyone(house: House) -> None:
    """Nothing is written, each producer hears that it may try again, and the complaint goes when it could."""

    def busy(_: str) -> None:
        raise StoreBusy("database or disk is full")

    answers = [house.inbox.put("api", batch(str(n))) for n in range(3)]
    arm("transaction.inbox.before_commit", busy)
    try:
        house.inbox.tick(house.now)
    finally:
        disarm()

    for answer in answers:
        with pytest.raises(StoreBusy, match="full"):
            answer.result(timeout=0)
    assert house.events() == []
    assert house.runtime.complaints.all() == ["store: database or disk is full"]
    house.inbox.tick(house.now)
    house.send()
    assert house.runtime.complaints.all() == []


def test_G15_a_store_that_refused_is_asked_by_the_inbox_alone(house: House) -> None:
    """Until a write of its own succeeds producers are refused at once, with the reason, and nothing of theirs is tried (DB-06, DB-07)."""
    tried: list[str] = []

    def hangs(name: str) -> None:
        tried.append(name)
        raise StoreBusy("it has not answered for 12 s", code="store.slow")

    house.inbox.put("api", batch("1"))
    late = house.inbox.put("api", batch("2"))
    arm("transaction.inbox.before_commit", hangs)
    try:
        house.inbox.tick(house.now)
        with pytest.raises(StoreBusy, match="12 s") as refused:
            house.inbox.put("api", batch("3"))
    finally:
        disarm()

    assert tried == ["transaction.inbox.before_commit"]
    assert refused.value.code == "store.slow"
    assert late.done()
    assert house.inbox.waiting == 0
    [complaint] = house.runtime.complaints.standing()
    assert (complaint.code, complaint.since) == ("store.slow", house.now)
    house.inbox.tick(house.now)
    assert house.inbox.put("api", batch("3")) is not None


@pytest.mark.parametrize("deadlocks", [1, inbox_module.CONTENDED])
def test_G15_a_deadlock_is_tried_again_and_nobody_hears_of_it(house: House, deadlocks: int) -> None:
    """The same group is stored by a later attempt, a moment of chance afterwards (DB-22)."""
    answer = house.inbox.put("api", batch("1"))
    waits = []
    for _ in range(deadlocks):
        arm("transaction.inbox.before_commit", contended)
        try:
            ticked = house.inbox.tick(house.now)
        finally:
            disarm()
        assert ticked.next_at is not None
        waits.append((ticked.next_at - house.now).total_seconds())

    house.inbox.tick(house.now)

    assert len(answer.result(timeout=0)) == 1
    assert all(0 < wait <= 0.2 for wait in waits)
    assert house.runtime.complaints.all() == []


def test_G15_deadlocks_without_end_are_told(house: House) -> None:
    """After a bounded number of attempts producers are told to come again (DB-22)."""
    answer = house.inbox.put("api", batch("1"))
    for _ in range(inbox_module.CONTENDED + 1):
        arm("transaction.inbox.before_commit", contended)
        try:
            house.inbox.tick(house.now)
        finally:
            disarm()

    with pytest.raises(StoreBusy, match="deadlock"):
        answer.result(timeout=0)
    assert house.runtime.complaints.standing()[0].code == "store.contended"


def contended(_: str) -> None:
    raise StoreBusy("deadlock detected", code="store.contended")


def test_G15_what_was_withdrawn_is_not_stored(house: House) -> None:
    """Whoever waits no longer takes its batch back, and the room it took is free again."""
    withdrawn = house.inbox.put("api", batch("1", "2"))
    kept = house.inbox.put("api", batch("3"))

    assert withdrawn.cancel()
    house.inbox.tick(house.now)

    assert len(kept.result(timeout=0)) == 1
    assert [event.source_id for event in house.events()] == ["3"]
    assert house.inbox.waiting == 0


def test_the_complaint_goes_without_new_events(house: House) -> None:
    """A store that is well again is noticed, also when no producer comes back."""

    def busy(_: str) -> None:
        raise StoreBusy("database or disk is full")

    house.inbox.put("api", batch("1"))
    arm("transaction.inbox.before_commit", busy)
    try:
        ticked = house.inbox.tick(house.now)
    finally:
        disarm()
    assert ticked.next_at is not None

    house.clock.set_now(ticked.next_at)
    house.inbox.tick(house.now)

    assert house.runtime.complaints.all() == []


def test_too_many_waiting_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot wait is refused at once; an empty queue takes a batch of any size."""
    monkeypatch.setattr(inbox_module, "WAITING", 3)
    taken = house.inbox.put("api", batch("1", "2", "3", "4"))

    with pytest.raises(StoreBusy, match="wait to be stored"):
        house.inbox.put("api", batch("5"))

    house.inbox.tick(house.now)
    assert len(taken.result(0)) == 4
    assert house.inbox.put("api", batch("5")) is not None


def test_what_the_store_cannot_hold_spoils_only_itself(house: House) -> None:
    """A batch that no database takes is answered with that reason; the others of its group are stored."""
    good = house.inbox.put("api", batch("1"))
    bad = house.inbox.put("api", batch("2", data={"text": "\ud800"}))
    fine = house.inbox.put("api", batch("3"))

    house.inbox.tick(house.now)

    assert not good.result(timeout=0)[0].duplicate
    assert not fine.result(timeout=0)[0].duplicate
    with pytest.raises(InvalidInput, match="cannot be stored"):
        bad.result(timeout=0)
    assert [event.source_id for event in house.events()] == ["1", "3"]


def test_intake_needs_no_term(house: House) -> None:
    """Events are taken in also by one who does not lead."""
    house.store.lead(owner="another", host="test", pid=2)
    house.store.term = None

    assert not house.send().duplicate


def test_G05_what_a_former_leader_still_reads_is_not_stored(house: House) -> None:
    """Its place in what it reads would be written over the present leader's; who is not bound to a term is stored all the same."""
    former = house.store.term
    assert former is not None
    mine = house.inbox.put(
        "bucket", batch("new", ledger=(LedgerEntry(key="place", value="5"),)), term=former.number + 1
    )
    stale = house.inbox.put("bucket", batch("old", ledger=(LedgerEntry(key="place", value="3"),)), term=former.number)
    pushed = house.inbox.put("api", batch("pushed"))
    house.store.lead(owner="another", host="test", pid=2)
    house.inbox.tick(house.now)

    with pytest.raises(Conflict, match="another replica leads now"):
        stale.result(timeout=0)
    assert [event.source_id for event in house.events()] == ["new", "pushed"]
    assert not mine.result(timeout=0)[0].duplicate
    assert not pushed.result(timeout=0)[0].duplicate
    with house.store.reading() as tx:
        assert tx.events.recall("bucket", "place") == {"place": "5"}
