"""`retrainctl`: every command, its options and its help. What they print is in `show.py`, how they reach the daemon in `client.py`.

Heavy imports happen inside the commands that need them: the help must come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from controller.cli.audit import audit_app
from controller.cli.backtest import backtest, plan
from controller.cli.db import db_app
from controller.cli.dead import dead_app
from controller.cli.events import events_export, events_import
from controller.cli.exits import Exit, Failure
from controller.cli.notifications import notifications_app, notify_app
from controller.cli.policies import policies
from controller.cli.policy import policy_app
from controller.cli.session import Session, complete_model
from controller.cli.sources import doctor_app, sources_app
from controller.errors import ConfigError, Conflict, ControllerError, NotFound, StoreBusy

_EPILOG = (
    "Exit codes: 0 done · 1 the thing itself failed, such as a run that was waited for · "
    "2 the command line or the configuration is wrong · 3 the daemon does not answer · "
    "4 there is no such thing · 5 it does not fit the present state · 6 a plan changes retrainings."
)


class _Group(TyperGroup):
    """Ends a command with a sentence and a code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            code, message, hint = failure.code, failure.message, failure.hint
        except ControllerError as error:
            code, message, hint = _code_of(error), error.message, error.hint
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        _session(ctx).complain(message, hint)
        raise typer.Exit(int(code))


def _code_of(error: ControllerError) -> Exit:
    codes: list[tuple[type[ControllerError], Exit]] = [
        (NotFound, Exit.NOT_FOUND),
        (Conflict, Exit.CONFLICT),
        (ConfigError, Exit.USAGE),
        (StoreBusy, Exit.FAILED),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), Exit.USAGE)


def _session(ctx: Any) -> Session:
    if not isinstance(ctx.obj, Session):
        ctx.obj = Session(config=None, url=None, token=None, output="table")
    return ctx.obj


app = typer.Typer(
    cls=_Group,
    name="retrainctl",
    help="Watch, explain and steer the retraining of models.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="The models and their champions.", invoke_without_command=True)
runs_app = typer.Typer(help="The retrainings.", invoke_without_command=True)
events_app = typer.Typer(help="What happened.", invoke_without_command=True)
token_app = typer.Typer(help="Bearer tokens for the API over TCP.", no_args_is_help=True)
app.add_typer(models_app, name="models", rich_help_panel="Look")
app.add_typer(runs_app, name="runs", rich_help_panel="Look")
app.add_typer(events_app, name="events", rich_help_panel="Look")
app.add_typer(dead_app, name="dead", rich_help_panel="Look")
app.add_typer(notifications_app, name="notifications", rich_help_panel="Look")
app.add_typer(sources_app, name="sources", rich_help_panel="Look")
app.add_typer(audit_app, name="audit", rich_help_panel="Look")
app.add_typer(doctor_app, name="doctor", rich_help_panel="Look")
app.add_typer(notify_app, name="notify", rich_help_panel="Set up")
app.add_typer(token_app, name="token", rich_help_panel="Set up")
app.add_typer(policy_app, name="policy", rich_help_panel="Try")
app.add_typer(db_app, name="db", rich_help_panel="Set up")
app.command("backtest", rich_help_panel="Try")(backtest)
app.command("plan", rich_help_panel="Try")(plan)
events_app.command("export")(events_export)
events_app.command("import")(events_import)

Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is recorded with your name.")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="The same key is the same press.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the run's end.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its last characters.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=500)]


@app.callback()
def _global(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", envvar="RETRAIN_CONFIG", help="The configuration; else retrain.yaml or configs/ here."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="RETRAIN_URL", help="Speak to a daemon over TCP instead of its socket."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="RETRAIN_TOKEN", help="The bearer token that goes with --url.")
    ] = None,
    output: Output = None,
) -> None:
    ctx.obj = Session(config=config, url=url, token=token, output=output or "table")


# ------------------------------------------------------------------------------------------------------ set up


@app.command(rich_help_panel="Set up")
def init(
    ctx: typer.Context, folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("configs")
) -> None:
    """Write a configuration that runs as it is."""
    from controller.config import write_initial

    written = [str(path) for path in write_initial(folder)]
    session = _session(ctx)
    session.print(
        written, lambda: [*(f"wrote {path}" for path in written), f"start the daemon: retraind --config {folder}"]
    )


