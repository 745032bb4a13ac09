"""Runs all campaigns, one after the other, and writes what they came to into GUARANTEES.md; `make campaign` calls it.

    python tests/campaign/run.py [--length short|long|hours] [--only NAME…]
    python tests/campaign/run.py --table            only write the table anew, from the logs

Each campaign keeps a log in docs/campaigns and goes on where that ends: more seeds, more kills, more minutes.
One that goes wrong does not stop the others. The numbers of the table are read from the logs, and a test compares them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "docs" / "campaigns"
PAGE = ROOT / "GUARANTEES.md"
BEGIN, END = "<!-- campaigns: written by tests/campaign/run.py -->", "<!-- end of campaigns -->"

Length = Literal["short", "long", "hours"]
LENGTHS: tuple[Length, ...] = ("short", "long", "hours")


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A number that a log tells, in words."""

    words: str
    #: Its group is the number.
    pattern: str
    #: Numbers of all lines added up, or that of the newest line alone.
    of: Literal["all", "last"] = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """A program that tries one thing for long."""

    name: str
    #: Arguments after the interpreter, without `--log`.
    commands: Mapping[Length, Sequence[Sequence[str]]]
    #: In docs/campaigns.
    log: str
    #: Whether it is told where the log is; others know.
    is_told: bool = True
    #: The line of its output that is put into the log, of one that writes none.
    keeps: str | None = None
    #: Ids of what it proves.
    guarantees: Sequence[str]
    counts: Sequence[Count]
    #: What a line says that is an outcome, and what it says when all was well.
    outcome: str = "."
    good: str

    def lines(self) -> list[str]:
        """Return the log."""
        path = LOGS / self.log
        return path.read_text().splitlines() if path.exists() else []

    def told(self) -> str:
        """Return what its log counts, in words."""
        lines = self.lines()
        found = ((count, _numbers(count.pattern, lines)) for count in self.counts)
        parts = [
            f"{sum(numbers) if count.of == 'all' else numbers[-1]:,} {count.words}"
            for count, numbers in found
            if numbers
        ]
        return ", ".join(parts) or "not run yet"

    def wrong(self) -> int:
        """Return how many outcomes of its log are not good."""
        outcomes = [line for line in self.lines() if re.search(self.outcome, line)]
        return sum(not re.search(self.good, line) for line in outcomes)


def _same(*command: str) -> dict[Length, list[list[str]]]:
    return {length: [list(command)] for length in LENGTHS}


def _by_length(values: Sequence[object], *command: str) -> dict[Length, list[list[str]]]:
    """Return a command for each length, with `{}` in it filled in."""
    return {length: [[part.format(value) for part in command]] for length, value in zip(LENGTHS, values, strict=True)}


def _ingest(kills: int) -> list[list[str]]:
    program = ["tests/campaign/ingest_kills.py", "--kills", str(kills)]
    return [program, [*program, "--database", "postgresql", "--client", "confluent"]]


def _soak(minutes: int, *databases: str, every: int = 60, ahead: int = 100_000) -> list[list[str]]:
    program = ["tests/campaign/soak.py", "--minutes", str(minutes), "--every", str(every), "--ahead", str(ahead)]
    return [
        [*program, "--database", database, "--plot", f"docs/campaigns/soak-{database}.svg"] for database in databases
    ]


