"""What people see: tables that fit a hundred columns, and accounts with marks and colours.

Everything that came from outside goes through `one_line` or `clean`, and nothing is read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.cli.text import ago, clean, counted, local, metrics, one_line, parse, span
from controller.core.explain import episode_line, render
from controller.core.watch_shapes import outcome_lines
from controller.errors import Problem

_STYLES = {
    "title": "bold",
    "heading": "bold cyan",
    "good": "green",
    "bad": "red",
    "wait": "yellow",
    "dim": "dim",
    "plain": "",
}
_STATES = {
    "PROMOTED": "green",
    "SUCCEEDED": "green",
    "CHAMPION": "green",
    "APPLIED": "green",
    "REJECTED": "magenta",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "LOST": "red",
    "UNKNOWN": "red",
    "DEAD": "red",
    "CANCELLED": "dim",
    "SUPERSEDED": "dim",
    "AWAITING_APPROVAL": "bold yellow",
}

#: What the quota dropped is of interest for so long.
_RECENT = timedelta(days=1)
#: Deciding that is so far behind is worth a word.
_BEHIND_SECONDS = 5.0
#: Tables are at most this wide.
_LINE = 100

Row = Mapping[str, Any]


def table(columns: Sequence[str], rows: Iterable[Row]) -> list[RenderableType]:
    """Return a plain table of the named columns."""
    found = _table(*columns)
    count = 0
    for row in rows:
        found.add_row(*(_cell(name, row.get(name)) for name in columns))
        count += 1
    return [found] if count else ["none"]


def _table(*columns: str, wide: str = "") -> Table:
    """Return an empty table; the column `wide` takes the room that is left."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for name in columns:
        # The first column is what other commands take, so it is never cut.
        found.add_column(
            name,
            no_wrap=name != wide,
            overflow="ellipsis" if name != wide else "fold",
            min_width=20 if name == "run" else None,
        )
    return found


def _cell(name: str, value: Any) -> Text:
    text = one_line(value)
    return Text(text, style=_STATES.get(text, "") if name == "state" else "")


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold cyan")


# ------------------------------------------------------------------------------------------------------ status


def status(found: Row, now: datetime, width: int) -> list[RenderableType]:
    """Return what is happening now, on one screen that is `width` columns wide."""
    parts: list[RenderableType] = [_leader(found, now), _counts(found, now)]
    if len(found["replicas"]) > 1:
        parts += [_heading("REPLICAS"), *_replicas(found, width)]
    if found["complaints"]:
        parts += [_heading("WRONG"), *(_line(complaint, "red") for complaint in found["complaints"])]
    if found["silent"]:
        parts.append(_heading("SILENT"))
        lines = [f"{s['source']}: nothing came for {_length(s['since'], None, now)}" for s in found["silent"]]
        parts += [_line(line, "yellow") for line in lines]
    if found["pauses"]:
        parts += [_heading("PAUSED"), *(_line(_pause(pause, now), "yellow") for pause in found["pauses"])]
    parts += [_heading("MODELS"), *models(found["models"], now)]
    if found["active"]:
        parts += [_heading("ACTIVE"), _active(found["active"], now)]
    if found["awaiting"]:
        parts += [_heading("WAITING FOR A PERSON"), *runs(found["awaiting"], now, width)]
    held = [entry for entry in found["held"] if entry["count"]]
    if held:
        parts += [_heading("HELD"), _held(held[:8], now)]
        if len(held) > 8:
            parts.append(_line(f"and {len(held) - 8} more", "dim"))
    if found["promotions"]:
        parts.append(_heading("BEING PROMOTED"))
        parts += [_line(f"{p['model']}  {p['kind']}, since {ago(p['created_at'], now)}") for p in found["promotions"]]
    if found["watches"]:
        parts.append(_heading("WATCHED AFTER PROMOTION"))
        parts += [_line(_watch(watch, now)) for watch in found["watches"][:8]]
        if len(found["watches"]) > 8:
            parts.append(_line(f"and {len(found['watches']) - 8} more", "dim"))
    if found["recent"]:
        parts += [_heading("LAST RUNS"), *runs(found["recent"], now, width)]
    return parts


def _leader(found: Row, now: datetime) -> Text:
    leader = found["leader"]
    who, style = "no daemon has led yet", ""
    if leader is not None:
        place = f"{leader['host']} pid {leader['pid']}, term {leader['term']}"
        # Without a lease that ends, nobody can say from the database alone whether that daemon still runs.
        led = "last led" if found["complaints"] is None and leader["ends_in_seconds"] is None else "led"
        who = f"{led} by {place}, since {ago(leader['since'], now)}"
        if leader["is_over"]:
            who, style = f"nobody leads; last led by {place}", "red"
        elif leader["ends_in_seconds"] is not None:
            who += f", lease ends in {leader['ends_in_seconds']:.0f}s"
    return Text.assemble(("retrain controller", "bold"), "  ", (one_line(who), style))


