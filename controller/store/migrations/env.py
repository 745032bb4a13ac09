"""Alembic's entry: runs the migrations on the connection that `store/migrate.py` hands over."""

from __future__ import annotations

from typing import Any

from alembic import context

from controller.crash import crash_point
from controller.store.schema import metadata


def _applied(*_: Any, **about: Any) -> None:
    """A migration ran, and so did its note of it; whether both are kept is decided by the commit of them all."""
    crash_point(f"migrate.{about['step'].up_revision_id}.before_commit")


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
    on_version_apply=_applied,
)
with context.begin_transaction():
    context.run_migrations()
