"""Rows of what persons did: acts, pauses, tokens, and the configurations they activated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from controller.core.model import ACT_ID, TOKEN_ID, Json, Pause
from controller.core.policy import Policy
from controller.core.seal import ACT, ACT_MACHINE, act_digest
from controller.errors import Conflict
from controller.store import schema
from controller.store.dialect import dump_json, microseconds
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

_act = schema.act
_pause = schema.pause
_token = schema.token
_config = schema.config_version
#: Under this name history keeps which configuration was in force when: a row for each change.
CONFIGURATION = "configuration"
_LAST_ACTIVATED = (
    sa.select(schema.history.c.target)
    .where(schema.history.c.entity == CONFIGURATION)
    .order_by(schema.history.c.seq.desc())
    .limit(1)
)
_LAST_RESUME = sa.select(sa.func.max(_act.c.at)).where(_act.c.target == sa.bindparam("target"), _act.c.verb == "resume")
_PAUSES = sa.select(_pause).order_by(sa.case({"all": 0, "model": 1}, value=_pause.c.scope, else_=2), _pause.c.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """Something a person did."""

    id: str
    at: datetime
    actor: str
    #: retrain, cancel, approve, reject, promote, rollback, pause, resume, …
    verb: str
    #: What it was done to: a run, a model, `model/policy`, or empty.
    target: str
    reason: str
    details: Mapping[str, Json]
    idempotency_key: str | None
    #: Digest of the request, so that a key that comes with another request is refused.
    request_digest: str
    #: What was answered, and is answered again when the same key comes back.
    response: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A bearer token; the secret itself is not kept."""

    id: str
    name: str
    digest: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None


_INSERT_ACT = (
    sa.insert(_act)
    .values(after_seq=sa.select(schema.leader.c.decided_seq).where(schema.leader.c.id == 1).scalar_subquery())
    .returning(_act.c.after_seq)
)


