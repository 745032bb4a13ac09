"""The file source in a thread, under the real clock: hints, bursts, stopping, and how fast it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.testing import run_until, wait_until
from tests.integration.landing import Crash, Landing


class Live(Landing):
    """A landing whose source runs in a thread, under the real clock."""

    def __init__(self, base: Path, **options: Any) -> None:
        super().__init__(base, **options)
        self.inbox.clock = SystemClock()
        self.restart()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.source.run, args=(self.stop,), daemon=True)

    def __enter__(self) -> Live:
        self.thread.start()
        wait_until(lambda: self.inbox.ledger or self.inbox.complaints.get("root"), what="the first scan")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=5)
        assert not self.thread.is_alive()

    def arrived(self, count: int, *, timeout: float = 10.0) -> list[str]:
        wait_until(lambda: len(self.inbox.events) >= count, timeout=timeout, what=f"{count} events")
        return [event.source_id for event in self.inbox.events]


def test_a_closed_file_is_an_event_at_once(tmp_path: Path) -> None:
    """With `settle: 0s`, closing a file or moving it in is enough; no scan is waited for."""
    with Live(tmp_path, scan_every="1h") as live:
        live.write("a.csv")
        live.arrived(1)
        (tmp_path / "b.csv").write_text("moved in from elsewhere")
        (tmp_path / "b.csv").rename(live.root / "b.csv")
        live.arrived(2)
        live.write("c.csv.tmp")
        (live.root / "c.csv.tmp").rename(live.root / "c.csv")

        assert live.arrived(3) == ["a.csv#1", "b.csv#1", "c.csv#1"]


def test_a_file_is_emitted_within_milliseconds(tmp_path: Path) -> None:
    """From closing to emitting; the bound is loose, the benchmark has the figure."""
    clock = SystemClock()
    with Live(tmp_path, scan_every="1h") as live:
        waits = []
        for number in range(30):
            live.write(f"{number}.csv")
            closed_at = clock.monotonic()
            live.arrived(number + 1)
            waits.append(clock.monotonic() - closed_at)

    assert sorted(waits)[15] < 0.05


def test_a_file_is_not_taken_while_it_is_written(tmp_path: Path) -> None:
    """Open and growing: nothing, although `settle` is zero; closed: one event with all of it."""
    clock = SystemClock()
    with Live(tmp_path, scan_every="200ms") as live:
        with (live.root / "a.csv").open("w") as file:
            ends_at = clock.monotonic() + 1.5
            while clock.monotonic() < ends_at:
                file.write("x" * 100)
                file.flush()
                live.stop.wait(0.05)
            size = file.tell()
        live.arrived(1)

    assert [event.data["size"] for event in live.inbox.events] == [size]


def test_a_rewrite_within_one_tick_is_not_missed(tmp_path: Path) -> None:
    """Overwritten again and again: the last content is always the last event."""
    with Live(tmp_path, scan_every="1h") as live:
        for number in range(50):
            live.write("a.csv", f"{number:04d}")
        last = f"sha256:{hashlib.sha256(b'0049').hexdigest()}"

        wait_until(lambda: live.inbox.events and live.inbox.events[-1].data["digest"] == last)


def test_a_burst_is_complete(tmp_path: Path) -> None:
    with Live(tmp_path) as live:
        for number in range(3000):
            live.write(f"{number}.csv")
        ids = live.arrived(3000, timeout=30)

    assert len(set(ids)) == len(ids) == 3000


def test_folders_that_appear_are_looked_into(tmp_path: Path) -> None:
    """Made with files in them, or moved in as a whole: by hints or by the scan they cause."""
    with Live(tmp_path, recursive=True, scan_every="1h") as live:
        for number in range(20):
            (live.root / f"deep{number}/er").mkdir(parents=True)
            live.write(f"deep{number}/er/a.csv")
        shutil.copytree(live.root / "deep0", tmp_path / "whole")
        (tmp_path / "whole").rename(live.root / "whole")

        assert sorted(live.arrived(21)) == sorted(
            [*(f"deep{number}/er/a.csv#1" for number in range(20)), "whole/er/a.csv#1"]
        )


def test_a_root_that_is_made_anew_is_watched_again(tmp_path: Path) -> None:
    with Live(tmp_path, scan_every="100ms") as live:
        shutil.rmtree(live.root)
        wait_until(lambda: live.inbox.complaints.get("root"))
        live.root.mkdir()
        wait_until(lambda: not live.inbox.complaints and live.source._watcher.listening)
        live.write("a.csv")

        assert live.arrived(1) == ["a.csv#1"]


def test_too_many_hints_are_replaced_by_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hints are lost, as when the system's queue overflows, a scan finds what they were about."""
    from controller.sources.files import watcher

    monkeypatch.setattr(watcher, "_HINT_LIMIT", 3)
    with Live(tmp_path, scan_every="1h") as live:
        for number in range(500):
            live.write(f"{number}.csv")

        assert len(set(live.arrived(500, timeout=30))) == 500