CAMPAIGNS: tuple[Campaign, ...] = (
    Campaign(
        name="crash-matrix",
        commands=_same("tests/campaign/crash_matrix.py"),
        log="crash-matrix.txt",
        guarantees=("G01", "G02", "G03", "G05", "G06"),
        is_told=False,
        counts=(
            Count(words="crash points", pattern=r"^# first run: \d+ cases at (\d+) points", of="last"),
            Count(words="deaths in a first run", pattern=r"^# first run: (\d+) cases", of="last"),
            Count(words="deaths of the recovery after a death", pattern=r"^# recovery: (\d+) pairs", of="last"),
        ),
        outcome="^[^#]",
        good=" ok$",
    ),
    Campaign(
        name="lost-commits",
        commands=_same("tests/campaign/lost_commits.py"),
        log="lost-commits.txt",
        guarantees=("G01", "G03"),
        is_told=False,
        counts=(
            Count(words="transactions", pattern=r"^# (\d+) transactions", of="last"),
            Count(words="lost commits or answers to them", pattern=r"(\d+) losses", of="last"),
        ),
        outcome="^[^#]",
        good=" ok$",
    ),
    Campaign(
        name="simulation",
        commands=_by_length((5_000, 100_000, 1_000_000), "-m", "tests.simulation", "--seeds", "{}", "--jobs", "2"),
        log="simulation.txt",
        guarantees=("G01", "G02", "G03", "G04", "G05", "G08", "G09"),
        counts=(
            Count(words="seeds", pattern=r": (\d+) played"),
            Count(words="events acknowledged", pattern=r"(\d+) events acknowledged"),
            Count(words="launches", pattern=r"(\d+) launches"),
            Count(words="changes of leader", pattern=r"(\d+) changes of leader"),
            Count(words="crashes", pattern=r"(\d+) crashes"),
            Count(words="pauses", pattern=r"(\d+) pauses"),
            Count(words="answers or requests lost", pattern=r"(\d+) answers or requests lost"),
        ),
        outcome="^seeds ",
        good=", 0 failed;",
    ),
    Campaign(
        name="replicas",
        commands=_by_length((2, 10, 60), "tests/campaign/replicas.py", "--minutes", "{}"),
        log="replicas.txt",
        guarantees=("G01", "G03", "G05", "G07"),
        counts=(
            Count(words="minutes", pattern=r"(\d+) min, "),
            Count(words="changes of leader", pattern=r"(\d+) changes of leader"),
            Count(words="restarts of PostgreSQL", pattern=r"(\d+) restarts of PostgreSQL"),
            Count(words="answers lost", pattern=r"(\d+) answers lost"),
            Count(words="events acknowledged", pattern=r"(\d+) events acknowledged"),
            Count(words="missing", pattern=r"(\d+) missing"),
            Count(words="launches", pattern=r"(\d+) launches"),
            Count(words="launched twice", pattern=r"(\d+) launched twice"),
        ),
        good="; nothing lost$",
    ),
    Campaign(
        name="outages",
        commands=_by_length((2, 10, 60), "tests/campaign/outages.py", "--minutes", "{}"),
        log="outages.txt",
        guarantees=("G01", "G07", "G15"),
        counts=(
            Count(words="outages", pattern=r"(\d+) outages"),
            Count(words="requests", pattern=r"(\d+) requests"),
            Count(words="acknowledged", pattern=r"(\d+) acknowledged"),
            Count(words="missing", pattern=r"(\d+) missing"),
            Count(words="stored twice", pattern=r"(\d+) twice"),
        ),
        keeps=r"\d+ outages, ",
        good=": ok$",
    ),
    Campaign(
        name="demo-kills",
        commands=_by_length((10, 50, 500), "tests/campaign/demo_kills.py", "--kills", "{}"),
        log="demo-kills.txt",
        guarantees=("G03", "G06"),
        counts=(Count(words="kills", pattern=r"(\d+) kills"),),
        good="the same end$",
    ),
    Campaign(
        name="ingest-kills",
        commands={"short": _ingest(10), "long": _ingest(50), "hours": _ingest(500)},
        log="ingest-kills.txt",
        guarantees=("G01", "G02"),
        counts=(
            Count(words="kills of the daemon", pattern=r"(\d+) kills of the daemon"),
            Count(words="kills of the broker", pattern=r"(\d+) of the broker"),
            Count(words="requests", pattern=r"(\d+) sendings"),
            Count(words="acknowledged", pattern=r"(\d+) events acknowledged"),
            Count(words="stored", pattern=r"(\d+) stored"),
        ),
        good="stored = acknowledged, each once, all decided$",
    ),
    Campaign(
        name="zones",
        commands=_by_length((240, 15, 5), "tests/campaign/zones.py", "--step", "{}"),
        log="zones.txt",
        guarantees=("G08",),
        counts=(
            Count(words="names of time zones", pattern=r"(\d+) names", of="last"),
            Count(words="problems", pattern=r"(\d+) problems", of="last"),
        ),
        good=" 0 problems",
    ),
    Campaign(
        name="soak",
        commands={
            "short": _soak(4, "sqlite", every=12, ahead=10_000),
            "long": _soak(60, "sqlite"),
            "hours": _soak(240, "sqlite", "postgresql"),
        },
        log="soak.txt",
        guarantees=("G01", "G05", "G15"),
        counts=(
            Count(words="minutes", pattern=r", (\d+) min:"),
            Count(words="faults", pattern=r"(\d+) faults"),
            Count(words="events acknowledged", pattern=r"(\d+) events acknowledged"),
            Count(words="runs", pattern=r"(\d+) runs"),
        ),
        good="nothing lost, every run ended, flat$",
    ),
)


