"""Rows of dead letters, within one transaction: what came in and could not be understood, and events that could not be decided.

The first kind is a row of `dead_letter` with the bytes as they came; its body goes as soon as it is read again, given up, or dropped by the
quota, but the row stays, so that a redelivery is still recognised. The second kind is an event in state DEAD.

`dead_letter_total` has what stands of each source, moved with every change, so that the quota costs one row and not a count.
Whoever changes something does so in this order: events, totals, letters; so two transactions wait for each other in one direction only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core import states
from controller.core.model import DEAD_LETTER_ID, MAX_DEAD_BODY, DeadLetter, Json
from controller.store import schema
from controller.store.dialect import dump_json
from controller.store.rows import record

if TYPE_CHECKING:
    from controller.store.store import Transaction

#: More of a letter's `meta`, as JSON, is not kept.
MAX_META = 64 << 10
#: In `meta`: the entries that were left out, with their sizes.
LEFT_OUT = "left_out"
#: Longer places and errors are cut, in characters.
MAX_PLACE, MAX_ERROR = 4096, 2000
#: So many ids are asked for in one statement.
_SOME = 500

_letter = schema.dead_letter
_total = schema.dead_letter_total
_event = schema.event
# The state stands in the text, so that the partial indexes on it are used.
_IS_DEAD = _letter.c.state == sa.literal_column("'DEAD'")
_KNOWN = sa.select(_letter.c.identity, _letter.c.id, _letter.c.origin, _letter.c.place)
_OLDEST = (
    sa.select(_letter.c.id, sa.func.coalesce(sa.func.length(_letter.c.body), 0).label("kept"))
    .where(_IS_DEAD, _letter.c.origin == sa.bindparam("origin"))
    .order_by(_letter.c.id)
    .limit(sa.bindparam("some", type_=sa.Integer))
)
_SPEND = (
    sa.update(_total)
    .where(_total.c.source == sa.bindparam("b_source"))
    .values(standing=_total.c.standing - sa.bindparam("b_count"), bytes=_total.c.bytes - sa.bindparam("b_bytes"))
    .returning(_total.c.standing)
)
_BURIED = (
    sa.select(_event.c.origin, sa.func.count().label("number"))
    .where(_event.c.state == sa.literal_column("'DEAD'"))
    .group_by(_event.c.origin)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A stored dead letter of the first kind."""

    id: str
    #: Name of the source it came to.
    origin: str
    place: str
    #: DEAD, REPLAYED or DROPPED.
    state: str
    cause: str
    #: Why it was not understood, the last time it was read.
    error: str
    #: What came, cut at `MAX_DEAD_BODY`; None for one that had none, and once it is no longer DEAD.
    body: bytes | None
    #: How many bytes there were.
    size: int
    meta: Mapping[str, Json]
    received_at: datetime
    finished_at: datetime | None

    @property
    def whole(self) -> bool:
        """Whether all that came is still here, so that it can be read again."""
        return len(self.body or b"") == self.size and LEFT_OUT not in self.meta

    def as_it_came(self) -> DeadLetter:
        """Return what its source made of it."""
        return DeadLetter(place=self.place, reason=self.error, body=self.body, size=self.size, meta=self.meta)


