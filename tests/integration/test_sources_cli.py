"""`retrainctl sources` and `retrainctl doctor` against a real daemon, and one bad source beside a good one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.config import load_config
from controller.core.model import TEST_EVENT
from controller.daemon import Daemon
from controller.engine import sources as engine_sources
from controller.errors import Conflict
from controller.telemetry import configure_logs
from controller.testing import wait_until
from tests.scripted_sources import FEEDS, Feed, installed

RUNNER = CliRunner()
#: A model that never trains in these tests.
MODEL = {
    "train": {"launcher": "process", "command": ["true"]},
    "gate": {"objective": {"metric": "auc"}},
    "promote": [{"type": "alias", "path": "models/churn"}],
}
BEHAVIOURS = {"unbuilt": "is not built", "raising": "raises", "hanging": "hangs", "refused": "is refused"}


class Place:
    """An installation with a daemon in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemon: Daemon | None = None

    def start(self, **sources: Any) -> Daemon:
        """Write the configuration, with a policy on the first of these sources, and start the daemon."""
        policies = {"lines": {"on": {"source": next(iter(sources)), "type": "log.fire"}}}
        models = {"churn": {"policies": policies, **MODEL}}
        config = {"version": 1, "store": "sqlite:///retrain.db", "http": {"socket": "s.sock"}, "models": models}
        (self.folder / "retrain.yaml").write_text(yaml.safe_dump({**config, "sources": sources}))
        self.daemon = Daemon(load_config(self.folder / "retrain.yaml"))
        self.daemon.start()
        return self.daemon

    def stop(self) -> None:
        """End the daemon."""
        for (folder, _), feed in FEEDS.items():
            if folder == self.folder:
                feed.release.set()
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    def feed(self, source: str = "log") -> Feed:
        """What a source reads."""
        return FEEDS[self.folder, source]

    def count(self, type: str = "log.line") -> int:
        """How many events of a type are stored."""
        assert self.daemon is not None
        with self.daemon.store.reading() as tx:
            return sum(event.type == type for event in tx.events.pending(1000)) + self._decided(type)

    def _decided(self, type: str) -> int:
        from controller.store.views import Views

        assert self.daemon is not None
        page = Views(self.daemon.store).events(type=type, state="PROCESSED", limit=500)
        return len(page["items"])


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    found = Place(tmp_path)
    with (tmp_path / "daemon.log").open("w") as log, installed(tmp_path_factory.mktemp("plugins")):
        configure_logs(style="json", stream=log)
        yield found
        found.stop()
        structlog.reset_defaults()


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def fill(place: Place, number: int, source: str = "log") -> None:
    """Let so many lines come, and wait until they are decided."""
    place.feed(source).records.extend({"line": n, "token": "t0ps3cret"} for n in range(number))
    wait_until(lambda: place._decided("log.line") >= number, what="the lines")


# ---------------------------------------------------------------------------------------------------------- looking


def test_list_and_show(place: Place) -> None:
    """What came, how the source is, what it says of itself; secrets are taken out."""
    place.start(log={"type": "scripted"})
    fill(place, 3)
    wait_until(lambda: answer("sources", "show", "log")["lag"] == 0, what="no lag")
    rows = {row["name"]: row for row in answer("sources")}
    shown = answer("sources", "show", "log")
    table = run("sources", "list").stdout

    assert list(rows) == ["log", "api"]
    assert rows["log"].items() >= {"type": "scripted", "shape": "stream", "state": "ok", "stored": 3, "dead": 0}.items()
    assert shown["last_event"]["type"] == "log.line"
    assert shown["mapping"]["value"] == "became log.line"
    assert shown["policies"] == ["churn/lines"]
    assert shown["report"]["length"] == 3
    assert "hunter2" not in json.dumps(shown)
    assert "s3cr3t" not in json.dumps(shown)
    assert '"line"' in shown["payload"]["text"]
    assert "scripted" in table
    assert "stream" in table


