"""What the store promises of people, on SQLite and PostgreSQL alike: their acts, tokens, pauses, configurations, and messages to them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from controller.errors import Conflict, NotFound
from controller.store import Store, schema
from controller.store.store import Transaction
from controller.testing import ManualClock
from tests.contract.store_rows import history
from tests.factories import NOON, at, make_policy


def act(tx: Transaction, key: str | None, digest: str = "d") -> str:
    return tx.people.add_act(
        actor="ann",
        verb="retrain",
        target="churn",
        reason="why",
        details={"a": 1},
        response={"run": 1},
        idempotency_key=key,
        request_digest=digest,
    )


def test_an_idempotency_key_is_one_act(store: Store) -> None:
    """What was done under a key is found again; a second row under it is a conflict; acts without a key are free."""
    with store.transaction("test") as tx:
        act_id = act(tx, "k1")
        act(tx, None)
        act(tx, None)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        act(tx, "k1", "another request")
    with store.reading() as tx:
        found, none = tx.people.act_by_key("k1"), tx.people.act_by_key("k2")
        acts = tx.people.acts("churn")

    assert found is not None
    assert (found.id, found.request_digest, found.response, found.at) == (act_id, "d", {"run": 1}, NOON)
    assert none is None
    assert [a.id for a in acts] == sorted((a.id for a in acts), reverse=True)
    assert len(acts) == 3


def test_tokens_are_known_by_their_digest(store: Store) -> None:
    """A name is given once, also after it was revoked; revoking twice says that there was nothing to revoke."""
    with store.transaction("test") as tx:
        tx.people.add_token(name="ci", digest="aa", actor="ann", expires_at=at(hours=1))
    with pytest.raises(Conflict, match="there is a token 'ci' already"), store.transaction("test") as tx:
        tx.people.add_token(name="ci", digest="bb", actor="ann", expires_at=None)
    with pytest.raises(Conflict), store.transaction("test") as tx:
        tx.people.add_token(name="other", digest="aa", actor="ann", expires_at=None)
    with store.transaction("test") as tx:
        revoked = [tx.people.revoke_token(name, actor="bob") for name in ("ci", "ci", "none")]
        token, none = tx.people.token_by_digest("aa"), tx.people.token_by_digest("bb")
        tokens = tx.people.tokens()

    assert revoked == [True, False, False]
    assert token is not None
    assert (token.revoked_at, token.revoked_by, token.expires_at) == (NOON, "bob", at(hours=1))
    assert none is None
    assert tokens == [token]


def test_pauses_are_one_per_target_the_widest_first(store: Store) -> None:
    """Pausing again changes the reason; lifting a pause that is not there says so."""
    with store.transaction("test") as tx:
        for scope, target in (("policy", "churn/drift"), ("all", ""), ("model", "churn")):
            tx.people.add_pause(scope=scope, target=target, actor="ann", reason="first")
        tx.people.add_pause(scope="model", target="churn", actor="bob", reason="second")
        pauses = tx.people.pauses()
        dropped = [tx.people.drop_pause(scope="all", target="") for _ in range(2)]
        left = tx.people.pauses()

    assert [pause.scope for pause in pauses] == ["all", "model", "policy"]
    assert (pauses[1].actor, pauses[1].reason) == ("bob", "second")
    assert dropped == [True, False]
    assert left == pauses[1:]


def test_configurations_are_kept_for_ever(store: Store, clock: ManualClock) -> None:
    """Each version of a configuration and of its policies is found again; the first body of a version stays."""
    with store.transaction("test") as tx:
        tx.people.activate(version="c1", body={"n": 1}, actor="ann", policies=[make_policy(version="p1")])
        clock.advance(60)
        tx.people.activate(version="c2", body={"n": 2}, actor="ann", policies=[make_policy(version="p1")])
        tx.people.activate(version="c1", body={"n": 3}, actor="bob", policies=[])
        bodies = [tx.people.configuration(version) for version in ("c1", "c2", "c3")]
        of_policy = [tx.people.configuration_of_policy(version) for version in ("p1", "p2")]
        actors = dict(tx.execute(sa.select(schema.config_version.c.version, schema.config_version.c.actor)).all())

    assert bodies == [{"n": 1}, {"n": 2}, None]
    assert of_policy == [{"n": 1}, None]
    assert actors == {"c1": "bob", "c2": "ann"}


def test_messages_wait_until_they_are_sent(store: Store, clock: ManualClock) -> None:
    """One for each channel; postponed ones come back; sent and dead ones do not."""
    with store.transaction("test") as tx:
        tx.outbox.add(("log", "mail"), kind="promoted", title="v2", model="churn", body={"n": 1})
        assert [tx.outbox.close(each, together=False, most=10) for each in tx.outbox.waiting(NOON)] == [1, 1]
        ((first,),), ((second,),) = tx.outbox.due("log", NOON, 10), tx.outbox.due("mail", NOON, 10)
        tx.outbox.postpone([first], until=at(minutes=5), reason="503")
        tx.outbox.move([second], "SENT", cause="sent")
        assert tx.outbox.due("log", NOON, 10) == tx.outbox.due("mail", NOON, 10) == []
        assert tx.outbox.due_by_channel() == {"log": at(minutes=5)}
        ((again,),) = tx.outbox.due("log", at(minutes=5), 10)
        tx.outbox.move([again], "DEAD", cause="gave_up", reason="no such host")
        assert tx.outbox.due_by_channel() == {}

    assert (first.channel, second.channel, again.attempts, again.reason) == ("log", "mail", 1, "503")
    assert history(store, first.id) == [("PENDING", "DEAD", "gave_up", "no such host", "controller", 1)]


def test_messages_that_go_together(store: Store, clock: ManualClock) -> None:
    """They share the id of the first for good; those of another kind or model, and those that come later, are not among them."""
    with store.transaction("test") as tx:
        for model in ("churn", "churn", None):
            tx.outbox.add(("log",), kind="failed", title="again", model=model)
        tx.outbox.add(("log",), kind="failed", title="later", model="churn", due_at=at(minutes=1))
        ours, others = tx.outbox.waiting(NOON)
        assert (ours.model, ours.count, ours.first_at, tx.outbox.told_at(ours)) == ("churn", 2, NOON, None)
        assert tx.outbox.close(ours, together=True, most=10) == 2
        (group,) = tx.outbox.due("log", NOON, 10)
        tx.outbox.add(("log",), kind="failed", title="too late", model="churn")
        tx.outbox.postpone(group, until=at(minutes=5), reason="503")

        assert tx.outbox.due("log", NOON, 10) == []
        assert tx.outbox.next_open(NOON) == at(minutes=1)
        (again,) = tx.outbox.due("log", at(minutes=5), 10)
        assert [message.title for message in again] == ["again", "again"]
        assert {message.group_id for message in again} == {group[0].id}
        assert (tx.outbox.told_at(ours), tx.outbox.told_at(others)) == (NOON, None)


def test_a_dead_message_is_sent_again_with_its_group(store: Store) -> None:
    """By its id or the end of it; the others of its group come along, under the same id."""
    with store.transaction("test") as tx:
        for _ in range(2):
            tx.outbox.add(("log",), kind="failed", title="again")
        tx.outbox.close(*tx.outbox.waiting(NOON), together=True, most=10)
        (group,) = tx.outbox.due("log", NOON, 10)
        tx.outbox.move(group, "DEAD", cause="gave_up", reason="404")
        found = tx.outbox.find(group[1].id[-8:])
        tx.outbox.retry(tx.outbox.group(found), actor="ann", reason="mended")

        assert found.id == group[1].id
        assert [[message.id for message in each] for each in tx.outbox.due("log", NOON, 10)] == [
            [message.id for message in group]
        ]
        with pytest.raises(NotFound):
            tx.outbox.find("nobody")
        with pytest.raises(NotFound):
            tx.outbox.find("a")  # so little stands for too many


def test_what_is_counted_is_added_up(store: Store, clock: ManualClock) -> None:
    """The first of a topic is told at once, those of the next period together when it is over; other topics do not matter."""

    def count(number: int, topic: str = "bus") -> None:
        tx.outbox.count(
            ("log",),
            kind="dead_letters",
            topic=topic,
            title=lambda total: f"{topic}: {total}",
            count=number,
            every=timedelta(hours=1),
            body={"source": topic},
        )

    with store.transaction("test") as tx:
        count(1)
        tx.outbox.close(*tx.outbox.waiting(NOON), together=False, most=10)
        count(2)
        count(3)
        count(7, topic="files")
        waiting = tx.outbox.waiting(NOON)
        assert [(each.count) for each in waiting] == [1]
        ready = tx.outbox.waiting(at(hours=1))
        assert [each.count for each in ready] == [2]
        rows = tx.execute(sa.select(schema.notification).order_by(schema.notification.c.id)).all()

    assert [(row.title, row.body["count"], row.due_at) for row in rows] == [
        ("bus: 1", 1, NOON),
        ("bus: 5", 5, at(hours=1)),
        ("files: 7", 7, NOON),
    ]
