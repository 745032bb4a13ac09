"""`retrainctl audit`: who did what, when and why; and the chain over history, examined and taken elsewhere.

Examining and exporting read the database itself, with the daemon or without it, so that they cost the daemon nothing.
With `--url` the daemon sends what there is, and it is examined here all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session
from controller.cli.text import ago, counted, local, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.core.seal import Item, Verdict
    from controller.store.store import Store

Row = Mapping[str, Any]

audit_app = typer.Typer(help="Who did what, when and why; and whether anybody changed what history says.")

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
_WHEN = "LENGTH|INSTANT"


@audit_app.callback(invoke_without_command=True)
def audit(
    ctx: typer.Context,
    actor: Annotated[str | None, typer.Option(help="Only what this one did, such as ann or token:ci.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this: a run's id, a model, …")] = None,
    verb: Annotated[str | None, typer.Option(help="Only this, such as cancel, or refused.")] = None,
    since: Annotated[str | None, typer.Option(metavar=_WHEN, help="From then on: 7d, or 2026-01-31T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(metavar=_WHEN, help="Before then.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also every change of state, whoever or whatever caused it.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 50,
    output: _Output = None,
) -> None:
    """Who did what, when and why; and whether anybody changed what history says.

    Without a command: what persons did and were refused, the newest first.
    """
    if ctx.invoked_subcommand is not None:
        return
    from controller.cli.backtest import instant_of
    from controller.store.audit_views import AuditViews

    session = _session(ctx, output)
    now = session.now()
    first, end = (None if text is None else instant_of(text, now) for text in (since, until))
    query: dict[str, Any] = {"actor": actor, "target": target, "verb": verb, "limit": limit, "all": everything}
    sent = {**query, "since": first and first.isoformat(), "until": end and end.isoformat()}
    found: Sequence[Row] = session.ask(
        lambda client: client.get("/v1/audit", **sent),
        lambda offline: AuditViews(offline.store).entries(**query, since=first, until=end),
    )
    session.print(found, lambda: _table(found))
    if len(found) == limit and session.output != "json":
        session.note(f"there may be more: --until {found[-1]['at']}, or a larger --limit")


@audit_app.command("head")
def audit_head(ctx: typer.Context, output: _Output = None) -> None:
    """Print where the chain ends, to be noted elsewhere: only against that does it show when the end was cut off or all of it laid anew."""
    from controller.store.audit_views import AuditViews

    session = _session(ctx, output)
    found: Row = session.ask(
        lambda client: client.get("/v1/audit/head"), lambda offline: AuditViews(offline.store).head()
    )
    if found["head"] is None:
        session.note("nothing is sealed yet; the daemon lays a link every few seconds when there is something new")
    else:
        session.note(
            f"sealed {ago(found['sealed_at'], session.now())}; check it with: retrainctl audit verify --expect …"
        )
    session.print(found, lambda: [] if found["head"] is None else [found["head"]])


@audit_app.command("verify")
def audit_verify(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option(metavar="EXPORT", help="An export instead of the database; needs no installation.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:DIGEST", help="A head that was noted elsewhere; it must be in the chain."),
    ] = None,
    output: _Output = None,
) -> None:
    """Examine history and acts against the chain, and say which row or link was changed. Exit code 1 when any was."""
    from controller.core.seal import examine, parse_head
    from controller.errors import InvalidInput

    session = _session(ctx, output)
    try:
        head = None if expect is None else parse_head(expect)
    except ValueError as error:
        raise Failure(
            Exit.USAGE, str(error), hint="give what `retrainctl audit head` printed, NUMBER:DIGEST"
        ) from error
    try:
        with _items(session, file) as items:
            verdict = examine(items, expect=head)
    except InvalidInput as error:
        raise Failure(Exit.FAILED, error.message, hint=error.hint) from error
    session.print(_as_json(verdict), lambda: _said(verdict))
    if not verdict.is_whole:
        raise typer.Exit(int(Exit.FAILED))


@audit_app.command("export")
def audit_export(
    ctx: typer.Context,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new file; it must not be there yet.")],
    output: _Output = None,
) -> None:
    """Write acts, history and the chain to a file, a line of JSON each, which `audit verify --file` examines without the database."""
    from controller.core.sealfile import to_lines

    session = _session(ctx, output)
    count = 0
    with _items(session, None) as items, _new_file(to) as file:
        for line in to_lines(items):
            file.write(line.encode() + b"\n")
            count += 1
    session.print({"file": str(to), "lines": count}, lambda: [f"wrote {counted(count, 'line')} to {to}"])


# -------------------------------------------------------------------------------------------------------- details


@contextlib.contextmanager
def _items(session: Session, file: Path | None) -> Iterator[Iterator[Item]]:
    """Open the chain: of a file, of the database, or (with `--url`) of the daemon."""
    from controller.core.sealfile import from_lines
    from controller.store.seals import chain

    if file is not None:
        try:
            with file.open("rb") as lines:
                yield from_lines(lines, name=str(file))
        except OSError as error:
            raise Failure(Exit.USAGE, f"{file} cannot be read: {error.strerror or error}") from error
    elif session.installation.url:
        with session.client() as client, client.lines("/v1/audit/export") as lines:
            yield from_lines(lines, name=session.installation.url)
    else:
        with _store(session) as store:
            yield chain(store)


@contextlib.contextmanager
def _store(session: Session) -> Iterator[Store]:
    with contextlib.closing(session.installation.store()) as store:
        store.check_schema()
        yield store


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """Open a file that is not there yet; one that could not be written to its end is taken away again."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failure(Exit.USAGE, f"{path} is there already", hint="name a new file") from None
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path} cannot be written: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _session(ctx: typer.Context, output: Literal["table", "json"] | None) -> Session:
    session = ctx.obj if isinstance(ctx.obj, Session) else Session(config=None, url=None, token=None, output="table")
    return session.with_output(output)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    names = ("links", "rows", "acts", "unsealed", "before", "head", "wrong")
    findings = [{name: getattr(each, name) for name in ("kind", "link", "seq", "text")} for each in verdict.findings]
    return {"whole": verdict.is_whole, **{name: getattr(verdict, name) for name in names}, "findings": findings}


