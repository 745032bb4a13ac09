"""Who asks: the user behind a Unix socket, or the owner of a bearer token on TCP. Without either there is no answer.

A token is looked up by its digest. What was found is trusted for a second, and forgotten at once when a token is revoked here, so that a
burst of events does not become a burst of look-ups. Wrong tokens are throttled per address.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Any

from controller.api.ports import Log
from controller.api.problems import Refusal
from controller.clock import Clock
from controller.errors import StoreBusy
from controller.store.people import Token

#: How long a token that was found is trusted without looking again.
TRUST_SECONDS = 1.0
#: Wrong tokens of one address within `THROTTLE_SECONDS` before it is told to wait.
MAX_FAILURES = 20
THROTTLE_SECONDS = 60.0
#: Tokens that may be looked up at once, and how long one is waited for.
MAX_LOOKING, LOOK_SECONDS = 64, 5.0
_MAX_REMEMBERED = 4096
_MAX_TOKEN = 256
_PREFIX = "rt_"
#: What `_against` says, in a word for those who count.
_WORDS = {"is unknown": "unknown", "is revoked": "revoked", "has expired": "expired", None: "unknown"}


class Auth:
    """Says who the actor of a request is, or refuses it."""

    def __init__(
        self,
        find: Callable[[str], Token | None],
        *,
        clock: Clock,
        log: Log,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`refused` hears in a word why a caller was not let in: no_token, unknown, revoked, expired, throttled."""
        self._find = find
        self._refused = refused
        self._clock = clock
        self._log = log
        self._trusted: dict[str, tuple[Token, float]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        #: Look-ups that have not come back, by digest.
        self._looking: dict[str, asyncio.Future[Token | None]] = {}

    def forget(self) -> None:
        """Trust no token that was looked up before."""
        self._trusted.clear()

    async def actor(self, scope: dict[str, Any]) -> str:
        """Return the actor's name; raises `Refusal`."""
        peer: str | None = scope.get("retrain.peer")
        if peer is not None:
            return peer
        address = (scope.get("client") or ("unknown", 0))[0]
        secret = _bearer(scope["headers"])
        if secret is None:
            self._refused("no_token")
            raise _unauthorized(
                "a bearer token is needed here", hint="send Authorization: Bearer rt_…, see `retrainctl token create`"
            )
        found = await self._token(secret, address)
        reason = _against(found, self._clock.now())
        if found is None or reason is not None:
            self._count_failure(address)
            self._refused(_WORDS[reason])
            self._log.warning("token.refused", address=address, reason=reason, token=found.name if found else None)
            raise _unauthorized(f"the token {reason or 'is unknown'}")
        return f"token:{found.name}"

    async def _token(self, secret: str, address: str) -> Token | None:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        now = self._clock.monotonic()
        trusted = self._trusted.get(digest)
        if trusted is not None and now - trusted[1] < TRUST_SECONDS:
            return trusted[0]
        self._refuse_throttled(address, now)
        if not secret.startswith(_PREFIX):
            return None
        found = await self._look_up(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        if len(self._trusted) >= _MAX_REMEMBERED:
            self._trusted.clear()
        self._trusted[digest] = (found, now)
        return found

    async def _look_up(self, digest: str) -> Token | None:
        """Ask the store, once for all who come with the same token meanwhile; raises `StoreBusy` when it takes too long."""
        looking = self._looking.get(digest)
        if looking is None:
            if len(self._looking) >= MAX_LOOKING:
                raise StoreBusy("too many tokens are being looked up", after_seconds=1, code="api.crowded")
            looking = asyncio.get_running_loop().run_in_executor(None, self._find, digest)
            self._looking[digest] = looking
            looking.add_done_callback(lambda done: self._looked(digest, done))
        try:
            return await asyncio.wait_for(asyncio.shield(looking), LOOK_SECONDS)
        except TimeoutError:
            raise StoreBusy(f"the token could not be looked up within {LOOK_SECONDS:g} s", code="store.slow") from None

    def _looked(self, digest: str, done: asyncio.Future[Token | None]) -> None:
        self._looking.pop(digest, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; without this line one that nobody waited for is complained of at the end

    def _refuse_throttled(self, address: str, now: float) -> None:
        count, since = self._failures.get(address, (0, now))
        if count >= MAX_FAILURES and now - since < THROTTLE_SECONDS:
            self._refused("throttled")
            raise Refusal(429, "too many wrong tokens from this address", headers=[(b"retry-after", b"60")])

    def _count_failure(self, address: str) -> None:
        now = self._clock.monotonic()
        count, since = self._failures.get(address, (0, now))
        if now - since >= THROTTLE_SECONDS:
            count, since = 0, now
        if len(self._failures) >= _MAX_REMEMBERED:
            self._failures.clear()
        self._failures[address] = (count + 1, since)


def _bearer(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the token of the one Authorization header; the query string is never looked at."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1 or len(values[0]) > _MAX_TOKEN:
        return None
    scheme, _, secret = values[0].decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _against(token: Token | None, now: datetime) -> str | None:
    """Return what speaks against a token; None for nothing."""
    if token is None:
        return "is unknown"
    if token.revoked_at is not None:
        return "is revoked"
    if token.expires_at is not None and token.expires_at <= now:
        return "has expired"
    return None


def _unauthorized(detail: str, *, hint: str = "") -> Refusal:
    return Refusal(401, detail, hint=hint, headers=[(b"www-authenticate", b'Bearer realm="retrain"')])
