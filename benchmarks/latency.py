"""How long from one event by HTTP to the first instruction of the job it starts, beside the floor of this machine.

One event at a time: POST to the daemon's socket → durable → decided → run and job rows → the job's first instruction, stamped by a static
binary. The floor is measured in the same run, between the events: a bare HTTP round trip to a server that only answers, three durable
commits of one row each, and a bare `posix_spawn` of the same binary. The shim's share (what it costs that a job outlives the daemon) is
measured apart, by launching the binary through the process launcher alone.

    python benchmarks/latency.py [--events 200] [--database sqlite|postgresql|both] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

PATIENCE = 20.0


def main() -> int:
    """Run the benchmark and print its tables."""
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="retrain-latency-") as name:
        folder = Path(name)
        stamp = build_stamp(folder)
        report: dict[str, Any] = {"machine": machine(), "events": options.events}
        for database in ["sqlite", "postgresql"] if options.database == "both" else [options.database]:
            with database_url(database, folder) as url:
                report[database] = measure(database, url, folder / database, stamp, options.events)
                show(database, report[database])
        if not options.skip_idle:
            report["idle"] = measure_idle(folder / "idle")
            show_idle(report["idle"])
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


# ------------------------------------------------------------------------------------------------- measuring


def measure(database: str, url: str, folder: Path, stamp: Path, events: int) -> dict[str, list[float]]:
    """Return milliseconds of each part, one value an event: ours, and the parts of the floor."""
    folder.mkdir()
    stamps = folder / "stamps"
    config = write_config(folder, url, [str(stamp), str(stamps)])
    found: dict[str, list[float]] = {
        part: [] for part in ("event to job", "http", "commits", "spawn", "through the shim")
    }
    commit = committer(database, url, folder)
    with daemon(config, folder) as control, bare_server(folder / "bare.sock") as bare:
        launcher = Shimmed(folder, stamp)
        for number in range(-10, events):
            ours = one_event(control, stamps, number)
            http_ms = timed(lambda: request(bare, "POST", "/", body()))
            commits = timed(lambda: [commit() for _ in range(3)])
            spawn = bare_spawn(stamp, folder / "bare-stamps")
            shimmed = launcher.one()
            if number >= 0:  # the first few warm up
                for part, value in zip(found, (ours, http_ms, commits, spawn, shimmed), strict=True):
                    found[part].append(value)
    return found


def one_event(control: Path, stamps: Path, number: int) -> float:
    """Post one event and return how long it took until its job stamped its time."""
    before = stamps.stat().st_size if stamps.exists() else 0
    payload = body(f"event-{number}")
    connection = UnixConnection(control)
    connection.connect()
    began = time.monotonic_ns()
    connection.request("POST", "/v1/events", payload, {"Content-Type": "application/cloudevents+json"})
    answer = connection.getresponse()
    if answer.status != 202:
        raise SystemExit(f"the daemon answered {answer.status}: {answer.read()!r}")
    answer.read()
    connection.close()
    line = wait_for_line(stamps, before)
    time.sleep(0.06)  # let the run be judged before the next event
    return (int(line) - began) / 1e6


class Shimmed:
    """The binary through the process launcher, without the rest of the controller."""

    def __init__(self, folder: Path, stamp: Path) -> None:
        from controller.clock import SystemClock
        from controller.launchers.process import ProcessLauncher
        from controller.ports import LauncherContext
        from controller.telemetry import logger

        self._folder = folder / "shimmed"
        self._stamps = folder / "shimmed-stamps"
        self._number = 0
        context = LauncherContext(base=folder, state=self._folder, clock=SystemClock(), log=logger("bench"))
        self._launcher = ProcessLauncher(ProcessLauncher.Settings(), context)
        self._options = ProcessLauncher.Options(command=[str(stamp), str(self._stamps)])

    def one(self) -> float:
        """Launch once and return the time to its first instruction."""
        from controller.ports import Order

        self._number += 1
        name = f"attempt-{self._number}"
        attempt = self._folder / name
        attempt.mkdir(parents=True)
        before = self._stamps.stat().st_size if self._stamps.exists() else 0
        order = Order(
            run_id="run",
            job_id="job",
            attempt_id=name,
            attempt=1,
            model="bench",
            candidate="only",
            folder=attempt,
            environment={},
            options=self._options,
        )
        began = time.monotonic_ns()
        handle = self._launcher.launch(order)
        line = wait_for_line(self._stamps, before)
        self._launcher.watch(handle, lambda: None)  # as the daemon does
        deadline = time.monotonic() + PATIENCE
        while self._launcher.observe(handle).state == "running" and time.monotonic() < deadline:
            time.sleep(0.001)
        return (int(line) - began) / 1e6


def bare_spawn(stamp: Path, stamps: Path) -> float:
    """Start the binary with nothing around it and return the time to its first instruction."""
    before = stamps.stat().st_size if stamps.exists() else 0
    began = time.monotonic_ns()
    pid = os.posix_spawn(stamp, [str(stamp), str(stamps)], {})
    os.waitpid(pid, 0)
    return (int(wait_for_line(stamps, before)) - began) / 1e6


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e6


def wait_for_line(path: Path, before: int) -> str:
    """Return the line that is appended to a file of `before` bytes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > before:
            data = path.read_bytes()[before:]
            if data.endswith(b"\n"):
                return data.decode()
        time.sleep(0.0005)
    raise SystemExit(f"no stamp within {PATIENCE} s: see the daemon's log")


