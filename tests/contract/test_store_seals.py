"""The chain over history on both databases: what a stranger's SQL does to rows, links and acts is found, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core.seal import Link, Verdict, examine, lay, parse_head, sealed
from controller.errors import Conflict
from controller.store import Store, schema
from controller.store.dialect import microseconds
from controller.store.seals import chain
from controller.store.store import Transaction

Seal = Callable[..., Link | None]


def write(store: Store, *entities: str, acts: Mapping[str, str] | None = None) -> None:
    """Write history rows, and acts by their verb and target."""
    with store.transaction("test") as tx:
        for entity in entities:
            tx.record("run", entity, "", "QUEUED", "decided", f"because of {entity} ü", "controller")
        for verb, target in (acts or {}).items():
            add_act(tx, verb, target)


def add_act(tx: Transaction, verb: str = "pause", target: str = "churn") -> str:
    return tx.people.add_act(
        actor="ann", verb=verb, target=target, reason="noise ü", details={"n": 1.5}, response={"done": True}
    )


def seal(store: Store, *, most: int = 1000) -> Link | None:
    """Lay a link over what is new, as the leader does."""
    with store.transaction("seal") as tx:
        head = tx.seals.head()
        rows = tx.seals.rows(after=None if head is None else head.last_seq, upto=tx.seals.last_seq(), most=most)
        if not rows:
            return None
        link = lay(head, sealed(rows), term=tx.term, at=microseconds(tx.now))
        tx.seals.add(link)
        if head is None:
            tx.seals.begin(tx.seals.acts_before())
        return link


def verify(store: Store, **options: Any) -> Verdict:
    return examine(chain(store), **options)


def tamper(store: Store, statement: str, **values: Any) -> None:
    """Do what somebody with the right to write to the database can do."""
    with store.engine.begin() as connection:
        assert connection.execute(sa.text(statement), values).rowcount >= 1


@pytest.fixture
def told(store: Store) -> Store:
    """A store with three links, and a row behind them."""
    write(store, "run-1", "run-2", acts={"pause": "churn"})
    seal(store)
    write(store, "run-3", acts={"cancel": "run-3"})
    seal(store)
    write(store, "run-4", "run-5")
    seal(store)
    write(store, "run-6")
    return store


def number_of(store: Store, entity: str) -> int:
    with store.reading() as tx:
        return int(tx.execute(sa.select(schema.history.c.seq).where(schema.history.c.entity == entity)).scalar_one())


def first(store: Store) -> tuple[str, int | None, int | None]:
    finding = verify(store).findings[0]
    return finding.kind, finding.link, finding.seq


def test_G13_what_nobody_touched_is_whole(told: Store) -> None:
    """Rows, links and acts are counted, and what is not sealed yet."""
    verdict = verify(told)

    assert verdict.findings == ()
    assert (verdict.links, verdict.rows, verdict.acts, verdict.unsealed, verdict.before) == (3, 8, 2, 1, 0)


@pytest.mark.parametrize(
    "change",
    [
        "machine = 'job'",
        "entity = 'run-9'",
        "origin = 'X'",
        "target = 'FAILED'",
        "cause = 'x'",
        "reason = ''",
        "actor = 'bob'",
        "term = term + 1",
        "at = at + 1",
        "after_seq = NULL",
        "digest = 'x'",
    ],
)
def test_G13_a_changed_column_is_named(told: Store, change: str) -> None:
    """Each column of a row is covered."""
    seq = number_of(told, "run-3")
    tamper(told, f"UPDATE history SET {change} WHERE seq = :seq", seq=seq)

    assert first(told) == ("changed", 2, seq)


def test_G13_a_deleted_row_is_named(told: Store) -> None:
    """Also the first of all, and the last of a link."""
    for entity in ("run-1", "run-5"):
        seq = number_of(told, entity)
        tamper(told, "DELETE FROM history WHERE seq = :seq", seq=seq)

        assert ("missing", seq) in [(finding.kind, finding.seq) for finding in verify(told).findings]


def test_G13_an_inserted_row_is_named(told: Store) -> None:
    """Also one before the first."""
    tamper(
        told,
        "INSERT INTO history (seq, machine, entity, origin, target, cause, reason, actor, term, at) "
        "VALUES (-7, 'run', 'run-0', '', 'PROMOTED', 'judged', '', 'controller', 1, 5)",
    )

    assert first(told) == ("added", 1, -7)


def test_G13_rows_that_change_places_are_named(told: Store) -> None:
    """The content of one under the number of another is known again."""
    one, other = number_of(told, "run-4"), number_of(told, "run-5")
    for before, after in ((one, -1), (other, one), (-1, other)):
        tamper(told, "UPDATE history SET seq = :after WHERE seq = :before", before=before, after=after)

    assert [(finding.kind, finding.seq) for finding in verify(told).findings] == [("moved", one), ("moved", other)]


@pytest.mark.parametrize(
    "change", ["last_seq = last_seq - 1", "count = 9", "term = 9", "at = at - 1", "digest = 'ff'", "number = 9"]
)
def test_G13_a_changed_link_is_named(told: Store, change: str) -> None:
    """Each column of a link is covered."""
    tamper(told, f"UPDATE seal SET {change} WHERE number = 2")

    assert first(told)[:2] == ("link", 2)


def test_G13_changed_marks_are_named(told: Store) -> None:
    """The list of rows cannot be changed to hide which row was."""
    tamper(told, "UPDATE seal SET marks = :marks WHERE number = 2", marks=b"\0" * 32)

    assert first(told)[:2] == ("link", 2)


def test_G13_a_deleted_link_is_named(told: Store) -> None:
    """And the last one against a head that was noted."""
    with told.reading() as tx:
        head = tx.seals.head()
    assert head is not None
    tamper(told, "DELETE FROM seal WHERE number = 3")
    cut = verify(told)
    tamper(told, "DELETE FROM seal WHERE number = 1")

    assert (cut.is_whole, cut.unsealed) == (True, 3)
    assert (
        verify(told, expect=parse_head(head.head)).findings[-1].text
        == "link 3, which was noted, is not there; the last one is 2"
    )
    assert first(told) == ("link", 1, None)


@pytest.mark.parametrize("change", ["actor = 'bob'", "reason = ''", "details = '{}'", "at = at + 1", "verb = 'resume'"])
def test_G13_a_changed_act_is_named(told: Store, change: str) -> None:
    """What a person did is covered by the digest in its row of history."""
    tamper(told, f"UPDATE act SET {change} WHERE verb = 'cancel'")
    finding = verify(told).findings[0]

    assert (finding.kind, finding.link) == ("act", 2)
    assert "was changed" in finding.text


def test_G13_a_deleted_act_is_named(told: Store) -> None:
    """Its row in history misses it."""
    tamper(told, "DELETE FROM act WHERE verb = 'pause'")

    assert first(told)[:2] == ("act", 1)


def test_G13_an_inserted_act_shows(told: Store) -> None:
    """An act has a row in history, or was there before the chain began."""
    tamper(
        told,
        "INSERT INTO act (id, at, actor, verb, target, reason, details, request_digest, response) "
        "VALUES ('act-0', 1, 'eve', 'approve', 'run-1', '', '{}', '', '{}')",
    )

    assert "was changed, taken away or put in (the newest is act-0)" in verify(told).findings[0].text


def test_G13_acts_from_before_the_chain_are_covered_by_its_beginning(store: Store) -> None:
    """After an upgrade the acts that left no row are digested once, and cannot be changed from then on."""
    with store.transaction("test") as tx:
        for _ in range(3):
            add_act(tx, "approve", "run-1")
        tx._history.clear()  # as a version did that left none
    write(store, "run-1")
    seal(store)
    seal(store)
    whole = verify(store)
    tamper(store, "UPDATE act SET actor = 'eve' WHERE id = (SELECT min(id) FROM act)")

    assert (whole.is_whole, whole.before, whole.acts) == (True, 3, 0)
    assert first(store)[:2] == ("act", 2)


def test_G13_two_leaders_cannot_fork_the_chain(store: Store, make_store: Callable[..., Store]) -> None:
    """A link's number is taken once, whoever lays it."""
    write(store, "run-1")
    with store.reading() as tx:
        rows = sealed(tx.seals.rows(after=None, upto=tx.seals.last_seq()))
    other = make_store(seed=2)
    other.term = store.term
    link = lay(None, rows, term=1, at=1)
    with other.transaction("seal") as tx:
        tx.seals.add(link)

    with pytest.raises(Conflict), store.transaction("seal") as tx:
        tx.seals.add(lay(None, rows, term=1, at=2))
    assert verify(store).is_whole


