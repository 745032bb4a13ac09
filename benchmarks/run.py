"""Run the benchmarks one after the other, and put what they found into `docs/benchmarks.md`, with pictures.

Each part is a program of this folder, which measures beside its floor and writes its figures as JSON. The tables go between the markers
of the page (`<!-- figures: NAME -->` … `<!-- end of figures -->`), the pictures into `docs/benchmarks/`. Else all is printed.

    python benchmarks/run.py [--only latency,ingest,backlog,jobs,growth] [--most 1000000] [--folder FOLDER] [--write]

Parts whose figures lie in FOLDER already are not run again with `--again no`: so a page can be made from figures of several hours.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from latency import percentile
from pictures import Bar, bars, lines

PAGE = HERE.parent / "docs" / "benchmarks.md"
PICTURES = HERE.parent / "docs" / "benchmarks"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
#: Milliseconds of an event until its job begins: the median and the 99th percentile.
LATENCY_GOALS = {"sqlite": (5.0, 20.0), "postgresql": (8.0, 30.0)}
KAFKA_GOALS = {
    ("kafka-python", "sqlite"): 7_000,
    ("confluent", "sqlite"): 20_000,
    ("kafka-python", "postgresql"): 5_000,
    ("confluent", "postgresql"): 15_000,
}
IN_PROCESS_GOAL, READY_GOAL, STARTS_GOAL, WATCHED_GOAL, IDLE_GOAL, MEMORY_GOAL = 25_000, 5.0, 5.0, 0.1, 0.5, 120.0
Figures = Mapping[str, Any]


def main() -> int:
    """Run the parts that were asked for; return 1 when one of them fails to measure."""
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="retrain-bench-") as name:
        folder = Path(options.folder or name)
        folder.mkdir(parents=True, exist_ok=True)
        broken = [
            part for part in options.only if not run(part, folder, most=options.most, again=options.again == "yes")
        ]
        page = PAGE.read_text()
        for part in options.only:
            file = folder / f"{part}.json"
            if not file.exists():
                continue
            figures = json.loads(file.read_text())
            table = TABLES[part](figures)
            print(f"\n{table}")
            if options.write:
                drawn = DRAWINGS.get(part, _nothing)(figures)
                shown = "".join(f"![{part}](benchmarks/{picture}.svg)\n\n" for picture in drawn)
                page = put(page, part, f"{shown}{table}\n{_where(figures)}")
                for picture, text in drawn.items():
                    PICTURES.mkdir(exist_ok=True)
                    (PICTURES / f"{picture}.svg").write_text(text)
        if options.write:
            PAGE.write_text(page)
    return 1 if broken else 0


def run(part: str, folder: Path, *, most: int, again: bool) -> bool:
    """Run a part, unless its figures are there; return whether there are figures. A goal that is missed is no failure to measure."""
    file = folder / f"{part}.json"
    if file.exists() and not again:
        return True
    file.unlink(missing_ok=True)
    more = {"growth": ["--database", "both", "--most", str(most)]}.get(part, [])
    began = time.monotonic()
    print(f"{part} …", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(HERE / f"{part}.py"), *more, "--json", str(file)], check=False)
    print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return file.exists()


def put(page: str, part: str, text: str) -> str:
    """Return the page with this text between the markers of a part; raises `SystemExit` when it has none."""
    found = re.compile(rf"(<!-- figures: {part} -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    if not found.search(page):
        raise SystemExit(f"{PAGE} has no place for the figures of {part!r}: write <!-- figures: {part} --> there")
    return found.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page)


# ------------------------------------------------------------------------------------------------------ tables


def latency_table(figures: Figures) -> str:
    """Return the table of an event's way to its job, and of an idle daemon."""
    lines = ["| milliseconds | p50 | p99 | max | goals p50, p99 | p50 less the shim's share, of the floor (goal 3 ×) |"]
    lines.append("| --- | ---: | ---: | ---: | --- | ---: |")
    for database in _databases(figures):
        found = figures[database]
        ours, floor, share = found["event to job"], floor_of(found), shim_of(found)
        wanted = LATENCY_GOALS[database]
        times = (percentile(ours, 0.5) - percentile(share, 0.5)) / percentile(floor, 0.5)
        reached = f"{_met(percentile(ours, 0.5) <= wanted[0])}, {_met(percentile(ours, 0.99) <= wanted[1])}"
        goals = f"{wanted[0]:g}, {wanted[1]:g}: {reached}"
        lines.append(
            f"| **event to job, {NAMES[database]}** | {_three(ours)} | {goals} | {times:.2f} ×, {_met(times <= 3)} |"
        )
        lines.append(f"| the floor in the same run | {_three(floor)} | | |")
        lines.append(f"| the shim's share | {_three(share)} | | |")
    if "idle" in figures:
        lines += ["", _idle_table(figures["idle"])]
    return "\n".join(lines)


