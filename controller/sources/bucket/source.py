"""The source itself: listed, compared with the ledger, stored. The package's docstring has the ideas."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.core.datasets import Change, Plan
from controller.core.duration import format_duration
from controller.core.model import Json, LedgerEntry, NewEvent
from controller.core.selection import Selection
from controller.errors import ControllerError, RetryLater, StoreBusy
from controller.ports import Batch, SourceContext
from controller.sources.bucket.groups import BucketGroups
from controller.sources.bucket.ledger import BucketLedger, Remembered
from controller.sources.bucket.names import event_id, is_fit, shown
from controller.sources.bucket.objects import Objects, StoredObject, open_objects
from controller.sources.bucket.options import BucketOptions

#: Events and ledger entries that are stored at once.
_BATCH = 500
#: Data sets that are stored at once.
_BATCH_GROUPS = 50
#: A poll ends after so long, or so many objects, and asks to be called again.
_POLL_SECONDS = 2.0
_POLL_OBJECTS = 20_000
#: The next listing waits for this many times the length of the last one.
_LISTING_SHARE = 10
#: Characters of an error that are told.
_ERROR_LIMIT = 300
_USERINFO = re.compile(r"://[^/@\s]*@")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An object that the ledger does not hold as it is, or a key that is gone."""

    key: str
    #: None: it is gone.
    remembered: Remembered | None
    event: NewEvent | None = None
    #: What it is to its data set.
    change: Change | None = None


