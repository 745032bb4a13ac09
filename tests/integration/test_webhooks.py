"""Hooks as their senders meet them: raw sockets against a real server, and alerts against the whole daemon."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from controller.api.app import make_app
from controller.api.hooks import INLINE_BYTES, Hooks
from controller.api.server import Limits, Server
from controller.clock import SystemClock
from controller.config import load_config
from controller.core.model import NewEvent
from controller.daemon import Daemon
from controller.errors import GiveUp, NotFound, RetryLater, StoreBusy
from controller.ports import Batch, PluginOptions, PushSource, Reply, Request, Taken
from controller.store.views import Views
from controller.telemetry import configure_logs
from controller.testing import ManualClock, MemoryInbox, RecordingLog, wait_until
from tests.rawsocket import connect, everything, send_until_answered, trickle
from tests.webhooks import TOKEN, Intake, content, mac, make_source, payload

SHORT = Limits(header_seconds=0.3, body_seconds=0.4, keep_alive_seconds=1, connections_per_address=64)
ALERT = payload("alertmanager/firing")
PROOF = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


class Scripted:
    """A plugin of somebody else's, which does what a test says; it notes on which thread."""

    Options = PluginOptions
    max_bytes = 8 << 20

    def __init__(self) -> None:
        self.answer: Callable[[Request], Taken] = lambda request: Taken(batch=Batch(events=()))
        self.threads: list[str] = []
        self.requests: list[Request] = []

    def take(self, request: Request) -> Taken:
        self.threads.append(threading.current_thread().name)
        self.requests.append(request)
        return self.answer(request)


@dataclass
class House:
    """A server with hooks over an inbox in memory."""

    inbox: MemoryInbox
    intake: Intake
    scripted: Scripted
    server: Server
    log: RecordingLog
    refused: Counter
    hooks: dict[str, PushSource] = field(default_factory=dict)

    @property
    def url(self) -> str:
        assert self.server.address is not None
        return f"http://127.0.0.1:{self.server.address[1]}"

    def raw(self) -> socket.socket:
        assert self.server.address is not None
        return connect(self.server.address[1])

    def count(self, source: str, reason: str) -> float:
        return self.refused.labels(source, reason)._value.get()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(limits: Limits | None = None) -> House:
        clock = SystemClock()
        inbox = MemoryInbox(name="alerts", clock=clock)
        intake, log, scripted = Intake(inbox), RecordingLog(), Scripted()
        refused = Counter("refused", "", ["source", "reason"], registry=CollectorRegistry())
        sources: dict[str, PushSource] = {
            "alerts": make_source(inbox, tmp_path, format="alertmanager"),
            "events": make_source(inbox, tmp_path, format="cloudevents"),
            "scripted": scripted,
        }
        hooks = Hooks(
            sources.get,
            intake,
            clock=ManualClock(),
            log=log,
            refused=lambda source, reason: refused.labels(source, reason).inc(),
        )
        unused: Any = type("Nothing", (), {"token": None, "__getattr__": lambda self, name: lambda *a, **k: None})()
        app = make_app(
            desk=unused,
            views=unused,
            inbox=intake,
            health=unused,
            logs=unused,
            policies=dict,
            clock=clock,
            log=log,
            hooks=hooks,
        )
        server = Server(app, None, ("127.0.0.1", 0), limits=limits)
        server.start()
        houses.append(House(inbox, intake, scripted, server, log, refused, sources))
        return houses[-1]

    yield build
    for house in houses:
        house.server.stop()


@pytest.fixture
def house(start: Callable[..., House]) -> House:
    return start()


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.url, headers=PROOF) as made:
        yield made


def head(*lines: str, path: str = "/hooks/alerts", proof: bool = True) -> bytes:
    """Return the header of a request."""
    proofs = [f"{name}: {value}" for name, value in PROOF.items()] if proof else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *proofs, *lines, "", ""]).encode()


# ------------------------------------------------------------------------------------------------------ good ones


