"""Copies of a SQLite database that are whole, made while others write.

SQLite's own backup reads one state of the database, in the write-ahead log without keeping anybody from writing.
A copy takes its name only once it is on the disk and was read back; what stands under that name before stays as it is.
PostgreSQL has `pg_dump` for this; `command_for` says how it is called here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.errors import Conflict, StoreBroken, StoreError
from controller.store import dialect

_RESTORE = "the database itself is: stop the daemon, and restore an older backup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A copy that was made and read back."""

    path: Path
    bytes: int
    #: Revision of its schema; None for an empty database.
    schema: str | None
    #: Events in it.
    events: int


def back_up(url: sa.URL, target: Path) -> Copy:
    """Copy the SQLite database at `url`, read the copy back, and give it its name.

    Raises `Conflict` when something has that name already, `StoreError` when there is no room or it cannot be written, and `StoreBroken`
    when the copy, hence the database, is damaged.
    """
    if os.path.lexists(target):
        raise Conflict(f"{str(target)!r} is there already", hint="name a new file; a backup never replaces anything")
    with _made(url, target) as (partial, copy):
        try:
            os.link(partial, target)  # fails, unlike a rename, when somebody was faster
        except FileExistsError as error:
            raise Conflict(f"{str(target)!r} is there already", hint="name a new file") from error
        _sync_folder(target.parent)
    return copy


def before_upgrade(url: sa.URL, schema: str) -> Path:
    """Copy a database beside itself before its schema changes, over an older copy of the same schema, and return its place."""
    target = Path(f"{url.database}.schema-{schema}.backup")
    with _made(url, target) as (partial, _):
        partial.replace(target)
        _sync_folder(target.parent)
    return target


def command_for(url: sa.URL, target: Path) -> str:
    """Return the command that makes a backup of a PostgreSQL database, without its password."""
    shown = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={target}", shown.render_as_string()])


@contextlib.contextmanager
def _made(url: sa.URL, target: Path) -> Iterator[tuple[Path, Copy]]:
    """Make a copy under a name of its own, which is gone in the end, and yield it once it was synced and read back."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(str(url.database), partial)
        yield partial, _read_back(partial, target)
    except OSError as error:
        raise StoreError(
            f"the backup {str(target)!r} cannot be written: {error.strerror or error}",
            hint="name a file in a folder that exists, can be written, and has room for a copy of the whole database",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(source: str, target: Path) -> None:
    module = dialect.sqlite_module()
    try:
        with (
            contextlib.closing(_open(source)) as reading,
            contextlib.closing(module.connect(target, isolation_level=None)) as writing,
        ):
            # In one step: with several, every commit of another process begins the copy anew.
            reading.backup(writing, pages=-1)
            # A file of its own, without a log beside it.
            writing.execute("PRAGMA journal_mode=DELETE")
    except module.OperationalError as error:
        raise StoreError(
            f"the database {source!r} cannot be copied to {str(target)!r}: {error}",
            hint="see whether there is room for a copy of the whole database",
        ) from error
    except module.DatabaseError as error:
        raise StoreBroken(f"the database {source!r} is damaged: {error}", hint=_RESTORE) from error
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _read_back(partial: Path, target: Path) -> Copy:
    module = dialect.sqlite_module()
    try:
        with contextlib.closing(_open(str(partial))) as copy:
            damage = [row[0] for row in copy.execute("PRAGMA integrity_check(3)")]
            if damage != ["ok"]:
                raise StoreBroken(f"the copy is damaged: {damage[0]}", hint=_RESTORE)
            return Copy(
                path=target,
                bytes=partial.stat().st_size,
                schema=_scalar(copy, "alembic_version", "SELECT version_num FROM alembic_version"),
                events=int(_scalar(copy, "event", "SELECT count(*) FROM event") or 0),
            )
    except module.DatabaseError as error:
        raise StoreBroken(f"the copy cannot be read: {error}", hint=_RESTORE) from error


def _scalar(connection: Any, table: str, statement: str) -> Any:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    row = connection.execute(statement).fetchone() if known else None
    return None if row is None else row[0]


def _open(path: str) -> Any:
    """Open a file to read, as others write to it."""
    connection = dialect.sqlite_module().connect(
        f"file:{dialect.escaped(path)}?mode=ro", uri=True, isolation_level=None, timeout=5
    )
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
