"""What the tests of outages share: producers that note every answer, a wire that is slow, and a disk that is small.

Producers send for as long as an outage lasts, as those in the world do; what they were told is compared with what is stored.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.api.socketpath import reachable
from controller.clock import SystemClock

#: Nobody waits for an answer longer than this; none may come so late.
GIVE_UP_SECONDS = 20.0
_CLOCK = SystemClock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one request came to."""

    id: str
    #: Monotonic seconds at which it was sent.
    at: float
    seconds: float
    #: 0: there was no answer.
    status: int
    retry_after: str | None = None


class Producers:
    """Threads that send one event after the other over the daemon's socket, each event once."""

    def __init__(self, socket_path: Path, *, count: int = 3, pause: float = 0.02, size: int = 200) -> None:
        self._socket = socket_path
        self._pause = pause
        self._filling = "x" * size
        self._numbers = itertools.count()
        self._stop = threading.Event()
        #: Every answer, in the order of their coming.
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._send_on, daemon=True) for _ in range(count)]

    def __enter__(self) -> Producers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(GIVE_UP_SECONDS + 5)

    def acknowledged(self, *, since: float = 0.0) -> list[Answer]:
        """The events that were acknowledged, of those sent from then on."""
        return [answer for answer in list(self.answers) if 200 <= answer.status < 300 and answer.at >= since]

    def refused(self, *, since: float = 0.0) -> list[Answer]:
        """The events that were not, of those sent from then on."""
        return [answer for answer in list(self.answers) if not 200 <= answer.status < 300 and answer.at >= since]

    def _send_on(self) -> None:
        while not self._stop.is_set():
            self.answers.append(self.send(f"e-{next(self._numbers)}"))
            self._stop.wait(self._pause)

    def send(self, id_: str) -> Answer:
        """Send one event and return what was answered."""
        event = {"specversion": "1.0", "id": id_, "source": "/test", "type": "noise", "data": {"text": self._filling}}
        headers = {"Content-Type": "application/cloudevents+json"}
        at = _CLOCK.monotonic()
        status, retry_after = 0, None
        connection = http.client.HTTPConnection("localhost", timeout=GIVE_UP_SECONDS)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(GIVE_UP_SECONDS)
            with reachable(self._socket) as name:
                connection.sock.connect(name)
            connection.request("POST", "/v1/events", json.dumps(event), headers)
            response = connection.getresponse()
            response.read()
            status, retry_after = response.status, response.getheader("Retry-After")
        except (OSError, http.client.HTTPException):
            pass  # no answer; the status says so
        finally:
            connection.close()
        return Answer(id=id_, at=at, seconds=_CLOCK.monotonic() - at, status=status, retry_after=retry_after)


class SlowWire:
    """A TCP proxy in front of a server; what the client says is passed on after a delay, which can be changed at any time."""

    def __init__(self, port: int) -> None:
        self._target = port
        #: Seconds before each piece of what a client sends is passed on.
        self.delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it, and every connection through it."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for origin, target, is_slow in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=(origin, target, is_slow), daemon=True).start()

    def _pass_on(self, origin: socket.socket, target: socket.socket, is_slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := origin.recv(65536):
                if is_slow and self.delay:
                    threading.Event().wait(self.delay)
                target.sendall(data)
        for each in (origin, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of so many megabytes, in memory; raises `PermissionError` where we may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if mounted.returncode != 0:
            raise PermissionError(mounted.stderr.strip())
        yield folder
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left on a disk; return the file to remove."""
    path = folder / "ballast"
    with path.open("wb") as ballast, contextlib.suppress(OSError):
        while True:
            os.write(ballast.fileno(), b"\0" * 65536)
    with path.open("ab") as ballast, contextlib.suppress(OSError):
        while True:
            os.write(ballast.fileno(), b"\0" * 512)
    return path


def resident_megabytes(pid: int) -> float:
    """How much memory a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no memory")


def thread_count(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
