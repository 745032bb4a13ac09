"""What retention lets go of follows the same rules on both databases, and finds its rows by indexes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.store import Store, pruning, schema
from controller.store.pruning import KINDS, PAGE
from controller.store.verify import verify
from controller.testing import ManualClock
from tests.factories import make_ids, make_new_event
from tests.story import Story, tell

#: Tables that may be large: none of them may be read from end to end.
LARGE = ("event", "held_cause", "run_cause", "run", "dead_letter", "episode", "notification", "history")


@pytest.fixture
def story(schema_url: str) -> Iterator[Story]:
    clock = ManualClock()
    store = Store.open(schema_url, base=Path("/"), clock=clock, ids=make_ids(clock))
    store.lead(owner="owner-1", host="tower", pid=4711)
    yield tell(store, clock)
    store.close()


def prune(store: Store, name: str, *, days: float = 30, most: int = 100) -> int:
    """Let go of one kind, whatever number of batches it takes."""
    kind, cutoff, after, count = KINDS[name], store.clock.now() - timedelta(days=days), "", 0
    while True:
        with store.reading() as tx:
            batch = pruning.look(tx, kind, after=after, cutoff=cutoff, most=most)
        if batch.last is None:
            return count
        after = batch.last
        if batch.ids:
            with store.transaction("test", fenced=False) as tx:
                count += pruning.let_go(tx, kind, batch.ids, cutoff=cutoff)


def rows(store: Store) -> dict[str, int]:
    with store.reading() as tx:
        return {
            name: int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
            for name, table in schema.metadata.tables.items()
        }


def test_only_the_kinds_of_retention_go(story: Story) -> None:
    """A year later, what an account is made of is all there, and what is undecided, held or awaited too."""
    before = rows(story.store)
    story.clock.advance(timedelta(days=365))
    gone = {name: prune(story.store, name) for name in KINDS}
    after = rows(story.store)
    with story.store.reading() as tx:
        kept = {
            each for each in (story.held, story.dead, story.pending, story.press) if tx.events.get(each) is not None
        }
        said = {name: each.row_count for name, each in pruning.gone(tx).items()}

    assert gone["events"] > 0
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"event", "pruned", "dead_letter", "notification", "watch", "episode"}
    assert kept == {story.held, story.dead, story.pending, story.press}
    assert said == {name: count for name, count in gone.items() if count}
    assert verify(story.store) == []


def test_nothing_goes_within_its_time(story: Story) -> None:
    """Up to the last moment all is there."""
    before = rows(story.store)

    assert {name: prune(story.store, name) for name in KINDS} == dict.fromkeys(KINDS, 0)
    assert rows(story.store) == before


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_batches_come_to_the_same(story: Story, most: int) -> None:
    """However few rows a batch takes, all go, each once; and counting beforehand gives their number."""
    with story.store.transaction("test") as tx:
        receipts = tx.events.add("api", [make_new_event(f"old-{number}") for number in range(40)])  # type: ignore[arg-type]
        tx.events.mark_processed([(each.event_id, 1000 + number) for number, each in enumerate(receipts)])
    story.clock.advance(timedelta(days=31))
    expected = pruning.would_go(story.store, KINDS["events"], cutoff=story.clock.now() - timedelta(days=30))

    assert prune(story.store, "events", most=most) == expected > 40
    assert prune(story.store, "events", most=most) == 0


def test_a_rule_is_looked_at_when_it_counts(story: Story) -> None:
    """A row that somebody began to need after it was looked at stays."""
    story.clock.advance(timedelta(days=31))
    kind, cutoff = KINDS["events"], story.clock.now() - timedelta(days=30)
    with story.store.reading() as tx:
        batch = pruning.look(tx, kind, after="", cutoff=cutoff, most=PAGE)
    needed = batch.ids[0]
    with story.store.transaction("test", fenced=False) as tx:
        tx.execute(
            sa.insert(schema.held_cause).values(
                model="m", policy="p", key="", event_id=needed, type="drift", origin="api", time=tx.now
            )
        )
        count = pruning.let_go(tx, kind, batch.ids, cutoff=cutoff)
        there = tx.events.get(needed)

    assert count == len(batch.ids) - 1
    assert there is not None


def test_bodies_are_emptied_and_said_to_be(story: Story) -> None:
    """The row, its identity and its extensions stay; that there were data is not forgotten."""
    story.clock.advance(timedelta(days=31))
    assert prune(story.store, "bodies") > 0
    with story.store.reading() as tx:
        event = tx.events.get(story.missed)
        again = tx.events.get(story.held)

    assert event is not None
    assert again is not None
    assert (event.data, event.pruned_at) == (None, story.clock.now())
    assert again.data is not None


@pytest.mark.parametrize("name", KINDS)
def test_DB27_every_batch_uses_indexes(story: Story, name: str) -> None:
    """Neither looking nor letting go reads a large table from end to end."""
    kind, cutoff = KINDS[name], story.clock.now()
    with story.store.transaction("test", fenced=False) as tx:
        statements = watch(tx)
        pruning.look(tx, kind, after="evt-0", cutoff=cutoff, most=100)
        pruning.let_go(tx, kind, ["x-1", "x-2"], cutoff=cutoff)
        plans = [plan(tx, statement) for statement in statements.taken()]

    assert plans
    for lines in plans:
        for table in LARGE:
            assert f"SCAN {table}" not in lines.splitlines()
            assert f"Seq Scan on {table}" not in lines


class Watched:
    """The statements that a connection runs, with their values."""

    def __init__(self) -> None:
        self._taken: list[tuple[str, Any]] = []
        self.listens = True

    def hear(self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        del connection, cursor, context, many
        if self.listens:
            self._taken.append((statement, parameters))

    def taken(self) -> list[tuple[str, Any]]:
        self.listens = False
        return self._taken


def watch(tx: Any) -> Watched:
    found = Watched()
    sa.event.listen(tx.connection, "before_cursor_execute", found.hear)
    return found


def plan(tx: Any, statement: tuple[str, Any]) -> str:
    """Return how the database goes about a statement; PostgreSQL with as few rows as here would read them all, unless told not to."""
    if tx.dialect == "postgresql":
        tx.connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        return "\n".join(tx.connection.exec_driver_sql(f"EXPLAIN {statement[0]}", statement[1]).scalars())
    found = tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1])
    return "\n".join(row[3] for row in found)
