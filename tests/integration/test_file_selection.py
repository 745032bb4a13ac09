"""Which files the source takes, and which options it refuses; it never leaves its root."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.core.selection import Selection
from controller.sources.files import FileOptions
from tests.integration.landing import Landing


@pytest.mark.parametrize(
    "options, name, counts",
    [
        ({}, "a.csv", True),
        ({}, ".hidden", False),
        ({}, "a.csv.tmp", False),
        ({}, "a.csv.part", False),
        ({}, "a.csv~", False),
        ({"include": ["*.csv", "*.csv.gz"]}, "a.csv.gz", True),
        ({"include": ["*.csv"]}, "a.json", False),
        ({"include": ["*.csv"]}, "sub/a.csv", False),
        ({"recursive": True, "include": ["*.csv"]}, "sub/deep/a.csv", True),
        ({"recursive": True, "include": ["sub/*.csv"]}, "sub/a.csv", True),
        ({"recursive": True, "include": ["sub/*.csv"]}, "other/a.csv", False),
        ({"recursive": True}, ".git/a.csv", False),
        ({"recursive": True, "exclude": ["old"]}, "old/a.csv", False),
        ({"exclude": []}, ".hidden", True),
    ],
)
def test_selection(tmp_path: Path, options: dict[str, Any], name: str, *, counts: bool) -> None:
    """What a scan takes, and what a hint is followed for, are the same."""
    landing = Landing(tmp_path, **options)
    (landing.root / name).parent.mkdir(parents=True, exist_ok=True)
    landing.write(name)
    read = FileOptions(path="x", **options)

    assert landing.scan() == ([f"{name}#1"] if counts else [])
    if "/" not in name or read.recursive:
        assert Selection(read.include, read.exclude).admits(name) is counts


def test_only_regular_files_count_and_links_are_not_followed(tmp_path: Path) -> None:
    """Links of all kinds, pipes, sockets and folders are passed over, without blocking and without leaving the root."""
    landing = Landing(tmp_path, recursive=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_text("secret")
    (landing.root / "link.csv").symlink_to(outside / "secret.csv")
    (landing.root / "folder").symlink_to(outside)
    (landing.root / "self").symlink_to("self")
    (landing.root / "loop").symlink_to(landing.root)
    (landing.root / "dangling").symlink_to("nowhere")
    (landing.root / "named.csv").mkdir()
    os.mkfifo(landing.root / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        server.bind(str(landing.root / "s"))
    landing.write("real.csv")

    assert landing.scan() == ["real.csv#1"]
    assert not landing.inbox.complaints


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """Between sighting and reading, the folder is replaced by a link that leads out of the root."""
    landing = Landing(tmp_path, recursive=True, settle="2s")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.csv").write_text("secret")
    (landing.root / "sub").mkdir()
    landing.write("sub/a.csv")
    landing.scan()

    shutil.rmtree(landing.root / "sub")
    (landing.root / "sub").symlink_to(outside)
    landing.clock.advance(3)

    assert landing.scan() == []
    assert landing.inbox.events == []


def test_a_root_that_is_a_link_is_what_was_asked_for(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    landing.write("a.csv")
    (tmp_path / "alias").symlink_to(landing.root)
    landing.restart(path="alias")

    assert landing.scan() == ["a.csv#1"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"path": ""}, "at least 1 character"),
        ({"path": "x", "settle": "2 secs"}, "'2 secs' is not a duration"),
        ({"path": "x", "scan_every": "1ms"}, "write 30s"),
        ({"path": "x", "include": []}, "at least 1 item"),
        ({"path": "x", "on_start": "never"}, "'backfill' or 'ignore'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FileOptions.model_validate(options)
