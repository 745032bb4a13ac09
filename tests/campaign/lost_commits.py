"""Loses each commit alone, its request and its answer, in both stories of the crash matrix; kept in docs/campaigns/lost-commits.txt.

python tests/campaign/lost_commits.py                              every transaction
python tests/campaign/lost_commits.py --name crown --loss answer   one again
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import postgres
from tests.acceptance.commits import Play, play

LOG = ROOT / "docs" / "campaigns" / "lost-commits.txt"
LOSSES = ("request", "answer")


def main() -> int:
    """Run what is asked for; return 1 when the end was another one."""
    options = _options()
    programs = postgres.find_programs()
    if programs is None:
        print("no PostgreSQL server programs found", file=sys.stderr)
        return 1
    server = postgres.start(programs)
    try:
        return _run(options, server)
    finally:
        server.stop()


def _run(options: argparse.Namespace, server: postgres.PostgresServer) -> int:
    began = time.monotonic()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say(f"# lost commits, Python {platform.python_version()}, PostgreSQL")
    wanted: list[tuple[str, str, str, dict[str, object]]] = []
    for story in ("nominal", "trouble"):
        undisturbed = play(lambda: server, story, wanted=())
        if undisturbed.problems:
            say(f"the undisturbed story {story} went wrong: {undisturbed.problems}")
            return 1
        names = [name for name in undisturbed.seen if options.name in (None, name)]
        wanted += [(story, name, loss, undisturbed.facts) for name in names for loss in options.loss or LOSSES]

    def one(each: tuple[str, str, str, dict[str, object]]) -> Play:
        story, name, loss, expected = each
        for _ in range(3):  # what only a clock reaches may be passed by
            played = play(lambda: server, story, loss=loss, wanted=(name,), expected=expected)
            if played.lost:
                break
        return played

    wrong = 0
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for (story, name, loss, _), played in zip(wanted, pool.map(one, wanted), strict=True):
            said = "ok" if not played.problems else "FAILED: " + " | ".join(played.problems)
            wrong += bool(played.problems)
            say(f"{story:<8} {loss:<8} {name:<24} {played.seconds:.1f}s  {said}")
    names = {name for _, name, _, _ in wanted}
    say(f"# {len(names)} transactions, {len(wanted)} losses, {wrong} went wrong, {time.monotonic() - began:.0f} s")
    if options.name is None and not options.loss:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        LOG.write_text("\n".join(lines) + "\n")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="only this transaction")
    parser.add_argument("--loss", choices=LOSSES, action="append", help="only this loss")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