@app.command(rich_help_panel="Set up")
def check(ctx: typer.Context, output: Output = None) -> None:
    """Find everything that is wrong with the configuration, without running it."""
    from controller.cli import show
    from controller.config import check as check_config

    session = _session(ctx).with_output(output)
    try:
        problems = check_config(session.installation.config)
    except ConfigError as error:
        problems = error.problems
    session.print([show.problem(p) for p in problems], lambda: show.problems(problems, session.installation.path))
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(int(Exit.USAGE))


@app.command(rich_help_panel="Set up")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from controller.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command(rich_help_panel="Set up")
def plugins(ctx: typer.Context, output: Output = None) -> None:
    """List the plugins that are installed."""
    from controller import plugins as installed
    from controller.cli import show

    found = [
        {"kind": kind, "name": name, "from": installed.origin(kind, name)}
        for kind in installed.KINDS
        for name in installed.names(kind)
    ]
    _session(ctx).with_output(output).print(found, lambda: show.table(("kind", "name", "from"), found))


@app.command(rich_help_panel="Set up")
def reload(ctx: typer.Context, output: Output = None) -> None:
    """Make the daemon load the configuration anew, all or nothing."""
    session = _session(ctx).with_output(output)
    with session.client() as client:
        done = client.post("/v1/reload")
    changed = ", ".join(done.get("changed") or ()) or "nothing changed"
    lines = [f"configuration {done['version']} is in force: {changed}"]
    if not done.get("leads", True):
        lines = [
            f"configuration {done['version']} is in use on this replica, which follows: {changed}",
            "if it is newer than that of the leader, this replica leads with it within seconds; see: retrainctl status",
        ]
    lines += map(str, done.get("warnings") or ())
    session.print(done, lambda: lines)


@token_app.command("create")
def token_create(
    ctx: typer.Context,
    name: str,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, such as 90d; else until it is revoked.")
    ] = None,
    output: Output = None,
) -> None:
    """Make a token; its secret is shown this once."""
    session = _session(ctx).with_output(output)
    with session.client() as client:
        made = client.post("/v1/tokens", {"name": name, "expires_in": expires})
    session.note("the token is shown this once:")
    session.print(made, lambda: [made["token"]])


@token_app.command("list")
def token_list(ctx: typer.Context, output: Output = None) -> None:
    """List the tokens, also those revoked."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    with session.client() as client:
        found = client.get("/v1/tokens")
    session.print(found, lambda: show.tokens(found, session.now()))


@token_app.command("revoke")
def token_revoke(ctx: typer.Context, name: str, output: Output = None) -> None:
    """Revoke a token, at once."""
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    with session.client() as client:
        done = client.delete(f"/v1/tokens/{segment(name)}")
    session.print(done, lambda: [f"token {name} is revoked"])


# -------------------------------------------------------------------------------------------------------- look


@app.command(rich_help_panel="Look")
def status(ctx: typer.Context, output: Output = None) -> None:
    """Show what is happening now, on one screen."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    found = session.ask(lambda client: client.get("/v1/status"), lambda offline: offline.status())
    session.print(found, lambda: show.status(found, session.now(), session.width()))


@app.command(rich_help_panel="Look")
def why(
    ctx: typer.Context,
    thing: Annotated[
        str, typer.Argument(metavar="RUN|EVENT|MODEL|POLICY", help="An id or its last characters, or a name.")
    ],
    key: Annotated[str | None, typer.Option("--key", help="Of a policy: one key in full.")] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="As of an instant (UTC without a zone), or so long ago, such as 3d."),
    ] = None,
    output: Output = None,
) -> None:
    """Explain why something happened, or did not, and what could come next."""
    from controller.cli import show
    from controller.cli.backtest import instant_of
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    then = None if at is None else instant_of(at, session.now())
    account = session.ask(
        lambda client: client.get(f"/v1/why/{segment(thing)}", key=key, at=None if then is None else then.isoformat()),
        lambda offline: offline.why(thing, key=key, at=then),
    )
    session.print(account, lambda: show.account(account, session.width()))


app.command("policies", rich_help_panel="Look")(policies)


@models_app.callback(invoke_without_command=True)
def _models(ctx: typer.Context, output: Output = None) -> None:
    if ctx.invoked_subcommand is None:
        models_list(ctx, output)


