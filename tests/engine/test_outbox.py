"""Messages to people: at least once, and none holds up another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.model import DeadLetter, Notification
from controller.engine.notices import Notices
from controller.engine.outbox import Outbox, SendThreads
from controller.errors import Conflict, GiveUp, NotFound, RetryLater, StoreBusy
from controller.ports import Batch
from controller.store import schema
from controller.store.notice_views import NoticeViews
from controller.testing import SeededRandom, wait_until
from tests.engine.house import House


def write(house: House, count: int = 1) -> None:
    with house.store.transaction("write") as tx:
        for number in range(count):
            tx.outbox.add(["scripted"], kind=f"kind-{number}", title="hello", model="churn")


def states(house: House) -> list[str]:
    table = schema.notification
    with house.store.reading() as tx:
        return [row.state for row in tx.execute(sa.select(table.c.state).order_by(table.c.id))]


def test_sent(house: House) -> None:
    """Each message is delivered once, in order."""
    write(house, 3)
    house.settle()

    assert house.mail() == ["kind-0", "kind-1", "kind-2"]
    assert states(house) == ["SENT"] * 3


@pytest.mark.parametrize("error", [RetryLater("503"), OSError("no route"), KeyError("a bug")], ids=repr)
def test_tried_again_with_the_same_id(house: House, error: Exception) -> None:
    """A refused message waits for its backoff, while the others go."""
    house.world.mail_script = [error]
    write(house, 2)
    house.settle()
    assert house.mail() == ["kind-1"]
    assert states(house) == ["PENDING", "SENT"]

    house.advance(60)

    assert house.mail() == ["kind-1", "kind-0"]
    assert states(house) == ["SENT", "SENT"]


def test_given_up(house: House) -> None:
    """What the notifier will never take is DEAD at once."""
    house.world.mail_script = [GiveUp("410 gone")]
    write(house)
    house.settle()

    assert states(house) == ["DEAD"]


def test_dead_after_a_day(house: House) -> None:
    """What nobody took for 24 hours is DEAD."""
    house.world.mail_script = [RetryLater("503")] * 1000
    write(house)
    for _ in range(24 * 12 + 2):
        house.advance(timedelta(minutes=5))

    assert states(house) == ["DEAD"]
    assert house.mail() == []


# ------------------------------------------------------------------------------------------- together


def together(make_house: Callable[..., House], **group: str) -> House:
    """Return a house whose model tells a channel that gathers."""
    page = {"type": "scripted", "group": {"wait": "30s", "repeat": "4h", **group}}
    return make_house(model={"notify": ["page"]}, notifiers={"page": page})


def tell(
    house: House, kind: str = "failed", *, channel: str = "page", model: str | None = "churn", **more: Any
) -> None:
    with house.store.transaction("write") as tx:
        tx.outbox.add([channel], kind=kind, title=more.pop("title", f"{model}: {kind}"), model=model, **more)
    house.runtime.bells.ring("outbox")


def sent(house: House) -> list[tuple[str, int]]:
    """The titles of what was delivered, and for how many messages each stands."""
    return [(message.title, max(len(message.messages), 1)) for message in house.world.mail]


def rows(house: House) -> list[Any]:
    with house.store.reading() as tx:
        return list(tx.execute(sa.select(schema.notification).order_by(schema.notification.c.id)))


def test_messages_that_wait_together_become_one(make_house: Callable[..., House]) -> None:
    """Of one channel, kind and model; the first waits for the others, and what is sent lists them all, under its id."""
    house = together(make_house)
    tell(house, title="one")
    house.settle()
    house.advance(20)
    tell(house, title="two")
    tell(house, model="fraud", title="another model")
    tell(house, "promoted", title="another kind")
    house.advance(9)
    assert house.mail() == []

    house.advance(1)
    assert sent(house) == [("2 × churn: failed", 2)]
    house.advance(20)

    assert sent(house)[1:] == [("another model", 1), ("another kind", 1)]
    first = house.world.mail[0]
    assert first.id == rows(house)[0].id
    assert [message.title for message in first.messages] == ["one", "two"]
    assert states(house) == ["SENT"] * 4


def test_after_a_message_the_next_come_together(make_house: Callable[..., House]) -> None:
    """Those of the next four hours are one message at the end of them, and nothing is looked at meanwhile."""
    house = together(make_house)
    tell(house)
    house.settle()
    house.advance(30)
    for _ in range(5):
        house.advance(timedelta(minutes=30))
        tell(house)
        house.settle()
    assert sent(house) == [("churn: failed", 1)]

    house.advance(timedelta(hours=1, minutes=29))
    assert len(house.mail()) == 1
    house.advance(60)

    assert sent(house)[1:] == [("5 × churn: failed", 5)]


@pytest.mark.parametrize("kind", ["approval_required", "breaker_open"])
def test_what_needs_a_person_is_never_delayed(make_house: Callable[..., House], kind: str) -> None:
    """Each at once, each by itself."""
    house = together(make_house)
    for _ in range(3):
        tell(house, kind)
    house.settle()

    assert house.mail() == [kind] * 3
    assert all(not message.messages for message in house.world.mail)


def test_a_group_keeps_its_members_and_its_id(make_house: Callable[..., House]) -> None:
    """Through refused attempts, restarts and newcomers: a receiver that knows the id knows the members."""
    house = together(make_house, repeat="0s")
    house.world.mail_script = [RetryLater("503"), RetryLater("503")]
    tell(house, title="one")
    tell(house, title="two")
    house.settle()
    house.advance(30)
    assert house.mail() == []
    house.restart()
    tell(house, title="too late")
    house.settle()
    house.advance(60)
    house.advance(60)

    delivered = {message.id: [each.title for each in message.messages or [message]] for message in house.world.mail}
    first, _, last = rows(house)
    assert delivered == {first.id: ["one", "two"], last.id: ["too late"]}


def test_a_daemon_that_dies_after_the_send_sends_it_again_under_its_id(make_house: Callable[..., House]) -> None:
    """What was not written as sent is sent again: the same members, the same id, and nothing is lost."""
    house = together(make_house)
    tell(house, title="one")
    tell(house, title="two")
    house.settle()
    real, house.world.mail = house.world.mail, Dying()
    with pytest.raises(Killed):
        house.advance(30)
    died, house.world.mail = house.world.mail, real
    assert states(house) == ["PENDING"] * 2
    house.restart()
    house.settle()

    assert [message.id for message in died] == [message.id for message in house.world.mail]
    assert [len(message.messages) for message in house.world.mail] == [2]
    assert states(house) == ["SENT"] * 2


class Killed(BaseException):
    """The process is gone."""


class Dying(list[Notification]):
    """A far side after whose first message the daemon dies."""

    def append(self, message: Notification) -> None:
        super().append(message)
        raise Killed


# -------------------------------------------------------------------------------------------- channels


def test_a_channel_takes_only_what_it_wants(make_house: Callable[..., House]) -> None:
    """`only` is that of the configuration in force; what it leaves out is skipped, with the reason."""
    house = make_house(
        notifiers={"page": {"type": "scripted", "only": ["failed"], "group": {"wait": "0s", "repeat": "0s"}}}
    )
    tell(house, "promoted")
    tell(house, "failed")
    house.settle()

    assert house.mail() == ["failed"]
    assert [(row.state, row.reason) for row in rows(house)] == [
        ("SKIPPED", "the channel 'page' does not take 'promoted' (`only`)"),
        ("SENT", ""),
    ]


def test_a_channel_that_is_gone(make_house: Callable[..., House]) -> None:
    """What waits for a channel that was taken out of the configuration is dead, with that reason; once it is back, a person has it sent."""
    house = together(make_house)
    tell(house)
    house.settle()
    house.write(notifiers=None, model={"notify": ["scripted"]})
    house.desk.reload(who="ann")
    house.advance(30)
    assert [(row.state, row.reason) for row in rows(house)] == [
        ("DEAD", "the channel 'page' is not configured any more")
    ]
    house.write(notifiers={"page": {"type": "scripted"}})
    house.desk.reload(who="ann")
    done = Notices(house.runtime).retry(rows(house)[0].id[-6:], who="ann", reason="it is back")
    house.settle()

    assert (done["id"], done["count"], done["duplicate"]) == (rows(house)[0].id, 1, False)
    assert states(house) == ["SENT"]
    assert [act.verb for act in house.acts()][-1] == "notification.retry"
    with pytest.raises(Conflict, match="only a dead one"):
        Notices(house.runtime).retry(rows(house)[0].id, who="ann", reason="again")


def test_a_receiver_that_says_when_is_left_alone_until_then(make_house: Callable[..., House]) -> None:
    """A channel whose receiver names a time rests until then with everything; others go on."""
    house = make_house(notifiers={"page": {"type": "scripted", "group": {"wait": "0s", "repeat": "0s"}}})
    house.world.mail_script = [RetryLater("429", after_seconds=90)]
    for kind in ("failed", "promoted"):
        tell(house, kind)
    tell(house, "rejected", channel="scripted")
    house.settle()
    assert house.mail() == ["rejected"]
    house.advance(89)
    assert house.mail() == ["rejected"]

    house.advance(1)

    assert sorted(house.mail()) == ["failed", "promoted", "rejected"]


def test_G10_a_slow_channel_holds_up_no_other(make_house: Callable[..., House]) -> None:
    """While one channel does not come back, messages of another are delivered, and the loop goes on."""
    house = make_house(notifiers={"slow": {"type": "scripted"}, "quick": {"type": "scripted"}})
    gate, delivered = threading.Event(), []

    class Gated:
        def __init__(self, name: str) -> None:
            self._name = name

        def send(self, message: Notification) -> None:
            if self._name == "slow":
                gate.wait(10)
            delivered.append(self._name)

    house.runtime._notifiers = {name: Gated(name) for name in ("slow", "quick")}
    outbox = Outbox(house.runtime, workers=SendThreads())
    for channel in ("slow", "quick"):
        tell(house, "approval_required", channel=channel)
    outbox.tick(house.now)

    wait_until(lambda: delivered == ["quick"])
    tell(house, "approval_required", channel="quick")
    wait_until(lambda: (outbox.tick(house.now), delivered == ["quick"] * 2)[1])
    assert not outbox.stop(timeout=0.01)
    gate.set()
    assert outbox.stop(timeout=10)
    assert delivered == ["quick", "quick", "slow"]
    assert states(house) == ["SENT"] * 3


def test_what_was_sent_is_not_sent_again_because_the_store_was_busy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the writing is tried again."""
    write(house)
    real, refused = house.store.transaction, [StoreBusy("locked")]

    def transaction(name: str, **options: Any) -> Any:
        if name == "sent" and refused:
            raise refused.pop()
        return real(name, **options)

    monkeypatch.setattr(house.store, "transaction", transaction)
    house.settle()
    assert (house.mail(), states(house)) == (["kind-0"], ["PENDING"])

    house.advance(5)

    assert (house.mail(), states(house)) == (["kind-0"], ["SENT"])


