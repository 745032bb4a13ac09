"""`retrainctl policies`: the policies, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session, complete_model
from controller.cli.text import ago, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = Mapping[str, Any]

#: Columns of the table: heading, and the key of what it counts.
_COUNTS = (
    ("fired", "fired"),
    ("promoted", "promoted"),
    ("rejected", "rejected"),
    ("failed", "failed"),
    ("cured", "cured"),
    ("not cured", "not_cured"),
    ("worse", "worse"),
)


def policies(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="Only those of this model.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="LENGTH", help="Count only this far back, such as 30d.")
    ] = None,
    output: Annotated[
        Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
    ] = None,
) -> None:
    """List the policies: how often they fired, what became of it, whether it helped, and the hours it wasted."""
    session: Session = ctx.obj.with_output(output)
    length = None if since is None else _length(since)
    found = session.ask(
        lambda client: client.get("/v1/policies", model=model, since=since),
        lambda offline: offline.policies(model=model, since=length),
    )
    session.print(found, lambda: table(found, session.now()))


def table(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    """Return the policies as a table."""
    from rich.table import Table

    if not found:
        return ["no policies"]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    shown.add_column("policy", overflow="fold")
    for heading, _ in _COUNTS:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("wasted", justify="right", no_wrap=True)
    shown.add_column("last", no_wrap=True)
    for row in found:
        mode = f" ({row['mode']})" if row["mode"] in ("observe", "off") else ""
        counts = [str(row[name]) if row[name] else "·" for _, name in _COUNTS]
        shown.add_row(
            one_line(f"{row['model']}/{row['policy']}{mode}"),
            *counts,
            f"{row['wasted_hours']:.1f} h" if row["wasted_hours"] else "·",
            ago(row["last_fired_at"], now) or "never",
        )
    return [shown]


def _length(text: str) -> timedelta:
    from controller.core.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise Failure(Exit.USAGE, f"--since {text!r} is not a length of time", hint="write 30d or 12h") from error
