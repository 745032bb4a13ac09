"""Databases of older versions, filled by their own code (`tests/data/schema/record.py`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command

from controller.store import Store, migrate
from controller.testing import ManualClock
from tests.factories import make_ids

RECORDED = Path(__file__).parent.parent / "data" / "schema"
#: The schemas that a database may come from.
VERSIONS = tuple(sorted(path.stem for path in RECORDED.glob("0*.sql")))
_INSERT = re.compile(r"INSERT INTO (?P<table>[a-z_]+) \((?P<columns>[^)]*)\) VALUES")
_BYTES = re.compile(r"X'([0-9a-f]*)'")

Rows = dict[str, list[dict[str, Any]]]


def open_old(url: str) -> Store:
    """Return the store at `url`."""
    clock = ManualClock()
    return Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))


def fill(url: str, version: str) -> Rows:
    """Make an empty database one of an older version, with its rows, and return them."""
    store = open_old(url)
    with store.engine.begin() as connection:
        command.upgrade(migrate._alembic_config(connection), version)
        cursor = connection.connection.cursor()
        for line in (RECORDED / f"{version}.sql").read_text(encoding="utf-8").splitlines():
            if line.startswith("INSERT"):
                cursor.execute(line if store.dialect == "sqlite" else _BYTES.sub(r"'\\x\1'", line))
        if store.dialect == "postgresql":
            cursor.execute("SELECT setval(pg_get_serial_sequence('history', 'seq'), (SELECT max(seq) FROM history))")
        cursor.close()
    found = rows(store, version)
    store.close()
    return found


def columns_of(version: str) -> dict[str, list[str]]:
    """Return the tables that have rows in an older version, with their columns."""
    text = (RECORDED / f"{version}.sql").read_text(encoding="utf-8")
    return {found["table"]: re.findall(r'"(\w+)"', found["columns"]) for found in _INSERT.finditer(text)}


def rows(store: Store, version: str) -> Rows:
    """Return the rows of those tables as they are now, in those columns, in a fixed order."""
    found: Rows = {}
    with store.engine.begin() as connection:
        for table, columns in columns_of(version).items():
            names = ", ".join(f'"{name}"' for name in columns)
            result = connection.execute(sa.text(f"SELECT {names} FROM {table}")).mappings()
            found[table] = sorted(({k: _plain(v) for k, v in row.items()} for row in result), key=str)
    return found


def _plain(value: Any) -> Any:
    """Return a value as both databases give it."""
    if isinstance(value, memoryview | bytes):
        return bytes(value)
    return int(value) if isinstance(value, bool) else value
