"""Somebody who is told by a webhook: an HTTP server that answers as a test says, and keeps what it was sent."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str
    path: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """A server on a port of this machine, until the test is over."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        #: The next answers: status, headers, body; 200 `ok` when there are none.
        self.answers: list[tuple[int, Mapping[str, str], bytes]] = []
        #: While it is not set, no answer is given.
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append(Sent(self.command, self.path, headers, body))
                receiver.open.wait(20)
                status, more, answer = receiver.answers.pop(0) if receiver.answers else (200, {}, b"ok")
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST  # noqa: N815 - the name that the server looks for

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: a client that goes away early is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def secure(self, certificate: Path) -> None:
        """Speak TLS from now on, with a file that holds the certificate and its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