def test_it_stops_within_a_second(tmp_path: Path) -> None:
    clock = SystemClock()
    live = Live(tmp_path)
    with live:
        started = clock.monotonic()

    assert clock.monotonic() - started < 1.0


def test_stopping_does_not_wait_for_a_large_file(tmp_path: Path) -> None:
    """Asked to stop while it reads, it leaves the file for the next start."""
    landing = Landing(tmp_path)
    os.truncate(landing.write("large.bin"), 64 * 1024 * 1024)
    asked = iter([False, False, False])
    landing.source._halted = lambda: next(asked, True)

    assert landing.scan() == []
    landing.restart()

    assert landing.scan() == ["large.bin#1"]


def test_hints_of_what_does_not_count_are_passed_over(tmp_path: Path) -> None:
    """Names that are not selected, files in hidden folders, and files outside."""
    with Live(tmp_path, recursive=True, include=["*.csv"]) as live:
        (live.root / ".git").mkdir()
        live.write(".git/a.csv")
        live.write("a.json")
        (live.root / "pipe.csv.tmp").symlink_to("nowhere")
        live.write("b.csv")
        live.write("d.csv").rename(tmp_path / "d.csv")
        live.write("e.csv")

        wait_until(lambda: "e.csv#1" in live.arrived(1))

        # d.csv may have been read before it was moved away.
        assert {event.source_id for event in live.inbox.events} - {"d.csv#1"} == {"b.csv#1", "e.csv#1"}


def test_it_can_be_run_again(tmp_path: Path) -> None:
    """After an exception the controller calls `run` again: nothing is lost, and nothing repeated."""
    landing = Landing(tmp_path)
    landing.inbox.clock = SystemClock()
    landing.restart()
    store = landing.inbox.emit
    object.__setattr__(landing.source._context, "emit", lambda batch: (_ for _ in ()).throw(Crash()))
    landing.write("a.csv")
    with pytest.raises(Crash):
        run_until(landing.source, lambda: False, timeout=5)

    object.__setattr__(landing.source._context, "emit", store)
    run_until(landing.source, lambda: landing.inbox.events)

    assert [event.source_id for event in landing.inbox.events] == ["a.csv#1"]


def test_twenty_thousand_files_that_came_while_it_was_down(tmp_path: Path) -> None:
    """All of them, each once, in batches, well within a minute."""
    landing = Landing(tmp_path, settle="2s")
    landing.inbox.clock = SystemClock()
    landing.restart()
    for number in range(20_000):
        landing.write(f"{number}.csv", str(number))

    run_until(landing.source, lambda: len(landing.inbox.events) >= 20_000, timeout=50)

    assert len({event.source_id for event in landing.inbox.events}) == 20_000
    assert not landing.inbox.duplicates
    assert max(entries for _, entries in landing.inbox.batches) <= 500


WITHOUT_INOTIFY = """
import sys
from datetime import timedelta
from pathlib import Path
from controller.clock import SystemClock
from controller.sources.files import FileOptions, FileSource
from controller.testing import MemoryInbox, run_until

base = Path(sys.argv[1])
inbox = MemoryInbox(clock=SystemClock())
source = FileSource(FileOptions(path="landing", settle="0s", scan_every="100ms"), inbox.context(base))
run_until(source, lambda: "watch" in inbox.complaints)
(base / "landing" / "a.csv").write_text("x")
run_until(source, lambda: inbox.events)
print(inbox.complaints["watch"])
"""


def test_without_room_for_a_watch_it_scans(tmp_path: Path) -> None:
    """The system's limit of inotify is reached: a complaint, and scans find everything."""
    (tmp_path / "landing").mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare(1) to lower the limit for one process")
    shell = 'echo 0 > /proc/sys/user/max_inotify_watches && exec "$@"'
    prefix = [unshare, "--user", "--map-root-user", "sh", "-c", shell, "sh"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this system does not let a process lower its own limit of inotify watches")

    done = subprocess.run(
        [*prefix, sys.executable, "-c", WITHOUT_INOTIFY, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
    assert "only scan it every" in done.stdout
    assert "inotify watch limit reached" in done.stdout
