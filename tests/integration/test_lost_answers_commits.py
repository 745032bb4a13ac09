"""Commits whose request or answer is lost on the way to PostgreSQL (DB-04, DB-05): the end is the same.

Every name at once here, each for the first time it is committed; each alone in `make campaign` (`tests/campaign/lost_commits.py`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.acceptance.commits import Play, play
from tests.postgres import PostgresServer
from tests.proxy import Loss, Proxy

pytestmark = [pytest.mark.crash, pytest.mark.postgresql]
STORIES = ("nominal", "trouble")


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE noted (word text)")
    yield made
    postgres_server.drop(made)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    made = Proxy("127.0.0.1", postgres_server.port)
    yield made
    made.close()


@pytest.mark.parametrize("loss, is_there", [("request", False), ("answer", True)])
def test_a_lost_commit_looks_the_same_whether_it_was_done_or_not(
    proxy: Proxy, url: str, loss: Loss, is_there: bool
) -> None:
    """The client gets an error without a state; only looking says whether the row is there."""
    through = url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")
    connection = psycopg.connect(through)
    connection.execute("INSERT INTO noted VALUES ('here')")
    with socket.socket(fileno=os.dup(connection.fileno())) as link:
        port = link.getsockname()[1]
    assert proxy.lose(port, b"COMMIT", loss)

    with pytest.raises(psycopg.OperationalError) as caught:
        connection.commit()
    connection.close()

    assert caught.value.sqlstate is None
    assert proxy.losses == [loss]
    with psycopg.connect(url) as direct:
        found = direct.execute("SELECT word FROM noted").fetchall()
    assert found == ([("here",)] if is_there else [])


@pytest.mark.timeout(600)
def test_G01_G03_lost_commits_change_nothing(postgres_server: PostgresServer) -> None:
    """The first commit of every transaction is lost, its request or its answer: same runs, verdicts, champion, messages, one start each."""

    def run(story: str) -> list[Play]:
        undisturbed = play(lambda: postgres_server, story, wanted=())
        expected = undisturbed.facts
        losses: tuple[Loss, ...] = ("request", "answer")
        return [
            undisturbed,
            *(play(lambda: postgres_server, story, loss=loss, wanted=None, expected=expected) for loss in losses),
        ]

    with ThreadPoolExecutor(len(STORIES)) as pool:
        plays = [each for found in pool.map(run, STORIES) for each in found]

    assert [(each.story, each.loss, each.problems) for each in plays if each.problems] == []
    names = {name for each in plays if each.lost for name in each.seen}
    assert len(names) > 45, "fewer transactions than there were: the listeners of the losing daemon hear nothing"
    for loss in ("request", "answer"):
        lost = {name for each in plays if each.loss == loss for name in each.lost}
        assert {"dispatch", "launched", "observe", "judge", "crown", "decide", "inbox", "act_retrain"} <= lost