@models_app.command("list")
def models_list(ctx: typer.Context, output: Output = None) -> None:
    """List the models and their champions."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    found = session.ask(lambda client: client.get("/v1/models"), lambda offline: offline.models())
    session.print(found, lambda: show.models(found, session.now()))


@models_app.command("show")
def models_show(ctx: typer.Context, model: ModelName, output: Output = None) -> None:
    """Show a model: its champion, versions, promotions."""
    from controller.cli import show
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    found = session.ask(lambda client: client.get(f"/v1/models/{segment(model)}"), lambda offline: offline.model(model))
    session.print(found, lambda: show.model(found, session.now(), session.width()))


@models_app.command("adopt")
def models_adopt(
    ctx: typer.Context,
    model: ModelName,
    artifact: Annotated[str, typer.Option(help="Its path or URI.")],
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="One of its metrics; repeat it.")
    ] = None,
    reason: Reason = None,
    output: Output = None,
) -> None:
    """Take in a champion that was trained elsewhere."""
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    place = str(Path(artifact).absolute()) if Path(artifact).exists() else artifact
    body = {"artifact": place, "metrics": session.parameters(metric), "reason": session.reason(reason, needed=True)}
    with session.client() as client:
        done = client.act(f"/v1/models/{segment(model)}/adopt", body, session.new_key())
    session.print(done, lambda: [f"{model} adopts {place}"])


@runs_app.callback(invoke_without_command=True)
def _runs(ctx: typer.Context, output: Output = None) -> None:
    if ctx.invoked_subcommand is None:
        runs_list(ctx, output=output)


@runs_app.command("list")
def runs_list(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(autocompletion=complete_model)] = None,
    state: Annotated[str | None, typer.Option(help="Such as FAILED.")] = None,
    limit: Limit = 20,
    before: Annotated[str | None, typer.Option(help="Only runs older than this one.")] = None,
    output: Output = None,
) -> None:
    """List runs, the newest first."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    query: dict[str, Any] = {
        "model": model,
        "state": state.upper() if state else None,
        "limit": limit,
        "before": before,
    }
    found = session.ask(lambda client: client.get("/v1/runs", **query), lambda offline: offline.runs(**query))
    session.print(found, lambda: show.runs(found["items"], session.now(), session.width()))


@runs_app.command("show")
def runs_show(ctx: typer.Context, run: RunName, output: Output = None) -> None:
    """Show a run: its causes, jobs, verdict, versions."""
    from controller.cli import show
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    found = session.ask(lambda client: client.get(f"/v1/runs/{segment(run)}"), lambda offline: offline.run(run))
    session.print(found, lambda: show.run(found, session.now(), session.width()))


@runs_app.command("watch")
def runs_watch(ctx: typer.Context, run: RunName, output: Output = None) -> None:
    """Follow a run to its end."""
    from controller.cli import follow

    session = _session(ctx).with_output(output)
    with session.client() as client:
        found = follow.watch(session, client, run)
    session.print_json_only(found)
    follow.end(found)


@runs_app.command("resolve")
def runs_resolve(
    ctx: typer.Context,
    run: RunName,
    became: Annotated[Literal["running", "failed"], typer.Option("--as", help="What became of the job.")],
    candidate: Annotated[str | None, typer.Option(help="Which candidate, if the run has several.")] = None,
    handle: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="What its launcher knows the job by, if that was never said; @FILE reads a file, - standard input.",
        ),
    ] = None,
    reason: Reason = None,
    idempotency_key: Key = None,
    output: Output = None,
) -> None:
    """Say what became of a job that is UNKNOWN."""
    session = _session(ctx).with_output(output)
    body: dict[str, Any] = {"as": became, "candidate": candidate, "reason": session.reason(reason, needed=True)}
    if handle is not None:
        body["handle"] = session.payload(handle)
        if not isinstance(body["handle"], dict):
            raise Failure(
                Exit.USAGE, f"{handle!r} is not a handle", hint="""write a JSON object: '{"name": "job-1"}'"""
            )
    _act(session, run, "resolve", body, f"the job of {run} counts as {became}", key=idempotency_key)