def test_an_unknown_source_is_not_found(place: Place) -> None:
    """Whatever is asked of it."""
    place.start(log={"type": "scripted"})

    for command in (("sources", "show"), ("doctor", "sources")):
        assert run(*command, "none").exit_code == 4
    assert run("doctor", "sources", "none", "--test").exit_code == 4
    assert run("sources", "seek", "none", "--topic", "log", "--to", "earliest", "-r", "x").exit_code == 4


def test_the_doctor_finds_nothing_wrong(place: Place) -> None:
    """Exit code 0, and a verdict."""
    place.start(log={"type": "scripted"})
    fill(place, 1)
    result = run("doctor", "sources", "log")

    assert result.exit_code == 0, result.output
    assert "→ it is well" in result.stdout
    assert "log.line" in result.stdout
    assert "hunter2" not in result.stdout


def test_the_doctor_says_what_to_do_next(place: Place) -> None:
    """Exit code 1, the reason and the next step; the other sources are shown too."""
    place.start(log={"type": "scripted"}, unbuilt={"type": "scripted", "behaviour": "is not built"})
    result = run("doctor", "sources")
    (alone,) = [row for row in answer("doctor", "sources") if row["name"] == "unbuilt"]

    assert result.exit_code == 1
    assert "no such library; correct the configuration, then: retrainctl reload" in " ".join(result.stdout.split())
    assert alone["state"] == "not built"
    assert alone["healthy"] is False


def test_without_a_daemon_the_database_speaks(place: Place) -> None:
    """What was written is shown, and that nobody runs; exit code 0, because nothing is known to be wrong."""
    place.start(log={"type": "scripted", "expect_every": "1h"})
    fill(place, 2)
    place.stop()
    result = run("doctor", "sources")
    shown = answer("sources", "show", "log")
    rows = answer("sources", "list")

    assert result.exit_code == 0, result.output
    assert "the daemon does not run; this is read from the database" in result.stderr
    assert shown["stored"] == 2
    assert shown["state"] == "unknown"
    assert shown["expected_every_seconds"] == 3600
    assert shown["last_event"]["type"] == "log.line"
    assert "start it: retraind" in shown["verdict"]
    assert "t0ps3cret" not in json.dumps(shown)
    assert [row["name"] for row in rows] == ["log", "api"]
    assert run("sources", "show", "none").exit_code == 4


def test_a_broken_configuration_does_not_hide_the_database(place: Place) -> None:
    """Then the sources are those that the database knows."""
    place.start(log={"type": "scripted"})
    fill(place, 1)
    place.stop()
    (place.folder / "retrain.yaml").write_text("version: 1\nstore: sqlite:///retrain.db\nnonsense: 1\n")

    assert [row["name"] for row in answer("sources", "list")] == ["log"]


# ---------------------------------------------------------------------------------------------------------- testing


def test_a_test_event_goes_all_the_way(place: Place) -> None:
    """Stored as one of the source, decided, and nothing came of it; two presses are two events, and the act is recorded."""
    daemon = place.start(log={"type": "scripted"})
    result = run("doctor", "sources", "log", "--test")
    second = answer("doctor", "sources", "log", "--test")
    event = answer("events", "show", second["event_id"])
    with daemon.store.reading() as tx:
        acts = [(act.verb, act.target) for act in tx.people.acts()]

    assert result.exit_code == 0, result.output
    assert "stored" in result.stdout
    assert "decided" in result.stdout
    assert "named by churn/lines; none ever acts on a test" in " ".join(result.stdout.split())
    assert [step["step"] for step in second["steps"]] == ["stored", "decided", "policies"]
    assert (event["origin"], event["type"], event["state"]) == ("log", TEST_EVENT, "PROCESSED")
    assert place.count(TEST_EVENT) == 2
    assert acts == [("test", "log"), ("test", "log")]
    assert answer("runs", "list")["items"] == []
    assert answer("sources", "show", "log")["stored"] == 0


