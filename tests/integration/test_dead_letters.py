"""Dead letters from a source to a person and back, with the daemon in this process: the API and `retrainctl`, and without the daemon."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from typer.testing import CliRunner, Result

from controller import plugins
from controller.cli.main import app
from controller.config import load_config
from controller.core.model import DeadLetter, NewEvent
from controller.daemon import Daemon
from controller.errors import InvalidInput
from controller.ports import Batch, PluginOptions, SourceContext, Stop
from controller.telemetry import configure_logs
from controller.testing.fakes import wait_until

RUNNER = CliRunner()
SECRET = "hunter2hunter2"
POISON = json.dumps({"password": SECRET, "ids": ["a", "b"]}).encode()
CONFIG = """\
version: 1
store: sqlite:///retrain.db
http: {socket: s.sock}
dead_letters: {keep: 50}
sources:
  bus: {type: poisoned}
  other: {type: poisoned}
models:
  churn:
    policies: {drift: {on: {type: "drift.*"}}}
    train: {command: ["true"]}
"""


class Poisoned:
    """A source that understands nothing that is put into `feed` until `understood` is there."""

    Options = PluginOptions
    #: What each source of an installation is to emit, and what was stored of it, by its name.
    feed: dict[tuple[Path, str], list[Batch]] = {}  # noqa: RUF012 - how a test reaches the source in the daemon

    def __init__(self, options: PluginOptions, context: SourceContext) -> None:
        self._context = context
        self._feed = self.feed.setdefault((context.base, context.name), [])

    def run(self, stop: Stop) -> None:
        """Emit what is fed."""
        while not stop.wait(0.005):
            while self._feed and not stop.is_set():
                self._context.emit(self._feed[0])
                del self._feed[0]

    def read_again(self, letter: DeadLetter) -> Sequence[NewEvent]:
        """Understand, if it is time."""
        if not (self._context.base / "understood").exists():
            raise InvalidInput("the field 'ids' is not known yet")
        ids = json.loads(letter.body or b"")["ids"]
        return [NewEvent(source="/bus", source_id=each, type="drift.seen") for each in ids]


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a configuration, and the plugin installed while the test runs."""
    metadata = tmp_path_factory.mktemp("plugins") / "poisoned_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: poisoned-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[controller.sources]\npoisoned = {__name__}:Poisoned\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(metadata.parent)])
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    plugins._found.cache_clear()
    configure_logs(style="text", stream=io.StringIO())  # else the daemon's lines stand among the command's
    yield tmp_path
    structlog.reset_defaults()
    plugins._found.cache_clear()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Daemon]]:
    running: list[Daemon] = []

    def begin() -> Daemon:
        daemon = Daemon(load_config(folder / "retrain.yaml"))
        daemon.start()
        running.append(daemon)
        return daemon

    yield begin
    for daemon in running:
        daemon.stop()


@pytest.fixture
def daemon(start: Callable[[], Daemon]) -> Daemon:
    return start()


@pytest.fixture
def client(daemon: Daemon, folder: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(folder / "s.sock"))
    with httpx.Client(base_url="http://localhost", transport=transport, timeout=20) as client:
        yield client


def feed(folder: Path, *batches: Batch, source: str = "bus") -> None:
    """Let a source emit, and wait until all of it is stored."""
    queue = Poisoned.feed[folder, source]
    queue.extend(batches)
    wait_until(lambda: not queue, what=f"{source} to emit")


def poison(*places: str, body: bytes = POISON, reason: str = "the field 'ids' is not known", **fields: Any) -> Batch:
    size = fields.pop("size", len(body))
    return Batch(
        events=[], dead=[DeadLetter(place=each, reason=reason, body=body, size=size, **fields) for each in places]
    )


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def ids(*arguments: str) -> list[str]:
    return [item["id"] for item in answer("dead", "list", *arguments)["items"]]


# ------------------------------------------------------------------------------------------------------ retrainctl


