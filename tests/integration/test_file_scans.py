"""Scans of a folder under a manual clock: what settles, restarts, crashes, a busy store, and how much at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from controller.ports import Batch
from controller.sources.files import source as source_module
from controller.testing import ManualClock
from tests.integration.landing import NOW, Crash, Landing

# --------------------------------------------------------------------------------------------------- settling


def test_a_slow_writer_is_one_event(tmp_path: Path) -> None:
    """While it grows, nothing; when it has rested for `settle`, one event with all of it."""
    landing = Landing(tmp_path, settle="2s")
    ids = []
    for length in range(1, 11):
        landing.write("a.csv", "x" * length)
        ids += landing.scan()
        landing.clock.advance(1.5)

    assert ids == []
    ids += landing.scan()
    landing.clock.advance(2)
    ids += landing.scan()

    assert ids == ["a.csv#1"]
    assert landing.inbox.events[0].data["size"] == 10


def test_a_file_that_vanishes_while_it_settles_is_noted(tmp_path: Path) -> None:
    """Deleted before it was read: a line in the log, no event, and no trying again."""
    landing = Landing(tmp_path, settle="2s")
    path = landing.write("a.csv")
    landing.scan()

    path.unlink()
    landing.clock.advance(2)

    assert landing.scan() == []
    assert [fields["path"] for fields in landing.logged("files.vanished")] == [str(path)]
    assert not landing.source._sighted
    assert not landing.inbox.complaints


def test_content_that_never_settled_is_never_an_event(tmp_path: Path) -> None:
    """Overwritten twice in a second: the last content, and no hash of the others."""
    landing = Landing(tmp_path, settle="2s")
    for content in ("first", "second", "third"):
        landing.write("a.csv", content)
        landing.scan()
        landing.clock.advance(0.3)

    landing.clock.advance(2)
    landing.settle()

    digests = [event.data["digest"] for event in landing.inbox.events]
    assert digests == [f"sha256:{hashlib.sha256(b'third').hexdigest()}"]


# -------------------------------------------------------------------------------------------- starting and stopping


def test_what_arrives_while_it_is_down_is_found(landing: Landing) -> None:
    landing.write("a.csv")
    landing.scan()
    landing.write("b.csv")

    landing.restart()

    assert landing.scan() == ["b.csv#1"]


def test_ignore_means_what_was_there_at_the_first_start(tmp_path: Path) -> None:
    """Later starts find what came meanwhile, and changes of what was ignored are news."""
    landing = Landing(tmp_path, on_start="ignore", settle="2s")
    landing.write("old.csv")
    assert landing.settle() == []
    landing.write("new.csv")
    assert landing.settle() == ["new.csv#1"]

    landing.restart()
    landing.write("later.csv")
    landing.write("old.csv", "changed")

    assert sorted(landing.settle()) == ["later.csv#1", "old.csv#1"]


def test_ignore_survives_a_crash_during_the_first_scan(tmp_path: Path) -> None:
    """Stopped before what was there had settled: it is still ignored at the next start."""
    landing = Landing(tmp_path, on_start="ignore", settle="2s")
    landing.write("old.csv")
    landing.scan()

    landing.restart()

    assert landing.settle() == []
    landing.write("new.csv")
    assert landing.settle() == ["new.csv#1"]


@pytest.mark.parametrize("stored", [False, True], ids=["before the commit", "after the commit"])
def test_a_crash_neither_loses_nor_repeats(landing: Landing, monkeypatch: pytest.MonkeyPatch, *, stored: bool) -> None:
    """Event and ledger entry are one transaction, so it does not matter where it dies."""
    store = landing.inbox.emit
    landing.write("a.csv")

    def emit(batch: Batch) -> Any:
        if stored:
            store(batch)
        raise Crash

    monkeypatch.setattr(landing.inbox, "emit", emit)
    landing.restart()
    with pytest.raises(Crash):
        landing.scan()
    monkeypatch.undo()
    landing.restart()
    landing.scan()

    assert [event.source_id for event in landing.inbox.events] == ["a.csv#1"]
    assert not landing.inbox.duplicates


def test_a_busy_store_gets_the_same_batch_again(landing: Landing) -> None:
    """Nothing is marked and nothing more is read; after the wait everything goes through, once."""
    for number in range(700):
        landing.write(f"{number}.csv")
    landing.inbox.refusals, landing.inbox.refused_for_seconds = 1, 5.0

    assert landing.scan() == []
    assert landing.scan() == []
    assert len(landing.source._unsaved) == 500
    assert not landing.inbox.ledger
    landing.clock.advance(5)

    assert len(landing.scan()) == 700
    assert not landing.inbox.duplicates


def test_more_files_than_may_wait_are_taken_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan pauses when too much is settling, and goes on from where it was."""
    monkeypatch.setattr(source_module, "SIGHTED_LIMIT", 100)
    landing = Landing(tmp_path, settle="2s", recursive=True)
    for number in range(350):
        (landing.root / f"d{number % 7}").mkdir(exist_ok=True)
        landing.write(f"d{number % 7}/{number}.csv")

    ids: list[str] = []
    for _ in range(5):
        ids += landing.scan()
        assert len(landing.source._sighted) <= 100
        landing.clock.advance(2)

    assert len(ids) == len(set(ids)) == 350


def test_the_next_scan_waits_ten_times_the_length_of_the_last(tmp_path: Path) -> None:
    """A tree that takes long to scan leaves most of the time to others."""

    class SlowClock(ManualClock):
        def monotonic(self) -> float:
            self.advance(1.0)
            return super().monotonic()

    landing = Landing(tmp_path)
    landing.inbox.clock = SlowClock(NOW)
    landing.restart(scan_every="1s")
    landing.scan()

    length = landing.source._walk_seconds
    assert length >= 1.0
    assert landing.source._scan_at - landing.inbox.clock.monotonic() >= 10 * length - 5