def test_a_test_of_a_source_that_does_not_run(place: Place) -> None:
    """A conflict with the reason; all sources at once is no test."""
    place.start(unbuilt={"type": "scripted", "behaviour": "is not built"})
    result = run("doctor", "sources", "unbuilt", "--test")

    assert result.exit_code == 5
    assert "no such library" in result.stderr
    assert run("doctor", "sources", "--test").exit_code == 2


@pytest.mark.parametrize("verify", [None, "token"], ids=["open", "verified"])
def test_a_hook_says_where_to_post(place: Place, verify: str | None) -> None:
    """Its address, and whether its callers must prove who they are."""
    place.start(hook={"type": "scripted-hook", **({"verify": verify} if verify else {})})
    done = answer("doctor", "sources", "hook", "--test")
    shown = answer("sources", "show", "hook")

    assert done["ok"] is True
    assert done["endpoint"]["verified"] is (verify is not None)
    assert "/hooks/hook" in done["endpoint"]["url"]
    assert shown["shape"] == "push"
    assert [f["level"] for f in shown["findings"] if "can post events" in f["text"]] == ([] if verify else ["warning"])
    assert "/hooks/hook" in run("doctor", "sources", "hook", "--test").stdout


# ---------------------------------------------------------------------------------------------------------- seeking


def test_seek(place: Place) -> None:
    """The source goes on from there; what it read before is known; who moved it, and why, is recorded with the position."""
    daemon = place.start(log={"type": "scripted"})
    fill(place, 5)
    result = run("sources", "seek", "log", "--topic", "log", "--to", "2", "-r", "read them again")
    wait_until(lambda: answer("sources", "show", "log")["duplicates"] == 3, what="the lines read again")
    with daemon.store.reading() as tx:
        (act,) = tx.people.acts()

    assert result.exit_code == 0, result.output
    assert "position: 2" in result.stdout
    assert (act.verb, act.target, act.reason) == ("seek", "log", "read them again")
    assert act.details == {"topic": "log", "to": "2"}
    assert place.count() == 5
    assert place.feed().runs == 2


