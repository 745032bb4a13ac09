"""Kills the daemon at random while the flights demo runs, and compares the end with a demo that nobody disturbed.

    python tests/campaign/demo_kills.py [--kills 50] [--months 12] [--seed N] [--log FILE]

The same table must come out, no month may be trained twice, and no running job may have been killed: every job has one attempt, and it
ended by itself. The same seed kills after the same waits; where a kill lands still depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
FLIGHTS = ROOT / "examples" / "flights"
#: What an undisturbed month takes, roughly; kills are spread over the whole demo.
SECONDS_A_MONTH = 12.0


@dataclass(frozen=True)
class Outcome:
    """What a demo came to."""

    table: list[dict[str, Any]]
    #: (candidate, attempts, how each ended) of every job.
    jobs: list[tuple[str, int, str]]
    kills: int
    seconds: float


def main() -> int:
    """Run both demos and compare; returns 1 when they differ."""
    options = _parse()
    print(f"seed {options.seed}: {options.kills} kills over {options.months} months", flush=True)
    with tempfile.TemporaryDirectory(prefix="retrain-demo-") as name:
        calm = play(Path(name) / "calm", months=options.months, kills=0, seed=options.seed)
        print(f"undisturbed: {len(calm.table)} rows in {calm.seconds:.0f} s", flush=True)
        pace = calm.seconds / max(options.kills, 1)
        wild = play(Path(name) / "wild", months=options.months, kills=options.kills, seed=options.seed, pace=pace)
        print(f"disturbed: {wild.kills} kills, {len(wild.table)} rows in {wild.seconds:.0f} s", flush=True)
    problems = compare(calm, wild, kills=options.kills)
    verdict = "the same end" if not problems else "; ".join(problems)
    line = f"seed {options.seed}: {wild.kills} kills over {options.months} months: {verdict}"
    print(line)
    if options.log:
        with Path(options.log).open("a") as log:
            log.write(line + "\n")
    return int(bool(problems))


def play(folder: Path, *, months: int, kills: int, seed: int, pace: float = SECONDS_A_MONTH) -> Outcome:
    """Play the demo in a copy of its folder, with so many kills of the daemon on the way."""
    shutil.copytree(FLIGHTS, folder, ignore=shutil.ignore_patterns("state", "landing", "models", "__pycache__"))
    for name in ("state", "landing"):
        (folder / name).mkdir()
    table = folder / "table.json"
    choose = random.Random(seed)
    began = time.monotonic()
    daemon = start_daemon(folder)
    driver = start_driver(folder, months, table)
    done = 0
    try:
        while driver.poll() is None:
            try:
                driver.wait(choose.uniform(0.05, pace) if done < kills else None)
            except subprocess.TimeoutExpired:
                daemon.send_signal(signal.SIGKILL)
                daemon.wait()
                done += 1
                daemon = start_daemon(folder)
        if driver.returncode != 0:
            raise SystemExit(f"the demo ended with {driver.returncode}: see its output above")
    finally:
        for process in (driver, daemon):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    return Outcome(json.loads(table.read_text()), read_jobs(folder), done, time.monotonic() - began)


def compare(calm: Outcome, wild: Outcome, *, kills: int) -> list[str]:
    """Return what is wrong with the disturbed demo."""
    problems = []
    if wild.kills < kills:
        problems.append(f"only {wild.kills} of {kills} kills before the demo ended")
    if calm.table != wild.table:
        problems.append(f"another table: {_difference(calm.table, wild.table)}")
    if len(calm.jobs) != len(wild.jobs):
        problems.append(f"{len(wild.jobs)} jobs instead of {len(calm.jobs)}")
    problems += [
        f"job {job} did not end by itself at its first attempt" for job in wild.jobs if job[1:] != (1, "SUCCEEDED 0")
    ]
    return problems


def read_jobs(folder: Path) -> list[tuple[str, int, str]]:
    """Return every job of a demo, in order, from its database."""
    from controller.store.dialect import sqlite_module

    query = (
        "SELECT job.candidate, count(*), group_concat(job.state || ' ' || coalesce(attempt.exit_code, '?')) "
        "FROM job JOIN attempt ON attempt.job_id = job.id GROUP BY job.id ORDER BY job.id"
    )
    database = sqlite_module().connect(folder / "state" / "retrain.db")
    try:
        return [(row[0], row[1], row[2]) for row in database.execute(query)]
    finally:
        database.close()


def start_daemon(folder: Path) -> subprocess.Popen[bytes]:
    """Start the daemon on a copy of the demo; its log goes to the state folder."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    with (folder / "state" / "retraind.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "controller", "--config", str(folder / "flights.yaml")],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


def start_driver(folder: Path, months: int, table: Path) -> subprocess.Popen[bytes]:
    """Start the demo's driver on a copy, with a daemon that somebody else runs."""
    arguments = [
        "--config",
        str(folder / "flights.yaml"),
        "--no-daemon",
        "--months",
        str(months),
        "--table-json",
        str(table),
    ]
    return subprocess.Popen([sys.executable, str(folder / "demo.py"), *arguments], stdout=subprocess.DEVNULL)


def _difference(calm: list[dict[str, Any]], wild: list[dict[str, Any]]) -> str:
    if len(calm) != len(wild):
        return f"{len(wild)} rows instead of {len(calm)}"
    for before, after in zip(calm, wild, strict=True):
        for name, value in before.items():
            if after.get(name) != value:
                return f"{before.get('month')} {name}: {after.get(name)!r} instead of {value!r}"
    return "in its shape"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--log", help="append one line of the outcome to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