def test_stored_and_then_answered(house: House, client: httpx.Client) -> None:
    """202 with the receipts, 200 when everything was known."""
    first = client.post("/hooks/alerts", content=ALERT)
    second = client.post("/hooks/alerts", content=payload("alertmanager/repeat"))

    assert (first.status_code, first.json()) == (202, {"events": [{"event_id": "evt-1", "duplicate": False}]})
    assert (second.status_code, second.json()) == (200, {"events": [{"event_id": "evt-1", "duplicate": True}]})
    assert [event.type for event in house.inbox.events] == ["alert.FeatureDrift"]


def test_a_group_that_is_partly_known_is_accepted(house: House, client: httpx.Client) -> None:
    """One new alert is enough for 202."""
    client.post("/hooks/alerts", content=payload("alertmanager/resolved"))
    answer = client.post("/hooks/alerts", content=payload("alertmanager/mixed-truncated"))

    assert answer.status_code == 202
    assert [each["duplicate"] for each in answer.json()["events"]] == [False, True, False]


def test_what_is_kept_is_said(house: House, client: httpx.Client) -> None:
    """Alertmanager would drop it for good, so it is 202: stored as a dead letter, counted and logged."""
    answer = client.post("/hooks/alerts", content=b"{")

    assert answer.status_code == 202
    assert answer.json()["kept"].startswith("not understood, kept as a dead letter: not JSON")
    assert [letter.body for letter in house.inbox.dead.values()] == [b"{"]
    assert house.count("alerts", "dead_letter") == 1
    assert [(line[1], line[2]["reason"]) for line in house.log.lines] == [("hook.refused", "dead_letter")]


def test_producers_of_cloudevents_get_consent(house: House, client: httpx.Client) -> None:
    """By OPTIONS, without a proof; the proof is asked of what they send."""
    granted = client.options(
        "/hooks/events", headers={"webhook-request-origin": "events.example.org", "authorization": ""}
    )
    sent = client.post(
        "/hooks/events",
        content=payload("cloudevents/batch"),
        headers={"content-type": "application/cloudevents-batch+json"},
    )
    unproven = httpx.post(f"{house.url}/hooks/events", content=payload("cloudevents/structured"))

    assert (granted.status_code, granted.headers["webhook-allowed-origin"]) == (200, "events.example.org")
    assert granted.headers["webhook-allowed-rate"] == "*"
    assert (sent.status_code, len(sent.json()["events"])) == (202, 3)
    assert unproven.status_code == 401


def test_a_request_reaches_its_source_as_it_came(house: House, client: httpx.Client) -> None:
    """Bytes, query, repeated headers, what follows the name."""
    client.post(
        "/hooks/scripted/deep/er?a=1&a=%20",
        content=b"\x00\xff",
        headers=[("x-twice", "1"), ("x-twice", "2"), ("x-latin", b"\xfc")],
    )
    (request,) = house.scripted.requests

    assert (request.path, request.query, request.body) == ("/deep/er", "a=1&a=%20", b"\x00\xff")
    assert [value for name, value in request.headers if name == "x-twice"] == ["1", "2"]
    assert request.header("x-latin") == "ü"


def test_large_bodies_do_not_hold_up_the_server(house: House, client: httpx.Client) -> None:
    """Small ones are read on the server's thread, large ones beside it."""
    client.post("/hooks/scripted", content=b"x" * INLINE_BYTES)
    client.post("/hooks/scripted", content=b"x" * (INLINE_BYTES + 1))

    assert house.scripted.threads[0] == "http"
    assert house.scripted.threads[1] != "http"


def test_a_large_batch_is_taken(house: House, client: httpx.Client) -> None:
    """Half a mebibyte of events in one request."""
    events = [{"specversion": "1.0", "id": f"{n}", "source": "/s", "type": "t", "data": "x" * 200} for n in range(1800)]
    answer = client.post(
        "/hooks/events", content=json.dumps(events), headers={"content-type": "application/cloudevents-batch+json"}
    )

    assert answer.status_code == 202
    assert len(house.inbox.events) == 1800


# ------------------------------------------------------------------------------------------------------ bad ones


