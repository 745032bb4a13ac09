"""`retrainctl backtest`, `plan`, `policy test`, `db replay`, `events export` and `events import --dry-run`, without a daemon."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.clock import Ids, SystemClock
from controller.config import load_config
from controller.core.model import NewEvent
from controller.store.store import Store
from controller.testing.fakes import ManualClock, SeededRandom

RUNNER = CliRunner()
MODEL = "flight-delay"
CONFIG = """\
version: 1
store: sqlite:///retrain.db
models:
  flight-delay:
    policies:
      drift:
        on: {type: "drift.*", when: event.data.share > 0.3}
        debounce: {quiet: 5m}
        cooldown: {after: decision, period: 1h}
      files: {on: {type: file, count: 3, within: 1h}}
    train: {command: ["true"]}
"""
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    return tmp_path


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def line(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "/m",
        "type": "drift.data",
        "time": at.isoformat(),
        "data": {"share": number % 10 / 10},
        **fields,
    }


def history(folder: Path, *, days: float = 2) -> None:
    """A database whose events came in over the last days, and whose configuration is the one here."""
    config = load_config(folder / "retrain.yaml")
    now = SystemClock().now()
    clock = ManualClock(now - timedelta(days=days))
    store = Store.open(config.store.reveal(), base=folder, clock=clock, ids=Ids(clock, SeededRandom(1)))
    store.upgrade()
    store.lead(owner="test", host="tower", pid=1)
    policies = [policy for model in config.models.values() for policy in model.policies.values()]
    with store.transaction("activate") as tx:
        tx.people.activate(version=config.version, body=config.normal_form, actor="test", policies=policies)
    number = 0
    while clock.now() < now - timedelta(minutes=30):
        with store.transaction("add") as tx:
            event = NewEvent(source="/m", source_id=f"e{number}", type="drift.data", data={"share": number % 10 / 10})
            tx.events.add("monitor", [event])
        number += 1
        clock.advance(timedelta(minutes=20))
    store.close()


# ------------------------------------------------------------------------------------------------------ backtest


def test_events_of_a_file_are_tried(folder: Path) -> None:
    """Which retrainings would have started, why, and that their ends are assumed; without a database."""
    lines = [line(number, START + timedelta(minutes=20 * number)) for number in range(30)]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))

    found = answer("backtest", "--events", "events.jsonl")
    shown = run("backtest", "--events", "events.jsonl").stdout

    assert found["complete"]
    assert found["events"] == 30
    assert found["would"][0]["at"] == "2026-03-01T01:25:00Z"
    assert found["would"][0]["why"] == "1 × drift.data"
    assert {row["assumed"] for row in found["would"]} == {True}
    assert found["totals"]["would"]["fired"] == len(found["would"])
    assert found["did"] == []
    assert "WOULD HAVE STARTED" in shown
    assert "assumed" in shown


def test_the_order_of_lines_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is out of order is sorted, in pieces; an identity counts once."""
    lines = [json.dumps(line(number, START + timedelta(minutes=20 * number))) for number in range(40)]
    (folder / "sorted.jsonl").write_text("\n".join(lines))
    SeededRandom(1).shuffle(lines)
    (folder / "shuffled.jsonl").write_text("\n".join([*lines, lines[3]]))
    monkeypatch.setattr("controller.cli.eventfiles.PIECE", 7)

    assert answer("backtest", "--events", "shuffled.jsonl") == answer("backtest", "--events", "sorted.jsonl")


