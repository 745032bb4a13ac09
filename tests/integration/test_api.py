"""The API as clients see it: a real server on a Unix socket and on TCP, over a real store.

The desk is a stand-in that notes what it was asked.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.api.app import make_app
from controller.api.ports import Desk, Health, Intake, Logs
from controller.api.server import Limits, Server
from controller.core.model import Receipt
from controller.errors import ConfigError, Conflict, NotFound, Problem, StoreBusy
from controller.ports import Batch, LogChunk
from controller.store.store import Store
from controller.store.views import Views
from controller.testing.fakes import ManualClock, RecordingLog, wait_until
from tests.factories import NOON, make_episode
from tests.story import MODEL, Story, open_store, tell

GOOD, EXPIRED, REVOKED = "rt_good", "rt_expired", "rt_revoked"
SHORT = Limits(header_seconds=0.3, body_seconds=0.4, keep_alive_seconds=1, connections_per_address=8)


@dataclass
class NotingDesk:
    """A desk that does nothing but note who asked for what."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None

    def _note(self, verb: str, **given: Any) -> dict[str, Any]:
        self.asked.append((verb, given))
        if self.failure is not None:
            raise self.failure
        return {"done": verb}

    def retrain(
        self, model: str, *, who: str, reason: str, params: Mapping[str, Any], key: str | None
    ) -> dict[str, Any]:
        self._note("retrain", model=model, who=who, reason=reason, params=params, key=key)
        return {"event_id": "evt-1", "duplicate": False}

    def cancel(self, run_id: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("cancel", run_id=run_id, who=who, reason=reason)

    def retry(self, run_id: str, *, who: str, reason: str, key: str | None) -> dict[str, Any]:
        return self._note("retry", run_id=run_id, who=who, reason=reason, key=key)

    def approve(self, run_id: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("approve", run_id=run_id, who=who, reason=reason)

    def reject(self, run_id: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("reject", run_id=run_id, who=who, reason=reason)

    def promote(self, target: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("promote", target=target, who=who, reason=reason)

    def rollback(self, model: str, *, who: str, reason: str, to: str | None = None) -> dict[str, Any]:
        return {**self._note("rollback", model=model, who=who, reason=reason, to=to), "version": 2}

    def adopt(
        self, model: str, *, who: str, reason: str, artifact: str, metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        return self._note("adopt", model=model, who=who, reason=reason, artifact=artifact, metrics=metrics)

    def pause(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("pause", scope=scope, target=target, who=who, reason=reason)

    def resume(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("resume", scope=scope, target=target, who=who, reason=reason)

    def resolve(self, run_id: str, candidate: str | None, as_: str, *, who: str, reason: str) -> dict[str, Any]:
        return self._note("resolve", run_id=run_id, candidate=candidate, as_=as_, who=who, reason=reason)

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
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(limits: Limits | None = None, socket_path: Path | None = None) -> House:
        clock = ManualClock()
        store = open_store(f"sqlite:///{tmp_path / 'retrain.db'}", clock)
        story = tell(store, clock)
        _add_tokens(store, clock)
        desk, inbox, health, log = NotingDesk(), StoringInbox(store), SettableHealth(), RecordingLog()
        path = socket_path or tmp_path / "s.sock"
        app = make_app(
            desk=_typed_desk(desk),
            views=Views(store),
            inbox=_typed_inbox(inbox),
            health=_typed_health(health),
            logs=_typed_logs(ShortLogs()),
            policies=lambda: {MODEL: story.spec},
            clock=clock,
            log=log,
        )
        server = Server(app, path, ("127.0.0.1", 0), limits=limits)
        server.start()
        houses.append(House(story, desk, inbox, health, log, server, path))
        return houses[-1]

    yield build
    for house in houses:
        house.server.stop()
        house.store.close()


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


@pytest.fixture
def house(start: Callable[..., House]) -> House:
    return start()


@pytest.fixture
def unix(house: House) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(house.socket_path))
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        yield client


# ----------------------------------------------------------------------------------------------------- who asks

ROUTES = [
    ("GET", "/v1/status"), ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", "/v1/models/x/retrain"),
    ("POST", "/v1/models/x/rollback"), ("POST", "/v1/models/x/adopt"), ("POST", "/v1/pause"), ("POST", "/v1/resume"),
    ("GET", "/v1/runs"), ("GET", "/v1/runs/x"), ("GET", "/v1/runs/x/log"), ("POST", "/v1/runs/x/cancel"),
    ("POST", "/v1/runs/x/retry"), ("POST", "/v1/runs/x/approve"), ("POST", "/v1/runs/x/reject"),
    ("POST", "/v1/runs/x/resolve"), ("POST", "/v1/promote"), ("GET", "/v1/events"), ("GET", "/v1/events/x"), ("GET", "/v1/episodes"),
    ("POST", "/v1/events"), ("OPTIONS", "/v1/events"), ("GET", "/v1/why/x"), ("POST", "/v1/reload"), ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"), ("DELETE", "/v1/tokens/x"), ("GET", "/metrics"), ("GET", "/v1/openapi.json"), ("GET", "/"),
    ("GET", "/hooks/x"),
]  # fmt: skip


def test_every_route_is_in_the_matrix(unix: httpx.Client) -> None:
    """No route was added without a word about who may use it."""
    paths = unix.get("/v1/openapi.json").json()["paths"]
    documented = {
        (method.upper(), re.sub(r"\{[^}]+\}", "x", path)) for path, methods in paths.items() for method in methods
    }

    assert documented <= set(ROUTES)
    assert len(documented) >= 25


def test_without_a_good_token_nothing_is_answered_on_tcp(house: House) -> None:
    """Every route refuses no token, an unknown, an expired, a revoked one, and one in the query string."""
    headers: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer rt_unknown"},
        {"authorization": f"Bearer {EXPIRED}"},
        {"authorization": f"Bearer {REVOKED}"},
        {"authorization": f"Basic {GOOD}"},
        {"authorization": "Bearer"},
    ]
    answers = []
    for index, header in enumerate(headers):
        with house.tcp() as client:
            for method, path in ROUTES:
                response = client.request(method, f"{path}?access_token={GOOD}&token={GOOD}", headers=header)
                answers.append((index, method, path, response.status_code))

    # Wrong tokens are throttled after a while; either way nothing is told.
    assert {status for *_, status in answers} <= {401, 429}
    assert house.desk.asked == []


def test_a_good_token_is_answered_and_names_the_actor(house: House) -> None:
    """The actor of a request with a token is the token's name."""
    with house.tcp(GOOD) as client:
        status = client.get("/v1/status")
        client.post(f"/v1/runs/{house.story.training}/cancel", json={"reason": "enough"})

    assert status.status_code == 200
    assert house.desk.asked == [("cancel", {"run_id": house.story.training, "who": "token:ci", "reason": "enough"})]


def test_many_wrong_tokens_are_throttled(house: House) -> None:
    """After twenty wrong tokens an address is told to wait; a good one that is in use still counts."""
    with house.tcp() as client:
        wrong = [client.get("/v1/status", headers={"authorization": f"Bearer rt_{n}"}).status_code for n in range(25)]

    assert wrong[:20] == [401] * 20
    assert set(wrong[20:]) == {429}


def test_a_revoked_token_is_refused_at_once(house: House) -> None:
    """Revoking by the API forgets what was trusted."""
    with house.tcp(GOOD) as client:
        assert client.get("/v1/models").status_code == 200
        with house.store.transaction("revoke", fenced=False) as tx:
            tx.people.revoke_token("ci", actor="ada")
        assert client.delete("/v1/tokens/ci").status_code == 200
        assert client.get("/v1/models").status_code == 401


def test_health_needs_no_token(house: House) -> None:
    """/healthz and /readyz answer anybody; reasons say why it is not ready."""
    with house.tcp() as client:
        assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)
        house.health.live, house.health.reasons = False, ("landing: cannot be read",)
        live, ready = client.get("/healthz"), client.get("/readyz")

    assert live.status_code == 503
    assert live.json() == {"live": False, "loops": {"evaluator": 0.1}}
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["landing: cannot be read"])


def test_the_socket_knows_the_user(house: House, unix: httpx.Client) -> None:
    """On the Unix socket the kernel says who asks; the file is for its owner alone."""
    unix.post(
        f"/v1/models/{MODEL}/retrain",
        json={"reason": "new fares", "params": {"a": 1}},
        headers={"idempotency-key": "k"},
    )

    given = {
        "model": MODEL,
        "who": getpass.getuser(),
        "reason": "new fares",
        "params": {"a": 1},
        "key": "k",
    }
    assert house.desk.asked == [("retrain", given)]
    assert house.socket_path.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------------------------------------------- questions


def test_questions(house: House, unix: httpx.Client) -> None:
    """Status, models, runs, events and accounts are answered; names may be the ends of ids."""
    story = house.story

    assert unix.get("/v1/status").json()["leader"]["host"] == "tower"
    assert [m["name"] for m in unix.get("/v1/models").json()] == [MODEL]
    assert unix.get(f"/v1/models/{MODEL}").json()["champion"]["number"] == 2
    assert unix.get("/v1/runs", params={"state": "REJECTED"}).json()["items"][0]["id"] == story.rejected
    assert unix.get(f"/v1/runs/{story.promoted[-7:]}").json()["id"] == story.promoted
    assert unix.get("/v1/events", params={"state": "DEAD"}).json()["items"][0]["id"] == story.dead
    assert unix.get("/v1/events/2013-02.csv.gz@1").json()["id"] == story.arrived
    assert unix.get(f"/v1/why/{story.missed}").json()["policies"][0]["policy"] == "drift"
    assert unix.get(f"/v1/why/{MODEL}/drift").json()["kind"] == "policy"
    assert b"python_info" in unix.get("/metrics").content


def test_episodes(house: House, unix: httpx.Client) -> None:
    """The alerts that fire are listed, of all sources or of one; what is over is not."""
    over = make_episode(2, key="over", state="RESOLVED", cause="resolved", finished_at=NOON)
    with house.story.store.transaction("test", fenced=False) as tx:
        tx.episodes.begin([make_episode(1, subject="churn"), over])

    (shown,) = unix.get("/v1/episodes").json()
    assert (shown["id"], shown["subject"], shown["state"]) == ("epi-1", "churn", "OPEN")
    assert unix.get("/v1/episodes", params={"origin": "api"}).json() == [shown]
    assert unix.get("/v1/episodes", params={"origin": "bus"}).json() == []
    assert unix.get("/v1/episodes", params={"limit": 0}).status_code == 422


def test_log(house: House, unix: httpx.Client) -> None:
    """A log comes as bytes, with where it goes on."""
    response = unix.get(f"/v1/runs/{house.story.training}/log", params={"offset": 4})

    assert response.content == b"two\n\xff\x00"
    assert (response.headers["x-next-offset"], response.headers["x-skipped"]) == ("10", "3")
    assert unix.get(f"/v1/runs/{house.story.training}/log?candidate=none").status_code == 404


def test_waiting_for_a_run(house: House, unix: httpx.Client) -> None:
    """A long poll answers soon after the run has ended."""
    answers: list[Any] = []
    run_id = house.story.training
    thread = threading.Thread(
        target=lambda: answers.append(unix.get(f"/v1/runs/{run_id}", params={"wait": 30}, timeout=40).json())
    )
    thread.start()
    with house.store.transaction("end") as tx:
        run = tx.runs.get(run_id)
        assert run is not None
        tx.runs.move(run, "FAILED", cause="training_failed", reason="exit code 1")
    # The stand-in clock stands still, so that only the run's end ends the wait.
    thread.join(10)

    assert [run["state"] for run in answers] == ["FAILED"]


def test_stopping_ends_long_polls(house: House, unix: httpx.Client) -> None:
    """A server that stops answers those who wait."""
    answers: list[int] = []
    url = f"/v1/runs/{house.story.training}"
    thread = threading.Thread(target=lambda: answers.append(unix.get(url, params={"wait": 30}, timeout=40).status_code))
    thread.start()
    tasks = house.server._loop.server_state.tasks  # type: ignore[union-attr]
    wait_until(lambda: len(tasks) > 0)
    house.server.stop()
    thread.join(10)

    assert answers == [200]


# --------------------------------------------------------------------------------------------------------- acts

ACTS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("/v1/models/m/rollback", {"reason": "bad", "to": "v1"}, "rollback", {"model": "m", "reason": "bad", "to": "v1"}),
    (
        "/v1/models/m/adopt", {"artifact": "/a", "metrics": {"auc": 1}, "reason": "r"},
        "adopt", {"model": "m", "artifact": "/a", "metrics": {"auc": 1.0}, "reason": "r"},
    ),
    ("/v1/pause", {"target": "all"}, "pause", {"scope": "all", "target": "", "reason": ""}),
    ("/v1/pause", {"target": "m/p", "reason": "r"}, "pause", {"scope": "policy", "target": "m/p", "reason": "r"}),
    ("/v1/resume", {"target": "m"}, "resume", {"scope": "model", "target": "m", "reason": ""}),
    ("/v1/reload", {}, "reload", {}),
    ("/v1/tokens", {"name": "ci2", "expires_in": "90d"}, "create_token", {"name": "ci2", "expires_in": timedelta(days=90)}),
]  # fmt: skip


@pytest.mark.parametrize("path, body, verb, given", ACTS, ids=[f"{act[2]}-{n}" for n, act in enumerate(ACTS)])
def test_acts(
    house: House, unix: httpx.Client, path: str, body: dict[str, Any], verb: str, given: dict[str, Any]
) -> None:
    """Each act reaches the desk with what was given and who asked."""
    response = unix.post(path, json=body)

    assert response.is_success
    assert house.desk.asked == [(verb, {**given, "who": getpass.getuser()})]


@pytest.mark.parametrize("verb", ["cancel", "retry", "approve", "reject"])
def test_acts_on_runs(house: House, unix: httpx.Client, verb: str) -> None:
    """An act on a run takes the end of its id, and needs no body."""
    assert unix.post(f"/v1/runs/{house.story.training[-7:]}/{verb}").is_success
    asked = house.desk.asked[0]
    assert (asked[0], asked[1]["run_id"], asked[1]["reason"]) == (verb, house.story.training, "")


def test_override_needs_a_reason(house: House, unix: httpx.Client) -> None:
    """Promoting over the gate's head without a reason is refused."""
    refused = unix.post("/v1/promote", json={"target": house.story.rejected, "reason": " "})
    done = unix.post("/v1/promote", json={"target": house.story.rejected, "reason": "the gate is too strict"})

    assert (refused.status_code, done.status_code) == (400, 202)
    assert house.desk.asked[0][1]["target"] == house.story.rejected


def test_resolve(house: House, unix: httpx.Client) -> None:
    """An UNKNOWN job is said to be running or failed, nothing else."""
    path = f"/v1/runs/{house.story.training}/resolve"

    assert unix.post(path, json={"as": "gone"}).status_code == 400
    assert unix.post(path, json={"as": "failed", "candidate": "boosting", "reason": "seen dead"}).status_code == 200
    assert house.desk.asked[0][1]["as_"] == "failed"


@pytest.mark.parametrize(
    "failure, status",
    [
        (NotFound("no such model", hint="see models"), 404),
        (Conflict("it has ended"), 409),
        (StoreBusy("disk full", after_seconds=7), 503),
        (RuntimeError("secret path"), 500),
    ],
    ids=["not-found", "conflict", "busy", "bug"],
)
def test_errors_are_problem_documents(house: House, unix: httpx.Client, failure: Exception, status: int) -> None:
    """An error is a problem document with its hint, and never a traceback."""
    house.desk.failure = failure
    response = unix.post("/v1/pause", json={"target": "all"})
    problem = response.json()

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "hint"}
    assert ("secret path" in response.text) is False
    assert status != 503 or response.headers["retry-after"] == "7"


def test_a_refused_configuration_lists_its_problems(house: House, unix: httpx.Client) -> None:
    """A reload of a broken configuration is 422, with every place."""
    house.desk.failure = ConfigError(
        [Problem(file="retrain.yaml", line=3, column=5, path="models.m", message="unknown key")]
    )
    response = unix.post("/v1/reload")

    assert response.status_code == 422
    assert response.json()["problems"][0]["line"] == 3


@pytest.mark.parametrize(
    "method, path, content, kind, status",
    [
        ("POST", "/v1/pause", b'{"target": "all", "target": "m"}', "application/json", 400),
        ("POST", "/v1/pause", b'{"target": NaN}', "application/json", 400),
        ("POST", "/v1/pause", b"target=all", "application/x-www-form-urlencoded", 415),
        ("POST", "/v1/pause", b'{"target": "all"}', "text/plain", 415),
        ("POST", "/v1/pause", b'{"targets": "all"}', "application/json", 422),
        ("POST", "/v1/pause", b"", "application/json", 422),
        ("POST", "/v1/nothing", b"{}", "application/json", 404),
        ("PUT", "/v1/status", b"{}", "application/json", 405),
        ("TRACE", "/v1/status", b"", "", 405),
        ("POST", "/healthz", b"", "", 405),
        ("GET", "/v1/runs?state=WRONG", b"", "", 400),
        ("GET", "/v1/runs?limit=0", b"", "", 422),
        ("GET", "/v1/runs/..%2f..%2fetc", b"", "", 404),
        ("GET", "/v1/runs/%00", b"", "", 404),
        ("GET", "/v1/runs/%ff", b"", "", 404),
    ],
)  # fmt: skip
def test_bad_requests(unix: httpx.Client, method: str, path: str, content: bytes, kind: str, status: int) -> None:
    """What is wrong gets a 4xx that says what, as a problem document."""
    response = unix.request(method, path, content=content, headers={"content-type": kind} if kind else {})

    assert response.status_code == status
    assert response.json()["status"] == status


# ------------------------------------------------------------------------------------------------------- intake

EVENT = {"specversion": "1.0", "id": "1", "source": "/m", "type": "t"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {
    "ce-id": "b-1",
    "ce-source": "/m",
    "ce-specversion": "1.0",
    "ce-type": "t",
    "content-type": "application/json",
}


def stored(house: House, answer: Any) -> Any:
    with house.store.reading() as tx:
        event = tx.events.get(answer["event_id"])
    assert event is not None
    return event


def test_structured(house: House, unix: httpx.Client) -> None:
    """A structured event is stored before it is acknowledged; the same one again is a duplicate."""
    event = {
        **EVENT,
        "data": {"share": 0.4},
        "subject": "x",
        "time": "2026-01-31T12:00:00+01:00",
        "traceparent": "00-a",
    }
    first = unix.post("/v1/events", json=event, headers=STRUCTURED)
    again = unix.post("/v1/events", json=event, headers={"content-type": "Application/CloudEvents+JSON; charset=UTF-8"})
    kept = stored(house, first.json())

    assert first.status_code == 202
    assert first.json()["duplicate"] is False
    assert again.json() == {**first.json(), "duplicate": True}
    assert (kept.origin, kept.data, kept.subject, kept.extensions) == (
        "api",
        {"share": 0.4},
        "x",
        {"traceparent": "00-a"},
    )
    assert kept.time.isoformat() == "2026-01-31T11:00:00+00:00"


def test_batch(house: House, unix: httpx.Client) -> None:
    """A batch is answered with a list; an empty one is fine; one bad item refuses it whole and is named."""
    events = [{**EVENT, "id": str(n)} for n in range(3)]
    taken = unix.post("/v1/events", content=json.dumps(events), headers=BATCH)
    refused = unix.post("/v1/events", content=json.dumps([{**EVENT, "id": "9"}, {**EVENT, "id": ""}]), headers=BATCH)
    later = unix.post("/v1/events", json={**EVENT, "id": "9"}, headers=STRUCTURED)

    assert [receipt["duplicate"] for receipt in taken.json()] == [False] * 3
    assert (unix.post("/v1/events", content=b"[]", headers=BATCH).status_code, refused.status_code) == (202, 400)
    assert "item 1" in refused.json()["detail"]
    assert later.json()["duplicate"] is False


def test_binary(house: House, unix: httpx.Client) -> None:
    """In binary mode attributes are headers: quotes undone, one round of percent-decoding."""
    headers = {**BINARY, "ce-subject": '"caf%C3%A9%20%2541"', "ce-time": "2026-01-31T12:00:00Z", "ce-team": "x"}
    response = unix.post("/v1/events", content=b'{"a": 1}', headers=headers)
    kept = stored(house, response.json())

    assert response.status_code == 202
    assert (kept.subject, kept.data) == ("café %41", {"a": 1})
    assert kept.extensions == {"team": "x", "datacontenttype": "application/json"}


@pytest.mark.parametrize(
    "headers, body, data",
    [
        ({"content-type": "text/csv"}, b"a,b", "a,b"),
        ({"content-type": "application/octet-stream"}, b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        ({"content-type": "application/vnd.x+json"}, b"[1]", [1]),
        ({}, b"", None),
    ],
    ids=["text", "bytes", "json-suffix", "empty"],
)
def test_binary_payloads(house: House, unix: httpx.Client, headers: dict[str, str], body: bytes, data: Any) -> None:
    """Text stays text, JSON is JSON, anything else is base64."""
    mode = {name: value for name, value in BINARY.items() if name != "content-type"}
    response = unix.post("/v1/events", content=body, headers={**mode, **headers})

    assert stored(house, response.json()).data == data


def test_data_base64(house: House, unix: httpx.Client) -> None:
    """data_base64 becomes what its content type says."""
    text = base64.b64encode(b'{"a": 1}').decode()
    response = unix.post(
        "/v1/events", json={**EVENT, "data_base64": text, "datacontenttype": "application/json"}, headers=STRUCTURED
    )

    assert stored(house, response.json()).data == {"a": 1}


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in EVENT.items() if key != name}).encode()


def _with(**more: Any) -> bytes:
    return json.dumps({**EVENT, **more}).encode()


TRAPS: dict[str, tuple[dict[str, str], bytes, int]] = {
    "avro": ({"content-type": "application/cloudevents+avro"}, b"", 415),
    "avro-batch": ({"content-type": "application/cloudevents-batch+avro"}, b"", 415),
    "charset": ({"content-type": "application/cloudevents+json; charset=utf-16"}, b"{}", 415),
    "plain-json": ({"content-type": "application/json"}, _with(), 415),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, b"a=b", 415),
    "no-type": ({}, b"{}", 415),
    "gzip": ({**STRUCTURED, "content-encoding": "gzip"}, b"x", 415),
    "object-as-batch": (BATCH, _with(), 400),
    "array-as-event": (STRUCTURED, b"[]", 400),
    **{f"no-{name}": (STRUCTURED, _without(name), 400) for name in ("id", "source", "type", "specversion")},
    "empty-id": (STRUCTURED, _with(id=""), 400),
    "number-id": (STRUCTURED, _with(id=7), 400),
    "old-version": (STRUCTURED, _with(specversion="0.3"), 400),
    "space-in-source": (STRUCTURED, _with(source="a b"), 400),
    "time-without-zone": (STRUCTURED, _with(time="2026-01-31T12:00:00"), 400),
    "time-out-of-range": (STRUCTURED, _with(time="2026-02-31T12:00:00Z"), 400),
    "time-before-time": (STRUCTURED, _with(time="0001-01-01T00:00:00+14:00"), 400),
    "both-data": (STRUCTURED, _with(data=1, data_base64="MQ=="), 400),
    "bad-base64": (STRUCTURED, _with(data_base64="%%"), 400),
    "capital-name": (STRUCTURED, _with(Team="x"), 400),
    "object-extension": (STRUCTURED, _with(team={}), 400),
    "control-in-type": (STRUCTURED, _with(type="a\nb"), 400),
    "twice": (STRUCTURED, b'{"id": "1", "id": "2"}', 400),
    "nan": (STRUCTURED, b'{"data": NaN}', 400),
    "huge-number": (STRUCTURED, b'{"data": 1e999}', 400),
    "nul": (STRUCTURED, b'{"data": "\\u0000"}', 400),
    "surrogate": (STRUCTURED, b'{"data": "\\ud800"}', 400),
    "not-utf8": (STRUCTURED, b'{"data": "\xff"}', 400),
    "bom": (STRUCTURED, b"\xef\xbb\xbf{}", 400),
    "deep": (STRUCTURED, b"[" * 100_000, 400),
    "long-integer": (STRUCTURED, b"9" * 5000, 400),
    "long-id": (STRUCTURED, _with(id="x" * 3000), 400),
    "ce-datacontenttype": ({**BINARY, "ce-datacontenttype": "text/plain"}, b"1", 400),
    "overlong-utf8": ({**BINARY, "ce-subject": "%C0%A0"}, b"1", 400),
    "binary-no-type": ({k: v for k, v in BINARY.items() if k != "ce-type"}, b"1", 400),
    "binary-bad-json": (BINARY, b"{", 400),
    "injected-header": ({**BINARY, "ce-subject": "a%0d%0ab"}, b"1", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_traps(house: House, unix: httpx.Client, name: str) -> None:
    """Each malformed event is refused with a reason, and nothing is stored."""
    headers, body, status = TRAPS[name]
    before = Views(house.store).events(limit=500)
    response = unix.post("/v1/events", content=body, headers=headers)

    assert response.status_code == status
    assert response.json()["detail"]
    assert Views(house.store).events(limit=500) == before


def test_too_long_is_refused_before_it_is_read(house: House) -> None:
    """413 by the announced length, and by what comes when none is announced."""
    with house.raw() as client:
        head = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GOOD}\r\n"
        client.sendall(f"{head}content-length: 99999999\r\n\r\n".encode())
        announced = client.recv(4096)
    with house.raw() as client:
        client.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
        unannounced = _send_until_answered(client, chunk)

    assert announced.startswith(b"HTTP/1.1 413")
    assert unannounced.startswith(b"HTTP/1.1 413")


def _send_until_answered(client: socket.socket, piece: bytes) -> bytes:
    try:
        for _ in range(100):
            client.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        return client.recv(4096)
    except ConnectionResetError:
        return b"HTTP/1.1 413 (the answer was lost with the connection)"


def test_a_busy_store_is_503(house: House, unix: httpx.Client) -> None:
    """What cannot be stored now is not acknowledged, and the producer is told when to come again."""
    house.inbox.failure = StoreBusy("the disk is full", after_seconds=2.2)
    response = unix.post("/v1/events", json=EVENT, headers=STRUCTURED)

    assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_options_grants_a_producer(unix: httpx.Client) -> None:
    """A producer of web hooks that asks for consent gets it."""
    response = unix.options("/v1/events", headers={"webhook-request-origin": "eventemitter.example.com"})

    assert response.headers["webhook-allowed-origin"] == "eventemitter.example.com"
    assert response.headers["webhook-allowed-rate"] == "*"


# ------------------------------------------------------------------------------------------------- slow and hostile


def _answer(client: socket.socket) -> bytes:
    parts = []
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent, answered",
    [
        (b"", b""),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 408"),
        (b"GET /heal", b"HTTP/1.1 408"),
        (
            f"POST /v1/events HTTP/1.1\r\nauthorization: Bearer {GOOD}\r\ncontent-length: 10\r\n\r\nabc".encode(),
            b"HTTP/1.1 408",
        ),
    ],
    ids=["nothing", "header", "request-line", "body"],
)
def test_slow_clients_are_cut(start: Callable[..., House], sent: bytes, answered: bytes) -> None:
    """A header or body that does not come in time ends the connection; others are not held up."""
    house = start(SHORT)
    with house.raw() as slow, house.tcp() as quick:
        slow.sendall(sent)
        assert quick.get("/healthz").status_code == 200
        answer = _answer(slow)

    assert answer.startswith(answered)
    assert bool(answer) == bool(answered)


