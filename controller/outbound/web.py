"""One bounded HTTP request, through the guard.

A server may be slow, endless or hostile: everything (connecting, the hand-shake, each byte of the answer, every redirect) happens before
one deadline, and the answer has at most so many bytes. No proxy of the environment is used, nothing is decompressed, and certificates are
checked.
A redirect is followed only as often as the options say; each hop passes the guard, and one to another origin gets none of the headers.
What is sent goes to the first address only: a request with a body is never redirected.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from controller.clock import Clock
from controller.core import strict_json
from controller.core.model import Json
from controller.errors import GiveUp, InvalidInput, RetryLater
from controller.outbound.guard import Guard, Place, without_query

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Answers that say "not now"; every other of the 400s is for good.
_PASSING = frozenset({408, 425, 429})
_SHOWN = 200
_USUAL = {"Accept": "application/json", "User-Agent": "retrain-controller"}
#: What may come over the line beside the body: headers, and the sizes of chunks, which may be of a byte each.
_ROOM_FOR_HEADERS = 1 << 20
_ROOM_FOR_CHUNKS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back."""

    status: int
    #: Names in lower case, in order; they may repeat.
    headers: Sequence[tuple[str, str]]
    body: bytes
    #: Where it came from in the end.
    url: str

    def header(self, name: str) -> str | None:
        """Return the first header of this name (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self, *, max_bytes: int) -> Json:
        """Return the body as strict JSON; raises `RetryLater` with what it is instead."""
        try:
            return strict_json.parse(self.body, max_bytes=max_bytes)
        except InvalidInput as error:
            kind = self.header("content-type") or "no content type"
            raise RetryLater(f"{without_query(self.url)} answered what is {error.message} ({kind})") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Web:
    """Makes requests."""

    guard: Guard
    clock: Clock
    max_bytes: int
    redirects: int = 0
    #: Certificates to trust instead of the system's.
    ca: Path | None = None
    #: What errors call a URL; one whose path is a secret is shown without it.
    shown: Callable[[str], str] = without_query
    #: The status alone says what came of the request: the answer's body may be cut, broken or missing.
    status_counts: bool = False

    def fetch(
        self,
        url: str,
        *,
        method: str,
        headers: Mapping[str, str],
        timeout_seconds: float,
        body: bytes | None = None,
    ) -> Answer:
        """Return the answer, whatever its status; raises `RetryLater` when there is none, and `GiveUp` for what is refused."""
        if body is not None and self.redirects:
            raise ValueError("what has a body is not redirected")
        ends_at = self.clock.monotonic() + timeout_seconds
        began_at = Place.of(url)
        for _ in range(self.redirects + 1):
            place = Place.of(url)
            said = headers if place.origin == began_at.origin else {}
            answer = self._ask(place, url, method, said, ends_at, body)
            location = answer.header("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            url = _joined(url, location)
        if self.redirects == 0:
            raise GiveUp(
                f"{self.shown(answer.url)} redirects to {self.shown(url)}",
                hint="name that address, or allow `redirects`" if body is None else "name that address",
            )
        raise GiveUp(f"{self.shown(url)} redirects once more, and {self.redirects} redirects are followed")

    def _ask(
        self,
        place: Place,
        url: str,
        method: str,
        headers: Mapping[str, str],
        ends_at: float,
        body: bytes | None,
    ) -> Answer:
        shown = self.shown(url)
        try:
            line = self._connect(place, ends_at)
            try:
                return self._converse(line, place, url, method, headers, body)
            finally:
                line.hang_up()
        except TimeoutError as error:
            raise RetryLater(f"{shown} did not answer in time") from error
        except ssl.SSLCertVerificationError as error:
            raise RetryLater(
                f"the certificate of {shown} is not trusted: {error.verify_message}", hint="name its `ca` under `tls`"
            ) from error
        except OSError as error:
            raise RetryLater(f"{shown} cannot be reached: {error.strerror or error}") from error
        except http.client.HTTPException as error:
            raise RetryLater(
                f"{shown} does not speak HTTP as it should: {type(error).__name__} {error!s:.100}"
            ) from error

    def _connect(self, place: Place, ends_at: float) -> _Line:
        """Connect to the first judged address that answers."""
        addresses = self.guard.addresses(place)
        failure: OSError | None = None
        for position, address in enumerate(addresses):
            left = _left(self.clock, ends_at)
            try:
                # A dead address must leave time for the next.
                plain = socket.create_connection((address, place.port), timeout=left / (len(addresses) - position))
            except OSError as error:
                failure = error
                continue
            most = _ROOM_FOR_HEADERS + _ROOM_FOR_CHUNKS * self.max_bytes
            return _Line(self._secured(plain, place, ends_at), self.clock, ends_at, most)
        raise failure or OSError("no address")

    def _secured(self, plain: socket.socket, place: Place, ends_at: float) -> socket.socket:
        if place.scheme == "http":
            return plain
        try:
            context = self._trust()
            plain.settimeout(_left(self.clock, ends_at))
            return context.wrap_socket(plain, server_hostname=place.host)
        except BaseException:
            plain.close()
            raise

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise RetryLater(f"the certificates in {str(self.ca)!r} cannot be read: {error}") from error

    def _converse(
        self, line: _Line, place: Place, url: str, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        connection = http.client.HTTPConnection(place.host, place.port)
        connection.sock = line
        said = {name.lower() for name in headers}
        usual = {name: value for name, value in _USUAL.items() if name.lower() not in said}
        fixed = {"Host": place.authority, "Accept-Encoding": "identity", "Connection": "close"}
        try:
            connection.request(method, place.target, body, headers={**usual, **headers, **fixed})
        except ValueError as error:  # a header or a target that cannot be sent; the message may hold the secret
            raise GiveUp(f"the request to {self.shown(url)} has a header or a path that cannot be sent") from error
        response = connection.getresponse()
        found = [(name.lower(), value) for name, value in response.getheaders()]
        read = self._beginning(response) if self.status_counts else self._body(response, url)
        return Answer(status=response.status, headers=found, body=read, url=url)

    def _beginning(self, response: http.client.HTTPResponse) -> bytes:
        """Return what there is of the body; the status was read, so whatever goes wrong with it changes nothing."""
        if response.getheader("content-encoding", "identity").lower() != "identity":
            return b""
        try:
            return response.read(self.max_bytes)
        except (OSError, http.client.HTTPException, GiveUp):
            return b""

    def _body(self, response: http.client.HTTPResponse, url: str) -> bytes:
        encoding = response.getheader("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise GiveUp(
                f"{self.shown(url)} answers with the content encoding {encoding!r:.40}, which was not asked for"
            )
        body = b"" if response.length == 0 else response.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            raise GiveUp(
                f"the answer of {self.shown(url)} has more than {self.max_bytes:,} bytes", hint="raise `max_bytes`"
            )
        if response.length:
            raise RetryLater(f"the answer of {self.shown(url)} ended {response.length} bytes early")
        return body


def check_status(answer: Answer, *, now: datetime, shown: Callable[[str], str] = without_query) -> None:
    """Raise `RetryLater` or `GiveUp` for an answer that is none; what 503 and 429 say of later is passed on.

    `shown` makes of the URL what the message may say of it.
    """
    if 200 <= answer.status < 300:
        return
    said = answer.body[:_SHOWN].decode(errors="replace").strip().replace("\n", " ")
    message = f"{shown(answer.url)} answered {answer.status}{f': {said}' if said else ''}"
    if answer.status >= 500 or answer.status in _PASSING:
        raise RetryLater(message, after_seconds=retry_after(answer.header("retry-after"), now=now))
    raise GiveUp(message)


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks to wait (RFC 9110, 10.2.3): a number, or a date."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds(), 0.0)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise GiveUp(f"{without_query(url)} redirects to what is no URL: {location!r:.80}") from error


def _left(clock: Clock, ends_at: float) -> float:
    left = ends_at - clock.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Line:
    """A socket as `http.client` uses it, on which every wait ends at the deadline, and which carries only so much."""

    def __init__(self, plain: socket.socket, clock: Clock, ends_at: float, most: int) -> None:
        self._most = most
        self._plain = plain
        self._clock = clock
        self._ends_at = ends_at

    def sendall(self, data: Any) -> None:
        self._plain.settimeout(_left(self._clock, self._ends_at))
        self._plain.sendall(data)

    def receive_into(self, buffer: Any) -> int:
        self._plain.settimeout(_left(self._clock, self._ends_at))
        count = self._plain.recv_into(buffer)
        self._most -= count
        if self._most < 0:
            raise GiveUp("the server sends without end")
        return count

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Bytes(self))

    def close(self) -> None:
        """Stay open: the answer may still be read when `http.client` lets go."""

    def hang_up(self) -> None:
        self._plain.close()


class _Bytes(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.receive_into(buffer)
