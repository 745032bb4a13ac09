"""The audit by API and command line: who did what, what was refused, the chain examined and exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.core.seal import lay, sealed
from controller.errors import Conflict, NotFound, StoreBusy
from controller.store import Store
from tests.integration.api_house import GOOD, REVOKED, House
from tests.story import MODEL
from tests.unit.test_cli import CONFIG

RUNNER = CliRunner()


@pytest.fixture
def house(start_api: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.yaml").write_text(f"{CONFIG}http: {{socket: s.sock}}\nstore: sqlite:///retrain.db\n")
    house = start_api(socket_path=tmp_path / "s.sock")
    add_act(house.store, "ann", "pause", MODEL, "noise")
    add_act(house.store, "bob", "cancel", house.story.training, "wrong data")
    return house


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(house.socket_path))
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        yield client


def add_act(store: Store, actor: str, verb: str, target: str, reason: str) -> None:
    with store.transaction("act", fenced=False) as tx:
        tx.people.add_act(actor=actor, verb=verb, target=target, reason=reason, details={"n": 1}, response={})


def seal(store: Store) -> str:
    with store.transaction("seal") as tx:
        head = tx.seals.head()
        after = None if head is None else head.last_seq
        link = lay(head, sealed(tx.seals.rows(after=after, upto=tx.seals.last_seq())), term=1, at=1)
        tx.seals.add(link)
        if head is None:
            tx.seals.begin(tx.seals.acts_before())
    return link.head


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def listed(*arguments: str) -> list[Any]:
    result = run("audit", *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    found: list[Any] = json.loads(result.stdout)
    return found


def tamper(house: House, statement: str) -> None:
    with house.store.engine.begin() as connection:
        assert connection.execute(sa.text(statement)).rowcount == 1


# ------------------------------------------------------------------------------------------------- who did what


def test_who_did_what_and_why(house: House) -> None:
    """The newest first, with who, what, to what and why; as a table it says the same."""
    newest, before = listed()[:2]
    table = run("audit").stdout

    assert (newest["actor"], newest["verb"], newest["target"]) == ("bob", "cancel", house.story.training)
    assert (newest["kind"], newest["reason"], newest["details"]) == ("act", "wrong data", {"n": 1})
    assert (before["actor"], before["verb"]) == ("ann", "pause")
    assert all(word in table for word in ("ann", "pause", "noise", "bob", "wrong data"))


@pytest.mark.parametrize(
    "arguments, actors",
    [
        (["--actor", "ann"], ["ann"]),
        (["--verb", "cancel"], ["bob"]),
        (["--target", MODEL], ["ann"]),
        (["--limit", "1"], ["bob"]),
        (["--since", "2100-01-01"], []),
        (["--until", "2000-01-01"], []),
        (["--verb", "cancel", "--actor", "ann"], []),
    ],
    ids=" ".join,
)
def test_only_what_is_asked_for(house: House, arguments: list[str], actors: list[str]) -> None:
    """By who, what, to what, when, and how many; with the daemon and without it."""
    online = [entry["actor"] for entry in listed(*arguments) if entry["actor"] in ("ann", "bob")]
    house.server.stop()
    offline = [entry["actor"] for entry in listed(*arguments) if entry["actor"] in ("ann", "bob")]

    assert online == offline == actors


def test_every_change_of_state(house: House) -> None:
    """With --all the controller's own doings are there too, of one thing or of all, within a span of time."""
    run_id = house.story.promoted
    states = [entry["details"]["to"] for entry in listed("--all", "--target", run_id, "--limit", "500")]
    everything = listed("--all", "--limit", "500")
    none = listed("--all", "--until", "2000-01-01")

    assert states[0] == "PROMOTED"
    assert states[-1] == "QUEUED"
    assert {entry["kind"] for entry in everything} == {"act", "transition"}
    assert [entry["at"] for entry in everything] == sorted((entry["at"] for entry in everything), reverse=True)
    assert none == []


