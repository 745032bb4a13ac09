"""Where a probe may connect to."""

from __future__ import annotations

import ipaddress

import pytest

from controller.errors import GiveUp, RetryLater
from controller.outbound.guard import Guard, Place, without_query


def guard(*addresses: str, allow: tuple[str, ...] = (), deny_private: bool = False) -> Guard:
    """A guard whose resolver knows one name."""
    networks = [ipaddress.ip_network(text) for text in allow]
    return Guard(allow=networks, deny_private=deny_private, resolve=lambda host, port: addresses)


SOMEWHERE = Place.of("http://prometheus.example:9090/x")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "64:ff9b::a9fe:a9fe",
        "2001:0:0:0:0:0:5601:5601",
    ],
)
def test_never_allowed(address: str) -> None:
    """Link-local addresses, metadata services and what is no host are refused, in every writing."""
    with pytest.raises(GiveUp, match=r"prometheus\.example.* is refused"):
        guard(address).addresses(SOMEWHERE)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd12::1", "::ffff:127.0.0.1"],
)
def test_private_addresses(address: str) -> None:
    """What stands on the machine or in the private network may be asked, unless that is denied."""
    assert guard(address).addresses(SOMEWHERE) == (address,)

    with pytest.raises(GiveUp, match="deny_private"):
        guard(address, deny_private=True).addresses(SOMEWHERE)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses(address: str) -> None:
    """A public address may be asked."""
    assert guard(address, deny_private=True).addresses(SOMEWHERE) == (address,)


def test_every_address_is_judged() -> None:
    """One bad address among good ones refuses the name."""
    with pytest.raises(GiveUp, match=r"169\.254\.169\.254"):
        guard("93.184.216.34", "169.254.169.254").addresses(SOMEWHERE)


@pytest.mark.parametrize(
    "address, allow",
    [
        ("169.254.1.1", "169.254.1.0/24"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::ffff:169.254.1.1", "169.254.1.0/24"),
        ("fe80::1", "fe80::/64"),
    ],
)
def test_what_is_meant_is_named(address: str, allow: str) -> None:
    """A network under `allow` is allowed, and only that."""
    assert guard(address, allow=(allow,), deny_private=True).addresses(SOMEWHERE) == (address,)

    with pytest.raises(GiveUp):
        guard("169.254.169.254", allow=(allow,)).addresses(SOMEWHERE)


def test_a_name_without_an_address() -> None:
    """A name that cannot be resolved may be resolved later."""

    def fail(host: str, port: int) -> tuple[str, ...]:
        raise OSError("no such name")

    with pytest.raises(RetryLater, match="no such name"):
        Guard(resolve=fail).addresses(SOMEWHERE)
    with pytest.raises(RetryLater, match="has no address"):
        guard().addresses(SOMEWHERE)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "gopher://host/",
        "http:///x",
        "host/x",
        "http://user:pw@host/",
        "http://user@host/",
        "http://host:99999/",
        "http://host/a b",
        "http://host\\@other/",
        "http://host/\r\nX: 1",
        "http://[::1/",
    ],
)
def test_urls_that_are_not_asked(url: str) -> None:
    """Other schemes, credentials, and what two readers would read differently."""
    with pytest.raises(GiveUp) as caught:
        Place.of(url)
    assert "pw" not in str(caught.value)


def test_a_url_taken_apart() -> None:
    """Host, port and target, and the header that names the host."""
    place = Place.of("https://[::1]:8443/a?b=c#d")

    assert (place.host, place.port, place.target) == ("::1", 8443, "/a?b=c")
    assert place.authority == "[::1]:8443"
    assert Place.of("http://Host").authority == "host"
    assert without_query("https://user:pw@host:1/a?token=x#y") == "https://host:1/a"
    assert without_query("http://[::1") == "***"
