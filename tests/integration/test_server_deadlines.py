"""The server's transport and its one deadline timer, seen from raw sockets: what a connection may take, and what it is still owed."""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.api.server import Limits, Server
from controller.testing import wait_until

#: Long enough that a deadline of 0.3 s is over.
PAST = 0.8
PART = b"x" * 65_536
PARTS = 800

Make = Callable[[Limits], "House"]


class Application:
    """Answers `/read` when the body is there, `/wait` when the test says so, `/early` before the body, and `/large` with megabytes."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []
        self.parts_sent = 0
        self.ended: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.asked.append(path)
        try:
            await getattr(self, path.strip("/"))(receive, send)
        finally:
            self.ended.append(path)

    def close(self) -> None:
        self.go_on.set()

    async def read(self, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        await self._answer(send, body or b"read")

    async def wait(self, receive: Any, send: Any) -> None:
        import asyncio

        await asyncio.to_thread(self.go_on.wait, 20)
        await self._answer(send, b"waited")

    async def early(self, receive: Any, send: Any) -> None:
        await self._answer(send, b"early", 413)

    async def large(self, receive: Any, send: Any) -> None:
        """Send without ever leaving the loop to others, as an application may."""
        length = str(PARTS * len(PART)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for number in range(PARTS):
            await send({"type": "http.response.body", "body": PART, "more_body": number + 1 < PARTS})
            self.parts_sent += 1

    @staticmethod
    async def _answer(send: Any, body: bytes, status: int = 200) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class House:
    """A server, and raw connections to it."""

    def __init__(self, limits: Limits) -> None:
        self.app = Application()
        self.server = Server(self.app, None, ("127.0.0.1", 0), limits=limits)
        self.server.start()

    def connect(self) -> socket.socket:
        assert self.server.address is not None
        return socket.create_connection(self.server.address, timeout=10)


@pytest.fixture
def start(caplog: pytest.LogCaptureFixture) -> Iterator[Make]:
    """Make a house; at the end nothing of asyncio's or uvicorn's was an accident."""
    houses: list[House] = []

    def make(limits: Limits) -> House:
        houses.append(House(limits))
        return houses[-1]

    yield make
    for house in houses:
        house.server.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def request(path: str, body: bytes = b"", *, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"POST /{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode() + body


def answer(client: socket.socket) -> tuple[int, bytes]:
    """Return status and body of one answer, and leave what follows it unread."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        sign = client.recv(1)
        assert sign, head
        head += sign
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    body = bytearray()
    while len(body) < length:
        part = client.recv(min(1 << 20, length - len(body)))
        assert part, "the answer was cut"
        body += part
    return int(head.split()[1]), bytes(body)


def nothing_for(client: socket.socket, seconds: float) -> None:
    """Let time pass in which the server says nothing."""
    client.settimeout(seconds)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)


def is_over(client: socket.socket) -> bool:
    """Wait until the server closes; False when it says something first."""
    try:
        return client.recv(4096) == b""
    except ConnectionResetError:
        return True


# ----------------------------------------------------------------------------------------------------- the deadline


def test_a_later_deadline_moves_the_timer(start: Make) -> None:
    """A body has its own time: the header's deadline, which was set first, does not end it."""
    house = start(Limits(header_seconds=0.3, body_seconds=10))
    with house.connect() as client:
        client.sendall(request("read", b"ab", length=4))
        nothing_for(client, PAST)
        client.sendall(b"cd")

        assert answer(client) == (200, b"abcd")


def test_an_earlier_deadline_moves_the_timer(start: Make) -> None:
    """The next header on a connection is not given what was left of a body's longer time."""
    house = start(Limits(header_seconds=0.3, body_seconds=60))
    with house.connect() as client:
        client.sendall(request("read", b"ab"))
        assert answer(client) == (200, b"ab")
        client.sendall(b"POST /read HT")

        assert answer(client)[0] == 408
        assert is_over(client)


def test_no_deadline_while_the_application_works(start: Make) -> None:
    """Once the request is there its sender has done everything: our own time is not counted."""
    house = start(Limits(header_seconds=0.2, body_seconds=0.3))
    with house.connect() as client:
        client.sendall(request("wait"))
        nothing_for(client, PAST)
        house.app.go_on.set()

        assert answer(client) == (200, b"waited")


