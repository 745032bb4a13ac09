"""What is known of data sets between their parts and their events, as entries of the ledger.

The parts of a data set come one by one, over hours, and the process may die at any point between them.
So each part is an entry of its own, and each data set has one with its numbers; both are written in the transaction that
remembers the file or object itself. A second one stores the event and closes the data set: a crash between the two is
made good when the open ones are read at the start.
Nothing here is changed before the store took it: a `Plan` says what to write, and is `kept` afterwards.

In memory are the open data sets only, and at most `OPEN_LIMIT` of them; the others are read when something comes for them, or when
there is room.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from controller.core.grouping import Group, Grouping, Part, Role, Verdict, digest_of, group_event, ready_at
from controller.core.manifest import Listed
from controller.core.model import Json, LedgerEntry, NewEvent

#: Open data sets that are kept in memory; twice as many when time may complete them.
OPEN_LIMIT = 20_000
#: Entries of the ledger that are forgotten at once.
_FORGOTTEN_AT_ONCE = 500
#: Waiting data sets that a report names.
_SHOWN = 20
_SHAPE_KEY = "@groups"
#: The kinds of entries: of a data set, that it is open, of its parts, of what its manifest names.
_GROUP, _OPEN, _PART, _LISTED = "group:", "open:", "part:", "listed:"
_HEXADECIMAL = "0123456789abcdef"

#: Reads what the ledger holds under keys with a prefix.
Recall = Callable[[str], Mapping[str, Json]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Something that came, or went, for a data set."""

    #: Below the source's root.
    path: str
    group: str
    role: Role
    #: A part as it is now; None for one that is gone, and for a marker or manifest.
    part: Part | None = None
    #: What a manifest names.
    listed: Sequence[Listed] = ()
    #: The ledger certainly holds nothing of this path.
    fresh: bool = False
    #: It counts as something new; what `on_start: ignore` passes over does not.
    news: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to write, and how the data sets are then."""

    entries: list[LedgerEntry] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    #: Absent when the data set holds what its last event said.
    event: NewEvent | None = None


class DataSets:
    """The data sets of one source; not safe to use from several threads, but for `report`."""

    def __init__(self, grouping: Grouping, recall: Recall) -> None:
        self._grouping = grouping
        self._recall = recall
        #: By the hash of their names.
        self._open: dict[str, Group] = {}
        self._ready: dict[str, datetime] = {}
        #: Whether the ledger has open ones that are not in memory.
        self._more = False

    # ------------------------------------------------------------------------------------------ start and settings

    def load(self) -> None:
        """Read the open data sets."""
        self._open, self._ready = {}, {}
        self._read_open()

    def _read_open(self) -> None:
        self._more = False
        for digit in _HEXADECIMAL:
            for key in self._recall(f"{_OPEN}{digit}"):
                if len(self._open) >= OPEN_LIMIT:
                    self._more = True
                    return
                hashed = key.removeprefix(_OPEN)
                group = self._stored(hashed) if hashed not in self._open else None
                if group is not None:
                    self._put(hashed, group)

    # -------------------------------------------------------------------------------------------------- what comes

    def plan(self, changes: Iterable[Change], now: datetime) -> Plan:
        """Return what to write for these changes, of which each path has one at most."""
        plan = Plan()
        before: dict[str, bool] = {}
        for change in changes:
            hashed = _hash(change.group)
            group = plan.groups.get(hashed) or self._known(hashed)
            if group is None:
                if change.role == "part" and change.part is None:
                    continue
                group = Group(name=change.group, since=now, changed_at=now)
            before.setdefault(hashed, group.open)
            plan.groups[hashed] = self._changed(plan.entries, hashed, group, change, now)
        for hashed, group in plan.groups.items():
            plan.entries.extend(_entries(hashed, group, was_open=before[hashed]))
        return plan

    def kept(self, plan: Plan) -> None:
        """Take over what the store took."""
        for hashed, group in plan.groups.items():
            self._put(hashed, group)
        if self._more and len(self._open) < OPEN_LIMIT // 2:
            self._read_open()

    def _changed(self, entries: list[LedgerEntry], hashed: str, group: Group, change: Change, now: datetime) -> Group:
        is_gone = change.role == "part" and change.part is None
        if change.news and not group.open and not is_gone:
            group = replace(group, open=True, since=now)
        if change.role == "marker":
            return replace(group, marked_at=now)
        if change.role == "manifest":
            entries.append(LedgerEntry(key=f"{_LISTED}{hashed}", value=[_listed_json(one) for one in change.listed]))
            return replace(group, marked_at=now, listed=len(change.listed))
        key = f"{_PART}{hashed}:{_hash(change.path)}"
        known = not change.fresh and key in self._recall(key)
        if change.part is None:
            if not known:
                return group
            entries.append(LedgerEntry(key=key, value=None))
            return replace(group, count=group.count - 1, changed_at=now if group.open else group.changed_at)
        if not known and group.count >= self._grouping.max_parts:
            return replace(group, overfull=True, changed_at=now)
        entries.append(LedgerEntry(key=key, value=_part_json(change.part)))
        return replace(group, count=group.count + (not known), changed_at=now)

    # --------------------------------------------------------------------------------------------- what is complete

    @property
    def next_at(self) -> datetime | None:
        """When the next data set may be complete; None: not before something comes."""
        return min(self._ready.values(), default=None)

    def ready(self, now: datetime) -> list[Group]:
        """Return the data sets that may be complete at `now`."""
        return [self._open[hashed] for hashed, at in self._ready.items() if at <= now]

    def ready_at(self, name: str) -> datetime | None:
        """Return when a data set may be complete."""
        return self._ready.get(_hash(name))

    def put_off(self, name: str, until: datetime | None) -> None:
        """Do not offer a data set again before this instant (None: before something comes for it)."""
        if until is None:
            self._ready.pop(_hash(name), None)
        else:
            self._ready[_hash(name)] = until

    def parts(self, name: str) -> dict[str, Part]:
        """Return the parts of a data set by name."""
        found = self._recall(f"{_PART}{_hash(name)}:").values()
        return {part.name: part for part in map(_part, found)}

    def listed(self, name: str) -> list[Listed]:
        """Return what a data set's manifest names."""
        key = f"{_LISTED}{_hash(name)}"
        return [_listed(one) for one in self._recall(key).get(key, ())]

    def finish(self, group: Group, verdict: Verdict, *, source: str, type: str) -> Plan:
        """Return what to write for a data set that is complete."""
        digest = digest_of(verdict.parts)
        closed = replace(group, open=False)
        event = None
        if digest != group.digest:
            event = group_event(group, verdict, source=source, type=type, digest=digest)
            closed = replace(closed, generation=group.generation + 1, digest=digest)
        hashed = _hash(group.name)
        return Plan(entries=_entries(hashed, closed, was_open=True), groups={hashed: closed}, event=event)

    def overfull(self) -> str | None:
        """Return what to complain of when a data set has too many parts; None when none has."""
        name = next((group.name for group in tuple(self._open.values()) if group.overfull), None)
        if name is None:
            return None
        return (
            f"data set {name!r} has more than {self._grouping.max_parts} parts; it will not become an event, "
            "unless max_parts is raised"
        )

    def report(self) -> Json:
        """Return who waits, for people."""
        waiting = self._open.copy()  # at once, since another thread may change it
        oldest = heapq.nsmallest(_SHOWN, waiting.values(), key=lambda group: group.since)
        return {
            "count": len(waiting),
            "more": self._more,
            "oldest": [self._waiting(group) for group in oldest],
        }

    def _waiting(self, group: Group) -> Json:
        at = ready_at(self._grouping, group)
        return {
            "group": group.name,
            "parts": group.count,
            "since": _iso(group.since),
            "changed": _iso(group.changed_at),
            "missing": _lack(self._grouping, group),
            "complete_at": None if at is None else _iso(at),
        }

    def _put(self, hashed: str, group: Group) -> None:
        self._ready.pop(hashed, None)
        if not group.open:
            self._open.pop(hashed, None)
            return
        at = ready_at(self._grouping, group)
        # Those that only time completes go first.
        if hashed not in self._open and len(self._open) >= (OPEN_LIMIT if at is None else 2 * OPEN_LIMIT):
            self._more = True
            return
        self._open[hashed] = group
        if at is not None:
            self._ready[hashed] = at

    def _known(self, hashed: str) -> Group | None:
        return self._open.get(hashed) or self._stored(hashed)

    def _stored(self, hashed: str) -> Group | None:
        key = f"{_GROUP}{hashed}"
        value = self._recall(key).get(key)
        return None if value is None else _group(value)