@dataclass(frozen=True, kw_only=True, slots=True)
class Buried:
    """What storing dead letters of one source came to."""

    #: Those that were new, with their ids.
    new: tuple[tuple[str, DeadLetter], ...] = ()
    #: How many were known already.
    known: int = 0
    #: How many old ones the quota dropped for them.
    dropped: int = 0
    #: How many of this source stand now; None when nothing changed.
    standing: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What stands of one source."""

    standing: int
    #: Of their bodies.
    bytes: int
    overflowed: int
    overflowed_at: datetime | None


@dataclass(slots=True)
class _Candidate:
    letter: DeadLetter
    row: dict[str, Any] = field(default_factory=dict)


class LetterRows:
    """Dead letters of both kinds, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    # ------------------------------------------------------------------------------------------- what came in

    def bury(self, origin: str, letters: Sequence[DeadLetter], *, keep: int, max_bytes: int) -> Buried:
        """Store dead letters of one source; one whose place is known writes nothing, whatever became of it.

        At most `keep` of them stand, with bodies of at most `max_bytes` together: beyond that the oldest are dropped.
        """
        waiting = [_Candidate(letter) for letter in letters]
        new: list[_Candidate] = []
        salt = 0
        while waiting:
            added, waiting = self._add_new(origin, waiting, salt)
            new += added
            salt += 1
        if not new:
            return Buried(known=len(letters))
        standing, dropped = self._count_in(origin, new, keep=keep, max_bytes=max_bytes)
        return Buried(
            new=tuple((each.row["id"], each.letter) for each in new),
            known=len(letters) - len(new),
            dropped=dropped,
            standing=standing,
        )

    def _add_new(
        self, origin: str, waiting: Sequence[_Candidate], salt: int
    ) -> tuple[list[_Candidate], list[_Candidate]]:
        """Insert what is new; return it, and those whose digest belongs to another place."""
        ids = self._tx.ids.make_many(DEAD_LETTER_ID, len(waiting))
        for id_, each in zip(ids, waiting, strict=True):
            each.row = self._row(id_, origin, each.letter, salt)
        self._tx.execute(self._tx.insert_new(_letter), [each.row for each in waiting])
        found = self._known([each.row["identity"] for each in waiting])
        new, collided = [], []
        for each in waiting:
            there = found[each.row["identity"]]
            if there.id == each.row["id"]:
                new.append(each)
            elif (there.origin, there.place) != (origin, each.row["place"]):
                collided.append(each)
        return new, collided

    def _known(self, identities: Sequence[int]) -> dict[int, Any]:
        found = {}
        for start in range(0, len(identities), _SOME):
            for row in self._tx.execute(_KNOWN.where(_letter.c.identity.in_(identities[start : start + _SOME]))):
                found[row.identity] = row
        return found

    def _row(self, id_: str, origin: str, letter: DeadLetter, salt: int) -> dict[str, Any]:
        place = _storable(letter.place)
        error = _storable(letter.reason)[:MAX_ERROR]
        return {
            "id": id_,
            "identity": _identity_of(origin, place, salt),
            "origin": origin,
            "place": place[:MAX_PLACE],
            "state": states.DEAD_LETTER.initial,
            "cause": "not_understood",
            "error": error,
            "reason": error,
            "body": None if letter.body is None else letter.body[:MAX_DEAD_BODY],
            "size": max(letter.size, len(letter.body or b"")),
            "meta": bounded_meta(letter.meta),
            "received_at": self._tx.now,
            "finished_at": None,
        }

    # ------------------------------------------------------------------------------------------- quota

    def _count_in(self, origin: str, new: Iterable[_Candidate], *, keep: int, max_bytes: int) -> tuple[int, int]:
        """Add what is new to the total, and drop the oldest beyond the quota; return how many stand, and were dropped."""
        sizes = [len(each.row["body"] or b"") for each in new]
        upsert = self._tx.insert(_total).values(source=origin, standing=len(sizes), bytes=sum(sizes), overflowed=0)
        upsert = upsert.on_conflict_do_update(
            index_elements=["source"],
            set_={
                "standing": _total.c.standing + upsert.excluded.standing,
                "bytes": _total.c.bytes + upsert.excluded.bytes,
            },
        ).returning(_total.c.standing, _total.c.bytes)
        total = self._tx.execute(upsert).one()
        dropped, freed = self._drop_oldest(origin, total.standing - keep, total.bytes - max_bytes)
        if dropped:
            self._tx.execute(
                sa.update(_total)
                .where(_total.c.source == origin)
                .values(
                    standing=_total.c.standing - dropped,
                    bytes=_total.c.bytes - freed,
                    overflowed=_total.c.overflowed + dropped,
                    overflowed_at=self._tx.now,
                )
            )
        return total.standing - dropped, dropped

    def _drop_oldest(self, origin: str, count: int, size: int) -> tuple[int, int]:
        """Drop the oldest until `count` of them are gone and `size` bytes are free; return how many, and how many bytes."""
        dropped = freed = 0
        while dropped < count or freed < size:
            rows = self._tx.execute(_OLDEST, {"origin": origin, "some": _SOME}).all()
            for row in rows:
                if dropped >= count and freed >= size:
                    break
                self._end(
                    row.id, "DROPPED", cause="quota", reason="more than are kept of this source", actor="controller"
                )
                dropped, freed = dropped + 1, freed + row.kept
            if not rows:
                break
        return dropped, freed

    # ------------------------------------------------------------------------------------------- what people do

    def get(self, letter_id: str) -> Letter | None:
        """Return one letter of the first kind, with its body."""
        row = self._tx.execute(sa.select(_letter).where(_letter.c.id == letter_id)).first()
        return None if row is None else record(Letter, row)

    def still_dead(self, letter_id: str, *, error: str) -> None:
        """Write why a letter was not understood this time."""
        text = _storable(error)[:MAX_ERROR]
        self._tx.execute(sa.update(_letter).where(_letter.c.id == letter_id, _IS_DEAD).values(error=text, reason=text))

    def replayed(self, letter: Letter, *, reason: str, actor: str) -> int:
        """Write that a letter was read again; return how many of its source stand now. Raises `Conflict` when it is no longer DEAD."""
        standing = self._spend(letter)
        self._end(letter.id, "REPLAYED", cause="replayed", reason=reason, actor=actor)
        return standing

    def drop(self, letter: Letter, *, reason: str, actor: str) -> int:
        """Give a letter up; return how many of its source stand now. Raises `Conflict` when it is no longer DEAD."""
        standing = self._spend(letter)
        self._end(letter.id, "DROPPED", cause="dropped", reason=reason, actor=actor)
        return standing

    def _spend(self, letter: Letter) -> int:
        spent = {"b_source": letter.origin, "b_count": 1, "b_bytes": len(letter.body or b"")}
        return int(self._tx.execute(_SPEND, spent).scalar() or 0)

    def _end(self, letter_id: str, target: str, *, cause: str, reason: str, actor: str) -> None:
        self._tx.transition(
            states.DEAD_LETTER,
            letter_id,
            origin="DEAD",
            target=target,
            cause=cause,
            reason=reason,
            actor=actor,
            body=None,
        )

    def replay_event(self, event_id: str, *, reason: str, actor: str) -> None:
        """Let an event be decided anew; raises `Conflict` when it is not DEAD."""
        self._tx.transition(
            states.EVENT,
            event_id,
            origin="DEAD",
            target="PENDING",
            cause="replayed",
            reason=reason,
            actor=actor,
            error=None,
        )

    def drop_event(self, event_id: str, *, reason: str, actor: str) -> None:
        """Give an event up: it counts as processed, and keeps the error; raises `Conflict` when it is not DEAD."""
        self._tx.transition(
            states.EVENT,
            event_id,
            origin="DEAD",
            target="PROCESSED",
            cause="dropped",
            reason=reason,
            actor=actor,
        )

    # ------------------------------------------------------------------------------------------- how many

    def standing(self) -> dict[str, Standing]:
        """Return what stands of each source that ever had dead letters of the first kind."""
        return {row.source: record(Standing, row) for row in self._tx.execute(sa.select(_total))}

    def buried_events(self) -> dict[str, int]:
        """Return how many events of each source could not be decided."""
        return {row.origin: row.number for row in self._tx.execute(_BURIED)}