WRONG_PROOFS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": "Basic YTpi"},
    {"x-hub-signature-256": "sha256=00"},
]


def test_who_proves_nothing_learns_nothing(house: House) -> None:
    """One and the same 401, whatever was wrong and whatever was sent; counted each time, logged once."""
    answers = []
    with httpx.Client(base_url=house.url) as client:
        for proof in WRONG_PROOFS:
            for body in (ALERT, b"{", b"x" * 200_000):
                response = client.post(
                    "/hooks/alerts", content=body, headers={"content-type": "application/json", **proof}
                )
                headers = {key: value for key, value in response.headers.items() if key != "date"}
                answers.append((response.status_code, tuple(sorted(headers.items())), response.content))

    assert len(set(answers)) == 1
    status, headers, _ = answers[0]
    assert (status, dict(headers)["www-authenticate"]) == (401, 'Bearer realm="retrain"')
    assert not house.inbox.events
    assert not house.inbox.dead
    assert house.count("alerts", "unauthorized") == len(answers)
    assert [(line[1], line[2]["why"]) for line in house.log.lines] == [("hook.refused", "bearer: there is no token")]


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/hooks/alerts", 405),
        ("PUT", "/hooks/alerts", 405),
        ("DELETE", "/hooks/alerts", 405),
        ("TRACE", "/hooks/alerts", 405),
        ("HEAD", "/hooks/alerts", 405),
        ("POST", "/hooks/", 404),
        ("POST", "/hooks/nobody", 404),
        ("OPTIONS", "/hooks/nobody", 404),
        ("GET", "/hooks/nobody", 404),
        ("POST", "/hooks/..%2falerts", 404),
        ("POST", "/hooks/%61lerts%252f", 404),
        ("POST", "/hooks/alerts/below", 404),
        ("POST", "/hooks/alerts/..%2f..%2fv1%2fevents", 404),
        ("POST", "/hooks/%ff", 404),
    ],
)
def test_paths_and_methods_that_are_none(
    house: House, client: httpx.Client, method: str, path: str, status: int
) -> None:
    """404 and 405 as problem documents; 405 says what is allowed."""
    response = client.request(method, path, content=ALERT if method in ("POST", "PUT") else None)

    assert response.status_code == status
    assert status != 405 or response.headers["allow"] == "POST, OPTIONS"
    assert method == "HEAD" or response.json()["status"] == status
    assert not house.inbox.events


@pytest.mark.parametrize(
    "headers, status, reason",
    [
        ({"content-type": "text/plain"}, 415, "content_type"),
        ({"content-type": "multipart/form-data; boundary=b"}, 415, "content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "content_type"),
        ({"content-encoding": "gzip"}, 415, "content_type"),
        ({"content-encoding": "identity, gzip"}, 415, "content_type"),
    ],
)
def test_types_and_encodings_that_are_none(
    house: House, client: httpx.Client, headers: dict[str, str], status: int, reason: str
) -> None:
    """Nothing is unpacked, and what a web page may send unasked is not taken."""
    response = client.post("/hooks/alerts", content=ALERT, headers=headers)

    assert response.status_code == status
    assert house.count("alerts", reason) == 1
    assert not house.inbox.events


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe[\x00]\x00", b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"a": 1, "a": 1}', b"[NaN]", b"[1e999]", b"[Infinity]",
        b"[" * 100_000, b"[" + b"9" * 5_000 + b"]", b"\xef\xbb\xbf{}",
    ],
    ids=range(10),
)  # fmt: skip
def test_json_that_is_not_strict_is_refused(house: House, client: httpx.Client, body: bytes) -> None:
    """Where the sender knows what 400 means; the reason is named."""
    response = client.post("/hooks/events", content=body, headers={"content-type": "application/cloudevents+json"})

    assert response.status_code == 400
    assert response.json()["detail"]
    assert house.count("events", "malformed") == 1


