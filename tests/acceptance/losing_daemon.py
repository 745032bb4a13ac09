"""`retraind` that says before each commit which connection it leaves by, so that a proxy can lose exactly that one.

The name of a transaction is known from its crash point, which is passed in the same thread right before the commit; the connection from
the driver's event. Both are told to whoever listens at the socket `RETRAIN_COMMITS` names, who answers when the commit may go.
Nothing of the product is changed: it is the program `controller.daemon`, with two listeners.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

import sqlalchemy as sa

from controller import crash, daemon

_said = threading.local()


def tell(name: str, port: int) -> None:
    """Say that a commit leaves by the connection of this port, and wait until it may."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(os.environ["RETRAIN_COMMITS"])
        line.sendall(f"{name} {port}\n".encode())
        line.recv(16)


def note(point: str) -> None:
    """Remember the transaction that this thread is about to commit."""
    if point.startswith("transaction.") and point.endswith(".before_commit"):
        _said.name = point.split(".")[1]


def before_commit(connection: Any) -> None:
    """Tell of a commit, if it has a name; what only reads has none."""
    name, _said.name = getattr(_said, "name", None), None
    if name is None:
        return
    descriptor = os.dup(connection.connection.dbapi_connection.fileno())
    with socket.socket(fileno=descriptor) as link:
        port = link.getsockname()[1]
    tell(name, port)


if __name__ == "__main__":
    crash.trace(note)
    sa.event.listen(sa.Engine, "commit", before_commit)
    sys.exit(daemon.main())
