"""Many jobs at once: how soon two hundred have started, and what it costs to watch a thousand.

- starts: events that are sent by HTTP as fast as they are taken, each with a job of its own; seconds from the first request to the first
  instruction of the last job. Floor: as many bare starts of the same static binary, one after the other.
- watched: jobs that run for as long as this takes; the share of one core that the daemon needs while nothing else happens, and its memory.

    python benchmarks/jobs.py [--starts 200] [--watched 1000] [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from latency import UnixConnection, build_stamp, cpu_seconds, daemon, machine

#: Seconds that anything may take before it is given up.
PATIENCE = 90.0
#: Events of one request.
BATCH = 100


def main() -> int:
    """Run both parts, and print what they found; return 1 when a goal is missed."""
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="retrain-jobs-") as name:
        folder = Path(name)
        stamp = build_stamp(folder)
        report: dict[str, Any] = {"machine": machine()}
        report["starts"] = starts(folder / "starts", stamp, options.starts)
        report["watched"] = watched(folder / "watched", options.watched, options.seconds)
    show(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["starts"]["seconds"] <= 5 and report["watched"]["core_share"] <= 0.1 else 1


def starts(folder: Path, stamp: Path, count: int) -> dict[str, float]:
    """Return how long it takes until so many jobs have begun."""
    stamps, bare = folder / "stamps", folder / "bare"
    config = write_config(folder, [str(stamp), str(stamps)], slots=count)
    with daemon(config, folder) as control:
        began = time.monotonic()
        send(control, count)
        wait_until(lambda: lines(stamps) >= count, what=f"{count} jobs to start")
        took = time.monotonic() - began
        wait_until(lambda: open_jobs(control) == 0, what="all of them to end")
        ended = time.monotonic() - began
    began = time.monotonic()
    for _ in range(count):
        os.waitpid(os.posix_spawn(stamp, [str(stamp), str(bare)], {}), 0)
    return {"jobs": count, "seconds": took, "seconds_to_the_end": ended, "floor_seconds": time.monotonic() - began}


def watched(folder: Path, count: int, seconds: int) -> dict[str, float]:
    """Return what the daemon needs while so many jobs run."""
    config = write_config(folder, ["sleep", "100000"], slots=count)
    with leaving_nothing(folder), daemon(config, folder) as control:
        pid = int((folder / "daemon.pid").read_text())
        began = time.monotonic()
        send(control, count)
        wait_until(lambda: running_jobs(control) >= count, what=f"{count} jobs to run")
        started = time.monotonic() - began
        time.sleep(5)
        before = cpu_seconds(pid)
        time.sleep(seconds)
        used = cpu_seconds(pid) - before
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    return {"jobs": count, "started_in_s": started, "core_share": used / seconds, "rss_mb": rss}


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """End the jobs afterwards: they outlive the daemon, as they should."""
    try:
        yield
    finally:
        for started in folder.glob("state/runs/*/started"):
            with suppress(OSError, ValueError):
                os.killpg(int(started.read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: not alive(folder), what="the shims to end")


def alive(folder: Path) -> bool:
    """Say whether a process still works below this folder."""
    return (
        subprocess.run(["pgrep", "-f", str(folder / "state" / "runs")], capture_output=True, check=False).returncode
        == 0
    )


def write_config(folder: Path, command: list[str], *, slots: int) -> Path:
    """Write a configuration with one policy that fires on every event, and room for all of them."""
    folder.mkdir()
    model = {
        "policies": {"every": {"on": {"type": "bench.event"}}},
        "train": {"command": command, "concurrency": "allow", "retries": {"attempts": 1}},
    }
    document = {
        "version": 1,
        "store": "sqlite:///state/retrain.db",
        "launchers": {"process": {"slots": slots}},
        "models": {"bench": model},
    }
    path = folder / "retrain.yaml"
    path.write_text(json.dumps(document))
    return path


def send(control: Path, count: int) -> None:
    """Send so many events, in batches."""
    for first in range(0, count, BATCH):
        events = [
            {"specversion": "1.0", "id": f"e{number}", "source": "/bench", "type": "bench.event"}
            for number in range(first, min(first + BATCH, count))
        ]
        connection = UnixConnection(control)
        body = json.dumps(events).encode()
        connection.request("POST", "/v1/events", body, {"Content-Type": "application/cloudevents-batch+json"})
        answer = connection.getresponse()
        if answer.status != 202:
            raise SystemExit(f"the daemon answered {answer.status}: {answer.read()!r}")
        connection.close()


def status(control: Path) -> dict[str, Any]:
    """Return the daemon's status."""
    connection = UnixConnection(control)
    connection.request("GET", "/v1/status")
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return found


def open_jobs(control: Path) -> int:
    """Return how many runs are under way."""
    return len(status(control)["active"])


def running_jobs(control: Path) -> int:
    """Return how many jobs the metrics count as launched."""
    connection = UnixConnection(control)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = [line for line in text.splitlines() if line.startswith("retrain_jobs_total") and 'state="launched"' in line]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def lines(path: Path) -> int:
    """Return how many lines a file has."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(holds: Callable[[], bool], *, what: str) -> None:
    """Wait for something to hold."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(0.1)


def show(report: dict[str, Any]) -> None:
    """Print both parts."""
    first, second = report["starts"], report["watched"]
    print(f"\n{first['jobs']} jobs, each with an event of its own: all begun in {first['seconds']:.2f} s (goal 5 s),")
    print(
        f"all recorded as ended in {first['seconds_to_the_end']:.2f} s; as many bare starts take {first['floor_seconds']:.2f} s"
    )
    print(
        f"\n{second['jobs']} running jobs, begun in {second['started_in_s']:.1f} s, watched with {second['core_share']:.1%} of a core"
    )
    print(f"(goal 10 %) and {second['rss_mb']:.0f} MB")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--watched", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