@app.command(rich_help_panel="Look")
def logs(
    ctx: typer.Context,
    run: RunName,
    candidate: Annotated[str | None, typer.Option(help="Which candidate, if the run has several.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which attempt; the last one by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> None:
    """Print the log of a run's job."""
    from controller.cli import follow as following

    session = _session(ctx)
    with session.client() as client:
        following.log(session, client, run, candidate=candidate, attempt=attempt, on=follow)


@events_app.callback(invoke_without_command=True)
def _events(ctx: typer.Context, output: Output = None) -> None:
    if ctx.invoked_subcommand is None:
        events_list(ctx, output=output)


@events_app.command("list")
def events_list(
    ctx: typer.Context,
    origin: Annotated[str | None, typer.Option(help="Name of the source that took it in.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="The event's type.")] = None,
    state: Annotated[str | None, typer.Option(help="PENDING, PROCESSED or DEAD.")] = None,
    limit: Limit = 20,
    before: Annotated[str | None, typer.Option(help="Only events older than this one.")] = None,
    output: Output = None,
) -> None:
    """List events, the newest first."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    query: dict[str, Any] = {
        "origin": origin,
        "type": kind,
        "state": state.upper() if state else None,
        "limit": limit,
        "before": before,
    }
    found = session.ask(lambda client: client.get("/v1/events", **query), lambda offline: offline.events(**query))
    session.print(found, lambda: show.events(found["items"], session.now()))


@events_app.command("show")
def events_show(ctx: typer.Context, event: str, output: Output = None) -> None:
    """Show an event with its payload."""
    from controller.cli import show
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    found = session.ask(lambda client: client.get(f"/v1/events/{segment(event)}"), lambda offline: offline.event(event))
    session.print(found, lambda: show.event(found, session.now()))


@events_app.command("episodes")
def events_episodes(
    ctx: typer.Context,
    origin: Annotated[str | None, typer.Option(help="Name of the source they come from.")] = None,
    limit: Limit = 200,
    output: Output = None,
) -> None:
    """List the open episodes: alerts that fire and are not resolved."""
    from controller.cli import show

    session = _session(ctx).with_output(output)
    query: dict[str, Any] = {"origin": origin, "limit": limit}
    found = session.ask(lambda client: client.get("/v1/episodes", **query), lambda offline: offline.episodes(**query))
    session.print(found, lambda: show.episodes(found, session.now()))


@events_app.command("send")
def events_send(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, such as drift.detected.")],
    data: Annotated[str | None, typer.Option(help="The payload as JSON; @FILE reads a file, - standard input.")] = None,
    source: Annotated[str, typer.Option(help="Where it happened.")] = "/retrainctl",
    subject: Annotated[str | None, typer.Option(help="What it is about.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Its own id; the same id is the same event.")] = None,
    time: Annotated[str | None, typer.Option(help="When it happened, RFC 3339.")] = None,
    output: Output = None,
) -> None:
    """Send an event."""
    session = _session(ctx).with_output(output)
    event = {
        "specversion": "1.0",
        "id": event_id or session.new_key(),
        "source": source,
        "type": kind,
        "subject": subject,
        "time": time,
        "data": session.payload(data),
    }
    with session.client() as client:
        headers = {"content-type": "application/cloudevents+json"}
        done = client.post("/v1/events", {k: v for k, v in event.items() if v is not None}, headers=headers)
    again = ", which was there already" if done["duplicate"] else ""
    session.print(done, lambda: [f"stored as {done['event_id']}{again}"])


app.command("send", rich_help_panel="Act", help="Send an event (short for `events send`).")(events_send)


# --------------------------------------------------------------------------------------------------------- act


@app.command(rich_help_panel="Act")
def retrain(
    ctx: typer.Context,
    model: ModelName,
    reason: Reason = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter; the value may be JSON.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Pass over the budget; it is recorded with your name.")
    ] = False,
    wait: Wait = False,
    idempotency_key: Key = None,
    output: Output = None,
) -> None:
    """Press the retrain button."""
    from controller.cli import follow
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    body = {"reason": session.reason(reason), "params": session.parameters(param), **({"force": True} if force else {})}
    key = idempotency_key or session.new_key()
    with session.client() as client:
        done = client.act(f"/v1/models/{segment(model)}/retrain", body, key)
        if wait:
            follow.finish(session, client, done)
            return
    again = ", which was pressed already" if done["duplicate"] else ""
    session.print(done, lambda: [f"pressed as {done['event_id']}{again}; see: retrainctl why {done['event_id']}"])


@app.command(rich_help_panel="Act")
def retry(
    ctx: typer.Context,
    run: RunName,
    reason: Reason = None,
    wait: Wait = False,
    idempotency_key: Key = None,
    output: Output = None,
) -> None:
    """Start a new run with the same causes and parameters as a run that ended."""
    from controller.cli import follow
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    key = idempotency_key or session.new_key()
    with session.client() as client:
        body = {"reason": session.reason(reason)}
        done = client.act(f"/v1/runs/{segment(run)}/retry", body, key)
        if wait:
            follow.finish(session, client, done)
            return
    session.print(done, lambda: [f"asked for another run like {run}"])


@app.command(rich_help_panel="Act")
def cancel(
    ctx: typer.Context, run: RunName, reason: Reason = None, idempotency_key: Key = None, output: Output = None
) -> None:
    """Stop a run."""
    session = _session(ctx).with_output(output)
    body = {"reason": session.reason(reason)}
    _act(session, run, "cancel", body, f"{run} is being cancelled", key=idempotency_key)


@app.command(rich_help_panel="Act")
def approve(
    ctx: typer.Context, run: RunName, reason: Reason = None, idempotency_key: Key = None, output: Output = None
) -> None:
    """Let a run that waits for a person be promoted."""
    session = _session(ctx).with_output(output)
    body = {"reason": session.reason(reason)}
    _act(session, run, "approve", body, f"{run} is approved", key=idempotency_key)


@app.command(rich_help_panel="Act")
def reject(
    ctx: typer.Context, run: RunName, reason: Reason = None, idempotency_key: Key = None, output: Output = None
) -> None:
    """Keep a run that waits for a person from being promoted."""
    session = _session(ctx).with_output(output)
    body = {"reason": session.reason(reason)}
    _act(session, run, "reject", body, f"{run} is rejected", key=idempotency_key)


@app.command(rich_help_panel="Act")
def promote(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|VERSION", help="Whose challenger, or which version.")],
    reason: Reason = None,
    idempotency_key: Key = None,
    output: Output = None,
) -> None:
    """Make a version the champion over the gate's head; it shows as your override."""
    session = _session(ctx).with_output(output)
    body = {"target": target, "reason": session.reason(reason, needed=True)}
    with session.client() as client:
        done = client.act("/v1/promote", body, idempotency_key or session.new_key())
    session.print(done, lambda: [f"{target} is being promoted, by you and not by the gate"])


@app.command(rich_help_panel="Act")
def rollback(
    ctx: typer.Context,
    model: ModelName,
    to: Annotated[str | None, typer.Option(help="Which version; the one before the champion by default.")] = None,
    reason: Reason = None,
    idempotency_key: Key = None,
    output: Output = None,
) -> None:
    """Make the previous champion the champion again; automatic promotion is held from then on."""
    from controller.cli.client import segment

    session = _session(ctx).with_output(output)
    body = {"to": to, "reason": session.reason(reason, needed=True)}
    with session.client() as client:
        done = client.act(f"/v1/models/{segment(model)}/rollback", body, idempotency_key or session.new_key())
    session.print(
        done,
        lambda: [
            f"{model} goes back to v{done['version']}; promotion is then held, until `retrainctl resume {model}` or `after_rollback`"
        ],
    )


_Target = Annotated[str, typer.Argument(metavar="all|MODEL|MODEL/POLICY", autocompletion=complete_model)]


@app.command(rich_help_panel="Act")
def pause(ctx: typer.Context, target: _Target = "all", reason: Reason = None, output: Output = None) -> None:
    """Hold all decisions; nothing that arrives meanwhile is lost."""
    session = _session(ctx).with_output(output)
    with session.client() as client:
        done = client.act("/v1/pause", {"target": target, "reason": session.reason(reason)}, session.new_key())
    session.print(done, lambda: [f"{target} is paused"])


@app.command(rich_help_panel="Act")
def resume(ctx: typer.Context, target: _Target = "all", reason: Reason = None, output: Output = None) -> None:
    """End a pause, and the hold after a rollback; what was held goes on. MODEL/POLICY also closes its breaker."""
    session = _session(ctx).with_output(output)
    with session.client() as client:
        done = client.act("/v1/resume", {"target": target, "reason": reason or ""}, session.new_key())
    session.print(done, lambda: [f"{target} goes on"])


def _act(session: Session, run: str, verb: str, body: dict[str, Any], said: str, *, key: str | None) -> None:
    from controller.cli.client import segment

    with session.client() as client:
        done = client.act(f"/v1/runs/{segment(run)}/{verb}", body, key or session.new_key())
    session.print(done, lambda: [said])


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
