"""What the past costs: the same work with a thousand events stored and with ten million, and a hundredth as many finished runs.

Before each measurement a database is filled by plain SQL, in the real schema, to so many decided events and finished runs (100,000 runs at
most). Then the real loops work in this process, without threads and without HTTP, so that nothing but the store differs:

- one event: milliseconds until it is stored and decided, one at a time (a run is decided, too, for one in ten of them);
- batch: events a second, a thousand at a time, stored and decided;
- page, why, status: milliseconds of what people ask for: a page of events and of runs, `why` of an event, the status.

A small installation (a thousand events) takes turns with the large one, round by round, so that whatever else the machine does meets both:
the ratio is what to compare. Senders' ids are counted up ("ordered") or drawn ("random"); both become a 64-bit digest, which is indexed.

    python benchmarks/growth.py [--database sqlite|postgresql|both] [--most 10000000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from latency import database_url, machine

from controller.api.why import why
from controller.clock import Ids, SystemClock, system_random
from controller.config import load_config
from controller.core.model import NewEvent
from controller.engine.evaluator import Evaluator
from controller.engine.inbox import Inbox
from controller.engine.runtime import Runtime
from controller.ports import Batch
from controller.store import Store
from controller.store.views import Views
from controller.telemetry import Metrics
from controller.testing import RecordingLog

#: Events that are stored in the installation with which the large ones are compared.
SMALL = 1_000
MOST_RUNS = 100_000
#: Rounds of a measurement, and what one round measures of each kind.
ROUNDS, SINGLES, BATCHES, ASKED = 5, 60, 4, 5
BATCH = 1000
#: Events that each installation takes in before anything is measured, so that no page and no statement is met for the first time.
WARM = 10_000
POLICIES = 20
#: Goals: how many times more it may cost with ten million events.
ORDERED, RANDOM = 1.5, 2.0


def main() -> int:
    """Fill, measure and print each decade; return 1 when a goal is missed."""
    options = _parse()
    report: dict[str, Any] = {"machine": machine()}
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    met = True
    with tempfile.TemporaryDirectory(prefix="retrain-growth-", dir=options.folder) as name:
        for database in databases:
            rows = report[database] = measure(Path(name), database, options.most)
            show(database, rows)
            met = met and all(ratio <= goal for ratio, goal in goals(rows[-1]))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if met else 1


def measure(folder: Path, database: str, most: int) -> list[dict[str, Any]]:
    """Return a row for each decade up to `most` stored events."""
    sizes = [size for size in (10**power for power in range(3, 9)) if size <= most]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        large = stack.enter_context(installation(folder / f"{database}-large", database))
        small = stack.enter_context(installation(folder / f"{database}-small", database))
        small.fill(0, SMALL)
        small.warm()
        filled = 0
        for size in sizes:
            began = time.monotonic()
            large.fill(filled, size)
            filled = size
            took = time.monotonic() - began
            large.warm()
            rows.append({"events": size, "runs": runs_of(size), "filled_in_s": took, **compare(small, large)})
            print(f"{database}: {size:,} events, filled in {took:.0f} s", file=sys.stderr, flush=True)
    return rows


def compare(small: Installation, large: Installation) -> dict[str, Any]:
    """Return medians of the large installation, of the small one, and their ratios, by what was measured."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(ROUNDS):
        for place, which in enumerate((small, large)):
            for name, values in which.round().items():
                found.setdefault(name, ([], []))[place].extend(values)
    medians = {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in found.items()}
    return {name: {"small": a, "large": b, "ratio": b / a} for name, (a, b) in medians.items()}


