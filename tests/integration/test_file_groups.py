"""Data sets of files on a real file system: when they are an event, what it says, and what a crash does to them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.clock import SystemClock
from controller.core.model import NewEvent
from controller.ports import Batch
from controller.sources.files import FileOptions, FileSource
from controller.sources.files import source as source_module
from controller.testing import ManualClock, MemoryInbox, run_until, wait_until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Landing:
    """A folder, an inbox, a clock, and a source between them."""

    def __init__(self, base: Path, group: dict[str, Any], **options: Any) -> None:
        self.base = base
        self.root = base / "landing"
        self.root.mkdir(exist_ok=True)
        self.clock = ManualClock(NOW)
        self.inbox = MemoryInbox(name="landing", clock=self.clock)
        self.options: dict[str, Any] = {
            "path": "landing",
            "settle": "0s",
            "recursive": True,
            "group": group,
            **options,
        }
        self.restart()

    def restart(self, **options: Any) -> None:
        self.options |= options
        self.source = FileSource(FileOptions(**self.options), self.inbox.context(self.base))

    def write(self, name: str, content: str = "x") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def scan(self) -> list[NewEvent]:
        """Scan once, and return the new events."""
        before = len(self.inbox.events)
        self.source.scan()
        return self.inbox.events[before:]

    def after(self, seconds: float) -> list[NewEvent]:
        """Let time pass, and scan."""
        self.clock.advance(seconds)
        return self.scan()

    def waiting(self) -> list[dict[str, Any]]:
        return self.source.report()["groups"]["waiting"]["oldest"]


def names(event: NewEvent) -> list[str]:
    return [part["name"] for part in event.data["parts"]]


# ---------------------------------------------------------------------------------------------- the ways to complete


def test_a_marker_makes_one_event_of_a_directory(tmp_path: Path) -> None:
    """Nothing is emitted for the parts; with the marker there is one event with all of them, their digests and rows."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.write("day=1/a.csv", "id,x\n1,2\n3,4\n")
    landing.write("day=1/b.csv", "id,x\n5,6")
    before = landing.scan()
    landing.write("day=1/_SUCCESS", "")

    (event,) = landing.scan()

    assert before == []
    assert (event.type, event.subject, event.source) == ("dataset.arrived", "day=1", "/sources/landing")
    assert event.data["parts"] == [
        {
            "name": "day=1/a.csv",
            "size": 13,
            "digest": f"sha256:{hashlib.sha256((landing.root / 'day=1/a.csv').read_bytes()).hexdigest()}",
            "rows": 2,
        },
        {
            "name": "day=1/b.csv",
            "size": 8,
            "digest": f"sha256:{hashlib.sha256((landing.root / 'day=1/b.csv').read_bytes()).hexdigest()}",
            "rows": 1,
        },
    ]
    assert {key: event.data[key] for key in ("count", "bytes", "rows", "complete_by", "generation", "late")} == {
        "count": 2,
        "bytes": 21,
        "rows": 3,
        "complete_by": "marker",
        "generation": 1,
        "late": False,
    }
    assert event.source_id == f"day=1@{event.data['digest']}"
    assert landing.after(3_600) == []


@pytest.mark.parametrize(
    "name, content, rows",
    [
        ("a.csv", "", 0),
        ("a.csv", "head\n", 0),
        ("A.TSV", "head\n1\n2", 2),
        ("a.jsonl", "{}\n{}\n", 2),
        ("a.ndjson", "{}\n{}", 2),
        ("a.jsonl", "", 0),
        ("a.jsonl", "{}\n" * 1_000_000, 1_000_000),
        ("a.parquet", "x\n", None),
    ],
)
def test_rows_are_counted_where_lines_are_records(tmp_path: Path, name: str, content: str, rows: int | None) -> None:
    landing = Landing(tmp_path, {"complete": {"parts": 1}})
    landing.write(name, content)

    (event,) = landing.scan()

    assert event.data.get("rows") == rows


def test_a_marker_counts_though_it_is_not_included(tmp_path: Path) -> None:
    """The globs choose the parts; the marker is wanted anyway, even if it is a hidden file."""
    landing = Landing(tmp_path, {"complete": {"marker": ".done"}}, include=["*.csv"])
    for name in ("d/a.csv", "d/notes.txt", "d/.done"):
        landing.write(name)

    (event,) = landing.scan()

    assert names(event) == ["d/a.csv"]