def test_trickling_does_not_help(start: Callable[..., House]) -> None:
    """A header that comes byte by byte is cut at the deadline, not an idle time after the last byte."""
    house = start(SHORT)
    with house.raw() as slow:
        slow.settimeout(0.02)
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        count, answer = 0, b""
        while not answer and count < 400:
            count += 1
            try:
                slow.sendall(b"x")
                answer = slow.recv(4096)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break

    assert answer.startswith(b"HTTP/1.1 408")
    assert count < 100


def test_idle_connections_are_closed(start: Callable[..., House]) -> None:
    """A connection kept alive is closed when nothing more comes."""
    house = start(SHORT)
    with house.raw() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = _answer(client)

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent, status",
    [
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\na: " + b"b" * 70_000, b"431"),
        (b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"POST /v1/events HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/events HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\na: b\r\n c\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
    ],
    ids=["many-headers", "long-header", "long-url", "cl-and-te", "two-cl", "http-0.9", "folded", "tls"],
)
def test_malformed_requests_are_refused(house: House, sent: bytes, status: bytes) -> None:
    """What the protocol does not allow is refused and the connection closed; never a 500."""
    with house.raw() as client:
        client.sendall(sent)
        answer = _answer(client)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in answer.lower()


def test_connections_of_one_address_are_bounded(start: Callable[..., House]) -> None:
    """The ninth of eight connections is refused; when one closes there is room again."""
    house = start(Limits(connections_per_address=8))
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n"
    clients = [house.raw() for _ in range(8)]
    for client in clients:
        client.sendall(request)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    with house.raw() as ninth:
        assert _answer(ninth).startswith(b"HTTP/1.1 503")
    for client in clients:
        client.close()

    def room() -> bool:
        with house.raw() as again:
            again.sendall(request)
            return again.recv(4096).startswith(b"HTTP/1.1 200")

    wait_until(room)