def table() -> str:
    """Return what the logs say, for GUARANTEES.md."""
    lines = ["| campaign | proves | so far | went wrong |", "| --- | --- | --- | --- |"]
    for campaign in CAMPAIGNS:
        link = f"[{campaign.name}](docs/campaigns/{campaign.log})" if campaign.lines() else campaign.name
        wrong = str(campaign.wrong()) if campaign.lines() else ""
        lines.append(f"| {link} | {', '.join(campaign.guarantees)} | {campaign.told()} | {wrong} |")
    return "\n".join(lines)


def write_table() -> None:
    """Put the table into its place in GUARANTEES.md."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


def run(campaign: Campaign, length: Length) -> bool:
    """Run one campaign to its end; return whether all was well."""
    told = ["--log", str((LOGS / campaign.log).relative_to(ROOT))] if campaign.is_told and not campaign.keeps else []
    well = True
    for command in campaign.commands[length]:
        line = [sys.executable, *command, *told]
        print(f"$ {' '.join(line)}", flush=True)
        code = (
            subprocess.run(line, cwd=ROOT, check=False).returncode if campaign.keeps is None else _keep(campaign, line)
        )
        well &= code == 0
    return well


def _keep(campaign: Campaign, line: Sequence[str]) -> int:
    """Run a program, put what it says at its end into the log, and return its exit code."""
    kept = ""
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for said in process.stdout or ():
            print(said, end="", flush=True)
            if re.search(str(campaign.keeps), said):
                kept = said.strip()
    verdict = "ok" if process.returncode == 0 else f"went wrong ({process.returncode})"
    with (LOGS / campaign.log).open("a") as log:
        log.write(f"{kept or 'ended without a word'}: {verdict}\n")
    return process.returncode


def main() -> int:
    """Run what is asked for; return 1 when something went wrong."""
    options = _parse()
    if options.table:
        write_table()
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for campaign in CAMPAIGNS:
        if not options.only or campaign.name in options.only:
            began = time.monotonic()
            well = run(campaign, options.length)
            outcomes.append((campaign, well, time.monotonic() - began))
            write_table()
    for campaign, well, seconds in outcomes:
        print(f"{campaign.name:<14} {'ok' if well else 'WENT WRONG':<11} {seconds:>7.0f} s  {campaign.told()}")
    return int(not all(well for _, well, _ in outcomes))


def _numbers(pattern: str, lines: Iterable[str]) -> list[int]:
    found = (re.search(pattern, line) for line in lines)
    return [int(match[1].replace(",", "")) for match in found if match]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", choices=LENGTHS, default="long")
    parser.add_argument("--only", nargs="+", choices=[campaign.name for campaign in CAMPAIGNS], metavar="NAME")
    parser.add_argument("--table", action="store_true", help="only write the table of GUARANTEES.md, from the logs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