def committer(database: str, url: str, folder: Path) -> Callable[[], None]:
    """Return a function that commits one row durably, by the bare driver."""
    if database == "postgresql":
        import psycopg

        server = psycopg.connect(url, autocommit=True)
        server.execute("CREATE TABLE floor (id bigserial PRIMARY KEY, body text)")
        return lambda: server.execute("INSERT INTO floor (body) VALUES ('x')") and None
    from controller.store.dialect import sqlite_module

    file = sqlite_module().connect(folder / "floor.db", isolation_level=None)
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("PRAGMA synchronous=FULL")
    file.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, body TEXT)")
    return lambda: file.execute("INSERT INTO floor (body) VALUES ('x')") and None


def measure_idle(folder: Path) -> dict[str, float]:
    """Return what a daemon with 100 policies costs when nothing happens, and how soon it is ready."""
    folder.mkdir()
    models = "\n".join(_idle_model(number) for number in range(100))
    config = folder / "retrain.yaml"
    config.write_text(f"version: 1\nstore: sqlite:///state/retrain.db\nmodels:\n{models}\n")
    first = ready_after(config, folder)
    second = ready_after(config, folder)
    with daemon(config, folder) as control:
        pid = int((folder / "daemon.pid").read_text())
        time.sleep(10)
        before = cpu_seconds(pid)
        time.sleep(60)
        used = cpu_seconds(pid) - before
        request(control, "GET", "/v1/status", None)
        rss = int(
            next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line).split()[1]
        )
    help_ms = [
        timed(lambda: subprocess.run([_program("retrainctl"), "--help"], check=True, capture_output=True))
        for _ in range(7)
    ]
    return {
        "cpu_seconds_a_minute": used,
        "rss_mb": rss / 1024,
        "ready_new_database_s": first,
        "ready_s": second,
        "help_s": statistics.median(help_ms) / 1000,
    }


def ready_after(config: Path, folder: Path) -> float:
    """Return the seconds from the daemon's start until it says that it is ready."""
    began = time.monotonic()
    with daemon(config, folder):
        return time.monotonic() - began


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------------------------------------- what is measured


def build_stamp(folder: Path) -> Path:
    """Build the static binary."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("a C compiler is needed to build benchmarks/stamp.c")
    stamp = folder / "stamp"
    subprocess.run([compiler, "-O2", "-static", "-o", stamp, HERE / "stamp.c"], check=True)
    return stamp


def write_config(folder: Path, url: str, command: list[str]) -> Path:
    """Write a configuration with one policy that fires on every event."""
    config = folder / "retrain.yaml"
    store = f"store: {json.dumps(url)}"
    config.write_text(
        f"""version: 1
{store}
models:
  bench:
    policies:
      every: {{on: {{type: bench.event, when: event.data.size > 10}}}}
    train:
      launcher: process
      command: {json.dumps(command)}
      candidates: {{only: {{}}}}
      retries: {{attempts: 1}}
      concurrency: allow
