"""People's questions have turns of their own: they starve neither the loops nor each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.clock import Ids
from controller.errors import StoreBroken, StoreBusy
from controller.store import Store
from controller.store import store as store_module
from controller.store.store import ASKING, Asking
from controller.testing import ManualClock, SeededRandom, wait_until


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    """An empty store with our schema."""
    clock = ManualClock()
    found = Store.open(database_url, base=tmp_path, clock=clock, ids=Ids(clock, SeededRandom(1)))
    found.upgrade()
    yield found
    found.close()


def ask(asking: Asking, inside: list[str], free: threading.Event) -> None:
    with asking.reading():
        inside.append("in")
        free.wait(20)


def test_G15_one_question_too_many_is_told_to_come_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits a moment for its turn; the loops read and write meanwhile as ever (DB-08)."""
    monkeypatch.setattr(store_module, "ASKING_SECONDS", 0.05)
    inside: list[str] = []
    free = threading.Event()
    people = [threading.Thread(target=ask, args=(store.asking(), inside, free)) for _ in range(ASKING)]
    for each in people:
        each.start()
    wait_until(lambda: len(inside) == ASKING, what="the questions")

    with pytest.raises(StoreBusy) as refused, store.asking().reading():
        pass
    with store.transaction("loop", fenced=False) as tx:
        tx.execute(sa.text("SELECT 1"))
    with store.reading() as tx:
        assert tx.execute(sa.text("SELECT 1")).scalar() == 1
    free.set()
    for each in people:
        each.join()

    assert (refused.value.code, refused.value.after_seconds) == ("api.crowded", 1)
    with store.asking().reading() as tx:
        assert tx.execute(sa.text("SELECT 1")).scalar() == 1


def test_G15_a_question_within_a_question_has_its_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others wait, an account that asks further does not wait for itself."""
    monkeypatch.setattr(store_module, "ASKING_SECONDS", 0.05)
    asking = store.asking()
    free, inside = threading.Event(), list[str]()
    others = [threading.Thread(target=ask, args=(asking, inside, free)) for _ in range(ASKING - 1)]
    for each in others:
        each.start()
    wait_until(lambda: len(inside) == ASKING - 1, what="the others")

    with asking.reading(), asking.reading() as tx:
        answer = tx.execute(sa.text("SELECT 1")).scalar()
    free.set()
    for each in others:
        each.join()

    assert answer == 1


def test_G01_nothing_is_written_to_a_database_that_is_broken(store: Store) -> None:
    """The first error that says so ends all writing, and is told once (DB-12)."""
    told: list[str] = []
    store.when_broken = told.append

    def write(error: Exception) -> None:
        with store.transaction("write", fenced=False):
            raise error

    class Damage(Exception):
        sqlite_errorname = "SQLITE_CORRUPT"

    damage = sa.exc.DatabaseError("", {}, Damage("malformed"))
    for _ in range(2):
        with pytest.raises(StoreBroken, match="malformed"):
            write(damage)

    assert len(told) == 1
    with pytest.raises(StoreBroken), store.transaction("again", fenced=False):
        pass
