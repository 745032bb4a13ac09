"""`retrainctl db`: what is done with a database as a whole. All of it works beside a daemon and without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session
from controller.cli.text import ago, counted, one_line, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from controller.clock import Clock
    from controller.config import Config
    from controller.engine.replay import Replayed
    from controller.ports import Log
    from controller.store.inventory import Inventory
    from controller.store.store import Store
    from controller.store.verify import Finding

db_app = typer.Typer(help="The database as a whole.", no_args_is_help=True)

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]


@db_app.callback()
def _db() -> None:
    """The database as a whole."""


@db_app.command("status")
def db_status(ctx: typer.Context, output: _Output = None) -> None:
    """Show where the database is, its schema, what is in it, and what the next prune would let go of."""
    from controller.engine.pruning import would_go
    from controller.errors import ConfigError
    from controller.store.inventory import take_inventory

    session: Session = ctx.obj.with_output(output)
    with contextlib.closing(session.installation.store(any_schema=True)) as store:
        found = take_inventory(store)
        going: dict[str, int] | None = None
        if found.schema == found.needs:
            with contextlib.suppress(ConfigError):  # a broken one keeps nobody from looking at the database
                going = would_go(_household(session, store), session.now())
    session.print(_status_as_json(found, going), lambda: _status_lines(found, going, session.now()))


@db_app.command("upgrade")
def db_upgrade(ctx: typer.Context, output: _Output = None) -> None:
    """Bring the schema up to date, as the daemon does when it starts; on SQLite after a copy beside the file."""
    import os

    from controller.store import migrate
    from controller.store.lock import InstallationLock

    session: Session = ctx.obj.with_output(output)
    with contextlib.closing(session.installation.store(writable=True, any_schema=True)) as store:
        lock = InstallationLock(store)
        lock.acquire(pid=os.getpid())
        try:
            with store.reading() as tx:
                before = migrate.current(tx.connection)
            done = store.upgrade()
        finally:
            lock.release()
        copy = f"{store.url.database}.schema-{before}.backup" if done and before and store.dialect == "sqlite" else None
    answer = {"upgraded": done, "from": before, "to": migrate.HEAD, "backup": copy}
    said = (
        f"upgraded from schema {before or 'none'} to {migrate.HEAD}" if done else f"schema {migrate.HEAD} is up to date"
    )
    session.print(answer, lambda: [said, *([f"as it was before: {copy}"] if copy else [])])


@db_app.command("prune")
def db_prune(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    output: _Output = None,
) -> None:
    """Let go now of what `retention` says, as the daemon does every hour; it may run meanwhile."""
    from controller.engine.pruning import Sweep, would_go

    session: Session = ctx.obj.with_output(output)
    with contextlib.closing(session.installation.store(writable=not dry_run)) as store:
        household = _household(session, store)
        if dry_run:
            gone: Mapping[str, int] = would_go(household, session.now())
        else:
            sweep = Sweep(household, session.now(), fenced=False)
            while not sweep.step().is_last:
                pass
            gone = sweep.gone
    gone = {name: count for name, count in gone.items() if count}
    verb = "would go" if dry_run else "gone"
    session.print({"dry_run": dry_run, "gone": gone}, lambda: [f"{verb}: {_going(gone) or 'nothing'}"])


@db_app.command("backup")
def db_backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; it must not be there yet.")],
    output: _Output = None,
) -> None:
    """Copy a SQLite database, also while the daemon writes to it, and read the copy back."""
    from controller.store import backup
    from controller.store.inventory import note_backup

    session: Session = ctx.obj.with_output(output)
    with contextlib.closing(session.installation.store(writable=True)) as store:
        if store.dialect != "sqlite":
            raise Failure(
                Exit.USAGE,
                "a backup of PostgreSQL is made by its own programs",
                hint=f"run: {backup.command_for(store.url, file)}",
            )
        copy = backup.back_up(store.url, file.absolute())
        note_backup(store, copy)
    answer = {"path": str(copy.path), "bytes": copy.bytes, "schema": copy.schema, "events": copy.events}
    said = f"{copy.path}: {_size(copy.bytes)}, schema {copy.schema}, {counted(copy.events, 'event')}, read back whole"
    session.print(answer, lambda: [said])


@db_app.command("verify")
def db_verify(ctx: typer.Context, output: _Output = None) -> None:
    """Look whether the database is undamaged, and all that it says of things fits together. Exit code 1 when it does not."""
    from controller.store.verify import RULES, verify

    session: Session = ctx.obj.with_output(output)
    with contextlib.closing(session.installation.store()) as store:
        found = verify(store)
    session.print(
        {"sound": not found, "findings": [_finding_as_json(each) for each in found]},
        lambda: list(_finding_lines(found)) or [f"sound: undamaged, and {len(RULES) + 1} rules hold of every row"],
    )
    if found:
        raise typer.Exit(int(Exit.FAILED))


@db_app.command("replay")
def db_replay(
    ctx: typer.Context,
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="A new SQLite file; it must not be there yet.")],
    output: _Output = None,
) -> None:
    """Decide everything that was recorded once more in an empty database, and compare. Exit code 1 when a decision is another one."""
    from controller.clock import SystemClock
    from controller.engine.replay import replay

    session: Session = ctx.obj.with_output(output)
    if into.exists():
        raise Failure(Exit.USAGE, f"{into} is there already", hint="name a new file; it becomes a database")
    config = session.installation.config
    with contextlib.closing(session.installation.store()) as store:
        found = replay(store, f"sqlite:///{into.absolute()}", config=config, clock=SystemClock())
    session.print(found.as_json(), lambda: _lines(found))
    if not found.is_equal:
        raise typer.Exit(int(Exit.FAILED))


# ------------------------------------------------------------------------------------------------------------ parts


class _Household:
    """What a sweep needs, without a daemon."""

    def __init__(self, config: Config, store: Store, log: Log) -> None:
        self.config = config
        self.store = store
        self.clock: Clock = store.clock
        self.log = log


class _Notes:
    """A log of which a person hears what went wrong; what went well is counted in the answer."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def debug(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def info(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def warning(self, event: str, **fields: Any) -> None:
        """Say what went wrong."""
        said = ", ".join(f"{name} {value}" for name, value in fields.items())
        self._session.note(f"{event}: {said}")

    error = warning


