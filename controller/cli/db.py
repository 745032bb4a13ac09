"""`retrainctl db`: what is done with a database as a whole."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.engine.replay import Replayed

db_app = typer.Typer(help="The database as a whole.", no_args_is_help=True)


@db_app.callback()
def _db() -> None:
    """The database as a whole."""


@db_app.command("replay")
def db_replay(
    ctx: typer.Context,
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="A new SQLite file; it must not be there yet.")],
    output: Annotated[
        Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
    ] = None,
) -> None:
    """Decide everything that was recorded once more in an empty database, and compare. Exit code 1 when a decision is another one."""
    from controller.clock import SystemClock
    from controller.engine.replay import replay

    session: Session = ctx.obj.with_output(output)
    if into.exists():
        raise Failure(Exit.USAGE, f"{into} is there already", hint="name a new file; it becomes a database")
    config = session.installation.config
    with contextlib.closing(session.installation.store()) as store:
        store.check_schema()
        found = replay(store, f"sqlite:///{into.absolute()}", config=config, clock=SystemClock())
    session.print(found.as_json(), lambda: _lines(found))
    if not found.is_equal:
        raise typer.Exit(int(Exit.FAILED))


def _lines(found: Replayed) -> list[RenderableType]:
    counted = f"{found.events:,} events, {found.decisions:,} decisions"
    if found.is_equal:
        return [f"equal: {counted}, hash {found.digest[:16]}"]
    lines: list[RenderableType] = [f"NOT equal: {counted}", ""]
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
