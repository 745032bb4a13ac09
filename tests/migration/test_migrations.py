"""The schema that the migrations make is the one that the code defines, on both databases."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.errors import SchemaMismatch
from controller.store import Store, migrate, schema
from controller.testing import ManualClock
from tests.factories import make_ids

VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"
#: Another process that brings a database up to date, and says whether there was anything to do.
UPGRADE = """
import sys
from pathlib import Path
from controller.clock import Ids, SystemClock, system_random
from controller.store import Store
clock = SystemClock()
store = Store.open(sys.argv[1], base=Path("/"), clock=clock, ids=Ids(clock, system_random()))
sys.stdin.readline()
print(store.upgrade())
store.close()
"""
#: What PostgreSQL itself says of a schema.
POSTGRESQL = {
    "columns": """
        SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'",
}


def open_store(url: str) -> Store:
    clock = ManualClock()
    return Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))


def described(store: Store) -> dict[str, Any]:
    """Return everything that the database says of its tables, but for Alembic's own."""
    with store.engine.begin() as connection:
        if store.dialect == "postgresql":
            found = {
                what: sorted(map(str, connection.execute(sa.text(query)).all())) for what, query in POSTGRESQL.items()
            }
            return {what: [line for line in lines if "alembic_version" not in line] for what, lines in found.items()}
        return {table: sqlite_table(connection, table) for table in tables_of(connection)}


def tables_of(connection: sa.Connection) -> list[str]:
    return sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"})


def sqlite_table(connection: sa.Connection, table: str) -> dict[str, Any]:
    inspector = sa.inspect(connection)
    indexes = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :t"), {"t": table}
    )
    return {
        "columns": connection.exec_driver_sql(f"PRAGMA table_info({table})").all(),
        "indexes": sorted((name, sql or "") for name, sql in indexes),
        "lists": sorted(row[1:] for row in connection.exec_driver_sql(f"PRAGMA index_list({table})")),
        "unique": sorted(map(str, inspector.get_unique_constraints(table))),
        "check": sorted(str(check["name"]) + str(check["sqltext"]) for check in inspector.get_check_constraints(table)),
        "pk": str(inspector.get_pk_constraint(table)),
    }  # fmt: skip


def drop_all(store: Store) -> None:
    with store.engine.begin() as connection:
        schema.metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")


def test_migrating_from_nothing_makes_the_schema_as_defined(database_url: str) -> None:
    """Columns, types, defaults, keys, indexes with their predicates, unique and CHECK constraints are the same."""
    store = open_store(database_url)
    store.upgrade()
    migrated = described(store)
    drop_all(store)
    with store.engine.begin() as connection:
        assert tables_of(connection) == []
        schema.metadata.create_all(connection)
    defined = described(store)
    store.close()

    assert migrated == defined
    text = str(migrated)
    for part in ("PENDING", "CHAMPION", "finished_at IS NULL", "ck_run_finished_when_final", "uq_run_cause_run_id"):
        assert part in text


def test_upgrading_again_does_nothing(database_url: str) -> None:
    """A database that is up to date is left alone, and passes the check."""
    store = open_store(database_url)
    done = [store.upgrade(), store.upgrade()]
    store.check_schema()
    before = described(store)
    store.close()

    assert done == [True, False]
    assert set(schema.metadata.tables) <= set(str(before).replace("'", " ").split())


def test_a_schema_of_another_program_is_refused(database_url: str) -> None:
    """A database without a schema asks for a start of the daemon; one of a newer program names both versions."""
    store = open_store(database_url)
    with pytest.raises(SchemaMismatch, match=f"schema none, this program needs {migrate.HEAD}"):
        store.check_schema()
    store.upgrade()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for refused in (store.upgrade, store.check_schema):
        with pytest.raises(SchemaMismatch, match=f"schema 9999, this program knows up to {migrate.HEAD}") as error:
            refused()
        assert "newer version" in error.value.hint
    store.close()


def test_head_is_the_newest_migration() -> None:
    """The revision that the program asks for is the last file's, and the files follow each other without a gap."""
    files = sorted(VERSIONS.glob("[0-9]*.py"))
    revisions = [runpy.run_path(str(path)) for path in files]

    assert revisions[-1]["revision"] == migrate.HEAD
    assert [path.name.split("_")[0] for path in files] == [found["revision"] for found in revisions]
    assert [found["down_revision"] for found in revisions] == [None, *(found["revision"] for found in revisions[:-1])]


def test_two_processes_that_upgrade_at_once_do_it_once(database_url: str) -> None:
    """One migrates, the other waits and finds it done."""
    command = [sys.executable, "-c", UPGRADE, database_url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=50) for process in processes]

    assert sorted(out.strip() for out, _ in answers) == ["False", "True"], answers
    store = open_store(database_url)
    store.check_schema()
    store.close()
