"""The driver of the flights demo: a year of New York flights, month by month.

Problem: a newcomer should see within minutes, on real data, what the controller does.
Idea: play the world around it.
An upstream job delivers a month, a monitor reports drift, a person presses the button.
After each step, wait until the run that it caused has ended.
At the end, show what was decided, and what never retraining would have cost.

The driver decides nothing: it finds runs by the events that caused them, whose ids are fixed.
So the daemon may be killed and restarted at any moment, and every call may be repeated.
`make demo` calls it; the kill test calls it with `--no-daemon` and reads `--table-json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import data
import drift
import httpx
import pandas as pd
import train
from rich import box
from rich.console import Console
from rich.table import Table

MODEL = "flight-delay"
FINAL_STATES = {
    "PROMOTED",
    "REJECTED",
    "SUCCEEDED",
    "FAILED",
    "TIMED_OUT",
    "CANCELLED",
    "SUPERSEDED",
}
#: The monitor reports drift against January; only the second share is above the policy's 0.3.
DRIFT_REPORTS_AFTER = (3, 4)
DRIFT_REFERENCE = 1
DRIFT_THRESHOLD = 0.3
COLUMNS = (
    "month",
    "cause",
    "candidates, on validation",
    "n",
    "challenger",
    "champion",
    "gain",
    "verdict",
    "never\nretrained",
)
NUMERIC_COLUMNS = {"n", "gain", "never\nretrained"}
BUTTON_AFTER = 9
BUTTON_KEY = "demo-button"
BUTTON_REASON = "September is hard to predict: would the summer months alone do better?"
BUTTON_PARAMS = {"months": 3}
RUN_TIMEOUT_SECONDS = 300.0
DAEMON_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1

#: Of the table where there is no terminal to ask, as in a log.
WIDTH_WITHOUT_TERMINAL = 142

_console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One run in the final table; the same in every demo, so it has no ids and no times."""

    #: The newest month that had landed, such as `2013-04`.
    month: str
    #: file, drift or button.
    cause: str
    #: The run's final state.
    state: str
    #: Candidate to its `auc_valid`, by which the challenger is chosen; None when its job failed.
    candidates: dict[str, float | None]
    challenger: str | None
    challenger_auc: float | None
    challenger_se: float | None
    champion_auc: float | None
    champion_se: float | None
    #: Standard error of the difference between the two, on the same flights.
    gain_se: float | None
    #: Flights in the evaluation.
    rows: int | None
    #: AUC of the model of January on the same flights.
    never_auc: float | None


class Api:
    """The controller's HTTP API on its Unix socket, patient while the daemon is restarted."""

    def __init__(self, socket: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(_short(socket)))
        self._client = httpx.Client(transport=transport, base_url="http://controller", timeout=10.0)

    def is_ready(self) -> bool:
        """Say whether the daemon answers that it is ready."""
        try:
            return self._client.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def post_event(self, event: dict[str, Any]) -> None:
        """Hand over a CloudEvent; safe to repeat, its id makes it one event."""
        headers = {"content-type": "application/cloudevents+json"}
        self._call("POST", "/v1/events", json=event, headers=headers)

    def press(self, *, reason: str, params: dict[str, Any], key: str) -> str:
        """Press the retrain button, and return its event's id; the same key is the same press."""
        body = {"reason": reason, "params": params}
        headers = {"idempotency-key": key}
        answer = self._call("POST", f"/v1/models/{MODEL}/retrain", json=body, headers=headers)
        return str(answer["event_id"])

    def run_caused_by(self, identity: str) -> dict[str, Any] | None:
        """Return the oldest run caused by an event of this identity: a file's name, or an id."""
        page = self._call("GET", "/v1/runs", params={"model": MODEL, "limit": 500})
        for summary in reversed(page["items"]):
            run = self.run(summary["id"])
            if any(_carries(cause, identity) for cause in run["causes"]):
                return run
        return None

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run with its causes, jobs and verdict."""
        return self._call("GET", f"/v1/runs/{run_id}")

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call until the daemon answers; everything sent here may be sent twice."""

        def attempt() -> httpx.Response | None:
            try:
                response = self._client.request(method, path, **arguments)
            except httpx.TransportError:
                return None
            return None if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR else response

        response = _wait_for(attempt, DAEMON_TIMEOUT_SECONDS, f"an answer to {method} {path}")
        if response.is_error:
            msg = f"{method} {path} was refused with {response.status_code}: {response.text}"
            raise SystemExit(msg)
        return response.json() if response.content else None


