"""The outbound guard: where a plugin may connect to (control S13 of the fault catalogue).

A URL in a configuration, or one that a server redirects to, must not make the controller talk to what only it can reach: above all the
metadata service of a cloud, which hands out credentials. A name is resolved once, *every* address it has is judged, and the connection is
made to a judged address, so that a name server that changes its mind in between changes nothing.

The server that is asked or told usually stands on the same machine or in the same private network, so loopback and private addresses are
allowed, unless `deny_private` is set. Never allowed, except by an entry of `allow`: link-local addresses (169.254.0.0/16, fe80::/10), the
addresses that clouds use for metadata outside that range, unspecified, multicast and reserved addresses. An IPv4 address inside an IPv6 one
(mapped, 6to4, Teredo, NAT64) is judged as what it is.

The metadata addresses: Amazon EC2 (169.254.169.254, fd00:ec2::254, from its user guide on instance metadata), Google Compute Engine
(169.254.169.254, fd20:ce::254), Alibaba Cloud (100.100.100.200), Azure's wire server (168.63.129.16), Oracle Cloud (192.0.0.192).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from controller.errors import GiveUp, RetryLater
from controller.ports import refusal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: Return the addresses of a host, as text; raises OSError when it has none.
Resolve = Callable[[str, int], Sequence[str]]

PORTS = {"http": 80, "https": 443}
_METADATA: tuple[Network, ...] = (
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("168.63.129.16/32"),
    ipaddress.ip_network("192.0.0.192/32"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("fd20:ce::/32"),
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _read_network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as error:
        raise refusal(str(error), hint="write 169.254.10.0/24, or a single address") from None


#: A network in a plugin's `Options`: `10.0.0.0/8`, or a single address.
NetworkOption = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_read_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "A network such as 10.0.0.0/8, or a single address"}),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a URL leads, taken apart."""

    scheme: str
    host: str
    port: int
    #: What is asked for there, with the query.
    target: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Take a URL apart; raises `GiveUp` for one that is not http or https, or that carries credentials."""
        parts, port = _split(url)
        if parts.scheme not in PORTS:
            raise GiveUp(f"the scheme of {without_query(url)!r} is not one that is asked", hint="http and https are")
        if not parts.hostname:
            raise GiveUp(f"the URL {without_query(url)!r} names no host", hint="such as http://localhost:9090")
        if parts.username is not None or parts.password is not None:
            raise GiveUp("the URL carries a user name or a password", hint="give them under `auth`")
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        return cls(scheme=parts.scheme, host=parts.hostname, port=port or PORTS[parts.scheme], target=target)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """The host as the header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def _split(url: str) -> tuple[SplitResult, int | None]:
    if any(sign <= " " or sign == "\x7f" for sign in url) or "\\" in url:
        raise GiveUp("the URL holds a space, a backslash or a control character", hint="write them as %20 and the like")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise GiveUp(f"the URL cannot be read: {error}") from None
    return parts, port


def without_query(url: str) -> str:
    """Return a URL for people: without credentials, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the machine's resolver; it has deadlines of its own, which can only be set there."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Guard:
    """Judges addresses."""

    def __init__(
        self, *, allow: Sequence[Network] = (), deny_private: bool = False, resolve: Resolve = resolve
    ) -> None:
        self._allow = allow
        self._deny_private = deny_private
        self._resolve = resolve

    def addresses(self, place: Place) -> Sequence[str]:
        """Return the addresses to connect to, all of them judged.

        Raises `GiveUp` when one of them is forbidden, and `RetryLater` when the name cannot be resolved now.
        """
        try:
            found = self._resolve(place.host, place.port)
        except (OSError, UnicodeError) as error:
            raise RetryLater(f"the host {place.host!r} cannot be resolved: {error}") from error
        if not found:
            raise RetryLater(f"the host {place.host!r} has no address")
        for text in found:
            self.judge(text, place.host)
        return found

    def judge(self, text: str, host: str) -> None:
        """Raise `GiveUp` when an address may not be connected to."""
        reason = self._reason_against(ipaddress.ip_address(text.partition("%")[0]))
        if reason is not None:
            name = text if text == host else f"{host!r} at {text}"
            raise GiveUp(
                f"a connection to {name} is refused: {reason}", hint="name the network under `allow` if it is meant"
            )

    def _reason_against(self, address: Address) -> str | None:
        if any(address in network for network in self._allow if network.version == address.version):
            return None
        inner = _inner(address)
        if inner is not None:
            return self._reason_against(inner)
        if address.is_link_local:
            return "it is a link-local address, such as clouds serve credentials at"
        if any(address in network for network in _METADATA if network.version == address.version):
            return "it is a cloud's metadata service"
        if address.is_unspecified or address.is_multicast or _is_reserved(address):
            return "it is no address of a host"
        if self._deny_private and not address.is_global:
            return "it is not a public address (`deny_private`)"
        return None


def _is_reserved(address: Address) -> bool:
    # IPv6 counts the loopback address among the reserved ones.
    return address.is_reserved and not address.is_loopback


def _inner(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):  # the latter: IPv4-compatible, RFC 4291
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
