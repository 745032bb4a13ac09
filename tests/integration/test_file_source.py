"""The file source on a real file system: what counts as news, what must not hurt it, and how fast it is.

Most tests call `scan()` under a manual clock; those below *the loop* run the source in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.clock import SystemClock
from controller.core.selection import Selection
from controller.ports import Batch
from controller.sources.files import FileOptions, FileSource
from controller.sources.files import source as source_module
from controller.sources.files.names import escape_name, event_id, ledger_key
from controller.testing import ManualClock, MemoryInbox, run_until, wait_until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOBODY = 65_534


class Landing:
    """A folder, an inbox, a clock, and a source between them."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.base = base
        self.root = base / "landing"
        self.root.mkdir(exist_ok=True)
        self.clock = ManualClock(NOW)
        self.inbox = MemoryInbox(name="landing", clock=self.clock)
        self.options = {"path": "landing", "settle": "0s", **options}
        self.restart()

    def restart(self, **options: Any) -> None:
        self.options |= options
        self.source = FileSource(FileOptions(**self.options), self.inbox.context(self.base))

    def write(self, name: str, content: str = "x") -> Path:
        path = self.root / name
        path.write_text(content)
        return path

    def scan(self) -> list[str]:
        """Scan once, and return the ids of the new events."""
        before = len(self.inbox.events)
        self.source.scan()
        return [event.source_id for event in self.inbox.events[before:]]

    def settle(self) -> list[str]:
        """Scan, wait until what was found has settled, and scan again."""
        before = len(self.inbox.events)
        self.source.scan()
        self.clock.advance(10)
        self.source.scan()
        return [event.source_id for event in self.inbox.events[before:]]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.inbox.log.lines if name == event]


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


# ------------------------------------------------------------------------------------------- what an event says


def test_a_file_is_an_event(landing: Landing) -> None:
    """It says where the file is, how large it is, what is in it, and when it was written."""
    path = landing.write("2013-01.csv", "hello")
    os.utime(path, ns=(0, int(datetime(2026, 2, 28, tzinfo=UTC).timestamp()) * 10**9))

    landing.scan()

    (event,) = landing.inbox.events
    assert event.source == "/sources/landing"
    assert event.source_id == "2013-01.csv#1"
    assert event.type == "file.arrived"
    assert event.subject == "2013-01.csv"
    assert event.time == datetime(2026, 2, 28, tzinfo=UTC)
    assert event.data == {
        "path": str(path),
        "name": "2013-01.csv",
        "size": 5,
        "mtime": "2026-02-28T00:00:00Z",
        "digest": f"sha256:{hashlib.sha256(b'hello').hexdigest()}",
        "generation": 1,
    }


@pytest.mark.parametrize(
    "mtime, expected",
    [
        (NOW + timedelta(days=400), NOW),
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(1969, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    ids=["future", "1970", "before 1970"],
)
def test_the_time_of_an_event_is_never_in_the_future(landing: Landing, mtime: datetime, expected: datetime) -> None:
    """The time is the mtime as far as it can be true; the data has it as it is."""
    path = landing.write("a.csv")
    os.utime(path, (mtime.timestamp(), mtime.timestamp()))

    landing.scan()

    (event,) = landing.inbox.events
    assert event.time == expected
    assert datetime.fromisoformat(event.data["mtime"]) == mtime


NAMES = [
    b"plain.csv",
    "größe.csv".encode(),
    b"latin-\xe4.csv",
    b"new\nline.csv",
    b"bell\x07.csv",
    b"100%.csv",
    b"%41.csv",
    b"%41\xff.csv",
    b"-rf",
    "\u202egnp.csv".encode(),
    "\u0085.csv".encode(),
    b"x" * 255,
    "…".encode() * 85,
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_name_will_do(landing: Landing, name: bytes) -> None:
    """Names are bytes: what cannot be carried as text is escaped, and unquoting gives the file, of any name."""
    (landing.root / os.fsdecode(name)).write_text("x")

    landing.scan()

    (event,) = landing.inbox.events
    assert event.subject is not None
    assert unquote_to_bytes(event.subject) == name
    assert Path(os.fsdecode(unquote_to_bytes(event.data["path"]))).read_text() == "x"
    assert landing.scan() == []


def test_names_that_look_alike_are_told_apart(landing: Landing) -> None:
    for name in (b"\xff", b"%FF", b"%25FF", b"a\nb", b"a%0Ab"):
        (landing.root / os.fsdecode(name)).write_text("same")

    assert len(set(landing.scan())) == 5


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
def test_every_name_is_escaped_so_that_it_can_be_undone(name: bytes) -> None:
    escaped = escape_name(os.fsdecode(name))

    assert unquote_to_bytes(escaped) == name
    escaped.encode("utf-8")


def test_ids_and_keys_are_bounded() -> None:
    """A path of 4,000 characters has an id and a key that an index can hold, and keeps its own."""
    long, other = "d/" * 2000 + "a", "d/" * 2000 + "b"

    assert len(event_id(long, 7)) < 500
    assert len(ledger_key(long)) < 300
    assert event_id(long, 7) != event_id(other, 7)
    assert ledger_key(long) != ledger_key(other)


# ---------------------------------------------------------------------------------------------- what counts as news


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


# ------------------------------------------------------------------------------------------------ what is selected


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


class Crash(Exception):
    """The process dies here."""


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


# ----------------------------------------------------------------------------------------------- what goes wrong


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


# ----------------------------------------------------------------------------------------------------- the loop


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