def test_csv_is_read(folder: Path) -> None:
    """Columns, single values of the payload, and nothing where a cell is empty."""
    (folder / "events.csv").write_text(
        "time,type,id,subject,data.share,data.where.region\n"
        "2026-03-01T00:00:00Z,drift.data,a,,0.5,eu\n"
        "2026-03-01T00:01:00Z,drift.data,b,x,0.6,\n"
    )

    found = answer("backtest", "--events", "events.csv")

    assert [(row["at"], row["causes"]) for row in found["would"]] == [("2026-03-01T00:06:00Z", 2)]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("e.jsonl", '{"specversion": "1.0"}', "e.jsonl:1: the required attribute 'id' is missing"),
        ("e.jsonl", "\n{", "e.jsonl:2:"),
        (
            "e.jsonl",
            json.dumps({k: v for k, v in line(1, START).items() if k != "time"}),
            "e.jsonl:1: the event has no time",
        ),
        ("e.jsonl", "", "e.jsonl holds no events"),
        ("e.csv", "time,type,share\n", "e.csv:1: unknown column 'share'"),
        ("e.csv", "time,data\n", "e.csv:1: the column 'type' is missing"),
        ("e.csv", "time,type\n2026-03-01,x\n", "e.csv:2: time is '2026-03-01', not RFC 3339"),
        ("e.csv", "time,type\n2026-03-01T00:00:00Z\n", "e.csv:2: it has 1 columns, the header has 2"),
        ("e.csv", "time,type,data\n2026-03-01T00:00:00Z,x,{\n", "e.csv:2:"),
    ],
    ids=["attribute", "json", "no-time", "empty", "column", "needed", "time", "columns", "data"],
)
def test_a_bad_file_is_refused_with_its_line(folder: Path, name: str, text: str, said: str) -> None:
    """The file, the line, and what is wrong."""
    (folder / name).write_text(text)

    result = run("backtest", "--events", name)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_history_is_tried(folder: Path) -> None:
    """The events of the database, of a span, with the sums by policy; only one model when asked."""
    history(folder)

    found = answer("backtest", "--since", "2d", "--model", MODEL)
    short = answer("backtest", "--since", "1d", "--until", "12h")

    assert 100 < found["events"] < 150
    assert 30 < short["events"] < 40
    sums = {row["policy"]: row for row in found["policies"]}
    assert sums["drift"]["fired"] == len(found["would"]) > 10
    assert sums["drift"]["held"] > 0
    assert run("backtest", "--model", "nobody").exit_code == 4
    assert run("backtest", "--since", "yesterday").exit_code == 2
    assert run("backtest", "--since", "1h", "--until", "2h").exit_code == 2


