"""What people ask about the audit, and what is written of requests that were refused.

An act that was done leaves its row where it is done (`acts.py`). One that was refused leaves one here, when it is known who asked:
somebody who tries what he may not, or what does not fit, is part of who did what. Callers that did not prove who they are leave none,
or anybody could fill the database; they are counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import datetime

from controller.clock import Clock
from controller.core.audit_shapes import AuditEntry, HeadShape
from controller.core.model import Json
from controller.core.sealfile import to_lines
from controller.errors import StoreError
from controller.ports import Log
from controller.store import Store
from controller.store.audit_views import AuditViews
from controller.store.seals import chain

#: What a refused request is recorded as.
REFUSED = "refused"
#: The same request refused again within so many seconds leaves no other row: a program that tries again and again would fill the database.
SAME_SECONDS = 60.0
#: … and of one caller so many within that time.
MOST = 60
#: So many refusals are remembered for that.
REMEMBERED = 1000


class Audit:
    """The audit. Safe to use from several threads."""

    def __init__(self, store: Store, *, clock: Clock, log: Log) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._views = AuditViews(store)
        self._lock = threading.Lock()
        #: When (monotonic seconds) what was refused last to whom.
        self._refused: dict[tuple[str, str, str], float] = {}
        #: How often somebody was refused something, and since when that is counted.
        self._counts: dict[str, tuple[int, float]] = {}

    def entries(
        self,
        *,
        actor: str | None,
        target: str | None,
        verb: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        all: bool,
    ) -> list[AuditEntry]:
        """Return what persons did and were refused, the newest first; with `all` every change of state too."""
        return self._views.entries(
            actor=actor, target=target, verb=verb, since=since, until=until, limit=limit, all=all
        )

    def head(self) -> HeadShape:
        """Return the end of the chain over history."""
        return self._views.head()

    def lines(self) -> Iterator[str]:
        """Yield the chain with what it covers, as lines of a file."""
        return to_lines(chain(self._store))

    def refused(self, who: str, what: str, *, reason: str, details: Mapping[str, Json]) -> None:
        """Record that a request was refused; `what` it was about. It never raises: the answer is the same without the row."""
        if self._is_repeated(who, what, reason) or self._is_too_often(who):
            return
        try:
            with self._store.transaction("act_refused", fenced=False) as tx:
                tx.people.add_act(actor=who, verb=REFUSED, target=what, reason=reason, details=details, response={})
        except StoreError as error:
            self._log.warning("act.refusal_not_recorded", actor=who, what=what, error=error.message)
            return
        self._log.info("act", verb=REFUSED, target=what, actor=who, reason=reason)

    def _is_repeated(self, who: str, what: str, reason: str) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            before = self._refused.get((who, what, reason))
            if before is not None and now - before < SAME_SECONDS:
                return True
            if len(self._refused) >= REMEMBERED:
                self._refused.clear()
            self._refused[who, what, reason] = now
            return False

    def _is_too_often(self, who: str) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            count, since = self._counts.get(who, (0, now))
            if now - since >= SAME_SECONDS:
                count, since = 0, now
            if len(self._counts) >= REMEMBERED:
                self._counts.clear()
            self._counts[who] = (count + 1, since)
        if count == MOST:
            self._log.warning("act.refusals_not_recorded", actor=who, for_seconds=SAME_SECONDS)
        return count >= MOST