class Demo:
    """The year as it goes by; one method per thing that happens."""

    def __init__(self, api: Api, landing: Path, year: pd.DataFrame) -> None:
        self._api = api
        self._landing = landing
        self._year = year
        self._months = {month: train.prepare(year[year["month"] == month]) for month in data.MONTHS}
        self._never: Any = None
        self.rows: list[Row] = []

    def play(self, month_count: int) -> None:
        """Let the first months of the year happen."""
        for month in data.MONTHS[:month_count]:
            self._deliver(month)
            if month in DRIFT_REPORTS_AFTER:
                self._report_drift(month)
            if month == BUTTON_AFTER:
                self._press_button(month)

    def _deliver(self, month: int) -> None:
        path = data.deliver(self._year, month, self._landing)
        _say(f"[bold]{_label(month)}[/]  {path.name} lands ({path.stat().st_size / 1e6:.1f} MB)")
        self._await_run(month, "file", path.name)

    def _report_drift(self, month: int) -> None:
        report = drift.measure(self._year, month=month, reference=DRIFT_REFERENCE)
        event = {
            "specversion": "1.0",
            "id": f"drift-{_label(month)}",
            "source": "/monitors/flights",
            "type": "drift.data",
            "subject": MODEL,
            "datacontenttype": "application/json",
            "data": report,
        }
        self._api.post_event(event)
        fires = report["share"] > DRIFT_THRESHOLD
        shown = f"{report['share']:.0%} of {report['feature_count']} features differ from January's"
        hint = "" if fires else f"; below {DRIFT_THRESHOLD:.0%}, nothing is to start"
        _say(f"[bold]{_label(month)}[/]  the monitor reports drift: {shown}{hint}")
        if fires:
            self._await_run(month, "drift", str(event["id"]))

    def _press_button(self, month: int) -> None:
        _say(f"[bold]{_label(month)}[/]  a person presses retrain: “{BUTTON_REASON}”")
        event_id = self._api.press(reason=BUTTON_REASON, params=BUTTON_PARAMS, key=BUTTON_KEY)
        self._await_run(month, "button", event_id)

    def _await_run(self, month: int, cause: str, identity: str) -> None:
        def ended() -> dict[str, Any] | None:
            run = self._api.run_caused_by(identity)
            return run if run is not None and run["state"] in FINAL_STATES else None

        run = _wait_for(ended, RUN_TIMEOUT_SECONDS, f"the end of the run that {identity!r} causes")
        row = self._row(month, cause, run)
        self.rows.append(row)
        _say(f"         {_sentence(row)}")

    def _row(self, month: int, cause: str, run: dict[str, Any]) -> Row:
        jobs = {job["candidate"]: job for job in run["jobs"]}
        challenger = (run.get("verdict") or {}).get("challenger")
        metrics = (jobs[challenger]["metrics"] if challenger else None) or {}
        champion = (jobs[challenger]["champion_metrics"] if challenger else None) or {}
        if self._never is None and challenger is not None and run["state"] == "PROMOTED":
            self._never = self._first_model(month, jobs[challenger]["params"])
        rows = metrics.get("rows")
        return Row(
            month=_label(month),
            cause=cause,
            state=run["state"],
            candidates={name: _validation_auc(job) for name, job in sorted(jobs.items())},
            challenger=challenger,
            challenger_auc=metrics.get("auc"),
            challenger_se=metrics.get("auc_se"),
            champion_auc=champion.get("auc"),
            champion_se=champion.get("auc_se"),
            gain_se=metrics.get("auc_gain_se"),
            rows=None if rows is None else int(rows),
            never_auc=self._never_auc(month),
        )

    def _first_model(self, month: int, params: dict[str, Any]) -> Any:
        """Train the first champion once more, by the job's code: all that never retraining has."""
        return train.train(self._split(month), params)

    def _never_auc(self, month: int) -> float | None:
        if self._never is None:
            return None
        rows = self._split(month).evaluation
        auc, _ = train.delong(rows["late"].to_numpy(), [train.predict(self._never, rows)])
        return round(float(auc[0]), 6)

    def _split(self, month: int) -> train.Split:
        return train.split_rows({_label(month): self._months[month]})


def main() -> None:
    """Play the demo to its end; exits 0 when every run ended and was understood."""
    arguments = _arguments()
    config = arguments.config.resolve()
    folder = config.parent
    socket = folder / "state" / "retrain.sock"
    api = Api(socket)
    if arguments.no_daemon:
        _wait_for(lambda: api.is_ready() or None, DAEMON_TIMEOUT_SECONDS, f"a daemon at {socket}")
        rows = _play(api, folder, arguments.months)
    else:
        if api.is_ready():
            msg = f"a daemon already answers at {socket}; stop it first, or use --no-daemon"
            raise SystemExit(msg)
        _empty(folder)
        with _daemon(config, api):
            rows = _play(api, folder, arguments.months)
    if arguments.table_json is not None:
        table = json.dumps([asdict(row) for row in rows], indent=2)
        arguments.table_json.write_text(table + "\n", "utf-8")
    _show(rows)
    _show_next(_short(config))
    if failed := [row for row in rows if row.state not in {"PROMOTED", "REJECTED"}]:
        msg = f"{len(failed)} of {len(rows)} runs ended neither PROMOTED nor REJECTED"
        raise SystemExit(msg)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play a year of flights to the controller.")
    default = Path(__file__).with_name("flights.yaml")
    parser.add_argument("--config", type=Path, default=default, help="the demo's configuration")
    parser.add_argument("--months", type=int, default=12, choices=data.MONTHS, help="how many")
    parser.add_argument("--no-daemon", action="store_true", help="it runs already; empty nothing")
    parser.add_argument("--table-json", type=Path, help="also write the final table here")
    return parser.parse_args()