def test_oversize_is_refused_before_it_is_read(house: House) -> None:
    """413 for an announced body before any of it came, and for an endless one at the limit; then the connection ends."""
    with house.raw() as client:
        client.sendall(head(f"content-length: {2 << 20}"))
        announced = everything(client)
    with house.raw() as client:
        client.sendall(head("transfer-encoding: chunked"))
        chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
        unannounced = send_until_answered(client, chunk)

    assert announced.startswith(b"HTTP/1.1 413")
    assert unannounced.startswith(b"HTTP/1.1 413")
    assert house.count("alerts", "too_large") == 2


def test_the_limit_is_the_sources_own(house: House, client: httpx.Client) -> None:
    """Another source takes more."""
    assert client.post("/hooks/scripted", content=b"x" * (2 << 20)).status_code == 200


@pytest.mark.parametrize(
    "lines, expected",
    [
        (["content-length: 2", "content-type: text/plain"], b"HTTP/1.1 415"),
        (["content-length: 2", "transfer-encoding: chunked"], b"HTTP/1.1 400"),
        (["content-length: 2", "content-length: 3"], b"HTTP/1.1 400"),
        (["content-length: 2", " folded: line"], b"HTTP/1.1 400"),
        (["content-length: -2"], b"HTTP/1.1 400"),
        (["transfer-encoding: gzip, chunked", "transfer-encoding: identity"], b"HTTP/1.1 400"),
    ],
    ids=["two content types", "CL and TE", "two CL", "folded header", "negative CL", "two TE"],
)
def test_ambiguous_requests_are_refused(house: House, lines: list[str], expected: bytes) -> None:
    """Whoever stands between must not read them in another way."""
    with house.raw() as client:
        client.sendall(head(*lines, "connection: close") + b"{}")
        answer = everything(client)

    assert answer.startswith(expected)
    assert not house.inbox.events
    assert not house.inbox.dead


# ------------------------------------------------------------------------------------------------------ slow ones


@pytest.mark.parametrize(
    "sent",
    [
        head()[:-2],
        head("content-length: 100") + b"{",
        head("transfer-encoding: chunked") + b"2\r\n{}\r\n",
    ],
    ids=["header", "body", "chunks"],
)
def test_slow_senders_are_cut(start: Callable[..., House], sent: bytes) -> None:
    """A header or a body that does not come in time is 408; meanwhile others are answered, and nothing of it is stored."""
    house = start(SHORT)
    with house.raw() as slow, httpx.Client(base_url=house.url, headers=PROOF) as quick:
        slow.sendall(sent)
        assert quick.post("/hooks/alerts", content=ALERT).status_code == 202
        answer = everything(slow)

    assert answer.startswith(b"HTTP/1.1 408")
    assert len(house.inbox.events) == 1
    assert not house.inbox.dead


def test_trickling_a_body_does_not_help(start: Callable[..., House]) -> None:
    """The deadline is for the whole body, in pieces or not."""
    house = start(SHORT)
    with house.raw() as slow:
        answer, count = trickle(slow, head("transfer-encoding: chunked"), b"1\r\n{\r\n")

    assert answer.startswith(b"HTTP/1.1 408")
    assert count < 100


def test_fifty_slow_ones_hold_nobody_up(start: Callable[..., House]) -> None:
    """While fifty connections send nothing, alerts are taken."""
    house = start(SHORT)
    slow = [house.raw() for _ in range(50)]
    try:
        for each in slow:
            each.sendall(head("content-length: 100"))
        with httpx.Client(base_url=house.url, headers=PROOF, timeout=2) as quick:
            statuses = [quick.post("/hooks/alerts", content=ALERT).status_code for _ in range(20)]
    finally:
        for each in slow:
            each.close()

    assert statuses == [202] + [200] * 19


