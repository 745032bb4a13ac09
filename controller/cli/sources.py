"""`retrainctl sources` and `retrainctl doctor`: how the sources are, a test event through one, another position for one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Offline, Session
from controller.cli.text import ago, clean, local, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from controller.core.examine import Known
    from controller.store.store import Transaction

Row = Mapping[str, Any]

sources_app = typer.Typer(help="Where events come from.", invoke_without_command=True)
doctor_app = typer.Typer(help="Find out what is wrong.", no_args_is_help=True)

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
_Name = Annotated[str, typer.Argument(metavar="SOURCE", help="A source's name, or api.")]
_STATES = {"ok": "green", "complains": "red", "silent": "red", "not built": "red", "unknown": "yellow"}
_LEVELS = {"wrong": ("✗", "red"), "warning": ("!", "yellow"), "note": ("•", "dim")}


@sources_app.callback(invoke_without_command=True)
def _sources(ctx: typer.Context, output: _Output = None) -> None:
    if ctx.invoked_subcommand is None:
        sources_list(ctx, output)


@sources_app.command("list")
def sources_list(ctx: typer.Context, output: _Output = None) -> None:
    """List the sources: how they are, when they were last heard, how often, what is left."""
    session = _session(ctx, output)
    found = _summaries(session)
    session.print(found, lambda: [_table(found, session.now())])


@sources_app.command("show")
def sources_show(ctx: typer.Context, name: _Name, output: _Output = None) -> None:
    """Show a source: its last event and payload, its positions, what it says of itself."""
    session = _session(ctx, output)
    (found,) = _examined(session, name)
    session.print(found, lambda: list(_account(found, session.now())))


@sources_app.command("seek")
def sources_seek(
    ctx: typer.Context,
    name: _Name,
    topic: Annotated[str, typer.Option(help="Which topic.")],
    to: Annotated[str, typer.Option("--to", metavar="earliest|latest|OFFSET|TIME", help="Where to go on from.")],
    partition: Annotated[int | None, typer.Option(min=0, help="Which partition; all of them by default.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is recorded with your name.")] = None,
    output: _Output = None,
) -> None:
    """Let a source that reads a log go on from another place; what comes again is known, and harmless."""
    from controller.cli.client import segment

    session = _session(ctx, output)
    where = {"topic": topic, "to": to} | ({} if partition is None else {"partition": str(partition)})
    body = {"where": where, "reason": session.reason(reason, needed=True)}
    with session.client() as client:
        done = client.post(f"/v1/sources/{segment(name)}/seek", body)
    positions = [f"  {key}: {json.dumps(value)}" for key, value in done["positions"].items()]
    session.print(done, lambda: [f"{name} goes on from {to} of {topic}", *positions])


@doctor_app.command("sources")
def doctor_sources(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Only this one.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Send a test event through it; no policy ever acts on one.")
    ] = False,
    output: _Output = None,
) -> None:
    """Examine the sources, or one: what is wrong, and what to do next. Exit code 1 when something is wrong."""
    session = _session(ctx, output)
    if test:
        if name is None:
            raise Failure(Exit.USAGE, "--test is for one source", hint="name it: retrainctl doctor sources NAME --test")
        _send_test(session, name)
        return
    found = _examined(session, name)
    shown = found[0] if name is not None else found
    session.print(shown, lambda: [part for each in found for part in _account(each, session.now())])
    if not all(each["healthy"] for each in found):
        raise typer.Exit(int(Exit.FAILED))


def _send_test(session: Session, name: str) -> None:
    from controller.cli.client import segment

    with session.client() as client:
        done = client.post(f"/v1/sources/{segment(name)}/test")
    session.print(done, lambda: list(_steps(done)))
    if not done["ok"]:
        raise typer.Exit(int(Exit.FAILED))


def _session(ctx: typer.Context, output: Literal["table", "json"] | None) -> Session:
    session = ctx.obj if isinstance(ctx.obj, Session) else Session(config=None, url=None, token=None, output="table")
    return session.with_output(output)


# ------------------------------------------------------------------------------------------------- with or without


def _summaries(session: Session) -> Sequence[Row]:
    """Return every source in one line, from the daemon or the database."""

    def offline(reader: Offline) -> Sequence[Row]:
        from controller.core.examine import summarize

        with reader.store.reading() as tx:
            return [dict(summarize(_known(session, tx, name))) for name in _names(session, tx)]

    return session.ask(lambda client: _rows(client.get("/v1/sources")), offline)


def _examined(session: Session, name: str | None) -> Sequence[Row]:
    """Return everything about one source, or about all of them, from the daemon or the database."""
    from controller.cli.client import Client, segment

    def remote(client: Client) -> Sequence[Row]:
        names = [name] if name is not None else [row["name"] for row in client.get("/v1/sources")]
        return [client.get(f"/v1/sources/{segment(each)}") for each in names]

    def offline(reader: Offline) -> Sequence[Row]:
        from controller.core.examine import examine

        with reader.store.reading() as tx:
            names = _names(session, tx)
            if name is not None and name not in names:
                raise Failure(Exit.NOT_FOUND, f"there is no source {name!r}", hint=f"known: {', '.join(names)}")
            return [dict(examine(_known(session, tx, each))) for each in ([name] if name is not None else names)]

    return session.ask(remote, offline)


def _rows(found: Any) -> Sequence[Row]:
    rows: Sequence[Row] = found
    return rows


def _names(session: Session, tx: Transaction) -> list[str]:
    """Return the sources of the configuration and the API, and those that only the database knows when the configuration is broken."""
    configured = _configured(session)
    if configured is None:
        return sorted(tx.sources.all())
    return [*sorted(configured), "api"]


def _known(session: Session, tx: Transaction, name: str) -> Known:
    """Return what the database and the configuration know of a source."""
    from controller.core.examine import Known
    from controller.core.rhythm import SourceStat

    spec = (_configured(session) or {}).get(name)
    return Known(
        name=name,
        type="" if spec is None and name != "api" else "api" if spec is None else spec.type,
        stat=tx.sources.get(name) or SourceStat(source=name, since=tx.now),
        now=tx.now,
        daemon=False,
        expect_every=None if spec is None else spec.expect_every,
        last_event=tx.sources.last_event(name),
        dead_letters=tx.sources.dead_letters(name),
    )


def _configured(session: Session) -> Mapping[str, Any] | None:
    from controller.errors import ConfigError

    try:
        return session.installation.config.sources
    except ConfigError:
        return None


# ------------------------------------------------------------------------------------------------------- for people


def _table(found: Sequence[Row], now: datetime) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for column in ("source", "type", "shape", "state", "last event", "rhythm"):
        shown.add_column(column, no_wrap=True, overflow="ellipsis")
    for column in ("events", "known", "dead", "lag"):
        shown.add_column(column, no_wrap=True, justify="right")
    for row in found:
        state = row["state"]
        shown.add_row(
            one_line(row["name"]),
            one_line(row["type"]),
            one_line(row["shape"]),
            Text(state, style=_STATES.get(state, "")),
            ago(row["last_event_at"], now) or "never",
            _rhythm(row),
            f"{row['stored']:,}",
            f"{row['duplicates']:,}",
            f"{row['dead']:,}",
            _lag(row["lag"]),
        )
    return shown


def _account(found: Row, now: datetime) -> Iterator[RenderableType]:
    """Say everything about a source, the verdict last."""
    from rich.text import Text

    state = found["state"]
    kind = ", ".join(word for word in (found["type"], found["shape"]) if word)
    reason = f"  {one_line(found['reason'])}" if found["reason"] else ""
    yield Text.assemble(
        ("\n" + one_line(found["name"]), "bold"), f"  {one_line(kind)}  ", (state, _STATES.get(state, "")), reason
    )
    for label, text in _facts(found, now):
        if text:
            yield Text(f"  {label:<13}{one_line(text)}")
    if found["payload"] is not None:
        yield Text(f"  {'payload':<13}{ago(found['payload']['at'], now)}, secrets taken out", style="dim")
        lines = clean(found["payload"]["text"]).splitlines()
        yield from (Text(f"    {line}", style="dim") for line in lines[:20])
        if len(lines) > 20:
            yield Text(f"    … {len(lines) - 20} more lines: -o json", style="dim")
    for finding in found["findings"]:
        mark, style = _LEVELS[finding["level"]]
        hint = f" ({finding['hint']})" if finding["hint"] else ""
        yield Text(f"  {mark} {one_line(finding['text'] + hint)}", style=style)
    yield Text(f"  → {one_line(found['verdict'])}", style="green" if found["healthy"] else "red")


def _facts(found: Row, now: datetime) -> Iterator[tuple[str, str]]:
    last = found["last_event"]
    if last is not None:
        subject = f" of {last['subject']}" if last["subject"] else ""
        yield "last event", f"{last['id']}  {last['type']}{subject}, {ago(last['received_at'], now)}, {last['state']}"
    elif found["last_event_at"]:
        yield "last event", f"{found['last_event_id']}, {ago(found['last_event_at'], now)}, kept no longer"
    yield "rhythm", _rhythm_in_full(found)
    yield "silence", _silence(found, now)
    yield (
        "counts",
        f"{found['stored']:,} new, {found['duplicates']:,} known already ({found['duplicates_share']:.0%}), "
        f"{found['refused']:,} refused, {found['dead']:,} dead letters, since {local(found['since'])}",
    )
    if found["clock_skew_seconds"] is not None:
        skew = found["clock_skew_seconds"]
        yield "clock", f"events come {abs(skew):,.1f} s {'after' if skew >= 0 else 'before'} they say that they happen"
    yield "lag", _lag(found["lag"])
    for label in ("mapping", "signature"):
        if found[label] is not None:
            yield label, f"{_value(found[label]['value'])}, {ago(found[label]['at'], now)}"
    if found["endpoint"] is not None:
        check = "callers are verified" if found["endpoint"]["verified"] else "callers are NOT verified"
        yield "post to", f"{found['endpoint']['url']}; {check}"
    yield "policies", ", ".join(found["policies"])
    for name, value in found["report"].items():
        if name != "lag":
            yield name, _value(value)
    for name, note in found["notes"].items():
        if name != "lag":
            yield name, f"{_value(note['value'])}, {ago(note['at'], now)}"


def _rhythm(row: Row) -> str:
    found = row["rhythm"]
    if found is None:
        return ""
    median = found["median_seconds"]
    if median < 1.5:
        return f"{row['rate_per_minute']:,.0f} a minute"
    return f"every ~{_seconds(median)}"


def _rhythm_in_full(found: Row) -> str:
    rhythm = found["rhythm"]
    expected = found["expected_every_seconds"]
    parts = [] if rhythm is None else [_rhythm(found), f"longest gap {_seconds(rhythm['longest_seconds'])}"]
    parts += [] if expected is None else [f"expected every {_seconds(expected)}"]
    return ", ".join(parts)


def _silence(found: Row, now: datetime) -> str:
    if found["silent_since"]:
        return f"silent, nothing came since {local(found['silent_since'])} ({ago(found['silent_since'], now)})"
    if found["quiet_for_seconds"] is not None:
        return f"no; quiet for {_seconds(found['quiet_for_seconds'])}"
    return "" if found["expected_every_seconds"] is None else "no"


def _steps(done: Row) -> Iterator[RenderableType]:
    """Say what became of a test event."""
    from rich.text import Text

    for step in done["steps"]:
        mark, style = ("✓", "green") if step["ok"] else ("✗", "red")
        yield Text(f"{mark} {step['step']:<10}{step['after_ms']:>8.1f} ms  {one_line(step['text'])}", style=style)
    if (endpoint := done["endpoint"]) is not None:
        check = "its callers are verified" if endpoint["verified"] else "its callers are NOT verified: add `verify`"
        yield Text(f"a test over HTTP is a POST to {one_line(endpoint['url'])}; {check}", style="dim")


def _lag(lag: Any) -> str:
    if lag is None:
        return ""
    if isinstance(lag, int | float) and not isinstance(lag, bool):
        return f"{lag:,}"
    if isinstance(lag, Mapping) and lag and all(isinstance(value, int) for value in lag.values()):
        return f"{sum(lag.values()):,}"
    return _value(lag)


def _value(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _seconds(seconds: float) -> str:
    from datetime import timedelta

    from controller.cli.text import span

    return f"{seconds:.1f}s" if seconds < 10 else span(timedelta(seconds=seconds))
