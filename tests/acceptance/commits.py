"""Commits whose request or answer is lost: which there are in a story, and what the story comes to when one, or all, are lost.

A commit whose answer is lost is durable and looks as if it had failed; one whose request is lost looks the same and is not.
Both must lead to the same end as if nothing had happened (the oracle of the crash matrix).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.acceptance.matrix import STORIES, Server
from tests.proxy import Loss, Proxy


class Commits:
    """Hears of every commit of an installation's daemons, and loses each wanted name once."""

    def __init__(self, folder: Path, proxy: Proxy, *, loss: Loss, wanted: Collection[str] | None) -> None:
        """`wanted` are names of transactions; None: every one."""
        self.path = folder / "commits.sock"
        #: Every name that was committed, in the order of the first time.
        self.seen: dict[str, None] = {}
        #: Those that were lost.
        self.lost: dict[str, None] = {}
        self._proxy, self._loss, self._wanted = proxy, loss, wanted
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._hear, name="commits", daemon=True).start()

    def close(self) -> None:
        """Hear no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _hear(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                name, port = line.recv(200).decode().split()
                self._decide(name, int(port))
                line.sendall(b"go\n")

    def _decide(self, name: str, port: int) -> None:
        with self._lock:
            self.seen.setdefault(name)
            if name in self.lost or not (self._wanted is None or name in self._wanted):
                return
            if self._proxy.lose(port, b"COMMIT", self._loss):
                self.lost[name] = None


@dataclass(frozen=True, slots=True)
class Play:
    """A story that was played with losses."""

    story: str
    loss: Loss
    #: What it came to, as the story tells it; empty when it did not end.
    facts: dict[str, Any]
    #: The names of the transactions that were committed, and of those whose commit was lost.
    seen: tuple[str, ...]
    lost: tuple[str, ...]
    #: What is wrong with it.
    problems: tuple[str, ...]
    seconds: float


def play(
    server: Server,
    story: str,
    *,
    loss: Loss = "answer",
    wanted: Collection[str] | None,
    expected: dict[str, Any] | None = None,
) -> Play:
    """Play a story on PostgreSQL while the first commit of each wanted name is lost; `expected` are the facts of an undisturbed one."""
    began = time.monotonic()
    facts: dict[str, Any] = {}
    with _installed(server, story, loss=loss, wanted=wanted) as (there, commits, proxy):
        try:
            there.start(RETRAIN_COMMITS=str(commits.path))
            facts = STORIES[story].play(there)
            wrong = STORIES[story].problems(facts)
            if expected is not None:
                wrong += [
                    f"{key}: {facts[key]} instead of {expected[key]}" for key in facts if facts[key] != expected[key]
                ]
        except Exception as error:  # noqa: BLE001 - what goes wrong is the outcome
            wrong = [f"{type(error).__name__}: {error}"]
        if missing := set(wanted or ()) - set(commits.lost):
            wrong.append(f"never committed: {', '.join(sorted(missing))}")
        if len(proxy.losses) != len(commits.lost):
            wrong.append(f"{len(proxy.losses)} commits were lost instead of {len(commits.lost)}")
    return Play(story, loss, facts, tuple(commits.seen), tuple(commits.lost), tuple(wrong), time.monotonic() - began)


@contextlib.contextmanager
def _installed(
    server: Server, story: str, *, loss: Loss, wanted: Collection[str] | None
) -> Iterator[tuple[Any, Commits, Proxy]]:
    folder = Path(tempfile.mkdtemp(prefix="retrain-lost-"))
    url = server().create_database()
    place = urlsplit(url)
    proxy = Proxy(place.hostname or "127.0.0.1", place.port or 5432)
    commits = Commits(folder, proxy, loss=loss, wanted=wanted)
    through = url.replace(f":{place.port}/", f":{proxy.port}/")
    there = STORIES[story].install(folder / "here", through)
    there.program = "tests.acceptance.losing_daemon"
    try:
        yield there, commits, proxy
    finally:
        there.close()
        commits.close()
        proxy.close()
        server().drop(url)
        shutil.rmtree(folder, ignore_errors=True)
