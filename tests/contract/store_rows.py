"""Rows that the tests of the store write, past its code if need be, and the history that they find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from controller.core.model import Run
from controller.store import Store, schema
from tests.factories import make_run

Count = Callable[[sa.Table], int]


def add_run(store: Store, number: int = 1, **fields: Any) -> Run:
    run = make_run(number, **fields)
    with store.transaction("test") as tx:
        tx.runs.add(run)
    return run


def finish(store: Store, run: Run, state: str = "FAILED", cause: str = "invalid_parameters") -> None:
    with store.transaction("test") as tx:
        tx.runs.move(run, state, cause=cause)


def history(store: Store, entity: str) -> list[tuple[str, str, str, str, str, int]]:
    table = schema.history
    with store.reading() as tx:
        rows = tx.execute(sa.select(table).where(table.c.entity == entity).order_by(table.c.seq))
        return [(row.origin, row.target, row.cause, row.reason, row.actor, row.term) for row in rows]


def raw_insert(store: Store, table: sa.Table, **values: Any) -> None:
    """Write a row past all our code, with something in every column that needs it."""
    row: dict[str, Any] = {}
    for column in table.columns:
        if not column.nullable and column.autoincrement is not True:
            python = str if isinstance(column.type, sa.Text) else int
            row[column.name] = "x" if python is str else 1
        if isinstance(column.type, sa.Boolean):
            row[column.name] = True
    row |= values
    with store.engine.begin() as connection:
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO {table.name} ({names}) VALUES ({places})"), row)