class BucketSource:
    """Emits an event for each new content of a key in a bucket; a `TimedSource`."""

    Options = BucketOptions

    def __init__(self, options: BucketOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._place = options.place()
        signals = () if options.group is None else options.group.signals
        self._selection = Selection(options.include, options.exclude, always=signals)
        self._ledger = BucketLedger(context, options.group)
        self._groups = (
            None
            if options.group is None
            else BucketGroups(options.group, self._place, context, event_type=options.event_type)
        )
        self._objects: Objects | None = None
        #: What the store did not take yet; nothing else is listed before it does.
        self._unsaved: list[Finding] = []
        #: The listing that is going on; each step of it is a page.
        self._listing: Generator[int] | None = None
        self._listing_seconds = 0.0
        self._listed_count = self._changed_count = 0
        self._began_at: datetime | None = None
        #: When the last listing began that came to its end, and when the next is due by the monotonic clock.
        self._passed: datetime | None = None
        self._next_listing = 0.0
        #: Data sets of which an object is too young to count.
        self._settling: set[str | None] = set()
        self._unfit_count = 0
        self._report: dict[str, Json] = {}

    def poll(self, now: datetime) -> datetime | None:
        """List the bucket, or a part of it, if that is due; return `now` when there is more to do at once.

        Raises `RetryLater` when the bucket cannot be listed; what was found before that is kept.
        """
        try:
            if not self._ledger.is_loaded:
                self._ledger.load()
                if self._groups is not None:
                    self._groups.sets.load()
            self._save()
            return self._work(now)
        except StoreBusy as busy:
            self._context.log.warning("bucket.store_busy", source=self._context.name, error=busy.message)
            return now + timedelta(seconds=busy.after_seconds)
        except ControllerError:
            self._let_go()
            raise
        except Exception as error:  # noqa: BLE001 - each store's client has errors of its own; told, and tried again
            self._let_go()
            raise self._failure(error) from None

    def report(self) -> Mapping[str, Json]:
        """Return how the last listing went, how many objects are known, and which data sets wait."""
        facts: dict[str, Json] = {
            "known": self._ledger.count,
            "listing": self._listing is not None,
            "listed": self._listed_count,
            "last_listing": dict(self._report),
            "next_listing_seconds": round(max(0.0, self._next_listing - self._monotonic()), 1),
        }
        return facts if self._groups is None else {**facts, "groups": self._groups.report()}

    def _monotonic(self) -> float:
        return self._context.clock.monotonic()

    # ------------------------------------------------------------------------------------------------- the listing

    def _work(self, now: datetime) -> datetime | None:
        started = self._monotonic()
        if self._listing is None and started >= self._next_listing:
            self._begin(now)
        if self._listing is not None and not self._go_on(started):
            return now
        if not self._finish_groups(now, started):
            return now
        return self._next_at(now)

    def _next_at(self, now: datetime) -> datetime:
        listing_at = now + timedelta(seconds=max(0.0, self._next_listing - self._monotonic()))
        group_at = None if self._groups is None else self._groups.sets.next_at
        # One that is due and was not emitted waits for the listing.
        return listing_at if group_at is None or group_at <= now else min(listing_at, group_at)

    def _begin(self, now: datetime) -> None:
        self._ledger.begin()
        self._began_at = now
        self._listing_seconds = 0.0
        self._listed_count = self._changed_count = self._unfit_count = 0
        self._settling = set()
        self._listing = self._steps()

    def _go_on(self, started: float) -> bool:
        """Go on with the listing for a while, and return whether it came to its end."""
        assert self._listing is not None  # noqa: S101 - for the type checker
        looked = 0
        try:
            for count in self._listing:
                self._save()
                looked += count
                if looked >= _POLL_OBJECTS or self._monotonic() - started >= _POLL_SECONDS:
                    return False
        finally:
            self._listing_seconds += self._monotonic() - started
        self._end()
        return True

    def _steps(self) -> Generator[int]:
        """List the bucket and find what is new, then what is gone; each step says how much it looked at."""
        objects = self._open()
        for page in objects.pages():
            for stored in page:
                self._look(stored, objects)
            self._listed_count += len(page)
            yield len(page)
        self._say_holes(objects)
        if objects.holes:
            return
        unmet = self._ledger.unmet()
        for start in range(0, len(unmet), _BATCH):
            for number in unmet[start : start + _BATCH]:
                self._unsaved.extend(self._gone(key) for key in self._ledger.keys_of(number))
            yield _BATCH

    def _open(self) -> Objects:
        if self._objects is None:
            self._objects = open_objects(self._options)
        return self._objects

    def _let_go(self) -> None:
        """Give the listing up, and the connection, so that the next one reads the credentials anew."""
        self._listing = None
        self._objects = None

    def _end(self) -> None:
        self._listing = None
        self._passed = self._began_at
        ledger = self._ledger
        entries: list[LedgerEntry] = []
        if not ledger.baselined:
            entries.append(ledger.baseline())
        if ledger.regrouping:
            entries.append(ledger.regrouped())
        if entries:
            self._context.emit(Batch(events=(), ledger=entries))
            ledger.baselined, ledger.regrouping = True, False
        pause = max(self._options.every.total_seconds(), _LISTING_SHARE * self._listing_seconds)
        self._next_listing = self._monotonic() + pause
        self._report = {
            "objects": self._listed_count,
            "changed": self._changed_count,
            "seconds": round(self._listing_seconds, 3),
            "ended_at": _iso(self._context.clock.now()),
            "pause": format_duration(timedelta(seconds=round(pause))),
        }
        self._context.complain(
            "keys",
            f"{self._unfit_count} keys hold characters that cannot be carried (NUL, or no UTF-8), and are passed over"
            if self._unfit_count
            else None,
        )

    def _say_holes(self, objects: Objects) -> None:
        holes = dict(objects.holes)
        if not holes:
            self._context.complain("holes", None)
            return
        folder, reason = next(iter(holes.items()))
        others = f", nor {len(holes) - 1} more" if len(holes) > 1 else ""
        self._context.complain("holes", f"cannot list {shown(folder)!r}: {self._tell(reason)}{others}")

    # --------------------------------------------------------------------------------------------- from page to store

    def _look(self, stored: StoredObject, objects: Objects) -> bool:
        """Compare an object with the ledger, and return whether it is, or will be, something new."""
        path = stored.key[len(self._place.prefix) :]
        if not path or path.endswith("/"):
            return False  # what consoles make to show an empty folder
        if not is_fit(stored.key):
            self._unfit_count += 1
            return False
        if not self._selection.admits(path) or self._ledger.meet(stored.key, stored.mark):
            return False
        if self._is_young(stored):
            if self._groups is not None:
                self._settling.add(self._groups.group_of(path))
            return True
        self._unsaved.append(self._found(stored, path, objects))
        return True

    def _is_young(self, stored: StoredObject) -> bool:
        settle = self._options.settle
        return bool(settle) and stored.modified is not None and self._context.clock.now() - stored.modified < settle

    def _found(self, stored: StoredObject, path: str, objects: Objects) -> Finding:
        ledger = self._ledger
        remembered = Remembered(key=stored.key, mark=stored.mark)
        news = ledger.baselined or self._options.on_start == "backfill"
        if self._groups is None:
            event = self._event(stored) if news else None
            return Finding(key=stored.key, remembered=remembered, event=event)
        if self._options.on_start == "ignore" and ledger.is_only_regrouped(stored.key, stored.mark):
            news = False
        fresh = not ledger.is_known(stored.key)
        change = self._groups.change(stored, path, objects, fresh=fresh, news=news)
        return Finding(key=stored.key, remembered=remembered, change=change)

    def _gone(self, key: str) -> Finding:
        change = None if self._groups is None else self._groups.gone(key[len(self._place.prefix) :])
        return Finding(key=key, remembered=None, change=change)

    def _event(self, stored: StoredObject) -> NewEvent:
        now = self._context.clock.now()
        data: dict[str, Json] = {
            "bucket": self._place.bucket,
            "key": stored.key,
            "uri": f"{self._place.url}/{stored.key}",
            "size": stored.size,
            "etag": stored.etag,
            "last_modified": None if stored.modified is None else _iso(stored.modified),
        }
        if stored.version is not None:
            data["version"] = stored.version
        return NewEvent(
            source=self._place.url,
            source_id=event_id(stored.key, stored.mark),
            type=self._options.event_type,
            subject=shown(stored.key),
            time=now if stored.modified is None else min(stored.modified, now),
            data=data,
        )

    def _save(self) -> None:
        """Store what was found; raises `StoreBusy`, and then it is kept."""
        while self._unsaved:
            batch = self._unsaved[:_BATCH]
            events = [finding.event for finding in batch if finding.event is not None]
            entries = [
                BucketLedger.forgotten(finding.key)
                if finding.remembered is None
                else BucketLedger.entry(finding.remembered)
                for finding in batch
            ]
            plan = self._plan(batch)
            self._context.emit(Batch(events=events, ledger=entries + ([] if plan is None else plan.entries)))
            del self._unsaved[:_BATCH]
            for finding in batch:
                if finding.remembered is None:
                    self._ledger.discard(finding.key)
                else:
                    self._ledger.put(finding.remembered)
            if self._groups is not None and plan is not None:
                self._groups.kept(plan)
            self._changed_count += len(batch)
            self._note(events)

    def _plan(self, batch: list[Finding]) -> Plan | None:
        if self._groups is None:
            return None
        changes = [finding.change for finding in batch if finding.change is not None]
        return self._groups.sets.plan(changes, self._context.clock.now())

    def _note(self, events: list[NewEvent]) -> None:
        if events:
            self._context.note("payload", json.dumps(events[-1].data).encode())

    # ------------------------------------------------------------------------------------------------------ data sets

    def _finish_groups(self, now: datetime, started: float) -> bool:
        """Emit the data sets that are complete, and return whether that was all; none before the whole bucket was listed."""
        groups = self._groups
        if groups is None or self._passed is None:
            return True
        plans: list[Plan] = []
        for group in groups.candidates(now, settling=self._settling, passed=self._passed):
            if self._monotonic() - started >= _POLL_SECONDS:
                self._store(groups, plans)
                return False
            plan = groups.close(group, now) if groups.is_complete(group, self._passed, self._look_through) else None
            if plan is not None:
                plans.append(plan)
            if len(plans) >= _BATCH_GROUPS:
                self._store(groups, plans)
                plans = []
        self._store(groups, plans)
        return True

    def _store(self, groups: BucketGroups, plans: list[Plan]) -> None:
        if not plans:
            return
        events = [plan.event for plan in plans if plan.event is not None]
        self._context.emit(Batch(events=events, ledger=[entry for plan in plans for entry in plan.entries]))
        for plan in plans:
            groups.kept(plan)
        self._note(events)

    def _look_through(self, folder: str) -> bool:
        """Look at the objects of one folder, and return whether anything was new."""
        objects = self._open()
        found = False
        try:
            for page in objects.pages(folder, deep=False):
                for stored in page:
                    found = self._look(stored, objects) or found
        except FileNotFoundError:
            return False  # its directory went with the last object
        self._save()
        return found or bool(objects.holes)

    # --------------------------------------------------------------------------------------------------------- errors

    def _failure(self, error: Exception) -> RetryLater:
        reason = self._tell(str(error) or type(error).__name__)
        hint = ""
        if isinstance(error, PermissionError) or "credentials" in reason.lower():
            hint = "check `key` and `secret`, or the environment's credentials, and that they may list the bucket"
        elif isinstance(error, FileNotFoundError):
            hint = "check the name of the bucket"
        return RetryLater(f"cannot list {self._place.root!r}: {reason}", hint=hint)

    def _tell(self, text: str) -> str:
        """Return an error's text without what must not be told."""
        for secret in (self._options.key, self._options.secret):
            try:
                value = "" if secret is None else secret.reveal()
            except RetryLater:
                continue
            if value:
                text = text.replace(value, "***")
        return _USERINFO.sub("://***@", text)[:_ERROR_LIMIT]


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