def test_trying_a_channel(make_house: Callable[..., House]) -> None:
    """It says what came of it, nothing waits for it in the outbox, and it stands among the acts."""
    house = make_house(notifiers={"page": {"type": "scripted"}})
    notices = Notices(house.runtime)
    house.world.mail_script = [None, RetryLater("503"), GiveUp("404 no_service", hint="make a new one")]
    found = [notices.test("page", who="ann") for _ in range(3)]

    assert [(each["outcome"], each["ok"], each["reason"]) for each in found] == [
        ("sent", True, ""),
        ("later", False, "503"),
        ("gave_up", False, "404 no_service"),
    ]
    assert house.mail() == ["test"]
    assert rows(house) == []
    assert [act.verb for act in house.acts()] == ["notify.test"] * 3
    with pytest.raises(NotFound, match="no channel 'pager'"):
        notices.test("pager", who="ann")


def test_messages_are_listed(house: House) -> None:
    """The newest first, by state, channel, kind and model, a page at a time."""
    house.world.mail_script = [GiveUp("410 gone")]
    write(house, 3)
    house.settle()
    views = NoticeViews(house.store)
    newest = views.notifications(limit=2)

    assert [item["kind"] for item in newest["items"]] == ["kind-2", "kind-1"]
    rest = views.notifications(limit=2, before=newest["next"])
    assert ([item["kind"] for item in rest["items"]], rest["next"]) == (["kind-0"], None)
    (dead,) = views.notifications(state="dead")["items"]
    assert (dead["kind"], dead["reason"], dead["attempts"]) == ("kind-0", "410 gone", 1)
    assert views.notifications(channel="page")["items"] == views.notifications(model="fraud")["items"] == []