def is_of_data_sets(recall: Recall, grouping: Grouping | None) -> bool:
    """Return whether the ledger holds the data sets of this grouping, and of no other."""
    shape = recall(_SHAPE_KEY).get(_SHAPE_KEY)
    return bool(shape == (None if grouping is None else grouping.shape))


def settled(grouping: Grouping | None) -> LedgerEntry:
    """Return the entry that says that the ledger holds the data sets of this grouping."""
    return LedgerEntry(key=_SHAPE_KEY, value=None if grouping is None else grouping.shape)


def forgetting(recall: Recall) -> Iterator[list[LedgerEntry]]:
    """Return, in pieces, what to write so that the ledger holds no data sets."""
    for kind in (_OPEN, _PART, _LISTED, _GROUP):
        for first in _HEXADECIMAL:
            for second in _HEXADECIMAL:
                keys = list(recall(f"{kind}{first}{second}"))
                for start in range(0, len(keys), _FORGOTTEN_AT_ONCE):
                    yield [LedgerEntry(key=key, value=None) for key in keys[start : start + _FORGOTTEN_AT_ONCE]]


def _lack(grouping: Grouping, group: Group) -> str | None:
    """Say what a data set waits for; None when only time must pass."""
    if group.overfull:
        return f"nothing: it has more than {grouping.max_parts} parts, and will not become an event"
    if group.count == 0:
        return "a part"
    if grouping.marker is not None and group.marked_at is None:
        return f"the marker {grouping.marker}"
    if grouping.manifest is not None:
        if group.listed is None:
            return f"the manifest {grouping.manifest}"
        return f"some of the {group.listed} parts of its manifest"
    if grouping.parts is not None and group.count < grouping.parts:
        return f"{grouping.parts - group.count} of {grouping.parts} parts"
    return None