def test_ctrl_c_tells_of_what_came_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one ends it with a partial result that says so, and the exit code of an interrupt."""
    history(folder)

    @contextlib.contextmanager
    def impatient(*arguments: Any) -> Iterator[Callable[[datetime], None]]:
        yield lambda at: signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("controller.cli.backtest._progress", impatient)
    monkeypatch.setattr("controller.store.export.PAGE", 30)

    found = answer("backtest", code=130)
    shown = run("backtest")

    assert not found["complete"]
    assert found["events"] == 30
    assert "CANCELLED" in shown.stdout
    assert run("plan", "-c", "retrain.yaml").exit_code == 0
    (folder / "new.yaml").write_text(CONFIG.replace("period: 1h", "period: 6h"))
    assert run("plan", "-c", "new.yaml").exit_code == 130


def test_there_must_be_something_to_try(folder: Path) -> None:
    """Neither a file nor a database: it says what to do."""
    result = run("backtest")

    assert result.exit_code == 3
    assert "no database" in result.stderr


# ---------------------------------------------------------------------------------------------------------- plan


def test_a_plan_shows_keys_and_effect(folder: Path) -> None:
    """What changes, key by key, and how many retrainings that would have been; exit code 6 says that it matters."""
    history(folder)
    (folder / "new.yaml").write_text(CONFIG.replace("period: 1h", "period: 6h"))

    found = answer("plan", "-c", "new.yaml", code=6)
    shown = run("plan", "-c", "new.yaml").stdout

    (change,) = found["changes"]
    assert (change["policy"], change["change"]) == ("drift", "changed")
    assert change["keys"] == [{"key": "cooldown.period", "before": "PT3600S", "after": "PT21600S"}]
    total = found["effect"]["total"]
    assert total["after"]["fired"] < total["before"]["fired"]
    assert f"{total['before']['fired']} → {total['after']['fired']} retrainings" in shown
    assert "cooldown.period: 1h → 6h" in shown


def test_a_plan_without_effect(folder: Path) -> None:
    """Nothing changes, or nothing that would have made a difference: exit code 0."""
    history(folder)
    (folder / "same.yaml").write_text(CONFIG.replace("period: 1h", "period: 60m"))
    (folder / "quiet.yaml").write_text(CONFIG.replace("count: 3", "count: 4"))

    assert answer("plan", "-c", "same.yaml")["changes"] == []
    quiet = answer("plan", "-c", "quiet.yaml")
    assert len(quiet["changes"]) == 1
    assert not quiet["has_effect"]
    assert "no policy changes" in run("plan").stdout


# ---------------------------------------------------------------------------------------------- export and import


def test_what_is_exported_can_be_tried(folder: Path) -> None:
    """One CloudEvent a line, with who took it in and when; a backtest of it decides the same."""
    history(folder)

    lines = run("events", "export").stdout
    (folder / "events.jsonl").write_text(lines)
    documents = [json.loads(text) for text in lines.splitlines()]
    exported = answer("backtest", "--events", "events.jsonl")
    recorded = answer("backtest", "--since", "3d")

    assert {document["retrainorigin"] for document in documents} == {"monitor"}
    assert documents[0]["specversion"] == "1.0"
    assert [row["at"] for row in exported["would"]] == [row["at"] for row in recorded["would"]]
    assert len(run("events", "export", "--since", "1d").stdout.splitlines()) == pytest.approx(70, abs=2)
    assert run("events", "export", "--source", "other").stdout == ""
    assert run("events", "export", "--type", "file").stdout == ""


def test_a_dry_import_only_reads(folder: Path) -> None:
    """What is in the file, and nothing is sent."""
    (folder / "e.jsonl").write_text("\n".join(json.dumps(line(n % 3, START)) for n in range(5)))

    found = answer("events", "import", "e.jsonl", "--dry-run")

    assert found["events"] == 5
    assert found["identities"] == 3
    assert found["types"] == {"drift.data": 5}
    assert run("events", "import", "e.jsonl").exit_code == 3


# --------------------------------------------------------------------------------------------------- policy test


CASES = """\
start: 2026-03-02T08:00:00Z
cases:
  - name: two drifts are one retraining
    given:
      - {at: 0s, event: drift.data, data: {share: 0.5}}
      - {at: 4m, event: drift.data, data: {share: 0.6}}
      - {at: 30m, event: drift.data, data: {share: 0.6}}
    expect:
      - {held: drift, at: 0s, by: debounce, until: 5m, reason: quiet}
      - {fired: drift, at: 9m}
      - {held: drift, at: 35m, by: cooldown, until: 2026-03-02T09:09:00Z}
      - {fired: drift, times: 1}
    until: 1h
  - name: what is too small is nothing, and says why
    given:
      - {at: 0s, event: drift.data, data: {share: 0.1}}
      - {at: 1s, event: drift.data, data: {}}
    expect:
      - {skipped: flight-delay/drift, at: 0s, by: when, reason: "false"}
      - {error: drift, at: 1s}
      - {fired: drift, times: 0}
      - {skipped: files, by: match}
  - name: a pause holds, and a press passes over it
    given:
      - {at: 0s, pause: flight-delay, actor: ann, reason: migration}
      - {at: 1m, event: drift.data, data: {share: 0.5}}
      - {at: 10m, press: flight-delay, actor: bob}
      - {at: 20m, resume: flight-delay}
    runs: {flight-delay: {length: 1h, outcome: FAILED}}
    expect:
      - {held: drift, at: 6m, by: pause, reason: ann paused}
      - {fired: manual, at: 10m}
      - {fired: drift, at: 20m}