def test_from_a_source_to_a_person_and_back(daemon: Daemon, folder: Path) -> None:
    """Listed, shown without secrets, still dead while it makes no sense, then replayed and decided."""
    feed(folder, poison("t/0/1", meta={"headers": [["authorization", f"Bearer {SECRET}"], ["x", "1"]]}))
    (letter_id,) = ids()
    table = run("dead", "list")
    shown = run("dead", "show", letter_id[-6:])
    raw = run("dead", "show", letter_id, "--raw")
    refused = run("dead", "replay", letter_id, "-r", "try")

    assert (table.exit_code, shown.exit_code, raw.exit_code) == (0, 0, 0)
    assert all(word in table.stdout for word in (letter_id, "raw", "bus", "DEAD", "t/0/1", "the field"))
    assert max(len(line) for line in table.stdout.splitlines()) <= 100
    assert "password" in shown.stdout
    assert SECRET not in shown.stdout
    assert '"x"' in shown.stdout
    assert raw.stdout_bytes == POISON
    assert refused.exit_code == 1
    assert "still dead: the field 'ids' is not known yet" in refused.stdout
    (folder / "understood").touch()
    done = answer("dead", "replay", letter_id[-6:], "-r", "mended")
    assert (done["state"], len(done["events"])) == ("REPLAYED", 2)
    wait_until(lambda: answer("runs", "list")["items"], what="a run")
    assert run("dead", "replay", letter_id, "-r", "again").exit_code == 5
    assert ids("--state", "replayed") == [letter_id]
    assert "REPLAYED" in run("dead", "show", letter_id).stdout


def test_several_and_all(daemon: Daemon, folder: Path) -> None:
    """Ids, a source, everything; exit code 1 when some stay dead, 4 for a name that is none, 2 for nothing asked."""
    feed(folder, poison("1", "2", "3", "4"))
    feed(folder, poison("5"), source="other")
    four = ids("--source", "bus")
    assert len(four) == 4

    assert run("dead", "replay", four[0], four[1], "-r", "").exit_code == 1
    assert run("dead", "replay", four[0], "nothing-like-it", "-r", "").exit_code == 4
    assert run("dead", "replay", "-r", "").exit_code == 2
    assert run("dead", "drop", "--source", "bus", "-r", "x").exit_code == 2
    assert run("dead", "drop", four[0]).exit_code == 2
    assert answer("dead", "drop", four[0], "-r", "ours")["state"] == "DROPPED"
    (folder / "understood").touch()
    assert answer("dead", "replay", "--source", "bus", "-r", "mended") == {"done": 3, "failed": []}
    assert answer("dead", "replay", "--all", "-r", "mended") == {"done": 1, "failed": []}
    assert ids() == []
    feed(folder, poison("6", "7"))
    dropped = run("dead", "drop", "--source", "bus", "--all", "-r", "a test of theirs")
    assert dropped.stdout == "2 dropped\n"
    assert len(ids("--state", "dropped")) == 3


def test_without_the_daemon(start: Callable[[], Daemon], folder: Path) -> None:
    """What can be read is read from the database; what changes something needs the daemon."""
    daemon = start()
    feed(folder, poison("1", body=b"\x00\xff not text"))
    daemon.stop()

    (letter_id,) = ids()
    shown, raw = run("dead", "show", letter_id[-5:]), run("dead", "show", letter_id, "--raw")

    assert "not text|" in shown.stdout
    assert "read from the database" in shown.stderr
    assert raw.stdout_bytes == b"\x00\xff not text"
    assert run("dead", "show", "dea-none").exit_code == 4
    assert run("dead", "replay", letter_id, "-r", "").exit_code == 3
    assert "1 dead letter (bus)" in run("status").stdout


def test_what_comes_from_outside_does_not_steer_a_terminal(daemon: Daemon, folder: Path) -> None:
    """Reasons, places and bodies are shown inert."""
    feed(
        folder,
        poison(
            "p\x1b[2J\u202e", reason="r\x1b]0;owned\x07", body=b"body \x1b[31m and more text", meta={"k\x1b[1m": "\x9b"}
        ),
    )
    (letter_id,) = ids()

    for result in (run("dead", "list"), run("dead", "show", letter_id), run("status")):
        assert result.exit_code == 0
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(result.stdout)


# ------------------------------------------------------------------------------------------------------------- API


