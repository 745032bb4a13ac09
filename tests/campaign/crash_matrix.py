"""Kills the daemon at every crash point, on both databases, in first runs and in recoveries; kept in docs/campaigns/crash-matrix.txt.

    python tests/campaign/crash_matrix.py                                            everything, going on where an earlier call was stopped
    python tests/campaign/crash_matrix.py --database sqlite --story nominal --points transaction.crown.after_commit          one case again
    python tests/campaign/crash_matrix.py … --points plugin.launcher.process.launch.after,plugin.launcher.process.find.before   a recovery

First every point alone: the daemon dies there when it first reaches it, and the next one goes on.
What that next one reached before anything new was asked of it is the recovery from that point.
Then every point that any recovery reaches, in one of them: the first daemon dies where that recovery begins, the second at the point, the
third goes on. The end must be the same each time, and every job started once.

With RETRAIN_KEEP=FOLDER the installation of a case that went wrong is kept there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import postgres
from tests.acceptance import points as named
from tests.acceptance.matrix import (
    DATABASES,
    STORIES,
    Case,
    Nominal,
    Outcome,
    crash_all,
    first_runs,
    nominal_all,
    recovering,
)

#: So many first deaths are tried for a point before it counts as not reached in a recovery.
CHOICES = 3
LOG = ROOT / "docs" / "campaigns" / "crash-matrix.txt"


def main() -> int:
    """Run what is asked for; return 1 when a case went wrong."""
    options = _options()
    databases = [options.database] if options.database else list(DATABASES)
    programs = postgres.find_programs() if "postgresql" in databases else None
    if programs is None and "postgresql" in databases:
        print("no PostgreSQL server programs found", file=sys.stderr)
        return 1

    # Here, not by whoever needs it first: the server ends with the thread that started it.
    running = None if programs is None else postgres.start(programs)

    def server() -> postgres.PostgresServer:
        assert running is not None
        return running

    try:
        if options.points:
            return _again(options, databases, server)
        return _everything(databases, server, options.log)
    finally:
        if running is not None:
            running.stop()


# ----------------------------------------------------------------------------------------------------- one case


def _again(options: argparse.Namespace, databases: list[str], server: Callable[[], postgres.PostgresServer]) -> int:
    points = tuple(options.points.split(","))
    undisturbed = nominal_all([(options.story, database) for database in databases], server)
    cases = [Case(options.story, database, points) for database in databases]
    outcomes = crash_all(cases, undisturbed, server)
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.problems for outcome in outcomes))


# ----------------------------------------------------------------------------------------------------- everything


def _everything(databases: list[str], server: Callable[[], postgres.PostgresServer], log: Path) -> int:
    notes = _Notes(log.with_suffix(".partial"))
    began = time.monotonic()
    undisturbed = nominal_all([(story, database) for story in STORIES for database in databases], server)
    firsts = notes.run(first_runs(undisturbed), undisturbed, server)
    seconds = _recoveries(recovering(firsts, choices=CHOICES), notes, undisturbed, server)
    lines = _report(databases, undisturbed, firsts, seconds, time.monotonic() - began)
    print(*lines[-4:], sep="\n")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(lines) + "\n")
    notes.forget()
    return int(any(outcome.problems for outcome in (*firsts, *seconds)))


def _recoveries(
    pairs: list[list[Case]],
    notes: _Notes,
    undisturbed: dict[tuple[str, str], Nominal],
    server: Callable[[], postgres.PostgresServer],
) -> list[Outcome]:
    """Return one outcome for each pair: of the first choice whose second death was in the recovery, or else of the last."""
    found: dict[int, Outcome] = {}
    for choice in range(CHOICES):
        left = [
            number
            for number, choices in enumerate(pairs)
            if len(choices) > choice and (number not in found or found[number].was_passed_by)
        ]
        outcomes = notes.run([pairs[number][choice] for number in left], undisturbed, server)
        found |= dict(zip(left, outcomes, strict=True))
    return [found[number] for number in sorted(found)]


def _report(
    databases: Sequence[str],
    undisturbed: dict[tuple[str, str], Nominal],
    firsts: Sequence[Outcome],
    seconds: Sequence[Outcome],
    spent: float,
) -> list[str]:
    reached = {point for played in undisturbed.values() for point in played.points}
    recovered = {outcome.case.points[-1] for outcome in seconds}
    unreached = sorted({named.stem(point) for point in named.points()} - {named.stem(p) for p in reached | recovered})
    late = [outcome for outcome in seconds if not outcome.problems and not outcome.was_in_recovery]
    wrong = [sum(bool(outcome.problems) for outcome in outcomes) for outcomes in (firsts, seconds)]
    return [
        f"# crash matrix, Python {platform.python_version()}, {' and '.join(databases)}",
        "# first run: the daemon dies where it says, the next one goes on",
        *map(str, firsts),
        "# recovery: the first daemon dies at the first point, the second at the other while it clears up, the third goes on",
        *map(str, seconds),
        f"# reached in no recovery: {', '.join(sorted(reached - recovered)) or 'none'}",
        f"# reached in no story, and covered by tests of their own: {', '.join(unreached) or 'none'}",
        f"# first run: {len(firsts)} cases at {len(reached)} points, {wrong[0]} went wrong",
        f"# recovery: {len(seconds)} pairs at {len(recovered)} points, {wrong[1]} went wrong; {len(late)} died only after it",
        f"# {len(firsts) + len(seconds)} cases, {sum(wrong)} went wrong, {spent:.0f} s of this call",
    ]


class _Notes:
    """What was tried so far, so that a campaign that was stopped goes on where it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[Case, Outcome] = {}
        with contextlib.suppress(FileNotFoundError):
            for outcome in self._read():
                self._done[outcome.case] = outcome

    def run(
        self,
        cases: Sequence[Case],
        undisturbed: dict[tuple[str, str], Nominal],
        server: Callable[[], postgres.PostgresServer],
    ) -> list[Outcome]:
        """Return the outcome of each case; those that are noted as well are not tried again."""
        wanted = [case for case in cases if case not in self._done]
        crash_all(wanted, undisturbed, server, said=self._note)
        return [self._done[case] for case in cases]

    def forget(self) -> None:
        """Begin anew next time."""
        self._path.unlink(missing_ok=True)

    def _note(self, outcome: Outcome) -> None:
        print(outcome, flush=True)
        self._done[outcome.case] = outcome
        if outcome.problems:
            return  # tried again when the campaign goes on
        found = {
            "case": [outcome.case.story, outcome.case.database, outcome.case.points],
            "seconds": outcome.seconds,
            "recoveries": [sorted(reached) for reached in outcome.recoveries],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as notes:
            notes.write(json.dumps(found) + "\n")

    def _read(self) -> Iterator[Outcome]:
        for line in self._path.read_text().splitlines():
            found = json.loads(line)
            story, database, points = found["case"]
            recoveries = tuple(frozenset(reached) for reached in found["recoveries"])
            yield Outcome(Case(story, database, tuple(points)), (), found["seconds"], recoveries)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", help="only these crash points, by commas: where one daemon after the other dies")
    parser.add_argument("--story", choices=list(STORIES), default="nominal", help="with --points: the story to play")
    parser.add_argument("--database", choices=DATABASES, help="only this database")
    parser.add_argument("--log", type=Path, default=LOG, help="where the report goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