def _replicas(found: Row, width: int) -> list[RenderableType]:
    """Return the daemons on the database, and below them what those that are there complain of."""
    replicas = sorted(found["replicas"], key=lambda replica: (not replica["leads"], replica["is_gone"]))
    # What is the same for all, or nothing, only takes room.
    more = ["program"] if len({replica["program"] for replica in replicas}) > 1 else []
    more += ["waiting"] if any(replica["waiting"] for replica in replicas) else []
    columns = ["replica", "state", "seen", "configuration", *more, "address"]
    rows = [_replica(replica, more) for replica in replicas]
    room = min(_LINE, width) - sum(
        max(len(name), *(len(row[place]) for row in rows)) + 2 for place, name in enumerate(columns[:-1])
    )
    shown = _table(*columns)
    for *cells, address in rows:
        shown.add_row(*cells, _tail(address.plain, max(room, 12)))
    told = [
        _line(f"{replica['host']} pid {replica['pid']}: {reason}", "red")
        for replica in replicas
        if not replica["is_gone"]
        for reason in replica["reasons"][:3]
    ]
    return [shown, *told]


def _replica(replica: Row, more: Sequence[str]) -> list[Text]:
    seen = replica["seen_seconds_ago"]
    cells = [
        Text(one_line(f"{replica['host']} pid {replica['pid']}"), style="bold" if replica["leads"] else ""),
        _replica_state(replica),
        Text("" if seen is None else f"{span(timedelta(seconds=seen))} ago"),
        Text(one_line(replica["config_version"]), style="" if replica["is_in_force"] else "yellow"),
    ]
    shown = {"program": one_line(replica["program"]), "waiting": f"{replica['waiting']:,}"}
    return [*cells, *(Text(shown[name]) for name in more), Text(one_line(replica["address"]))]


def _tail(text: str, limit: int) -> str:
    """Return the end of an address: how the paths of sockets differ is seen there."""
    return text if len(text) <= limit else f"…{text[-limit + 1 :]}"


def _replica_state(replica: Row) -> Text:
    if replica["is_gone"]:
        return Text("gone", style="red")
    does = "leads" if replica["leads"] else "follows"
    if not replica["ready"]:
        return Text(f"{does}, unready", style="red")
    return Text(does, style="green" if replica["leads"] else "")


def _counts(found: Row, now: datetime) -> Text:
    events, letters = found["events"], found["dead_letters"]
    parts = [f"{counted(events['pending'], 'event')} pending"]
    if events["oldest_pending_at"]:
        parts[0] += f" (oldest {ago(events['oldest_pending_at'], now)})"
    dead = sum(each["raw"] + each["events"] for each in letters)
    parts.append(counted(dead, "dead letter"))
    if dead:
        parts[-1] += f" ({', '.join(each['source'] for each in letters if each['raw'] or each['events'])})"
    parts += [
        f"{each['overflowed']:,} of {each['source']} dropped by the quota, last {ago(each['overflowed_at'], now)}"
        for each in letters
        if each["overflowed_at"] and now - parse(each["overflowed_at"]) < _RECENT
    ]
    if (behind := max(found["lag"]["events_seconds"], found["lag"]["timers_seconds"])) >= _BEHIND_SECONDS:
        parts.append(f"decisions are {span(timedelta(seconds=behind))} behind")
    if unsent := found["notifications_dead"]:
        parts.append(f"{counted(unsent, 'message')} to people given up (retrainctl notifications --state dead)")
    is_wrong = dead or unsent or behind >= _BEHIND_SECONDS
    return Text(one_line(" · ".join(parts)), style="red" if is_wrong else "dim")


def _watch(watch: Row, now: datetime) -> str:
    back = f", {watch['samples']} of {watch['needed']} events for a rollback" if watch["rolls_back"] else ""
    return f"{watch['model']}  {watch['run_id']}, ends {ago(watch['until'], now)}{back}"


def _pause(pause: Row, now: datetime) -> str:
    return f"{pause['target'] or 'everything'}  by {pause['actor']} {ago(pause['at'], now)}: {pause['reason'] or 'no reason given'}"


def _active(found: Sequence[Row], now: datetime) -> Table:
    shown = _table("run", "model", "policy", "state", "jobs", "since")
    for run in found:
        jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(run["jobs"].items()))
        since = ago(run["started_at"] or run["decided_at"], now)
        shown.add_row(run["id"], _cell("model", run["model"]), _policy(run), _cell("state", run["state"]), jobs, since)
    return shown


def _policy(row: Row) -> Text:
    key = f" [{row['key']}]" if row.get("key") else ""
    return Text(one_line(f"{row['policy']}{key}"))


