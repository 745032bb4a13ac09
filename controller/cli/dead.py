"""`retrainctl dead`: what came in and could not be understood, and events that could not be decided; read again, or given up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Offline, Session
from controller.cli.text import ago, clean, local, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.cli.client import Client
    from controller.store.letter_views import LetterViews

Row = Mapping[str, Any]

dead_app = typer.Typer(help="What could not be understood or decided.", invoke_without_command=True)

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
_Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is recorded with your name.")]
_Names = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, or their last characters.")]
_Source = Annotated[str | None, typer.Option("--source", "-s", help="Name of the source they came to.")]
#: Asked for in one request.
_AT_ONCE = 200
#: Lines are at most this wide: further than that the eye loses its row.
_LINE = 160
#: What is said of each letter beside its place and its reason.
_FACTS = ("id", "kind", "source", "when", "size", "state")
#: Columns that place and reason need in order to stand in the same line.
_ROOM = 60
_LONGEST_SOURCE = 24
_STYLES = {"DEAD": "red", "REPLAYED": "green", "DROPPED": "dim"}


@dead_app.callback(invoke_without_command=True)
def _dead(ctx: typer.Context, output: _Output = None) -> None:
    if ctx.invoked_subcommand is None:
        dead_list(ctx, output=output)


@dead_app.command("list")
def dead_list(
    ctx: typer.Context,
    source: _Source = None,
    state: Annotated[
        Literal["dead", "replayed", "dropped", "all"],
        typer.Option(help="Those that stand, or that were dealt with; a replayed event is an event like any other."),
    ] = "dead",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 20,
    before: Annotated[str | None, typer.Option(help="Only those older than this one.")] = None,
    output: _Output = None,
) -> None:
    """List dead letters, the newest first: bytes that were not understood (raw), events that could not be decided."""
    session = _session(ctx, output)
    query: dict[str, Any] = {"source": source, "state": state, "limit": limit, "before": before}
    found = session.ask(
        lambda client: client.get("/v1/dead", **query), lambda offline: _offline(offline).letters(**query)
    )
    session.print(found, lambda: _table(found["items"], session.now(), width=session.console().width))
    if found["next"] is not None and session.output != "json":
        session.note(f"there are more: --before {found['next']}")


@dead_app.command("show")
def dead_show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the last characters of it.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write its bytes to standard output, as they came and with all secrets.")
    ] = False,
    output: _Output = None,
) -> None:
    """Show a dead letter: where it came from, why it is dead, what it says; what looks secret is masked."""
    from controller.cli.client import segment

    session = _session(ctx, output)
    if raw:
        sys.stdout.buffer.write(
            session.ask(
                lambda client: client.request("GET", f"/v1/dead/{segment(name)}/body").content,
                lambda offline: _offline(offline).body(name)[1],
            )
        )
        sys.stdout.buffer.flush()
        return
    found = session.ask(
        lambda client: client.get(f"/v1/dead/{segment(name)}"), lambda offline: _offline(offline).letter(name)
    )
    session.print(found, lambda: list(_account(found, session.now())))


@dead_app.command("replay")
def dead_replay(
    ctx: typer.Context,
    names: _Names = None,
    source: _Source = None,
    every: Annotated[bool, typer.Option("--all", help="Those of every source, or all of --source.")] = False,
    reason: _Reason = None,
    output: _Output = None,
) -> None:
    """Have dead letters read, or decided, again: by their source as it is configured now. Exit code 1 when some stay dead."""
    session = _session(ctx, output)
    body = {"reason": session.reason(reason)}
    if names and (source or every):
        raise Failure(Exit.USAGE, "name dead letters, or a source, not both")
    if names:
        _each(session, names, "replay", body, _say_replayed)
    elif source or every:
        _many(session, "replay", {"source": source, **body}, "replayed")
    else:
        raise Failure(Exit.USAGE, "which dead letters?", hint="name them, or add --source NAME, or --all")


@dead_app.command("drop")
def dead_drop(
    ctx: typer.Context,
    names: _Names = None,
    source: _Source = None,
    every: Annotated[bool, typer.Option("--all", help="All of --source.")] = False,
    reason: _Reason = None,
    output: _Output = None,
) -> None:
    """Give dead letters up: their bytes go, what is known of them stays."""
    session = _session(ctx, output)
    if names and (source or every):
        raise Failure(Exit.USAGE, "name dead letters, or a source, not both")
    if not names and not (source and every):
        raise Failure(Exit.USAGE, "which dead letters?", hint="name them, or add --source NAME --all")
    body = {"reason": session.reason(reason, needed=True)}
    if names:
        _each(session, names, "drop", body, lambda done: f"{done['id']} is dropped")
    else:
        _many(session, "drop", {"source": source, **body}, "dropped")


# -------------------------------------------------------------------------------------------------------- acts


def _each(session: Session, names: Sequence[str], verb: str, body: Row, say: Callable[[Row], str]) -> None:
    """Do the same to each; the first refusal ends the command when only one is named, and is noted otherwise."""
    done: list[Row] = []
    refused: list[Failure] = []
    with session.client() as client:
        for name in names:
            try:
                done.append(_one(client, name, verb, body))
            except Failure as failure:
                if len(names) == 1 or failure.code is Exit.UNREACHABLE:
                    raise
                refused.append(failure)
                session.complain(failure.message, failure.hint)
    session.print(done[0] if len(names) == 1 else done, lambda: [say(each) for each in done])
    if refused:
        raise typer.Exit(int(refused[0].code))
    if verb == "replay" and any(each["state"] == "DEAD" for each in done):
        raise typer.Exit(int(Exit.FAILED))


def _one(client: Client, name: str, verb: str, body: Row) -> Row:
    from controller.cli.client import segment

    done: Row = client.post(f"/v1/dead/{segment(name)}/{verb}", dict(body))
    return done


def _many(session: Session, verb: str, body: Row, said: str) -> None:
    """Go through all there are now, some at a time."""
    done, failed = 0, []
    after = until = None
    with session.client() as client:
        while True:
            answer = client.post(f"/v1/dead/{verb}", {**body, "after": after, "until": until, "limit": _AT_ONCE})
            done += answer["done"]
            failed += answer["failed"]
            after, until = answer["next"], answer["until"]
            if after is None:
                break
    session.print({"done": done, "failed": failed}, lambda: _say_many(done, failed, said))
    if failed:
        raise typer.Exit(int(Exit.FAILED))


def _say_replayed(done: Row) -> str:
    if done["state"] == "DEAD":
        return f"{done['id']} is still dead: {done['reason']}"
    if done["kind"] == "event":
        return f"{done['id']} is decided anew; see: retrainctl why {done['id']}"
    return f"{done['id']} is replayed: {', '.join(done['events'][:10]) or 'there is no event in it'}"


def _say_many(done: int, failed: Sequence[Row], said: str) -> Iterator[str]:
    for each in failed[:20]:
        yield f"{each['id']} is still dead: {each['reason']}"
    if len(failed) > 20:
        yield f"… and {len(failed) - 20} more"
    yield f"{done:,} {said}" + (f", {len(failed):,} still dead" if failed else "")


# -------------------------------------------------------------------------------------------------- for people


def _table(found: Sequence[Row], now: datetime, *, width: int) -> list[RenderableType]:
    """Return one line for each letter; two where `width` leaves too little for the reason, which is a sentence."""
    from rich.cells import cell_len

    if not found:
        return ["no dead letters"]
    facts = [
        (
            row["id"],
            row["kind"],
            _shortened(one_line(row["source"]), _LONGEST_SOURCE),
            ago(row["received_at"], now),
            f"{row['size']:,}",
            row["state"],
        )
        for row in found
    ]
    heads = _columns(_FACTS, facts)
    width = min(_LINE, width)
    room = width - cell_len(heads[0])
    narrow = room < _ROOM
    limit = (width if narrow else room) // 3
    places = _columns(("place",), [(_ending(one_line(row["place"]), limit),) for row in found])
    between = "\n  " if narrow else "  "
    lines = zip(heads, places, ["reason", *(one_line(row["error"]) for row in found)], strict=True)
    return [
        line
        for number, (said, place, reason) in enumerate(lines)
        for line in _styled(f"{said}{between}{place}  {reason}", found[number - 1]["state"] if number else None, width)
    ]


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the names and the rows as lines of equal width; numbers stand on the right."""
    from rich.cells import cell_len

    lines = [names, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]

    def padded(text: str, place: int) -> str:
        space = " " * (widths[place] - cell_len(text))
        return f"{space}{text}" if names[place] == "size" else f"{text}{space}"

    return ["  ".join(padded(text, place) for place, text in enumerate(line)) for line in lines]


