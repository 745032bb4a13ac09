"""The HTTP server: a Unix socket, and optionally a TCP port, in one event loop in one daemon thread.

uvicorn's protocol has neither deadlines nor limits of its own; `Guarded` adds them, so that a slow or endless client holds nothing long:
a deadline for the header, one for the body, one for a client that does not read, bounds on the header and on connections per address.
It also records who is at the other end of a Unix socket (`scope["retrain.peer"]`), which the kernel vouches for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import pwd
import resource
import socket
import stat
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from controller.api.problems import problem
from controller.api.socketpath import reachable
from controller.errors import Conflict

_STOP_SECONDS = 2
_BACKLOG = 512
_THREADS = 12
#: Bytes that are gathered before they are sent, at most: only what was sent counts for a client that does not read.
_GATHERED = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one client may take."""

    #: From the first byte of a request (or the opening of the connection) to the end of its header.
    header_seconds: float = 10.0
    #: From the end of the header to the end of the body.
    body_seconds: float = 20.0
    #: How long a client may leave an answer unread.
    read_seconds: float = 20.0
    #: How long an idle connection stays open.
    keep_alive_seconds: int = 15
    max_header_bytes: int = 32 * 1024
    max_url_bytes: int = 8 * 1024
    max_headers: int = 100
    #: Open TCP connections of one address.
    connections_per_address: int = 64
    #: Open connections of everybody, also over the Unix socket; less where the process may have fewer open files.
    connections: int = 2000


