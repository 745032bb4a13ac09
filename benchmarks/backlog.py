"""A backlog: how soon a daemon is ready that finds 100,000 events to decide on, and how fast the loops work one off in process.

- ready: seconds from the start of the daemon until `/readyz` says so, and until everything is decided; beside the same with nothing to do.
- in process: events a second that are stored and decided by the real loops, without threads and without a client, from a list in memory;
  what of it is storing; and deciding alone, of events that are stored.

    python benchmarks/backlog.py [--database sqlite|postgresql|both] [--events 100000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from growth import EVENTS, SMALL, Installation
from latency import UnixConnection, daemon, database_url, machine

#: Events of one transaction, as many as the inbox takes at once.
BATCH = 2000
PENDING = [statement.replace("'PROCESSED', i, {began} + i", "'PENDING', NULL, NULL") for statement in EVENTS]
PATIENCE = 120.0


def main() -> int:
    """Run each database, and print what was found; return 1 when a goal is missed."""
    options = _parse()
    report: dict[str, Any] = {"machine": machine()}
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    with tempfile.TemporaryDirectory(prefix="retrain-backlog-") as name:
        for database in databases:
            report[database] = measure(Path(name) / database, database, options.events)
            show(database, report[database])
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(report[database]["ready_s"] <= 5 for database in databases) else 1


def measure(folder: Path, database: str, events: int) -> dict[str, float]:
    """Return seconds and events a second."""
    folder.mkdir()
    with database_url(database, folder) as url:
        made = Installation(folder, url)
        found: dict[str, float] = {"events": events, **in_process(made, events)}
        made.write(PENDING, SMALL, SMALL + events)
        found["decided_alone_a_second"] = events / decide(made)
        made.store.close()
        found["ready_with_nothing_s"] = start(folder, 0)[0]
        made = Installation(folder, url)
        made.write(PENDING, SMALL + events, SMALL + 2 * events)
        made.store.close()
        found["ready_s"], found["decided_s"] = start(folder, events)
    return found


def in_process(made: Installation, events: int) -> dict[str, float]:
    """Return how fast a list of events becomes durable and is decided."""
    made.fill(0, SMALL)
    made.warm()
    batches = [made.events(BATCH, "ordered") for _ in range(events // BATCH)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # as the daemon does
    began, stored = time.perf_counter(), 0.0
    for batch in batches:
        at = time.perf_counter()
        made.store_events(batch)
        stored += time.perf_counter() - at
        made.decide()
    took = time.perf_counter() - began
    return {"in_process_a_second": events / took, "stored_alone_a_second": events / stored}


def decide(made: Installation) -> float:
    """Return the seconds in which everything that waits is decided."""
    began = time.perf_counter()
    made.decide()
    return time.perf_counter() - began


def start(folder: Path, events: int) -> tuple[float, float]:
    """Return the seconds until a daemon is ready, and until it has decided so many events."""
    began = time.monotonic()
    with daemon(folder / "retrain.yaml", folder) as control:
        ready = time.monotonic() - began
        while pending(control):
            if time.monotonic() - began > PATIENCE:
                raise SystemExit(f"{events} events were not decided within {PATIENCE:g} s")
            time.sleep(0.1)
        return ready, time.monotonic() - began


def pending(control: Path) -> int:
    """Return how many events wait to be decided."""
    connection = UnixConnection(control)
    connection.request("GET", "/v1/status")
    found = json.loads(connection.getresponse().read())
    connection.close()
    return int(found["events"]["pending"])


def show(database: str, found: dict[str, float]) -> None:
    """Print what was found on a database."""
    print(f"\n{database}, {found['events']:,} events")
    print(
        f"ready after {found['ready_s']:.2f} s (goal 5 s), with nothing to do {found['ready_with_nothing_s']:.2f} s;",
        end=" ",
    )
    print(f"all decided after {found['decided_s']:.1f} s")
    print(f"in process {found['in_process_a_second']:,.0f} events/s stored and decided (goal 25,000);", end=" ")
    print(f"stored alone {found['stored_alone_a_second']:,.0f}, decided alone {found['decided_alone_a_second']:,.0f}")
    sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