def test_a_span_of_time_is_found_by_halving(house: House, client: httpx.Client) -> None:
    """Changes of state have no index by time; what lies between two instants is found all the same."""
    every = client.get("/v1/audit", params={"all": True, "limit": 500}).json()
    instants = sorted({entry["at"] for entry in every})
    first, end = instants[len(instants) // 3], instants[2 * len(instants) // 3]
    found = client.get("/v1/audit", params={"all": True, "limit": 500, "since": first, "until": end}).json()

    assert len(instants) > 3
    assert found == [entry for entry in every if first <= entry["at"] < end] != []


# ----------------------------------------------------------------------------------------------- what was refused


@pytest.mark.parametrize(
    "failure, status",
    [(Conflict("it has ended"), 409), (NotFound("no such model"), 404)],
    ids=["conflict", "not found"],
)
def test_G13_a_refused_request_is_recorded(house: House, failure: Exception, status: int) -> None:
    """Who asked, by what token and from where, for what, and why it was not done."""
    house.desk.failure = failure
    with house.tcp(GOOD) as client:
        answer = client.post("/v1/pause", json={"target": "all"})
    (entry,) = listed("--verb", "refused")

    assert answer.status_code == status
    assert (entry["actor"], entry["target"], entry["reason"]) == ("token:ci", "/v1/pause", str(failure))
    assert entry["details"] == {"method": "POST", "status": status, "from": "127.0.0.1"}


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("POST", "/v1/pause", {"targets": "all"}),
        ("POST", "/v1/runs/none/cancel", None),
        ("DELETE", "/v1/nothing", None),
    ],
)
def test_what_makes_no_sense_is_refused_too(
    house: House, client: httpx.Client, method: str, path: str, body: Any
) -> None:
    """A request to do something that is malformed, or about a thing that is not there."""
    answer = client.request(method, path, json=body)

    assert answer.is_client_error
    assert [entry["target"] for entry in listed("--verb", "refused")] == [path]


def test_asking_is_no_act(house: House, client: httpx.Client) -> None:
    """A question that cannot be answered leaves nothing, nor does an act that the database could not take."""
    client.get("/v1/runs/none")
    house.desk.failure = StoreBusy("disk full")
    client.post("/v1/pause", json={"target": "all"})

    assert listed("--verb", "refused") == []


def test_the_same_refusal_is_recorded_once(house: House, client: httpx.Client) -> None:
    """A program that tries again and again does not fill the database; nor does one that tries all there is."""
    for _ in range(5):
        client.post("/v1/runs/none/cancel")
    once = len(listed("--verb", "refused"))
    for number in range(80):
        client.post(f"/v1/runs/none{number}/cancel")

    assert once == 1
    assert len(listed("--verb", "refused", "--limit", "500")) == 60
    assert any("act.refusals_not_recorded" in line for line in house.log.lines)


def test_callers_who_prove_nothing_are_counted(house: House) -> None:
    """Without a name there is no row, but there is a number."""
    with house.tcp() as client:
        client.post("/v1/pause", json={"target": "all"})
    for secret in (REVOKED, "rt_unknown"):
        with house.tcp(secret) as client:
            client.post("/v1/pause", json={"target": "all"})

    assert house.refused == ["no_token", "revoked", "unknown"]
    assert listed("--verb", "refused") == []


# ---------------------------------------------------------------------------------------------------- the chain


def test_G13_verify_says_that_it_is_whole(house: House) -> None:
    """With what it covers, what is not sealed yet, and the head."""
    nothing = run("audit", "verify")
    head = seal(house.store)
    whole = run("audit", "verify", "--expect", head)
    found = json.loads(run("audit", "verify", "-o", "json").stdout)

    assert (nothing.exit_code, "nothing is sealed" in nothing.stdout) == (0, True)
    assert (whole.exit_code, whole.stdout.startswith("whole: 1 link over")) == (0, True)
    assert f"head {head}" in whole.stdout
    assert (found["whole"], found["links"], found["unsealed"], found["findings"]) == (True, 1, 1, [])
    assert json.loads(run("audit", "head", "-o", "json").stdout)["head"] == head
    assert run("audit", "head").stdout.strip() == head