def test_who_leaves_before_the_answer_may_come_again(house: House, client: httpx.Client) -> None:
    """What was sent whole is stored although nobody waits for the answer; sent again it is known. A part of it is nothing."""
    with house.raw() as gone:
        gone.sendall(head(f"content-length: {len(ALERT)}") + ALERT)
    wait_until(lambda: house.inbox.events)
    again = client.post("/hooks/alerts", content=ALERT)
    other = payload("alertmanager/resolved")
    with house.raw() as gone:
        gone.sendall(head(f"content-length: {len(other)}") + other[:-5])
    later = client.post("/hooks/alerts", content=ALERT)

    assert (again.status_code, again.json()["events"][0]["duplicate"]) == (200, True)
    assert later.status_code == 200
    assert len(house.inbox.events) == 1
    assert not [line for line in house.log.lines if line[0] == "error"]


# ----------------------------------------------------------------------------------------------------- our faults


def test_a_busy_store_is_503_and_never_429(house: House, client: httpx.Client) -> None:
    """With when to come again; nothing was written, and nothing is acknowledged."""
    house.intake.refusal = StoreBusy("the disk is full", after_seconds=2.2)
    busy = client.post("/hooks/alerts", content=ALERT)
    house.intake.refusal = None
    later = client.post("/hooks/alerts", content=ALERT)

    assert (busy.status_code, busy.headers["retry-after"]) == (503, "3")
    assert house.count("alerts", "busy") == 1
    assert later.status_code == 202


def _raise(error: Exception) -> Callable[[Request], Taken]:
    def answer(request: Request) -> Taken:
        raise error

    return answer


def _reply(status: int) -> Callable[[Request], Taken]:
    return lambda request: Taken(batch=Batch(events=()), reply=Reply(status=status, body={"moved": "there"}))


@pytest.mark.parametrize(
    "answer",
    [
        _raise(ZeroDivisionError("a secret path")),
        _raise(RetryLater("later")),
        _raise(GiveUp("no more")),
        _raise(StoreBusy("full", after_seconds=1)),
        _reply(302),
        _reply(429),
        _reply(500),
    ],
    ids=["bug", "later", "give up", "busy", "redirect", "too many", "its own 500"],
)
def test_a_fault_is_503_with_when_to_come_again(
    house: House, client: httpx.Client, answer: Callable[[Request], Taken]
) -> None:
    """Never a 500, a redirect or a 429, and never a traceback, whatever a plugin does."""
    house.scripted.answer = answer
    for body in (b"small", b"large" * INLINE_BYTES):
        response = client.post("/hooks/scripted", content=body)

        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert "secret path" not in response.text


def test_a_reply_is_given_after_storing(house: House, client: httpx.Client) -> None:
    """A source's own reply stands instead of the receipts, with its headers; what is stored is stored before."""
    event = NewEvent(source="/s", source_id="1", type="t")
    house.scripted.answer = lambda request: Taken(
        batch=Batch(events=[event]), reply=Reply(status=201, body={"ok": True}, headers=[("X-Mine", "1")])
    )
    created = client.post("/hooks/scripted")
    house.intake.refusal = StoreBusy("full")
    busy = client.post("/hooks/scripted")
    house.scripted.answer = lambda request: Taken(batch=Batch(events=()), reply=Reply(status=204))
    empty = client.post("/hooks/scripted")

    assert (created.status_code, created.json(), created.headers["x-mine"]) == (201, {"ok": True}, "1")
    assert len(house.inbox.events) == 1
    assert busy.status_code == 503
    assert (empty.status_code, empty.content) == (204, b"")


def test_a_source_may_say_that_there_is_nothing(house: House, client: httpx.Client) -> None:
    """Its 404 is a problem document like any other."""
    house.scripted.answer = _raise(NotFound("no such thing", hint="look elsewhere"))
    response = client.post("/hooks/scripted")

    assert (response.status_code, response.json()["hint"]) == (404, "look elsewhere")


# ------------------------------------------------------------------------------------------------- the whole daemon

