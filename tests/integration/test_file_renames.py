"""Files that are renamed into place, for ever: what listens to them does not grow."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyEvent

from controller.sources.files import watcher as module
from controller.sources.files.watcher import Watcher
from controller.testing import wait_until


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    monkeypatch.setattr(module, "MOST_RENAMES", 20)
    made = Watcher()
    yield made
    made.close()


def rename(folder: Path, watcher: Watcher, numbers: range) -> None:
    """Rename files into place, and wait until all of them were heard of."""
    heard: set[str] = set()
    for number in numbers:
        partial = folder / f".{number}"
        partial.touch()
        partial.rename(folder / f"{number}.csv")

    def all_heard() -> bool:
        heard.update(watcher.take(0.05).files)
        return {str(folder / f"{number}.csv") for number in numbers} <= heard

    wait_until(all_heard, what="every file")


def remembered() -> int:
    gc.collect()
    return sum(isinstance(each, InotifyEvent) for each in gc.get_objects())


def test_renames_are_not_remembered_for_ever(watcher: Watcher, tmp_path: Path) -> None:
    """watchdog keeps the first half of every rename; we listen anew before a scan when that has become much, and hear all the same."""
    watcher.watch(str(tmp_path), tmp_path.stat(), recursive=False)
    rename(tmp_path, watcher, range(30))
    assert remembered() >= 30, "watchdog forgets by now: MOST_RENAMES can go"

    watcher.watch(str(tmp_path), tmp_path.stat(), recursive=False)

    assert remembered() == 0
    rename(tmp_path, watcher, range(30, 35))


def test_few_renames_change_nothing(watcher: Watcher, tmp_path: Path) -> None:
    """Who listens goes on listening."""
    watcher.watch(str(tmp_path), tmp_path.stat(), recursive=False)
    before = watcher._observer
    rename(tmp_path, watcher, range(5))

    watcher.watch(str(tmp_path), tmp_path.stat(), recursive=False)

    assert watcher._observer is before
