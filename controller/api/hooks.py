"""`/hooks/{source}`: requests to sources that others call, as plain ASGI because alerts and events come by the thousand.

The source verifies and reads a request (`PushSource.take`: computes only); what it found is stored, and only then answered: 202 with the
receipts, 200 when every event was known before, or what the source replies to a handshake. A small body is read on the server's own thread,
a large one beside it.

Never answered are 429, because Alertmanager drops what gets it for good, 3xx, which webhooks must not follow, and 500: a fault of ours is
logged, and is 503 with `Retry-After` for the caller. OPTIONS grants a producer of CloudEvents the consent it asks for; the proof of who it
is is asked of each POST. What is refused is counted by source and reason, and logged, a line a minute for each.

A source may have `max_bytes` (the largest body it takes), and its `Unauthorized` may carry `reason` (for our log) and `challenges`
(for `WWW-Authenticate`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from controller.api.gather import Gatherer
from controller.api.intake import ClientGone, grant, read_body
from controller.api.ports import Intake, Log
from controller.api.problems import Answer, Refusal, answer, problem, problem_of
from controller.clock import Clock
from controller.core.model import Receipt
from controller.core.strict_json import MAX_BYTES
from controller.errors import ControllerError, InvalidInput, NotUnderstood, RetryLater, StoreBusy, Unauthorized
from controller.ports import Batch, PushSource, Reply, Request, Taken

PREFIX = "/hooks/"
#: A larger body is not read on the server's own thread.
INLINE_BYTES = 64 * 1024
#: One line for each source and reason within so many seconds.
LOG_SECONDS = 60.0
_ALLOW = (b"allow", b"POST, OPTIONS")
_WAIT_SECONDS = 5.0


class Hooks:
    """The ASGI application behind `/hooks/`."""

    def __init__(
        self,
        find: Callable[[str], PushSource | None],
        inbox: Intake,
        *,
        clock: Clock,
        log: Log,
        refused: Callable[[str, str], None],
    ) -> None:
        """`find` gives the source of a name, and raises `RetryLater` for one that does not run now.

        `refused` counts a request that was not taken, by source and reason.
        """
        self._find = find
        self._inbox = Gatherer(inbox)
        self._clock = clock
        self._log = log
        self._refused = refused
        #: When a refusal was logged last, and how many were not since, by source and reason.
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; raises `ClientGone` when there is nobody left to answer."""
        found = await self._answer(scope, receive)
        await found.send(send)

    async def _answer(self, scope: Any, receive: Any) -> Answer:
        name, slash, rest = scope["path"][len(PREFIX) :].partition("/")
        try:
            source = self._find(name)
        except RetryLater as error:
            return self._refuse(name, error)
        if source is None:
            self._say("", "unknown", path=repr(scope["path"][:100]))
            return problem(404, "there is no such hook", hint="retrainctl sources lists them")
        if scope["method"] != "POST":
            if scope["method"] == "OPTIONS":
                return grant(scope)
            self._say(name, "method", method=scope["method"][:20])
            return problem(405, "a hook takes POST", headers=[_ALLOW])
        try:
            body = await read_body(scope, receive, limit=getattr(source, "max_bytes", MAX_BYTES))
            taken = await self._take(source, self._request(scope, body, slash + rest))
            receipts = await self._store(name, taken.batch)
        except ClientGone:
            raise
        except (Refusal, ControllerError) as error:
            return self._refuse(name, error)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; its caller is told to come again, and we learn why
            self._refused(name, "fault")
            self._log.error("hook.failed", source=name, error=repr(error), exc_info=error)
            return _unavailable()
        return self._answer_to(name, taken, receipts)

    def _request(self, scope: Any, body: bytes, path: str) -> Request:
        return Request(
            method="POST",
            path=path,
            query=scope["query_string"].decode("latin-1"),
            headers=[(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]],
            body=body,
            received_at=self._clock.now(),
        )

    @staticmethod
    async def _take(source: PushSource, request: Request) -> Taken:
        if len(request.body) <= INLINE_BYTES:
            return source.take(request)
        return await asyncio.get_running_loop().run_in_executor(None, source.take, request)

    async def _store(self, name: str, batch: Batch) -> Sequence[Receipt]:
        if not batch.events and not batch.dead and not batch.ledger:
            return ()
        return await self._inbox.put(name, batch)

    # ------------------------------------------------------------------------------------------- answers

    def _answer_to(self, name: str, taken: Taken, receipts: Sequence[Receipt]) -> Answer:
        dead = taken.batch.dead
        if dead:
            self._say(name, "dead_letter", problem=dead[0].reason)
        if taken.reply is not None:
            return self._answer_of(name, taken.reply)
        body: dict[str, Any] = {
            "events": [{"event_id": receipt.event_id, "duplicate": receipt.duplicate} for receipt in receipts]
        }
        if dead:
            body["kept"] = f"not understood, kept as a dead letter: {dead[0].reason}"
        known = not dead and all(receipt.duplicate for receipt in receipts)
        return answer(200 if known else 202, body)

    def _answer_of(self, name: str, reply: Reply) -> Answer:
        if not (200 <= reply.status < 300 or 400 <= reply.status < 500) or reply.status == 429:
            self._refused(name, "fault")
            self._log.error("hook.failed", source=name, error=f"it replies {reply.status}, which no hook may")
            return _unavailable()
        headers = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in reply.headers]
        if reply.body is None:
            return Answer(status=reply.status, body=b"", headers=headers)
        return answer(reply.status, reply.body, headers)

    def _refuse(self, name: str, error: Refusal | ControllerError) -> Answer:
        reason = _reason_of(error)
        if isinstance(error, Unauthorized):
            self._say(name, reason, why=getattr(error, "reason", error.message))
            challenges = [(b"www-authenticate", text.encode("latin-1")) for text in getattr(error, "challenges", ())]
            return problem(401, error.message, headers=challenges)
        self._say(name, reason, problem=error.detail if isinstance(error, Refusal) else error.message)
        found = problem_of(error)
        return found if found.status < 500 or found.status == 503 else _unavailable()

    def _say(self, name: str, reason: str, **fields: Any) -> None:
        """Count a request that was not taken as it came, and log it unless one like it was logged within the minute."""
        self._refused(name, reason)
        now = self._clock.monotonic()
        last_at, silent = self._logged.get((name, reason), (None, 0))
        if last_at is not None and now - last_at < LOG_SECONDS:
            self._logged[name, reason] = (last_at, silent + 1)
            return
        self._logged[name, reason] = (now, 0)
        self._log.warning("hook.refused", source=name, reason=reason, more_since=silent, **fields)


def _reason_of(error: Refusal | ControllerError) -> str:
    """Return the word by which a refusal is counted."""
    if isinstance(error, Refusal):
        return {413: "too_large", 415: "content_type"}.get(error.status, "malformed")
    for kind, word in (
        (Unauthorized, "unauthorized"),
        (NotUnderstood, "content_type"),
        (InvalidInput, "malformed"),
        (StoreBusy, "busy"),
    ):
        if isinstance(error, kind):
            return word
    return "unavailable" if isinstance(error, RetryLater) else "other"


def _unavailable() -> Answer:
    return problem_of(RetryLater("this hook cannot take anything now", after_seconds=_WAIT_SECONDS))
