"""Rows of the chain over history, and the chain as it is read: by the leader to lay links, by whoever examines or exports it.

Rows are read as the database holds them, past our types, because that is what a link is over and what may have been tampered with.

A link must never leave out a row that appears later. On SQLite one transaction writes at a time, so rows appear in the order of their
numbers. On PostgreSQL a number is drawn before its transaction commits. Whoever draws one holds a lock on `history` from before that until
its end (ROW EXCLUSIVE, as for every INSERT); so what was the last number at one moment is safe to seal as soon as nobody who held that lock
a moment later still does. Looking at the locks (`writers`) takes none, so whoever writes history never waits for the chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from controller.core.seal import ACT, ACT_MACHINE, CHAIN_MACHINE, ROW, ActsBefore, Before, Entry, Item, Link, Raw, Tail
from controller.store import schema

if TYPE_CHECKING:
    from controller.store.store import Store, Transaction

#: Rows of one page.
PAGE = 1000
#: Links of one page; each has 16 bytes for each of its rows.
_LINKS = 50
#: Below every number.
_FIRST = -(1 << 63)
_LINK = ("number", "last_seq", "count", "term", "at", "digest", "marks")
_LAST_LINK = "FROM seal ORDER BY number DESC LIMIT 1"
_LINKS_AFTER = "FROM seal WHERE number > :after ORDER BY number LIMIT :most"
_ROWS = "FROM history WHERE seq > :after AND seq <= :upto ORDER BY seq LIMIT :most"
_ACTS = "FROM act WHERE id IN :ids"
_UNCOVERED = (
    "FROM act WHERE id > :after AND NOT EXISTS "  # noqa: S608 - a constant
    f"(SELECT 1 FROM history WHERE history.entity = act.id AND history.machine = '{ACT_MACHINE}') ORDER BY id LIMIT :most"
)
_INSERT = sa.text(f"INSERT INTO seal ({', '.join(_LINK)}) VALUES ({', '.join(f':{name}' for name in _LINK)})")  # noqa: S608
_WRITERS = sa.text(
    "SELECT virtualtransaction FROM pg_locks WHERE relation = 'history'::regclass AND locktype = 'relation' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()"
)
_LAST = sa.select(sa.func.max(schema.history.c.seq))


class SealRows:
    """The chain, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def head(self) -> Link | None:
        """Return the last link; None before the first."""
        found = self._raw(_LINK, _LAST_LINK, {})
        return _link(found[0]) if found else None

    def last_seq(self) -> int:
        """Return the highest number of a history row that is there; 0 without one."""
        return int(self._tx.execute(_LAST).scalar() or 0)

    def writers(self) -> frozenset[str]:
        """Return who may have drawn a number of a history row and not committed it, by names that are never used again.

        Ask for the last number before, and for the rows in a later transaction.
        """
        if self._tx.dialect == "sqlite":
            return frozenset()
        return frozenset(str(name) for name in self._tx.execute(_WRITERS).scalars())

    def rows(self, *, after: int | None, upto: int, most: int = PAGE) -> list[Sequence[Raw]]:
        """Return the rows behind `after` (None: from the first) up to a number, at most so many."""
        return self._raw(ROW, _ROWS, {"after": _FIRST if after is None else after, "upto": upto, "most": most})

    def add(self, link: Link) -> None:
        """Write a link. Raises `Conflict` when there is one of this number."""
        self._tx.execute(_INSERT, {name: getattr(link, name) for name in _LINK})

    def begin(self, before: ActsBefore) -> None:
        """Write into history what there was before the chain: acts that have no row there, which later links then cover."""
        self._tx.record(
            CHAIN_MACHINE, CHAIN_MACHINE, "", "begun", "begun", str(before.count), "controller", digest=before.digest
        )

    def acts_before(self) -> ActsBefore:
        """Return the acts that have no row in history: those from before the chain began."""
        found = ActsBefore()
        after = ""
        while page := self.uncovered(after):
            for act in page:
                found.add(act)
            after = str(page[-1][0])
        return found

    # ------------------------------------------------------------------------------------------------ reading it

    def links(self, after: int | None) -> list[Link]:
        """Return the next links behind a number; None: from the first."""
        found = self._raw(_LINK, _LINKS_AFTER, {"after": _FIRST if after is None else after, "most": _LINKS})
        return [_link(row) for row in found]

    def acts(self, ids: Sequence[Raw]) -> dict[Raw, Sequence[Raw]]:
        """Return acts by their ids."""
        wanted = [act_id for act_id in ids if isinstance(act_id, str)]
        return {row[0]: row for row in self._raw(ACT, _ACTS, {"ids": wanted})} if wanted else {}

    def uncovered(self, after: str) -> list[Sequence[Raw]]:
        """Return the next acts without a row in history, behind an id."""
        return self._raw(ACT, _UNCOVERED, {"after": after, "most": PAGE})

    def _raw(self, names: Sequence[str], source: str, values: Mapping[str, Any]) -> list[Sequence[Raw]]:
        """Return rows as they are stored; text that is none (only a stranger can have written it) as bytes."""
        try:
            return [tuple(row) for row in self._tx.execute(_statement(", ".join(names), source), values)]
        except sa.exc.OperationalError as error:
            if "decode" not in str(error.orig):
                raise
        columns = ", ".join(
            f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END" for name in names
        )
        return [tuple(map(_decoded, row)) for row in self._tx.execute(_statement(columns, source), values)]


def chain(store: Store) -> Iterator[Item]:
    """Yield the whole chain with what it covers, a transaction a page: nothing is held up, and memory stays flat."""
    yield from _acts_before(store)
    last, number = None, None
    while True:
        with store.reading() as tx:
            links, newest = tx.seals.links(number), tx.seals.last_seq()
        for link in links:
            yield link
            if last is None or link.last_seq > last:
                yield from _entries(store, last, link.last_seq)
                last = link.last_seq
        if len(links) < _LINKS or links[-1].number < 0:  # what is no number comes last
            break
        number = links[-1].number
    yield Tail()
    yield from _entries(store, last, newest)


def _acts_before(store: Store) -> Iterator[Before]:
    after = ""
    while True:
        with store.reading() as tx:
            page = tx.seals.uncovered(after)
        if not page:
            return
        yield from map(Before, page)
        after = str(page[-1][0])


def _entries(store: Store, after: int | None, upto: int) -> Iterator[Entry]:
    """Yield the rows behind a number up to another, each with its act."""
    while after is None or after < upto:
        with store.reading() as tx:
            rows = tx.seals.rows(after=after, upto=upto)
            acts = tx.seals.acts([row[2] for row in rows if row[1] == ACT_MACHINE])
        if not rows:
            return
        for row in rows:
            yield Entry(row, acts.get(row[2]) if row[1] == ACT_MACHINE else None)
        after = int(str(rows[-1][0]))


@lru_cache(maxsize=32)
def _statement(columns: str, source: str) -> sa.TextClause:
    # Plain SQL, so that values come as they are stored; both parts are constants of this file.
    statement = sa.text(f"SELECT {columns} {source}")
    return statement.bindparams(sa.bindparam("ids", expanding=True)) if ":ids" in source else statement


def _link(row: Sequence[Raw]) -> Link:
    values: dict[str, Any] = dict(zip(_LINK, row, strict=True))
    if not isinstance(values["marks"], bytes):
        values["marks"] = b""  # somebody wrote something else there; it then does not agree with its list of rows
    for name in ("number", "last_seq"):
        if not isinstance(values[name], int):
            values[name] = -1
    return Link(**values)


def _decoded(value: Raw) -> Raw:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
