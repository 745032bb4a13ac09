"""What the tests of probes share: an HTTP server that behaves as badly as a test wants, and a bench to build and poll probes on."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from controller.clock import SystemClock
from controller.sources.probe.cursor import LEDGER_KEY
from controller.sources.probe.source import Probe
from controller.testing import MemoryInbox


class Bench:
    """Builds probes and looks with them, one nominal instant after the other."""

    def __init__(self, base: Path) -> None:
        #: Where the events go; time is real.
        self.inbox = MemoryInbox(name="probe", clock=SystemClock())
        self.base = base

    def build(self, cls: type[Probe], *more: Any, **options: Any) -> Probe:
        """Return a probe."""
        told: BaseModel = cls.Options.model_validate({"every": "1h", **options}, context={"base": self.base})
        return cls(told, self.inbox.context(self.base), *more)  # type: ignore[arg-type]

    def look(self, probe: Probe) -> list[Any]:
        """Let a probe look, and return the data of the events that came of it."""
        before = len(self.inbox.events)
        probe._due = None
        stored = self.inbox.ledger.get(LEDGER_KEY)
        if stored is not None:
            stored["instant"] = "2020-01-01T00:00:00Z"
        # The same hour again and again: what it is recognised by must not matter here.
        self.inbox._ids.clear()
        probe.poll(self.inbox.clock.now())
        return [event.data for event in self.inbox.events[before:]]

    def complaint(self, probe: Probe) -> str:
        """Let a probe look in vain, and return its complaint."""
        assert self.look(probe) == []
        return self.inbox.complaints["look"]


class Script:
    """An HTTP server that answers as the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: reply(request, b"{}")
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        #: Set when the test is over: who drips, stops.
        self.over = threading.Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                script.asked.append((self.command, self.path, headers))
                script.answer(self)

            do_HEAD = do_GET  # noqa: N815 - the name that the server looks for

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/metrics?token=geheim"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def secure(self, certificate: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self) -> None:
        """End it."""
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""


def reply(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Answer a request."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def says(value: Any, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with JSON."""
    return lambda request: reply(request, json.dumps(value).encode(), **headers)


def redirect(to: str, status: int = 302) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send whoever asks elsewhere."""
    return lambda request: reply(request, b"", status, Location=to)


def endless(request: BaseHTTPRequestHandler) -> None:
    """Answer without end."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"[" + b" " * 65536)


def drip(part: str, over: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer a byte at a time."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if part == "body":
            request.send_response(200)
            request.end_headers()
        line = b"HTTP/1.1 200 OK\r\nX-A: " if part == "header" else b""
        request.wfile.write(line)
        while not over.wait(0.05):
            request.wfile.write(b"1")

    return answer


def cut_short(request: BaseHTTPRequestHandler) -> None:
    """Promise more than there is."""
    request.send_response(200)
    request.send_header("Content-Length", "100")
    request.end_headers()
    request.wfile.write(b"12")


def endless_header(request: BaseHTTPRequestHandler) -> None:
    """Say that there is more to come, and again, and never anything else."""
    while True:
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def chunk_of_less_than_nothing(request: BaseHTTPRequestHandler) -> None:
    """Announce a chunk of -1 bytes, which a careless reader takes for all there is."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"-1\r\n")
    while True:
        request.wfile.write(b"x" * 65536)


def not_http(request: BaseHTTPRequestHandler) -> None:
    """Speak another protocol."""
    request.wfile.write(b"220 mail ready\r\n")
