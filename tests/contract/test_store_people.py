"""What the store promises of people, on SQLite and PostgreSQL alike: their acts, tokens, pauses, configurations, and messages to them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from controller.errors import Conflict
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
        first, second = tx.outbox.due(NOON, 10)
        tx.outbox.postpone(first, until=at(minutes=5))
        tx.outbox.move(second, "SENT", cause="sent")
        assert tx.outbox.due(NOON, 10) == []
        assert tx.outbox.next_due() == at(minutes=5)
        (again,) = tx.outbox.due(at(minutes=5), 10)
        tx.outbox.move(again, "DEAD", cause="gave_up", reason="no such host")
        assert tx.outbox.next_due() is None

    assert (first.channel, second.channel, again.attempts) == ("log", "mail", 1)
    assert history(store, first.id) == [("PENDING", "DEAD", "gave_up", "no such host", "controller", 1)]
