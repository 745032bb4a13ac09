"""Speaks to the daemon: HTTP over its Unix socket, or to a URL with a bearer token."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from controller.api.socketpath import reachable
from controller.cli.exits import Exit, Failure
from controller.cli.installation import Installation

_SECONDS = 30.0
#: A long poll is answered within this, in seconds; the request waits a little longer.
WAIT = 20

#: An act whose answer was lost is asked for again for this long, with so many seconds in between.
_INSIST_SECONDS, _PAUSE_SECONDS = 15.0, 0.5

_CODES = {
    400: Exit.USAGE,
    401: Exit.USAGE,
    403: Exit.USAGE,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    413: Exit.USAGE,
    415: Exit.USAGE,
    422: Exit.USAGE,
}


class Unreachable(Failure):
    """The daemon does not answer."""


class AnswerLost(Unreachable):
    """The daemon was asked, and its answer did not come: it may have done it."""


class Client:
    """The API of one installation. Use it as a context manager."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stack = contextlib.ExitStack()
        self._http: httpx.Client | None = None

    def __enter__(self) -> Client:
        timeout = httpx.Timeout(_SECONDS, connect=5.0)
        if self._installation.url:
            headers = {"authorization": f"Bearer {self._installation.token}"} if self._installation.token else {}
            client = httpx.Client(base_url=self._installation.url, headers=headers, timeout=timeout)
        else:
            name = self._reach(self._installation.socket)
            transport = httpx.HTTPTransport(uds=name)
            client = httpx.Client(base_url="http://localhost", transport=transport, timeout=timeout, trust_env=False)
        self._http = self._stack.enter_context(client)
        return self

    def _reach(self, path: Path) -> str:
        """Return a name for the socket, good for as long as the client is open; raises `Unreachable` when nobody answers there."""
        try:
            name = self._stack.enter_context(reachable(path))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(name)
        except PermissionError as error:
            self._stack.close()
            raise Unreachable(
                Exit.UNREACHABLE,
                f"you may not speak to the daemon at {path}",
                hint="be the user that it runs as, or use --url",
            ) from error
        except OSError as error:
            self._stack.close()
            raise self._unreachable(error.strerror or str(error)) from error
        return name

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a question."""
        return self.request("GET", path, params={k: v for k, v in query.items() if v is not None}).json()

    def post(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        """Ask for an act and return its answer."""
        return self.request("POST", path, json={} if body is None else body, headers=headers).json()

    def act(self, path: str, body: Any, key: str) -> Any:
        """Ask for an act and return its answer; when that is lost, ask again: with the same key it is the same act."""
        deadline = time.monotonic() + _INSIST_SECONDS
        lost = False
        while True:
            try:
                return self.post(path, body, headers={"idempotency-key": key})
            except AnswerLost:
                lost = True
                if time.monotonic() > deadline:
                    raise
            except Unreachable as error:
                if not lost:
                    raise
                if time.monotonic() > deadline:  # it went away before it could say what it did
                    raise AnswerLost(
                        error.code,
                        f"the daemon was asked, and went away without an answer: {error.message}",
                        hint=f"it may have done it; ask again with --idempotency-key {key}, or look at what there is",
                    ) from error
            time.sleep(_PAUSE_SECONDS)

    def delete(self, path: str) -> Any:
        """Ask for something to go and return the answer."""
        return self.request("DELETE", path).json()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Return a response; a problem becomes a `Failure` with the exit code that fits."""
        if self._http is None:
            raise Failure(Exit.FAILED, "the client is not open")
        try:
            response = self._http.request(method, path, **arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(str(error)) from error
        except httpx.TimeoutException as error:
            raise AnswerLost(Exit.UNREACHABLE, "the daemon did not answer in time", hint="see its log") from error
        except httpx.HTTPError as error:
            raise AnswerLost(Exit.UNREACHABLE, f"the connection to the daemon broke: {error}") from error
        if response.is_error:
            raise _failure(response)
        return response

    @contextlib.contextmanager
    def lines(self, path: str) -> Iterator[Iterator[bytes]]:
        """Ask for lines of JSON, however many, and give them one by one; a connection that breaks is a `Failure`."""
        if self._http is None:
            raise Failure(Exit.FAILED, "the client is not open")
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    raise _failure(response)
                yield (line.encode() for line in response.iter_lines())
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(str(error)) from error
        except httpx.HTTPError as error:
            raise Unreachable(Exit.UNREACHABLE, f"the connection to the daemon broke: {error}") from error

    def _unreachable(self, why: str) -> Unreachable:
        if self._installation.url:
            return Unreachable(Exit.UNREACHABLE, f"nothing answers at {self._installation.url}: {why}")
        return Unreachable(
            Exit.UNREACHABLE,
            f"the daemon does not answer at {self._installation.socket}",
            hint=self._installation.how_to_start(),
        )


def segment(name: str) -> str:
    """Return a name as one part of a path."""
    return quote(name, safe="")


def _failure(response: httpx.Response) -> Failure:
    code = _CODES.get(response.status_code, Exit.FAILED)
    try:
        problem = response.json()
    except ValueError:
        return Failure(code, f"the daemon answered {response.status_code}")
    if not isinstance(problem, dict):
        return Failure(code, f"the daemon answered {response.status_code}")
    message = str(problem.get("detail") or problem.get("title") or response.status_code)
    for entry in problem.get("problems") or ():
        place = f"{entry['file']}:{entry['line']}:{entry['column']}: " if entry["file"] else ""
        hint = f" ({entry['hint']})" if entry["hint"] else ""
        message += f"\n{place}{entry['path']}: {entry['message']}{hint}"
    return Failure(code, message, hint=str(problem.get("hint") or ""))
