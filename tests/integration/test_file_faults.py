"""What goes wrong with files: a complaint until it is well, and the others go on."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.landing import Landing

NOBODY = 65_534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be somebody for whom permissions count; root passes over them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that anybody can reach; pytest's own belongs to one user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_unreadable_file_is_a_complaint_until_it_is_well(shared: Path) -> None:
    """Its path is named, it is logged once an hour, the others go on, and it becomes an event in the end."""
    landing = Landing(shared)
    path = landing.write("locked.csv")
    path.chmod(0)
    landing.write("fine.csv")

    with unprivileged():
        assert landing.scan() == ["fine.csv#1"]
        for _ in range(5):
            assert landing.scan() == []
    assert landing.inbox.complaints == {"unreadable": f"cannot read '{path}': Permission denied"}
    assert len(landing.logged("files.unreadable_path")) == 1

    landing.clock.advance(timedelta(hours=1))
    with unprivileged():
        landing.scan()
    assert len(landing.logged("files.unreadable_path")) == 2
    path.chmod(0o644)
    with unprivileged():
        assert landing.scan() == ["locked.csv#1"]
    assert not landing.inbox.complaints


def test_an_unreadable_folder_is_a_complaint_until_it_is_well(shared: Path) -> None:
    landing = Landing(shared, recursive=True)
    (landing.root / "sub").mkdir()
    landing.write("sub/a.csv")
    landing.write("b.csv")
    (landing.root / "sub").chmod(0)

    with unprivileged():
        assert landing.scan() == ["b.csv#1"]
    assert landing.inbox.complaints == {"unreadable": f"cannot read '{landing.root}/sub': Permission denied"}

    (landing.root / "sub").chmod(0o755)
    with unprivileged():
        assert landing.scan() == ["sub/a.csv#1"]
    assert not landing.inbox.complaints


def test_a_complaint_ends_when_its_path_is_gone(shared: Path) -> None:
    landing = Landing(shared)
    path = landing.write("locked.csv")
    path.chmod(0)
    with unprivileged():
        landing.scan()

    path.unlink()
    landing.scan()

    assert not landing.inbox.complaints


def test_many_unreadable_paths_are_one_complaint(shared: Path) -> None:
    landing = Landing(shared)
    for number in range(20):
        landing.write(f"{number}.csv").chmod(0)

    with unprivileged():
        landing.scan()

    assert landing.inbox.complaints["unreadable"].endswith("Permission denied, nor 19 more")


def test_a_missing_root_is_a_complaint_until_it_is_there(landing: Landing) -> None:
    """Removed, a file in its place, made anew: it says so, and goes on by itself."""
    landing.write("a.csv")
    landing.scan()

    shutil.rmtree(landing.root)
    landing.scan()
    assert landing.inbox.complaints == {"root": f"cannot scan '{landing.root}': No such file or directory"}
    landing.root.write_text("not a folder")
    landing.scan()
    assert landing.inbox.complaints == {"root": f"cannot scan '{landing.root}': Not a directory"}
    landing.root.unlink()
    landing.root.mkdir()
    landing.write("a.csv")
    landing.write("b.csv")

    assert landing.scan() == ["b.csv#1"]
    assert not landing.inbox.complaints


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_hiccup_of_the_file_system_passes(landing: Landing, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An error on the root once, as from a network share: a complaint, and the next scan is well."""
    landing.write("a.csv")

    def hiccup(path: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "scandir", hiccup)
    landing.scan()
    assert os.strerror(number) in landing.inbox.complaints["unreadable"]
    monkeypatch.undo()

    assert landing.scan() == ["a.csv#1"]
    assert not landing.inbox.complaints
