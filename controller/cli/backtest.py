"""`retrainctl backtest` and `retrainctl plan`: policies tried against the past, before they go live.

Both read the database beside the daemon, or without it, and change nothing.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session, complete_model
from controller.cli.text import one_line, span
from controller.core.duration import format_duration, parse_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.config import Config
    from controller.engine.backtest.plan import Plan
    from controller.engine.backtest.report import Report
    from controller.store.export import Past
    from controller.store.store import Store

Row = Mapping[str, Any]

#: How far back it is looked when nothing is said.
DEFAULT_SINCE = "90d"
#: How a normal form writes a length of time.
_ISO_LENGTH = re.compile(r"\bPT[0-9.]+S\b")
#: So many retrainings are shown in a table; `-o json` has all of them.
MOST_ROWS = 200
#: What a command that was cancelled by Ctrl-C ends with, after it has told of what it saw.
CANCELLED = 130

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
_Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="PATH", help="The configuration to try; by default the one here."),
]
_Since = Annotated[str, typer.Option(metavar="LENGTH|INSTANT", help="From when on: 90d, or 2026-01-31T00:00:00Z.")]
_Until = Annotated[str | None, typer.Option(metavar="LENGTH|INSTANT", help="Up to when; by default now.")]

_Events = Annotated[
    Path | None,
    typer.Option("--events", metavar="FILE", help="Events of a file instead: JSONL of CloudEvents, or CSV."),
]


def backtest(
    ctx: typer.Context,
    config: _Config = None,
    since: _Since = DEFAULT_SINCE,
    until: _Until = None,
    events: _Events = None,
    model: Annotated[str | None, typer.Option(autocompletion=complete_model, help="Tell only of this model.")] = None,
    output: _Output = None,
) -> None:
    """Show which retrainings would have started, next to those that did; change nothing."""
    session: Session = ctx.obj.with_output(output)
    tried = _load(session, config)
    if model is not None and model not in tried.models:
        raise Failure(
            Exit.NOT_FOUND, f"no model {model!r} is configured", hint=f"configured: {', '.join(tried.models)}"
        )
    with contextlib.ExitStack() as stack:
        past = stack.enter_context(_past(session, config, needed=events is None))
        if events is not None:
            report = _of_file(session, tried, past, events, only=model)
        else:
            begin, end = _span(session, past, since, until)
            report = _run(session, "backtest", tried, past, begin, end, only=model)
    session.print(report.as_json(), lambda: table(report))
    if not report.complete:
        raise typer.Exit(CANCELLED)


def plan(
    ctx: typer.Context,
    config: _Config = None,
    instead_of: Annotated[
        Path | None,
        typer.Option(
            "--instead-of", metavar="PATH", help="The configuration to compare with; by default the one in force."
        ),
    ] = None,
    since: _Since = DEFAULT_SINCE,
    events: _Events = None,
    output: _Output = None,
) -> None:
    """Show what a changed configuration means: which policies are other than those in force, and what that does to the retrainings.

    Exit code 0 when no retraining of the past would have been another one, 6 when some would.
    """
    from controller.engine.backtest.plan import Plan, changes_between, configured_as

    session: Session = ctx.obj.with_output(output)
    tried = _load(session, config)
    needed = events is None or instead_of is None
    with _past(session, config, needed=needed) as past:
        form = _load(session, instead_of).normal_form if instead_of is not None else _in_force(past)
        found = Plan(changes=changes_between(form, tried.normal_form))
        if found.changes:

            def run(title: str, config: Config) -> Report:
                if events is not None:
                    return _of_file(session, config, past, events, title=title)
                return _run(session, title, config, past, *_span(session, past, since, None))

            before = run("as it is", configured_as(tried, form))
            if before.complete:
                found = Plan(changes=found.changes, before=before, after=run("as planned", tried))
    session.print(found.as_json(), lambda: plan_lines(found))
    if found.changes and (found.before is None or not found.is_complete):
        raise typer.Exit(CANCELLED)
    if found.has_effect:
        raise typer.Exit(int(Exit.CHANGED))


# ---------------------------------------------------------------------------------------------------------- running


def _in_force(past: Past | None) -> Mapping[str, Any]:
    """Return the normal form of the configuration that was in force last."""
    form = past.configuration() if past is not None else None
    if form is None:
        raise Failure(
            Exit.NOT_FOUND,
            "no configuration was ever in force here",
            hint="start the daemon once, or name the one to compare with: --instead-of PATH",
        )
    return form


def _load(session: Session, path: Path | None) -> Config:
    from controller.config import load_config

    if path is None:
        return session.installation.config
    if not path.exists():
        raise Failure(Exit.USAGE, f"there is no configuration at {path}")
    return load_config(path)


@contextlib.contextmanager
def _past(session: Session, config: Path | None, *, needed: bool) -> Iterator[Past | None]:
    """Open the history of the installation; None when there is none and it is not needed."""
    from controller.cli.installation import Installation
    from controller.store.export import Past

    installation = session.installation
    try:
        store: Store = installation.store()
    except Failure:
        if installation.config_path is None and config is not None:
            installation = Installation(config, None, None)  # the one to try may be the only one here
            try:
                store = installation.store()
            except Failure:
                if needed:
                    raise
                yield None
                return
        elif needed:
            raise
        else:
            yield None
            return
    with contextlib.closing(store):
        store.check_schema()
        yield Past(store)


def _span(session: Session, past: Past | None, since: str, until: str | None) -> tuple[datetime, datetime]:
    now = session.now()
    begin = instant_of(since, now)
    end = now if until is None else instant_of(until, now)
    if begin >= end:
        raise Failure(Exit.USAGE, f"--since {since} is not before {'now' if until is None else f'--until {until}'}")
    known = [] if past is None else [past.first_at(), past.whole_since()]
    return max([begin, *(at for at in known if at is not None and at < end)]), end


def instant_of(text: str, now: datetime) -> datetime:
    """Return the instant that is meant: so long ago, or a date and time."""
    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(
            Exit.USAGE,
            f"{text!r} is neither a length of time nor an instant",
            hint="write 90d, or 2026-01-31T12:00:00Z",
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _of_file(
    session: Session,
    tried: Config,
    past: Past | None,
    path: Path,
    *,
    only: str | None = None,
    title: str = "backtest",
) -> Report:
    from controller.cli import eventfiles

    first, last, is_sorted = eventfiles.span(path)
    # What is held at the end is let go: as long as anything is held for by itself, but not for ever.
    end = last + timedelta(days=7)
    stream = eventfiles.events(path, is_sorted=is_sorted)
    return _run(session, title, tried, past, first, end, only=only, events=stream)


def _run(
    session: Session,
    title: str,
    tried: Config,
    past: Past | None,
    since: datetime,
    until: datetime,
    *,
    only: str | None = None,
    events: Iterator[Any] | None = None,
) -> Report:
    """Run one backtest, with a progress bar on a terminal; Ctrl-C ends it with what it has seen."""
    from controller.engine.backtest.record import backtest as try_out

    with _cancellable() as is_cancelled, _progress(session, title, since, until) as show_progress:

        def goes_on(at: datetime) -> bool:
            show_progress(at)
            return not is_cancelled()

        return try_out(tried, past, since=since, until=until, only=only, events=events, goes_on=goes_on)


@contextlib.contextmanager
def _cancellable() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C be a wish that can be asked for; the second ends at once."""
    wished: list[bool] = []

    def note(number: int, frame: Any) -> None:
        del number, frame
        if wished:
            raise KeyboardInterrupt
        wished.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, where nobody presses Ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: bool(wished)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress(session: Session, title: str, since: datetime, until: datetime) -> Iterator[Callable[[datetime], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = session.console(stderr=True)
    if not console.is_terminal:
        yield lambda at: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        total = (until - since).total_seconds()
        task = progress.add_task(title, total=total, at="")

        def show(at: datetime) -> None:
            progress.update(task, completed=(at - since).total_seconds(), at=f"{at:%Y-%m-%d}")

        yield show


# ---------------------------------------------------------------------------------------------------------- tables


def table(report: Report) -> list[RenderableType]:
    """Return a backtest for people: what would have started, what did, and the sums."""
    found = report.as_json()
    parts: list[RenderableType] = [
        f"{found['since']} to {found['until']}, {found['events']:,} events"
        + ("" if report.complete else ": CANCELLED, this is what came before")
    ]
    parts += ["", "WOULD HAVE STARTED", *_firings(found["would"])]
    if found["did"]:
        parts += ["", "DID START", *_runs(found["did"])]
    parts += ["", "BY POLICY", _policies(found["policies"])]
    would, did = found["totals"]["would"], found["totals"]["did"]
    parts += [
        "",
        f"would: {_sums(would)}; {would['held']:,} held, {would['merged']:,} merged, {would['skipped']:,} skipped, "
        f"{would['errors']:,} errors",
    ]
    if found["did"]:
        parts.append(f"did:   {_sums(did)}")
    if found["broken"]:
        first = found["broken"][0]
        parts.append(
            f"{len(found['broken']):,} events could not be decided, the first is {first['event']}: {first['error']}"
        )
    return [*parts, *(f"note: {note}" for note in found["notes"])]


def _firings(rows: Sequence[Row]) -> list[RenderableType]:
    if not rows:
        return ["none"]
    merges = any(row["merged"] for row in rows)
    shown = _table("when", _head(rows), "held", *(["merged"] if merges else []), "cost", "outcome", "why")
    for row in rows[:MOST_ROWS]:
        outcome = (row["outcome"] or "goes on").lower()
        shown.add_row(
            _when(row["at"])[: len("2026-01-31 12:00")],
            one_line(_place(row, with_model=_head(rows) != "policy")),
            span(timedelta(seconds=row["held_seconds"])) if row["held_seconds"] else "",
            *([f"{row['merged']:,}" if row["merged"] else ""] if merges else []),
            f"{row['cost']:g}",
            f"{outcome}*" if row["assumed"] else outcome,
            one_line(row["why"]),
        )
    for column in shown.columns[:-1]:  # the reason is what is cut when there is little room
        column.min_width = max(len(column.header), *(len(cell) for cell in column.cells))
    starred = ["* assumed, see the notes"] if any(row["assumed"] for row in rows[:MOST_ROWS]) else []
    return [shown, *_more(rows), *starred]


def _head(rows: Sequence[Row]) -> str:
    """Return what names a policy: one model need not be repeated in each line."""
    return "policy" if len({row["model"] for row in rows}) == 1 else "model/policy"


def _runs(rows: Sequence[Row]) -> list[RenderableType]:
    shown = _table("when", "model/policy", "run", "causes", "cost", "outcome")
    for row in rows[:MOST_ROWS]:
        cells = (_when(row["at"]), _place(row), row["run"], f"{row['causes']:,}", f"{row['cost']:g}")
        shown.add_row(*map(one_line, cells), one_line(row["outcome"]).lower())
    return [shown, *_more(rows)]


def _more(rows: Sequence[Row]) -> list[RenderableType]:
    return [f"and {len(rows) - MOST_ROWS:,} more; -o json has them all"] if len(rows) > MOST_ROWS else []


def _policies(rows: Sequence[Row]) -> RenderableType:
    observed = ["observed"] if any(row["observed"] for row in rows) else []
    names = ("fired", *observed, "merged", "held", "skipped", "errors", "promoted", "wasted")
    shown = _table(_head(rows), *names, "cost", "hours")
    for row in rows:
        counts = (f"{row[name]:,}" for name in names)
        shown.add_row(
            one_line(_place(row, with_model=_head(rows) != "policy")),
            *counts,
            f"{row['cost']:g}",
            f"{row['hours']:.1f}",
        )
    return shown if rows else "none"


def _sums(sums: Row) -> str:
    assumed = f" ({sums['assumed']:,} assumed)" if sums["assumed"] else ""
    return (
        f"{sums['fired']:,} retrainings{assumed}, {sums['promoted']:,} promoted, "
        + (f"{sums['succeeded']:,} succeeded, " if sums["succeeded"] else "")
        + f"{sums['wasted']:,} wasted, "
        + f"cost {sums['cost']:g}, {sums['hours']:.1f} hours"
    )


def _place(row: Row, *, with_model: bool = True) -> str:
    key = f" [{row['key']}]" if row.get("key") else ""
    return f"{row['model']}/{row['policy']}{key}" if with_model else f"{row['policy']}{key}"


def _when(at: str) -> str:
    return at.replace("T", " ").partition(".")[0].removesuffix("Z")


def _table(*columns: str) -> Any:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for name in columns:
        shown.add_column(name, no_wrap=name != "why", overflow="fold" if name == "why" else "ellipsis")
    return shown


def plan_lines(found: Plan) -> list[RenderableType]:
    """Return a plan for people."""
    if not found.changes:
        return ["no policy changes"]
    parts: list[RenderableType] = []
    signs = {"added": "+", "removed": "-", "changed": "~"}
    for change in found.changes:
        parts.append(
            f"{signs[change.change]} {change.model}{'/' if change.policy else ''}{change.policy} {change.change}"
        )
        if change.change == "changed":
            parts += [f"    {key.key}: {_value(key.before)} → {_value(key.after)}" for key in change.keys]
    if found.before is None or found.after is None:
        return [*parts, "", "CANCELLED before its effect was known"]
    before, after = found.before.account.total(), found.after.account.total()
    days = (found.after.until - found.after.since).total_seconds() / 86400
    incomplete = "" if found.is_complete else " (CANCELLED, this is what came before)"
    parts += ["", f"in the last {days:.0f} days{incomplete}: {_effect(before, after)}"]
    parts += [f"    {model}/{policy}: {_effect(one, other)}" for model, policy, one, other in found.effects()]
    return [*parts, *(f"note: {note}" for note in found.as_json()["effect"]["notes"])]


def _effect(before: Any, after: Any) -> str:
    hours = after.hours - before.hours
    return f"{before.fired:,} → {after.fired:,} retrainings, {hours:+.1f} hours, {after.cost - before.cost:+g} cost"


def _value(value: Any) -> str:
    """Return a value of a normal form as people write it: lengths of time as `6h`."""
    import json

    text = value if isinstance(value, str) else json.dumps(value)
    return (
        "none"
        if value is None
        else one_line(_ISO_LENGTH.sub(lambda found: format_duration(parse_duration(found[0])), text))
    )
