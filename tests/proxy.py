"""A TCP proxy that spoils connections: late, cut, refused, half open, or without the answer to one request.

Problem: whether a commit took effect is not known when its answer is lost, and no server loses answers on demand.
Idea: stand between client and server, pass every byte on, and act at a moment that a test chooses: when the client of one connection (known
by its port) sends certain bytes, the request or its answer is lost. A connection is cut by a reset, as by a machine that forgot it.

It knows no protocol: a request is what the client sends from the pattern on, its answer what the server sends after that.
Used in process; `Proxy.close()` ends it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Literal

#: What happens when a client sends the pattern: its request is not passed on; it is, and the answer is not; or the answer never
#: comes and the connection stays open.
Loss = Literal["request", "answer", "silence"]
_CHUNK = 65536


@dataclass(slots=True)
class _Link:
    """One connection through the proxy."""

    client: socket.socket
    server: socket.socket
    #: The next request with these bytes is lost so.
    pattern: bytes = b""
    loss: Loss | None = None
    #: The request went through, and what the server says to it does not.
    mute: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Proxy:
    """Listens on a port of its own and speaks to one server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._links: dict[int, _Link] = {}
        self._closed = False
        self._next: tuple[bytes, Loss] | None = None
        #: While set, whoever connects is cut off at once.
        self.refuses = False
        #: Seconds that every piece waits before it goes on, in each direction.
        self.latency = 0.0
        #: What was lost, in order.
        self.losses: list[Loss] = []
        self._pause = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def lose(self, client_port: int, pattern: bytes, loss: Loss) -> bool:
        """Lose the next request with `pattern` of the connection whose client has this port; return whether there is such a one."""
        with self._lock:
            link = self._links.get(client_port)
        if link is None:
            return False
        with link.lock:
            link.pattern, link.loss = pattern, loss
        return True

    def lose_next(self, pattern: bytes, loss: Loss) -> None:
        """Lose the next request with `pattern`, whoever makes it."""
        with self._lock:
            self._next = pattern, loss

    def cut_all(self) -> None:
        """Cut every connection."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            _reset(link)

    def close(self) -> None:
        """End, and cut what is open."""
        self._closed = True
        self._pause.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next
        self._listener.close()
        self.cut_all()

    # ------------------------------------------------------------------------------------------------ inside

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, address[1]), name="proxy-up", daemon=True).start()

    def _serve(self, client: socket.socket, port: int) -> None:
        """Carry what the client says; a thread of its own carries what the server says."""
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._lock:
            self._links[port] = link
        threading.Thread(target=self._carry_down, args=(link,), name="proxy-down", daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                self._wait()
                if not self._pass(link, data):
                    break
        _close(link)
        with self._lock:
            self._links.pop(port, None)

    def _pass(self, link: _Link, data: bytes) -> bool:
        """Pass on what the client said, or lose it; return whether the connection goes on."""
        with self._lock:
            if self._next is not None and self._next[0] in data:
                link.pattern, link.loss = self._next
                self._next = None
        with link.lock:
            loss = link.loss if link.pattern and link.pattern in data else None
            if loss is not None:
                link.loss = None
                self.losses.append(loss)
                link.mute = True
        if loss == "request":
            _reset(link)
            return False
        link.server.sendall(data)
        return True

    def _carry_down(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.server.recv(_CHUNK):
                self._wait()
                if link.mute:  # the server has done it: this is its answer
                    if self.losses and self.losses[-1] == "silence":
                        continue
                    _reset(link)
                    return
                link.client.sendall(data)
        _close(link)

    def _wait(self) -> None:
        if self.latency > 0:
            self._pause.wait(self.latency)


def _reset(link: _Link) -> None:
    """End both ends; the client by a reset, without a goodbye."""
    with contextlib.suppress(OSError):
        link.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _close(link)


def _close(link: _Link) -> None:
    for end in (link.client, link.server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        with contextlib.suppress(OSError):
            end.close()