def _said(verdict: Verdict) -> list[RenderableType]:
    covered = f"{counted(verdict.links, 'link')} over {counted(verdict.rows, 'row')} of history, {counted(verdict.acts, 'act')}"
    lines: list[RenderableType] = []
    if not verdict.is_whole:
        lines += [f"NOT whole: {counted(verdict.wrong, 'thing')} not as sealed; {covered}", ""]
        lines += [one_line(finding.text) for finding in verdict.findings]
        if verdict.wrong > len(verdict.findings):
            lines.append(f"and {verdict.wrong - len(verdict.findings):,} more")
        lines.append("")
    elif verdict.links:
        lines.append(f"whole: {covered}")
    else:
        lines.append("nothing is sealed, so nothing is proved")
    if verdict.before:
        lines.append(f"{counted(verdict.before, 'act')} from before the chain began")
    if verdict.unsealed:
        lines.append(
            f"{counted(verdict.unsealed, 'row')} at the end not sealed yet: what was changed there does not show"
        )
    if verdict.head:
        lines.append(f"head {verdict.head}")
    return lines


def _table(found: Sequence[Row]) -> list[RenderableType]:
    from rich.table import Table

    if not found:
        return ["nothing"]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for column in ("when", "who", "what"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("to what", overflow="fold")
    shown.add_column("why", overflow="fold")
    for row in found:
        what = one_line(row["verb"])
        if row["kind"] == "transition":
            what = f"{one_line(row['details']['machine'])} {one_line(row['details']['to'])} ({what})"
        elif row["verb"] == "refused":
            what += f" {one_line(row['details'].get('method', ''))}"
        shown.add_row(local(row["at"]), one_line(row["actor"]), what, one_line(row["target"]), one_line(row["reason"]))
    return [shown]
