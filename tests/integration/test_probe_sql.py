"""The `sql` probe against SQLite and PostgreSQL: values, new rows, and what it must not do."""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from controller.sources.probe.cursor import LEDGER_KEY
from controller.sources.probe.sql import SqlProbe
from tests.postgres import PostgresServer
from tests.probes import (
    Bench,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Builds probes."""
    return Bench(tmp_path)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database file that somebody writes to."""
    connection = (
        sqlite3.connect(tmp_path / "predictions.db", autocommit=True)
        if sys.version_info >= (3, 12)
        else (sqlite3.connect(tmp_path / "predictions.db", isolation_level=None))
    )
    connection.execute("CREATE TABLE auc (model TEXT, value REAL, rows INTEGER)")
    connection.execute("INSERT INTO auc VALUES ('churn', 0.75, 10), ('fraud', 0.5, 20)")
    connection.execute("CREATE TABLE upload (id INTEGER PRIMARY KEY, path TEXT, at TEXT)")
    yield connection
    connection.close()


SQLITE = "sqlite:///predictions.db"
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n"


@pytest.mark.usefixtures("sqlite")
def test_sql_values(bench: Bench) -> None:
    """One value; or one for each of several things, told apart by the other columns."""
    (data,) = bench.look(bench.build(SqlProbe, url=SQLITE, query="SELECT max(value) FROM auc;"))
    assert (data["value"], data["query"]) == (0.75, "SELECT max(value) FROM auc;")

    query = "SELECT model, value, rows FROM auc"
    events = bench.look(bench.build(SqlProbe, url=SQLITE, query=query, key=["model"]))

    assert [(data["value"], data["labels"]) for data in events] == [
        (0.75, {"model": "churn", "rows": 10}),
        (0.5, {"model": "fraud", "rows": 20}),
    ]
    assert [event.subject for event in bench.inbox.events] == [None, "churn", "fraud"]


def test_sql_change_of_one_thing(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """With a key, a column that always moves does not make another thing of it."""
    query = "SELECT model, value, rows FROM auc"
    probe = bench.build(SqlProbe, url=SQLITE, query=query, key=["model"], emit="change", step=0.1)
    assert bench.look(probe) == []
    sqlite.execute("UPDATE auc SET rows = rows + 1, value = value - 0.2 WHERE model = 'churn'")
    sqlite.execute("UPDATE auc SET rows = rows + 1 WHERE model = 'fraud'")

    (data,) = bench.look(probe)

    assert data["labels"] == {"model": "churn", "rows": 11}
    assert data["value"] == pytest.approx(0.55)


def test_sql_count(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """How many rows there are, and by how many they became more."""
    probe = bench.build(SqlProbe, url=SQLITE, query="SELECT * FROM upload -- all", take="count", emit="change", step=10)
    assert bench.look(probe) == []
    sqlite.executemany("INSERT INTO upload (path) VALUES (?)", [["x"]] * 9)
    assert bench.look(probe) == []
    sqlite.execute("INSERT INTO upload (path) VALUES ('y')")

    (data,) = bench.look(probe)

    assert (data["previous"], data["value"]) == (0, 10)


def test_sql_new_rows(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """Every row after the cursor is one event; many are read by and by; nothing twice, and nothing left out."""
    query = "SELECT id, path, 'churn' AS model FROM upload WHERE id > :cursor ORDER BY id"
    told: dict[str, Any] = {"url": SQLITE, "query": query, "emit": "rows", "cursor_column": "id", "cursor_start": 0}
    probe = bench.build(SqlProbe, **told, rows=10)
    assert bench.look(probe) == []
    assert bench.inbox.complaints == {}
    sqlite.executemany("INSERT INTO upload (path) VALUES (?)", [[f"{number}.csv"] for number in range(25)])

    found = [bench.look(probe) for _ in range(4)]

    assert [len(events) for events in found] == [10, 10, 5, 0]
    assert found[0][0]["row"] == {"id": 1, "path": "0.csv", "model": "churn"}
    assert found[2][-1]["cursor"] == 25
    first = bench.inbox.events[0]
    assert (first.type, first.subject) == ("probe.row", "churn")
    # A query that is written otherwise goes on where it was.
    told["query"] = f"{query} /* the same */"
    assert bench.look(bench.build(SqlProbe, **told)) == []
    # A lost ledger makes no second event.
    identities = {event.source_id for event in bench.inbox.events}
    bench.inbox.ledger.clear()
    bench.look(bench.build(SqlProbe, **told | {"query": query}))
    assert {event.source_id for event in bench.inbox.events} == identities


def test_sql_rows_at_the_same_instant(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """With `>=`, a row that comes late at the same instant is seen, and those known are not emitted again."""
    query = "SELECT at, path FROM upload WHERE at >= :cursor ORDER BY at"
    told = {"url": SQLITE, "query": query, "emit": "rows", "cursor_column": "at", "cursor_start": "2026-01-01"}
    probe = bench.build(SqlProbe, **told, rows=2)
    sqlite.execute("INSERT INTO upload (path, at) VALUES ('a', '2026-01-02'), ('b', '2026-01-03')")
    assert [data["row"]["path"] for data in bench.look(probe)] == ["a", "b"]
    sqlite.execute("INSERT INTO upload (path, at) VALUES ('c', '2026-01-03')")
    assert [data["row"]["path"] for data in bench.look(probe)] == ["c"]
    assert bench.look(probe) == []

    sqlite.execute("INSERT INTO upload (path, at) VALUES ('d', '2026-01-03')")

    assert "more than 2 rows have the position '2026-01-03'" in bench.complaint(probe)


def test_sql_rows_that_come_late(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """A query that looks back finds a row that was committed late; the others of the overlap are not emitted again."""
    query = "SELECT id, path FROM upload WHERE id > :cursor - 3 ORDER BY id"
    told = {"url": SQLITE, "query": query, "emit": "rows", "cursor_column": "id", "cursor_start": 0}
    probe = bench.build(SqlProbe, **told, rows=4)
    sqlite.execute("INSERT INTO upload (id) VALUES (1), (2), (4), (5)")

    def found() -> list[int]:
        return [data["row"]["id"] for data in bench.look(probe)]

    assert found() == [1, 2, 4, 5]
    assert set(found()) <= {4, 5}  # may come again once, with the same identity
    assert found() == []
    sqlite.execute("INSERT INTO upload (id) VALUES (3)")
    assert found() == [3]
    sqlite.execute("INSERT INTO upload (id) VALUES (6), (7)")
    assert found() == [6]
    assert found() == [7]
    assert found() == []
    assert bench.inbox.ledger[LEDGER_KEY]["cursor"]["watermark"] == 7
    assert bench.inbox.complaints == {}
    narrow = bench.build(SqlProbe, **told, rows=2)
    assert "hide what comes after" in bench.complaint(narrow)


def test_sql_rows_out_of_order(bench: Bench, sqlite: sqlite3.Connection) -> None:
    """A cut result without an order would leave rows out: it is refused."""
    sqlite.executemany("INSERT INTO upload (path) VALUES (?)", [["x"]] * 5)
    query = "SELECT id FROM upload WHERE id > :cursor ORDER BY id DESC"
    told = {"url": SQLITE, "query": query, "emit": "rows", "cursor_column": "id", "cursor_start": 0}

    assert "ORDER BY" in bench.complaint(bench.build(SqlProbe, **told, rows=3))
    assert len(bench.look(bench.build(SqlProbe, **told, rows=5))) == 5


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    "query, complaint",
    [
        ("SELECT model, value FROM auc UNION ALL SELECT model, value FROM auc", "2 values have the same key"),
        ("SELECT * FROM auc LEFT JOIN auc AS other ON true", "two columns"),
        ("SELECT model, rows FROM auc", "which of the columns model, rows"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT 1 AS value, char(10) AS model", "cannot be a subject"),
        ("SELECT 9e999", "is inf"),
        ("WITH x AS (SELECT 1) DELETE FROM auc RETURNING value", "readonly database"),
        (LONG, "took longer than 1s, and was ended"),
    ],
)
def test_sql_failed_looks(bench: Bench, query: str, complaint: str) -> None:
    """What cannot be answered, what would write, and what takes too long."""
    began = bench.inbox.clock.monotonic()

    assert complaint in bench.complaint(bench.build(SqlProbe, url=SQLITE, query=query, timeout="1s"))
    assert bench.inbox.clock.monotonic() - began < 5


@pytest.mark.usefixtures("sqlite")
def test_sql_nothing_there(bench: Bench) -> None:
    """NULL and no rows are no value; a missing file is not made."""
    assert bench.look(bench.build(SqlProbe, url=SQLITE, query="SELECT NULL")) == []
    assert bench.inbox.complaints["no data"] == "no data: the value is NULL"
    assert bench.look(bench.build(SqlProbe, url=SQLITE, query="SELECT value FROM auc WHERE false")) == []
    assert bench.inbox.complaints["no data"] == "no data: the answer is empty"
    assert "more than 1 rows" in bench.complaint(
        bench.build(SqlProbe, url=SQLITE, query="SELECT model, value FROM auc", rows=1)
    )
    assert "unable to open" in bench.complaint(bench.build(SqlProbe, url="sqlite:///no.db", query="SELECT 1"))
    assert not (bench.base / "no.db").exists()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with something in it."""
    url = postgres_server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE upload (id uuid DEFAULT gen_random_uuid(), at timestamptz, size numeric)")
        connection.execute("CREATE SEQUENCE counter")
    yield url
    postgres_server.drop(url)


@pytest.mark.postgresql
def test_sql_types_of_postgresql(bench: Bench, postgres_url: str) -> None:
    """Everything that a column may hold becomes JSON."""
    query = """
        SELECT 7 AS value, 0.25::numeric AS n, 12::numeric AS i, 'a'::text AS "t", NULL AS nil, true AS b,
          '2026-03-01 12:00+02'::timestamptz AS at, '2026-03-01 12:00'::timestamp AS "local", '2026-03-01'::date AS day,
          interval '90 seconds' AS took, '\\x00ff'::bytea AS raw, '{"a": [1, null]}'::jsonb AS doc, ARRAY[1,2] AS list,
          '00000000-0000-0000-0000-000000000001'::uuid AS id, '10.0.0.1'::inet AS ip, '12:30'::time AS clock
    """
    (data,) = bench.look(bench.build(SqlProbe, url=postgres_url, query=query))

    assert data["labels"] == {
        "n": 0.25,
        "i": 12,
        "t": "a",
        "nil": None,
        "b": True,
        "at": "2026-03-01T10:00:00Z",
        "local": "2026-03-01T12:00:00",
        "day": "2026-03-01",
        "took": 90.0,
        "raw": "AP8=",
        "doc": {"a": [1, None]},
        "list": [1, 2],
        "id": "00000000-0000-0000-0000-000000000001",
        "ip": "10.0.0.1",
        "clock": "12:30:00",
    }


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "condition", ["at > :cursor", "at >= :cursor", "at >= CAST(:cursor AS timestamptz) - interval '1 microsecond'"]
)
def test_sql_new_rows_of_postgresql(bench: Bench, postgres_url: str, condition: str) -> None:
    """A watermark of time zones and microseconds survives the ledger."""
    query = f"SELECT at, id, size FROM upload WHERE {condition} ORDER BY at"
    told = {"url": postgres_url, "query": query, "emit": "rows", "cursor_column": "at", "cursor_start": "2026-01-01"}
    probe = bench.build(SqlProbe, **told, rows=3)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for _ in range(2):
            connection.execute("INSERT INTO upload (at, size) SELECT clock_timestamp(), n FROM generate_series(1, 4) n")
            found = [bench.look(probe), bench.look(probe), bench.look(probe)]

            sizes = [[data["row"]["size"] for data in events] for events in found]
            came = [size for part in sizes for size in part]
            assert set(came) == {1, 2, 3, 4}
            assert len(came) == 4 or condition != "at > :cursor"
            assert sizes[2] == []


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "query, complaint",
    [
        ("SELECT nextval('counter')", "read-only transaction"),
        ("WITH x AS (DELETE FROM upload RETURNING 1) SELECT count(*) FROM x", "data-modifying"),
        ("SELECT 1 INTO copied", "read-only|INTO"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "before any query|read-write"),
        ("SELECT 'NaN'::float8", "is nan"),
        ("SELECT 'Infinity'::numeric", "is Infinity"),
        ("SELECT pg_sleep(30)", "took longer than 1s, and was ended"),
        ("SELECT count(*) FROM generate_series(1, 100000000000)", "took longer than 1s, and was ended"),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
    ],
)
def test_sql_failed_looks_of_postgresql(bench: Bench, postgres_url: str, query: str, complaint: str) -> None:
    """What would write is refused by the server, and what takes too long is ended by it."""
    began = bench.inbox.clock.monotonic()

    assert re.search(complaint, bench.complaint(bench.build(SqlProbe, url=postgres_url, query=query, timeout="1s")))
    assert bench.inbox.clock.monotonic() - began < 5


@pytest.mark.postgresql
def test_sql_large_results_stay_with_the_server(bench: Bench, postgres_url: str) -> None:
    """A careless query is refused at once: only as many rows as are taken come over."""
    query = "SELECT n, repeat('x', 1000) AS value FROM generate_series(1, 3000000) n"
    began = bench.inbox.clock.monotonic()

    assert "more than 100 rows" in bench.complaint(bench.build(SqlProbe, url=postgres_url, query=query))
    assert bench.inbox.clock.monotonic() - began < 10


@pytest.mark.postgresql
def test_sql_passwords_by_reference(bench: Bench, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole URL or its password can be a reference; neither gets anywhere."""
    monkeypatch.setenv("PROBE_URL", postgres_url)
    monkeypatch.setenv("PROBE_PASSWORD", "geheim")
    (data,) = bench.look(bench.build(SqlProbe, url="env:PROBE_URL", query="SELECT 1"))
    assert data["value"] == 1
    monkeypatch.setenv("PROBE_URL", "geheim")
    assert "none that SQLAlchemy reads" in bench.complaint(bench.build(SqlProbe, url="env:PROBE_URL", query="SELECT 1"))
    probe = bench.build(SqlProbe, url=postgres_url, password="env:PROBE_PASSWORD", query="SELECT 2")
    (data,) = bench.look(probe)

    assert data["value"] == 2
    assert "geheim" not in repr([data, probe.options, probe.report(), bench.inbox.ledger])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://ann@127.0.0.1:{taken.getsockname()[1]}/x"
        found = bench.complaint(bench.build(SqlProbe, url=url, password="env:PROBE_PASSWORD", query="SELECT 1"))
    assert "cannot answer" in found
    assert "geheim" not in found


ROWS = {"emit": "rows", "cursor_column": "id", "cursor_start": 0, "query": "SELECT id FROM t WHERE id > :cursor"}


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"query": "DELETE FROM t"}, "does not begin with SELECT"),
        ({"query": "SELECT 1; DELETE FROM t"}, "more than one statement"),
        ({"query": "SELECT 1; -- end"}, "more than one statement"),
        ({"query": "SELECT :what"}, ":what"),
        ({"query": "SELECT :cursor"}, "with `emit: rows`"),
        ({**ROWS, "query": "SELECT 1"}, "with `emit: rows`"),
        ({**ROWS, "cursor_start": None}, "go together"),
        ({**ROWS, "key": ["id"]}, "say nothing"),
        ({**ROWS, "empty": "ignore"}, "say nothing"),
        ({**ROWS, "step": 1}, "`step` says"),
        ({"take": "count", "value": "x"}, "say nothing"),
        ({"url": "postgresql://ann:geheim@host/x"}, "password stands in the file"),
        ({"url": "postgresql://host/x?password=geheim"}, "password stands in the file"),
        ({"url": "postgresql://host/x", "password": "env:A"}, "needs a user"),
        ({"url": "geheim"}, "none that SQLAlchemy reads"),
        ({"url": "sqlite://"}, "names no file"),
    ],
)
def test_sql_options_that_do_not_fit(options: dict[str, Any], complaint: str) -> None:
    """Each refusal says what is wrong."""
    with pytest.raises(ValidationError, match=complaint):
        SqlProbe.Options.model_validate({"every": "1m", "url": SQLITE, "query": "SELECT 1", **options})


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ';' -- no; end",
        "WITH x AS (SELECT 1) SELECT * FROM x;",
        "(SELECT $$;$$)",
        "-- why\nSELECT 1",
        "/* ; */ TABLE t",
        "values (1)",
    ],
)
def test_sql_semicolons_that_end_nothing(query: str) -> None:
    """A semicolon in a string or a comment is none."""
    assert SqlProbe.Options.model_validate({"every": "1m", "url": SQLITE, "query": query}).query == query
