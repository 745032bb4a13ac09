"""A server with the API, over a real store with a story in it; the desk is a stand-in that notes what it was asked."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from controller.api.app import make_app
from controller.api.ports import Desk, Health, Intake, Logs
from controller.api.server import Limits, Server
from controller.core.model import Receipt
from controller.engine.audit import Audit
from controller.errors import NotFound
from controller.ports import Batch, LogChunk
from controller.store.store import Store
from controller.store.views import Views
from controller.testing.fakes import ManualClock, RecordingLog
from tests.rawsocket import connect
from tests.story import MODEL, Story, open_store, tell

GOOD, EXPIRED, REVOKED = "rt_good", "rt_expired", "rt_revoked"


@dataclass
class NotingDesk:
    """A desk that does nothing but note who asked for what."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None

    def _note(self, verb: str, *, key: str | None = None, **given: Any) -> dict[str, Any]:
        self.asked.append((verb, given if key is None else {**given, "key": key}))
        if self.failure is not None:
            raise self.failure
        return {"done": verb}

    def retrain(
        self, model: str, *, who: str, reason: str, params: Mapping[str, Any], key: str | None, force: bool = False
    ) -> dict[str, Any]:
        forced = {"force": True} if force else {}
        self._note("retrain", model=model, who=who, reason=reason, params=params, key=key, **forced)
        return {"event_id": "evt-1", "duplicate": False}

    def cancel(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("cancel", run_id=run_id, who=who, reason=reason, key=key)

    def retry(self, run_id: str, *, who: str, reason: str, key: str | None) -> dict[str, Any]:
        return self._note("retry", run_id=run_id, who=who, reason=reason, key=key)

    def approve(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("approve", run_id=run_id, who=who, reason=reason, key=key)

    def reject(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("reject", run_id=run_id, who=who, reason=reason, key=key)

    def promote(self, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("promote", target=target, who=who, reason=reason, key=key)

    def rollback(
        self, model: str, *, who: str, reason: str, to: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        return {**self._note("rollback", model=model, who=who, reason=reason, to=to, key=key), "version": 2}

    def adopt(
        self,
        model: str,
        *,
        who: str,
        reason: str,
        artifact: str,
        metrics: Mapping[str, float],
        key: str | None = None,
    ) -> dict[str, Any]:
        return self._note("adopt", model=model, who=who, reason=reason, artifact=artifact, metrics=metrics, key=key)

    def pause(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("pause", scope=scope, target=target, who=who, reason=reason, key=key)

    def resume(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Any]:
        return self._note("resume", scope=scope, target=target, who=who, reason=reason, key=key)

    def resolve(
        self,
        run_id: str,
        candidate: str | None,
        as_: str,
        *,
        who: str,
        reason: str,
        handle: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        given = {} if handle is None else {"handle": handle}
        return self._note(
            "resolve", run_id=run_id, candidate=candidate, as_=as_, who=who, reason=reason, key=key, **given
        )

    def reload(self, *, who: str) -> dict[str, Any]:
        return self._note("reload", who=who)

    def create_token(self, name: str, *, who: str, expires_in: timedelta | None) -> dict[str, Any]:
        return {**self._note("create_token", name=name, who=who, expires_in=expires_in), "token": "rt_new"}

    def list_tokens(self) -> list[dict[str, Any]]:
        return [self._note("list_tokens")]

    def revoke_token(self, name: str, *, who: str) -> dict[str, Any]:
        return self._note("revoke_token", name=name, who=who)


@dataclass
class StoringInbox:
    """An inbox that stores at once, in the calling thread."""

    store: Store
    failure: Exception | None = None

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        done: Future[list[Receipt]] = Future()
        if self.failure is not None:
            done.set_exception(self.failure)
            return done
        with self.store.transaction("take", fenced=False) as tx:
            receipts = tx.events.add(origin, batch.events)
        done.set_result(receipts)
        return done


@dataclass
class ShortLogs:
    def read(self, run_id: str, candidate: str | None, attempt: int | None, offset: int, limit: int) -> LogChunk:
        if candidate == "none":
            raise NotFound(f"run {run_id} has no candidate 'none'")
        text = b"one\ntwo\n\xff\x00"
        return LogChunk(data=text[offset : offset + limit], next_offset=len(text), skipped=3)


@dataclass
class SettableHealth:
    live: bool = True
    reasons: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        return {"live": self.live, "ready": not self.reasons, "reasons": self.reasons, "loops": {"evaluator": 0.1}}


@dataclass
class House:
    """Everything about one server."""

    story: Story
    desk: NotingDesk
    inbox: StoringInbox
    health: SettableHealth
    log: RecordingLog
    server: Server
    socket_path: Path
    #: Why callers were not let in.
    refused: list[str]

    @property
    def store(self) -> Store:
        return self.story.store

    @property
    def port(self) -> int:
        assert self.server.address is not None
        return self.server.address[1]

    def tcp(self, token: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers)

    def raw(self) -> socket.socket:
        return connect(self.port)


def _typed_desk(desk: NotingDesk) -> Desk:
    return desk


def _typed_inbox(inbox: StoringInbox) -> Intake:
    return inbox


def _typed_health(health: SettableHealth) -> Health:
    return health


def _typed_logs(logs: ShortLogs) -> Logs:
    return logs


def _add_tokens(store: Store, clock: ManualClock) -> None:
    with store.transaction("tokens", fenced=False) as tx:
        for name, secret, days in (("ci", GOOD, None), ("old", EXPIRED, -1), ("gone", REVOKED, None)):
            digest = hashlib.sha256(secret.encode()).hexdigest()
            expires_at = None if days is None else clock.now() + timedelta(days=days)
            tx.people.add_token(name=name, digest=digest, actor="ada", expires_at=expires_at)
        tx.people.revoke_token("gone", actor="ada")


def open_house(folder: Path, limits: Limits | None = None, socket_path: Path | None = None) -> House:
    """Start a server whose store, and whose socket unless told otherwise, are in `folder`."""
    clock = ManualClock()
    store = open_store(f"sqlite:///{folder / 'retrain.db'}", clock)
    story = tell(store, clock)
    _add_tokens(store, clock)
    desk, inbox, health, log = NotingDesk(), StoringInbox(store), SettableHealth(), RecordingLog()
    path = socket_path or folder / "s.sock"
    refused: list[str] = []
    app = make_app(
        desk=_typed_desk(desk),
        views=Views(store),
        inbox=_typed_inbox(inbox),
        health=_typed_health(health),
        logs=_typed_logs(ShortLogs()),
        policies=lambda: {MODEL: story.spec},
        clock=clock,
        log=log,
        audit=Audit(store, clock=clock, log=log),
        refused=refused.append,
    )
    server = Server(app, path, ("127.0.0.1", 0), limits=limits)
    server.start()
    return House(story, desk, inbox, health, log, server, path, refused)