"""


def test_cases_pass(folder: Path) -> None:
    """Given these events at these times, this is expected."""
    (folder / "cases.yaml").write_text(CASES)

    result = run("policy", "test", "cases.yaml", "--junit", "junit.xml")

    assert result.exit_code == 0, result.output
    assert "3 passed" in result.stdout
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_a_case_that_fails_says_what_happened(folder: Path) -> None:
    """Its place, what was expected and what was concluded instead; exit code 1, and a failure for the machine."""
    (folder / "cases.yaml").write_text(CASES.replace("{fired: drift, at: 9m}", "{fired: drift, at: 8m}"))

    result = run("policy", "test", "cases.yaml", "--junit", "junit.xml")
    found = json.loads(run("policy", "test", "cases.yaml", "-o", "json").stdout)

    assert result.exit_code == 1
    assert "cases.yaml:10:9: expected flight-delay/drift to have fired at +8m" in result.stdout
    assert "+9m fired" in result.stdout
    assert "2 passed, 1 failed" in result.stdout
    assert (found["cases"], found["failed"]) == (3, 1)
    failure = ElementTree.parse(folder / "junit.xml").getroot()[0][0][0]
    assert failure.tag == "failure"


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("at: 4m, event", "at: 4 minuts, event", "cases.yaml:6:14: cases[0].given[1].at: '4 minuts' is not a duration"),
        ("fired: drift, at: 9m", "fird: drift, at: 9m", "expect[1].fird: unknown key 'fird' (did you mean 'fired'?)"),
        (
            "{fired: drift, at: 9m}",
            "{fired: drft}",
            "cases.yaml:10:17: cases[0].expect[1].fired: there is no policy 'drft'",
        ),
        ("by: debounce", "by: debounc", "there is no stage 'debounc' (did you mean 'debounce'?)"),
        ("press: flight-delay", "press: flight", "there is no model 'flight'"),
        ("at: 0s, event: drift.data, data: {share: 0.5}", "at: 0s", "what is given is one thing"),
        ("at: 0s, event", "at: 0s, source: moniter, event", "there is no source 'moniter'"),
        ("at: 4m, event", "at: 2026-03-01T00:00:00Z, event", "this is before the case starts"),
        ("start: 2026-03-02T08:00:00Z", "start: 5m", "'5m' is a length of time"),
        ("until: 1h", "until: [", "not YAML"),
    ],
    ids=["duration", "key", "policy", "stage", "model", "nothing", "source", "before", "start", "yaml"],
)
def test_a_malformed_case_is_refused_with_its_place(folder: Path, old: str, new: str, said: str) -> None:
    """As the configuration is: file, line, column, path, and what was meant."""
    assert old in CASES
    (folder / "cases.yaml").write_text(CASES.replace(old, new, 1))

    result = run("policy", "test", "cases.yaml")

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_may_name_its_configuration(folder: Path) -> None:
    """Relative to itself, so that cases lie beside a team's code; a folder is all of its files."""
    (folder / "team").mkdir()
    (folder / "retrain.yaml").rename(folder / "team" / "policies.yaml")
    (folder / "team" / "cases").mkdir()
    (folder / "team" / "cases" / "a.yaml").write_text(f"config: ../policies.yaml\n{CASES}")

    assert answer("policy", "test", "team/cases")["failed"] == 0
    assert run("policy", "test", "team").exit_code == 2


# ------------------------------------------------------------------------------------------------------ db replay


def test_a_replay_goes_into_a_new_file(folder: Path) -> None:
    """What was recorded is decided once more; a file that is there already is not touched."""
    history(folder, days=0.2)

    found = answer("db", "replay", "--into", "again.db")

    assert found["equal"]
    assert (folder / "again.db").exists()
    assert run("db", "replay", "--into", "again.db").exit_code == 2