@pytest.mark.parametrize("way", ["database", "file", "url"])
def test_G13_verify_names_what_was_changed(house: House, way: str) -> None:
    """On the database, an export, or what a daemon elsewhere sends: exit code 1, and the row."""
    over = ["--url", f"http://127.0.0.1:{house.port}", "--token", GOOD] if way == "url" else []
    where = ["--file", "audit.jsonl"] if way == "file" else []
    seal(house.store)
    tamper(house, "UPDATE history SET actor = 'eve' WHERE seq = 3")
    exported = run("audit", "export", "--to", "audit.jsonl")
    result = run(*over, "audit", "verify", *where)

    assert exported.exit_code == 0
    assert result.exit_code == 1
    assert "NOT whole: 1 thing not as sealed" in result.stdout
    assert "link 1: row 3 was changed after it was sealed" in result.stdout


def test_G13_an_export_is_examined_without_an_installation(house: House, tmp_path: Path, monkeypatch: Any) -> None:
    """The file alone is enough, anywhere; it says who did what, and no one else may read it."""
    seal(house.store)
    run("audit", "export", "--to", "audit.jsonl")
    house.server.stop()
    monkeypatch.chdir("/")
    path = tmp_path / "audit.jsonl"
    result = run("audit", "verify", "--file", str(path))

    assert (result.exit_code, "whole: 1 link" in result.stdout) == (0, True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert '"actor":"bob"' in path.read_text()


def test_G13_a_chain_that_was_cut_off_shows_against_a_head(house: House) -> None:
    """From inside it cannot be seen; a head that was noted says it."""
    seal(house.store)
    head = seal(house.store)
    tamper(house, "DELETE FROM seal WHERE number = 2")

    assert run("audit", "verify").exit_code == 0
    noted = run("audit", "verify", "--expect", head)
    assert (noted.exit_code, "link 2, which was noted, is not there" in noted.stdout) == (1, True)


def test_an_export_never_overwrites(house: House, tmp_path: Path) -> None:
    """A file that is there stays as it is, and one that could not be written to its end does not stay."""
    (tmp_path / "audit.jsonl").write_text("mine")
    refused = run("audit", "export", "--to", "audit.jsonl")
    nowhere = run("audit", "export", "--to", "no/such/folder")

    assert (refused.exit_code, nowhere.exit_code) == (2, 2)
    assert "is there already" in refused.output
    assert (tmp_path / "audit.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--expect", "3:abc"], 2, "no head of a chain"),
        (["--file", "none"], 2, "cannot be read"),
        (["--file", "retrain.yaml"], 1, "is not JSON"),
        (["--file", "short"], 1, "ends in the middle"),
    ],
    ids=["head", "no file", "another file", "half a file"],
)
def test_what_cannot_be_examined(house: House, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    """Each with what is wrong; half an export is a failed one."""
    seal(house.store)
    run("audit", "export", "--to", "whole")
    (tmp_path / "short").write_bytes(b"".join((tmp_path / "whole").read_bytes().splitlines(keepends=True)[:-1]))
    result = run("audit", "verify", *arguments)

    assert result.exit_code == code
    assert said in result.output


def test_the_daemon_sends_the_chain_as_lines(house: House, client: httpx.Client) -> None:
    """One JSON object a line, whole to its end."""
    seal(house.store)
    lines = client.get("/v1/audit/export").text.splitlines()

    assert json.loads(lines[0]) == {"format": "retrain-audit-1"}
    assert json.loads(lines[-1])["end"]["links"] == 1