def _household(session: Session, store: Store) -> _Household:
    return _Household(session.installation.config, store, _Notes(session))


def _status_as_json(found: Inventory, going: Mapping[str, int] | None) -> dict[str, Any]:
    return {
        "store": found.store,
        "database": found.database,
        "version": found.version,
        "journal": found.journal,
        "schema": found.schema,
        "needs": found.needs,
        "bytes": found.bytes,
        "log_bytes": found.log_bytes,
        "rows": found.rows,
        "estimated": list(found.estimated),
        "oldest_pending_at": found.oldest_pending_at,
        "pruned": {
            name: {"rows": each.row_count, "before": each.cutoff, "at": each.at} for name, each in found.pruned.items()
        },
        "next_prune": None if going is None else dict(going),
        "last_backup": found.last_backup,
    }


def _status_lines(found: Inventory, going: Mapping[str, int] | None, now: datetime) -> list[RenderableType]:
    lines: list[RenderableType] = [f"store          {found.store}"]
    if found.database == "sqlite":
        log = f", and {_size(found.log_bytes)} of log" if found.log_bytes else ""
        lines.append(f"file           {_size(found.bytes)}{log}, journal mode {found.journal}")
    else:
        lines.append(f"server         PostgreSQL {found.version}, {_size(found.bytes)}")
    lines.append(f"schema         {_schema(found)}")
    if found.schema != found.needs:
        return lines
    pending = found.oldest_pending_at
    lines.append(f"pending        {'nothing' if pending is None else f'the oldest since {span(now - pending)}'}")
    lines.append(f"last backup    {_backup(found, now)}")
    lines.append(f"next prune     {_prune(going)}")
    for name, each in sorted(found.pruned.items()):
        lines.append(f"pruned         {each.row_count:,} {name}, from before {each.cutoff:%Y-%m-%d %H:%M:%SZ}")
    return [*lines, "", _tables(found)]


def _schema(found: Inventory) -> str:
    if found.schema == found.needs:
        return found.needs
    known = found.schema is None or found.schema < found.needs
    what = "`retrainctl db upgrade` brings it up to date" if known else "a newer version of the controller wrote it"
    return f"{found.schema or 'none'}, this program needs {found.needs}: {what}"


def _backup(found: Inventory, now: datetime) -> str:
    if found.database != "sqlite":
        return "made by PostgreSQL's own programs, and not known here"
    if found.last_backup is None:
        return "none was made by `retrainctl db backup`"
    last = found.last_backup
    return f"{ago(last['at'], now)}, {one_line(last['path'])} ({_size(last['bytes'])})"


def _prune(going: Mapping[str, int] | None) -> str:
    if going is None:
        return "not known: the configuration cannot be read"
    return _going(going) or "nothing"


def _going(going: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in going.items() if count)


def _tables(found: Inventory) -> Table:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    shown.add_column("table")
    shown.add_column("rows", justify="right")
    for name, rows in found.rows.items():
        if rows:
            shown.add_row(name, f"{'about ' if name in found.estimated else ''}{rows:,}")
    return shown


def _size(number: int) -> str:
    """Return a number of bytes for people."""
    size = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _finding_as_json(found: Finding) -> dict[str, Any]:
    return {"rule": found.rule, "claim": found.claim, "count": found.count, "broken": list(found.broken)}


def _finding_lines(found: Sequence[Finding]) -> Iterator[RenderableType]:
    for each in found:
        yield f"{each.rule}: broken {each.count:,} times: {each.claim}"
        yield from (f"  {one_line(what)}" for what in each.broken)
        if each.count > len(each.broken):
            yield f"  and {each.count - len(each.broken):,} more"
    if found:
        yield "NOT sound: keep a copy of it, and restore a backup or report what is above"


def _lines(found: Replayed) -> list[RenderableType]:
    what = f"{found.events:,} events, {found.decisions:,} decisions"
    if found.is_equal:
        return [f"equal: {what}, hash {found.digest[:16]}"]
    lines: list[RenderableType] = [f"NOT equal: {what}", ""]
    for name, decision in (("recorded", found.recorded), ("replayed", found.replayed)):
        lines.append(f"{name}: {_said(decision)}")
    return lines


def _said(decision: dict[str, Any] | None) -> str:
    if decision is None:
        return "no decision"
    place = f"{decision['model']}/{decision['policy']}"
    return (
        f"{decision['id']} at {decision['at']}: {place} {decision['kind']} by {decision['stage']}: {decision['reason']}"
    )