@pytest.mark.parametrize(
    "source, arguments, code, said",
    [
        ("log", ("--topic", "other", "--to", "earliest"), 2, "there is no topic 'other'"),
        ("log", ("--topic", "log", "--to", "somewhere"), 2, "'somewhere' is no position"),
        ("hook", ("--topic", "log", "--to", "earliest"), 5, "which has no positions to move to"),
    ],
    ids=["no such topic", "no such position", "no positions"],
)
def test_a_seek_that_makes_no_sense(
    place: Place, source: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """It is refused with a sentence, only that is written, and the source goes on where it was."""
    daemon = place.start(log={"type": "scripted"}, hook={"type": "scripted-hook"})
    fill(place, 2)
    result = run("sources", "seek", source, *arguments, "-r", "why not")
    place.feed().records.append({"line": 2})
    wait_until(lambda: place.count() == 3, what="the next line")
    with daemon.store.reading() as tx:
        acts = tx.people.acts()

    assert [act.verb for act in acts] == ["refused"]
    assert result.exit_code == code
    assert said in result.stderr
    assert answer("sources", "show", "log")["duplicates"] == 0


def test_a_seek_needs_a_reason(place: Place) -> None:
    """It is recorded with a name."""
    place.start(log={"type": "scripted"})

    assert run("sources", "seek", "log", "--topic", "log", "--to", "latest").exit_code == 2
    assert run("sources", "seek", "log", "--topic", "log", "--to", "latest", "-r", " ").exit_code == 2


# --------------------------------------------------------------------------------------- one bad source, and the others


def test_one_bad_source_never_stops_another(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is not built, one raises, one hangs, one is refused: the good one is heard, each of them is named, and all can be ended."""
    monkeypatch.setattr(engine_sources, "STOP_SECONDS", 0.2)
    daemon = place.start(
        **{name: {"type": "scripted", "behaviour": behaviour} for name, behaviour in BEHAVIOURS.items()},
        log={"type": "scripted"},
    )
    fill(place, 20)
    wait_until(lambda: place.feed("hanging").runs == 1, what="the one that hangs")
    wait_until(lambda: place.feed("raising").runs >= 2, what="another try of the one that raises")
    wait_until(lambda: state("refused") == "complains", what="the complaint of the one that is refused")
    ready = daemon.report()

    assert state("log") == "ok"
    assert state("unbuilt") == "not built"
    assert any("no such library" in reason for reason in ready["reasons"])
    assert ready["live"] is True
    assert answer("sources", "show", "refused")["refused"] >= 1
    assert place._decided("log.line") == 20


def test_one_that_hangs_cannot_speak_after_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved while it hangs, a source starts anew; what the old thread says much later counts for nothing."""
    monkeypatch.setattr(engine_sources, "STOP_SECONDS", 0.2)
    daemon = place.start(hanging={"type": "scripted", "behaviour": "hangs"})
    feed = place.feed("hanging")
    wait_until(lambda: feed.runs == 1, what="the first run")
    result = run("sources", "seek", "hanging", "--topic", "log", "--to", "earliest", "-r", "it hangs")
    wait_until(lambda: feed.runs == 2, what="the second run")
    feed.release.set()
    wait_until(lambda: feed.told and place.count("late") == 1, what="both")

    assert result.exit_code == 0, result.output
    assert [type(error) for error in feed.told] == [Conflict]
    assert "was stopped" in str(feed.told[0])
    assert list(daemon.runtime.complaints.of("hanging")) == ["run 2"]
    assert daemon.crew.sources.shape("hanging") == "stream"


def state(source: str) -> str:
    found: str = answer("sources", "show", source)["state"]
    return found


@pytest.fixture
def reload(place: Place) -> Callable[..., None]:
    """Write other sources into the configuration and take it."""

    def take(**sources: Any) -> None:
        path = place.folder / "retrain.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "sources": sources}))
        assert run("reload").exit_code == 0

    return take


def test_a_bad_source_is_replaced_while_the_good_one_works(
    place: Place, reload: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that corrects what is wrong clears the complaint and leaves the others alone."""
    monkeypatch.setattr(engine_sources, "STOP_SECONDS", 0.2)
    place.start(log={"type": "scripted"}, other={"type": "scripted", "behaviour": "raises"})
    wait_until(lambda: state("other") == "complains", what="the complaint")
    reload(log={"type": "scripted"}, other={"type": "scripted"})
    wait_until(lambda: state("other") == "ok", what="the corrected one")

    assert state("log") == "ok"
    assert place.feed("log").runs == 1


def test_the_api_documents_itself(place: Place) -> None:
    """Every route under /v1/sources, with the shape of its answer; a seek without a reason is refused."""
    place.start(log={"type": "scripted"})
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place.folder / "s.sock")), base_url="http://x") as client:
        paths = client.get("/v1/openapi.json").json()["paths"]
        refused = client.post("/v1/sources/log/seek", json={"where": {"topic": "log", "to": "1"}, "reason": " "})
        listed = client.get("/v1/sources").json()

    assert {path for path in paths if path.startswith("/v1/sources")} == {
        "/v1/sources",
        "/v1/sources/{name}",
        "/v1/sources/{name}/test",
        "/v1/sources/{name}/seek",
    }
    assert refused.status_code == 400
    assert "reason" in refused.json()["detail"]
    assert [row["name"] for row in listed] == ["log", "api"]


def test_silence_shows_in_status(place: Place) -> None:
    """A source that is not heard is on the first screen, and the doctor says what to do."""
    place.start(log={"type": "scripted", "expect_every": "1s"})
    wait_until(lambda: answer("status")["silent"], timeout=30, what="the silence")
    result = run("doctor", "sources", "log")

    assert "log: nothing came for" in run("status").stdout
    assert answer("status")["complaints"] == []
    assert result.exit_code == 1
    assert "silent: nothing came since" in result.stdout

    def speaks() -> bool:
        place.feed().records.append({"line": 0})
        return answer("sources", "show", "log")["state"] == "ok"

    wait_until(speaks, timeout=30, what="the end of it")
