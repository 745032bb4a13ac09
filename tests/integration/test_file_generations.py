"""Which contents of a file are news, on a real file system: each is one event, however it came."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.landing import Landing


def test_each_content_is_a_generation(landing: Landing) -> None:
    """A, B, A again are three contents of a path."""
    ids = []
    for content in ("A", "B", "A"):
        landing.write("a.csv", content)
        ids += landing.scan()

    assert ids == ["a.csv#1", "a.csv#2", "a.csv#3"]


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def _delete_and_bring_again(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def _replace_by_rename(path: Path) -> None:
    other = path.with_name("other.tmp")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("again", [_touch, _rewrite, _delete_and_bring_again, _replace_by_rename])
def test_the_same_bytes_again_are_no_news(landing: Landing, again: Any) -> None:
    """Same path and same bytes are one event, however they came; and the ledger knows the file as it is now."""
    path = landing.write("a.csv")
    landing.scan()

    again(path)

    assert landing.scan() == []
    batches = len(landing.inbox.batches)
    assert landing.scan() == []
    assert len(landing.inbox.batches) == batches


def test_a_file_that_is_gone_for_a_while_keeps_its_generation(landing: Landing) -> None:
    """Deleted, seen to be gone, and brought again: the same bytes are no news, others are the next generation."""
    path = landing.write("a.csv", "A")
    landing.scan()
    path.unlink()
    landing.scan()

    landing.write("a.csv", "A")
    assert landing.scan() == []
    landing.write("a.csv", "B")
    assert landing.scan() == ["a.csv#2"]


def test_an_edit_that_hides_is_found(landing: Landing) -> None:
    """Same size, and the mtime set back: the ctime gives it away."""
    path = landing.write("a.csv", "A")
    status = path.stat()
    landing.scan()

    path.write_text("B")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert landing.scan() == ["a.csv#2"]


def test_without_digests_the_mtime_decides(tmp_path: Path) -> None:
    """`digest: false` opens nothing: a touch is news, a change of mode is not."""
    landing = Landing(tmp_path, digest=False)
    path = landing.write("a.csv")
    assert landing.scan() == ["a.csv#1"]
    assert landing.inbox.events[0].data["digest"] is None

    path.chmod(0o600)
    assert landing.scan() == []
    _touch(path)
    assert landing.scan() == ["a.csv#2"]


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """Above `digest_limit` a file is told apart by size, mtime and inode; a sparse terabyte takes no time."""
    landing = Landing(tmp_path, digest_limit=1000)
    path = landing.write("huge.bin", "")
    try:
        os.truncate(path, 1 << 40)
    except OSError:
        os.truncate(path, 1 << 30)

    assert landing.scan() == ["huge.bin#1"]
    assert landing.inbox.events[0].data["digest"] is None
    _touch(path)
    assert landing.scan() == ["huge.bin#2"]


def test_turning_digests_on_is_no_news(tmp_path: Path) -> None:
    landing = Landing(tmp_path, digest=False)
    path = landing.write("a.csv")
    landing.scan()

    landing.restart(digest=True)
    path.chmod(0o600)
    assert landing.scan() == []
    _touch(path)

    assert landing.scan() == []


@settings(max_examples=25)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from("ab"), st.sampled_from("AB")),
            st.tuples(st.sampled_from(["delete", "touch", "scan", "restart"]), st.sampled_from("ab"), st.just("")),
        ),
        max_size=25,
    )
)
def test_any_history_gives_one_event_for_each_content_seen(steps: list[tuple[str, str, str]]) -> None:
    """Whatever happens to files, a scan emits exactly the contents that differ from the last one emitted."""
    with tempfile.TemporaryDirectory() as folder:
        landing = Landing(Path(folder))
        there: dict[str, str] = {}
        emitted: dict[str, list[str]] = {"a": [], "b": []}
        for verb, name, content in [*steps, ("scan", "a", "")]:
            path = landing.root / name
            if verb == "write":
                there[name] = content
                path.write_text(content)
            elif verb == "delete":
                there.pop(name, None)
                path.unlink(missing_ok=True)
            elif verb == "touch" and name in there:
                _touch(path)
            elif verb == "restart":
                landing.restart()
            elif verb == "scan":
                landing.scan()
                for each, now in there.items():
                    if emitted[each][-1:] != [now]:
                        emitted[each].append(now)

        assert sorted(event.source_id for event in landing.inbox.events) == sorted(
            f"{name}#{number}" for name, contents in emitted.items() for number in range(1, len(contents) + 1)
        )
        assert not landing.inbox.duplicates