def goals(row: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield each ratio with what it may be."""
    for kind, goal in (("ordered", ORDERED), ("random", RANDOM)):
        yield row[f"one event, {kind}"]["ratio"], goal
        yield row[f"batch, {kind}"]["ratio"], goal
    for name in ("page of events", "page of runs", "why", "status"):
        yield row[name]["ratio"], ORDERED


def runs_of(events: int) -> int:
    """Return how many finished runs go with so many events: a full page at least."""
    return max(min(events // 100, MOST_RUNS), 100)


# ----------------------------------------------------------------------------------------------- an installation


class Installation:
    """The real loops on a database, ticked by hand."""

    def __init__(self, folder: Path, url: str) -> None:
        config = write_config(folder, url)
        self._clock, chance = SystemClock(), system_random()
        ids = Ids(self._clock, chance)
        self.store = Store.open(config.store.reveal(), base=config.base, clock=self._clock, ids=ids)
        self.store.upgrade()
        self.store.lead(owner="bench", host="bench", pid=1)
        self._runtime = Runtime(
            config=config,
            store=self.store,
            clock=self._clock,
            random=chance,
            ids=ids,
            log=RecordingLog(),
            metrics=Metrics(),
            owner="bench",
        )
        self._inbox, self._evaluator = Inbox(self._runtime), Evaluator(self._runtime)
        self._evaluator.activate(actor="bench")
        self._views = Views(self.store)
        self._number = 0
        self._drawn = random.Random(1)

    def fill(self, low: int, high: int) -> None:
        """Write events and runs from number `low` + 1 on, up to so many."""
        self.write(EVENTS, low, high)
        self.write(RUNS, runs_of(low) if low else 0, runs_of(high))
        if self.store.dialect == "postgresql":
            self._plain("ANALYZE")  # as its autovacuum would
        # What was written is on the disk before anything is measured, or the disk is busy with it all the while.
        os.sync()

    def write(self, statements: Sequence[str], low: int, high: int) -> None:
        """Execute statements that write rows for each number above `low`, up to `high`."""
        if self.store.dialect == "postgresql":
            series, mod = "generate_series({low}, {high}) AS n(i)", "%%"
            key, identity = "lpad(i::text, 15, '0')", "hashint8extended(i, 1)"
        else:
            series = (
                "(WITH RECURSIVE n(i) AS (SELECT {low} UNION ALL SELECT i + 1 FROM n WHERE i < {high}) SELECT i FROM n)"
            )
            mod = "%"
            key, identity = "substr('000000000000000' || i, -15)", "random()"
        words = {"key": key, "identity": identity, "began": micros(-90), "policies": POLICIES, "mod": mod}
        for start in range(low, high, CHUNK):
            numbers = series.format(low=start + 1, high=min(start + CHUNK, high))
            for statement in statements:
                self._plain(statement.format(series=numbers, **words))

    def _plain(self, statement: str) -> None:
        with self.store.engine.begin() as connection:
            if self.store.dialect == "postgresql":
                connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql(statement)

    def warm(self) -> None:
        """Take in some events, and ask everything once."""
        for _ in range(WARM // BATCH):
            self.take(self.events(BATCH, "random"))
        self.round()

    def round(self) -> dict[str, list[float]]:
        """Return what one round measures: milliseconds an event or an answer."""
        found: dict[str, list[float]] = {}
        gc.collect()
        gc.disable()
        try:
            for kind in ("ordered", "random"):
                found[f"one event, {kind}"] = [timed(lambda e=e: self.take([e])) for e in self.events(SINGLES, kind)]
                batches = [self.events(BATCH, kind) for _ in range(BATCHES)]
                found[f"batch, {kind}"] = [timed(lambda b=b: self.take(b)) / BATCH for b in batches]
            asked = f"evt-{1:016d}"
            questions: dict[str, Callable[[], object]] = {
                "page of events": lambda: self._views.events(limit=50),
                "page of runs": lambda: self._views.runs(limit=50),
                "why": lambda: why(self._views, asked, self._runtime.config.models, key=None, at=None),
                "status": self._views.status,
            }
            for name, ask in questions.items():
                found[name] = [timed(ask) for _ in range(ASKED)]
        finally:
            gc.enable()
        return found

    def take(self, events: list[NewEvent]) -> None:
        """Store events and decide on them."""
        self.store_events(events)
        self.decide()

    def store_events(self, events: list[NewEvent]) -> None:
        """Store events."""
        answer = self._inbox.put("api", Batch(events=events))
        self._inbox.tick(self._clock.now())
        answer.result(timeout=0)

    def decide(self) -> None:
        """Decide on everything that waits."""
        while self._evaluator.tick(self._clock.now()).again:
            pass

    def events(self, count: int, kind: str) -> list[NewEvent]:
        """Return new events, each for one policy; one in ten is over its threshold when it comes alone, one in a hundred in a batch."""
        made = []
        for _ in range(count):
            self._number += 1
            number = self._number
            name = f"e{number:012d}" if kind == "ordered" else f"{self._drawn.getrandbits(128):032x}"
            fires = number % (100 if count >= BATCH else 10) == 7
            made.append(
                NewEvent(
                    source="/bench",
                    source_id=name,
                    type=f"drift.k{number % POLICIES}",
                    subject="flight-delay",
                    data={"share": 0.9 if fires else 0.1, "column": "age", "method": "ks"},
                )
            )
        return made


@contextmanager
def installation(folder: Path, database: str) -> Iterator[Installation]:
    """Give an empty installation."""
    folder.mkdir(parents=True)
    with database_url(database, folder) as url:
        made = Installation(folder, url)
        try:
            yield made
        finally:
            made.store.close()


def write_config(folder: Path, url: str) -> Any:
    """Write a configuration of twenty models with a policy each, and return it loaded."""
    models = {
        f"model-{number}": {
            "policies": {"drift": {"on": {"type": f"drift.k{number}", "when": "event.data.share > 0.3"}}},
            "train": {"command": ["true"]},
        }
        for number in range(POLICIES)
    }
    path = folder / "retrain.yaml"
    path.write_text(json.dumps({"version": 1, "store": url, "models": models}))
    config = load_config(path)
    config.state_dir.mkdir(exist_ok=True)
    return config


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e6


def micros(days: int) -> int:
    """Return the instant so many days from now as it is stored."""
    at = datetime.now(UTC) + timedelta(days=days)
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# ---------------------------------------------------------------------------------------------------- the past

#: Rows of one statement.
CHUNK = 200_000

EVENTS = [
    """
    INSERT INTO event (id, identity, origin, source, source_id, type, subject, time, received_at, data, extensions, state,
                       decided_seq, decided_at)
    SELECT 'evt-0' || {key}, {identity}, 'api', '/bench', 'old-' || i, 'drift.k' || (i {mod} {policies}), 'flight-delay',
           {began} + i, {began} + i, '{{"share":0.1,"rows":' || i || '}}', '{{}}', 'PROCESSED', i, {began} + i
    FROM {series}
    """
]

RUNS = [
    """
    INSERT INTO decision (id, seq, kind, model, policy, policy_version, key, stage, reason, trace, event_id, run_id, at, term)
    SELECT 'dec-0' || {key}, i, 'FIRE', 'model-' || (i {mod} {policies}), 'drift', 'v', '', 'fire', 'drift of a column', '[]',
           'evt-0' || {key}, 'run-0' || {key}, {began} + i, 1
    FROM {series}
    """,
    """
    INSERT INTO run (id, model, policy, policy_version, config_version, key, state, cause, reason, decision_id, decided_at,
                     params, started_at, finished_at)
    SELECT 'run-0' || {key}, 'model-' || (i {mod} {policies}), 'drift', 'v', 'c', '', 'SUCCEEDED', 'done', '', 'dec-0' || {key},
           {began} + i, '{{}}', {began} + i, {began} + i
    FROM {series}
    """,
    """
    INSERT INTO run_cause (run_id, position, decision_id, event_id, type, origin, time)
    SELECT 'run-0' || {key}, 1, 'dec-0' || {key}, 'evt-0' || {key}, 'drift.k' || (i {mod} {policies}), 'api', {began} + i
    FROM {series}
    """,
    """
    INSERT INTO job (id, run_id, model, candidate, state, cause, reason, params, attempt, created_at, finished_at)
    SELECT 'job-0' || {key}, 'run-0' || {key}, 'model-' || (i {mod} {policies}), 'only', 'SUCCEEDED', 'succeeded', '', '{{}}', 1,
           {began} + i, {began} + i
    FROM {series}
    """,
    """
    INSERT INTO attempt (id, job_id, number, nonce, launcher, owner, handle, folder, launched_at, started_at, finished_at,
                         exit_code, reason)
    SELECT 'att-0' || {key}, 'job-0' || {key}, 1, 'n', 'process', 'bench', '{{}}', 'runs/' || i, {began} + i, {began} + i,
           {began} + i, 0, ''
    FROM {series}
    """,
    *(
        f"""
    INSERT INTO history (machine, entity, origin, target, cause, reason, actor, term, at)
    SELECT '{machine}', '{machine}-0' || {{key}}, '{origin}', '{target}', 'past', '', 'controller', 1, {{began}} + i
    FROM {{series}}
    """
        for machine, origin, target in (
            ("run", "", "QUEUED"),
            ("run", "QUEUED", "TRAINING"),
            ("run", "TRAINING", "SUCCEEDED"),
            ("job", "", "PENDING"),
            ("job", "PENDING", "LAUNCHING"),
            ("job", "LAUNCHING", "RUNNING"),
            ("job", "RUNNING", "SUCCEEDED"),
        )
    ),
]


# ----------------------------------------------------------------------------------------------------- showing


def show(database: str, rows: list[dict[str, Any]]) -> None:
    """Print the table of a database: what it costs, and how many times what it costs with a thousand events."""
    names = [name for name in rows[0] if isinstance(rows[0][name], dict)]
    print(
        f"\n{database}: milliseconds (an event, of a batch; an answer), and times the small installation's in the same minute"
    )
    print(f"{'':20}" + "".join(f"{row['events']:>18,}" for row in rows))
    for name in names:
        cells = [f"{row[name]['large']:10.3f} {row[name]['ratio']:5.2f} x" for row in rows]
        print(f"{name:20}" + "".join(f"{cell:>18}" for cell in cells))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="sqlite")
    parser.add_argument("--most", type=int, default=10_000_000, help="stored events of the last decade")
    parser.add_argument(
        "--folder", help="where the databases are made; by default the system's folder for temporary files"
    )
    parser.add_argument("--json", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