class Application(Protocol):
    """An ASGI application that can be told to end what waits."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def close(self) -> None: ...


class _Gathering:
    """A transport that sends together what is written in one turn of the loop: a head and its body are one packet, and one system call."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _GATHERED:
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            self._transport.write(data)


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with deadlines, bounds, and the name of the peer."""

    def __init__(
        self, *, limits: Limits, addresses: Counter[str], open_ones: set[Guarded], most_open: int, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._limits = limits
        #: Every open connection of this server, and how many there may be.
        self._open = open_ones
        self._most_open = most_open
        self._addresses = addresses
        self._address: str | None = None
        self._peer: str | None = None
        #: When what is being read must be there; None while nothing is.
        self._deadline: float | None = None
        #: The one timer behind the deadline: it is moved when it rings, because most deadlines are met and none is worth a timer.
        self._timer: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None
        #: What is being read: nothing between requests, else "header" or "body".
        self._part = ""
        #: Bytes read while a header is not complete, and bytes of the fields that are.
        self._header_bytes = 0
        self._field_bytes = 0
        self._refusal = 400

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]
        self._peer = _peer_of(transport)
        self._open.add(self)
        if len(self._open) > self._most_open:
            self._refuse(503, "too many connections")
            return
        if self._peer is None and self.client:
            self._address = self.client[0]
            self._addresses[self._address] += 1
            if self._addresses[self._address] > self._limits.connections_per_address:
                self._refuse(503, "too many connections from this address")
                return
        self._arm("header", self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._disarm()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_reading_deadline()
        if self._address is not None:
            self._addresses[self._address] -= 1
            if not self._addresses[self._address]:
                del self._addresses[self._address]
            self._address = None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._part:
            self._arm("header", self._limits.header_seconds)
        super().data_received(data)
        if self._part == "header":
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.max_header_bytes and not self.transport.is_closing():
                self._refuse(431, "the header is too long")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["retrain.peer"] = self._peer  # type: ignore[typeddict-unknown-key]
        self._field_bytes = 0
        if self._part != "header":
            self._arm("header", self._limits.header_seconds)
        # The date is not kept by a ticking loop: an idle daemon sleeps.
        self.server_state.default_headers = [(b"date", _date(int(self.loop.time())))]

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.max_url_bytes:
            self._refusal = 414
            raise ValueError("the URL is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > self._limits.max_header_bytes or len(self.headers) > self._limits.max_headers:
            self._refusal = 431
            raise ValueError("the header is too long")

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("only HTTP/1.0 and HTTP/1.1 are spoken")
        super().on_headers_complete()
        self._header_bytes = 0
        self._arm("body", self._limits.body_seconds)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._disarm()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_reading_deadline()
        self._reading_deadline = self.loop.call_later(self._limits.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reading_deadline()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses; the name is uvicorn's."""
        details = {400: msg, 414: "the URL is too long", 431: "the header is too long"}
        self._refuse(self._refusal, details[self._refusal])

    def _arm(self, part: str, seconds: float) -> None:
        self._part = part
        self._deadline = deadline = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(deadline, self._rang)

    def _disarm(self) -> None:
        self._part = ""
        self._deadline = None

    def _rang(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._rang)
        else:
            self._too_slow()

    def _stop_reading_deadline(self) -> None:
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None

    def _too_slow(self) -> None:
        part = self._part
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        scope: Any = self.scope
        if self.pipeline:
            # It stands behind a request in work, and meanwhile we do not read.
            self._arm(part, self._limits.body_seconds)
        elif part == "header" and cycle is not None and not cycle.response_complete:
            # The request before it is in work: its answer comes first, and a refusal now would be taken for it.
            self._disarm()
            cycle.keep_alive = False
        elif part == "body" and cycle is not None and cycle.response_started:
            # It was answered without its body: a second answer would be taken for the next one's.
            self.transport.close()
        elif part == "header" and scope is None:
            # Nothing was asked, so nobody waits for an answer.
            self.transport.close()
        else:
            self._refuse(408, f"the {part} did not come in time")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the application, and close; whoever was one too many may come again."""
        self._disarm()
        if self.transport.is_closing():
            return
        answer = problem(status, detail)
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
            b"content-type: " + answer.content_type + b"\r\n",
            b"content-length: " + str(len(answer.body)).encode() + b"\r\n",
            *([b"retry-after: 1\r\n"] if status == 503 else []),
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join([*head, answer.body]))
        self.transport.close()
        cycle: Any = self.cycle
        if cycle is not None:
            # Whoever still waits for the body learns that the client is gone.
            cycle.disconnected = True
            cycle.message_event.set()


def _files_for_connections() -> int:
    """Return how many connections may be open: half of the files that this process may have; the store and the jobs need the others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(soft // 2, 4)


@functools.lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    del second  # only makes the cached text a second old at most
    return formatdate(usegmt=True).encode()


def _peer_of(transport: asyncio.Transport) -> str | None:
    """Return the user at the other end of a Unix socket; None for TCP."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return _user(uid)


@functools.lru_cache(maxsize=64)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"


class _Loop(uvicorn.Server):
    """uvicorn's server without its tick: it sleeps until it is told to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # Questions and acts work in threads of the framework's; no more than the store has connections for.
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        self._ending = asyncio.Event()
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        if self._ending is not None:
            await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A connection that is accepted in the same turn as its server closes would never be closed:
        # stop listening first, and let what was accepted become a connection.
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        await super().shutdown(sockets=sockets)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called in the loop, soon, from any thread."""
        with contextlib.suppress(RuntimeError):  # it is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def end(self) -> None:
        """Make it end, from any thread."""
        if self._loop is not None and self._ending is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)


class Server:
    """Serves an application on a Unix socket and, if `listen` is given, on TCP."""

    def __init__(
        self,
        app: Application,
        socket_path: Path | None,
        listen: tuple[str, int] | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._app = app
        self._socket_path = socket_path
        self._listen = listen
        self._limits = limits or Limits()
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._inode: int | None = None
        #: Host and port in use, also when port 0 was asked for; None without TCP.
        self.address: tuple[str, int] | None = None

    def start(self) -> None:
        """Serve; returns when connections are taken. Raises `Conflict` when a place to listen at is taken or cannot be had."""
        sockets = []
        try:
            if self._socket_path is not None:
                sockets.append(self._bind_unix(self._socket_path))
            if self._listen is not None:
                sockets.append(self._bind_tcp(*self._listen))
        except Conflict:
            for opened in sockets:
                opened.close()
            self._remove_socket()
            raise
        protocol = functools.partial(
            Guarded,
            limits=self._limits,
            addresses=Counter(),
            open_ones=set(),
            most_open=min(self._limits.connections, _files_for_connections()),
        )
        self._loop = _Loop(
            uvicorn.Config(
                self._app,
                http=protocol,  # type: ignore[arg-type]  # called as the class would be
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                # A proxy's headers are anybody's headers until a configuration trusts it.
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=self._limits.keep_alive_seconds,
                timeout_graceful_shutdown=_STOP_SECONDS,
                backlog=_BACKLOG,
            )
        )
        self._thread = threading.Thread(target=self._serve, args=(sockets,), name="http", daemon=True)
        self._thread.start()
        self._loop.ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take no more connections, let what goes on end (at most two seconds), and remove the socket. Safe to repeat."""
        if self._loop is None or self._thread is None:
            return
        self._app.close()
        self._loop.end()
        self._thread.join(timeout=_STOP_SECONDS * 3)
        self._loop = self._thread = None
        self._remove_socket()

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called in the server's thread, soon; for the daemon's health. Without a server nothing happens."""
        if self._loop is not None:
            self._loop.call(function)

    def alive(self) -> bool:
        """Say whether the server's thread runs; for the daemon's health."""
        return self._thread is not None and self._thread.is_alive()

    def _serve(self, sockets: list[socket.socket]) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            asyncio.run(loop.serve(sockets=sockets))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - handed to whoever called start()
            self._failure = error
        finally:
            loop.ready.set()

    def _bind_unix(self, path: Path) -> socket.socket:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with reachable(path) as name:
                self._remove_stale(path, name)
                server.bind(name)
                # Nobody can connect before listen(), so nobody slips in before this.
                os.chmod(name, 0o600)  # noqa: PTH101 - `name` may go through a descriptor
                self._inode = os.stat(name).st_ino  # noqa: PTH116
        except OSError as error:
            server.close()
            raise Conflict(
                f"cannot listen on {path}: {error.strerror or error}", hint="set http.socket to another path"
            ) from error
        except Conflict:
            server.close()
            raise
        return server

    def _remove_stale(self, path: Path, name: str) -> None:
        """Remove the socket that a daemon which is gone left behind."""
        try:
            mode = os.lstat(name).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise Conflict(
                f"cannot listen on {path}: it is a file, not a socket", hint="set http.socket to another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(name) == 0:
                raise Conflict(
                    f"cannot listen on {path}: another daemon answers there", hint="stop it, or set http.socket"
                )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108

    def _bind_tcp(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sends without delay (TCP_NODELAY) only where the protocol is named; else an answer waits 40 ms for an acknowledgement.
        server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            server.close()
            taken = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise Conflict(
                f"cannot listen on {host}:{port}: {taken}",
                hint="set http.listen to another port, or stop the other program",
            ) from error
        self.address = (host, server.getsockname()[1])
        return server

    def _remove_socket(self) -> None:
        """Remove our socket, unless another daemon has put its own there."""
        if self._socket_path is None or self._inode is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._socket_path.lstat().st_ino == self._inode:
                self._socket_path.unlink()
        self._inode = None