"""
    )
    return config


def _idle_model(number: int) -> str:
    return f"""  model-{number}:
    policies:
      drift: {{on: {{type: drift.{number}, when: event.data.share > 0.3, count: 3, within: 1h}}}}
    train: {{launcher: process, command: ["true"], candidates: {{only: {{}}}}}}"""


def body(identity: str = "x") -> bytes:
    """Return a CloudEvent as JSON."""
    event = {
        "specversion": "1.0",
        "id": identity,
        "source": "/bench",
        "type": "bench.event",
        "data": {"size": 1000, "share": 0.4, "name": "part-0001"},
    }
    return json.dumps(event).encode()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str, payload: bytes | None) -> int:
    """Send one request on a connection of its own and return the status."""
    connection = UnixConnection(path)
    connection.request(method, target, payload, {"Content-Type": "application/json"} if payload else {})
    status = connection.getresponse().status
    connection.close()
    return status


@contextmanager
def daemon(config: Path, folder: Path) -> Iterator[Path]:
    """Run the daemon and give the path of its socket once it is ready."""
    control = folder / "state" / "retrain.sock"
    with (folder / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [_program("retraind"), "--config", str(config), "--log-level", "warning"], stdout=log, stderr=log
        )
        (folder / "daemon.pid").write_text(str(process.pid))
        try:
            _wait_until_ready(control, process)
            yield control
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_until_ready(control: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if request(control, "GET", "/readyz", None) == 200:
                return
        except OSError:
            time.sleep(0.005)
    raise SystemExit("the daemon did not become ready: see its log")


@contextmanager
def bare_server(path: Path) -> Iterator[Path]:
    """Run an HTTP server that only answers, in a process of its own, with the parser and the loop that we use."""
    process = subprocess.Popen([sys.executable, __file__, "--bare-server", str(path)])
    try:
        deadline = time.monotonic() + PATIENCE
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait(10)


def serve_bare(path: str) -> None:
    """Answer 202 to everything."""
    import uvicorn

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(
        application, uds=path, http="httptools", lifespan="off", log_level="error", access_log=False
    )
    server = uvicorn.Server(config)
    asyncio.run(server.serve())


@contextmanager
def database_url(database: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty database of our own."""
    if database == "sqlite":
        yield "sqlite:///state/retrain.db"
        return
    from tests import postgres

    programs = postgres.find_programs()
    if programs is None:
        raise SystemExit("PostgreSQL's programs are not on this machine")
    server = postgres.start(programs)
    try:
        yield server.create_database()
    finally:
        server.stop()


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# ------------------------------------------------------------------------------------------------- showing


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "page_size": resource.getpagesize(),
        "load": os.getloadavg()[0],
    }


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie, the nearest one above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(database: str, found: dict[str, list[float]]) -> None:
    """Print one database's table."""
    floor = [sum(parts) for parts in zip(found["http"], found["commits"], found["spawn"], strict=True)]
    shim = [through - bare for through, bare in zip(found["through the shim"], found["spawn"], strict=True)]
    rows = {**found, "shim's share": shim, "floor": floor}
    print(f"\n{database}, {len(floor)} events one at a time, milliseconds")
    print(f"{'':18}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for name, values in rows.items():
        figures = [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)]
        print(f"{name:18}" + "".join(f"{figure:8.2f}" for figure in figures))
    ours, ground = percentile(found["event to job"], 0.5), percentile(floor, 0.5)
    net = ours - percentile(shim, 0.5)
    print(f"p50 less the shim's share: {net:.2f} ms = {net / ground:.2f} x floor")


def show_idle(found: dict[str, float]) -> None:
    """Print what an idle daemon costs."""
    print("\nan idle daemon with 100 policies")
    for name, value in found.items():
        print(f"{name:24}{value:10.2f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--skip-idle", action="store_true", help="leave out the minute of idling")
    parser.add_argument("--json", help="write every value to this file")
    parser.add_argument("--bare-server", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare_server:
        serve_bare(options.bare_server)
        raise SystemExit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