def test_the_body_is_a_file(client: httpx.Client, folder: Path) -> None:
    """Bytes as they came, that no browser shows or keeps."""
    feed(folder, poison("1", body=b"<script>\x00\xff"))
    (letter,) = client.get("/v1/dead").json()["items"]

    got = client.get(f"/v1/dead/{letter['id']}/body")

    assert got.content == b"<script>\x00\xff"
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == f'attachment; filename="{letter["id"]}.bin"'
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", "/v1/dead/dea-none", None, 404),
        ("GET", "/v1/dead/dea-none/body", None, 404),
        ("POST", "/v1/dead/dea-none/replay", {}, 404),
        ("POST", "/v1/dead/dea-none/drop", {"reason": "x"}, 404),
        ("GET", "/v1/dead?state=broken", None, 422),
        ("GET", "/v1/dead?limit=0", None, 422),
        ("POST", "/v1/dead/{large}/replay", {}, 409),
        ("GET", "/v1/dead/{dropped}/body", None, 409),
        ("POST", "/v1/dead/{dropped}/replay", {}, 409),
        ("POST", "/v1/dead/{dropped}/drop", {"reason": "x"}, 409),
        ("POST", "/v1/dead/{large}/drop", {"reason": " "}, 400),
        ("POST", "/v1/dead/{large}/drop", {}, 422),
        ("POST", "/v1/dead/{large}/drop", {"reason": "x", "what": 1}, 422),
        ("POST", "/v1/dead/drop", {"reason": "x"}, 422),
        ("POST", "/v1/dead/drop", {"source": "bus", "reason": ""}, 400),
        ("POST", "/v1/dead/replay", {"limit": 501}, 422),
        ("PUT", "/v1/dead/{large}", {}, 405),
    ],
)  # fmt: skip
def test_what_is_refused(client: httpx.Client, folder: Path, method: str, path: str, body: Any, status: int) -> None:
    """Each with its status and a problem document."""
    feed(folder, poison("large", body=b"x", size=5 << 20), poison("dropped"))
    dropped, large = (item["id"] for item in client.get("/v1/dead").json()["items"])
    assert client.post(f"/v1/dead/{dropped}/drop", json={"reason": "ours"}).status_code == 200

    got = client.request(method, path.format(large=large, dropped=dropped), json=body)

    assert got.status_code == status, got.text
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json()["detail"]


def test_pages_totals_and_metrics(client: httpx.Client, folder: Path) -> None:
    """Page by page, and how many stand of each source, also for a scrape."""
    feed(folder, poison(*(str(n) for n in range(60))))
    first = client.get("/v1/dead", params={"limit": 30}).json()
    rest = client.get("/v1/dead", params={"limit": 30, "before": first["next"]}).json()

    assert [item["place"] for item in first["items"] + rest["items"]] == [str(n) for n in range(59, 9, -1)]
    assert rest["next"] is None
    (standing,) = client.get("/v1/dead/standing").json()
    assert (standing["source"], standing["raw"], standing["overflowed"]) == ("bus", 50, 10)
    metrics = client.get("/metrics").text
    assert 'retrain_dead_letters{kind="raw",source="bus"} 50.0' in metrics
    assert 'retrain_dead_letters_dropped_total{source="bus"} 10.0' in metrics
    assert client.get("/readyz").status_code == 200


def test_a_key_is_one_act(client: httpx.Client, folder: Path) -> None:
    """The same Idempotency-Key gives the first answer again."""
    feed(folder, poison("1"))
    (folder / "understood").touch()
    (letter,) = client.get("/v1/dead").json()["items"]
    url, headers = f"/v1/dead/{letter['id']}/replay", {"idempotency-key": "k1"}

    first = client.post(url, headers=headers).json()
    again = client.post(url, headers=headers).json()

    assert first["duplicate"] is False
    assert again == {**first, "duplicate": True}


def test_G10_a_flood_of_poison_does_not_stop_another_source(client: httpx.Client, folder: Path) -> None:
    """While one source sends nothing but poison, an event of another is stored, decided and started."""
    Poisoned.feed[folder, "bus"].extend(poison(*(f"{n}/{m}" for m in range(200)), body=b"x" * 500) for n in range(50))

    feed(folder, Batch(events=[NewEvent(source="/o", source_id="1", type="drift.seen")]), source="other")
    wait_until(lambda: client.get("/v1/runs").json()["items"], what="a run")

    wait_until(lambda: not Poisoned.feed[folder, "bus"], timeout=40, what="the flood to end")
    (standing,) = client.get("/v1/dead/standing").json()
    assert (standing["raw"], standing["overflowed"]) == (50, 9950)
    assert client.get("/readyz").status_code == 200