# ------------------------------------------------------------------------------------------------------ listening


def test_a_stale_socket_is_replaced(start: Callable[..., House], tmp_path: Path) -> None:
    """What a killed daemon left behind is in nobody's way; the socket goes with the server."""
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    house = start(socket_path=path)

    assert path.is_socket()
    house.server.stop()
    assert not path.exists()


def test_a_socket_in_use_is_refused(house: House) -> None:
    """A second server does not take over the first one's socket or port."""
    with pytest.raises(Conflict, match="another daemon answers"):
        Server(house.server._app, house.socket_path).start()
    with pytest.raises(Conflict, match="another program listens"):
        Server(house.server._app, None, ("127.0.0.1", house.port)).start()

    assert house.socket_path.is_socket()


def test_a_file_is_not_overwritten(house: House, tmp_path: Path) -> None:
    """A file where the socket should be is left alone."""
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        Server(house.server._app, file).start()

    assert file.read_text() == "precious"


def test_a_long_path(start: Callable[..., House], tmp_path: Path) -> None:
    """A socket deep in folders works, though the kernel bounds its name."""
    path = tmp_path / ("d" * 60) / ("e" * 60) / "s.sock"
    start(socket_path=path)
    folder = os.open(path.parent, os.O_PATH)
    transport = httpx.HTTPTransport(uds=f"/proc/self/fd/{folder}/s.sock")
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        status = client.get("/healthz").status_code
    os.close(folder)

    assert status == 200