# -------------------------------------------------------------------------------------- what concerns no model


def test_dead_letters_are_told_once_in_a_while(make_house: Callable[..., House]) -> None:
    """The first of a source at once, those of the next hour together; in the transaction that buries them."""
    house = make_house(notify=["scripted"])

    def bury(*places: str, origin: str = "bus") -> None:
        letters = [DeadLetter(place=place, reason="not JSON", body=b"x", size=1, meta={}) for place in places]
        house.inbox.put(origin, Batch(events=[], dead=letters))
        house.inbox.tick(house.now)
        house.settle()

    bury("1")
    bury("2", "3")
    bury("3")  # known already
    bury("4")
    assert sent(house) == [("source bus: a dead letter", 1)]
    house.advance(timedelta(minutes=59))
    assert len(house.mail()) == 1
    house.advance(timedelta(minutes=1))

    assert sent(house)[1:] == [("source bus: 3 dead letters", 1)]
    assert house.world.mail[-1].body["count"] == 3


@pytest.mark.parametrize(
    "written, told",
    [({}, ("log",)), ({"defaults": {"notify": ["scripted"]}}, ("scripted",)), ({"notify": ["page"]}, ("page",))],
    ids=["nothing said", "defaults", "said"],
)
def test_who_is_told_what_concerns_no_model(make_house: Callable[..., House], written: Any, told: Any) -> None:
    """Those under `notify`, else those of `defaults`, else the log."""
    house = make_house(notifiers={"page": {"type": "scripted"}}, **written)

    assert house.runtime.config.notify == told


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_whatever_happens(make_house: Callable[..., House], seed: int) -> None:
    """Refusals, crashes after the send, restarts, newcomers in any order: who drops what it knows by the id has each once."""
    house = together(make_house, repeat="2m")
    chance = SeededRandom(seed)
    written = 0
    for _ in range(40):
        what = chance.getrandbits(3)
        if what < 3:
            written += 1
            tell(house, ("failed", "promoted", "approval_required")[what], title=f"message {written}")
        elif what == 3:
            house.world.mail_script = [RetryLater("503"), None, RetryLater("429", after_seconds=45)]
        elif what == 4:
            house.restart()
        elif what == 5:
            real, house.world.mail = house.world.mail, Dying(house.world.mail)
            with contextlib.suppress(Killed):
                house.advance(30)
            real[:] = house.world.mail
            house.world.mail = real
            house.restart()
        house.advance(chance.getrandbits(6))
    house.world.mail_script = []
    for _ in range(20):
        house.advance(60)

    known: dict[str, list[str]] = {}
    for message in house.world.mail:
        titles = [each.title for each in message.messages or [message]]
        assert known.setdefault(message.id, titles) == titles
    received = [title for titles in known.values() for title in titles]
    assert sorted(received) == sorted(f"message {number + 1}" for number in range(written))
    assert set(states(house)) <= {"SENT"}