class PeopleRows:
    """Acts, pauses, tokens and configurations, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def add_act(
        self,
        *,
        actor: str,
        verb: str,
        target: str,
        reason: str,
        details: Mapping[str, Json],
        response: Json,
        idempotency_key: str | None = None,
        request_digest: str = "",
    ) -> str:
        """Write what a person did, and a row of history that holds its digest, so that the chain over history covers it."""
        act_id = self._tx.ids.make(ACT_ID)
        response = response if response is not None else {}
        row = {
            "id": act_id,
            "at": self._tx.now,
            "actor": actor,
            "verb": verb,
            "target": target,
            "reason": reason,
            "details": dict(details),
            "idempotency_key": idempotency_key,
            "request_digest": request_digest,
            "response": response,
        }
        after_seq = self._tx.execute(_INSERT_ACT, row).scalar_one()
        texts = {"details": dump_json(dict(details)), "response": dump_json(response)}
        raw = {**row, **texts, "at": microseconds(self._tx.now), "after_seq": after_seq}
        digest = act_digest([raw[name] for name in ACT])
        self._tx.record(ACT_MACHINE, act_id, "", verb, verb, reason, actor, digest=digest)
        return act_id

    def act_by_key(self, key: str) -> Act | None:
        """Return what was done under an idempotency key."""
        row = self._tx.execute(sa.select(_act).where(_act.c.idempotency_key == key)).first()
        return None if row is None else record(Act, row)

    def acts(self, target: str | None = None, limit: int = 100) -> list[Act]:
        """Return what persons did, the newest first."""
        statement = sa.select(_act).order_by(_act.c.id.desc()).limit(limit)
        if target is not None:
            statement = statement.where(_act.c.target == target)
        return [record(Act, row) for row in self._tx.execute(statement)]

    def resumed_at(self, target: str) -> datetime | None:
        """Return when somebody last resumed exactly this; None for never."""
        return self._tx.execute(_LAST_RESUME, {"target": target}).scalar()

    def pauses(self) -> list[Pause]:
        """Return every pause, the widest first."""
        return [record(Pause, row) for row in self._tx.execute(_PAUSES)]

    def add_pause(self, *, scope: str, target: str, actor: str, reason: str) -> None:
        """Pause everything, a model or a policy; pausing again changes the reason."""
        values = {"actor": actor, "reason": reason, "at": self._tx.now}
        insert = self._tx.insert(_pause).values(scope=scope, target=target, **values)
        self._tx.execute(insert.on_conflict_do_update(index_elements=["scope", "target"], set_=values))

    def drop_pause(self, *, scope: str, target: str) -> bool:
        """Lift a pause; return whether there was one."""
        done = self._tx.execute(sa.delete(_pause).where(_pause.c.scope == scope, _pause.c.target == target))
        return done.rowcount > 0

    def add_token(self, *, name: str, digest: str, actor: str, expires_at: datetime | None) -> str:
        """Write a new token. Raises `Conflict` for a name that is taken."""
        if self._tx.execute(sa.select(_token.c.id).where(_token.c.name == name)).first() is not None:
            raise Conflict(
                f"there is a token {name!r} already",
                hint="revoked tokens keep their name; choose another",
            )
        token_id = self._tx.ids.make(TOKEN_ID)
        row = {
            "id": token_id,
            "name": name,
            "digest": digest,
            "created_at": self._tx.now,
            "created_by": actor,
            "expires_at": expires_at,
        }
        self._tx.execute(sa.insert(_token), row)
        return token_id

    def tokens(self) -> list[Token]:
        """Return every token, also those revoked, by name."""
        return [record(Token, row) for row in self._tx.execute(sa.select(_token).order_by(_token.c.name))]

    def token_by_digest(self, digest: str) -> Token | None:
        """Return the token with this digest."""
        row = self._tx.execute(sa.select(_token).where(_token.c.digest == digest)).first()
        return None if row is None else record(Token, row)

    def revoke_token(self, name: str, *, actor: str) -> bool:
        """Revoke a token; return whether there was one that counted."""
        done = self._tx.execute(
            sa.update(_token)
            .where(_token.c.name == name, _token.c.revoked_at.is_(None))
            .values(revoked_at=self._tx.now, revoked_by=actor)
        )
        return done.rowcount > 0

    def activate(
        self,
        *,
        version: str,
        body: Json,
        actor: str,
        policies: Iterable[Policy],
        counts_from: datetime | None = None,
    ) -> None:
        """Keep a configuration and the policy versions in it; doing so again changes when it was last activated.

        It counts among those of several replicas from `counts_from`, by default from now.
        When it is another than before, history says so, for whoever asks later what was in force at an instant.
        """
        before = self._tx.execute(_LAST_ACTIVATED).scalar()
        if before != version:
            self._tx.record(CONFIGURATION, CONFIGURATION, before or "", version, "activated", "", actor)
        at = self._tx.database_now()  # replicas whose clocks differ compare it
        changes = {"activated_at": at, "actor": actor, "counts_from": counts_from or at}
        insert = self._tx.insert(_config).values(version=version, body=body, **changes)
        self._tx.execute(insert.on_conflict_do_update(index_elements=["version"], set_=changes))
        rows = [
            {
                "version": policy.version,
                "model": policy.model,
                "policy": policy.name,
                "config_version": version,
                "activated_at": self._tx.now,
            }
            for policy in policies
        ]
        if rows:
            self._tx.execute(self._tx.insert_new(schema.policy_version), rows)

    def configuration(self, version: str) -> Json:
        """Return the normal form of a configuration that was once active; None for an unknown one."""
        return self._tx.execute(sa.select(_config.c.body).where(_config.c.version == version)).scalar()

    def configuration_of_policy(self, policy_version: str) -> Json:
        """Return the normal form of a configuration that has this version of a policy."""
        version = self._tx.execute(
            sa.select(schema.policy_version.c.config_version).where(schema.policy_version.c.version == policy_version)
        ).scalar()
        return None if version is None else self.configuration(version)
