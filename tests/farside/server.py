"""The far side as a program: HTTP on a port of its own, with answers that get lost.

    python -m tests.farside.server --folder FOLDER --port PORT [--seed N]

Jobs are created by name: `POST /jobs` answers 201, or 409 with the one that is there. `POST /blind` starts one each time and answers with
its number; such a job cannot be searched by name. `GET`, `DELETE /jobs/KEY` look at it and stop it.
`PUT`, `GET /registry/MODEL` and `POST /messages` stand for a registry and a receiver of messages. `GET /record` is for whoever checks.

`PUT /fates` says what becomes of the requests that follow: a list of fates for those to come (`script`), then shares of each by chance.
The fates: `ok`; `before`, the connection is cut and nothing is done; `after`, it is done and the connection is cut;
`late`, it is done after the caller has given up. Only requests that change something have one, unless `all` is set.
"""

from __future__ import annotations

import argparse
import json
import os
import random  # noqa: TID251 - the far side throws its own dice
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.farside.record import Job, Record

#: What is done late is done after so many seconds; callers give up earlier.
LATE_SECONDS = 2.5


class Fates:
    """What becomes of requests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._script: list[str] = []
        self._shares: dict[str, float] = {}
        self._all = False
        #: How often each came.
        self.counts: dict[str, int] = {}

    def set(self, wanted: dict[str, Any]) -> None:
        """Take a script and shares."""
        with self._lock:
            self._script = list(wanted.get("script", ()))
            self._shares = dict(wanted.get("shares", {}))
            self._all = bool(wanted.get("all", False))

    def draw(self, *, changes: bool) -> str:
        """Return what becomes of the next request."""
        with self._lock:
            if not changes and not self._all:
                return "ok"
            fate = self._script.pop(0) if self._script else self._by_chance()
            self.counts[fate] = self.counts.get(fate, 0) + 1
            return fate

    def _by_chance(self) -> str:
        drawn = self._random.random()
        for fate, share in self._shares.items():
            if drawn < share:
                return fate
            drawn -= share
        return "ok"


class Server(ThreadingHTTPServer):
    """The far side's server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, record: Record, fates: Fates) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.record = record
        self.fates = fates
        self.pause = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that gave up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._meet()

    def do_POST(self) -> None:
        self._meet()

    def do_PUT(self) -> None:
        self._meet()

    def do_DELETE(self) -> None:
        self._meet()

    def _meet(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        document = json.loads(body) if body else None
        parts = [unquote(part) for part in self.path.strip("/").split("/")]
        if parts[0] == "fates":
            self.server.fates.set(document)
            return self._say(200, {})
        if parts[0] == "record":
            return self._say(200, {**self.server.record.everything(), "fates": self.server.fates.counts})
        fate = self.server.fates.draw(changes=self.command != "GET")
        if fate == "before":
            return self._cut()
        if fate == "late":
            self.server.pause.wait(LATE_SECONDS)
        status, answer = self._do(parts, document)
        if fate == "after":
            return self._cut()
        return self._say(status, answer)

    def _do(self, parts: list[str], document: Any) -> tuple[int, Any]:
        record = self.server.record
        match self.command, parts:
            case "POST", ["jobs"]:
                job, is_new = record.start(document, once=True)
                return (201 if is_new else 409), _shown(job)
            case "POST", ["blind"]:
                job, _ = record.start(document, once=False)
                return 201, _shown(job)
            case "GET", ["jobs", key]:
                found = record.job(key)
                return (404, {}) if found is None else (200, _shown(found))
            case "DELETE", ["jobs", key]:
                return (200 if record.stop(key) else 404), {}
            case "GET", ["registry", model]:
                return 200, {"serves": record.serves.get(model)}
            case "PUT", ["registry", model]:
                record.promote(model, document["version"])
                return 200, {}
            case "POST", ["messages"]:
                record.take(document["id"])
                return 200, {}
            case _:
                return 404, {}

    def _cut(self) -> None:
        """End the connection by a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def _say(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _shown(job: Job) -> dict[str, Any]:
    return {
        "number": job.number,
        "name": job.name,
        "state": job.state,
        "exit_code": job.exit_code,
        "ends_at": job.ends_at,
    }


def main() -> None:
    """Serve until the process is ended; the port is written to `FOLDER/port`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    server = Server(options.port, Record(options.folder), Fates(options.seed))
    partial = options.folder / f"port.{os.getpid()}"
    partial.write_text(str(server.server_port))
    partial.replace(options.folder / "port")
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