def test_a_number_of_parts(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"by": r"^(\d{4})-\d+\.csv$", "complete": {"parts": 3}})
    for name in ("2013-1.csv", "2013-2.csv", "2014-1.csv", "other.csv"):
        landing.write(name)
    before = landing.scan()
    landing.write("2013-3.csv")

    (event,) = landing.scan()

    assert before == []
    assert (event.subject, event.data["count"], event.data["complete_by"]) == ("2013", 3, "parts")
    (waits,) = landing.waiting()
    assert (waits["group"], waits["parts"], waits["missing"]) == ("2014", 1, "2 of 3 parts")
    assert landing.source.report()["groups"]["outside"] == 1


def test_quiet_counts_from_the_last_part(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"quiet": "5m"}})
    landing.write("d/a.csv")
    landing.scan()
    landing.clock.advance(200)
    landing.write("d/b.csv")
    landing.scan()

    early = landing.after(250)
    (event,) = landing.after(50)

    assert early == []
    assert (event.data["complete_by"], event.data["count"]) == ("quiet", 2)


def test_quiet_beside_a_rule_is_a_limit(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"parts": 3, "quiet": "1h"}})
    landing.write("d/a.csv")
    landing.scan()

    (event,) = landing.after(3_600)

    assert (event.data["complete_by"], event.data["missing_count"]) == ("quiet", 2)


def test_a_manifest_names_the_parts(tmp_path: Path) -> None:
    """It is complete when all that is named is there as it says; other files in the folder do not count."""
    landing = Landing(tmp_path, {"complete": {"manifest": "manifest.json"}})
    whole = hashlib.sha256(b"whole").hexdigest()
    entries = [{"path": "a.csv", "size": 5, "sha256": whole}, f"{landing.root}/d/b.csv"]
    landing.write("d/manifest.json", json.dumps({"files": entries}))
    landing.write("d/a.csv", "half")
    landing.write("d/b.csv")
    landing.write("d/stray.csv")
    before = landing.scan()
    landing.write("d/a.csv", "whole")

    (event,) = landing.scan()

    assert before == []
    assert names(event) == ["d/a.csv", "d/b.csv"]
    assert event.data["complete_by"] == "manifest"


def test_a_manifest_that_nobody_understands_is_a_complaint_until_it_is_well(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"manifest": "m.json"}})
    landing.write("d/a.csv")
    landing.write("d/m.json", "{")
    landing.scan()
    complaint = landing.inbox.complaints["manifest"]
    landing.write("d/m.json", '["a.csv"]')

    (event,) = landing.scan()

    assert "'d/m.json'" in complaint
    assert "no JSON" in complaint
    assert "manifest" not in landing.inbox.complaints
    assert names(event) == ["d/a.csv"]


# --------------------------------------------------------------------------------------------------- what comes later


def test_late_parts_are_one_more_event(tmp_path: Path) -> None:
    """What comes after the event is collected until it is quiet, and then is another generation of the data set."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.write("d/a.csv")
    landing.write("d/_SUCCESS", "")
    (first,) = landing.scan()
    landing.write("d/b.csv")
    at_once = landing.after(1)
    landing.clock.advance(30)
    landing.write("d/a.csv", "changed")
    landing.scan()
    soon = landing.after(40)

    (second,) = landing.after(20)

    assert (at_once, soon) == ([], [])
    assert names(second) == ["d/a.csv", "d/b.csv"]
    assert (second.data["generation"], second.data["late"]) == (2, True)
    assert second.data["previous"] == first.data["digest"]
    assert second.source_id != first.source_id


def test_a_marker_that_is_written_again_ends_the_waiting(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.write("d/a.csv")
    marker = landing.write("d/_SUCCESS", "")
    landing.scan()
    landing.write("d/a.csv", "all new")
    marker.unlink()
    landing.write("d/_SUCCESS", "")

    (event,) = landing.scan()

    assert (event.data["generation"], event.data["count"]) == (2, 1)


def test_the_same_bytes_again_are_no_news(tmp_path: Path) -> None:
    """A data set that is written again as it was is not an event again."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.write("d/a.csv")
    landing.write("d/_SUCCESS", "")
    landing.scan()

    for name in ("d/a.csv", "d/_SUCCESS"):
        path = landing.root / name
        content = path.read_text()
        path.unlink()
        path.write_text(content)

    assert landing.scan() == []
    assert landing.after(3_600) == []
    assert landing.waiting() == []
    assert not landing.inbox.duplicates


