"""Connections to the API: slow, hostile and malformed ones hold nobody up, and where the server listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from controller.api.server import Limits, Server
from controller.errors import Conflict
from controller.testing.fakes import wait_until
from tests.integration.api_house import GOOD, House
from tests.rawsocket import everything, trickle

SHORT = Limits(header_seconds=0.3, body_seconds=0.4, keep_alive_seconds=1, connections_per_address=8)

# ------------------------------------------------------------------------------------------------- slow and hostile


@pytest.mark.parametrize(
    "sent, answered",
    [
        (b"", b""),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 408"),
        (b"GET /heal", b"HTTP/1.1 408"),
        (
            f"POST /v1/events HTTP/1.1\r\nauthorization: Bearer {GOOD}\r\ncontent-length: 10\r\n\r\nabc".encode(),
            b"HTTP/1.1 408",
        ),
    ],
    ids=["nothing", "header", "request-line", "body"],
)
def test_slow_clients_are_cut(start_api: Callable[..., House], sent: bytes, answered: bytes) -> None:
    """A header or body that does not come in time ends the connection; others are not held up."""
    api = start_api(SHORT)
    with api.raw() as slow, api.tcp() as quick:
        slow.sendall(sent)
        assert quick.get("/healthz").status_code == 200
        answer = everything(slow)

    assert answer.startswith(answered)
    assert bool(answer) == bool(answered)


def test_trickling_does_not_help(start_api: Callable[..., House]) -> None:
    """A header that comes byte by byte is cut at the deadline, not an idle time after the last byte."""
    api = start_api(SHORT)
    with api.raw() as slow:
        answer, count = trickle(slow, b"GET /healthz HTTP/1.1\r\n", b"x")

    assert answer.startswith(b"HTTP/1.1 408")
    assert count < 100


def test_idle_connections_are_closed(start_api: Callable[..., House]) -> None:
    """A connection kept alive is closed when nothing more comes."""
    api = start_api(SHORT)
    with api.raw() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = everything(client)

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent, status",
    [
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\na: " + b"b" * 70_000, b"431"),
        (b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"POST /v1/events HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/events HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\na: b\r\n c\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
    ],
    ids=["many-headers", "long-header", "long-url", "cl-and-te", "two-cl", "http-0.9", "folded", "tls"],
)
def test_malformed_requests_are_refused(api: House, sent: bytes, status: bytes) -> None:
    """What the protocol does not allow is refused and the connection closed; never a 500."""
    with api.raw() as client:
        client.sendall(sent)
        answer = everything(client)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in answer.lower()


def test_G15_connections_of_one_address_are_bounded(start_api: Callable[..., House]) -> None:
    """The ninth of eight connections is refused; when one closes there is room again."""
    api = start_api(Limits(connections_per_address=8))
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n"
    clients = [api.raw() for _ in range(8)]
    for client in clients:
        client.sendall(request)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    with api.raw() as ninth:
        assert everything(ninth).startswith(b"HTTP/1.1 503")
    for client in clients:
        client.close()

    def room() -> bool:
        with api.raw() as again:
            again.sendall(request)
            return again.recv(4096).startswith(b"HTTP/1.1 200")

    wait_until(room)


# ------------------------------------------------------------------------------------------------------ listening


def test_a_stale_socket_is_replaced(start_api: Callable[..., House], tmp_path: Path) -> None:
    """What a killed daemon left behind is in nobody's way; the socket goes with the server."""
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    api = start_api(socket_path=path)

    assert path.is_socket()
    api.server.stop()
    assert not path.exists()


def test_a_socket_in_use_is_refused(api: House) -> None:
    """A second server does not take over the first one's socket or port."""
    with pytest.raises(Conflict, match="another daemon answers"):
        Server(api.server._app, api.socket_path).start()
    with pytest.raises(Conflict, match="another program listens"):
        Server(api.server._app, None, ("127.0.0.1", api.port)).start()

    assert api.socket_path.is_socket()


def test_a_file_is_not_overwritten(api: House, tmp_path: Path) -> None:
    """A file where the socket should be is left alone."""
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        Server(api.server._app, file).start()

    assert file.read_text() == "precious"


def test_a_long_path(start_api: Callable[..., House], tmp_path: Path) -> None:
    """A socket deep in folders works, though the kernel bounds its name."""
    path = tmp_path / ("d" * 60) / ("e" * 60) / "s.sock"
    start_api(socket_path=path)
    folder = os.open(path.parent, os.O_PATH)
    transport = httpx.HTTPTransport(uds=f"/proc/self/fd/{folder}/s.sock")
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        status = client.get("/healthz").status_code
    os.close(folder)

    assert status == 200