def test_a_long_chain_is_read_in_pages(store: Store) -> None:
    """More rows, acts and links than a page has: none is left out, and none comes twice."""
    with store.transaction("test") as tx:
        for number in range(2300):
            tx.record("run", f"run-{number}", "", "QUEUED", "decided", "", "controller")
        for _ in range(40):
            add_act(tx)
    while seal(store, most=30):
        pass
    verdict = verify(store)

    assert verdict.findings == ()
    assert (verdict.rows, verdict.acts, verdict.links, verdict.unsealed) == (2341, 40, 79, 0)


# ------------------------------------------------------------------------------------------------ one database each


@pytest.fixture
def sqlite(told: Store) -> Store:
    if told.dialect != "sqlite":
        pytest.skip("types that a column does not have are SQLite's")
    return told


@pytest.mark.parametrize(
    "change",
    ["reason = CAST(x'ff00' AS TEXT)", "reason = x'ff00'", "term = 'x'", "term = 1.5", "at = 'x'", "entity = x'00'"],
)
def test_G13_values_that_no_column_has_are_found(sqlite: Store, change: str) -> None:
    """SQLite takes any value in any column, and text that is none: that row is named, and the others are as they were."""
    seq = number_of(sqlite, "run-3")
    tamper(sqlite, f"UPDATE history SET {change} WHERE seq = :seq", seq=seq)

    assert [(finding.kind, finding.seq) for finding in verify(sqlite).findings] == [("changed", seq)]