def test_a_part_that_is_gone_is_not_of_the_data_set(tmp_path: Path) -> None:
    """What was deleted before the data set was complete is not in its event; if it comes back, it is."""
    landing = Landing(tmp_path, {"complete": {"quiet": "5m"}})
    for name in ("d/a.csv", "d/b.csv", "d/c.csv"):
        landing.write(name)
    landing.scan()
    (landing.root / "d/b.csv").unlink()
    landing.after(300)

    (event,) = landing.after(300)
    landing.write("d/b.csv")
    landing.scan()
    (again,) = landing.after(300)

    assert names(event) == ["d/a.csv", "d/c.csv"]
    assert names(again) == ["d/a.csv", "d/b.csv", "d/c.csv"]
    assert again.data["late"]


def test_a_data_set_waits_for_what_still_settles(tmp_path: Path) -> None:
    """The marker is there, but one part is being written to: it is waited for."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}}, settle="10s")
    landing.write("d/a.csv")
    landing.write("d/_SUCCESS", "")
    landing.scan()
    landing.clock.advance(8)
    landing.write("d/b.csv")
    landing.scan()
    early = landing.after(5)

    (event,) = landing.after(10)

    assert early == []
    assert names(event) == ["d/a.csv", "d/b.csv"]


def test_more_parts_than_are_stored_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that is read before the parts does not make half an event, whatever is stored together."""
    monkeypatch.setattr(source_module, "_BATCH", 7)
    monkeypatch.setattr(source_module, "SIGHTED_LIMIT", 20)
    landing = Landing(tmp_path, {"complete": {"marker": "0_SUCCESS"}})
    for number in range(100):
        landing.write(f"d/{number:03}.csv", str(number))
    landing.write("d/0_SUCCESS", "")
    events: list[NewEvent] = []

    for _ in range(20):
        events += landing.after(1)

    assert [event.data["count"] for event in events] == [100]