def _identity_of(origin: str, place: str, salt: int) -> int:
    """Return the 64-bit identity of a letter; `salt` tells apart places whose digests are equal though their texts differ."""
    parts = (origin, place) if salt == 0 else (origin, place, str(salt))
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big", signed=True)


def _storable(text: str) -> str:
    """Return text as both databases can store it: NUL and halves of surrogate pairs as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def bounded_meta(meta: Mapping[str, Json]) -> dict[str, Json]:
    """Return what a source noted beside the bytes, as it can be stored: at most `MAX_META` bytes of JSON.

    What is too much is left out, the largest entries first, and named under `left_out`.
    """
    entries = {_storable(name): _as_json(value) for name, value in meta.items()}
    sizes = {name: len(dump_json([name, value]).encode()) for name, value in entries.items()}
    if sum(sizes.values()) <= MAX_META:
        return entries
    room, kept = MAX_META // 2, set()
    for name in sorted(sizes, key=lambda each: sizes[each]):
        if room >= sizes[name]:
            room -= sizes[name]
            kept.add(name)
    left = [name for name in entries if name not in kept]
    named = {name[:100]: sizes[name] for name in left[:50]}
    return {**{name: value for name, value in entries.items() if name in kept}, LEFT_OUT: named}


def _as_json(value: Json) -> Json:
    """Return a value that can be stored as JSON; one that cannot as its text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_as_json(str(name)): _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    try:
        dump_json(value)
    except (TypeError, ValueError):
        return repr(value)
    return repr(value) if isinstance(value, bytes | bytearray) else value
