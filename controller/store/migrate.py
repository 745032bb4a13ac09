"""Brings a database to the schema of this program, by Alembic; refuses one that is newer.

Alembic is imported only when there is something to do: a daemon that starts on a current database does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.errors import SchemaMismatch

#: The newest revision in `migrations/versions`; a test compares.
HEAD = "0004"

_FOLDER = Path(__file__).parent / "migrations"


def _nothing(revision: str) -> None:
    del revision


def current(connection: sa.Connection) -> str | None:
    """Return the schema revision of a database; None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: sa.Connection, *, before: Callable[[str], object] = _nothing) -> bool:
    """Bring the schema up to date inside the connection's transaction; return whether there was anything to do.

    `before` is called with the old revision before anything of an older database is changed.
    Raises `SchemaMismatch` for a schema that this program does not know.
    """
    found = current(connection)
    if found == HEAD:
        return False
    if connection.dialect.name == "postgresql":
        # Several daemons may start at once: the first migrates, the others wait and find it done.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7241943)"))
        found = current(connection)
        if found == HEAD:
            return False
    _refuse_unknown(found)
    if found is not None:
        before(found)
    from alembic import command

    command.upgrade(_alembic_config(connection), "head")
    return True


def check(connection: sa.Connection) -> None:
    """Raise `SchemaMismatch` unless the schema is the one of this program."""
    found = current(connection)
    if found != HEAD:
        _refuse_unknown(found)
        raise SchemaMismatch(
            f"the database has schema {found or 'none'}, this program needs {HEAD}",
            hint="`retrainctl db upgrade` brings the schema up to date, as the daemon does when it starts",
        )


def _refuse_unknown(found: str | None) -> None:
    known = {path.name.split("_", 1)[0] for path in (_FOLDER / "versions").glob("[0-9]*.py")}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"the database has schema {found}, this program knows up to {HEAD}",
            hint="a newer version of the controller wrote it; run that version, or restore a backup",
        )


def _alembic_config(connection: sa.Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
