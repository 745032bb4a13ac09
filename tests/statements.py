"""Hears every statement that a store executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from controller.store import Store

#: Called with connection, cursor, statement, parameters, context, and whether there are many.
Hear = Callable[..., Any]


def listen(store: Store, hear: Hear) -> None:
    """Call `hear` before each statement of a store."""
    for engine in _engines(store):
        sa.event.listen(engine, "before_cursor_execute", hear)


def deafen(store: Store, hear: Hear) -> None:
    """Call it no more."""
    for engine in _engines(store):
        sa.event.remove(engine, "before_cursor_execute", hear)


def _engines(store: Store) -> tuple[sa.Engine, ...]:
    """On SQLite those who read have an engine of their own; on PostgreSQL theirs passes on what the other hears."""
    return (store.engine, store._reader) if store.dialect == "sqlite" else (store.engine,)
