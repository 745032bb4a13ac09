"""`retrainctl notifications` and `retrainctl notify`: messages to people, dead ones sent again, channels tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit
from controller.cli.session import Session
from controller.cli.text import ago, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = Mapping[str, Any]

notifications_app = typer.Typer(help="The messages to people.", invoke_without_command=True)
notify_app = typer.Typer(help="The channels to people.", no_args_is_help=True)

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
#: Seconds that a channel may take to answer when it is tried.
_PATIENCE = 600.0
_STYLES = {"PENDING": "yellow", "SENT": "green", "DEAD": "red", "SKIPPED": "dim"}


@notifications_app.callback(invoke_without_command=True)
def _notifications(
    ctx: typer.Context,
    state: Annotated[
        Literal["all", "pending", "sent", "dead", "skipped"], typer.Option(help="Only those in this state.")
    ] = "all",
    output: _Output = None,
) -> None:
    if ctx.invoked_subcommand is None:
        notifications_list(ctx, state=state, output=output)


@notifications_app.command("list")
def notifications_list(
    ctx: typer.Context,
    state: Annotated[
        Literal["all", "pending", "sent", "dead", "skipped"], typer.Option(help="Only those in this state.")
    ] = "all",
    channel: Annotated[str | None, typer.Option(help="Only those of this channel.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind, such as failed.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those about this model.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 20,
    before: Annotated[str | None, typer.Option(help="Only those older than this one.")] = None,
    output: _Output = None,
) -> None:
    """List messages to people, the newest first: sent, waiting, dead (nobody took them), skipped (the channel does not want them)."""
    from controller.store.notice_views import NoticeViews

    session = _session(ctx, output)
    query: dict[str, Any] = {
        "state": state,
        "channel": channel,
        "kind": kind,
        "model": model,
        "limit": limit,
        "before": before,
    }
    found = session.ask(
        lambda client: client.get("/v1/notifications", **query),
        lambda offline: NoticeViews(offline.store).notifications(**query),
    )
    session.print(found, lambda: _table(found["items"], session.now()))
    if found["next"] is not None and session.output != "json":
        session.note(f"there are more: --before {found['next']}")


@notifications_app.command("retry")
def notifications_retry(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the last characters of it.")],
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is recorded with your name.")] = None,
    output: _Output = None,
) -> None:
    """Have a dead message sent again, under the same id."""
    from controller.cli.client import segment

    session = _session(ctx, output)
    with session.client() as client:
        done = client.post(f"/v1/notifications/{segment(name)}/retry", {"reason": session.reason(reason)})
    more = f", with {done['count'] - 1} that go with it" if done["count"] > 1 else ""
    session.print(done, lambda: [f"{done['id']} is sent again through {done['channel']}{more}"])


@notify_app.command("test")
def notify_test(
    ctx: typer.Context,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="A name under `notifiers`, or log.")],
    output: _Output = None,
) -> None:
    """Send a message through a channel now, and say what came of it. Exit code 1 when it was not sent."""
    from controller.cli.client import segment

    session = _session(ctx, output)
    with session.client() as client:
        # As long as the slowest program may take; the daemon ends it.
        done = client.request("POST", f"/v1/notifiers/{segment(channel)}/test", json={}, timeout=_PATIENCE).json()
    session.print(done, lambda: list(_said(done)))
    if not done["ok"]:
        raise typer.Exit(int(Exit.FAILED))


def _said(done: Row) -> Sequence[str]:
    if done["ok"]:
        return [f"{done['channel']} took it in {done['seconds']:.2f} s; it is {done['notification_id']}"]
    what = "would be tried again" if done["outcome"] == "later" else "would be given up"
    lines = [f"{done['channel']} did not take it: {done['reason']}", f"a real message {what}"]
    return [*lines, f"hint: {done['hint']}"] if done["hint"] else lines


def _session(ctx: typer.Context, output: Literal["table", "json"] | None) -> Session:
    session = ctx.obj if isinstance(ctx.obj, Session) else Session(config=None, url=None, token=None, output="table")
    return session.with_output(output)


def _table(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if not found:
        return ["no notifications"]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for column in ("id", "channel", "state", "when"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("what", overflow="fold")
    for row in found:
        said = one_line(row["title"])
        if row["reason"] and row["state"] != "SENT":
            said += f" — {one_line(row['reason'])}"
        state = row["state"]
        shown.add_row(
            row["id"],
            one_line(row["channel"]),
            Text(state, style=_STYLES.get(state, "")),
            ago(row["created_at"], now) or "",
            Text(said),
        )
    return [shown]