@pytest.mark.parametrize(
    "change", ["last_seq = 'x'", "count = 'x'", "marks = 'x'", "at = 'x'", "digest = 7", "number = 'x'"]
)
def test_G13_links_with_values_that_no_column_has_are_found(sqlite: Store, change: str) -> None:
    """Such a link is named, and the examination goes on."""
    tamper(sqlite, f"UPDATE seal SET {change} WHERE number = 2")

    assert verify(sqlite).findings[0].link == 2


@pytest.fixture
def postgresql(store: Store) -> Store:
    if store.dialect == "sqlite":
        pytest.skip("on SQLite one transaction writes at a time")
    return store


def test_G13_a_row_that_commits_late_is_not_left_out(postgresql: Store, make_store: Callable[..., Store]) -> None:
    """While somebody who drew a lower number has not ended he is among the writers; when he has, his row is there."""
    slow = make_store(seed=2)
    slow.term = postgresql.term
    with slow.transaction("slow", fenced=False) as late:
        late.record("run", "late", "", "QUEUED", "decided", "", "controller")
        late.write_history()
        write(postgresql, "early")
        with postgresql.reading() as tx:
            last, writers = tx.seals.last_seq(), tx.seals.writers()
            seen = [row[2] for row in tx.seals.rows(after=None, upto=last)]
    with postgresql.reading() as tx:
        after = tx.seals.writers()
        rows = [row[2] for row in tx.seals.rows(after=None, upto=last)]

    assert (seen, len(writers)) == (["early"], 1)
    assert not writers & after
    assert rows == ["late", "early"]


def test_looking_for_writers_holds_nobody_up(postgresql: Store, make_store: Callable[..., Store]) -> None:
    """No lock on history is taken but that of any reader, so whoever writes it never waits for the chain."""
    with postgresql.reading() as tx:
        tx.seals.last_seq()
        tx.seals.writers()
        tx.seals.rows(after=None, upto=5)
        held = tx.execute(
            sa.text("SELECT mode FROM pg_locks WHERE relation = 'history'::regclass AND pid = pg_backend_pid()")
        )
        modes = set(held.scalars())

    assert modes == {"AccessShareLock"}


def test_numbers_are_drawn_one_by_one(postgresql: Store) -> None:
    """A connection that drew numbers ahead would write low ones late, without being among the writers."""
    with postgresql.reading() as tx:
        cached = tx.execute(
            sa.text(
                "SELECT seqcache FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence('history', 'seq')::regclass"
            )
        ).scalar_one()

    assert cached == 1