def _idle_table(found: Figures) -> str:
    rows = [
        (
            "processor time a minute",
            f"{found['cpu_seconds_a_minute']:.2f} s",
            "0.5 s",
            found["cpu_seconds_a_minute"] <= IDLE_GOAL,
        ),
        ("resident memory", f"{found['rss_mb']:.0f} MB", "120 MB", found["rss_mb"] <= MEMORY_GOAL),
        (
            "ready after start, new database",
            f"{found['ready_new_database_s']:.2f} s",
            "1.5 s",
            found["ready_new_database_s"] <= 1.5,
        ),
        ("ready after start", f"{found['ready_s']:.2f} s", "1.5 s", found["ready_s"] <= 1.5),
    ]
    head = "| an idle daemon with 100 policies | reached | goal | |\n| --- | ---: | ---: | --- |\n"
    return head + "\n".join(f"| {name} | {reached} | {goal} | {_met(ok)} |" for name, reached, goal, ok in rows)


def ingest_table(figures: Figures) -> str:
    """Return the table of events a second."""
    lines = [
        "| durable and decided, events a second | reached | goal | | the floor |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    for name, found in figures.items():
        kind, *words = name.split()
        if kind == "http" and words[0] != "floor":
            floor = figures[f"http floor {words[0]}"]["stored_a_second"]
            each = "one event a request" if words[0] == "1" else f"batches of {words[0]}"
            lines.append(f"| HTTP, {each}, {NAMES[words[1]]} | {found['decided_a_second']:,.0f} | – | | {floor:,.0f} |")
        if kind == "kafka" and words[0] != "floor":
            goal, reached = KAFKA_GOALS[words[0], words[1]], found["decided_a_second"]
            floor = figures[f"kafka floor {words[0]}"]["stored_a_second"]
            lines.append(
                f"| Kafka, {words[0]}, {NAMES[words[1]]} | {reached:,.0f} | {goal:,} | {_met(reached >= goal)} | {floor:,.0f} |"
            )
    return "\n".join(lines)


def backlog_table(figures: Figures) -> str:
    """Return the table of a backlog."""
    lines = [
        "| a backlog of 100,000 events | ready | goal | | decided | in process, events/s | goal | | stored alone | decided alone |"
    ]
    lines.append("| --- | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: |")
    for database in _databases(figures):
        found = figures[database]
        ready, rate = found["ready_s"], found["in_process_a_second"]
        cells = [
            NAMES[database],
            f"{ready:.2f} s",
            "5 s",
            _met(ready <= READY_GOAL),
            f"{found['decided_s']:.1f} s",
            f"{rate:,.0f}",
        ]
        cells += ["25,000", _met(rate >= IN_PROCESS_GOAL), f"{found['stored_alone_a_second']:,.0f}"]
        cells.append(f"{found['decided_alone_a_second']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def jobs_table(figures: Figures) -> str:
    """Return the table of many jobs at once."""
    starts, watched = figures["starts"], figures["watched"]
    rows = [
        (f"{starts['jobs']} jobs begun", f"{starts['seconds']:.2f} s", "5 s", starts["seconds"] <= STARTS_GOAL),
        (
            f"{watched['jobs']} running jobs watched",
            f"{watched['core_share']:.1%} of a core",
            "10 %",
            watched["core_share"] <= WATCHED_GOAL,
        ),
    ]
    lines = ["| many jobs at once | reached | goal | |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {name} | {reached} | {goal} | {_met(ok)} |" for name, reached, goal, ok in rows]
    floor, memory = starts["floor_seconds"], watched["rss_mb"]
    lines.append(f"| as many bare starts; memory while the jobs run | {floor:.2f} s; {memory:.0f} MB | – | |")
    return "\n".join(lines)


def growth_table(figures: Figures) -> str:
    """Return the tables of what the past costs."""
    tables = []
    for database in _databases(figures):
        rows = figures[database]
        names = [name for name, value in rows[0].items() if isinstance(value, dict)]
        head = f"| {NAMES[database]}: ms (times the small installation) | " + " | ".join(
            f"{row['events']:,}" for row in rows
        )
        tables.append(f"{head} |\n| --- |{' ---: |' * len(rows)}")
        for name in names:
            cells = " | ".join(f"{row[name]['large']:.3f} ({row[name]['ratio']:.2f} ×)" for row in rows)
            tables[-1] += f"\n| {name} | {cells} |"
    return "\n\n".join(tables)


# ---------------------------------------------------------------------------------------------------- pictures


def latency_pictures(figures: Figures) -> dict[str, str]:
    """Draw an event's way to its job."""
    rows = []
    for database in _databases(figures):
        found, (median, tail) = figures[database], LATENCY_GOALS[database]
        rows.append(Bar(label=f"{NAMES[database]}, p50", value=percentile(found["event to job"], 0.5), goal=median))
        rows.append(Bar(label=f"{NAMES[database]}, p99", value=percentile(found["event to job"], 0.99), goal=tail))
        rows.append(Bar(label="its floor, p50", value=percentile(floor_of(found), 0.5)))
    return {"latency": bars("From an event by HTTP to the first instruction of its job", rows, unit="milliseconds")}


def ingest_pictures(figures: Figures) -> dict[str, str]:
    """Draw events a second."""
    rows = []
    for name, found in figures.items():
        kind, *words = name.split()
        if kind == "kafka" and words[0] != "floor":
            label = f"Kafka, {words[0]}, {NAMES[words[1]]}"
            rows.append(Bar(label=label, value=found["decided_a_second"], goal=KAFKA_GOALS[words[0], words[1]]))
        elif kind == "http" and words[0] != "floor":
            each = "one by one" if words[0] == "1" else f"in batches of {words[0]}"
            rows.append(Bar(label=f"HTTP, {each}, {NAMES[words[1]]}", value=found["decided_a_second"]))
    return {"ingest": bars("Events a second, durable and decided", rows, unit="events a second")} if rows else {}


def growth_pictures(figures: Figures) -> dict[str, str]:
    """Draw how cost grows with the past."""
    drawn = {}
    for database in _databases(figures):
        rows = figures[database]
        names = ("one event, random", "batch, ordered", "batch, random", "page of events", "why", "status")
        series = {name: [row[name]["ratio"] for row in rows] for name in names}
        places = ["10" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[len(str(row["events"])) - 1] for row in rows]
        unit = "stored events; times the cost with a thousand of them, measured in the same minute; red: the goal"
        drawn[f"growth-{database}"] = lines(
            f"What the past costs, {NAMES[database]}", places, series, limit=1.5, unit=unit
        )
    return drawn


def _nothing(figures: Figures) -> dict[str, str]:
    del figures
    return {}


# ---------------------------------------------------------------------------------------------------- in common


def floor_of(found: Figures) -> list[float]:
    """Return the floor of each event."""
    return [sum(parts) for parts in zip(found["http"], found["commits"], found["spawn"], strict=True)]


def shim_of(found: Figures) -> list[float]:
    """Return what it cost each time that a job outlives the daemon."""
    return [through - bare for through, bare in zip(found["through the shim"], found["spawn"], strict=True)]


def _databases(figures: Figures) -> list[str]:
    return [database for database in NAMES if database in figures]


def _three(values: list[float]) -> str:
    return " | ".join(f"{percentile(values, share):.2f}" for share in (0.5, 0.99, 1.0))


def _met(is_met: bool) -> str:
    return "met" if is_met else "**not met**"


def _where(figures: Figures) -> str:
    machine = figures["machine"]
    load = f"{machine['load']:.1f} others' load when it began"
    return f"\n{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, {load}."


TABLES: dict[str, Callable[[Figures], str]] = {
    "latency": latency_table,
    "ingest": ingest_table,
    "backlog": backlog_table,
    "jobs": jobs_table,
    "growth": growth_table,
}
DRAWINGS: dict[str, Callable[[Figures], dict[str, str]]] = {
    "latency": latency_pictures,
    "ingest": ingest_pictures,
    "growth": growth_pictures,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(TABLES))
    parser.add_argument("--most", type=int, default=1_000_000, help="stored events of the last decade of growth")
    parser.add_argument("--folder", help="where the figures are kept as JSON; by default nowhere")
    parser.add_argument("--again", choices=["yes", "no"], default="yes", help="run a part whose figures are there")
    parser.add_argument("--write", action="store_true", help="put tables and pictures into the docs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