def test_each_request_has_its_own_time(start: Make) -> None:
    """A connection that is used for longer than a deadline is not cut for it."""
    house = start(Limits(header_seconds=0.4, body_seconds=0.4))
    with house.connect() as client:
        for number in range(12):
            client.sendall(request("read", b"%d" % number, length=len(str(number)) + 1))
            nothing_for(client, 0.1)
            client.sendall(b".")
            assert answer(client) == (200, b"%d." % number)


def test_half_a_request_does_not_spoil_the_answer_to_the_one_before(start: Make) -> None:
    """The request in work is answered, and only then the connection ends; 408 would be taken for its answer."""
    house = start(Limits(header_seconds=0.3, body_seconds=0.3))
    with house.connect() as client:
        client.sendall(request("wait") + b"POST /read HT")
        nothing_for(client, PAST)
        house.app.go_on.set()

        assert answer(client) == (200, b"waited")
        assert is_over(client)


def test_time_in_which_we_do_not_read_is_not_the_senders(start: Make) -> None:
    """A request behind another is not read on, so its deadline waits too."""
    house = start(Limits(header_seconds=0.3, body_seconds=0.3))
    with house.connect() as client:
        client.sendall(request("wait") + request("read", b"ab", length=4))
        nothing_for(client, PAST)
        client.sendall(b"cd")
        house.app.go_on.set()

        assert answer(client) == (200, b"waited")
        assert answer(client) == (200, b"abcd")


def test_an_early_answer_is_the_only_one(start: Make) -> None:
    """Who was answered before its body came, and never sends it, is cut without a second answer."""
    house = start(Limits(header_seconds=0.3, body_seconds=0.3, keep_alive_seconds=30))
    with house.connect() as client:
        client.sendall(request("early", b"a", length=10))

        assert answer(client) == (413, b"early")
        assert is_over(client)


# ---------------------------------------------------------------------------------------------------- the transport


def test_a_client_that_does_not_read_holds_up_the_application(start: Make) -> None:
    """Large answers wait where they are made, not in memory, and come whole once they are read."""
    house = start(Limits())
    with house.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(request("large"))
        wait_until(lambda: house.app.parts_sent > 0, what="the first part")
        with house.connect() as other:
            other.sendall(request("read", b"ab"))
            assert answer(other) == (200, b"ab")
        assert house.app.parts_sent < PARTS / 2

        status, body = answer(client)

    assert (status, len(body)) == (200, PARTS * len(PART))
    assert set(body) == {ord("x")}


def test_G15_a_client_that_never_reads_is_cut(start: Make) -> None:
    """After `read_seconds` the connection is given up, and the application hears of it."""
    house = start(Limits(read_seconds=0.3))
    with house.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(request("large"))

        wait_until(lambda: house.app.ended == ["/large"], what="the application's end")
        with pytest.raises((ConnectionResetError, AssertionError)):
            answer(client)


def test_a_client_that_resets_is_forgotten(start: Make) -> None:
    """A connection that breaks in the middle of an answer ends what made it, and no other."""
    house = start(Limits(connections_per_address=1))
    client = house.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.sendall(request("large"))
    wait_until(lambda: house.app.parts_sent > 0, what="the first part")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    wait_until(lambda: house.app.ended == ["/large"], what="the application's end")

    with house.connect() as other:
        other.sendall(request("read", b"ab"))
        assert answer(other) == (200, b"ab")


def test_what_was_written_is_sent_before_the_end(start: Make) -> None:
    """An answer that ends its connection arrives whole: closing does not overtake writing."""
    house = start(Limits())
    with house.connect() as client:
        client.sendall(b"POST /read HTTP/1.0\r\ncontent-length: 2\r\n\r\nab")

        assert answer(client) == (200, b"ab")
        assert is_over(client)


def test_requests_in_one_packet_are_answered_in_order(start: Make) -> None:
    """Pipelined requests have their answers one after the other."""
    house = start(Limits())
    with house.connect() as client:
        client.sendall(b"".join(request("read", b"%03d" % number) for number in range(50)))
        raw = b""
        while raw.count(b"HTTP/1.1 200") < 50 or not raw.endswith(b"049"):
            raw += client.recv(65_536)

    assert [int(found) for found in re.findall(rb"\r\n\r\n(\d{3})", raw)] == list(range(50))