def _play(api: Api, folder: Path, month_count: int) -> list[Row]:
    demo = Demo(api, folder / "landing", data.load_year())
    demo.play(month_count)
    return demo.rows


def _empty(folder: Path) -> None:
    for name in ("state", "landing", "models"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("state", "landing"):
        (folder / name).mkdir()


@contextmanager
def _daemon(config: Path, api: Api) -> Iterator[None]:
    """Run the daemon while the block runs; its log goes to the state folder."""
    log = config.parent / "state" / "retraind.log"
    # The jobs say `python`: they get the interpreter of this environment.
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), os.environ.get("PATH", os.defpath)])
    environment = os.environ | {"PATH": path}
    command = [str(bin_folder / "retraind"), "--config", str(config)]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        _wait_for(lambda: _started(process, api, log), DAEMON_TIMEOUT_SECONDS, "a ready daemon")
        _say(f"the daemon is ready (log: {_short(log)})")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(process: subprocess.Popen[bytes], api: Api, log: Path) -> bool | None:
    if process.poll() is not None:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])
        msg = f"the daemon ended with exit code {process.returncode}:\n{tail}"
        raise SystemExit(msg)
    return api.is_ready() or None


def _show(rows: list[Row]) -> None:
    title = "Who may serve? AUC ± standard error on the last eight days of each month"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMERIC_COLUMNS else "left")
    for row in rows:
        table.add_row(*_cells(row))
    _console.print(table)
    _show_cost(rows)


def _cells(row: Row) -> list[str]:
    colour = "green" if row.state == "PROMOTED" else "yellow"
    return [
        row.month,
        row.cause,
        ", ".join(f"{name} {_number(auc)}" for name, auc in row.candidates.items()),
        "–" if row.rows is None else f"{row.rows:,}",
        f"{row.challenger or '–'} {_number(row.challenger_auc)} ± {_number(row.challenger_se)}",
        _champion(row),
        _gain(row),
        f"[{colour}]{row.state}[/]",
        _number(row.never_auc),
    ]


def _champion(row: Row) -> str:
    if row.champion_auc is None:
        return "none yet"
    return f"{_number(row.champion_auc)} ± {_number(row.champion_se)}"


def _show_cost(rows: list[Row]) -> None:
    """Say what never retraining costs, by the champions that served while the flights flew."""
    pairs = [
        (row.champion_auc, row.never_auc)
        for row in rows
        if row.cause == "file" and row.champion_auc is not None and row.never_auc is not None
    ]
    if not pairs:
        return
    champion, never = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    _console.print(
        f"After the first month, the champion that served until each new model was judged "
        f"had an AUC of {champion:.3f} on average (n = {len(pairs)}), the first model {never:.3f}: "
        f"[bold]never retraining would have cost {champion - never:.3f} AUC.[/]",
        highlight=False,
    )


def _show_next(config: Path) -> None:
    _console.print("\nThe database is still there. Try:")
    for words in ("status", "runs list", "why <run>"):
        _console.print(f"  retrainctl --config {config} {words}", markup=False, highlight=False)


def _sentence(row: Row) -> str:
    if row.challenger_auc is None:
        return f"{row.state}: no challenger"
    against = "no champion yet"
    if row.champion_auc is not None:
        against = f"champion {_number(row.champion_auc)}, {_gain(row)}"
    colour = "green" if row.state == "PROMOTED" else "yellow"
    challenger = f"{row.challenger} {_number(row.challenger_auc)}"
    return f"{challenger} against {against}: [{colour}]{row.state}[/]"


def _validation_auc(job: dict[str, Any]) -> float | None:
    return (job["metrics"] or {}).get("auc_valid")


def _gain(row: Row) -> str:
    if row.challenger_auc is None or row.champion_auc is None:
        return ""
    return f"{row.challenger_auc - row.champion_auc:+.3f} ± {_number(row.gain_se)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _label(month: int) -> str:
    return f"{data.YEAR}-{month:02}"


def _carries(cause: dict[str, Any], identity: str) -> bool:
    """Say whether a cause is known by this identity."""
    return identity in {cause["event_id"], cause["source_id"], cause["subject"]}


def _short(path: Path) -> Path:
    """Return the shorter of the absolute and the relative path: a socket's may have 107 bytes."""
    relative = Path(os.path.relpath(path))
    return relative if len(str(relative)) < len(str(path)) else path


def _wait_for(probe: Callable[[], T | None], seconds: float, what: str) -> T:
    """Return the first value that is not None; exits with what was awaited when time is up."""
    deadline = time.monotonic() + seconds
    while (value := probe()) is None:
        if time.monotonic() > deadline:
            msg = f"waited {seconds:.0f} s for {what}"
            raise SystemExit(msg)
        time.sleep(POLL_SECONDS)
    return value


def _say(text: str) -> None:
    _console.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
