"""Why the brokers cannot be reached: a look at each, step by step, when a client only says that it cannot."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

from controller.sources.kafka.client import Settings, Trouble

_SECONDS = 2.0
#: ApiVersions, version 0, which a broker answers before any login (Kafka protocol guide): length, key, version, number, no client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS settings, None for a protocol without; raises `Trouble` for a file that cannot be read."""
    if not settings.options.security.protocol.endswith("SSL"):
        return None
    ca, cert, key = settings.file("ca"), settings.file("cert"), settings.file("key")
    name = ca
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            name = cert
            context.load_cert_chain(cert, key)
    except OSError as error:  # an SSLError is one
        raise Trouble(f"the certificate {name} cannot be used: {error.strerror or error}") from error
    return context


def unreachable(settings: Settings) -> str | None:
    """Return why none of the brokers can be connected to; None when one can."""
    reasons = []
    for server in settings.options.bootstrap_servers:
        reason = _look(server, settings)
        if reason is None:
            return None
        reasons.append(f"{server}: {reason}")
    return f"no broker can be reached: {'; '.join(reasons)}"


def answering(settings: Settings) -> list[str]:
    """Return the servers that answer as a broker does; all of them when there is only one, or when none does.

    A client that begins with one that takes connections and stays silent may not come to the others for a minute.
    """
    servers = list(settings.options.bootstrap_servers)
    if len(servers) == 1:
        return servers
    return [server for server in servers if _look(server, settings, ask=True) is None] or servers


def diagnose(settings: Settings) -> str:
    """Return what is wrong, when a client only says that no broker answered."""
    reason = unreachable(settings)
    if reason is not None:
        return reason
    servers = settings.options.bootstrap_servers
    security = settings.options.security
    if security.sasl is not None:
        return (
            f"{', '.join(servers)} closed the connection during the login of {security.sasl.username!r}: "
            f"the username, the password or the mechanism {security.sasl.mechanism} is wrong"
        )
    return f"{', '.join(servers)} took the connection and did not answer as a broker with {security.protocol} does"


def _look(server: str, settings: Settings, *, ask: bool = False) -> str | None:
    """Return what keeps us from a connection, None when there is one."""
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=_SECONDS))
            context = tls_context(settings)
            if context is not None:
                connection = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
            if ask:
                connection.sendall(_API_VERSIONS)
                if not connection.recv(4):
                    return "it closed the connection"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused: {error.verify_message}"
    except TimeoutError:
        return f"no answer within {_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None
