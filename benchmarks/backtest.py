"""A backtest of a million events: how long it takes on one core, and whether its memory stays flat.

Twenty policies over five models; each event matches one of them, and one in a hundred makes it fire. Half of the policies ask a `when`,
which most events do not get past, the others count, which keeps every event for a while.

    python benchmarks/backtest.py [EVENTS]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from controller.clock import Ids
from controller.config import load_config
from controller.core.model import NewEvent
from controller.engine.backtest.record import backtest
from controller.store import Store
from controller.store.export import Past
from controller.store.intake import prepare
from controller.testing import ManualClock, SeededRandom

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90
POLICIES = 20
MODELS = 5
BATCH = 2000


def write_config(folder: Path) -> Path:
    models: dict[str, dict] = {}
    for number in range(POLICIES):
        model = models.setdefault(f"model-{number % MODELS}", {"policies": {}, "train": {"command": ["true"]}})
        on = {"type": f"metric.t{number}", "when": "event.data.share > 0.99"}
        if number % 2:
            on = {"type": f"metric.t{number}", "count": 100, "within": "7d"}
        model["policies"][f"p{number}"] = {"on": on}
    path = folder / "retrain.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "store": "sqlite:///retrain.db", "models": models}))
    return path


def fill(store: Store, clock: ManualClock, ids: Ids, count: int) -> None:
    step = timedelta(days=DAYS) / count
    for first in range(0, count, BATCH):
        clock.set_now(START + first * step)
        events = [
            NewEvent(
                source="/bench",
                source_id=f"e{number}",
                type=f"metric.t{number % POLICIES}",
                subject="churn",
                # Each policy sees every twentieth event; one in a hundred of them is above the threshold.
                data={"share": 1.0 if number // POLICIES % 100 == 0 else 0.5, "region": "eu", "rows": number % 977},
            )
            for number in range(first, min(first + BATCH, count))
        ]
        prepared = prepare("api", events, domain=None, ids=ids, now=clock.now())
        with store.transaction("fill", fenced=False) as tx:
            tx.events.insert(prepared)


def resident() -> float:
    """Return the memory in use, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config(write_config(folder))
        clock = ManualClock(START)
        ids = Ids(clock, SeededRandom(1))
        store = Store.open(config.store.reveal(), base=folder, clock=clock, ids=ids)
        store.upgrade()
        fill(store, clock, ids, count)
        store.close()

        reading = Store.open(config.store.reveal(), base=folder, clock=clock, ids=ids, readonly=True)
        seen: list[float] = []
        wall, cpu = time.perf_counter(), time.process_time()

        def goes_on(at: datetime) -> bool:
            seen.append(resident())
            return True

        until = START + timedelta(days=DAYS)
        report = backtest(config, Past(reading), since=START, until=until, goes_on=goes_on)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        reading.close()
    total = report.account.total()
    result = {
        "events": report.events,
        "fired": total.fired + total.merged,
        "retrainings": total.fired,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "microseconds_per_event": round(cpu / count * 1e6, 1),
        # After a tenth, when every policy has what it remembers, and at the end.
        "mib_after_a_tenth": round(seen[len(seen) // 10], 1),
        "mib_at_the_end": round(seen[-1], 1),
    }
    print(json.dumps(result, indent=2))
    return 0 if report.events == count else 1


if __name__ == "__main__":
    sys.exit(main())
