"""How an act of a person is carried out: one transaction, with a row that says who did what, when and why.

A client's idempotency key makes a repeated request the same act: the first answer is given again.
The same key with another request is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from controller.core.model import Json
from controller.engine.runtime import Runtime
from controller.errors import Conflict
from controller.store import Transaction
from controller.store.dialect import dump_json


class Acts:
    """Carries out acts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def once(
        self,
        act: Callable[[Transaction], dict[str, Json]],
        verb: str,
        target: str,
        *,
        who: str,
        reason: str,
        details: Mapping[str, Json],
        key: str | None,
        ring: tuple[str, ...],
    ) -> dict[str, Json]:
        """Do an act and write its row, in one transaction; for a key that is known give the first answer again.

        A conflict may be with the same request, made at the same time by another connection: then its answer is ours.
        """
        try:
            return self._do(act, verb, target, who=who, reason=reason, details=details, key=key, ring=ring)
        except Conflict:
            known = self.answered(verb, target, reason=reason, details=details, key=key)
            if known is None:
                raise
            return known

    def _do(
        self,
        act: Callable[[Transaction], dict[str, Json]],
        verb: str,
        target: str,
        *,
        who: str,
        reason: str,
        details: Mapping[str, Json],
        key: str | None,
        ring: tuple[str, ...],
    ) -> dict[str, Json]:
        digest = self._digest(verb, target, reason=reason, details=details)
        with self._runtime.store.transaction(f"act_{verb.replace('.', '_')}", fenced=False) as tx:
            known = self._answer(tx, key, digest)
            if known is not None:
                return known
            response = act(tx)
            tx.people.add_act(
                actor=who,
                verb=verb,
                target=target,
                reason=reason,
                details=details,
                response=response,
                idempotency_key=key,
                request_digest=digest,
            )
        self._runtime.log.info("act", verb=verb, target=target, actor=who, reason=reason)
        self._runtime.bells.ring_everywhere(*ring)
        return response

    def answered(
        self, verb: str, target: str, *, reason: str, details: Mapping[str, Json], key: str | None
    ) -> dict[str, Json] | None:
        """Return what was answered to this request before, None when it is new; for acts that do something before they write."""
        with self._runtime.store.reading() as tx:
            return self._answer(tx, key, self._digest(verb, target, reason=reason, details=details))

    @staticmethod
    def _digest(verb: str, target: str, *, reason: str, details: Mapping[str, Json]) -> str:
        request = {"verb": verb, "target": target, "reason": reason, **details}
        return hashlib.sha256(dump_json(request).encode()).hexdigest()

    @staticmethod
    def _answer(tx: Transaction, key: str | None, digest: str) -> dict[str, Json] | None:
        known = tx.people.act_by_key(key) if key is not None else None
        if known is None:
            return None
        if known.request_digest != digest:
            raise Conflict(
                f"the idempotency key {key!r} was used for another request ({known.id})",
                hint="choose a new key",
            )
        return {**known.response, "duplicate": True}