CONFIG = """\
version: 1
store: sqlite:///retrain.db
http: {{socket: s.sock, listen: "127.0.0.1:{port}"}}
sources:
  alerts: {{type: webhook, format: alertmanager, verify: {{bearer: ["file:token", "file:old"]}}}}
  code: {{type: webhook, format: github, verify: {{hmac: {{secret: "file:token"}}}}}}
models:
  churn:
    policies: {{drift: {{on: {{type: "alert.*"}}}}}}
    train: {{command: ["true"]}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.chdir(tmp_path)  # the path of a Unix socket must be short
    for name, secret in (("token", TOKEN), ("old", "the token before that")):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "retrain.yaml").write_text(CONFIG.format(port=free_port()))
    configure_logs(style="text", stream=io.StringIO())
    running = Daemon(load_config(tmp_path / "retrain.yaml"))
    running.start()
    yield running
    running.stop()
    structlog.reset_defaults()


def post(daemon: Daemon, name: str, body: bytes, headers: Sequence[tuple[str, str]]) -> httpx.Response:
    listen = daemon.runtime.config.http.listen
    assert listen is not None
    given = [("content-type", "application/json"), *headers]
    return httpx.post(f"http://{listen[0]}:{listen[1]}/hooks/{name}", content=body, headers=given, timeout=10)


def state_of(daemon: Daemon, event_id: str) -> str:
    return Views(daemon.store).event_state(event_id)


def test_from_an_alert_to_a_decision(daemon: Daemon) -> None:
    """An alert is stored and decided, its repeat is known, a push by its signature; none of them needs a token of the API."""
    bearer = [("authorization", f"Bearer {TOKEN}")]
    fired = post(daemon, "alerts", ALERT, bearer)
    repeated = post(
        daemon, "alerts", payload("alertmanager/repeat"), [("authorization", "Bearer the token before that")]
    )
    push = payload("github/push")
    signature = f"sha256={mac(TOKEN, push).hex()}"
    pushed = post(daemon, "code", push, [("x-github-event", "push"), ("x-hub-signature-256", signature)])
    refused = post(daemon, "code", push, [("x-github-event", "push"), ("x-hub-signature-256", signature[:-1] + "x")])

    assert [answer.status_code for answer in (fired, repeated, pushed, refused)] == [202, 200, 202, 401]
    event_id = fired.json()["events"][0]["event_id"]
    assert repeated.json()["events"] == [{"event_id": event_id, "duplicate": True}]
    wait_until(lambda: state_of(daemon, event_id) == "PROCESSED")
    assert daemon.crew.sources.notes("alerts")["mapping"][1] == "1 event: alert.FeatureDrift"
    assert str(daemon.crew.sources.notes("code")["signature"][1]).startswith("refused: hmac: ")
    exposed = daemon.metrics.hooks_refused.labels("code", "unauthorized")._value.get()
    assert exposed == 1


def test_dead_letters_and_a_reload(daemon: Daemon, tmp_path: Path) -> None:
    """What nobody understands waits for a person; a hook that is taken out of the configuration is gone, the others stay."""
    bearer = [("authorization", f"Bearer {TOKEN}")]
    kept = post(daemon, "alerts", json.dumps(content("alertmanager/custom-payload")).encode(), bearer)
    text = (tmp_path / "retrain.yaml").read_text()
    (tmp_path / "retrain.yaml").write_text("\n".join(line for line in text.splitlines() if "code:" not in line))
    daemon.reload(who="a test")

    assert (kept.status_code, "kept" in kept.json()) == (202, True)
    assert post(daemon, "code", b"{}", []).status_code == 404
    assert post(daemon, "alerts", ALERT, bearer).status_code == 202
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "s.sock")), base_url="http://x") as client:
        letters = client.get("/v1/dead").json()["items"]
    assert [(letter["source"], "version '4'" in letter["error"]) for letter in letters] == [("alerts", True)]


def test_a_token_that_is_taken_back_is_worth_nothing(daemon: Daemon, tmp_path: Path) -> None:
    """Within five seconds of the file's change, without a reload."""
    (tmp_path / "token").write_text("a new token")
    old, new = [("authorization", f"Bearer {TOKEN}")], [("authorization", "Bearer a new token")]

    wait_until(lambda: post(daemon, "alerts", ALERT, old).status_code == 401, timeout=5)

    assert post(daemon, "alerts", ALERT, new).is_success