def _styled(text: str, state: str | None, width: int) -> Iterator[RenderableType]:
    """Yield the lines of a row, its state coloured; the head, which has none, is dim. What is too long is cut."""
    from rich.text import Text

    for line in text.splitlines():
        shown = Text(line.rstrip(), style="dim" if state is None else "")
        shown.truncate(width, overflow="ellipsis")
        if state is not None:
            shown.highlight_words([f"  {state}"], _STYLES.get(state, ""))
        yield shown


def _account(found: Row, now: datetime) -> Iterator[RenderableType]:
    from rich.text import Text

    state = found["state"]
    yield Text.assemble((found["id"], "bold"), f"  {found['kind']}  ", (state, _STYLES.get(state, "")))
    facts = {
        "source": found["source"],
        "place": found["place"],
        "type": found["type"],
        "came in": f"{local(found['received_at'])}, {ago(found['received_at'], now)}",
        "why dead": found["error"],
        "now": "" if found["reason"] == found["error"] else found["reason"],
        "size": f"{found['size']:,} bytes" + ("" if found["whole"] or state != "DEAD" else f", {found['kept']:,} kept"),
    }
    for label, value in facts.items():
        if value:
            yield Text(f"  {label:<10}{one_line(value)}")
    if state == "DEAD" and not found["whole"]:
        yield Text("  not all of it was kept, so it cannot be read again", style="yellow")
    if found["meta"]:
        yield Text("  beside it", style="dim")
        for line in json.dumps(found["meta"], indent=2, ensure_ascii=False).splitlines()[1:-1]:
            yield Text(f"  {clean(line)}")
    if found["body"]:
        yield Text("  what it says, secrets masked", style="dim")
        yield from (Text(f"    {line}") for line in clean(found["body"]).splitlines())
    for change in found["history"]:
        before = f"{change['origin']} → " if change["origin"] else ""
        yield Text(f"  {local(change['at'])}  {before}{change['target']}  {one_line(change['reason'])}", style="dim")
    if state == "DEAD" and found["whole"]:
        yield Text(f"\nretrainctl dead replay {found['id']}", style="dim")


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _ending(text: str, limit: int) -> str:
    """Return the end of a place, where it differs from the others: an offset, a file's name."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def _offline(reader: Offline) -> LetterViews:
    from controller.store.letter_views import LetterViews

    return LetterViews(reader.store)


def _session(ctx: typer.Context, output: Literal["table", "json"] | None) -> Session:
    session = ctx.obj if isinstance(ctx.obj, Session) else Session(config=None, url=None, token=None, output="table")
    return session.with_output(output)
