"""`python -m tests.simulation`: play one seed, many, or the mutants."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from tests.simulation import campaign
from tests.simulation.mutants import MUTANTS
from tests.simulation.play import Theatre, theatre
from tests.simulation.shrink import shrink

CAUGHT = Path(__file__).with_name("caught.json")
#: A mutant that no seed below this catches is not caught.
WITHIN = 2000
#: So many seeds are kept of each: a change of the code may let one of them tell another story.
KEPT = 3


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked; return 1 when an invariant does not hold, or a mutant is not caught."""
    options = _parse(arguments)
    if options.mutants is not None:
        return _catch(options.mutants or list(MUTANTS), jobs=options.jobs)
    if options.seed is not None:
        with theatre() as stage:
            report = stage.play(options.seed, verbose=options.verbose)
        print(report.text(lines=0 if options.verbose else 30))  # noqa: T201 - what was asked for
        return int(bool(report.broken))
    if options.shrink is not None:
        with theatre() as stage:
            report, without = shrink(stage, options.shrink, print)
        print(report.text())  # noqa: T201
        print(f"without: {' '.join(sorted(without)) or 'nothing'}")  # noqa: T201
        return int(bool(report.broken))
    return _campaign(options.seeds, jobs=options.jobs, log=options.log, since=options.since)


def _campaign(count: int, *, jobs: int, log: Path | None, since: int) -> int:
    """Play so many seeds, from where the log ends, and add to it."""
    first = max(campaign.played(log), since) if log is not None else since
    failed = 0
    for block in campaign.run(first, first + count - 1, jobs=jobs):
        text = "\n".join([block.line(), *block.failures])
        print(text, flush=True)  # noqa: T201
        failed += len(block.failures)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                file.write(f"{text}\n")
    return int(failed > 0)


def _catch(names: list[str], *, jobs: int) -> int:
    """Look for the first seeds that catch each mutant, and pass without it; keep them."""
    caught = read_caught()
    with ProcessPoolExecutor(jobs) as pool:
        for name, seeds in zip(names, pool.map(_seeds_for, names), strict=True):
            caught[name] = seeds
            print(f"{name}: {seeds or 'not caught'}", flush=True)  # noqa: T201
            CAUGHT.write_text(json.dumps(caught, indent=2, sort_keys=True) + "\n")
    return int(any(not caught.get(name) for name in names))


def _seeds_for(name: str) -> list[int]:
    with theatre() as stage:
        return list(islice(_seeds_that_catch(stage, name), KEPT))


def _seeds_that_catch(stage: Theatre, name: str) -> Iterator[int]:
    """Give the seeds that catch a mutant; first those that did when they were looked for last."""
    known = read_caught().get(name, [])
    for seed in (*known, *(seed for seed in range(WITHIN) if seed not in known)):
        with MUTANTS[name].planted():
            found = stage.play(seed)
        if found.broken and not stage.play(seed).broken:
            yield seed


def read_caught() -> dict[str, list[int]]:
    """Return the seeds that catch each mutant."""
    caught: dict[str, list[int]] = json.loads(CAUGHT.read_text()) if CAUGHT.exists() else {}
    return caught


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="play one seed")
    what.add_argument("--seeds", type=int, help="play so many, from where the log ends")
    what.add_argument("--shrink", type=int, metavar="SEED", help="leave out what a failure does not need")
    what.add_argument("--mutants", nargs="*", metavar="NAME", help="look for seeds that catch mutants, by default all")
    parser.add_argument("-v", "--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", type=Path, help="a file that says which seeds were played")
    parser.add_argument("--since", type=int, default=0, help="begin with this seed, if the log does not go further")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