def _entries(hashed: str, group: Group, *, was_open: bool) -> list[LedgerEntry]:
    empty = not group.open and group.count == 0
    entries = [LedgerEntry(key=f"{_GROUP}{hashed}", value=None if empty else _group_json(group))]
    if empty and group.listed is not None:
        entries.append(LedgerEntry(key=f"{_LISTED}{hashed}", value=None))
    if group.open or was_open:
        entries.append(LedgerEntry(key=f"{_OPEN}{hashed}", value=True if group.open else None))
    return entries


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _group_json(group: Group) -> Json:
    return {
        "name": group.name,
        "since": _iso(group.since),
        "changed_at": _iso(group.changed_at),
        "count": group.count,
        "marked_at": None if group.marked_at is None else _iso(group.marked_at),
        "listed": group.listed,
        "generation": group.generation,
        "digest": group.digest,
        "open": group.open,
        "overfull": group.overfull,
    }


def _group(value: Mapping[str, Json]) -> Group:
    marked_at = value["marked_at"]
    return Group(
        name=value["name"],
        since=datetime.fromisoformat(value["since"]),
        changed_at=datetime.fromisoformat(value["changed_at"]),
        count=value["count"],
        marked_at=None if marked_at is None else datetime.fromisoformat(marked_at),
        listed=value["listed"],
        generation=value["generation"],
        digest=value["digest"],
        open=value["open"],
        overfull=value["overfull"],
    )


def _part_json(part: Part) -> Json:
    return [part.name, part.size, part.digest, part.rows]


def _part(value: Sequence[Json]) -> Part:
    name, size, digest, rows = value
    return Part(name=name, size=size, digest=digest, rows=rows)


def _listed_json(listed: Listed) -> Json:
    return [list(listed.names), listed.size, listed.digest]


def _listed(value: Sequence[Json]) -> Listed:
    names, size, digest = value
    return Listed(names=tuple(names), size=size, digest=digest)
