"""Work that takes a while, followed to its end: runs, presses that become runs, logs."""

from __future__ import annotations

import codecs
import sys
from typing import Any

import typer

from controller.cli import show
from controller.cli.client import WAIT, Client, segment
from controller.cli.exits import Exit, Failure
from controller.cli.session import Session
from controller.cli.text import clean

#: Runs that end like this make the command fail. REJECTED does not: the gate did what it is for.
_FAILED = ("FAILED", "TIMED_OUT", "CANCELLED", "SUPERSEDED")
#: Seconds between two looks at a run that is drawn.
_LOOK = 1


def watch(session: Session, client: Client, name: str) -> Any:
    """Show a run, live on a terminal, else a line for each change of state, until it has ended; return it."""
    run = client.get(f"/v1/runs/{segment(name)}")
    console = session.console()
    if session.output == "json" or not console.is_terminal:
        return _watch_lines(session, client, run)
    from rich.live import Live

    with Live(show.live_run(run, session.now()), console=console, auto_refresh=False) as live:
        while not run["final"]:
            run = client.get(f"/v1/runs/{run['id']}", wait=_LOOK)
            live.update(show.live_run(run, session.now()), refresh=True)
    return run


def _watch_lines(session: Session, client: Client, run: Any, *, until_waiting: bool = False) -> Any:
    seen: set[str] = set()
    while True:
        for row in run["history"]:
            line = show.history_line(row, run)
            if row["machine"] in ("run", "job") and str(row["seq"]) not in seen:
                seen.add(str(row["seq"]))
                if session.output == "json":
                    session.note(line)
                else:
                    session.console().print(line, markup=False, highlight=False, soft_wrap=True)
        if run["final"] or (until_waiting and run["state"] == "AWAITING_APPROVAL"):
            return run
        run = client.get(f"/v1/runs/{run['id']}", wait=_LOOK)


def finish(session: Session, client: Client, press: Any) -> None:
    """Follow a press (`{"event_id"}`) to the end of its run, or of a run itself (`{"run_id"}`), print it and end with its code."""
    run_id = press.get("run_id") or _run_of(session, client, press["event_id"])
    run = _watch_lines(session, client, client.get(f"/v1/runs/{run_id}"), until_waiting=True)
    session.print_json_only(run)
    if run["state"] == "AWAITING_APPROVAL":
        session.note(f"it waits for a person: retrainctl approve {run['id']}")
    if run["state"] in _FAILED and run["jobs"]:
        one = run["jobs"][0]["candidate"]
        session.note(f"its logs: retrainctl logs {run['id']} --candidate {one}")
    end(run)


def _run_of(session: Session, client: Client, event_id: str) -> str:
    """Return the run that an event led to; waits for it, and fails when the event starts none."""
    told = ""
    while True:
        event = client.get(f"/v1/events/{event_id}", wait=WAIT)
        if event["runs"]:
            run_id: str = event["runs"][-1]["id"]
            return run_id
        last = event["decisions"][-1] if event["decisions"] else None
        if event["state"] == "DEAD":
            raise Failure(Exit.FAILED, f"the event could not be decided on: {event['error']}")
        if last is not None and last["kind"] in ("SKIP", "ERROR"):
            raise Failure(Exit.CONFLICT, f"nothing was started: {last['reason']}", hint=f"retrainctl why {event_id}")
        if last is not None and last["reason"] != told:
            told = last["reason"]
            session.note(f"held: {told}")
        if last is not None:
            client.get(f"/v1/runs/{last['run_id']}", wait=_LOOK) if last["run_id"] else None


def end(run: Any) -> None:
    """End the command with the code that a run's state calls for."""
    if run["state"] in _FAILED:
        raise typer.Exit(int(Exit.FAILED))


def log(session: Session, client: Client, name: str, *, candidate: str | None, attempt: int | None, on: bool) -> None:
    """Print a job's log as far as it goes; with `on`, until its run has ended."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset = 0
    final = not on
    while True:
        chunk = _chunk(client, name, candidate=candidate, attempt=attempt, offset=offset, patient=on and not final)
        if chunk is not None:
            if skipped := int(chunk.headers.get("x-skipped", "0")):
                session.note(f"{skipped:,} bytes were cut by the log's cap")
            sys.stdout.write(clean(decoder.decode(chunk.content)))
            sys.stdout.flush()
            following = int(chunk.headers["x-next-offset"])
            if chunk.content or following > offset:
                offset = following
                continue
        if final:
            return
        final = client.get(f"/v1/runs/{segment(name)}", wait=_LOOK)["state"] != "TRAINING"


def _chunk(client: Client, name: str, *, candidate: str | None, attempt: int | None, offset: int, patient: bool) -> Any:
    """Return a piece of a log; None when there is none yet and we have patience."""
    query = {"candidate": candidate, "attempt": attempt, "offset": offset}
    try:
        return client.request(
            "GET", f"/v1/runs/{segment(name)}/log", params={k: v for k, v in query.items() if v is not None}
        )
    except Failure as failure:
        if patient and failure.code == Exit.NOT_FOUND and "no log yet" in failure.message:
            return None
        raise