def _held(found: Sequence[Row], now: datetime) -> Table:
    shown = _table("policy", "at", "until", "events", "reason", wide="reason")
    for entry in found:
        key = f" [{entry['key']}]" if entry["key"] else ""
        until = ago(entry["until"], now) if entry["until"] else one_line(entry["waits_for"] or "more come")
        name = one_line(f"{entry['model']}/{entry['policy']}{key}")
        shown.add_row(name, entry["stage"], until, str(entry["count"]), one_line(entry["reason"]))
    return shown


# ------------------------------------------------------------------------------------------------------- lists


def models(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    """Return the models as a table."""
    if not found:
        return ["no models yet"]
    shown = _table("model", "champion", "metrics", "since", "last run", "", wide="metrics")
    for entry in found:
        champion, last = entry["champion"], entry["last_run"]
        shown.add_row(
            one_line(entry["name"]),
            "none yet" if champion is None else f"v{champion['number']}",
            "" if champion is None else metrics(champion["metrics"]),
            "" if champion is None else ago(champion["promoted_at"], now),
            Text("") if last is None else _last(last, now),
            Text("promotion held", style="yellow") if entry["promotion_held"] else "",
        )
    return [shown]


def _last(run: Row, now: datetime) -> Text:
    at = run["finished_at"] or run["decided_at"]
    return Text.assemble((run["state"], _STATES.get(run["state"], "")), f" {ago(at, now)}")


def runs(found: Sequence[Row], now: datetime, width: int) -> list[RenderableType]:
    """Return runs as a table."""
    if not found:
        return ["no runs"]
    rows = [
        (
            run["id"],
            one_line(run["model"]),
            _policy(run).plain,
            run["state"],
            ago(run["finished_at"] or run["decided_at"], now),
            one_line(run["reason"] or run["cause"].replace("_", " ")),
        )
        for run in found
    ]
    room = min(_LINE, width) - sum(max(len(row[place]) for row in rows) + 2 for place in range(5))
    shown = _table("run", "model", "policy", "state", "when", "why")
    for name, model_name, policy, state, when, why in rows:
        shown.add_row(name, model_name, policy, _cell("state", state), when, _shortened(why, max(room, 12)))
    return [shown]


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def events(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    """Return events as a table."""
    if not found:
        return ["no events"]
    shown = _table("event", "type", "origin", "subject", "received", "state", wide="subject")
    for event in found:
        cells = (one_line(event[name]) for name in ("id", "type", "origin", "subject"))
        shown.add_row(*cells, ago(event["received_at"], now), _cell("state", event["state"]))
    return [shown]


def episodes(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    """Return open episodes as a table."""
    if not found:
        return ["no open episodes"]
    shown = _table("type", "subject", "source", "since", "last seen", "opened by")
    for episode in found:
        cells = (one_line(episode[name] or "") for name in ("type", "subject", "origin"))
        when = (ago(episode[name], now) for name in ("opened_at", "seen_at"))
        shown.add_row(*cells, *when, one_line(episode["event_id"] or ""))
    return [shown]


def tokens(found: Sequence[Row], now: datetime) -> list[RenderableType]:
    """Return tokens as a table."""
    if not found:
        return ["no tokens"]
    shown = _table("name", "made by", "made", "good until")
    for token in found:
        until = local(token["expires_at"]) if token["expires_at"] else "it is revoked"
        until = "revoked" if token["revoked_at"] else until
        shown.add_row(one_line(token["name"]), one_line(token["created_by"]), ago(token["created_at"], now), until)
    return [shown]


# ----------------------------------------------------------------------------------------------- single things


def model(found: Row, now: datetime, width: int) -> list[RenderableType]:
    """Return a model with its versions and promotions."""
    parts: list[RenderableType] = [*models([found], now)]
    if found["promotion_held"]:
        until = ago(found["held_until"], now) if found["held_until"] else "until a person resumes"
        parts.append(_line(f"automatic promotion is held {until}: {found['held_reason']}", "yellow"))
    if found["versions"]:
        shown = _table("version", "state", "candidate", "metrics", "made", "artifact", wide="artifact")
        for version in found["versions"][:15]:
            gone = "" if version["artifact_kept"] else " (removed)"
            shown.add_row(
                f"v{version['number']}",
                _cell("state", version["state"]),
                one_line(version["candidate"] or "adopted"),
                metrics(version["metrics"], 2),
                ago(version["created_at"], now),
                one_line(version["artifact"]) + gone,
            )
        parts += [_heading("VERSIONS"), shown]
    if found["promotions"]:
        numbers = {version["id"]: f"v{version['number']}" for version in found["versions"]}
        shown = _table("version", "kind", "state", "by", "when", "reason", wide="reason")
        for entry in found["promotions"][:10]:
            shown.add_row(
                numbers.get(entry["version_id"], entry["version_id"]),
                entry["kind"],
                _cell("state", entry["state"]),
                one_line(entry["actor"]),
                ago(entry["finished_at"] or entry["created_at"], now),
                one_line(entry["reason"]),
            )
        parts += [_heading("PROMOTIONS"), shown]
    if found["runs"]:
        parts += [_heading("LAST RUNS"), *runs(found["runs"], now, width)]
    return parts


def run(found: Row, now: datetime, width: int) -> list[RenderableType]:
    """Return a run with its jobs; `why` tells the rest."""
    parts: list[RenderableType] = [*runs([found], now, width)]
    parts.append(_line(f"because of {counted(found['cause_count'], 'event')}", "dim"))
    parts += [
        Text.assemble(
            "  ", _line(f"{c['event_id'] or ''} {c['type']} from {c['origin']}, {ago(c['time'], now)}"), style="dim"
        )
        for c in found["causes"][:5]
    ]
    if found["params"]:
        parts.append(_line(f"with {found['params']}"))
    if found["jobs"]:
        parts += [_heading("JOBS"), _jobs(found["jobs"], now)]
    if (verdict := found["verdict"]) is not None:
        parts += [_heading("VERDICT"), _line(f"{verdict['outcome']}: {verdict['reason']}")]
    if lines := [_line(f"{mark} {text}", _STYLES[tone]) for text, mark, tone in outcome_lines(found, local)]:
        parts += [_heading("OUTCOME"), *lines]
    parts += ["", _line(f"the whole account: retrainctl why {found['id']}", "dim")]
    return parts


def _jobs(found: Sequence[Row], now: datetime) -> Table:
    shown = _table("candidate", "state", "attempt", "for", "metrics", "reason", wide="reason")
    for job in found:
        began = job["attempts"][-1]["started_at"] if job["attempts"] else None
        shown.add_row(
            one_line(job["candidate"]),
            _cell("state", job["state"]),
            str(job["attempt"] or ""),
            _length(began or job["created_at"], job["finished_at"], now),
            metrics(job["metrics"]),
            one_line(job["reason"]),
        )
    return shown


def _length(start: str, end: str | None, now: datetime) -> str:
    from controller.cli.text import parse, span

    return span((now if end is None else parse(end)) - parse(start))


def live_run(found: Row, now: datetime) -> RenderableType:
    """Return a run as it is drawn again and again while it is watched."""
    return Group(*run(found, now, _LINE))


def history_line(row: Row, found: Row) -> str:
    """Return a change of state as one line."""
    names = {job["id"]: f"job {job['candidate']}" for job in found["jobs"]}
    name = names.get(row["entity"], row["machine"])
    reason = f": {row['reason']}" if row["reason"] else ""
    return one_line(f"{local(row['at'])}  {name} {row['target']} ({row['cause']}){reason}")


def event(found: Row, now: datetime) -> list[RenderableType]:
    """Return an event with its payload."""
    import json

    parts: list[RenderableType] = [*events([found], now)]
    parts.append(_line(f"{found['source']} {found['source_id']}, happened {local(found['time'])}", "dim"))
    if found["error"]:
        parts.append(_line(found["error"], "red"))
    if found["state"] == "DEAD":
        parts.append(_line(f"decide it anew: retrainctl dead replay {found['id']}", "dim"))
    if (episode := found["episode"]) is not None:
        parts.append(_line(episode_line(episode, local), "dim"))
    if found["extensions"]:
        parts += [_heading("EXTENSIONS"), Text(clean(json.dumps(found["extensions"], indent=2, ensure_ascii=False)))]
    parts += [_heading("DATA"), Text(clean(json.dumps(found["data"], indent=2, ensure_ascii=False)))]
    parts.append(_line(f"what came of it: retrainctl why {found['id']}", "dim"))
    return parts


def account(found: Row, width: int) -> list[RenderableType]:
    """Return the account of a run, an event, a model or a policy, in lines that fit the terminal."""
    lines = [replace(line, text=clean(line.text).replace("\n", " ")) for line in render(found, instant=local)]
    return [Text(part, style=_STYLES[line.tone]) for line in lines for part in line.wrapped(width)]


def problem(found: Problem) -> dict[str, Any]:
    """Return a problem of a configuration, for programs."""
    names = ("severity", "file", "line", "column", "path", "message", "hint")
    return {name: getattr(found, name) for name in names}


def problems(found: Sequence[Problem], path: Path) -> list[RenderableType]:
    """Return what is wrong with a configuration."""
    if not found:
        return [Text(f"{path}: nothing is wrong", style="green")]
    return [Text(one_line(f"{p.severity}: {p}"), style="red" if p.severity == "error" else "yellow") for p in found]