def test_too_many_parts_are_a_complaint(tmp_path: Path) -> None:
    """A data set that outgrows its limit is told of, never an event, and comes when the limit is raised."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}, "max_parts": 3})
    for number in range(5):
        landing.write(f"d/{number}.csv", str(number))
    landing.write("d/_SUCCESS", "")
    events = landing.scan()
    complaint = landing.inbox.complaints["group"]

    landing.restart(group={"complete": {"marker": "_SUCCESS"}, "max_parts": 5})
    (event,) = landing.scan()

    assert events == []
    assert "'d' has more than 3 parts" in complaint
    assert event.data["count"] == 5


@pytest.mark.parametrize("name", [b"latin-\xe4", b"new\nline", b"100%", b"%41", "größe".encode()], ids=repr)
def test_any_name_will_do(tmp_path: Path, name: bytes) -> None:
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    folder = landing.root / os.fsdecode(name)
    folder.mkdir()
    (folder / os.fsdecode(name)).write_text("x")
    (folder / "_SUCCESS").touch()

    (event,) = landing.scan()

    assert event.data["count"] == 1
    assert landing.after(3_600) == []


# -------------------------------------------------------------------------------------------- start, restart, settings


def test_what_was_there_is_passed_over_with_ignore(tmp_path: Path) -> None:
    """Data sets of before the first start are no events; one that something is added to is, with all its parts."""
    landing = Landing(tmp_path, {"complete": {"quiet": "5m"}}, on_start="ignore")
    landing.write("old/a.csv")
    landing.write("older/a.csv")
    landing.scan()
    nothing = landing.after(3_600)
    landing.write("old/b.csv")
    landing.scan()

    (event,) = landing.after(300)

    assert nothing == []
    assert names(event) == ["old/a.csv", "old/b.csv"]
    assert event.data["generation"] == 1


def test_a_restart_goes_on_waiting(tmp_path: Path) -> None:
    """Parts that were stored before a restart are parts after it, and the quiet time goes on."""
    landing = Landing(tmp_path, {"complete": {"quiet": "5m"}})
    landing.write("d/a.csv")
    landing.scan()
    landing.clock.advance(200)
    landing.restart()
    landing.scan()

    (event,) = landing.after(100)

    assert event.data["count"] == 1
    landing.restart()
    assert landing.after(3_600) == []
    assert not landing.inbox.duplicates


def test_what_came_while_it_was_down_is_of_the_same_data_set(tmp_path: Path) -> None:
    """The quiet time ran out while nobody listened: the first thing is a whole scan, not an event without the newest part."""
    landing = Landing(tmp_path, {"complete": {"quiet": "5m"}})
    landing.write("d/a.csv")
    landing.scan()
    landing.write("d/b.csv")
    landing.restart()
    landing.after(3_600)

    (event,) = landing.after(300)

    assert event.data["count"] == 2


def test_a_lost_ledger_makes_no_second_event(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.write("d/a.csv")
    landing.write("d/_SUCCESS", "")
    landing.scan()
    landing.inbox.ledger.clear()
    landing.restart()

    assert landing.scan() == []
    assert len(landing.inbox.duplicates) == 1


def test_another_grouping_finds_the_data_sets_anew(tmp_path: Path) -> None:
    """Files that are known are grouped again without being read, and the old data sets are forgotten."""
    landing = Landing(tmp_path, {"by": "directory", "complete": {"parts": 2}})
    for name in ("2013/a.csv", "2013/b.csv", "2014/a.csv"):
        landing.write(name, name)
    first = landing.scan()
    landing.restart(group={"by": r"([ab])\.csv$", "complete": {"parts": 1}})
    for name in ("2013/a.csv", "2013/b.csv", "2014/a.csv"):
        os.truncate(landing.root / name, len(name))  # the same bytes

    second = landing.scan()
    landing.restart()
    third = landing.scan()

    assert [event.subject for event in first] == ["2013"]
    assert sorted((event.subject, event.data["count"]) for event in second if event.subject) == [("a", 2), ("b", 1)]
    assert third == []
    assert sum(key.startswith("group:") for key in landing.inbox.ledger) == 2


def test_without_group_again_files_are_events_again(tmp_path: Path) -> None:
    """Taking `group` out changes what comes from now on; the generations of the files go on."""
    landing = Landing(tmp_path, {"complete": {"parts": 2}})
    landing.write("d/a.csv")
    landing.scan()
    landing.restart(group=None)
    known = landing.scan()
    landing.write("d/a.csv", "new")

    (event,) = landing.scan()

    assert known == []
    assert (event.type, event.source_id) == ("file.arrived", "d/a.csv#2")
    assert not any(key.startswith(("group:", "part:", "open:", "@groups")) for key in landing.inbox.ledger)


def test_a_busy_store_loses_nothing(tmp_path: Path) -> None:
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    landing.scan()
    landing.write("d/a.csv")
    landing.write("d/_SUCCESS", "")
    events: list[NewEvent] = []

    for number in range(8):
        landing.inbox.refusals = number % 2
        events += landing.after(1)

    assert [event.data["count"] for event in events] == [1]
    assert not landing.inbox.duplicates


@pytest.mark.parametrize(
    "group, words",
    [
        ({"complete": {"marker": "a", "parts": 2}}, "contradict"),
        ({"by": "(", "complete": {"parts": 2}}, "no regular expression"),
        ({"by": "directory"}, "`complete` must say"),
    ],
)
def test_bad_groups_are_refused(group: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FileOptions(path="landing", group=group)


def test_the_normal_form_reads_back() -> None:
    options = FileOptions(path="x", group={"complete": {"quiet": "5m"}})

    dumped = options.model_dump(mode="json")

    assert dumped["group"] == {"by": "directory", "complete": {"quiet": "5m"}, "max_parts": 10_000}
    assert dumped["event_type"] == "dataset.arrived"
    assert FileOptions(**dumped) == options
    assert FileOptions(path="x").event_type == "file.arrived"
    assert FileOptions(path="x", group=dumped["group"], event_type="mine").event_type == "mine"


# ------------------------------------------------------------------------------------------------------------- crashes


class Crash(Exception):
    """The process is gone."""


@pytest.mark.parametrize("stored", [True, False], ids=["after the commit", "before the commit"])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_crash_at_any_commit_neither_loses_nor_repeats(tmp_path: Path, at: int, *, stored: bool) -> None:
    """The source dies at its nth commit, just before or just after: in the end there is one event, with all parts."""
    landing = Landing(tmp_path, {"complete": {"marker": "_SUCCESS"}})
    commits = 0
    crashed = False

    def emit(batch: Batch) -> Any:
        nonlocal commits, crashed
        commits += 1
        if commits == at:
            crashed = True
            if stored:
                MemoryInbox.emit(landing.inbox, batch)
            raise Crash
        return MemoryInbox.emit(landing.inbox, batch)

    landing.inbox.emit = emit  # type: ignore[method-assign]
    landing.restart()
    steps: list[Callable[[], Any]] = [
        lambda: landing.write("d/a.csv"),
        lambda: landing.write("d/b.csv"),
        lambda: landing.write("d/_SUCCESS", ""),
        lambda: None,
        lambda: None,
    ]

    for step in steps:
        step()
        try:
            landing.scan()
        except Crash:
            landing.restart()

    landing.restart()
    landing.scan()
    assert crashed or at > commits
    assert [names(event) for event in landing.inbox.events] == [["d/a.csv", "d/b.csv"]]


def test_kills_while_it_runs_neither_lose_nor_repeat(tmp_path: Path) -> None:
    """A process that is killed again and again, at whatever it does, ends with one event for each data set."""
    base = tmp_path
    (base / "landing").mkdir()
    program = base / "source.py"
    program.write_text(textwrap.dedent(_KILLED))
    seed = random.Random(7)
    wanted = {}
    for day in range(6):
        folder = base / "landing" / f"day={day}"
        folder.mkdir()
        for part in range(40):
            (folder / f"{part}.csv").write_text(f"id\n{day}-{part}\n")
        (folder / "_SUCCESS").touch()
        wanted[f"day={day}"] = 40

    for _ in range(8):
        with subprocess.Popen([sys.executable, str(program), str(base)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(seed.randrange(1, 12)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    with subprocess.Popen([sys.executable, str(program), str(base), "finish"], stdout=subprocess.DEVNULL) as process:
        assert process.wait(40) == 0

    lines = [json.loads(line) for line in (base / "events").read_text().splitlines()]
    events = {line["id"]: line for line in lines}
    assert {event["group"]: event["count"] for event in events.values()} == wanted
    assert len(events) == len(wanted)


#: A store that is one file, written by appending a line for each batch: durable as a whole, or not at all.
_KILLED = """
    import json, sys, threading
    from pathlib import Path
    from controller.clock import SystemClock
    from controller.core.model import Receipt
    from controller.sources.files import FileOptions, FileSource, source
    from controller.testing import MemoryInbox

    base = Path(sys.argv[1])
    source._BATCH = 7
    journal = base / "journal"
    inbox = MemoryInbox(name="landing", clock=SystemClock())
    if journal.exists():
        for line in journal.read_text().splitlines(keepends=True):
            if line.endswith("\\n"):
                for key, value in json.loads(line)["ledger"]:
                    inbox.ledger.pop(key, None) if value is None else inbox.ledger.__setitem__(key, value)
        journal.write_text("".join(line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\\n")))

    def emit(batch):
        line = {"ledger": [[entry.key, entry.value] for entry in batch.ledger],
                "events": [{"id": e.source_id, "group": e.data["group"], "count": e.data["count"]} for e in batch.events]}
        print("about to store", flush=True)
        with journal.open("a") as file:
            file.write(json.dumps(line) + "\\n")
        print("stored", flush=True)
        for entry in batch.ledger:
            inbox.ledger.pop(entry.key, None) if entry.value is None else inbox.ledger.__setitem__(entry.key, entry.value)
        return [Receipt(event_id="x", duplicate=False) for _ in batch.events]

    inbox.emit = emit
    options = FileOptions(path="landing", settle="0s", recursive=True, group={"complete": {"marker": "_SUCCESS"}})
    it = FileSource(options, inbox.context(base))
    for _ in range(40):
        it.scan()
    if sys.argv[2:] == ["finish"]:
        events = [event for line in journal.read_text().splitlines() for event in json.loads(line)["events"]]
        (base / "events").write_text("".join(json.dumps(event) + "\\n" for event in events))
    else:
        threading.Event().wait(30)
"""


# ------------------------------------------------------------------------------------------------------------ the loop


def test_a_running_source_emits_when_it_has_been_quiet(tmp_path: Path) -> None:
    """In its own thread, with the system's clock, nothing else happening: the time alone completes the data set."""
    landing = Landing(tmp_path, {"complete": {"quiet": "300ms"}}, scan_every="1h")
    landing.inbox.clock = SystemClock()
    landing.restart()
    landing.write("d/a.csv")

    run_until(landing.source, lambda: landing.inbox.events)

    assert [event.data["complete_by"] for event in landing.inbox.events] == ["quiet"]


def test_a_running_source_hears_the_marker(tmp_path: Path) -> None:
    """A partition that is written while the source runs is one event, soon after its marker, though no scan is due."""
    landing = Landing(tmp_path, {"by": r"^(day=\d)/", "complete": {"marker": "_SUCCESS"}}, scan_every="1h")
    landing.inbox.clock = SystemClock()
    landing.restart()
    written = False

    def write_and_wait() -> bool:
        nonlocal written
        if not written:
            wait_until(lambda: landing.source._has_walked(), what="the first scan")
            for number in range(50):
                landing.write(f"day=1/hour={number % 3}/{number}.csv", str(number))
            landing.write("day=1/_SUCCESS", "")
            written = True
        return bool(landing.inbox.events)

    run_until(landing.source, write_and_wait, timeout=20)

    assert [event.data["count"] for event in landing.inbox.events] == [50]
