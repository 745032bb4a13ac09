"""A client that writes bytes onto a TCP connection: half requests, malformed ones, and slow ones."""

from __future__ import annotations

import socket


def connect(port: int) -> socket.socket:
    """Connect to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def everything(client: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    parts = []
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def send_until_answered(client: socket.socket, piece: bytes) -> bytes:
    """Send `piece` again and again until the server ends the connection, and return the beginning of its answer."""
    try:
        for _ in range(100):
            client.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        return client.recv(4096)
    except ConnectionResetError:
        return b"HTTP/1.1 413 (the answer was lost with the connection)"


def trickle(client: socket.socket, head: bytes, piece: bytes) -> tuple[bytes, int]:
    """Send `head`, then `piece` every 20 ms until there is an answer; return it, and how many pieces went out."""
    client.settimeout(0.02)
    client.sendall(head)
    count, answer = 0, b""
    while not answer and count < 400:
        count += 1
        try:
            client.sendall(piece)
            answer = client.recv(4096)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
    return answer, count
